"""Unlearning by teachers: imitate one model here and another one there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.backbones import FaceBackbone, make_backbone
from ...models.embedding import embed
from ...models.heads import CosineHead
from ...settings import CourseError
from ..loop import Batch, Task, first_photos, run_steps, set_batchnorm, snapshot
from ..losses import Teacher, retained_names, teacher_divergence, without_columns
from ..registry import FULL, LogitConfig, method


def share_named(head: CosineHead, points: Tensor, rows: Tensor) -> float:
    """Return the share of embeddings (B, d) that lie nearest to their own prototype, rows (B,) int64. Notebook 06."""
    return (head(points).argmax(dim=1) == rows).float().mean().item()


def name_accuracy(task: Task, photos: np.ndarray) -> float:
    """Return the share of photos that the task's model and head name rightly now. Introduced in notebook 06."""
    points = embed(task.model, task.splits.faces, photos).to(task.device)
    task.images_processed += len(photos)
    return share_named(task.head, points, task.head_rows(photos))


# ---------------------------------------------------------------------------------------------------- bad teacher


@dataclass(frozen=True)
class BadTeacherConfig(LogitConfig):
    """`retain_weight` scales the imitation of the good teacher; in the paper the numbers of photos decide that."""

    learning_rate: float = 3e-3
    retain_per_step: int = 30
    retain_weight: float = 1.0


def untrained_backbone(task: Task) -> FaceBackbone:
    """Return a backbone of the task's kind with random weights, the same for the same task.seed. Notebook 06."""
    with torch.random.fork_rng(devices=[]):
        # Not task.seed itself: training may have begun there, and the bad teacher would be the good one's infancy.
        torch.random.default_generator.manual_seed(task.seed + 1)
        return make_backbone(task.model.name, "none").to(task.device)


@method(
    "bad_teacher",
    BadTeacherConfig,
    title="Bad teacher",
    needs=("forget", "retain_train"),
    source="Chundawat et al., AAAI 2023 (arXiv 2205.08096)",
    notebook="06",
    full=FULL,
    grid={"learning_rate": (1e-3, 2e-3, 3e-3, 5e-3), "retain_weight": (1.0, 5.0)},
)
def bad_teacher(task: Task, config: BadTeacherConfig) -> None:
    """Minimise KL(bad || student) on forget and KL(good || student) on retained photos, margins off.

    The bad teacher has random weights and puts all faces close together: about one target for all, so the cluster
    moves there and stays a cluster. Introduced in notebook 06.
    """
    good, bad = Teacher.of(task), Teacher.of(task, untrained_backbone(task))
    scale = config.forget_scale

    def losses(batch: Batch) -> dict[str, Tensor]:
        forget = teacher_divergence(bad.names(batch.forget_photos, scale), task.head(batch.forget, scale=scale))
        retain = teacher_divergence(good.names(batch.retain_photos, scale), task.head(batch.retain, scale=scale))
        return {"forget": forget, "retain": config.retain_weight * retain}

    run_steps(task, config, losses)


# ---------------------------------------------------------------------------------------------------------- SCRUB


@dataclass(frozen=True)
class ScrubConfig(LogitConfig):
    """A step sees one side only; in the first `max_share` of them every second one is a max step.

    `gamma` weighs the retained names, `alpha` the retained teacher. With `rewind`, every `rewind_every` steps the
    model is asked for the names of a few forget photos, and the run returns the weights whose error was nearest to
    `rewind_error` (the last of them). The reference is the retrained model's error: it has no name for them, so 1.
    """

    steps: int = 80
    learning_rate: float = 3e-3
    retain_per_step: int = 32
    gamma: float = 1.0
    alpha: float = 0.5
    max_share: float = 0.5
    rewind: bool = True
    rewind_every: int = 10
    rewind_error: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_share", "rewind_error"):
            if not 0 <= getattr(self, name) <= 1:
                raise CourseError(f"{name} is a share from 0 to 1, not {getattr(self, name)}.")
        if self.rewind and self.rewind_every < 1:
            raise CourseError("rewind_every must be at least 1; to keep the last weights, set rewind to False.")
        if self.rewind and self.check_every:
            raise CourseError("SCRUB can rewind or stop early, not both: set rewind to False or check_every to 0.")


