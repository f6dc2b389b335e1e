"""A gallery in shards: files with a manifest, written so that a kill costs one shard, searched by a process each.

Ties follow one rule wherever the rows lie: the higher cosine first, computed in float64, then the lower row number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import faiss
import numpy as np
from joblib import Parallel, delayed

from ..settings import CourseError, atomic_path, sha256_of, whole_number
from .similarity import Array, as_rows, require_same_width, unit_rows

MANIFEST = "manifest.json"
ROUNDING = 1e-5  # more than a cosine in float32 can be off
SPARE = 16  # candidates beyond the k-th that are looked at for ties
MEMORY = 2**21  # numbers that are compared again at a time

# ------------------------------------------------------------------------------------------------------------- writing


def write_shards(
    folder: Path, rows_of: Callable[[int, int], Array], n_rows: int, n_shards: int, source: str, dim: int
) -> dict:
    """Write unit rows (n_rows, dim) as `n_shards` files, each noted in the manifest once whole; return the manifest.

    `rows_of(first, last)` embeds a range of photos; `source` says which model and photos. Shards that an interrupted
    call noted are checked and kept, unless the source, size or number differs. Raises CourseError for more shards than
    rows and for unusable rows. Introduced in notebook 12.
    """
    n_rows, n_shards = whole_number(n_rows, "n_rows", 1), whole_number(n_shards, "n_shards", 1)
    if n_shards > n_rows:
        raise CourseError(f"{n_shards} shards are more than the {n_rows} vectors; ask for at most one shard a vector.")
    about = {"schema": 1, "source": source, "rows": n_rows, "dim": dim, "n_shards": n_shards}
    known = unfinished_manifest(folder, about)
    edges = [n_rows * number // n_shards for number in range(n_shards + 1)]
    done: list[dict] = []
    for number, (first, last) in enumerate(zip(edges, edges[1:], strict=False)):
        entry = known.get(number)
        if not entry or not is_whole(folder, entry):
            entry = write_shard(folder, number, first, rows_of(first, last), (last - first, dim))
            rest = [known[n] for n in sorted(known) if n > number]
            write_manifest(folder, about | {"shards": [*done, entry, *rest]})
        done.append(entry)
    for stale in {path.name for path in Path(folder).glob("shard_*.npy")} - {entry["file"] for entry in done}:
        (Path(folder) / stale).unlink()  # of a gallery with more shards: nobody would ever delete those vectors
    return read_manifest(folder)


def unfinished_manifest(folder: Path, about: dict) -> dict[int, dict]:
    """Return the shards, by number, that an earlier call with the same source and sizes has noted."""
    try:
        found = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
        same = {key: found[key] for key in about} == about
        return {entry["number"]: entry for entry in found["shards"]} if same else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def is_whole(folder: Path, entry: dict) -> bool:
    """Say whether a shard's file is there with the hash that the manifest has."""
    path = Path(folder) / entry["file"]
    return path.is_file() and sha256_of(path) == entry["sha256"]


