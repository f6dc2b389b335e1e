"""How finding is scored: R@k, mean average precision, and the rank of the first right photo.

Every score here rests on two decisions, besides those of utils.retrieval.similarity, made once:

* **Ties are never luck.** A collapsed model gives every photo the same embedding; a sort would then put a correct photo
  first by accident. Photos with the same cosine share one place: average precision groups them (as scikit-learn does),
  and R@k and the first rank are expected values over a random order within the tie. A collapsed model thus has the R@k
  of chance, and as mAP the share of right photos in the gallery, which lies below the mAP of a random order.
* **No photo finds itself.** A query that is also in the gallery is taken out of it, by photo id.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..settings import CourseError, whole_number
from .similarity import (
    Array,
    as_labels,
    chunks,
    cosine_matrix,
    mean_or_nan,
    require_same_kind,
    require_same_width,
    unit_rows,
)

FEW_RELEVANT = 64  # up to here counting by comparison beats sorting the whole row


@dataclass(frozen=True)
class RetrievalScores:
    """Scores per query: `average_precision`, `first_rank` and `recall[k]`, each (Q,) float64.

    They are NaN where the gallery holds no photo of the query's identity; `r1`, `r5` and `map` are means over the
    scored queries. Introduced in notebook 03.
    """

    labels: np.ndarray
    average_precision: np.ndarray
    first_rank: np.ndarray
    recall: dict[int, np.ndarray]

    @property
    def scored(self) -> np.ndarray:
        """True (Q,) for the queries that had something to find."""
        return ~np.isnan(self.average_precision)

    @property
    def n_skipped(self) -> int:
        """Number of queries without a photo of their identity in the gallery: counted, not scored."""
        return int((~self.scored).sum())

    @property
    def r1(self) -> float:
        """Share of queries whose nearest gallery photo shows the right person."""
        return self.recall_at(1)

    @property
    def r5(self) -> float:
        """Share of queries with the right person among the five nearest gallery photos."""
        return self.recall_at(5)

    @property
    def map(self) -> float:
        """Mean over queries of the average precision of the full ranking."""
        return mean_or_nan(self.average_precision[self.scored])

    def recall_at(self, k: int) -> float:
        """Share of queries with the right person among the k nearest; raises CourseError if k was not asked for."""
        k = whole_number(k, "k", 1)
        if k not in self.recall:
            raise CourseError(f"R@{k} was not computed; call retrieval_scores with ks that include {k}.")
        return mean_or_nan(self.recall[k][self.scored])

    def per_identity(self) -> dict[int | str, dict[str, float]]:
        """Return {label: {'n', 'map', 'first_rank', 'r1', ...}}, each the mean over that identity's scored queries."""
        columns = {"map": self.average_precision, "first_rank": self.first_rank}
        columns |= {f"r{k}": hits for k, hits in self.recall.items()}
        result = {}
        for label in np.unique(self.labels[self.scored]):
            mine = self.scored & (self.labels == label)
            result[label.item()] = {"n": int(mine.sum())} | {name: mean_or_nan(v[mine]) for name, v in columns.items()}
        return result

    def macro(self) -> dict[str, float]:
        """Return the same scores averaged over identities, so that a much photographed person counts once."""
        people = list(self.per_identity().values())
        names = ["map", "first_rank", *(f"r{k}" for k in self.recall)]
        return {name: mean_or_nan(np.array([person[name] for person in people])) for name in names}


def retrieval_scores(
    query: Array,
    query_labels: Array | Sequence,
    gallery: Array,
    gallery_labels: Array | Sequence,
    *,
    query_ids: Array | Sequence | None = None,
    gallery_ids: Array | Sequence | None = None,
    ks: Sequence[int] | int = (1, 5),
    chunk_size: int | None = None,
    device: str | torch.device = "cpu",
) -> RetrievalScores:
    """Rank the whole gallery (N, d) by cosine for each query (Q, d) and score the ranking.

    AP is the mean, over a query's relevant photos, of (relevant photos at or above its cosine) / (all photos at or
    above it). With photo ids, a query's own photo is left out. Memory is bounded by `chunk_size` × N cosines. Raises
    CourseError for unusable embeddings, labels, ids or ks. Introduced in notebook 03.
    """
    query, gallery = unit_rows(query, "query embeddings", device), unit_rows(gallery, "gallery embeddings", device)
    require_same_width(query.shape[1], gallery.shape[1])
    labels, ks = as_labels(query_labels, len(query), "query"), _cut_offs(ks)
    task = _Task.make(labels, as_labels(gallery_labels, len(gallery), "gallery"), query_ids, gallery_ids)
    parts = [
        _score_chunk(cosine_matrix(query[chunk], gallery), task, chunk, ks)
        for chunk in chunks(len(query), len(gallery), chunk_size)
    ]
    precision, rank, *hits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return RetrievalScores(labels, precision, rank, dict(zip(ks, hits, strict=True)))


