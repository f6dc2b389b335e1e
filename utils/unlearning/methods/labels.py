"""Unlearning by relabelling: teach the model a wrong name for every forget photo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..loop import Batch, Task, run_steps
from ..losses import retained_names, rows_of
from ..registry import FULL, LogitConfig, method

ABOUT = {
    "needs": ("forget",),
    "optional": ("retain_train",),
    "labels": ("retain_train",),
    "notebook": "05",
    "full": FULL,
}
GRID = {"learning_rate": (1e-3, 2e-3, 3e-3, 5e-3), "retain_weight": (0.3, 1.0)}


@dataclass(frozen=True)
class RandomLabelsConfig(LogitConfig):
    """`retain_weight` scales the ordinary training of the retained photos."""

    learning_rate: float = 5e-3
    retain_per_step: int = 64
    retain_weight: float = 0.3


def draw_wrong_labels(task: Task) -> Tensor:
    """Return a table (all photos,) int64: for every forget photo one fixed head row of a retained identity, else -1."""
    allowed = np.asarray(task.splits.class_of(task.splits.retain_train))
    rng = np.random.default_rng(task.seed)
    table = np.full(len(task.splits.faces), -1, dtype=np.int64)
    table[task.forget_photos] = rng.choice(allowed, size=len(task.forget_photos))
    return torch.from_numpy(table).to(task.device)


def draw_again(task: Task, count: int) -> Tensor:
    """Return `count` fresh head rows (int64) of retained identities, all equally likely."""
    chosen = torch.randint(len(task.splits.retain_train), (count,), generator=task.generator)
    return task.retain_train_columns[chosen.to(task.device)]


def draw_any(task: Task, count: int) -> Tensor:
    """Return `count` fresh head rows (int64), all equally likely, a photo's own and the other forgotten ones too."""
    return torch.randint(len(task.head.weight), (count,), generator=task.generator).to(task.device)


def relabel(
    task: Task,
    config: RandomLabelsConfig,
    wrong_names: Callable[[Batch], Tensor],
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Minimise cross-entropy to wrong names on forget photos, and ordinary training of the retained ones."""

    def losses(batch: Batch) -> dict[str, Tensor]:
        logits = task.head(batch.forget, scale=config.forget_scale)
        terms = {"forget": F.cross_entropy(logits, wrong_names(batch))}
        if len(batch.retain):
            terms["retain"] = config.retain_weight * retained_names(task.head, batch)
        return terms

    run_steps(task, config, losses, after_step=after_step)


@method(
    "random_labels",
    RandomLabelsConfig,
    title="Random labels (fixed)",
    source="Golatkar et al. 2020; Graves et al., AAAI 2021 (arXiv 2010.10981)",
    grid=GRID,
    **ABOUT,
)
def random_labels(task: Task, config: RandomLabelsConfig) -> None:
    """Minimise cross-entropy to one fixed random retained identity per forget photo, margin off, head frozen.

    Photos of one person get different targets, so this is the one relabelling that disperses; the photos land inside
    other people's clusters instead. Retained photos keep their margin loss. Introduced in notebook 05.
    """
    table = draw_wrong_labels(task)
    relabel(task, config, lambda batch: rows_of(table, batch.forget_photos))


@method(
    "random_labels_resampled",
    RandomLabelsConfig,
    title="Random labels (redrawn)",
    source="Graves et al., AAAI 2021 (arXiv 2010.10981); redrawn as in SalUn's baseline (arXiv 2310.12508)",
    grid=GRID,
    caveat="SalUn's code draws from all names, the forgotten ones too; here from the retained ones alone",
    **ABOUT,
)
def random_labels_resampled(task: Task, config: RandomLabelsConfig) -> None:
    """Minimise cross-entropy to a retained identity drawn anew for every forget photo and step, head frozen.

    On average over draws that is cross-entropy to the uniform distribution over the retained identities: one target for
    all, so the cluster moves to one place and does not disperse. Introduced in notebook 05.
    """
    relabel(task, config, lambda batch: draw_again(task, len(batch.forget)))
