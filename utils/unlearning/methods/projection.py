"""Unlearning by projection: erase the directions in which the forget set lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.backbones import AddOn, FaceBackbone
from ...settings import CourseError
from ..loop import Task, forward
from ..registry import method

PHOTOS_AT_ONCE = 256


@dataclass(frozen=True)
class EscConfig:
    """`directions` many are erased; 0 stands for `per_person` times the number of forgotten people.

    The original erases a share p of the d dimensions, floor(p d): of 128 numbers, with its own 1.5 %, one direction.
    `centred` takes the forget set's mean off first.
    """

    directions: int = 0
    per_person: int = 3
    centred: bool = False


class ProjectedBackbone(AddOn):
    """A face model whose embeddings pass through a fixed linear map P (d, d). Introduced in notebook 07."""

    def __init__(self, backbone: FaceBackbone, projection: Tensor):
        super().__init__(backbone)
        self.register_buffer("projection", projection.to(backbone.device))

    def added(self, points: Tensor) -> Tensor:
        """Return embeddings (B, d) projected and un-normalised."""
        return points @ self.projection.T


def erasing_projection(points: Tensor, k: int, centred: bool = False) -> Tensor:
    """Return P = I - V_k V_k^T (d, d) float32, V_k the k strongest right singular vectors of points (n, d).

    Raises CourseError unless k is at least 1, below d, and no more than the points can tell. Introduced in notebook 07.
    """
    n, d = points.shape
    most = min(d - 1, n - 1 if centred else n)
    if not 1 <= k <= most:
        raise CourseError(f"{n} photos with {d} numbers each let 1 to {most} directions be erased, not {k}.")
    points = points.double().cpu()
    if centred:
        points = points - points.mean(dim=0)
    strongest = torch.linalg.svd(points, full_matrices=False).Vh[:k]
    return (torch.eye(d, dtype=torch.float64) - strongest.T @ strongest).float()


@torch.no_grad()
def features(task: Task, photos: np.ndarray) -> Tensor:
    """Return the un-normalised embeddings g(x) (n, d) float32 of photos by index, on the CPU."""
    task.images_processed += len(photos)
    batches = np.array_split(photos, math.ceil(len(photos) / PHOTOS_AT_ONCE))
    return torch.cat([forward(task, batch).float().cpu() for batch in batches])


@method(
    "esc",
    EscConfig,
    title="Erasing a subspace (ESC)",
    kind="wrapper",
    needs=("forget",),
    source="Lee et al., CVPR 2025 (arXiv 2504.02199)",
    notebook="07",
    grid={"per_person": (1, 2, 3, 4), "centred": (False, True)},
    caveat="written after a third party's copy of the original code, which erases a fixed share of the dimensions "
    "(one of 128 with its own 1.5 %) and keeps only the forget photos' other directions; here so many per person "
    "are erased, and all directions beyond the forget photos' are kept",
)
def esc(task: Task, config: EscConfig) -> None:
    """Let embeddings be P g(x), P = I - V_k V_k^T, V_k the forget embeddings' k strongest directions.

    Nothing is trained. It erases what one person's photos share, their mean, and leaves what tells them apart; people
    who look alike lose the same directions. Introduced in notebook 07.
    """
    points = features(task, task.forget_photos)
    most = min(len(points) - config.centred, points.shape[1] - 1)  # of few photos, no more than they can tell
    k = config.directions or min(config.per_person * len(task.splits.forget), most)
    task.model = ProjectedBackbone(task.model, erasing_projection(points, k, config.centred)).eval()
    task.history.append({"step": 0, "erased": float(k)})
