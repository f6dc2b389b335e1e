"""Unlearning by ascent: climb the loss that training went down."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ...settings import CourseError
from ..loop import Batch, Task, run_steps
from ..losses import retained_names
from ..registry import FULL, LogitConfig, method

BOTH = ("forget", "retain_train")


@dataclass(frozen=True)
class GradientAscentConfig(LogitConfig):
    """Few, small steps, watched: nothing in the loss says when to stop, so the dev-forget people do.

    The loss can be climbed until nobody is recognised any more; the run therefore ends (`check_every`) before the
    people who stay lose more than `max_dev_loss` of mAP, and the full profile takes no more steps than the quick one.
    With `check_every` 0 no photo but the forget photos is looked at.
    """

    steps: int = 30
    learning_rate: float = 2e-4
    check_every: int = 3
    max_dev_loss: float = 0.01


@dataclass(frozen=True)
class BoundedAscentConfig(LogitConfig):
    """`beta` scales the forget side; `bound`, in units of log C, is where it stops (1: as unsure as a guess)."""

    learning_rate: float = 3e-3
    retain_per_step: int = 64
    beta: float = 3.0
    bound: float = 1.0


@dataclass(frozen=True)
class NegGradPlusConfig(LogitConfig):
    """`alpha` is the share of the retain side: 1 is ordinary training, 0 is gradient ascent."""

    learning_rate: float = 3e-3
    retain_per_step: int = 64
    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise CourseError(f"alpha is the retain side's share of the loss: between 0 and 1, not {self.alpha}.")


def forget_names(task: Task, batch: Batch, scale: float) -> Tensor:
    """Return the cross-entropy of the forget photos' own names, margin off, at a softened scale."""
    return F.cross_entropy(task.head(batch.forget, scale=scale), batch.forget_rows)


@method(
    "gradient_ascent",
    GradientAscentConfig,
    title="Gradient ascent",
    needs=("forget",),
    labels=("forget",),
    source="generic baseline, also NegGrad (Golatkar et al. 2020; Thudi et al. 2022)",
    notebook="05",
    grid={"learning_rate": (1e-4, 2e-4, 3e-4, 5e-4), "max_dev_loss": (0.01, 0.05)},
)
def gradient_ascent(task: Task, config: GradientAscentConfig) -> None:
    """Maximise cross-entropy on forget photos with the head frozen, margin off and a softened scale.

    At the usual scale of 64 the loss of a well-learned person is exactly zero in float32: nothing to climb. All photos
    of a person are pushed the same way, so the cluster travels and stays a cluster; with trainable="head" not even
    that, the name is lost and no embedding has moved. It stops early, see its config. Introduced in notebook 05.
    """

    def losses(batch: Batch) -> dict[str, Tensor]:
        return {"forget": -forget_names(task, batch, config.forget_scale)}

    run_steps(task, config, losses)


@method(
    "bounded_ascent",
    BoundedAscentConfig,
    title="Bounded gradient ascent",
    needs=BOTH,
    labels=BOTH,
    source="the forget loss of GS-LoRA, here on all weights (Zhao et al., CVPR 2024, arXiv 2403.11530)",
    notebook="05",
    full=FULL,
    grid={"learning_rate": (3e-4, 1e-3, 2e-3, 3e-3), "beta": (0.3, 3.0)},
)
def bounded_ascent(task: Task, config: BoundedAscentConfig) -> None:
    """Minimise CE_r + beta ReLU(B - CE_f), B = bound x log C: ascent that ends at the loss of a guess.

    CE_r has its margin, CE_f has none, a softened scale, and is the mean over the batch, as in the source: a few people
    pushed very far can meet the bound for all while others keep their names. As in plain ascent all photos of a person
    are pushed the same way: the cluster travels and stays a cluster. Introduced in notebook 05.
    """
    limit = config.bound * math.log(len(task.head.weight))

    def losses(batch: Batch) -> dict[str, Tensor]:
        missing = F.relu(limit - forget_names(task, batch, config.forget_scale))
        return {"forget": config.beta * missing, "retain": retained_names(task.head, batch)}

    run_steps(task, config, losses)


@method(
    "neggrad_plus",
    NegGradPlusConfig,
    title="NegGrad+",
    needs=BOTH,
    labels=BOTH,
    source="Kurmanji et al., NeurIPS 2023 (arXiv 2302.09880)",
    notebook="05",
    full=FULL,
    grid={"learning_rate": (3e-4, 1e-3, 2e-3, 3e-3), "alpha": (0.5, 0.95)},
)
def neggrad_plus(task: Task, config: NegGradPlusConfig) -> None:
    """Minimise alpha CE_r - (1 - alpha) CE_f: descent on the retained photos, ascent on the forget photos.

    CE_r has its margin, CE_f has none and a softened scale. The retain side pays for the damage of ascent; neither
    side pulls a person's photos apart, so the cluster travels as one. Introduced in notebook 05.
    """

    def losses(batch: Batch) -> dict[str, Tensor]:
        climb = -(1.0 - config.alpha) * forget_names(task, batch, config.forget_scale)
        return {"forget": climb, "retain": config.alpha * retained_names(task.head, batch)}

    run_steps(task, config, losses)
