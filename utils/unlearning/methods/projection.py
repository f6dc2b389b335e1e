"""Unlearning by projection: erase the directions in which the forget set lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.backbones import AddOn, FaceBackbone
from ...models.interface import Lacking
from ...settings import CourseError
from ..loop import Task, forward
from ..registry import method

PHOTOS_AT_ONCE = 256
PROBED = 8  # photos that tell whether a folded map does what was asked


@dataclass(frozen=True)
class EscConfig:
    """`directions` many are erased; 0 stands for `per_person` times the number of forgotten people.

    The original erases a share p of the d dimensions, floor(p d): of 128 numbers, with its own 1.5 %, one direction.
    `centred` takes the forget set's mean off first.
    """

    directions: int = 0
    per_person: int = 2
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


def forget_projection(task: Task, config: EscConfig) -> tuple[Tensor, Tensor]:
    """Return the embeddings (n, d) of a task's forget photos and ESC's projection (d, d); the history notes k."""
    points = features(task, task.forget_photos)
    most = min(len(points) - config.centred, points.shape[1] - 1)  # of few photos, no more than they can tell
    k = config.directions or min(config.per_person * len(task.splits.forget), most)
    task.history.append({"step": 0, "erased": float(k)})
    return points, erasing_projection(points, k, config.centred)


def fold_projection(model: FaceBackbone, projection: Tensor) -> None:
    """Change a network's last linear map in place so that its embeddings g become P g, P (d, d).

    A BatchNorm behind it is affine at evaluation, a g + b: its scale moves into the map and its shift becomes P b, and
    so does the mean that a centred model takes off. Raises Lacking where something else comes last.
    """
    last = list(model.layers())[-1]
    modules = [module for part in model.layers()[last] for module in part.modules()]
    maps = [m for m in modules if isinstance(m, nn.BatchNorm1d) or any(True for _ in m.parameters(recurse=False))]
    linear, norm = maps[0] if maps else None, maps[1] if len(maps) == 2 else None
    fixed = isinstance(norm, nn.BatchNorm1d) and norm.running_var is not None  # else it looks at who else is shown
    plain = isinstance(linear, nn.Linear) and (len(maps) == 1 or fixed)
    if isinstance(model, AddOn) or not plain:
        names = dict.fromkeys(type(module).__name__ for module in ([model] if isinstance(model, AddOn) else maps))
        found = ", ".join(names) or "nothing with weights"
        raise Lacking(f"A projection folds into a last linear map, with or without BatchNorm; here it is {found}.")
    p = projection.to(linear.weight)
    with torch.no_grad():
        if norm is not None:
            length = (norm.running_var + norm.eps).sqrt()
            scale = (norm.weight if norm.affine else 1.0) / length
            shift = (norm.bias if norm.affine else 0.0) - scale * norm.running_mean
            linear.weight.copy_(p @ (scale[:, None] * linear.weight))
            if norm.affine:
                norm.weight.copy_(length)
                norm.running_mean.zero_()
                norm.bias.copy_(p @ shift)
            else:
                norm.running_var.fill_(1.0 - norm.eps)
                norm.running_mean.copy_(-(p @ shift))
        else:
            linear.weight.copy_(p @ linear.weight)
        if linear.bias is not None:
            linear.bias.copy_(p @ linear.bias if norm is None else p @ (scale * linear.bias))
        if hasattr(model, "centre"):
            model.centre.copy_(p @ model.centre)


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
    task.model = ProjectedBackbone(task.model, forget_projection(task, config)[1]).eval()


@method(
    "esc_folded",
    EscConfig,
    title="ESC, folded into the weights",
    needs=("forget",),
    source="Lee et al., CVPR 2025 (arXiv 2504.02199), folded by this course",
    notebook="07",
    grid={"per_person": (1, 2, 3, 4), "centred": (False, True)},
    caveat="the same embeddings as ESC; only what a holder of the weights sees differs",
)
def esc_folded(task: Task, config: EscConfig) -> None:
    """Write ESC's projection into the last linear map, W' = P W: the same network with other numbers. Notebook 07.

    There is no layer to take off, but everything before the last map is as it was.
    """
    points, projection = forget_projection(task, config)
    fold_projection(task.model, projection)
    found, before = features(task, task.forget_photos[:PROBED]), points[:PROBED]
    wanted = before @ projection.T
    left = wanted.norm(dim=1, keepdim=True) / before.norm(dim=1, keepdim=True).clamp_min(1e-12)  # rounding has no way
    if not torch.allclose(left * F.normalize(found), left * F.normalize(wanted), atol=1e-3):
        raise Lacking("Something that is not linear follows this network's last map: use 'esc', a layer behind it.")
