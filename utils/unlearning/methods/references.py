"""The yardsticks: the original model, the model retrained without the forget set, and plain fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ...models.checkpoints import TrainConfig
from ...models.training import load_or_train
from ..loop import Batch, Task, run_steps
from ..losses import without_columns
from ..registry import FULL, LogitConfig, method


@dataclass(frozen=True)
class NoConfig:
    """A method with nothing to set."""


@method(
    "original",
    NoConfig,
    title="Original model",
    kind="reference",
    needs=(),
    source="the model as it was trained",
    notebook="02",
)
def original(task: Task, config: NoConfig) -> None:
    """Change nothing: the level that forgetting starts from. Introduced in notebook 02."""


@method(
    "retrain",
    TrainConfig,
    title="Retrained without them",
    kind="reference",
    needs=("retain_train",),
    labels=("retain_train",),
    source="the reference of the unlearning literature: no trace of training on the forget set",
    notebook="05",
)
def retrain(task: Task, config: TrainConfig) -> None:
    """Train from random weights on the retained identities only, or load that model if it is known.

    It shows what "never seen" means; an embedding model still recognises people it never saw, so this is no target
    for being unfindable (methods that aim there aim elsewhere). The head has rows for retained identities only.
    Seconds are those of the training run, also when the checkpoint was loaded. Introduced in notebook 05.
    """
    recogniser = load_or_train(
        task.splits,
        backbone=task.model.name,
        pretrained="none",
        config=config,
        without_forget=True,
        device=task.device,
        progress=task.progress,
    )
    task.model, task.head, task.seconds = recogniser.model, recogniser.head, recogniser.seconds
    task.images_processed = config.epochs * len(task.retain_train_photos)


@dataclass(frozen=True)
class FinetuneConfig(LogitConfig):
    """Fine-tuning sees retained photos only, and goes on as training did: everything moves."""

    learning_rate: float = 1e-2
    retain_per_step: int = 128
    batchnorm: str = "train"
    augment: bool = True
    trainable: str = "both"
    unused = ("identities_per_step", "photos_per_identity", "forget_scale")


def retain_side_only(step: int) -> tuple[bool, bool]:
    """Say that a step sees no forget photo."""
    return False, True


@method(
    "finetune",
    FinetuneConfig,
    title="Fine-tune on the rest",
    kind="reference",
    needs=("retain_train",),
    labels=("retain_train",),
    source="generic baseline, also called catastrophic forgetting",
    notebook="05",
    full=FULL,
    grid={"learning_rate": (1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2)},
)
def finetune(task: Task, config: FinetuneConfig) -> None:
    """Minimise the margin loss on retained photos, with the forget identities' columns out of the softmax.

    Nothing pushes the forget identities apart: it shows how much forgetting drift alone brings. Notebook 05.
    """

    def losses(batch: Batch) -> dict[str, Tensor]:
        logits = without_columns(task.head(batch.retain, batch.retain_rows), task.forget_columns)
        return {"retain": F.cross_entropy(logits, batch.retain_rows)}

    run_steps(task, config, losses, sides=retain_side_only)
