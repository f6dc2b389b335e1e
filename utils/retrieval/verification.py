"""Same person or not: same-identity cosines, and acceptance at a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..settings import CourseError, plain
from .similarity import Array, as_labels, chunks, cosine_matrix, mean_or_nan, require_same_width, unit_rows

PAIR_GRID = 2**20  # bins per unit of cosine in a PairHistogram


# ---------------------------------------------------------------------------------------------------------------------
# Same-identity cosines: how compact is a person's cluster?
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compactness:
    """Same-identity cosines per identity, each (I,); the properties are their means over identities.

    `mean_cosines` averages over an identity's photo pairs, `nearest_cosines` over its photos, each compared with the
    nearest other one; `n_skipped` identities have a single photo. Introduced in notebook 03.
    """

    labels: np.ndarray
    mean_cosines: np.ndarray
    nearest_cosines: np.ndarray
    n_skipped: int

    @property
    def mean_cosine(self) -> float:
        """Mean same-identity cosine: the compactness score, macro-averaged over identities."""
        return mean_or_nan(self.mean_cosines)

    @property
    def nearest_cosine(self) -> float:
        """Nearest same-identity cosine: what a search would find, macro-averaged over identities."""
        return mean_or_nan(self.nearest_cosines)


def compactness(
    embeddings: Array,
    labels: Array | Sequence,
    *,
    chunk_size: int | None = None,
    device: str | torch.device = "cpu",
) -> Compactness:
    """Return the same-identity cosines of unit rows (N, d), memory bounded by `chunk_size`.

    Identities with a single photo are skipped and counted. Raises CourseError for unusable embeddings or labels.
    Introduced in notebook 03.
    """
    rows = unit_rows(embeddings, device=device)
    people, inverse, counts = np.unique(as_labels(labels, len(rows), "photo"), return_inverse=True, return_counts=True)
    groups = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
    values = [
        _identity_cosines(rows[torch.from_numpy(group).to(rows.device)], chunk_size)
        for group in groups
        if len(group) > 1
    ]
    means, nearest = np.array(values, dtype=float).reshape(-1, 2).T
    return Compactness(people[counts > 1], means, nearest, int((counts == 1).sum()))


def _identity_cosines(rows: torch.Tensor, chunk_size: int | None) -> tuple[float, float]:
    """Return the mean cosine over pairs of rows and the mean over rows of the highest cosine to another row."""
    total, nearest, n = 0.0, 0.0, len(rows)
    for chunk in chunks(n, n, chunk_size):
        cosines = cosine_matrix(rows[chunk], rows)
        cosines.diagonal(chunk.start).zero_()
        total += float(cosines.double().sum())
        cosines.diagonal(chunk.start).fill_(-2.0)
        nearest += float(cosines.max(dim=1).values.double().sum())
    return total / (n * (n - 1)), nearest / n


# ---------------------------------------------------------------------------------------------------------------------
# Verification: same person or not, at a threshold
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairHistogram:
    """Counts of the cosines of all photo pairs: `genuine` of one person, `impostor` of two, int64 (2²¹ + 1,).

    Bins are 2⁻²⁰ wide: bin b holds the cosines from b/2²⁰ - 1. Introduced in notebook 03.
    """

    genuine: np.ndarray
    impostor: np.ndarray

    @property
    def cosines(self) -> np.ndarray:
        """Lower edge of every bin."""
        return np.arange(len(self.impostor)) / PAIR_GRID - 1


def pair_histogram(
    embeddings: Array,
    labels: Array | Sequence,
    *,
    chunk_size: int | None = None,
    device: str | torch.device = "cpu",
) -> PairHistogram:
    """Count the cosines of all N(N-1)/2 pairs of unit rows (N, d), memory bounded by `chunk_size` × N.

    Raises CourseError for unusable embeddings or labels. Introduced in notebook 03.
    """
    rows = unit_rows(embeddings, device=device)
    people = np.unique(as_labels(labels, len(rows), "photo"), return_inverse=True)[1]
    people = torch.from_numpy(people).to(rows.device)
    counts = torch.zeros(2, 2 * PAIR_GRID + 1, dtype=torch.int64)
    for chunk in chunks(len(rows), len(rows), chunk_size):
        later = slice(chunk.start, len(rows))  # each pair once: columns at or after this chunk's first row
        bins = ((cosine_matrix(rows[chunk], rows[later]).double() + 1) * PAIR_GRID).long()
        once = torch.ones_like(bins, dtype=torch.bool).triu_(1)
        same = people[chunk, None] == people[None, later]
        for kind, mask in enumerate((once & same, once & ~same)):
            counts[kind] += torch.bincount(bins[mask], minlength=counts.shape[1]).cpu()
    return PairHistogram(*counts.numpy())


class TarAtFar(NamedTuple):
    """True accept rate at a threshold that lets at most a chosen share of impostor pairs through. Notebook 03."""

    tar: float
    threshold: float
    achieved_far: float


def tar_at_far(
    embeddings: Array,
    labels: Array | Sequence,
    far: float = 1e-3,
    *,
    device: str | torch.device = "cpu",
) -> TarAtFar:
    """Return the true accept rate at the lowest threshold whose false accept rate is at most `far`.

    A pair is accepted if its cosine reaches the threshold. The true rate is over all same-identity pairs of unit rows
    (N, d), the false rate over all pairs of two identities. Raises CourseError if there are fewer than 1/far of the
    latter or none of the former. Introduced in notebook 03.
    """
    if not isinstance(far := plain(far), int | float) or not 0 < far < 1:
        raise CourseError(f"far is {far!r}; it is a share of impostor pairs and must lie between 0 and 1.")
    pairs = pair_histogram(embeddings, labels, device=device)
    n_genuine, n_impostor = int(pairs.genuine.sum()), int(pairs.impostor.sum())
    if not n_impostor or far < 1 / n_impostor:
        raise CourseError(
            f"{n_impostor} impostor pairs cannot show a false accept rate of {far:g}; "
            f"take at least {math.ceil(1 / far)} pairs or a larger far."
        )
    if not n_genuine:
        raise CourseError("No identity has two photos; a true accept rate needs at least one same-identity pair.")
    # accepted[b] = impostor pairs in bin b or above; one more bin stands for "accept nothing".
    accepted = np.append(np.cumsum(pairs.impostor[::-1])[::-1], 0)
    place = int(np.argmax(accepted / n_impostor <= far))
    tar = float(pairs.genuine[place:].sum() / n_genuine)
    return TarAtFar(tar, place / PAIR_GRID - 1, float(accepted[place] / n_impostor))


def true_accept_rate(
    embeddings: Array, labels: Array | Sequence, threshold: float, *, device: str | torch.device = "cpu"
) -> float:
    """Return the share of same-identity pairs whose cosine reaches a threshold.

    NaN if there is no such pair or the threshold is not finite. Introduced in notebook 03.
    """
    if not isinstance(threshold := plain(threshold), int | float):
        raise CourseError(f"The threshold is {threshold!r}; it is a cosine, and must be a number.")
    if not math.isfinite(threshold):
        return math.nan
    pairs = pair_histogram(embeddings, labels, device=device)
    accepted, n_pairs = int(pairs.genuine[pairs.cosines >= threshold].sum()), int(pairs.genuine.sum())
    return accepted / n_pairs if n_pairs else math.nan


def lookalike_fmr(
    forget_query: Array,
    retain_gallery: Array,
    threshold: float,
    *,
    chunk_size: int | None = None,
    device: str | torch.device = "cpu",
) -> float:
    """Return the share of forgotten people's photos (Q, d) that now accuse somebody else.

    A photo accuses somebody if its best cosine to any retained person's gallery photo (N, d) reaches the threshold; the
    share is NaN if the threshold is not finite. Raises CourseError for unusable embeddings. Introduced in notebook 03.
    """
    query = unit_rows(forget_query, "query embeddings", device)
    gallery = unit_rows(retain_gallery, "gallery embeddings", device)
    require_same_width(query.shape[1], gallery.shape[1])
    if not math.isfinite(threshold):
        return math.nan
    parts = chunks(len(query), len(gallery), chunk_size)
    best = torch.cat([cosine_matrix(query[chunk], gallery).max(dim=1).values for chunk in parts])
    return float((best.double() >= threshold).double().mean())