def write_shard(folder: Path, number: int, first: int, rows: Array, shape: tuple[int, int]) -> dict:
    """Write one shard's unit rows as a .npy file and return its manifest entry; CourseError for another shape."""
    rows = as_given(rows, f"embeddings of shard {number}")
    if rows.shape != shape:
        raise CourseError(f"Shard {number} has rows of shape {rows.shape}, and {shape} were asked for; check rows_of.")
    with atomic_path(Path(folder) / f"shard_{number:04}.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, rows)
    path = Path(folder) / f"shard_{number:04}.npy"
    return {"number": number, "file": path.name, "first": first, "rows": len(rows), "sha256": sha256_of(path)}


def as_given(rows: Array, what: str) -> np.ndarray:
    """Return unit rows (N, d) as float32, bit for bit: to give them length 1 once more would move some in the last."""
    unit_rows(rows, what)  # raises CourseError for what is no embedding
    return np.ascontiguousarray(as_rows(rows), dtype=np.float32)


def write_manifest(folder: Path, manifest: dict) -> None:
    """Replace the manifest, whole or not at all."""
    with atomic_path(Path(folder) / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict:
    """Return the manifest of a finished gallery; CourseError if there is none or shards are still to be written."""
    try:
        manifest = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
        written, wanted = len(manifest["shards"]), manifest["n_shards"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(
            f"{folder} holds no gallery in shards ({MANIFEST} cannot be read); write it first."
        ) from error
    if written != wanted:
        raise CourseError(
            f"{folder} has {written} of {wanted} shards; run what writes it again, it goes on from there."
        )
    return manifest


def checksum(manifest: dict) -> str:
    """Return one hash over all shards' hashes: two galleries with the same checksum hold the same vectors."""
    return hashlib.sha256("".join(entry["sha256"] for entry in manifest["shards"]).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------ searching


def load_shard(folder: Path, entry: dict) -> np.ndarray:
    """Return one shard's rows (n, d) float32; CourseError, with its name and hash, if it is missing or damaged."""
    path = Path(folder) / entry["file"]
    if not path.is_file():
        raise CourseError(f"Shard {entry['file']} (sha256 {entry['sha256'][:12]}) is missing; nothing was merged.")
    if (found := sha256_of(path)) != entry["sha256"]:
        told = f"its sha256 is {found[:12]}, not {entry['sha256'][:12]}"
        raise CourseError(f"Shard {entry['file']} is damaged: {told}; nothing was merged, write it again.")
    return np.load(path)


def top_k(rows: np.ndarray, queries: np.ndarray, k: int, index: faiss.Index | None = None) -> tuple:
    """Return cosines (Q, k) float64 and row numbers (Q, k) int64 of the k nearest rows, ties by the lower number.

    FAISS finds the candidates in float32 (in `index`, by default a flat one); those nearer to the k-th than rounding
    can tell are all looked at again in float64. Introduced in notebook 12.
    """
    if index is None:
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
    k, wanted = min(k, len(rows)), min(k + SPARE, len(rows))
    while True:
        scores, found = index.search(queries, wanted)
        if wanted == len(rows) or (scores[:, k - 1] - scores[:, -1] > ROUNDING).all():
            break
        wanted = min(2 * wanted, len(rows))  # a tie at the end of the list: read on
    size = max(1, MEMORY // (wanted * rows.shape[1]))
    parts = [slice(start, start + size) for start in range(0, len(queries), size)]
    exact = np.concatenate([float64_cosines(queries[part], rows[found[part]]) for part in parts])
    return merge([(exact, found)], k)


def float64_cosines(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the cosines (Q, m) of queries (Q, d) and their candidates (Q, m, d): equal rows get equal cosines."""
    products = queries[:, None].astype(np.float64) * candidates
    return products.sum(axis=2)  # row by row, so that a place in the list changes nothing


def merge(parts: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best (cosines, row numbers) of several lists (Q, any): higher cosine first, then lower number.

    Introduced in notebook 12.
    """
    cosines, ids = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
    order = np.lexsort((ids, -cosines), axis=1)[:, :k]
    return np.take_along_axis(cosines, order, axis=1), np.take_along_axis(ids, order, axis=1)


def search_shards(folder: Path, queries: Array, k: int, jobs: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines (Q, k) and global row numbers (Q, k) of the nearest rows, each shard searched in its own process.

    The same rows, in the same order, as `top_k` over one flat index of all. `jobs` processes at a time, by default one
    a shard. Raises CourseError, and merges nothing, for queries of another dimension, a k that the gallery cannot fill,
    a shard that is missing or damaged, and a worker that died. Introduced in notebook 12.
    """
    manifest, queries = read_manifest(folder), as_given(queries, "query embeddings")
    require_same_width(queries.shape[1], manifest["dim"])
    k, jobs = whole_number(k, "k", 1, manifest["rows"]), whole_number(jobs or manifest["n_shards"], "jobs", 1)
    work = (delayed(search_one)(folder, entry, queries, k) for entry in manifest["shards"])
    try:
        return merge(Parallel(n_jobs=jobs, backend="loky", inner_max_num_threads=1)(work), k)
    except BrokenProcessPool as error:
        told = "A worker process died (killed, or out of memory) while it searched a shard"
        raise CourseError(f"{told}; nothing was merged: search again, with fewer jobs at a time.") from error


def search_one(folder: Path, entry: dict, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best cosines and global row numbers of one shard."""
    cosines, rows = top_k(load_shard(folder, entry), queries, k)
    return cosines, rows + entry["first"]
