"""Classification heads on the sphere: they shape the embeddings in training and are thrown away at retrieval."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..settings import CourseError, one_of

HEADS = ("cosface", "arcface")


class CosineHead(nn.Module):
    """One prototype direction per identity; logits are scaled cosines, less a margin for the true identity.

    Every loss says for itself whether it wants the margin: labels given means margin on, no labels means margin off.
    Introduced in notebook 02.
    """

    kind: str

    def __init__(self, embedding_dim: int, n_classes: int, scale: float, margin: float):
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(n_classes, embedding_dim)))
        self.scale, self.margin = scale, margin

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Return the cosines (B, C) between embeddings (B, d) of any length and the prototypes."""
        return F.normalize(embeddings) @ F.normalize(self.weight).T

    def with_margin(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Return the cosines with the margin applied to each row's own class."""
        raise NotImplementedError

    def forward(self, embeddings: Tensor, labels: Tensor | None = None, scale: float | None = None) -> Tensor:
        """Return logits (B, C): the margin applies only where labels (B,) are given; `scale` overrides the head's."""
        cosines = self.cosines(embeddings)
        if labels is not None:
            cosines = self.with_margin(cosines, labels)
        return (self.scale if scale is None else scale) * cosines


class CosFace(CosineHead):
    """Large margin cosine loss: the true class loses m from its cosine (Wang et al. 2018, eq. 4). Notebook 02."""

    kind = "cosface"

    def __init__(self, embedding_dim: int, n_classes: int, scale: float = 32.0, margin: float = 0.35):
        super().__init__(embedding_dim, n_classes, scale, margin)

    def with_margin(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Return cosines with m subtracted in the column of each row's label."""
        return cosines - self.margin * F.one_hot(labels, cosines.shape[1])


class ArcFace(CosineHead):
    """Additive angular margin: the true class's angle grows by m (Deng et al. 2019, eq. 3). Notebook 02."""

    kind = "arcface"

    def __init__(self, embedding_dim: int, n_classes: int, scale: float = 32.0, margin: float = 0.5):
        super().__init__(embedding_dim, n_classes, scale, margin)

    def with_margin(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Return cosines with m radians added to the angle in the column of each row's label."""
        true = cosines.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        # beyond pi the cosine would rise again: there the angle stays at pi
        widened = torch.cos((torch.acos(true) + self.margin).clamp(max=torch.pi))
        return cosines.scatter(1, labels[:, None], widened)


def make_head(kind: str, embedding_dim: int, n_classes: int, **options: float) -> CosineHead:
    """Build a CosFace or ArcFace head with random prototypes; raises CourseError for another kind. Notebook 02."""
    one_of(kind, HEADS, "head")
    return {"cosface": CosFace, "arcface": ArcFace}[kind](embedding_dim, n_classes, **options)


def head_from_centroids(kind: str, embeddings: Tensor, classes: Tensor, n_classes: int, **options: float) -> CosineHead:
    """Build a head whose prototypes are the mean directions of embeddings (N, d) per class (N,) int64. Notebook 02.

    Raises CourseError when a class has no photo: its prototype would be a meaningless direction.
    """
    if torch.bincount(classes.cpu(), minlength=n_classes).min() == 0:
        raise CourseError(f"Some of the {n_classes} classes have no photo, so they have no centroid.")
    points = F.normalize(embeddings.float().cpu())
    sums = torch.zeros(n_classes, points.shape[1]).index_add_(0, classes.cpu(), points)
    head = make_head(kind, embeddings.shape[1], n_classes, **options)
    with torch.no_grad():
        head.weight.copy_(F.normalize(sums))
    return head


@torch.no_grad()
def cleared(head: CosineHead, rows: Tensor, others: Tensor) -> CosineHead:
    """Return a copy of a head in which some rows (int64), portraits that they are, hold the mean direction of others.

    Introduced in notebook 10.
    """
    copied = copy.deepcopy(head)
    copied.weight[rows] = F.normalize(F.normalize(copied.weight[others]).mean(dim=0), dim=0)
    return copied
