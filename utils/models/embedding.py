"""From faces to points on the sphere."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..faces.datasets import FaceDataset
from ..settings import progress_bar, resolve_device
from .backbones import FaceBackbone, bare
from .trunks import kept_outputs, points_of


def centre_on(model: FaceBackbone, faces: FaceDataset | Tensor, photos: np.ndarray, *, progress: bool = False) -> None:
    """Let a centred model take the mean embedding of some photos (un-normalised) off every embedding from now on.

    The mean is a buffer of the model, fixed once it is opened, so that galleries stay comparable. Notebook 02.
    """
    model.centre.zero_()
    points = embed(model, faces, photos, normalised=False, progress=progress)
    model.centre.copy_(points.mean(dim=0))


def uncentred(points: Tensor, model: FaceBackbone) -> Tensor:
    """Return unit embeddings of a model's un-normalised ones (N, d), the mean that it takes off put back. Notebook 02.

    A searcher may search either. It is put back on what is served: a part behind the network saw centred points.
    """
    centres = [buffer for name, buffer in bare(model).named_buffers() if name.rsplit(".", 1)[-1] == "centre"]
    return F.normalize(points + sum(centres).to(points) if centres else points)


@torch.no_grad()
def embed(
    model: FaceBackbone,
    faces: FaceDataset | Tensor,
    indices: np.ndarray | None = None,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
    normalised: bool = True,
    whole: bool = False,
) -> Tensor:
    """Return the embeddings (N, d) float32, L2-normalised, on the CPU, of uint8 faces (N, 3, H, W) or a data set.

    Runs where the model is unless `device` moves it; uses autocast on a GPU only. Where the resting layers' outputs of
    the data set are kept, only the others run, unless the `whole` network shall. Introduced in notebook 02.
    """
    model = bare(model)
    home, modes = model.device, [(module, module.training) for module in model.modules()]
    device = home if device is None else resolve_device(device)
    chosen = np.arange(len(faces)) if indices is None else np.asarray(indices)
    chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    count = len(chosen)
    model.to(device).eval()
    out = torch.empty(count, model.embedding_dim)
    kept = None if whole else kept_outputs(model, faces)
    for start in progress_bar(range(0, count, batch_size), desc="embedding", enabled=progress):
        batch = chosen[start : start + batch_size]
        if kept is not None:
            looks = torch.from_numpy(kept[batch])
        else:
            looks = faces[torch.as_tensor(batch)] if isinstance(faces, Tensor) else faces.images(batch)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            points = points_of(model, looks.to(device))
        points = F.normalize(points.float()) if normalised else points.float()
        out[start : start + batch_size] = points.cpu()
    model.to(home)
    for module, training in modes:
        module.training = training
    return out
