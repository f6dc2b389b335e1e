"""Unlearning by dispersion: pull one person's own photos apart and hold everybody else where they were."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...settings import one_of
from ..dispersion import DISPERSIONS, dispersion_loss
from ..loop import Batch, Task, run_steps
from ..losses import Teacher, anchor_pull, distillation
from ..registry import FULL, StepConfig, method

ABOUT = {"needs": ("forget",), "optional": ("retain_train",), "labels": ("forget",), "notebook": "08", "full": FULL}
PAPER = "our reading of arXiv 2512.13317 (Zakharov 2025)"
CAVEAT = "the paper's exact loss could not be verified"
GRID = {"learning_rate": (1e-3, 2e-3, 3e-3, 5e-3), "retain_weight": (3.0, 5.0)}


@dataclass(frozen=True)
class DispersionConfig(StepConfig):
    """`dispersion_weight` scales the forget side, `retain_weight` the distillation that holds the others."""

    retain_per_step: int = 64
    dispersion_weight: float = 1.0
    retain_weight: float = 3.0


@dataclass(frozen=True)
class UniformConfig(DispersionConfig):
    """All pairs push alike, far ones as well, so the others are held harder."""

    learning_rate: float = 5e-3
    retain_weight: float = 5.0


@dataclass(frozen=True)
class HardConfig(DispersionConfig):
    """Only the nearest pairs push."""

    learning_rate: float = 3e-3


@dataclass(frozen=True)
class LogSumExpConfig(DispersionConfig):
    """`beta` says how much the closest pairs count: near 0 all alike, very large only the closest.

    `kind` puts another loss of the family in the place of log-sum-exp; that one has no beta.
    """

    learning_rate: float = 5e-3
    beta: float = 10.0
    kind: str = "lse"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.kind, DISPERSIONS, "dispersion")


@dataclass(frozen=True)
class AloneConfig(StepConfig):
    """Forget photos and nothing else: no retained photo, no teacher, no head."""

    steps: int = 25
    learning_rate: float = 3e-4


def disperse(task: Task, config: DispersionConfig, kind: str, **options: float) -> None:
    """Minimise a dispersion loss on forget photos plus the distillation of retained ones; no head is used."""
    teacher, anchor = Teacher.of(task), 0.0
    if config.retain_per_step:
        anchor = config.retain_weight * anchor_pull(task, task.retain_train_photos)

    def losses(batch: Batch) -> dict[str, Tensor]:
        spread = dispersion_loss(kind, batch.forget, batch.forget_labels, **options)
        terms = {"dispersion": config.dispersion_weight * spread}
        if len(batch.retain):
            originals = teacher.points(batch.retain_photos)
            terms["retain"] = anchor * distillation(batch, originals)
        return terms

    run_steps(task, config, losses)


@method(
    "dispersion_uniform", UniformConfig, title="Dispersion, uniform", source=PAPER, caveat=CAVEAT, grid=GRID, **ABOUT
)
def dispersion_uniform(task: Task, config: DispersionConfig) -> None:
    """Minimise the mean same-identity cosine: every pair weighs the same. Introduced in notebook 08."""
    disperse(task, config, "uniform")


@method("dispersion_hard", HardConfig, title="Dispersion, hard", source=PAPER, caveat=CAVEAT, grid=GRID, **ABOUT)
def dispersion_hard(task: Task, config: HardConfig) -> None:
    """Minimise each photo's cosine to its nearest same-identity photo. Introduced in notebook 08."""
    disperse(task, config, "hard")


@method(
    "dispersion",
    LogSumExpConfig,
    title="Dispersion, log-sum-exp",
    source="the bridge between both readings of arXiv 2512.13317, with feature distillation",
    grid=GRID,
    **ABOUT,
)
def dispersion(task: Task, config: LogSumExpConfig) -> None:
    """Minimise the log-sum-exp of same-identity cosines and distil the retained photos. Notebook 08."""
    disperse(task, config, config.kind, **({"beta": config.beta} if config.kind == "lse" else {}))


# ------------------------------------------------------------------------------------------ the paper's own setting

ALONE_GRID = {"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3), "steps": (25, 50)}
ALONE = ABOUT | {"optional": (), "grid": ALONE_GRID, "source": PAPER, "caveat": CAVEAT}


def disperse_alone(task: Task, config: AloneConfig, kind: str) -> None:
    """Minimise a dispersion loss on forget photos, and nothing else."""
    run_steps(task, config, lambda batch: {"dispersion": dispersion_loss(kind, batch.forget, batch.forget_labels)})


@method("dispersion_uniform_alone", AloneConfig, title="Dispersion alone, uniform", **ALONE)
def dispersion_uniform_alone(task: Task, config: AloneConfig) -> None:
    """Minimise the mean same-identity cosine of forget photos: mean c_ij, no retained term. Notebook 08."""
    disperse_alone(task, config, "uniform")


@method("dispersion_hard_alone", AloneConfig, title="Dispersion alone, hard", **ALONE)
def dispersion_hard_alone(task: Task, config: AloneConfig) -> None:
    """Minimise each forget photo's cosine to its nearest other: mean max_j c_ij, no retained term. Notebook 08."""
    disperse_alone(task, config, "hard")
