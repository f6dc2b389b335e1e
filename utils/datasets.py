"""One door to every set of faces: `load_faces(name, root)` gives equal-sized crops, labels and an honest account."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from utils import alignment
from utils.settings import CourseError, atomic_path, cache_dir, one_of, progress_bar, suggest

SHARD = 256  # photos per unit of work: what an interruption can lose, and what is held in memory
LAYOUT = "one folder per person, for example 'root/Ada Lovelace/first.jpg' and 'root/Alan Turing/party.png'"
LFW_LAYOUT = "'root/Ada_Lovelace/Ada_Lovelace_0001.jpg' and 'root/Alan_Turing/Alan_Turing_0001.jpg'"
UNREADABLE = "not a readable image"
# Pillow opens these too, but nobody keeps portraits in them (and some start other programs).
NOT_PHOTOS = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS"}
MAY_NEED_A_PLUGIN = {".heic", ".heif", ".avif", ".jxl", ".webp", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".raw"}


@dataclass(frozen=True)
class Skipped:
    """A photo (or person) that was left out or needs a remark, and the reason."""

    photo: str
    reason: str


@dataclass(eq=False)
class FaceDataset(Dataset):
    """Face crops of one size with an identity label each; pixels may stay on disk until asked for. `labels` is int64
    (N,), `photo_names` are unique, `skipped` lists what was left out and `noted` what was kept with a remark.
    Introduced in notebook 01."""

    name: str
    pixels: torch.Tensor | MappedPixels  # anything with a shape that indexing turns into uint8 (n, 3, S, S)
    labels: np.ndarray
    identities: tuple[str, ...]
    photo_names: tuple[str, ...]
    image_size: int
    source: str
    licence: str
    trained_min_photos: int
    fingerprint: str = ""  # changes when the faces do: part of the name under which a trained model is kept
    skipped: tuple[Skipped, ...] = ()
    noted: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.labels), 3, self.image_size, self.image_size)
        if tuple(self.pixels.shape) != shape or len(self.photo_names) != len(self.labels):
            raise CourseError(
                f"'{self.name}' does not fit together: {len(self.labels)} labels, {len(self.photo_names)} photo names, "
                f"pixels of shape {tuple(self.pixels.shape)} instead of {shape}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return one crop, uint8 (3, S, S), and its label."""
        return self.images([index])[0], int(self.labels[index])

    def images(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the crops of some photos as a new uint8 tensor (n, 3, S, S)."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64).reshape(-1)
        return torch.as_tensor(self.pixels[chosen])

    def photos_of(self, identity: int | str) -> np.ndarray:
        """Return the photo indices of one person, by label or by name; raises CourseError with the nearest names."""
        if isinstance(identity, str):
            plain = unicodedata.normalize("NFC", identity)
            if plain not in self.identities:
                raise CourseError(f"No identity '{identity}' in '{self.name}'.{suggest(identity, self.identities)}")
            identity = self.identities.index(plain)
        if not 0 <= identity < len(self.identities):
            raise CourseError(f"No identity number {identity}; the numbers run from 0 to {len(self.identities) - 1}.")
        return np.flatnonzero(self.labels == identity)

    def report(self, names: int = 3) -> str:
        """Return a short account: people and photos used, and per reason how many were skipped or noted, with the
        first few names."""
        lines = [f"{self.name}: {len(self)} photos of {len(self.identities)} people, {self.image_size} px crops."]
        for title, entries in (("skipped", self.skipped), ("noted", self.noted)):
            for reason, count in Counter(entry.reason for entry in entries).most_common():
                first = [entry.photo for entry in entries if entry.reason == reason][:names]
                more = ", ..." if count > len(first) else ""
                lines.append(f"{title} {count}: {reason} ({', '.join(first)}{more})")
        return "\n".join(lines)


class MappedPixels:
    """Crops in a .npy file, uint8 (N, 3, S, S), read from disk as they are indexed: N may exceed the memory."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        self.shape = self._array.shape

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.array(self._array[indices])

    def __reduce__(self) -> tuple:
        return MappedPixels, (self.path,)  # worker processes map the file again instead of receiving its content


@dataclass(frozen=True)
class LoadOptions:
    """The choices of one `load_faces` call, handed to the loader of that data set."""

    image_size: int
    align: bool | None
    cache: Path
    device: str | torch.device
    progress: bool
    seed: int
    max_identities: int | None


def load_faces(
    name: str,
    root: str | Path | None = None,
    *,
    image_size: int = 64,
    align: bool | None = None,
    cache: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    seed: int = 0,
    max_identities: int | None = None,
) -> FaceDataset:
    """Open a data set by name: the first call finds, aligns (unless `align=False`) and caches the faces, later calls
    only list files; broken, face-less and crowded photos are counted and listed; `max_identities` keeps the people
    with the most photos; raises CourseError for wrong names and layouts. Introduced in notebook 01."""
    loader = DATASETS[one_of(name, DATASETS, "data set")]
    if not 16 <= image_size <= 1024:
        raise CourseError(f"image_size is {image_size}, but crops must have 16 to 1024 pixels per side.")
    if max_identities is not None and max_identities < 1:
        raise CourseError(f"max_identities is {max_identities}, but at least 1 person is needed.")
    folder = Path(cache) if cache else cache_dir()
    return loader(root or None, LoadOptions(image_size, align, folder, device, progress, seed, max_identities))


# Loaders -------------------------------------------------------------------------------------------------------------


def load_synthetic(root: str | Path | None, options: LoadOptions) -> FaceDataset:
    """Wrap the embedded synthetic people: two thirds with 50 photos (to train on), one third with 20 (unseen)."""
    from utils.synthetic import VERSION, synthetic_faces  # here, so that real faces open without the renderer

    if root is not None:
        raise CourseError(f"The synthetic faces are rendered, not read: leave out root (it is '{root}').")
    people = options.max_identities or 180
    trained = people - people // 3
    pixels, labels, identities = synthetic_faces(
        n_trained=trained,
        n_unseen=people - trained,
        image_size=options.image_size,
        seed=options.seed,
        progress=options.progress,
    )
    labels = np.asarray(labels, dtype=np.int64)
    return FaceDataset(
        name="synthetic",
        pixels=pixels,
        labels=labels,
        identities=tuple(identities),
        photo_names=tuple(_numbered_names(labels, identities)),
        image_size=options.image_size,
        source=f"Rendered by utils/synthetic.py from seed {options.seed}: nobody's face.",
        licence="MIT, like this repository; no person is shown.",
        trained_min_photos=30,
        fingerprint=f"renderer {VERSION}, seed {options.seed}",
    )


def load_folder(root: str | Path | None, options: LoadOptions) -> FaceDataset:
    """Read any directory of identity folders, in any format and mode that Pillow opens."""
    path = _existing_root(root, "folder", LAYOUT)
    people = list_people(path)
    if not any(photos for _, photos in people):
        raise CourseError(_why_no_people(path, LAYOUT))
    source = f"Your own folder '{path.name}'."
    return _from_photos("folder", path, people, options, source, "As its owner decides; the crops stay here.")


def load_lfw(root: str | Path | None, options: LoadOptions) -> FaceDataset:
    """Read Labeled Faces in the Wild in its official folder layout; a root one level too high or too low is mended."""
    given = _existing_root(root, "lfw", LFW_LAYOUT)
    path = _find_lfw(given)
    people = list_people(path)
    source = "Labeled Faces in the Wild (Huang et al., 2007): photos of public figures from the news of 2002-2003."
    if path != given:
        source += f" Found in '{path.name}', one level from the root that was given."
    licence = "Published for research; the photos' rights stay with their owners: do not republish or sell."
    return _from_photos("lfw", path, people, options, source, licence)


# The one place to add a data set: its loader receives the root (or None) and the options of the call.
DATASETS: dict[str, Callable[[str | Path | None, LoadOptions], FaceDataset]] = {
    "synthetic": load_synthetic,
    "lfw": load_lfw,
    "folder": load_folder,
}


def _numbered_names(labels: np.ndarray, identities: Sequence[str]) -> Iterator[str]:
    for label, group in groupby(labels.tolist()):
        yield from (f"{identities[label]}/{identities[label]}_{k:04d}" for k, _ in enumerate(group, start=1))


# Listing files -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photo:
    """A file that looks like a photo: its path, its printable name 'person/file', and what changes when it does."""

    path: Path
    name: str
    size: int
    mtime_ns: int


def list_people(root: Path) -> list[tuple[str, list[Photo]]]:
    """List (person, photos) per sub-folder in alphabetical order; hidden files and files that do not look like photos
    are passed over. Names are in Unicode's composed form, so that an accent compares equal everywhere."""
    folders = sorted((path for path in _visible(root) if path.is_dir()), key=lambda path: path.name)
    names = _composed([folder.name for folder in folders])
    return [(name, _photos_in(folder, name)) for name, folder in zip(names, folders, strict=True)]


def _photos_in(folder: Path, person: str) -> list[Photo]:
    files = sorted((path for path in _visible(folder) if _looks_like_photo(path)), key=lambda path: path.name)
    photos = []
    for file, name in zip(files, _composed([file.name for file in files]), strict=True):
        stat = file.stat()
        photos.append(Photo(file, f"{person}/{name}", stat.st_size, stat.st_mtime_ns))
    return photos


def _visible(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise CourseError(f"The folder '{folder}' cannot be read ({error.strerror}); check its permissions.") from error


def _composed(names: list[str]) -> list[str]:
    printable = [os.fsencode(name).decode("utf-8", "replace") for name in names]
    composed = [unicodedata.normalize("NFC", name) for name in printable]
    return composed if len(set(composed)) == len(names) else names


def _looks_like_photo(path: Path) -> bool:
    if not path.is_file():
        return False
    suffix = path.suffix.lower()
    if suffix in MAY_NEED_A_PLUGIN:  # certainly photos: listed as unreadable where Pillow cannot open them
        return True
    image_format = Image.registered_extensions().get(suffix)
    if image_format is not None:
        return image_format in Image.OPEN and image_format not in NOT_PHOTOS
    return not suffix and _opens(path)


def _opens(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _existing_root(root: str | Path | None, name: str, layout: str) -> Path:
    if root is None:
        raise CourseError(f"The data set '{name}' needs root, the folder it lies in; expected {layout}.")
    path = Path(root).expanduser().resolve()
    if not path.exists():
        raise CourseError(f"There is no folder '{path}'; expected {layout}.")
    if not path.is_dir():
        raise CourseError(f"'{path}' is a file, not a folder; expected {layout}.")
    return path


def _why_no_people(root: Path, layout: str) -> str:
    """Say in one sentence why a folder gave nobody."""
    if any(_looks_like_photo(path) for path in _visible(root)):
        return f"'{root}' holds photos directly, so nobody is named; expected {layout}."
    folders = [path for path in _visible(root) if path.is_dir()]
    for folder in folders:
        if any(photos for _, photos in list_people(folder)):
            return f"'{root}' is one level too high: try '{folder}'; expected {layout}."
    found = "no photos in its sub-folders" if folders else "nothing" if not _visible(root) else "no sub-folders"
    return f"'{root}' holds {found}; expected {layout}."


def _find_lfw(given: Path) -> Path:
    below = [path for path in sorted(_visible(given)) if path.is_dir()]
    above = [given.parent] if any(given.glob(f"{glob.escape(given.name)}_*.*")) else []
    for path in (given, *below, *above):
        if _is_lfw(path):
            return path
    if any(photos for _, photos in list_people(given)):
        raise CourseError(
            f"The photos in '{given}' are not named after their folders, as LFW's are; expected {LFW_LAYOUT}. "
            "Any other folder of people opens as the data set 'folder'."
        )
    raise CourseError(_why_no_people(given, LFW_LAYOUT))


def _is_lfw(root: Path) -> bool:
    """True if the first visible sub-folders hold files named after themselves, Name/Name_0001.jpg."""
    folders = sorted(path for path in _visible(root) if path.is_dir())[:5]
    return any(any(folder.glob(f"{glob.escape(folder.name)}_[0-9][0-9][0-9][0-9].*")) for folder in folders)


# From photos to crops ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What one photo gave: a crop, uint8 (3, S, S), perhaps with a remark; or no crop and the reason."""

    crop: np.ndarray | None
    remark: str = ""


def _from_photos(
    name: str, root: Path, people: list[tuple[str, list[Photo]]], options: LoadOptions, source: str, licence: str
) -> FaceDataset:
    empty = [Skipped(person, "the folder holds no photos") for person, photos in people if not photos]
    people = _most_photographed([entry for entry in people if entry[1]], options.max_identities)
    photos = [photo for _, of_person in people for photo in of_person]
    store = CropStore(name, root, photos, options)
    index = store.open()
    owner = {photo.name: person for person, of_person in people for photo in of_person}
    kept_people = {owner[kept] for kept in index["kept"]}
    identities = tuple(person for person, _ in people if person in kept_people)
    lost = [Skipped(person, "no usable photo left") for person, _ in people if person not in kept_people]
    skipped = [Skipped(*entry) for entry in index["skipped"]]
    if not identities:
        reasons = Counter(entry.reason for entry in skipped).most_common(3)
        told = ", ".join(f"{count} x {reason}" for reason, count in reasons)
        hint = " Use align=False for photos that are face crops already." if store.align else ""
        raise CourseError(f"No usable photo in '{root}': {told}.{hint}")
    label = {person: k for k, person in enumerate(identities)}
    return FaceDataset(
        name=name,
        pixels=MappedPixels(store.folder / index["pixels"]),
        labels=np.array([label[owner[kept]] for kept in index["kept"]], dtype=np.int64),
        identities=identities,
        photo_names=tuple(index["kept"]),
        image_size=options.image_size,
        source=source,
        licence=licence,
        trained_min_photos=10,
        fingerprint=_digest([alignment.RECIPE, store.align, [[photo.name, photo.size] for photo in photos]]),
        skipped=tuple(skipped + lost + empty),
        noted=tuple(Skipped(*entry) for entry in index["noted"]),
    )


def _most_photographed(people: list[tuple[str, list[Photo]]], most: int | None) -> list[tuple[str, list[Photo]]]:
    if most is None or most >= len(people):
        return people
    kept = sorted(range(len(people)), key=lambda k: (-len(people[k][1]), k))[:most]
    return [people[k] for k in sorted(kept)]


class CropStore:
    """The crops of one list of photos on disk: made once, shard by shard, each file written atomically, so that an
    interrupted run goes on where it stopped and nothing half-written is ever read."""

    def __init__(self, name: str, root: Path, photos: list[Photo], options: LoadOptions) -> None:
        self.photos, self.options = photos, options
        self.align = options.align is not False
        recipe = [alignment.RECIPE, str(root), options.image_size, self.align, options.max_identities]
        self.folder = options.cache / "aligned" / f"{name}-{_digest(recipe)}"
        self.fingerprint = _digest([[photo.name, photo.size, photo.mtime_ns] for photo in photos])
        self._aligner: alignment.Aligner | None = None

    def open(self) -> dict:
        """Return the index (kept photo names in pixel order, skipped, noted, the pixel file's name); make the crops
        first if they are missing or the photos have changed."""
        index = self._read_index()
        return index if index is not None else self._make()

    def _read_index(self) -> dict | None:
        try:
            index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
            shape = MappedPixels(self.folder / index["pixels"]).shape
            sound = index["fingerprint"] == self.fingerprint and shape[0] == len(index["kept"])
        except (OSError, ValueError, KeyError, EOFError):
            return None
        return index if sound else None

    def _make(self) -> dict:
        shards = [self.photos[k : k + SHARD] for k in range(0, len(self.photos), SHARD)]
        verb = "aligning faces" if self.align else "reading photos"
        with progress_bar(desc=verb, total=len(self.photos), enabled=self.options.progress) as bar:
            kept_count = 0
            for shard in shards:
                kept_count += sum(outcome.crop is not None for outcome in self._shard(shard))
                bar.update(len(shard))
        return self._merge(shards, kept_count)

    def _merge(self, shards: list[list[Photo]], kept_count: int) -> dict:
        """Join the shards into one pixel file and its index, then remove them and older pixel files."""
        index = {"fingerprint": self.fingerprint, "recipe": alignment.RECIPE, "image_size": self.options.image_size}
        index |= {"pixels": f"pixels-{self.fingerprint}.npy", "kept": [], "skipped": [], "noted": []}
        side = self.options.image_size
        with atomic_path(self.folder / index["pixels"]) as path:
            pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(kept_count, 3, side, side))
            for shard in shards:
                for photo, outcome in zip(shard, self._shard(shard), strict=True):
                    if outcome.crop is None:
                        index["skipped"].append([photo.name, outcome.remark])
                        continue
                    pixels[len(index["kept"])] = outcome.crop
                    index["kept"].append(photo.name)
                    if outcome.remark:
                        index["noted"].append([photo.name, outcome.remark])
            pixels.flush()
            del pixels
        with atomic_path(self.folder / "index.json") as path:
            path.write_text(json.dumps(index), encoding="utf-8")
        for old in (*self.folder.glob("shard-*.npz"), *self.folder.glob("pixels-*.npy")):
            if old.name != index["pixels"]:
                with contextlib.suppress(OSError):  # another process may still have it open
                    old.unlink()
        return index

    def _shard(self, photos: list[Photo]) -> list[Outcome]:
        """Return the outcomes of up to SHARD photos, from their file if it is whole, else made and written now."""
        key = _digest([[photo.name, photo.size, photo.mtime_ns] for photo in photos])
        path = self.folder / f"shard-{key}.npz"
        outcomes = _read_shard(path, len(photos))
        if outcomes is None:
            outcomes = self._process(photos)
            _write_shard(path, outcomes, self.options.image_size)
        return outcomes

    def _process(self, photos: list[Photo]) -> list[Outcome]:
        if not self.align:
            return [_cropped(_read(photo), self.options.image_size) for photo in photos]
        if self._aligner is None:
            self._aligner = alignment.Aligner(self.options.image_size, device=self.options.device)
        outcomes = []
        for start in range(0, len(photos), alignment.BATCH):
            outcomes += self._align([_read(photo) for photo in photos[start : start + alignment.BATCH]])
        return outcomes

    def _align(self, images: list[Image.Image | str]) -> list[Outcome]:
        faces = iter(self._aligner([image for image in images if not isinstance(image, str)]))
        return [Outcome(None, image) if isinstance(image, str) else _aligned(next(faces)) for image in images]


def _read(photo: Photo) -> Image.Image | str:
    """Return the decoded photo, or in words why it cannot be."""
    try:
        return alignment.read_photo(photo.path)
    except Exception as error:  # broken bytes make Pillow's many decoders raise almost anything; all are reported
        if photo.size == 0:
            return f"{UNREADABLE}: the file is empty"
        if isinstance(error, PermissionError | FileNotFoundError):
            return f"{UNREADABLE}: {error.strerror.lower()}"
        if isinstance(error, UnidentifiedImageError):
            known = photo.path.suffix.lower() in MAY_NEED_A_PLUGIN
            return f"{UNREADABLE}: " + ("save it as JPEG or PNG" if known else "no known image format inside")
        if isinstance(error, Image.DecompressionBombError):
            return f"{UNREADABLE}: far too many pixels"
        return f"{UNREADABLE}: broken or truncated"


def _cropped(image: Image.Image | str, image_size: int) -> Outcome:
    if isinstance(image, str):
        return Outcome(None, image)
    return Outcome(_channels_first(alignment.centre_crop(image, image_size)))


def _aligned(face: alignment.AlignedFace | alignment.Refused) -> Outcome:
    if isinstance(face, alignment.Refused):
        return Outcome(None, face.reason)
    return Outcome(_channels_first(face.crop), "several faces: kept the central one" if face.n_faces > 1 else "")


def _channels_first(crop: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(crop.transpose(2, 0, 1))


def _write_shard(path: Path, outcomes: list[Outcome], image_size: int) -> None:
    crops = [outcome.crop for outcome in outcomes if outcome.crop is not None]
    stacked = np.stack(crops) if crops else np.zeros((0, 3, image_size, image_size), np.uint8)
    kept = np.array([outcome.crop is not None for outcome in outcomes])
    remarks = np.array([outcome.remark for outcome in outcomes], dtype=np.str_)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, crops=stacked, kept=kept, remarks=remarks)


def _read_shard(path: Path, n_photos: int) -> list[Outcome] | None:
    """Return a shard's outcomes, or None if there is no whole one."""
    try:
        with np.load(path, allow_pickle=False) as shard:
            crops, kept, remarks = shard["crops"], shard["kept"], shard["remarks"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if len(kept) != n_photos or len(remarks) != n_photos or len(crops) != kept.sum():
        return None
    rows = iter(crops)
    return [Outcome(next(rows) if one else None, str(remark)) for one, remark in zip(kept, remarks, strict=True)]


def _digest(content: Iterable) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