@dataclass
class Rewind:
    """SCRUB+R: among the weights passed on the way, those whose error on forget photos is nearest to a reference.

    The paper takes the final model's error on held-out photos of the forgotten as reference. Such photos belong to the
    evaluation here, so the reference is a stated number and the error is that of training photos. The untouched
    model is no candidate. Introduced in notebook 06.
    """

    task: Task
    config: ScrubConfig
    first_entry: int
    errors: dict[int, float] = field(default_factory=dict)
    nearest: float = math.inf
    kept: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None

    def after_step(self, step: int) -> None:
        """Measure the error every few steps and after the last one; keep the weights if none were nearer."""
        if (step + 1) % self.config.rewind_every and step + 1 < self.config.steps:
            return
        error = 1.0 - name_accuracy(self.task, first_photos(self.task.splits, self.task.splits.forget))
        set_batchnorm(self.task.model, self.config.batchnorm)
        self.errors[step] = error
        distance = abs(error - self.config.rewind_error)
        if distance <= self.nearest:
            self.nearest, self.kept = distance, (snapshot(self.task.model), snapshot(self.task.head))

    def restore(self) -> None:
        """Go back to the kept weights and note the errors in the history."""
        for step, error in self.errors.items():
            self.task.history[self.first_entry + step]["name_error"] = error
        if self.kept is not None:
            self.task.model.load_state_dict(self.kept[0])
            self.task.head.load_state_dict(self.kept[1])


def scrub_turns(config: ScrubConfig, step: int) -> tuple[bool, bool]:
    """Say whose turn a step is: forget photos only (max) or retained photos only (min).

    A min step comes first: at the start the student is its teacher, and the divergence to climb has no slope.
    """
    is_max = step % 2 == 1 and step < config.max_share * config.steps
    return is_max, not is_max


@method(
    "scrub",
    ScrubConfig,
    title="SCRUB with rewind",
    needs=("forget", "retain_train"),
    labels=("forget", "retain_train"),
    source="Kurmanji et al., NeurIPS 2023 (arXiv 2302.09880)",
    notebook="06",
    full={"steps": 480, "rewind_every": 40},
    grid={"learning_rate": (1e-3, 2e-3, 3e-3, 5e-3), "alpha": (0.1, 0.5)},
    caveat="the rewind's reference is a stated error on training photos, not the error on held-out photos; "
    "the authors alternate whole epochs, max first, here single steps alternate, min first",
)
def scrub(task: Task, config: ScrubConfig) -> None:
    """Take turns: minimise gamma CE + alpha T^2 KL(original || student) on retained photos, maximise T^2 KL on forget
    photos, with T = the head's scale / forget_scale and the margin on in the CE alone.

    A max step names no place to go to: one person's photos leave much alike, and the cluster opens partly. Notebook 06.
    """
    teacher, scale = Teacher.of(task), config.forget_scale
    heat = (task.head.scale / scale) ** 2

    def divergence(points: Tensor, photos: np.ndarray) -> Tensor:
        return heat * teacher_divergence(teacher.names(photos, scale), task.head(points, scale=scale))

    def losses(batch: Batch) -> dict[str, Tensor]:
        if len(batch.forget):
            return {"forget": -divergence(batch.forget, batch.forget_photos)}
        return {
            "retain": config.gamma * retained_names(task.head, batch),
            "teacher": config.alpha * divergence(batch.retain, batch.retain_photos),
        }

    rewind = Rewind(task, config, first_entry=len(task.history))
    options = {"after_step": rewind.after_step} if config.rewind else {}
    run_steps(task, config, losses, sides=lambda step: scrub_turns(config, step), **options)
    rewind.restore()


# ---------------------------------------------------------------------------------------------------------- LoTUS


@dataclass(frozen=True)
class LotusConfig(LogitConfig):
    """`sharpness` is the paper's alpha: how fast targets lose their names while the model still knows the forgotten.

    Its accuracy on all forget training photos is taken anew every `accuracy_every` steps.
    """

    steps: int = 40
    learning_rate: float = 3e-3
    retain_per_step: int = 30
    sharpness: float = 32.0
    retain_weight: float = 1.0
    accuracy_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accuracy_every < 1:
            raise CourseError(f"accuracy_every must be at least 1, not {self.accuracy_every}.")


