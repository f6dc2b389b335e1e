"""Exercises of notebooks 09 to 11: benchmark, audit, your own photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .base import CLOSE, EXACT, NOT_ATTEMPTED, WRONG, as_array, check_function, check_value, is_blank, report
from .methods import nearest_cosines


def check_09_front(student: Callable | None) -> str:
    """Check a function: points (n, 3), lower is better -> bool (n,), True where no row dominates. Notebook 09."""
    rng = np.random.default_rng(0)
    cases = [(rng.integers(0, 4, (n, 3)).astype(float),) for n in (1, 2, 6, 12)]
    cases.append((np.array([[0.0, 1, 1], [0, 1, 1], [1, 1, 1]]),))
    hint = "row i dominates row j if it is nowhere higher and somewhere lower; equal rows do not dominate each other."
    return check_function(student, _front, cases, hint, name="front")


def _front(points: np.ndarray) -> np.ndarray:
    beaten = [any((p <= q).all() and (p < q).any() for p in points) for q in points]
    return ~np.array(beaten)


def check_09_share_above(student: Callable | None) -> str:
    """Check a function: (scores, limit) -> the share of scores above the limit. Introduced in notebook 09."""
    cases = [([0.1, 0.2, 0.3, 0.4], 0.25), ([0.5], 0.1), ([0.0, 0.1], 0.1), ([0.3, 0.3], 0.9)]
    hint = "compare each score with the limit; the mean of the comparisons is the share. Equal is not above."
    return check_function(student, lambda scores, limit: np.mean(np.asarray(scores) > limit), cases, hint, name="share")


def check_09_choice(answer: Any) -> str:
    """Check the name of a method that fits the door of notebook 09: weights only, strangers kept, no retraining."""
    from ...unlearning.registry import METHODS

    name = "recommendation"
    if is_blank(answer):
        return report(name, NOT_ATTEMPTED, "")
    if not isinstance(answer, str) or answer not in METHODS:
        return report(name, WRONG, "wanted is a method's name in quotes, as in the table's code.")
    if answer == "dispersion_blends":
        return report(name, EXACT, "it changes weights only, and strangers are what it holds.")
    if answer in ("gather_scatter", "esc"):
        return report(name, CLOSE, "it hides well, but puts a part behind the network. Hint: weights only.")
    if answer.startswith("dispersion"):
        return report(name, CLOSE, "it hides by weights alone. Hint: compare what unseen people keep.")
    return report(name, WRONG, "Hint: first look for who is hidden from a search, then at the unseen people.")


# ------------------------------------------------------------------------------------------- notebook 10: the audit


def check_10_recovered(student: Callable | None) -> str:
    """Check a function (score, target, original) -> the share of the way back to the original, 0 to 1. Notebook 10."""
    cases = [(0.5, 0.1, 0.9), (0.05, 0.1, 0.9), (0.95, 0.1, 0.9), (0.8, 0.7, 1.0), (0.7, 0.7, 1.0)]
    hint = "from the target, how far did the score go, and how far could it go? Then keep it between 0 and 1."
    return check_function(student, _recovered_share, cases, hint, name="recovered")


def _recovered_share(score: float, target: float, original: float) -> float:
    return min(max((score - target) / (original - target), 0.0), 1.0)


def check_10_auc(student: Callable | None) -> str:
    """Check a function (cosines of forget pairs, of unseen pairs) -> AUC, ties counting half. Notebook 10."""
    lists = [([1.0, 2.0], [0.0, 1.0]), ([0.1], [0.5, 0.6, 0.7]), ([0.4, 0.4], [0.4]), ([0.9, 0.2, 0.5], [0.3, 0.1])]
    cases = [(np.array(forget), np.array(unseen)) for forget, unseen in lists]
    hint = "compare every forget cosine with every unseen one: a win counts 1, a tie a half; take the mean."
    return check_function(student, _auc, cases, hint, name="AUC")


def _auc(forget: np.ndarray, unseen: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([1, 0], [len(forget), len(unseen)]), np.concatenate([forget, unseen])))


def check_10_hidden_direction(points: Any) -> str:
    """Check unit rows (n >= 6, d) in which no two cosines exceed 0.3, yet each has cosine 0.5 to the mean. Notebook 10.

    The property is tested, not one solution.
    """
    name = "hidden direction"
    if is_blank(points):
        return report(name, NOT_ATTEMPTED, "")
    z = as_array(points)
    if z is None or z.ndim != 2 or len(z) < 6 or not np.allclose(np.linalg.norm(z, axis=1), 1, atol=1e-3):
        return report(name, WRONG, "wanted are at least 6 rows of length 1.")
    template = z.mean(axis=0)
    length = float(np.linalg.norm(template))
    least = float((z @ template).min() / length) if length > 1e-9 else 0.0
    nearest = float(nearest_cosines(z).max())
    if nearest <= 0.3 and least >= 0.5:
        return report(name, EXACT, f"no two nearer than {nearest:.2f}, and all within {least:.2f} of the template.")
    if nearest <= 0.35 and least >= 0.45:
        return report(name, CLOSE, f"nearest pair {nearest:.2f}, lowest cosine to the template {least:.2f}.")
    hint = "give every photo a direction of its own, and add a little of one direction that all share."
    return report(name, WRONG, f"nearest pair {nearest:.2f}, lowest to the template {least:.2f}. Hint: {hint}")


# ---------------------------------------------------------------------------------------- notebook 11: your own photos


def check_11_chance(answer: Any, mine: int, gallery: int) -> str:
    """Check the chance that the first photo of a gallery in random order is yours. Introduced in notebook 11."""
    hint = "so many of the gallery's photos are yours: what share of all is that?"
    return check_value(answer, mine / gallery, hint, 1e-6, "chance")


def check_11_verdicts(answer: Any, ranks: Sequence[float], patience: int = 10) -> str:
    """Check for each rank whether somebody with some patience finds you, as booleans. Introduced in notebook 11."""
    expected = [float(rank <= patience) for rank in ranks]
    hint = f"found means that the rank after unlearning is {patience} or better."
    return check_value(answer, expected, hint, 1e-6, "verdicts")


def check_11_leftovers(answer: Any) -> str:
    """Check the list of what still shows your face after notebook 11 has run with delete = True."""
    name, right = "leftovers", {"outputs of this notebook", "your folder"}
    if is_blank(answer):
        return report(name, NOT_ATTEMPTED, "")
    if isinstance(answer, str) or not isinstance(answer, set | list | tuple):
        return report(name, WRONG, "wanted is a list of names in quotes.")
    given = {str(item) for item in answer}
    if given == right:
        return report(name, EXACT, "")
    hint = "what lay in memory only is gone; what was deleted is gone; what is a file, is not."
    return report(name, CLOSE if given and given < right else WRONG, f"Hint: {hint}")
