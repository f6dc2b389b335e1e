"""A gallery to search: which photos lie nearest to a query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import faiss
import numpy as np

from ..settings import CourseError, one_of, whole_number
from .similarity import Array, as_labels, require_same_kind, require_same_width, unit_rows

INDEXES = ("exact", "hnsw", "ivf")


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
        require_same_width(rows.shape[1], self.index.d)
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
