"""Cosines between two sets of embeddings: the ground that retrieval and verification both stand on.

**Equal photos tie in floating point too.** Blocks of the gallery are padded to full vector width, so that every column
of a matrix product is summed in the same order, and photos nearer than float32 can tell apart (cosine above 1 - 2⁻²⁰,
that is within 1e-6 of 1) count as one point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..settings import CourseError, plain, resolve_device

Array = np.ndarray | torch.Tensor

SAME_POINT = 1 - 2.0**-20  # cosines above this are rounding noise around 1
NORM_TOLERANCE = 1e-3
BLOCK = 2048  # gallery rows that are multiplied at a time
WIDTH = 64  # a block holds a multiple of this many rows: left-over columns would be summed in another order
CHUNK_ELEMENTS = 5 * 2**19  # cosines held at a time when no chunk size is given


def unit_rows(embeddings: Array, what: str = "embeddings", device: str | torch.device = "cpu") -> torch.Tensor:
    """Return embeddings (N, d) as float32 rows of length 1 (as near as float32 can) on `device`.

    Raises CourseError for a wrong shape or dtype, for NaN or infinity, and for a row whose length is not 1 within 1e-3.
    Introduced in notebook 03.
    """
    rows = as_rows(embeddings, what)
    if rows.ndim != 2 or not len(rows):
        raise CourseError(f"The {what} have shape {tuple(rows.shape)}; expected at least one row of a (N, d) matrix.")
    if not rows.is_floating_point():
        raise CourseError(f"The {what} are {rows.dtype}; expected floating-point rows as embed returns them.")
    unit = torch.empty(rows.shape, dtype=torch.float32, device=resolve_device(device))
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].to(unit.device, torch.float64)
        norms = block.norm(dim=1, keepdim=True)
        _check_norms(norms, what, start, max(NORM_TOLERANCE, 2 * torch.finfo(rows.dtype).eps))
        unit[start : start + BLOCK] = block / norms
    return unit


def as_rows(embeddings: Array | Sequence, what: str = "embeddings") -> torch.Tensor:
    """Return embeddings as a tensor, whatever they are kept in; raises CourseError for what is no table of numbers."""
    if isinstance(embeddings, torch.Tensor):
        return embeddings.detach()
    try:
        array = np.asarray(embeddings)
        odd = array.dtype.kind in "fO" and array.dtype not in (np.float16, np.float32, np.float64)
        if np.ma.is_masked(embeddings):
            raise ValueError("some are masked")
        return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float64 if odd else None))
    except (TypeError, ValueError, RuntimeError) as error:
        raise CourseError(f"The {what} are no table of numbers ({error}); pass a (N, d) matrix.") from error


def _check_norms(norms: torch.Tensor, what: str, start: int, tolerance: float) -> None:
    """Raise CourseError at the first row that is not finite or not of unit length."""
    wrong = ((norms - 1).abs() <= tolerance).logical_not().flatten()  # NaN compares false, so it counts as wrong
    if not wrong.any():
        return
    row = int(wrong.nonzero()[0])
    length = float(norms[row])
    if not math.isfinite(length):
        raise CourseError(f"Row {start + row} of the {what} holds NaN or infinity; look for a diverged model.")
    raise CourseError(
        f"Row {start + row} of the {what} has length {length:.4g}, not 1; use training.embed or F.normalize(x, dim=1)."
    )


def cosine_matrix(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Return the cosines (Q, N) float32 between two sets of `unit_rows`; equal gallery rows get equal cosines.

    Introduced in notebook 03.
    """
    cosines = torch.empty(len(queries), len(gallery), device=queries.device)
    for start in range(0, len(gallery), BLOCK):
        block = gallery[start : start + BLOCK]
        padded = torch.nn.functional.pad(block, (0, 0, 0, -len(block) % WIDTH))
        cosines[:, start : start + BLOCK] = (queries @ padded.T)[:, : len(block)]
    return cosines.clamp_(-1, SAME_POINT)


def chunks(n_queries: int, n_gallery: int, chunk_size: int | None) -> Iterator[slice]:
    """Yield slices of queries such that a chunk of cosines stays small, but still feeds the matrix product."""
    if chunk_size is not None and chunk_size < 1:
        raise CourseError(f"chunk_size is {chunk_size}; it is a number of queries and must be at least 1.")
    size = chunk_size or min(1024, max(32, CHUNK_ELEMENTS // n_gallery))
    for start in range(0, n_queries, size):
        yield slice(start, min(start + size, n_queries))


def as_labels(labels: Array | Sequence, n: int, what: str) -> np.ndarray:
    """Return one label or id per row as integers (int64) or text, or raise CourseError: nothing else can be compared.

    Lists, tuples, tensors, NumPy arrays and pandas columns are taken; whole numbers kept as floats become integers.
    """
    if np.ma.is_masked(labels):
        raise CourseError(f"Some {what} labels or ids are masked; leave these photos out.")
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu()
        labels = (labels.double() if labels.is_floating_point() else labels).numpy()
    if not (isinstance(labels, np.ndarray) and labels.dtype.kind in "iuU"):
        labels = np.asarray(labels, dtype=object)  # as objects, for NumPy would turn [1, "a"] into text
    if labels.shape != (n,):
        raise CourseError(f"There are {n} {what} embeddings but labels or ids of shape {labels.shape}; give one each.")
    if labels.dtype.kind == "U" or (labels.dtype.kind in "iu" and not (labels > np.iinfo(np.int64).max).any()):
        return labels.astype(np.int64) if labels.dtype.kind in "iu" else labels
    labels = np.array([*map(plain, labels.tolist()), None], dtype=object)[:-1]
    kinds = {_kind(label) for label in labels}
    if len(kinds) > 1 or kinds & {"other"}:
        found = ", ".join(sorted({type(label).__name__ for label in labels.tolist()}))
        raise CourseError(f"The {what} labels or ids are of type {found}; give whole numbers only, or text only.")
    return labels.astype(np.int64 if kinds <= {"numbers"} else str)


def _kind(label: object) -> str:
    """Return 'text', 'numbers' (whole ones), or 'other' for what is neither: True, NaN, None, bytes, 1.5."""
    if isinstance(label, str):
        return "text"
    whole = isinstance(label, int) and not isinstance(label, bool) and -(2**63) <= label < 2**63
    exact = isinstance(label, float) and label.is_integer() and abs(label) <= 2**53
    return "numbers" if whole or exact else "other"


def require_same_kind(one: np.ndarray, other: np.ndarray, what: str) -> None:
    """Raise CourseError if text is compared with numbers: '7' and 7 never agree, and nothing would be found."""
    kinds = ["text" if labels.dtype.kind == "U" else "numbers" for labels in (one, other)]
    if len(one) and len(other) and kinds[0] != kinds[1]:
        raise CourseError(f"The {what} are {kinds[0]} on the query side and {kinds[1]} in the gallery; use one kind.")


def require_same_width(queries: int, gallery: int) -> None:
    """Raise CourseError if queries and gallery come from models of different embedding size."""
    if queries != gallery:
        raise CourseError(f"Queries have {queries} dimensions and the gallery {gallery}; embed both with one model.")


def mean_or_nan(values: np.ndarray) -> float:
    """Return the mean as a float, NaN for no values (without NumPy's warning)."""
    return float(values.mean()) if len(values) else math.nan
