"""Loss terms that several methods share: margin on or off, teachers, and anchors for those who stay."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..heads import CosineHead
from .frame import Batch


def retained_names(head: CosineHead, batch: Batch) -> Tensor:
    """Return the cross-entropy of the retained photos' own names, margin on: ordinary training. Notebook 05."""
    return F.cross_entropy(head(batch.retain, batch.retain_rows), batch.retain_rows)


def distillation(batch: Batch, targets: Tensor) -> Tensor:
    """Return the mean of 1 - cos between retained embeddings now and in the original model (both unit length).

    `targets` is the table of `original_points`. Introduced in notebook 08.
    """
    return (1.0 - (batch.retain * rows_of(targets, batch.retain_photos)).sum(dim=1)).mean()


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
