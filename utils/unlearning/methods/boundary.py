"""Unlearning at decision boundaries: send forget photos to a neighbour, or to nobody."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.heads import CosineHead
from ...settings import CourseError
from ..loop import Batch, Task, run_steps
from ..losses import rows_of, without_columns
from ..registry import FULL, LogitConfig, method

ABOUT = {"needs": ("forget",), "notebook": "06", "full": FULL}
PAPER = "Chen et al., CVPR 2023 (arXiv 2303.11570)"
PHOTOS_AT_ONCE = 128


@dataclass(frozen=True)
class BoundaryShrinkConfig(LogitConfig):
    """`epsilon` is the attack's step per pixel, where black is 0 and white 1; 0 asks the clean photo.

    A step of 0.02 ends short of the boundary for many photos; the authors' 0.1 carries nearly all of them across.
    """

    learning_rate: float = 1e-4
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon > 1:
            raise CourseError(f"epsilon is a share of the way from black to white: at most 1, not {self.epsilon}.")


@dataclass(frozen=True)
class BoundaryExpandConfig(LogitConfig):
    """`shadow_rows` is 1 in the paper; with more, photos are dealt to them in turn (the course's own variant)."""

    learning_rate: float = 1e-4
    shadow_rows: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shadow_rows < 1:
            raise CourseError("Boundary Expanding needs shadow_rows of at least 1.")


# --------------------------------------------------------------------------------------------------------- shrink


def attack(task: Task, inputs: Tensor, rows: Tensor, epsilon: float, scale: float) -> Tensor:
    """Return inputs (B, 3, S, S) after one FGSM step up the cross-entropy of their own names (head rows (B,)).

    Margin off, at a softened scale: at the head's own the softmax of a sure model has no slope, and no sign.
    """
    inputs = inputs.detach().requires_grad_(True)
    loss = F.cross_entropy(task.head(task.model(inputs), scale=scale), rows, reduction="sum")
    (slope,) = torch.autograd.grad(loss, inputs)
    black, white = task.model.bounds()
    step = epsilon * (255 / task.model.card.scale) * slope.sign()
    return (inputs.detach() + step).clamp(black, white)


@torch.no_grad()
def nearest_kept_names(task: Task, inputs: Tensor) -> Tensor:
    """Return the head rows (B,) of the retained identities nearest to model inputs; a forget identity never is one."""
    return without_columns(task.head.cosines(task.model(inputs)), task.forget_columns).argmax(dim=1)


def neighbours(task: Task, epsilon: float, scale: float) -> Tensor:
    """Return a table (all photos,) int64: the retained identity behind each forget photo's nearest boundary, else -1.

    Call it before the first step: photos are not augmented and the attacked model stays the original, so once will do.
    """
    table = torch.full((len(task.splits.faces),), -1, dtype=torch.int64, device=task.device)
    for start in range(0, len(task.forget_photos), PHOTOS_AT_ONCE):
        photos = task.forget_photos[start : start + PHOTOS_AT_ONCE]
        inputs = task.model.preprocess(task.splits.faces.images(photos).to(task.device))
        if epsilon > 0:
            inputs = attack(task, inputs, task.head_rows(photos), epsilon, scale)
        table[torch.from_numpy(photos).to(task.device)] = nearest_kept_names(task, inputs)
        task.images_processed += len(photos) * (2 if epsilon > 0 else 1)
    return table


@method(
    "boundary_shrink",
    BoundaryShrinkConfig,
    title="Boundary Shrink",
    labels=("forget",),
    source=PAPER,
    grid={"learning_rate": (5e-5, 1e-4, 1.5e-4, 2e-4), "forget_scale": (8.0, 16.0)},
    caveat="the authors let the attacked photo keep any name, the true one where the attack fails; "
    "here the best retained name is taken",
    **ABOUT,
)
def boundary_shrink(task: Task, config: BoundaryShrinkConfig) -> None:
    """Minimise cross-entropy of the clean forget photo to the retained name its attacked copy is nearest to.

    x' = clip(x + epsilon sign grad CE(x, y)), target argmax_{k not in F} c_k(x'), both from the original model;
    epsilon = 0 is pseudo-labelling. Barring the forgotten names matters: a failed attack would teach the true name
    again. A person's photos share few neighbours, so the cluster breaks into a few compact pieces, each inside a
    look-alike's. The attack acts at the size of the model's input. Introduced in notebook 06.
    """
    table = neighbours(task, config.epsilon, config.forget_scale)

    def losses(batch: Batch) -> dict[str, Tensor]:
        targets = rows_of(table, batch.forget_photos)
        return {"forget": F.cross_entropy(task.head(batch.forget, scale=config.forget_scale), targets)}

    run_steps(task, config, losses)


# --------------------------------------------------------------------------------------------------------- expand


def with_shadow_rows(head: CosineHead, count: int, generator: torch.Generator) -> CosineHead:
    """Return a copy of a head with `count` more rows: random directions that stand for nobody."""
    shadows = F.normalize(torch.randn(count, head.weight.shape[1], generator=generator))
    return with_rows(head, torch.cat([head.weight.detach(), shadows.to(head.weight)]))


def with_rows(head: CosineHead, rows: Tensor) -> CosineHead:
    """Return a copy of a head with other rows (C, d), as movable as its own were."""
    changed = copy.deepcopy(head)
    changed.weight = torch.nn.Parameter(rows.detach().clone(), requires_grad=head.weight.requires_grad)
    return changed


@method(
    "boundary_expand",
    BoundaryExpandConfig,
    title="Boundary Expanding",
    source=PAPER,
    grid={"learning_rate": (1e-4, 2e-4, 3e-4, 5e-4), "steps": (30, 50)},
    **ABOUT,
)
def boundary_expand(task: Task, config: BoundaryExpandConfig) -> None:
    """Minimise cross-entropy of forget photos to one added shadow row that stands for nobody, then drop the row.

    Names among C + 1, margin off, all rows frozen. Everyone forgotten gets the one target, so the name can be lost
    while the cluster stays as tight as it was: forget accuracy 0 is not unfindable. With K shadow rows the i-th
    forget photo goes to row i mod K, which does disperse, as fixed random labels do. Introduced in notebook 06.
    """
    names = len(task.head.weight)
    task.head = with_shadow_rows(task.head, config.shadow_rows, task.generator)
    table = torch.full((len(task.splits.faces),), -1, dtype=torch.int64, device=task.device)
    dealt = torch.arange(len(task.forget_photos), device=task.device) % config.shadow_rows
    table[torch.from_numpy(task.forget_photos).to(task.device)] = names + dealt

    def losses(batch: Batch) -> dict[str, Tensor]:
        targets = rows_of(table, batch.forget_photos)
        return {"forget": F.cross_entropy(task.head(batch.forget, scale=config.forget_scale), targets)}

    run_steps(task, config, losses)
    task.head = with_rows(task.head, task.head.weight[:names])
