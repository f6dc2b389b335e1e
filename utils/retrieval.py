"""How a face is found in a gallery, and how finding is scored.

Every score here rests on two decisions, besides those of utils.cosines, made once:

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
from typing import TYPE_CHECKING, NamedTuple

import faiss
import numpy as np
import torch

from .cosines import (
    Array,
    as_labels,
    as_rows,
    chunks,
    cosine_matrix,
    mean_or_nan,
    require_same_kind,
    require_same_width,
    unit_rows,
)
from .settings import CourseError, one_of, resolve_device, whole_number
from .verification import (
    Compactness,
    PairHistogram,
    TarAtFar,
    compactness,
    impostor_cosines,
    lookalike_fmr,
    pair_histogram,
    tar_at_far,
    true_accept_rate,
)

if TYPE_CHECKING:
    from .heads import CosineHead
    from .splits import Splits

__all__ = [
    "Compactness",
    "Examination",
    "Gallery",
    "Match",
    "PairHistogram",
    "RetrievalScores",
    "TarAtFar",
    "chance_level",
    "compactness",
    "cosine_matrix",
    "evaluate",
    "examine",
    "held_out_photos",
    "impostor_cosines",
    "lookalike_fmr",
    "pair_histogram",
    "per_identity",
    "retrieval_scores",
    "score_embeddings",
    "tar_at_far",
    "true_accept_rate",
    "unit_rows",
]

FEW_RELEVANT = 64  # up to here counting by comparison beats sorting the whole row
INDEXES = ("exact", "hnsw", "ivf")
POOLS = ("forget", "retain", "unseen", "dev_forget")


# ---------------------------------------------------------------------------------------------------------------------
# Finding: the gallery
# ---------------------------------------------------------------------------------------------------------------------


class Match(NamedTuple):
    """One gallery photo that was returned for a query: its cosine, label, name and gallery row. Notebook 03."""

    cosine: float
    label: int | str
    name: str
    index: int


class Gallery:
    """Enrolled photos that queries are searched in: a FAISS inner-product index over unit rows (N, d).

    The search is exact unless `index` is 'hnsw' or 'ivf' (approximate, for large galleries). Raises CourseError for
    unusable embeddings, and for labels, ids or names that are not one per row. Introduced in notebook 03.
    """

    def __init__(
        self,
        embeddings: Array,
        labels: Array | Sequence,
        photo_ids: Array | Sequence | None = None,
        names: Sequence[str] | None = None,
        *,
        index: str = "exact",
    ) -> None:
        rows = unit_rows(embeddings, "gallery embeddings").numpy()
        self.labels = as_labels(labels, len(rows), "gallery")
        self.photo_ids = None if photo_ids is None else as_labels(photo_ids, len(rows), "gallery")
        if names is not None and len(names) != len(rows):
            raise CourseError(f"There are {len(rows)} gallery embeddings but {len(names)} names; give one each.")
        self.names = tuple(str(label) for label in self.labels) if names is None else tuple(names)
        self.index = _build_index(rows, one_of(index, INDEXES, "index"))

    def __len__(self) -> int:
        return len(self.labels)

    def search(
        self, queries: Array, k: int = 5, query_ids: Array | Sequence | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best cosines (Q, k) float32 and their gallery rows (Q, k) int64, best first.

        `query_ids` leave each query's own photo out; an approximate index that finds fewer than k photos fills up with
        row -1. Raises CourseError for a k that the gallery cannot fill. Introduced in notebook 03.
        """
        rows = unit_rows(queries, "query embeddings").numpy()
        if rows.shape[1] != self.index.d:
            raise CourseError(
                f"Queries have {rows.shape[1]} dimensions and the gallery {self.index.d}; embed both with one model."
            )
        spare = int(query_ids is not None)
        k = whole_number(k, "k", 1)
        if k > len(self) - spare:
            raise CourseError(f"k is {k}; with {len(self)} photos in the gallery it must be 1 to {len(self) - spare}.")
        cosines, indices = self.index.search(rows, k + spare)
        if query_ids is None:
            return cosines, indices
        if self.photo_ids is None:
            raise CourseError("query_ids need a gallery that knows its photos; build it with photo_ids.")
        # A stable sort on "is this the query's own photo" moves that photo to the end and keeps the order of the rest.
        wanted = as_labels(query_ids, len(rows), "query")
        require_same_kind(wanted, self.photo_ids, "photo ids")
        own = self.photo_ids[indices] == wanted[:, None]
        order = np.argsort(own, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(cosines, order, axis=1), np.take_along_axis(indices, order, axis=1)

    def identify(self, queries: Array, k: int = 5, query_ids: Array | Sequence | None = None) -> list[list[Match]]:
        """Return, per query, its k best gallery photos as a list of `Match`, best first; raises as `search` does.

        Introduced in notebook 03.
        """
        cosines, indices = self.search(queries, k, query_ids)
        return [
            [Match(float(c), self.labels[i].item(), self.names[i], int(i)) for c, i in zip(*row, strict=True) if i >= 0]
            for row in zip(cosines, indices, strict=True)
        ]


def _build_index(rows: np.ndarray, kind: str) -> faiss.Index:
    """Return a FAISS inner-product index that holds the rows."""
    n_lists = max(1, int(math.sqrt(len(rows)) / 2))
    spec = {"exact": "Flat", "hnsw": "HNSW32", "ivf": f"IVF{n_lists},Flat"}[kind]
    index = faiss.index_factory(rows.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
    if kind == "ivf":
        index.nprobe = max(1, n_lists // 8)
        index.train(rows)
    index.add(rows)
    return index


# ---------------------------------------------------------------------------------------------------------------------
# Scoring: R@k, mean average precision, rank of the first correct photo
# ---------------------------------------------------------------------------------------------------------------------


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
    require_same_width(query, gallery)
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


# ---------------------------------------------------------------------------------------------------------------------
# The course's protocol: all pools of one split
# ---------------------------------------------------------------------------------------------------------------------


def held_out_photos(splits: Splits) -> np.ndarray:
    """Return the indices of all photos that scoring uses, query and gallery of every pool, int64, sorted.

    Introduced in notebook 03.
    """
    return np.unique(np.concatenate([splits.query, splits.gallery]))


def evaluate(
    model: torch.nn.Module,
    splits: Splits,
    head: CosineHead | None = None,
    *,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> dict:
    """Embed every held-out photo once and score all pools side by side, as `Examination.scores` describes.

    The model moves to `device`; scoring runs on the CPU. Introduced in notebook 03.
    """
    return examine(model, splits, head, device=device, progress=progress).scores()


def examine(
    model: torch.nn.Module,
    splits: Splits,
    head: CosineHead | None = None,
    *,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Examination:
    """Embed every held-out photo once and return what scores and figures are made of. Introduced in notebook 05."""
    from .training import embed  # only here: everything above needs no model

    photos = held_out_photos(splits)
    embeddings = embed(model, splits.faces, photos, device=resolve_device(device), progress=progress)
    return Examination.make(embeddings, photos, splits, head)


def score_embeddings(
    embeddings: Array, photos: np.ndarray, splits: Splits, *, far: float = 1e-3, device: str | torch.device = "cpu"
) -> dict:
    """Score embeddings (N, d) of the photos (N,) pool by pool, as `Examination.scores` describes. Notebook 03.

    Raises CourseError if a held-out photo is missing.
    """
    return Examination.make(embeddings, photos, splits, device=device).scores(far)


class Examination(NamedTuple):
    """The held-out photos of some splits as one model sees them; made by `examine`. Introduced in notebook 05."""

    embeddings: torch.Tensor
    place: np.ndarray  # photo index -> row of `embeddings`, -1 for photos that were not embedded
    splits: Splits
    head: CosineHead | None
    device: str | torch.device

    @classmethod
    def make(
        cls,
        embeddings: Array,
        photos: np.ndarray,
        splits: Splits,
        head: CosineHead | None = None,
        device: str | torch.device = "cpu",
    ) -> Examination:
        """Note which row belongs to which photo; raises CourseError if a held-out photo is missing."""
        rows, photos = as_rows(embeddings), np.asarray(photos)
        as_labels(photos, len(rows), "photo")
        place = np.full(len(splits.faces.labels), -1)
        place[photos] = np.arange(len(photos))
        missing = held_out_photos(splits)[place[held_out_photos(splits)] < 0]
        if len(missing):
            raise CourseError(f"{len(missing)} held-out photos were not embedded; embed held_out_photos(splits).")
        return cls(rows, place, splits, head, device)

    def rows(self, photos: np.ndarray) -> torch.Tensor:
        """Return the embeddings (n, d) of held-out photos given by index."""
        return self.embeddings[torch.from_numpy(self.place[photos])]

    def labels(self, photos: np.ndarray) -> np.ndarray:
        """Return the identity labels of these photos."""
        return np.asarray(self.splits.faces.labels)[photos]

    def held_out(self, *pools: str) -> np.ndarray:
        """Return the query and gallery photos of some pools."""
        parts = [self.splits.photos(pool, part) for pool in pools for part in ("query", "gallery")]
        return np.concatenate(parts).astype(np.int64)

    def photos_of(self, *people: int) -> np.ndarray:
        """Return the held-out photos of some people, person by person."""
        photos = held_out_photos(self.splits)
        return np.concatenate([photos[self.labels(photos) == person] for person in people])

    def retrieval(self, pool: str) -> RetrievalScores:
        """Score one pool's queries against the gallery of all pools."""
        query, gallery = self.splits.photos(pool, "query"), self.splits.gallery
        return retrieval_scores(
            self.rows(query), self.labels(query), self.rows(gallery), self.labels(gallery),
            query_ids=query, gallery_ids=gallery, device=self.device,
        )  # fmt: skip

    def scores(self, far: float = 1e-3) -> dict:
        """Return the scores pool by pool: one entry of results.json.

        - per pool: 'r1', 'r5' and 'map' of its queries against the gallery of all pools; 'mean_cosine',
          'nearest_cosine' and 'tar' over its held-out photos; NaN for a pool without queries;
        - 'accuracy' in 'forget' and 'retain', if there is a head: the share of held-out photos that it names rightly;
        - 'lookalike_fmr' of the forget queries against the retained gallery, inside 'forget';
        - 'chance': the chance level of the forget queries; 'gallery_size'; 'threshold'.

        The threshold is this model's own: at most a share `far` of the held-out impostor pairs of retained and unseen
        people reach it. With too few pairs it is NaN, and so are 'tar' and 'lookalike_fmr'. Notebook 03.
        """
        splits, threshold = self.splits, _common_threshold(self, far)
        result = {pool: _score_pool(self, pool, threshold) for pool in POOLS}
        query, kept = splits.photos("forget", "query"), splits.photos("retain", "gallery")
        fmr = math.nan
        if len(query) and len(kept):
            fmr = lookalike_fmr(self.rows(query), self.rows(kept), threshold, device=self.device)
        result["forget"]["lookalike_fmr"] = fmr
        if self.head is not None:
            for pool in ("forget", "retain"):
                result[pool]["accuracy"] = self.name_accuracy(pool)
        chance = chance_level(self.labels(query), self.labels(splits.gallery), query, splits.gallery)
        return result | {"chance": chance, "gallery_size": len(splits.gallery), "threshold": threshold}

    def name_accuracy(self, pool: str) -> float:
        """Return the share of a pool's held-out photos whose identity the head ranks first: classification, top 1.

        A head without rows for the forget people (the retrained model's) cannot name them. NaN for an empty pool.
        """
        photos = self.held_out(pool)
        if not len(photos):
            return math.nan
        rows, everybody = len(self.head.weight), len(self.head.weight) == len(self.splits.trained)
        if not everybody and rows != len(self.splits.kept):
            raise CourseError(f"The head has {rows} rows, but these splits trained {len(self.splits.trained)} people.")
        people = np.asarray(self.splits.trained if everybody else self.splits.kept)
        with torch.no_grad():
            named = self.head.cosines(self.rows(photos).to(self.head.weight)).argmax(dim=1).cpu().numpy()
        return float((people[named] == self.labels(photos)).mean())


def _common_threshold(world: Examination, far: float) -> float:
    """Return the threshold at a false accept rate over retained and unseen people, NaN if they are too few."""
    photos = world.held_out("retain", "unseen")
    counts = np.unique(world.labels(photos), return_counts=True)[1]
    n_impostor = (len(photos) ** 2 - (counts**2).sum()) / 2
    if n_impostor * far < 1 or (counts < 2).all():
        return math.nan
    return tar_at_far(world.rows(photos), world.labels(photos), far, device=world.device).threshold


def _score_pool(world: Examination, pool: str, threshold: float) -> dict[str, float]:
    """Return one pool's row of results.json, NaN throughout for a pool without queries."""
    photos = world.held_out(pool)
    if not len(world.splits.photos(pool, "query")):
        return dict.fromkeys(("r1", "r5", "map", "mean_cosine", "nearest_cosine", "tar"), math.nan)
    scores = world.retrieval(pool)
    close = compactness(world.rows(photos), world.labels(photos), device=world.device)
    cosines = {"mean_cosine": close.mean_cosine, "nearest_cosine": close.nearest_cosine}
    tar = true_accept_rate(world.rows(photos), world.labels(photos), threshold, device=world.device)
    return {"r1": scores.r1, "r5": scores.r5, "map": scores.map, **cosines, "tar": tar}


def per_identity(
    embeddings: Array, photos: np.ndarray, splits: Splits, pool: str = "forget", *, device: str | torch.device = "cpu"
) -> list[dict]:
    """Return one row per identity of a pool, for figures that show people and not only means.

    A row is {'identity', 'label', 'n', 'r1', 'r5', 'map', 'first_rank', 'mean_cosine', 'nearest_cosine'}; there is none
    for a pool without queries. Raises CourseError if a held-out photo is missing. Introduced in notebook 03.
    """
    world = Examination.make(embeddings, photos, splits, device=device)
    held_out = world.held_out(pool)
    if not len(splits.photos(pool, "query")):
        return []
    found = world.retrieval(pool).per_identity()
    close = compactness(world.rows(held_out), world.labels(held_out), device=device)
    cosines = dict(zip(close.labels.tolist(), zip(close.mean_cosines, close.nearest_cosines, strict=True), strict=True))
    return [
        {"identity": splits.faces.identities[label], "label": label, **scores,
         "mean_cosine": float(cosines[label][0]), "nearest_cosine": float(cosines[label][1])}
        for label, scores in found.items()
    ]  # fmt: skip