def _cut_offs(ks: Sequence[int] | int) -> tuple[int, ...]:
    """Return the cut-offs, one or several, as ints; raises CourseError for what counts no photos."""
    several = isinstance(ks, Iterable) and not isinstance(ks, str) and getattr(ks, "ndim", 1)
    return tuple(dict.fromkeys(whole_number(k, "Each k in ks", 1) for k in (ks if several else (ks,))))


class _Task(NamedTuple):
    """Which gallery photos are relevant to each query, and which one is the query itself."""

    order: np.ndarray  # (N,) gallery rows sorted by label: the photos of one identity side by side
    start: np.ndarray  # (Q,) where in `order` the relevant photos start
    stop: np.ndarray  # (Q,) and one past their end
    own: np.ndarray  # (Q,) gallery row of the query's own photo, -1 if it is not in the gallery
    own_relevant: np.ndarray  # (Q,) True if that photo also carries the query's label

    @classmethod
    def make(cls, query_labels, gallery_labels, query_ids, gallery_ids) -> _Task:
        require_same_kind(query_labels, gallery_labels, "labels")
        order = np.argsort(gallery_labels, kind="stable")
        ordered = gallery_labels[order]
        start, stop = (np.searchsorted(ordered, query_labels, side) for side in ("left", "right"))
        own = _own_rows(len(query_labels), len(order), query_ids, gallery_ids)
        return cls(order, start, stop, own, (own >= 0) & (gallery_labels[own] == query_labels))

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (Q,) relevant photos and (Q,) all photos that a query is ranked against, its own left out."""
        return self.stop - self.start - self.own_relevant, len(self.order) - (self.own >= 0)


def _own_rows(n_queries: int, n_gallery: int, query_ids, gallery_ids) -> np.ndarray:
    """Return, per query, the gallery row with the same photo id, or -1."""
    if (query_ids is None) != (gallery_ids is None):
        raise CourseError("Give query_ids and gallery_ids together; one alone cannot leave a query's own photo out.")
    if query_ids is None:
        return np.full(n_queries, -1)
    wanted, present = as_labels(query_ids, n_queries, "query"), as_labels(gallery_ids, n_gallery, "gallery")
    require_same_kind(wanted, present, "photo ids")
    by_id = np.argsort(present, kind="stable")
    known = present[by_id]
    if (known[1:] == known[:-1]).any():
        raise CourseError("gallery_ids repeat; every photo in the gallery needs an id of its own.")
    place = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[place] == wanted, by_id[place], -1)


def _score_chunk(cosines: torch.Tensor, task: _Task, chunk: slice, ks: Sequence[int]) -> list[np.ndarray]:
    """Return [average precision, first rank, hit at each k], each (B,), for one chunk of queries."""
    own = torch.from_numpy(task.own[chunk]).to(cosines.device)
    rows = (own >= 0).nonzero().flatten()
    cosines[rows, own[rows]] = -2.0  # below every cosine: never relevant, never above anything
    relevant, valid = _relevant_cosines(cosines, task, chunk)
    best = relevant[:, :1]
    over_best = torch.nextafter(best, torch.full_like(best, 2.0))
    counts = _count_at_least(cosines, torch.cat([over_best, relevant], dim=1)).double()
    before, above = counts[:, 0], counts[:, 1:]  # wrong photos ahead of the first right one; all at or above each
    right = torch.searchsorted(-relevant, -relevant, right=True).double()  # relevant ones at or above it
    n_relevant = valid.sum(dim=1)
    precision = (right / above).masked_fill(~valid, 0).sum(dim=1) / n_relevant
    tied, right_tied = above[:, 0] - before, right[:, 0]
    rank = before + (tied + 1) / (right_tied + 1)  # expected place of the first right one within its tie
    columns = [precision, rank, *(_hit_probability(min(k, cosines.shape[1]), before, tied, right_tied) for k in ks)]
    return [column.masked_fill(n_relevant == 0, math.nan).cpu().numpy() for column in columns]


def _relevant_cosines(cosines: torch.Tensor, task: _Task, chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, G) cosines of each query's relevant photos, highest first, padded with -inf, and which are valid."""
    start, stop = task.start[chunk, None], task.stop[chunk, None]
    places = start + np.arange(max(1, (stop - start).max()))
    columns = torch.from_numpy(task.order[places.clip(max=len(task.order) - 1)]).to(cosines.device)
    outside = torch.from_numpy(places >= stop).to(cosines.device)
    found = cosines.gather(1, columns)
    found = found.masked_fill(outside | (found < -1), -math.inf)  # below -1: the query's own photo
    found = found.sort(dim=1, descending=True).values
    return found, found > -math.inf


