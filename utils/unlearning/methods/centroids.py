"""Unlearning by centroids: move whole groups of embeddings to other places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...settings import CourseError
from ..loop import Batch, Task, run_steps
from ..losses import Teacher, anchor_pull, distillation, rows_of
from ..registry import FULL, LogitConfig, StepConfig, method


def pull(points: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of 1 - cos between unit embeddings (B, d) and their unit targets. Introduced in notebook 06."""
    return (1.0 - (points * targets).sum(dim=1)).mean()


# ----------------------------------------------------------------------------------------------------------- DUCK


@dataclass(frozen=True)
class DuckConfig(LogitConfig):
    """`pull_weight` and `retain_weight` are the paper's lambdas; its temperature T is the head's scale / forget_scale.

    Finding the centroids takes one look at every training photo, so few steps are left in the quick budget.
    """

    steps: int = 20
    learning_rate: float = 3e-3
    retain_per_step: int = 25
    trainable: str = "both"
    pull_weight: float = 1.0
    retain_weight: float = 0.7


def retained_centroids(task: Task, points: Tensor) -> Tensor:
    """Return the mean directions (K, d) of retained identities; `points` (N, d) are of `task.retain_train_photos`."""
    labels = task.splits.faces.labels[task.retain_train_photos]
    people = torch.from_numpy(np.searchsorted(task.splits.retain_train, labels)).to(points.device)
    sums = torch.zeros(len(task.splits.retain_train), points.shape[1], device=points.device)
    return F.normalize(sums.index_add_(0, people, points))


def duck_targets(task: Task) -> Tensor:
    """Return a table (all photos, d): for every forget photo the kept centroid that the original model puts nearest.

    One row per photo, whatever the order of the batches. Introduced in notebook 06.
    """
    teacher = Teacher.of(task)
    centroids = retained_centroids(task, teacher.points(task.retain_train_photos))
    nearest = (teacher.points(task.forget_photos) @ centroids.T).argmax(dim=1)
    table = torch.zeros_like(teacher.table)
    table[torch.as_tensor(task.forget_photos, device=table.device)] = centroids[nearest]
    return table


@method(
    "duck",
    DuckConfig,
    title="DUCK",
    needs=("forget", "retain_train"),
    labels=("forget", "retain_train"),
    source="Cotogni et al. 2023 (arXiv 2312.02052)",
    notebook="06",
    full=FULL,
    grid={"learning_rate": (1e-3, 2e-3, 3e-3, 5e-3), "retain_weight": (0.7, 1.4)},
    caveat="a fixed number of steps instead of the paper's stop at a forget accuracy below 1 %",
)
def duck(task: Task, config: DuckConfig) -> None:
    """Pull every forget photo to the nearest centroid of a retained identity: lambda1 mean(1 - cos(z, centroid)), while
    lambda2 CE(head / T), margin off, keeps the retained names and trains the head too.

    The targets of one person are a few look-alikes: the cluster breaks into a few compact pieces inside other
    people's clusters. Introduced in notebook 06.
    """
    targets = duck_targets(task)

    def losses(batch: Batch) -> dict[str, Tensor]:
        logits = task.head(batch.retain, scale=config.forget_scale)
        return {
            "forget": config.pull_weight * pull(batch.forget, rows_of(targets, batch.forget_photos)),
            "retain": config.retain_weight * F.cross_entropy(logits, batch.retain_rows),
        }

    run_steps(task, config, losses)


# ----------------------------------------------------------------------------------------------------------- CURE


@dataclass(frozen=True)
class CureConfig(StepConfig):
    """`clusters` of forget photos are found without names; 0 means as many as people, and at least two.

    `contrast_weight` and `temperature` set the contrastive term, `retain_weight` the distillation.
    """

    learning_rate: float = 5e-3
    retain_per_step: int = 30
    clusters: int = 0
    contrast_weight: float = 1.0
    temperature: float = 0.1
    retain_weight: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clusters == 1:
            raise CourseError("CURE moves clusters onto each other and needs at least 2 (or 0: one per person).")
        if self.temperature <= 0:
            raise CourseError(f"temperature must be above 0, not {self.temperature}.")


def cluster(points: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the unit centroids (K, d) of K-means on unit embeddings (N, d) and each one's cluster (N,) int64."""
    if not 2 <= count <= len(points):
        raise CourseError(f"CURE wants {count} clusters out of {len(points)} forget photos: choose from 2 up to those.")
    from sklearn.cluster import KMeans  # here: its import takes a second, and every notebook imports the methods

    found = KMeans(count, n_init=4, random_state=seed).fit(points.cpu().numpy())
    centroids = torch.from_numpy(found.cluster_centers_).to(points)
    return F.normalize(centroids), torch.from_numpy(found.labels_).long().to(points.device)


def farthest_clusters(centroids: Tensor) -> Tensor:
    """Return for each unit centroid (K, d) the index (K,) of the one farthest from it. Introduced in notebook 06."""
    return (centroids @ centroids.T).argmin(dim=1)


def info_nce(points: Tensor, centroids: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return the mean of -log softmax(cos / temperature) at each embedding's wanted centroid (B,) int64."""
    return F.cross_entropy(points @ centroids.T / temperature, wanted)


@method(
    "cure_like",
    CureConfig,
    title="CURE-like",
    needs=("forget", "retain_train"),
    source="our reading of Shivam et al. 2025 (arXiv 2509.19562), known from its abstract and a review; not read: code",
    notebook="06",
    full=FULL,
    grid={"learning_rate": (1e-3, 2e-3, 3e-3, 5e-3), "retain_weight": (3.0, 5.0)},
    caveat="CURE-like: the paper's exact losses, weights and cluster counts could not be verified; its centroids are "
    "renewed during the run, these are the original model's throughout",
)
def cure_like(task: Task, config: CureConfig) -> None:
    """Pull each forget photo to the centroid farthest from its own cluster: mean(1 - cos) + a contrastive term over
    the centroids + distillation of the retained photos; no names and no head.

    Whole clusters trade places, so neighbours stay neighbours. Introduced in notebook 06.
    """
    teacher, forget = Teacher.of(task), task.forget_photos
    count = config.clusters or max(2, len(task.splits.forget))
    centroids, own = cluster(teacher.points(forget), count, task.seed)
    anchor = config.retain_weight * anchor_pull(task, task.retain_train_photos)
    wanted = torch.full((len(task.splits.faces),), -1, dtype=torch.int64, device=task.device)
    wanted[torch.as_tensor(forget, device=task.device)] = farthest_clusters(centroids)[own]

    def losses(batch: Batch) -> dict[str, Tensor]:
        goals = rows_of(wanted, batch.forget_photos)
        contrast = info_nce(batch.forget, centroids, goals, config.temperature)
        return {
            "forget": pull(batch.forget, centroids[goals]),
            "contrast": config.contrast_weight * contrast,
            "retain": anchor * distillation(batch, teacher.points(batch.retain_photos)),
        }

    run_steps(task, config, losses)
