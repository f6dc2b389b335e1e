"""Loss terms that several methods share: margin on or off, teachers, and anchors for those who stay."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.backbones import FaceBackbone
from ..models.embedding import embed
from ..models.heads import CosineHead
from ..models.trunks import points_of
from .loop import Batch, Task
from .rates import PROBED, evenly

ROOM = 0.9  # strangers' mean 1 - cos from which on anchors pull as set; that of drawn faces and of dlib is near 1
CROWDED = 0.01  # below this the points of a network tell nobody apart


def retained_names(head: CosineHead, batch: Batch) -> Tensor:
    """Return the cross-entropy of the retained photos' own names, margin on: ordinary training. Notebook 05."""
    return F.cross_entropy(head(batch.retain, batch.retain_rows), batch.retain_rows)


def distillation(batch: Batch, targets: Tensor) -> Tensor:
    """Return the mean of 1 - cos between retained embeddings now and in the original model (both unit length).

    `targets` (Br, d) are the original embeddings of the same photos. Introduced in notebook 08.
    """
    return (1.0 - (batch.retain * targets).sum(dim=1)).mean()


def anchor_pull(task: Task, photos: np.ndarray) -> float:
    """Return how many times as hard anchors pull as set: once, or more where strangers lie so close together that a
    small turn makes one of them another."""
    return max(1.0, ROOM / max(strangers_apart(task, photos), CROWDED))


def strangers_apart(task: Task, photos: np.ndarray) -> float:
    """Return the mean 1 - cos of two people's photos, of a few of these (1 of a single person); as where rates are
    measured, these looks do not count as processed."""
    some = evenly(photos, PROBED)
    with torch.no_grad():
        points = F.normalize(points_of(task.model.eval(), task.looks.of(some)).float())
    labels = np.asarray(task.splits.faces.labels)[some]
    strangers = torch.from_numpy(labels[:, None] != labels)
    return float((1.0 - points @ points.T)[strangers].mean()) if strangers.any() else 1.0


def rows_of(table: Tensor, photos: object) -> Tensor:
    """Return the rows of a table (all photos, ...) that belong to photos given by index."""
    return table[torch.as_tensor(photos, device=table.device)]


def without_columns(logits: Tensor, columns: Tensor) -> Tensor:
    """Return logits (B, C) in which some identities cannot be named: their columns are minus infinity."""
    return logits.index_fill(1, columns, -torch.inf)


def teacher_divergence(teacher: Tensor, logits: Tensor) -> Tensor:
    """Return KL(teacher || softmax(logits)), summed over identities and averaged over the photos of the batch.

    `teacher` holds probabilities (B, C), `logits` the student's (B, C). A mean over B x C, a common slip, would make
    the loss C times smaller. Introduced in notebook 06.
    """
    return (torch.xlogy(teacher, teacher) - teacher * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


@dataclass
class Teacher:
    """A frozen copy of a face model behind a frozen copy of the head: it sees each plain photo once and remembers it.

    Its looks count as images processed, one per photo that is asked for at least once. Introduced in notebook 06.
    """

    task: Task
    model: FaceBackbone
    head: CosineHead
    table: Tensor
    seen: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, task: Task, model: FaceBackbone | None = None) -> Teacher:
        """Freeze the task's model as it is now, the original before the first step, or take another model."""
        model = copy.deepcopy(task.model if model is None else model).eval().requires_grad_(False)
        head = copy.deepcopy(task.head).requires_grad_(False)
        count = len(task.splits.faces)
        table = torch.zeros(count, model.embedding_dim, device=task.device)
        return cls(task, model, head, table, np.zeros(count, dtype=bool))

    def points(self, photos: np.ndarray) -> Tensor:
        """Return the teacher's embeddings (B, d) of photos by index, L2-normalised."""
        new = np.unique(photos[~self.seen[photos]])
        if len(new):
            points = embed(self.model, self.task.splits.faces, new)
            self.table[torch.as_tensor(new, device=self.table.device)] = points.to(self.table.device)
            self.seen[new] = True
            self.task.images_processed += len(new)
        return rows_of(self.table, photos)

    def logits(self, photos: np.ndarray, scale: float) -> Tensor:
        """Return the teacher's logits (B, C) of photos by index, margin off."""
        return self.head(self.points(photos), scale=scale)

    def names(self, photos: np.ndarray, scale: float) -> Tensor:
        """Return how probable the teacher finds each identity (B, C), margin off."""
        return self.logits(photos, scale).softmax(dim=1)
