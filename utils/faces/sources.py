"""Where each data set of photos comes from: a local copy, the cache, or a download, all brought to one layout."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..settings import CourseError, atomic_path, progress_bar, resolved
from . import layouts, listing
from .archives import Limits, is_archive, unpack
from .crops import digest
from .downloads import DownloadError, RemoteFile, fetch, require_room
from .listing import Photo

HUB = "https://huggingface.co/datasets"
CELEBA_MIRROR = f"{HUB}/flwrlabs/celeba/resolve/2d738f56e0e7f925ea36ae7c808ea925264aacec/img_align%2Bidentity%2Battr"
VGGFACE2_MIRROR = f"{HUB}/ProgramComputer/VGGFace2/resolve/edd07ceecc59efe7de914b81ee916f34ea6803be"
OLIVETTI_LAYOUT = "'root/olivettifaces.mat' (the original), 'root/olivetti_py3.pkz' (scikit-learn's) or 's1/1.pgm'"


@dataclass(frozen=True)
class Source:
    """One place on the web to get a data set from: a short key, files in order, and about how much room they need."""

    key: str
    files: tuple[RemoteFile, ...]
    n_bytes: int

    @property
    def label(self) -> str:
        """The first address, for people."""
        return self.files[0].urls[0]


# Checksums: LFW's is the one scikit-learn requires; VGGFace2's md5 is the one several loaders publish for the
# original archive. None was found for the other files, so their first download sets the measure. Room is rounded up.
LFW_FUNNELED = RemoteFile(
    "lfw-funneled.tgz",
    ("https://ndownloader.figshare.com/files/5976015",),
    checksum="sha256:b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
)
LFW_MIRROR = RemoteFile("lfw.parquet", (f"{HUB}/logasja/lfw/resolve/main/data/train-00000-of-00001.parquet",))
CELEBA_FILES = tuple(
    RemoteFile(name, (f"{CELEBA_MIRROR}/{name}",))
    for part, n in (("valid", 3), ("test", 3), ("train", 19))
    for name in (f"{part}-{k:05d}-of-{n:05d}.parquet" for k in range(n))
)
VGGFACE2_TEST = RemoteFile(
    "vggface2_test.tar.gz",
    (f"{VGGFACE2_MIRROR}/data/vggface2_test.tar.gz",),
    checksum="md5:bb7a323824d1004e14e00c23974facd3",
)
VGGFACE2_META = RemoteFile("identity_meta.csv", (f"{VGGFACE2_MIRROR}/meta/identity_meta.csv",))
SOURCES: dict[str, tuple[Source, ...]] = {
    "lfw": (Source("funneled", (LFW_FUNNELED,), 600_000_000), Source("mirror", (LFW_MIRROR,), 500_000_000)),
    "celeba": (Source("mirror", CELEBA_FILES, 14_000_000_000),),
    "vggface2": (Source("mirror-test", (VGGFACE2_TEST, VGGFACE2_META), 5_000_000_000),),
}
LIMITS = {
    "lfw": Limits(files=30_000, n_bytes=3_000_000_000),
    "celeba": Limits(files=250_000, n_bytes=20_000_000_000),
    "vggface2": Limits(files=4_000_000, n_bytes=100_000_000_000),
}
# What people have lying about after fetching a data set by hand: the first pattern that fits says which files.
BY_HAND = {
    "lfw": ("lfw-deepfunneled.tgz", "lfw-funneled.tgz", "lfw.tgz", "*.parquet"),
    "celeba": ("*.parquet",),
    "vggface2": ("vggface2_t*.tar.gz",),
    "olivetti": ("olivettifaces.mat", "olivetti_py3.pkz"),
}
EXPECTED = {
    "lfw": layouts.LFW_LAYOUT,
    "celeba": layouts.CELEBA_LAYOUT,
    "vggface2": listing.VGGFACE2_LAYOUT,
    "olivetti": OLIVETTI_LAYOUT,
}


def open_source(name: str, root: str | Path | None, cache: Path, progress: bool) -> tuple[Path, str]:
    """Return a folder in the data set's layout and, in a sentence, where it came from: the root that was given, else
    what an earlier call downloaded, else a download from the first source that works; raises CourseError."""
    home = Path(cache) / "faces" / name
    if root is not None:
        return _local(name, resolved(root), home, progress)
    if name == "olivetti":
        return _olivetti_from_sklearn(home)
    for source in SOURCES[name]:
        if (home / source.key).is_dir():
            return FIND[name](home / source.key), f"Downloaded earlier from {source.label}."
    failures = []
    for source in SOURCES[name]:
        try:
            _download(name, source, home, progress)
        except CourseError as error:
            failures.append(str(error))
        else:
            return FIND[name](home / source.key), f"Downloaded from {source.label}."
    raise CourseError(f"{' Nor did the next source help: '.join(failures)} Or give root; expected {EXPECTED[name]}.")


def celeba_images(root: Path, cache: Path, progress: bool) -> Path:
    """Return the folder of CelebA's photos, unpacked into the cache if only the official zip is there."""
    images = layouts.celeba_images(root)
    if images is not None:
        return images
    for zipped in (root / "img_align_celeba.zip", root / "Img" / "img_align_celeba.zip"):
        if zipped.is_file():
            target = Path(cache) / "faces" / "celeba" / f"local-{_stamp([zipped])}"
            unpacked = target if target.is_dir() else unpack(zipped, target, LIMITS["celeba"], progress=progress)
            if images := layouts.celeba_images(unpacked):
                return images
            shutil.rmtree(target)
            raise CourseError(f"'{zipped}' is another archive than CelebA's; expected {layouts.CELEBA_LAYOUT}.")
    raise CourseError(f"There is no folder img_align_celeba in '{root}'; expected {layouts.CELEBA_LAYOUT}.")


