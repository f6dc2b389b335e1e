"""From photos to crops: read, aligned and cached once, shard by shard, so that an interruption costs little."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..settings import CourseError, atomic_path, progress_bar, sha256_of, without_collector
from . import alignment
from .downloads import require_room
from .listing import MAY_NEED_A_PLUGIN, Photo, image_kind

SHARD = 256  # photos per unit of work: what an interruption can lose, and what is held in memory
READ = 32  # photos open at a time: those of equal sizes are searched together
UNREADABLE = "not a readable image"
PILLOW_NAMES = {"AVIF": "AVIF", "WebP": "WEBP", "JPEG 2000": "JPEG2000"}
DIGITS = 32  # of a hash of content that are kept


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
    part: str | None = None


class MappedPixels:
    """Crops in a .npy file, uint8 (N, 3, S, S), read from disk as they are indexed: N may exceed the memory."""

    def __init__(self, path: Path, rows: Sequence[int] | np.ndarray | None = None) -> None:
        self.path = Path(path)
        self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        self._rows = np.arange(len(self._array)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.shape = (len(self._rows), *self._array.shape[1:])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.array(self._array[self._rows[indices]])

    def __reduce__(self) -> tuple:
        # worker processes map the file again instead of receiving its content
        return MappedPixels, (self.path, self._rows.astype(np.int32))


@dataclass(frozen=True)
class Outcome:
    """What one photo gave: a crop, uint8 (3, S, S), perhaps with a remark; or no crop and the reason. `content` is the
    hash of the file's bytes; without one the outcome is the machine's fault, and the photo is tried again next time."""

    crop: np.ndarray | None
    remark: str = ""
    content: str = ""


class Result(NamedTuple):
    """What is remembered of one photo: the row of its crop (-1 if it gave none) and what to say about it."""

    name: str
    content: str
    row: int
    remark: str
    stamp: tuple[int, ...] | list[int]


@dataclass(frozen=True)
class Crops:
    """The pixel file of a list of photos, and a result per photo in the order of the list."""

    pixels: Path
    results: list[Result]


class AlignedFaceCache:
    """The crops of one list of photos on disk: made once, shard by shard, each file written atomically, so that an
    interrupted run goes on where it stopped and nothing half-written is ever read."""

    def __init__(self, name: str, root: Path, photos: list[Photo], options: LoadOptions) -> None:
        self.photos, self.options = photos, options
        self.align = options.align is not False
        recipe = [alignment.RECIPE, str(root), options.image_size, self.align, options.max_identities]
        recipe += [options.part] if options.part else []
        self.folder = options.cache / "aligned" / f"{name}-{digest(recipe)}"
        with without_collector():
            self.stamps = [[photo.name, *photo.stamp()] for photo in photos]
        self._known: dict[str, Outcome] = {}
        self._aligner: alignment.Aligner | None = None

    def open(self) -> Crops:
        """Return the crops; they are made first where they are missing, and what was found before is found by content:
        only new photos, and those that the machine could not read, are decoded."""
        with alignment.enough_memory():
            found = self._read_index()
            if found is not None and self._up_to_date(found) and not self._retry(found):
                return found
            return self._make(found)

    def _up_to_date(self, found: Crops) -> bool:
        with without_collector():
            return [[result.name, *result.stamp] for result in found.results] == self.stamps

    def _retry(self, found: Crops) -> bool:
        """Try the photos again that the machine could not read; True if any can be read now."""
        again = [k for k, result in enumerate(found.results) if not result.content]
        outcomes = self._process([self.photos[k] for k in again])
        self._known |= {outcome.content: outcome for outcome in outcomes if outcome.content}
        for k, outcome in zip(again, outcomes, strict=True):
            found.results[k] = found.results[k]._replace(remark=outcome.remark)
        return any(outcome.content for outcome in outcomes)

    def _read_index(self) -> Crops | None:
        try:
            with without_collector():
                index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
                results = [Result(*row) for row in index["results"]]
            rows = MappedPixels(self.folder / index["pixels"]).shape[0]
            sound = rows == index["rows"] and all(result.row < rows for result in results)
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None
        return Crops(self.folder / index["pixels"], results) if sound else None

    def _make(self, old: Crops | None) -> Crops:
        require_room(self.folder, 2 * 3 * self.options.image_size**2 * len(self.photos))  # shards, then their union
        before = {(result.name, *result.stamp): result.content for result in old.results} if old else {}
        self._contents = {stamp[0]: before.get(tuple(stamp), "") for stamp in self.stamps}
        self._old = {result.content: result for result in old.results if result.content} if old else {}
        self._old_pixels = MappedPixels(old.pixels) if old else None
        shards = [range(k, min(k + SHARD, len(self.photos))) for k in range(0, len(self.photos), SHARD)]
        verb = "aligning faces" if self.align else "reading photos"
        with progress_bar(desc=verb, total=len(self.photos), enabled=self.options.progress) as bar:
            contents: set[str] = set()
            for shard in shards:
                contents |= {outcome.content for outcome in self._shard(shard) if outcome.crop is not None}
                bar.update(len(shard))
        return self._merge(shards, len(contents))

    def _merge(self, shards: list[range], n_rows: int) -> Crops:
        """Join the shards into one pixel file, a row per content, and its index; then remove them and older files."""
        side, rows, results = self.options.image_size, {}, []
        pixels_path = self.folder / f"pixels-{digest(self.stamps)}.npy"
        with atomic_path(pixels_path) as path:
            pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n_rows, 3, side, side))
            for shard in shards:
                for k, outcome in zip(shard, self._shard(shard, retry=False), strict=True):
                    row = -1
                    if outcome.crop is not None:
                        row = rows.setdefault(outcome.content, len(rows))
                        pixels[row] = outcome.crop
                    name, *stamp = self.stamps[k]
                    results.append(Result(name, outcome.content, row, outcome.remark, stamp))
            pixels.flush()
            del pixels
        index = {"recipe": alignment.RECIPE, "pixels": pixels_path.name, "rows": n_rows, "results": results}
        with atomic_path(self.folder / "index.json") as path:
            path.write_text(json.dumps(index), encoding="utf-8")
        self._old_pixels = None
        for old in (*self.folder.glob("shard-*.npz"), *self.folder.glob("pixels-*.npy")):
            if old.name != pixels_path.name:
                with contextlib.suppress(OSError):  # another process may still have it open
                    old.unlink()
        return Crops(pixels_path, results)

    def _shard(self, shard: range, retry: bool = True) -> list[Outcome]:
        """Return the outcomes of up to SHARD photos, from their file if it is whole, else made and written now; with
        `retry`, photos that the machine could not read then are read now."""
        path = self.folder / f"shard-{digest(self.stamps[shard.start : shard.stop])}.npz"
        outcomes = _read_shard(path, len(shard))
        if outcomes is None or (retry and not all(outcome.content for outcome in outcomes)):
            outcomes = self._remembered_or_new(self.photos[shard.start : shard.stop])
            _write_shard(path, outcomes, self.options.image_size)
        return outcomes

    def _remembered_or_new(self, photos: list[Photo]) -> list[Outcome]:
        """Return an outcome per photo: by content where that was seen before, else from the photo."""
        outcomes = [self._remembered(photo) for photo in photos]
        new = iter(self._process([photo for photo, known in zip(photos, outcomes, strict=True) if known is None]))
        return [next(new) if known is None else known for known in outcomes]

    def _remembered(self, photo: Photo) -> Outcome | None:
        if not (self._old or self._known):
            return None
        content = self._contents[photo.name]
        if not content:
            try:
                content = sha256_of(photo.path)[:DIGITS]
            except OSError:  # said when the photo is read
                return None
        if content in self._known:
            return self._known[content]
        old = self._old.get(content)
        if old is None:
            return None
        return Outcome(self._old_pixels[old.row] if old.row >= 0 else None, old.remark, content)

    def _process(self, photos: list[Photo]) -> list[Outcome]:
        outcomes = []
        for start in range(0, len(photos), READ):
            outcomes += self._cut([_opened(photo) for photo in photos[start : start + READ]])
        return outcomes

    def _cut(self, opened: list[tuple[Image.Image | str, str]]) -> list[Outcome]:
        images = [image for image, _ in opened if not isinstance(image, str)]
        if not self.align:
            cuts = iter([_cropped(image, self.options.image_size) for image in images])
        elif images:
            self._aligner = self._aligner or alignment.Aligner(self.options.image_size, device=self.options.device)
            cuts = map(_aligned, self._aligner(images))
        return [
            Outcome(None, image, content) if isinstance(image, str) else replace(next(cuts), content=content)
            for image, content in opened
        ]


def _opened(photo: Photo) -> tuple[Image.Image | str, str]:
    """Return the decoded photo, or why it cannot be, and the hash of its bytes: none where the machine is to blame."""
    try:
        stamp = photo.stamp()
        content = sha256_of(photo.path)[:DIGITS]
        image, trouble = _read(photo)
        if photo.stamp() != stamp:
            return f"{UNREADABLE} now: it changed while it was read", ""
    except OSError as error:
        return _machine_trouble(error), ""
    return image, "" if trouble else content


def read_or_reason(photo: Photo) -> Image.Image | str:
    """Return the decoded photo, or in words why it cannot be. Introduced in notebook 01."""
    return _read(photo)[0]


def _read(photo: Photo) -> tuple[Image.Image | str, bool]:
    """Return the decoded photo, or in words why it cannot be, and whether the machine, not its bytes, is the cause;
    raises CourseError where the memory does not suffice."""
    try:
        with alignment.enough_memory():
            return alignment.read_photo(photo.path), False
    except CourseError:
        raise
    except Exception as error:  # broken bytes make Pillow's many decoders raise almost anything; all are reported
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: broken bytes lead nowhere
            return _machine_trouble(error), True
        return _byte_trouble(photo, error)


def _machine_trouble(error: OSError) -> str:
    return f"{UNREADABLE} now: {(error.strerror or str(error)).lower()}"


def _byte_trouble(photo: Photo, error: Exception) -> tuple[str, bool]:
    try:
        with open(photo.path, "rb") as file:
            head = file.read(32)
    except OSError as trouble:
        return _machine_trouble(trouble), True
    if not head:
        return f"{UNREADABLE}: the file is empty", False
    if isinstance(error, Image.DecompressionBombError):
        return f"{UNREADABLE}: far too many pixels", False
    if not isinstance(error, UnidentifiedImageError):
        return f"{UNREADABLE}: broken or truncated", False
    kind = image_kind(head)
    if kind == "HEIC" and not alignment.register_heif():  # another day the package may be there
        return f"{UNREADABLE} here: a HEIC photo: run 'pip install pillow-heif', or save it as JPEG", True
    if kind and kind != "HEIC" and PILLOW_NAMES.get(kind) not in Image.OPEN:
        return f"{UNREADABLE} here: {kind} is unknown to this Pillow: save it as JPEG", True
    if kind:
        return f"{UNREADABLE}: broken or truncated", False
    known = photo.path.suffix.lower() in MAY_NEED_A_PLUGIN
    return f"{UNREADABLE}: " + ("save it as JPEG or PNG" if known else "no known image format inside"), False


def _cropped(image: Image.Image, image_size: int) -> Outcome:
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
    contents = np.array([outcome.content for outcome in outcomes], dtype=np.str_)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, crops=stacked, kept=kept, remarks=remarks, contents=contents)


def _read_shard(path: Path, n_photos: int) -> list[Outcome] | None:
    """Return a shard's outcomes, or None if there is no whole one."""
    try:
        with np.load(path, allow_pickle=False) as shard:
            crops, kept, remarks, contents = (shard[key] for key in ("crops", "kept", "remarks", "contents"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if not len(kept) == len(remarks) == len(contents) == n_photos or len(crops) != kept.sum():
        return None
    rows, told = iter(crops), zip(kept, remarks, contents, strict=True)
    return [Outcome(next(rows) if one else None, str(remark), str(content)) for one, remark, content in told]


def digest(content: Iterable) -> str:
    """Return a short hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