def _count_at_least(cosines: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Return (B, G) how many of a row's N cosines reach each of its thresholds: compared if few, sorted if many."""
    if cosines.device.type != "cpu":
        return cosines.shape[1] - torch.searchsorted(cosines.sort(dim=1).values, thresholds.contiguous())
    # On a CPU NumPy counts and sorts a row several times faster than torch, while it is still in the cache.
    count = _count_by_comparison if thresholds.shape[1] <= FEW_RELEVANT else _count_by_sorting
    pairs = zip(cosines.numpy(), thresholds.numpy(), strict=True)
    return torch.from_numpy(np.stack([count(row, wanted) for row, wanted in pairs]))


def _count_by_comparison(row: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Count the values of a row (N,) that reach each threshold (G,): G passes over the row."""
    return np.array([np.count_nonzero(reached) for reached in row >= thresholds[:, None]])


def _count_by_sorting(row: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Count the values of a row (N,) that reach each threshold (G,): one sort, however many thresholds."""
    return len(row) - np.searchsorted(np.sort(row), thresholds)


def _hit_probability(k: int, before, tied, right):
    """Return the chance that a right photo reaches the top k: `before` wrong ones, then `tied`, `right` among them.

    It is 1 - C(tied - right, m) / C(tied, m) with m = k - before free places; all arguments but k are alike in shape.
    """
    slots, miss = k - before, before * 0.0 + 1.0
    for i in range(k):
        factor = ((tied - right - i) / (tied - i).clip(1)).clip(0)
        miss = miss * (factor * (i < slots) + 1.0 * (i >= slots))
    return 1.0 - miss


def chance_level(
    query_labels: Array | Sequence,
    gallery_labels: Array | Sequence,
    query_ids: Array | Sequence | None = None,
    gallery_ids: Array | Sequence | None = None,
    ks: Sequence[int] | int = (1, 5),
) -> dict[str, float]:
    """Return {'r1', 'r5', 'map'} of a random order of this very gallery: the exact expectation, no simulation.

    For N photos, G of them relevant: R@k = 1 - C(N-G, k) / C(N, k) and E[AP] = (H_N + (G-1)(N-H_N)/(N-1)) / N, with the
    harmonic number H_N = 1 + 1/2 + ... + 1/N. Both are means over the queries that have a relevant photo, NaN if none
    has. Raises CourseError for an empty gallery, unusable ids or ks. Introduced in notebook 03.
    """
    query_labels = as_labels(query_labels, len(query_labels), "query")
    gallery_labels = as_labels(gallery_labels, len(gallery_labels), "gallery")
    if not len(gallery_labels):
        raise CourseError("The gallery is empty; there is nothing to rank.")
    relevant, size = _Task.make(query_labels, gallery_labels, query_ids, gallery_ids).counts
    relevant, size = relevant[relevant > 0].astype(float), size[relevant > 0].astype(float)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, len(gallery_labels) + 1))])[size.astype(int)]
    precision = (harmonic + (relevant - 1) * (size - harmonic) / np.maximum(size - 1, 1)) / np.maximum(size, 1)
    places = {k: min(k, len(gallery_labels)) for k in _cut_offs(ks)}  # more places than photos are all of them
    hits = {f"r{k}": _hit_probability(most, np.zeros_like(size), size, relevant) for k, most in places.items()}
    recall = {name: mean_or_nan(found) for name, found in hits.items()}
    return recall | {"map": mean_or_nan(precision)}
