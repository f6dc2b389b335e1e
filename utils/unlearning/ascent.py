"""Unlearning by ascent: climb the loss that training went down."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..settings import CourseError
from .frame import Batch, StepConfig, Task, method, run_steps


@dataclass(frozen=True)
class GradientAscentConfig(StepConfig):
    """Few, small steps: nothing in the loss says when to stop, so the full profile takes no more of them."""

    steps: int = 30
    learning_rate: float = 3e-4
    forget_scale: float = 16.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.retain_per_step:
            raise CourseError("Gradient ascent looks at forget photos only: leave retain_per_step at 0.")


@method(
    "gradient_ascent",
    GradientAscentConfig,
    title="Gradient ascent",
    needs=("forget",),
    source="generic baseline, also NegGrad (Golatkar et al. 2020; Thudi et al. 2022)",
    notebook="05",
)
def gradient_ascent(task: Task, config: GradientAscentConfig) -> None:
    """Maximise cross-entropy on forget photos with the head frozen, margin off and a softened scale (M4).

    At the usual scale of 64 the loss of a well-learned person is exactly zero in float32: nothing to climb. All photos
    of a person are pushed the same way, so the cluster travels and stays a cluster. Introduced in notebook 05.
    """

    def losses(batch: Batch) -> dict[str, Tensor]:
        return {"forget": -F.cross_entropy(task.head(batch.forget, scale=config.forget_scale), batch.forget_rows)}

    run_steps(task, config, losses)
