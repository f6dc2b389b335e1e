"""Exercises of notebook 12: answers of shards, and pairs that processes cannot see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .base import same_as

Answer = tuple[float, int]  # a cosine and the number of its row
SHARDS = [
    ([[(0.9, 4), (0.5, 1)], [(0.7, 12), (0.6, 10)]], 3),
    ([[(0.8, 2)], [(0.8, 9), (0.1, 7)], [(0.8, 5)]], 2),
    ([[(0.2, 0)], [(0.3, 1)], [(0.3, 2)]], 3),
    ([[(0.4, 6), (0.4, 3)], [(0.4, 11), (0.4, 1)]], 2),
]


@same_as(
    "merged",
    SHARDS,
    "put all answers into one list; sort by falling cosine, and where cosines are equal by rising row; keep k rows.",
)
def check_12_merged(answers: Sequence[Sequence[Answer]], k: int) -> np.ndarray:
    """Check a function (lists of (cosine, row), k) -> the k best rows, lower row first in ties. Nb 12."""
    return np.array([row for _, row in sorted((-cosine, row) for shard in answers for cosine, row in shard)[:k]])


@same_as(
    "pairs seen",
    [(6, 2), (6, 3), (20, 4), (4, 1)],
    "one process holds n / ranks photos; how many other photos does one photo meet there, and how many in all?",
)
def check_12_pairs_seen(photos: int, ranks: int) -> float:
    """Check a function (photos of a person, ranks) -> the share of pairs that some rank sees. Notebook 12."""
    return (photos / ranks - 1) / (photos - 1)
