"""Unlearning by relabelling: teach the model a wrong name for every forget photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .frame import Batch, Task, run_steps
from .losses import retained_names, rows_of
from .registry import FULL, LogitConfig, method


@dataclass(frozen=True)
class RandomLabelsConfig(LogitConfig):
    """`retain_weight` scales the ordinary training of the retained photos."""

    learning_rate: float = 3e-3
    retain_per_step: int = 64
    retain_weight: float = 0.3


def draw_wrong_labels(task: Task) -> Tensor:
    """Return a table (all photos,) int64: for every forget photo one fixed head row of a kept identity, else -1."""
    allowed = np.asarray(task.splits.class_of(task.splits.kept))
    rng = np.random.default_rng(task.seed)
    table = np.full(len(task.splits.faces), -1, dtype=np.int64)
    table[task.forget_photos] = rng.choice(allowed, size=len(task.forget_photos))
    return torch.from_numpy(table).to(task.device)


@method(
    "random_labels",
    RandomLabelsConfig,
    title="Random labels (fixed)",
    needs=("forget",),
    optional=("kept",),
    labels=("kept",),
    source="Golatkar et al. 2020; Graves et al., AAAI 2021 (arXiv 2010.10981)",
    notebook="05",
    full=FULL,
    grid={"learning_rate": (1e-3, 2e-3, 3e-3, 5e-3), "retain_weight": (0.3, 1.0)},
)
def random_labels(task: Task, config: RandomLabelsConfig) -> None:
    """Minimise cross-entropy to one fixed random kept identity per forget photo, margin off, head frozen (M3).

    Photos of one person get different targets, so this is the one relabelling that disperses; the photos land inside
    other people's clusters instead. Retained photos keep their margin loss. Introduced in notebook 05.
    """
    wrong = draw_wrong_labels(task)

    def losses(batch: Batch) -> dict[str, Tensor]:
        targets = rows_of(wrong, batch.forget_photos)
        forget = F.cross_entropy(task.head(batch.forget, scale=config.forget_scale), targets)
        if len(batch.retain) == 0:
            return {"forget": forget}
        return {"forget": forget, "retain": config.retain_weight * retained_names(task.head, batch)}

    run_steps(task, config, losses)
