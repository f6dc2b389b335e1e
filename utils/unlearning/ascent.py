"""Unlearning by ascent: climb the loss that training went down."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .frame import Batch, Task, run_steps
from .registry import LogitConfig, method


@dataclass(frozen=True)
class GradientAscentConfig(LogitConfig):
    """Few, small steps: nothing in the loss says when to stop, so the full profile takes no more of them."""

    steps: int = 30
    learning_rate: float = 3e-4


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
    grid={"learning_rate": (1e-4, 2e-4, 3e-4, 5e-4), "steps": (30, 50)},
)
def gradient_ascent(task: Task, config: GradientAscentConfig) -> None:
    """Maximise cross-entropy on forget photos with the head frozen, margin off and a softened scale (M4).

    At the usual scale of 64 the loss of a well-learned person is exactly zero in float32: nothing to climb. All photos
    of a person are pushed the same way, so the cluster travels and stays a cluster. Introduced in notebook 05.
    """

    def losses(batch: Batch) -> dict[str, Tensor]:
        return {"forget": -forget_names(task, batch, config.forget_scale)}

    run_steps(task, config, losses)