# Local copies --------------------------------------------------------------------------------------------------------


def _local(name: str, given: Path, home: Path, progress: bool) -> tuple[Path, str]:
    """Open a root: a folder in the official layout, one archive, or a folder with the archives as downloaded."""
    if not os.path.exists(given):  # also where the way to it is barred
        raise CourseError(f"There is no folder '{given}'; expected {EXPECTED[name]}.")
    if given.is_file():
        files = [given]
    else:
        try:
            path, where = FIND[name](given), f"Read from your folder '{given.name}'."
            far = abs(len(path.parts) - len(given.parts))
            return path, f"{where} Found {listing.levels(far)} from the root that was given." if far else where
        except CourseError:
            files = next((found for pattern in BY_HAND[name] if (found := sorted(given.glob(pattern)))), [])
            if not files:
                raise
    target = home / f"local-{_stamp(files)}"
    if not target.is_dir():
        _prepare(name, files, target, progress)
    return FIND[name](target), f"Unpacked from your {', '.join(path.name for path in files[:3])}."


def _find_olivetti(given: Path) -> Path:
    for path in (given, *(path for path, _ in listing.folders_below(given))):
        if listing.has_people(path):
            return path
    raise CourseError(f"There are no Olivetti faces in '{given}'; expected {OLIVETTI_LAYOUT}.")


FIND: dict[str, Callable[[Path], Path]] = {
    "lfw": layouts.find_lfw,
    "celeba": layouts.find_celeba,
    "vggface2": layouts.find_vggface2,
    "olivetti": _find_olivetti,
}


def _stamp(files: Sequence[Path]) -> str:
    return digest([[str(path), *Photo(str(path.parent), path.name, "").stamp()] for path in files])


# Downloads and archives ----------------------------------------------------------------------------------------------


def _download(name: str, source: Source, home: Path, progress: bool) -> None:
    """Fetch a source file by file, unpack each one and remove it, so that at most one lies there twice."""
    require_room(home, source.n_bytes)
    if progress:
        print(f"'{name}' is downloaded once, up to {source.n_bytes / 1e9:.1f} GB of room with unpacking, to {home}.")
    with _staging(home / source.key) as staging:
        for remote in source.files:
            if not _done(staging, remote.name):
                placed_by_hand = (home / remote.name).is_file()
                path = fetch(remote, home, progress=progress)
                _unpack_one(name, path, staging, progress)
                if not placed_by_hand:
                    path.unlink()
        _finish(name, source.files[0].name, staging, home / source.key)


