"""What every exercise checker does: compare an answer and say exact, close or wrong, with a hint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

EXACT, CLOSE, WRONG, NOT_ATTEMPTED = "exact", "close", "wrong", "not attempted yet"
SYMBOLS = {EXACT: "✓", CLOSE: "≈", WRONG: "✗", NOT_ATTEMPTED: "…"}

# What a wrong answer can raise; anything else (such as an interrupt) is not the exercise's business.
STUDENT_ERRORS = (TypeError, ValueError, AttributeError, RuntimeError, LookupError, ArithmeticError, NameError)


# ------------------------------------------------------------------------------------------------- general checkers


def check_value(answer: Any, expected: Any, hint: str, tolerance: float = 1e-3, name: str = "answer") -> str:
    """Compare a number or array with the expected one, print one line and return the status.

    Exact within `tolerance` (absolute), close within ten times that or 5 % of the expected size. Notebook 00.
    """
    return report(name, *_compare(answer, expected, hint, tolerance))


def check_function(
    student: Callable | None,
    reference: Callable,
    cases: Sequence[tuple],
    hint: str,
    tolerance: float = 1e-4,
    name: str = "function",
) -> str:
    """Call the student's function and the reference on every case (a tuple of arguments); print the worst verdict.

    A function that returns None or ... counts as not attempted. Introduced in notebook 03.
    """
    if is_blank(student):
        return report(name, NOT_ATTEMPTED, "")
    if not callable(student):
        return report(name, WRONG, f"a function is wanted here, not {type(student).__name__}.")
    order = (EXACT, CLOSE, WRONG, NOT_ATTEMPTED)
    verdicts = [_run_case(student, reference, case, hint, tolerance) for case in cases]
    return report(name, *max(verdicts, key=lambda verdict: order.index(verdict[0])))


def _run_case(student: Callable, reference: Callable, case: tuple, hint: str, tolerance: float) -> tuple[str, str]:
    try:
        answer = student(*case)
    except NotImplementedError:
        return NOT_ATTEMPTED, ""
    except STUDENT_ERRORS as error:
        return WRONG, f"your function stopped with {type(error).__name__}: {one_line(error)}. Hint: {hint}"
    return _compare(answer, reference(*case), hint, tolerance)


def _compare(answer: Any, expected: Any, hint: str, tolerance: float) -> tuple[str, str]:
    """Return the status of an answer and what to say about it; never raises on a strange answer."""
    if is_blank(answer):
        return NOT_ATTEMPTED, ""
    got, expected = as_array(answer), as_array(expected)
    if got is None:
        return WRONG, f"numbers are wanted here, not {type(answer).__name__}. Hint: {hint}"
    if got.shape != expected.shape:
        return WRONG, f"the shape is {got.shape}, wanted is {expected.shape}. Hint: {hint}"
    if not np.isfinite(got).all():
        return WRONG, f"there is a NaN or an infinity in it. Hint: {hint}"
    error = float(np.abs(got - expected).max(initial=0.0))
    if error <= tolerance:
        return EXACT, ""
    if error <= max(10 * tolerance, 0.05 * float(np.abs(expected).max(initial=0.0))):
        return CLOSE, f"rounding, or a small slip. Hint: {hint}"
    return WRONG, f"Hint: {hint}"


def as_array(value: Any) -> np.ndarray | None:
    """Turn numbers, lists, arrays or tensors into float64, or None when they are something else."""
    if isinstance(value, str | bytes):
        return None
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
        return np.asarray(value, dtype=np.float64)
    except STUDENT_ERRORS:
        return None


def is_blank(value: Any) -> bool:
    return value is None or value is Ellipsis


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= 120 else text[:119] + "…"


def report(name: str, status: str, remark: str) -> str:
    print(f"{SYMBOLS[status]} {name}: {status}{'. ' if remark else ''}{remark}")
    return status
