"""Deleted is not gone: what is left of a vector in the files of an index and of a vector database."""

from __future__ import annotations

import datetime
import importlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ..settings import CourseError, atomic_path


def files_with(place: Path, vector: np.ndarray) -> list[str]:
    """Return the names of the files at or below a place that hold the float32 bytes of a vector. Notebook 12."""
    wanted, place = np.ascontiguousarray(vector, dtype=np.float32).tobytes(), Path(place)
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return [path.name for path in files if wanted in path.read_bytes()]


def write_index(index: faiss.Index, path: Path) -> None:
    """Write a FAISS index to a file, whole or not at all."""
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))


def search_without(index: faiss.Index, queries: np.ndarray, k: int, deleted: Iterable[int]) -> np.ndarray:
    """Return the k nearest ids (Q, k) with some ids filtered out: what many services call deleting. Notebook 12."""
    hidden = faiss.IDSelectorNot(faiss.IDSelectorBatch(np.asarray(list(deleted), dtype=np.int64)))
    flat = not isinstance(faiss.downcast_index(getattr(index, "index", index)), faiss.IndexHNSW)
    make = faiss.SearchParameters if flat else faiss.SearchParametersHNSW
    search = getattr(
        index, "search_numpy", index.search
    )  # faiss.contrib.torch_utils replaces search by one without params
    return search(queries, k, params=make(sel=hidden))[1]


def rebuilt_without(index: faiss.Index, spec: str, deleted: Iterable[int]) -> faiss.Index:
    """Return a new index of all rows but the deleted, which keep their ids; the old one is not changed. Notebook 12."""
    kept = np.setdiff1d(np.arange(index.ntotal), np.asarray(list(deleted)))
    inner = faiss.index_factory(index.d, spec, faiss.METRIC_INNER_PRODUCT)
    new = faiss.IndexIDMap2(inner)
    new.add_with_ids(index.reconstruct_batch(kept), kept.astype(np.int64))
    return new


# --------------------------------------------------------------------------------- a vector database, where installed


def open_database(folder: Path) -> Any:
    """Return LanceDB's connection to a folder; CourseError if the optional package is not installed. Notebook 12."""
    try:
        return importlib.import_module("lancedb").connect(folder)
    except ImportError as error:
        raise CourseError("LanceDB is not installed; 'pip install lancedb' (180 MB) adds it for this part.") from error


def database_of(folder: Path, rows: np.ndarray) -> Any:
    """Return a new LanceDB table 'gallery' of rows (N, d) float32 with their numbers as ids. Notebook 12."""
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(rows, dtype=np.float32).ravel()), rows.shape[1]
    )
    data = pa.table({"id": np.arange(len(rows)), "vector": vectors})
    return open_database(folder).create_table("gallery", data, mode="overwrite")


def search_database(table: Any, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the ids (Q, k) of the nearest rows, as the database ranks them (exact: it has no index). Notebook 12."""
    found = [table.search(query).distance_type("dot").limit(k).to_arrow()["id"].to_pylist() for query in queries]
    return np.array(found)


def compact_database(table: Any) -> None:
    """Let the database merge its files and drop all versions but the last, as its manual says. Notebook 12."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of readers of the versions that go
        table.optimize(cleanup_older_than=datetime.timedelta(0))


def rewrite_database(folder: Path, table: Any) -> Any:
    """Write what is left of the table anew, drop what it was, and return it. Notebook 12."""
    new = open_database(folder).create_table("gallery", table.to_arrow(), mode="overwrite")
    compact_database(new)
    return new