def _prepare(name: str, files: Sequence[Path], target: Path, progress: bool) -> None:
    require_room(target.parent, sum(path.stat().st_size for path in files))
    with _staging(target) as staging:
        for path in files:
            if not _done(staging, path.name):
                _unpack_one(name, path, staging, progress)
        beside = files[0].with_name("identity_meta.csv")
        if name == "vggface2" and beside.is_file():
            shutil.copy(beside, staging / beside.name)
        _finish(name, files[0].name, staging, target)


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """Yield a neighbour of the target folder that outlives an interruption, so that whole files need not be made again,
    but not a refusal: what turned out to be wrong is removed."""
    folder = target.with_name(f"{target.name}.partial")
    (folder / ".done").mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except Exception as error:
        if not (isinstance(error, DownloadError) and any((folder / ".done").iterdir())):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _done(staging: Path, name: str) -> bool:
    return (staging / ".done" / name).is_file()


def _unpack_one(name: str, path: Path, staging: Path, progress: bool) -> None:
    """Add one archive's, parquet's or list's content to the staging folder."""
    listing = ""
    if path.suffix == ".csv":
        shutil.copy(path, staging / path.name)
    elif path.suffix in (".mat", ".pkz"):
        _write_olivetti(_olivetti_pixels(path), staging)
    elif path.suffix == ".parquet":
        listing = _unpack_parquet(name, path, staging, progress)
    elif is_archive(path):
        shutil.rmtree(staging / ".inner", ignore_errors=True)
        inner = unpack(path, staging / ".inner", LIMITS.get(name, Limits(1, 1)), progress=progress)
        for entry in sorted(inner.iterdir()):
            shutil.rmtree(staging / entry.name, ignore_errors=True)  # from an interrupted move
            entry.replace(staging / entry.name)
        inner.rmdir()
    else:
        raise CourseError(f"'{path}' is neither a zip nor a tar archive; expected {EXPECTED[name]}.")
    with atomic_path(staging / ".done" / path.name) as record:
        record.write_text(listing, encoding="utf-8")


def _finish(name: str, first: str, staging: Path, target: Path) -> None:
    """Check that the layout is the data set's, and let the folder appear under its own name."""
    if name == "celeba":
        _join_celeba_lists(staging)
    try:
        FIND[name](staging)
    except CourseError as error:
        raise CourseError(f"'{first}' is another archive than that of '{name}'; expected {EXPECTED[name]}.") from error
    shutil.rmtree(staging / ".done")
    staging.replace(target)


# Parquet mirrors -----------------------------------------------------------------------------------------------------

IDENTITY_COLUMN = {"lfw": "label", "celeba": "celeb_id"}


def _unpack_parquet(name: str, path: Path, staging: Path, progress: bool) -> str:
    """Write a parquet file's photos in the official layout; for CelebA return its lines 'file identity part'."""
    lines, counts = [], Counter()
    part = re.match(r"[a-z]*", path.name)[0]
    if name == "celeba" and part not in layouts.CELEBA_PARTS:
        raise CourseError(f"'{path.name}' does not begin with train, valid or test, so its part is unknown.")
    for content, file, identity in progress_bar(_rows(path, name), desc=f"unpacking {path.name}", enabled=progress):
        counts[identity] += 1
        if name == "celeba":
            file = file if re.fullmatch(r"\d{6}\.(jpg|png)", file) else f"{path.stem}-{len(lines):06d}.jpg"
            lines.append(f"{file} {identity} {layouts.CELEBA_PARTS[part]}\n")
            place = staging / "img_align_celeba" / file
        else:
            given = re.fullmatch(rf"{re.escape(identity)}_\d{{4}}\.jpg", file)
            place = staging / identity / (file if given else f"{identity}_{counts[identity]:04d}.jpg")
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
    return "".join(lines)


