"""A method in one file: copy it, put your loss into `losses`, and run `python -m utils.leaderboard my_method.py`."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from utils.unlearning import StepConfig, method, run_steps
from utils.unlearning.losses import Teacher, distillation, rows_of


@dataclass(frozen=True)
class MyConfig(StepConfig):
    """The settings; `run_steps` reads those of StepConfig, the rest are yours."""

    steps: int = 50
    retain_per_step: int = 64
    retain_weight: float = 5.0


@method(
    "my_method",  # a name that the course does not have
    MyConfig,
    title="My method",
    needs=("forget", "retain_train"),  # training photos only: held-out ones are grey when your method runs
    source="your paper, or yourself", notebook="08",
    kind="weights",  # or "wrapper", if a part is added to the network
)
def my_method(task, config):
    """Change task.model (a copy); return nothing. Here: send each forget photo to a random place of its own."""
    teacher = Teacher.of(task)  # the model before, frozen
    shape = len(task.splits.faces), task.model.embedding_dim
    places = F.normalize(torch.randn(shape, generator=task.generator)).to(task.device)  # draw from task.generator

    def losses(batch):
        forget = 1 - (batch.forget * rows_of(places, batch.forget_photos)).sum(dim=1)
        held = distillation(batch, teacher.points(batch.retain_photos))
        return {"forget": forget.mean(), "retain": config.retain_weight * held}

    run_steps(task, config, losses)
