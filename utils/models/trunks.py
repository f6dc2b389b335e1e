"""What resting layers make of each photo: computed once per data set, kept in the cache, read in every step."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..faces.datasets import FaceDataset
from ..faces.downloads import require_room
from ..settings import atomic_path, cache_dir, progress_bar
from .augmentation import augment
from .interface import FaceBackbone

MOST = 2 << 30  # bytes on the disk: of a larger data set nothing is kept, and the layers run each time
AT_ONCE = 64
VIEWS, MOST_VIEWS = 4, 1 << 14  # augmented views of a photo whose outputs are kept, and of all photos in memory


def points_of(model: FaceBackbone, looks: Tensor) -> Tensor:
    """Return the un-normalised embeddings (B, d) of uint8 faces (B, 3, H, W), or of float outputs of the trunk."""
    return model(model.preprocess(looks)) if looks.dtype == torch.uint8 else model.tail(looks)


def trunk_path(model: FaceBackbone, faces: FaceDataset) -> Path:
    """Return where the outputs lie: the name covers photos, crops, what the model is shown, and the resting weights."""
    card = model.card
    shown = (faces.name, faces.fingerprint, faces.image_size, card.window, card.colour, card.mean, card.scale)
    digest = hashlib.sha256(repr((shown, model.input_size)).encode())
    for module in resting_modules(model):
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return cache_dir() / "trunks" / f"{digest.hexdigest()[:16]}.npy"


def resting_modules(model: FaceBackbone) -> Iterator[torch.nn.Module]:
    """Yield the modules of the parts that rest."""
    for part in list(model.layers().values())[: model.card.resting]:
        yield from part


def kept_outputs(model: FaceBackbone, faces: FaceDataset | Tensor) -> np.ndarray | None:
    """Return the trunk's outputs (N, ...) float32 of all photos of a data set, read as they are asked for, or None."""
    if isinstance(faces, Tensor) or not getattr(model, "card", FaceBackbone.card).resting:
        return None
    try:
        outputs = np.load(trunk_path(model, faces), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # none, or none that is whole
        return None
    return outputs if len(outputs) == len(faces) else None


def keep_outputs(model: FaceBackbone, faces: FaceDataset, *, progress: bool = False) -> None:
    """Compute and keep the trunk's outputs of all photos, unless they are kept, nothing rests, or they are too many."""
    if not model.card.resting or kept_outputs(model, faces) is not None:
        return
    path, shape = trunk_path(model, faces), trunk_of(model, faces, np.arange(1)).shape[1:]
    n_bytes = 4 * len(faces) * int(np.prod(shape))
    if n_bytes > MOST:
        return
    require_room(path.parent, n_bytes)
    with atomic_path(path) as temporary:
        table = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(len(faces), *shape))
        starts = range(0, len(faces), AT_ONCE)
        for start in progress_bar(starts, desc="the resting layers, once", enabled=progress):
            photos = np.arange(start, min(start + AT_ONCE, len(faces)))
            table[photos] = trunk_of(model, faces, photos).cpu().numpy()
        table.flush()
        del table


@contextlib.contextmanager
def lent_outputs(model: FaceBackbone, faces: FaceDataset, masked: FaceDataset, shown: np.ndarray) -> Iterator[None]:
    """Keep outputs of `masked` while this lasts, if those of `faces` are kept.

    `masked` has the same photos where `shown` says so by index, and the same grey in place of every other one.
    """
    kept, path = kept_outputs(model, faces), trunk_path(model, masked)
    if kept is None or path.exists():
        yield
        return
    table, hidden = np.array(kept), np.setdiff1d(np.arange(len(faces)), shown)
    if len(hidden):
        table[hidden] = trunk_of(model, masked, hidden[:1]).cpu().numpy()
    require_room(path.parent, table.nbytes)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, table)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            path.unlink()


@torch.no_grad()
def trunk_of(model: FaceBackbone, faces: FaceDataset, photos: np.ndarray) -> Tensor:
    """Return the trunk's outputs (B, ...) of photos by index, computed now."""
    return model.trunk(model.preprocess(faces.images(photos).to(model.device))).float()


class Looks:
    """What the moving layers are shown of photos: uint8 faces (B, 3, H, W), or kept float outputs of the others.

    `points_of` takes either. Introduced in notebook 05.
    """

    def __init__(self, model: FaceBackbone, faces: FaceDataset, generator: torch.Generator, device: torch.device):
        self.model, self.faces, self.generator, self.device = model, faces, generator, device
        self.kept = kept_outputs(model, faces)
        self.views: dict[tuple[int, int], Tensor] = {}

    def of(self, photos: np.ndarray) -> Tensor:
        """Return the looks (B, ...) of photos by index."""
        if self.kept is None:
            return self.faces.images(photos).to(self.device)
        return torch.from_numpy(self.kept[photos]).to(self.device)

    def augmented(self, photos: np.ndarray) -> Tensor:
        """Return looks of photos moved and re-lit at random, anew each time.

        Where outputs are kept, a photo has only VIEWS such looks: each is drawn when it is first asked for and then
        stays in memory, so that the resting layers do not run in every step.
        """
        if self.kept is None:
            return augment(self.of(photos), self.generator)
        drawn = torch.randint(VIEWS, (len(photos),), generator=self.generator).tolist()
        keys = list(zip(photos.tolist(), drawn, strict=True))
        new = [key for key in dict.fromkeys(keys) if key not in self.views]
        if new:
            faces = self.faces.images([photo for photo, _ in new]).to(self.device)
            with torch.no_grad():
                outputs = self.model.trunk(self.model.preprocess(augment(faces, self.generator)))
            self.views |= dict(zip(new, outputs, strict=True))
        shown = torch.stack([self.views[key] for key in keys])
        if len(self.views) > MOST_VIEWS:
            self.views.clear()
        return shown