def _rows(path: Path, name: str) -> Iterator[tuple[bytes, str, str]]:
    """Yield (image file's bytes, its name or '', the person) for every row of a parquet file, a few at a time."""
    try:
        from pyarrow import ArrowException, parquet  # here, because only the mirrors need it
    except ImportError as error:
        raise CourseError(f"Reading '{path.name}' needs the package pyarrow: run 'pip install pyarrow'.") from error
    column = IDENTITY_COLUMN.get(name, "label")
    try:
        file = parquet.ParquetFile(path)
        if not {"image", column} <= set(file.schema_arrow.names):
            has = ", ".join(file.schema_arrow.names[:8])
            raise CourseError(f"'{path}' has no columns image and {column} (but {has}); is it another mirror?")
        names = _class_names(file.schema_arrow.metadata or {}, column)
        for batch in file.iter_batches(batch_size=64, columns=["image", column]):
            for image, identity in zip(batch["image"].to_pylist(), batch[column].to_pylist(), strict=True):
                content, given = (image["bytes"], image.get("path") or "") if isinstance(image, dict) else (image, "")
                person = str(names[identity] if names else identity)
                if not content or not re.fullmatch(r"\w[\w .,'-]*", person):
                    raise CourseError(f"'{path}' holds a row without a photo or with the name '{person}'.")
                yield content, given.rsplit("/", 1)[-1], person
    except (ArrowException, OSError, KeyError, IndexError, TypeError) as error:
        raise CourseError(f"'{path}' is no readable parquet file ({type(error).__name__}).") from error


def _class_names(metadata: dict[bytes, bytes], column: str) -> list[str]:
    """Return the names behind a column of numbers, as the mirrors store them beside the schema, or none."""
    try:
        return json.loads(metadata[b"huggingface"])["info"]["features"][column].get("names") or []
    except (KeyError, ValueError, TypeError, AttributeError):
        return []


def _join_celeba_lists(staging: Path) -> None:
    lines = "".join(path.read_text(encoding="utf-8") for path in (staging / ".done").iterdir()).splitlines()
    rows = sorted(line.split() for line in lines)
    if rows:
        people, parts = ("".join(f"{row[0]} {row[k]}\n" for row in rows) for k in (1, 2))
        (staging / "identity_CelebA.txt").write_text(people, encoding="utf-8")
        (staging / "list_eval_partition.txt").write_text(parts, encoding="utf-8")


# Olivetti ------------------------------------------------------------------------------------------------------------


def _olivetti_from_sklearn(home: Path) -> tuple[Path, str]:
    """Let scikit-learn fetch (and check) the faces, and write them as one folder per person."""
    from sklearn.datasets import fetch_olivetti_faces

    target = home / "sklearn"
    if not target.is_dir():
        require_room(home, 20_000_000)
        try:
            fetch_olivetti_faces(data_home=home)
        except (OSError, EOFError, ValueError) as error:
            raise CourseError(
                f"scikit-learn could not fetch the Olivetti faces ({error}). Place olivettifaces.mat in a folder and "
                f"give it as root; expected {OLIVETTI_LAYOUT}."
            ) from error
        _prepare("olivetti", [home / "olivetti_py3.pkz"], target, progress=False)
    return target, "Fetched by scikit-learn, which checks the file's sha256."


def _olivetti_pixels(path: Path) -> np.ndarray:
    """Return the 400 photos, uint8 (400, 64, 64), of the original file or of scikit-learn's copy of it (a pickle,
    which can run code: open none but your own)."""
    try:
        if path.suffix == ".pkz":
            from sklearn.datasets import fetch_olivetti_faces

            faces = fetch_olivetti_faces(data_home=path.parent, download_if_missing=False).images
        else:
            from scipy.io import loadmat

            faces = np.asarray(loadmat(path)["faces"], dtype=np.float32).T.reshape(400, 64, 64).transpose(0, 2, 1)
    except Exception as error:  # both readers meet broken files with almost any exception
        raise CourseError(f"'{path}' does not hold the 400 Olivetti faces; expected {OLIVETTI_LAYOUT}.") from error
    return np.rint((faces - faces.min()) / max(np.ptp(faces), 1e-9) * 255).astype(np.uint8)


def _write_olivetti(pixels: np.ndarray, folder: Path) -> None:
    for k, photo in enumerate(pixels):  # ten photos of each person, one person after the other
        home = folder / f"s{k // 10 + 1:02d}"
        home.mkdir(exist_ok=True)
        Image.fromarray(photo).save(home / f"{k % 10 + 1:02d}.png")
