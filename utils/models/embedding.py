"""From faces to points on the sphere."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..faces.datasets import FaceDataset
from ..settings import (
    progress_bar,
    resolve_device,
)
from .backbones import FaceBackbone, bare


@torch.no_grad()
def embed(
    model: FaceBackbone,
    faces: FaceDataset | Tensor,
    indices: np.ndarray | None = None,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Tensor:
    """Return the embeddings (N, d) float32, L2-normalised, on the CPU, of uint8 faces (N, 3, H, W) or a data set.

    Runs where the model is unless `device` moves it; uses autocast on a GPU only. Introduced in notebook 02.
    """
    model = bare(model)
    home, modes = model.device, [(module, module.training) for module in model.modules()]
    device = home if device is None else resolve_device(device)
    chosen = np.arange(len(faces)) if indices is None else np.asarray(indices)
    chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    count = len(chosen)
    model.to(device).eval()
    out = torch.empty(count, model.embedding_dim)
    for start in progress_bar(range(0, count, batch_size), desc="embedding", enabled=progress):
        batch = chosen[start : start + batch_size]
        photos = faces[torch.as_tensor(batch)] if isinstance(faces, Tensor) else faces.images(batch)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            points = model(model.preprocess(photos.to(device)))
        out[start : start + batch_size] = F.normalize(points.float()).cpu()
    model.to(home)
    for module, training in modes:
        module.training = training
    return out
