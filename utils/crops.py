"""From photos to crops: read, aligned and cached once, shard by shard, so that an interruption costs little."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from utils import alignment
from utils.downloads import require_room
from utils.layouts import MAY_NEED_A_PLUGIN, Photo
from utils.settings import atomic_path, progress_bar, without_collector

SHARD = 256  # photos per unit of work: what an interruption can lose, and what is held in memory
UNREADABLE = "not a readable image"


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

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        self.shape = self._array.shape

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.array(self._array[indices])

    def __reduce__(self) -> tuple:
        return MappedPixels, (self.path,)  # worker processes map the file again instead of receiving its content


@dataclass(frozen=True)
class Outcome:
    """What one photo gave: a crop, uint8 (3, S, S), perhaps with a remark; or no crop and the reason."""

    crop: np.ndarray | None
    remark: str = ""


class CropStore:
    """The crops of one list of photos on disk: made once, shard by shard, each file written atomically, so that an
    interrupted run goes on where it stopped and nothing half-written is ever read."""

    def __init__(self, name: str, root: Path, photos: list[Photo], options: LoadOptions) -> None:
        self.photos, self.options = photos, options
        self.align = options.align is not False
        recipe = [alignment.RECIPE, str(root), options.image_size, self.align, options.max_identities]
        recipe += [options.part] if options.part else []
        self.folder = options.cache / "aligned" / f"{name}-{digest(recipe)}"
        with without_collector():
            self.stamps = [(photo.name, *photo.stamp()) for photo in photos]
        self.fingerprint = digest(self.stamps)
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
        require_room(self.folder, 2 * 3 * self.options.image_size**2 * len(self.photos))  # shards, then their union
        shards = [range(k, min(k + SHARD, len(self.photos))) for k in range(0, len(self.photos), SHARD)]
        verb = "aligning faces" if self.align else "reading photos"
        with progress_bar(desc=verb, total=len(self.photos), enabled=self.options.progress) as bar:
            kept_count = 0
            for shard in shards:
                kept_count += sum(outcome.crop is not None for outcome in self._shard(shard))
                bar.update(len(shard))
        return self._merge(shards, kept_count)

    def _merge(self, shards: list[range], kept_count: int) -> dict:
        """Join the shards into one pixel file and its index, then remove them and older pixel files."""
        index = {"fingerprint": self.fingerprint, "recipe": alignment.RECIPE, "image_size": self.options.image_size}
        index |= {"pixels": f"pixels-{self.fingerprint}.npy", "kept": [], "skipped": [], "noted": []}
        side = self.options.image_size
        with atomic_path(self.folder / index["pixels"]) as path:
            pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(kept_count, 3, side, side))
            for shard in shards:
                for k, outcome in zip(shard, self._shard(shard), strict=True):
                    name = self.photos[k].name
                    if outcome.crop is None:
                        index["skipped"].append([name, outcome.remark])
                        continue
                    pixels[len(index["kept"])] = outcome.crop
                    index["kept"].append(name)
                    if outcome.remark:
                        index["noted"].append([name, outcome.remark])
            pixels.flush()
            del pixels
        with atomic_path(self.folder / "index.json") as path:
            path.write_text(json.dumps(index), encoding="utf-8")
        for old in (*self.folder.glob("shard-*.npz"), *self.folder.glob("pixels-*.npy")):
            if old.name != index["pixels"]:
                with contextlib.suppress(OSError):  # another process may still have it open
                    old.unlink()
        return index

    def _shard(self, shard: range) -> list[Outcome]:
        """Return the outcomes of up to SHARD photos, from their file if it is whole, else made and written now."""
        path = self.folder / f"shard-{digest(self.stamps[shard.start : shard.stop])}.npz"
        outcomes = _read_shard(path, len(shard))
        if outcomes is None:
            outcomes = self._process(self.photos[shard.start : shard.stop])
            _write_shard(path, outcomes, self.options.image_size)
        return outcomes

    def _process(self, photos: list[Photo]) -> list[Outcome]:
        if not self.align:
            return [_cropped(read_or_reason(photo), self.options.image_size) for photo in photos]
        if self._aligner is None:
            self._aligner = alignment.Aligner(self.options.image_size, device=self.options.device)
        outcomes = []
        for start in range(0, len(photos), alignment.BATCH):
            outcomes += self._align([read_or_reason(photo) for photo in photos[start : start + alignment.BATCH]])
        return outcomes

    def _align(self, images: list[Image.Image | str]) -> list[Outcome]:
        faces = iter(self._aligner([image for image in images if not isinstance(image, str)]))
        return [Outcome(None, image) if isinstance(image, str) else _aligned(next(faces)) for image in images]


def read_or_reason(photo: Photo) -> Image.Image | str:
    """Return the decoded photo, or in words why it cannot be. Introduced in notebook 01."""
    try:
        return alignment.read_photo(photo.path)
    except Exception as error:  # broken bytes make Pillow's many decoders raise almost anything; all are reported
        if photo.stamp()[0] == 0:
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


def digest(content: Iterable) -> str:
    """Return a short hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
