"""Embeddings of people who do not exist, as many as asked for, and what approximate search makes of them."""

from __future__ import annotations

import time
from typing import NamedTuple

import faiss
import numpy as np

from ..settings import CourseError, whole_number

PHOTOS = 20  # of each drawn person in the gallery; one more is a query
BLOCK_PEOPLE = 500  # drawn at a time from a seed of their own: the rows do not depend on how many are drawn
INDEXES = {"exact": "Flat", "HNSW": "HNSW32", "IVF": "IVF{lists},Flat", "IVF-PQ": "IVF{lists},PQ128x4fs"}
EFFORTS = {"exact": ("", (0,)), "HNSW": ("efSearch", (16, 64, 256)), "IVF": ("nprobe", (1, 4, 16, 64)),
           "IVF-PQ": ("nprobe", (1, 4, 16, 64))}  # fmt: skip


class Spread(NamedTuple):
    """How real embeddings lie: the mean cosine within a person, and the standard deviation of it between people."""

    within: float
    between: float


def drawn_embeddings(
    n_rows: int, spread: Spread, dim: int = 512, n_queries: int = 200, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return a gallery (n_rows, dim) and queries (n_queries, dim), unit float32: row r shows person r // PHOTOS.

    A person's centre is a random direction in as many dimensions as give strangers' cosines the measured spread
    (1 / between²), turned at random; a photo is its centre and noise in all dimensions, as much as gives the measured
    cosine within a person. Query q is another photo of person q. Introduced in notebook 12.
    """
    n_rows, n_people = whole_number(n_rows, "n_rows", PHOTOS), -(-n_rows // PHOTOS)
    if not (0 < spread.within < 1 and 0 < spread.between < 1):
        raise CourseError(f"The spread is {tuple(spread)}; both are cosines between 0 and 1.")
    n_queries = min(n_queries, n_people, BLOCK_PEOPLE)
    alive = min(dim, max(2, round(spread.between**-2)))
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, alive)))[0].astype(np.float32)
    rows, queries = np.empty((n_rows, dim), dtype=np.float32), np.empty((0, dim), dtype=np.float32)
    for first in range(0, n_people, BLOCK_PEOPLE):
        random = np.random.default_rng([seed, 1 + first // BLOCK_PEOPLE])
        centres = unit(random.standard_normal((BLOCK_PEOPLE, alive), dtype=np.float32)) @ turn.T
        noise = random.standard_normal((BLOCK_PEOPLE, PHOTOS + 1, dim), dtype=np.float32)
        photos = unit(centres[:, None] + np.float32(((1 / spread.within - 1) / dim) ** 0.5) * noise)
        block = rows[first * PHOTOS : (first + BLOCK_PEOPLE) * PHOTOS]
        block[:] = photos[:, :PHOTOS].reshape(-1, dim)[: len(block)]
        queries = photos[:n_queries, PHOTOS].copy() if first == 0 else queries
    return rows, queries


def unit(rows: np.ndarray) -> np.ndarray:
    """Return vectors at length 1 along the last axis."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def build_index(rows: np.ndarray, kind: str) -> tuple[faiss.Index, float]:
    """Return a FAISS index of unit rows (N, d) by its name in INDEXES, and the seconds it took. Notebook 12."""
    start, lists = time.perf_counter(), max(1, int(len(rows) ** 0.5))
    index = faiss.index_factory(rows.shape[1], INDEXES[kind].format(lists=lists), faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(rows[:: max(1, len(rows) // (40 * lists))])
    index.add(rows)
    return index, time.perf_counter() - start


def index_megabytes(index: faiss.Index) -> float:
    """Return how large an index is as a file, which is nearly what it takes in memory."""
    return len(faiss.serialize_index(index)) / 2**20


def measure_index(index: faiss.Index, kind: str, queries: np.ndarray, truth: np.ndarray) -> list[dict]:
    """Return, for each effort in EFFORTS, recall@1 and @10 against the true ten (Q, 10), the share of
    drawn queries whose first photo shows their person, and milliseconds a query.

    Each query is searched alone, as a door does, after one that does not count. Notebook 12.
    """
    name, efforts = EFFORTS[kind]
    rows = []
    for effort in efforts:
        if name:
            faiss.ParameterSpace().set_index_parameter(index, name, effort)
        index.search(queries[:1], 10)
        found, seconds = [], []
        for query in queries:
            start = time.perf_counter()
            found.append(index.search(query[None], 10)[1][0])
            seconds.append(time.perf_counter() - start)
        shares = {f"recall@{k}": recall(np.array(found), truth, k) for k in (1, 10)}
        shares["person@1"] = float(np.mean(np.array(found)[:, 0] // PHOTOS == np.arange(len(found))))
        times = {"median_ms": 1e3 * float(np.median(seconds)), "p99_ms": 1e3 * float(np.quantile(seconds, 0.99))}
        rows.append({"index": kind, "effort": f"{name} {effort}" if name else "", **shares, **times})
    return rows


def recall(found: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Return the share of the true k nearest (Q, ≥ k) that are among the k found (Q, ≥ k). Notebook 12."""
    return float(np.mean([len(set(f[:k]) & set(t[:k])) / k for f, t in zip(found, truth, strict=True)]))