def lotus_temperature(sharpness: float, accuracy: float) -> float:
    """Return tau = exp(sharpness x accuracy), the accuracy (0 to 1) not rounded; capped where float32 ends."""
    return math.exp(min(sharpness * accuracy, 80.0))


def gumbel_noise(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard Gumbel noise of the shape of some logits; adding it makes their argmax a random draw."""
    return -torch.empty(logits.shape).exponential_(generator=generator).log().to(logits.device)


@method(
    "lotus",
    LotusConfig,
    title="LoTUS",
    needs=("forget", "retain_train"),
    labels=("forget",),
    source="Spartalis et al., CVPR 2025 (arXiv 2503.18314)",
    notebook="06",
    full=FULL,
    grid={"learning_rate": (3e-4, 1e-3, 2e-3, 3e-3), "sharpness": (8.0, 32.0)},
    caveat="the arXiv number could not be verified",
)
def lotus(task: Task, config: LotusConfig) -> None:
    """Minimise the cross-entropy to the original's own names blurred by noise: softmax((l0 + g) / tau) on forget
    photos, one name drawn from softmax(l0) on retained ones; tau = exp(sharpness x (accuracy on F - 0)).

    A hot target is the same for all: a point as far from every prototype, so the cluster goes there together; once
    the accuracy is near zero, tau is near one and the targets hold names again. Introduced in notebook 06.
    """
    teacher, scale, forget = Teacher.of(task), config.forget_scale, task.forget_photos
    # Before the first step the student is the teacher, whose embeddings are needed anyway.
    accuracy = share_named(task.head, teacher.points(forget), task.head_rows(forget))
    tau = lotus_temperature(config.sharpness, accuracy)

    def losses(batch: Batch) -> dict[str, Tensor]:
        noisy = [teacher.logits(photos, scale) for photos in (batch.forget_photos, batch.retain_photos)]
        noisy = [logits + gumbel_noise(logits, task.generator) for logits in noisy]
        blurred, drawn = (noisy[0] / tau).softmax(dim=1), noisy[1].argmax(dim=1)
        return {
            "forget": F.cross_entropy(task.head(batch.forget, scale=scale), blurred),
            "retain": config.retain_weight * F.cross_entropy(task.head(batch.retain, scale=scale), drawn),
        }

    def cool(step: int) -> None:
        nonlocal tau
        if (step + 1) % config.accuracy_every == 0 and step + 1 < config.steps:
            tau = lotus_temperature(config.sharpness, name_accuracy(task, forget))
            set_batchnorm(task.model, config.batchnorm)

    run_steps(task, config, losses, after_step=cool)


# --------------------------------------------------------------------------------------------------------- DELETE


@dataclass(frozen=True)
class DeleteConfig(LogitConfig):
    """Forget photos only: nothing holds the others but the remaining names, so the full profile stops early."""

    learning_rate: float = 1e-4
    forget_scale: float = 8.0


def masked_names(teacher: Teacher, photos: np.ndarray, scale: float) -> Tensor:
    """Return the teacher's probabilities (B, C) with every forget identity struck out; each row sums to 1."""
    return without_columns(teacher.logits(photos, scale), teacher.task.forget_columns).softmax(dim=1)


@method(
    "delete",
    DeleteConfig,
    title="DELETE",
    needs=("forget",),
    labels=("forget",),
    source="Zhou et al., CVPR 2025 (arXiv 2503.23751)",
    notebook="06",
    full=FULL | {"check_every": 10},
    grid={"learning_rate": (1e-4, 2e-4, 3e-4, 5e-4), "forget_scale": (8.0, 16.0)},
    caveat="the authors strike out the photo's own name alone; here all forgotten names are struck out, "
    "which is the same for one person",
)
def delete(task: Task, config: DeleteConfig) -> None:
    """Minimise KL(t || student) on forget photos, t being the original's softmax without the forget names.

    The photos of one person look like the same few others, so they share a target: the cluster leaves its prototype
    and keeps its inner order. Introduced in notebook 06.
    """
    teacher, scale = Teacher.of(task), config.forget_scale

    def losses(batch: Batch) -> dict[str, Tensor]:
        targets = masked_names(teacher, batch.forget_photos, scale)
        return {"forget": teacher_divergence(targets, task.head(batch.forget, scale=scale))}

    run_steps(task, config, losses)
