"""What every exercise checker does: compare an answer and say exact, close or wrong, with a hint.

A checker is written as what is right: `@same_as` turns the function that a student should write into its checker, and
`@checker` a function that judges an answer.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

EXACT, CLOSE, WRONG, NOT_ATTEMPTED = "exact", "close", "wrong", "not attempted yet"
ROUNDED, NEARLY = 0.01, 0.05  # how far off a number worked out by hand may be, and one that is called close
SYMBOLS = {EXACT: "✓", CLOSE: "≈", WRONG: "✗", NOT_ATTEMPTED: "…"}

# What a wrong answer can raise; anything else (such as an interrupt) is not the exercise's business.
STUDENT_ERRORS = (TypeError, ValueError, AttributeError, RuntimeError, LookupError, ArithmeticError, NameError)


def judged_on_cases(
    student: Any, reference: Callable, cases: Sequence[tuple], hint: str, tolerance: float
) -> tuple[str, str]:
    """Return the worst verdict on a function over all cases, each a tuple of arguments."""
    if is_blank(student):
        return NOT_ATTEMPTED, ""
    if not callable(student):
        return WRONG, f"a function is wanted here, not {type(student).__name__}."
    order = (EXACT, CLOSE, WRONG, NOT_ATTEMPTED)
    verdicts = [judged(run_case, student, reference, case, hint, tolerance) for case in cases]
    return max(verdicts, key=lambda verdict: order.index(verdict[0]))


def run_case(student: Callable, reference: Callable, case: tuple, hint: str, tolerance: float) -> tuple[str, str]:
    return compared(student(*copy.deepcopy(case)), reference(*case), hint, tolerance)


def judged(judge: Callable[..., tuple[str, str]], answer: Any, *given: Any) -> tuple[str, str]:
    """Return what a judge says of an answer; a blank one is not attempted, a function that stops is wrong."""
    if is_blank(answer):
        return NOT_ATTEMPTED, ""
    try:
        return judge(answer, *given)
    except NotImplementedError:
        return NOT_ATTEMPTED, ""
    except STUDENT_ERRORS as error:
        hint = f" Hint: {given[2]}" if judge is run_case else ""
        return WRONG, f"your function stopped with {type(error).__name__}: {one_line(error)}.{hint}"


def checker(name: str) -> Callable[[Callable[..., tuple[str, str]]], Callable[..., str]]:
    """Make a checker of a function that returns the status of an answer and what to say about it."""

    def made(judge: Callable[..., tuple[str, str]]) -> Callable[..., str]:
        @functools.wraps(judge)
        def check(answer: Any, *given: Any) -> str:
            return report(name, *judged(judge, answer, *given))

        return check

    return made


def same_as(
    name: str, cases: Sequence[tuple], hint: str, tolerance: float = 1e-4
) -> Callable[[Callable], Callable[..., str]]:
    """Make the right function a checker of functions, or of a number (rounded to 1 %) where arguments are given."""

    def made(reference: Callable) -> Callable[..., str]:
        @functools.wraps(reference)
        def check(answer: Any, *given: Any) -> str:
            if given and not callable(answer):
                return report(name, *compared(answer, reference(*given), hint, ROUNDED))
            asked = [given, *cases] if given else cases
            return report(name, *judged_on_cases(answer, reference, asked, hint, tolerance))

        check.reference = reference
        return check

    return made


def loss_as(name: str, cases: Sequence[tuple], hint: str) -> Callable[[Callable], Callable[..., str]]:
    """Make the right loss a checker: values are compared, and a gradient must reach the first argument."""
    no_gradient = "no gradient flows. Hint: torch alone, without NumPy, .item(), .detach() or float()."

    def made(right: Callable) -> Callable[..., str]:
        def judge(student: Callable) -> tuple[str, str]:
            if not callable(student):
                return WRONG, f"a function is wanted here, not {type(student).__name__}."
            for first, *others in cases:
                try:
                    learnt = first.clone().requires_grad_() * 1  # as in a training: it may be changed in place
                    answer = student(learnt, *copy.deepcopy(others))
                except RuntimeError as error:
                    if "requires grad" in str(error):  # NumPy was asked to take a tensor that learns
                        return WRONG, no_gradient
                    raise
                status, remark = compared(answer, right(first, *others), hint, 1e-4)
                if status != EXACT:
                    return status, remark
                if not getattr(answer, "requires_grad", False):
                    return CLOSE, f"the number is right, and {no_gradient}"
            return EXACT, ""

        check = checker(name)(functools.wraps(right)(judge))
        check.reference = right
        return check

    return made


def compared(answer: Any, expected: Any, hint: str, tolerance: float) -> tuple[str, str]:
    """Return the status of an answer and what to say about it; never raises on a strange answer."""
    if is_blank(answer):
        return NOT_ATTEMPTED, ""
    got, expected = as_array(answer), as_array(expected)
    if got is None:
        return WRONG, f"numbers are wanted here, not {type(answer).__name__}. Hint: {hint}"
    if got.shape != expected.shape:
        number = expected.shape == ()
        fault = "one number is wanted here" if number else f"the shape is {got.shape}, wanted is {expected.shape}"
        return WRONG, f"{fault}{f', not the shape {got.shape}' * number}. Hint: {hint}"
    if not np.isfinite(got).all():
        return WRONG, f"there is a NaN or an infinity in it. Hint: {hint}"
    size = float(np.abs(expected).max(initial=0.0)) or 1.0
    error = float(np.abs(got - expected).max(initial=0.0)) / size
    if error <= tolerance:
        return EXACT, ""
    return (CLOSE, f"rounding, or a small slip. Hint: {hint}") if error <= NEARLY else (WRONG, f"Hint: {hint}")


def compared_share(answer: Any, expected: float, hint: str) -> tuple[str, str]:
    """Return the status of a share between 0 and 1, with a word for one that is given in percent."""
    if is_number(got := as_array(answer)) and expected and abs(got / (100 * expected) - 1) <= NEARLY:
        return CLOSE, "that is percent; a fraction between 0 and 1 is wanted."
    return compared(answer, expected, hint, ROUNDED)


def unit_points(points: Any, least: int) -> tuple[np.ndarray | None, str]:
    """Return at least so many rows of length 1 as an array (n, d), or None and what is wrong with the points."""
    wanted, z = f"wanted are at least {least} rows of length 1", as_array(points)
    if z is None or z.ndim != 2 or z.shape[1] < 2:
        return None, f"{wanted}: a table of numbers, a row for each photo."
    if len(z) < least:
        return None, f"{wanted}, and here are {len(z)}. Hint: add rows."
    lengths = np.linalg.norm(z, axis=1)
    if np.allclose(lengths, 1, atol=1e-3):
        return z, ""
    worst = lengths[np.abs(lengths - 1).argmax()]
    return None, f"{wanted}, and one here is {worst:.2f} long. Hint: divide each row by its norm."


def nearest_cosines(z: np.ndarray) -> np.ndarray:
    cosines = z @ z.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.max(1)


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


def is_number(value: np.ndarray | None) -> bool:
    return value is not None and value.shape == ()


def is_blank(value: Any) -> bool:
    return value is None or value is Ellipsis


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".") or "no message"
    return text if len(text) <= 120 else text[:119] + "…"


def report(name: str, status: str, remark: str) -> str:
    print(f"{SYMBOLS[status]} {name}: {status}{'. ' if remark else ''}{remark}")
    return status
