"""Exercises of notebooks 09 to 11: benchmark, audit, your own photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...unlearning.registry import METHODS
from .base import CLOSE, EXACT, WRONG, checker, compared, compared_share, nearest_cosines, same_as, unit_points

POINTS = np.array([[0.0, 1], [0, 1], [1, 1]])


@same_as(
    "front",
    [
        *((points,) for points in (np.random.default_rng(n).integers(0, 4, (n, 2)) * 1.0 for n in (1, 2, 6, 12))),
        (POINTS,),
    ],
    "row i dominates row j if it is nowhere higher and somewhere lower; equal rows do not dominate each other.",
)
def check_09_front(points: np.ndarray) -> np.ndarray:
    """Check a function: points (n, 2), lower is better -> bool (n,), True where no row dominates. Notebook 09."""
    beaten = [any((p <= q).all() and (p < q).any() for p in points) for q in points]
    return ~np.array(beaten)


@same_as(
    "share",
    [([0.1, 0.2, 0.3, 0.4], 0.25), ([0.5], 0.1), ([0.0, 0.1], 0.1), ([0.3, 0.3], 0.9)],
    "compare each score with the limit; the mean of the comparisons is the share, from 0 to 1. Equal is not above.",
)
def check_09_share_above(scores: Sequence[float], limit: float) -> float:
    """Check a function: (scores, limit) -> the share of scores above the limit. Introduced in notebook 09."""
    return float(np.mean(np.asarray(scores) > limit))


@checker("recommendation")
def check_09_choice(answer: Any) -> tuple[str, str]:
    """Check the method that fits the door of notebook 09: weights only, strangers kept, no retraining."""
    known = {plain(said): name for name, entry in METHODS.items() for said in (name, entry.title)}
    name = known.get(plain(answer)) if isinstance(answer, str) else None
    if name is None:
        return WRONG, "wanted is one method's name in quotes, as the table writes it."
    if name == "dispersion_blends":
        return EXACT, "it changes weights only, and strangers are what it holds."
    if METHODS[name].kind == "reference":
        return WRONG, "that is a yardstick: it hides nobody. Hint: nobody may be retrained, and five must be hidden."
    if METHODS[name].kind == "wrapper":
        return CLOSE, "it hides well, but puts a part behind the network. Hint: weights only."
    if (name.startswith("dispersion") and not name.endswith("alone")) or name == "esc_folded":
        return CLOSE, "it hides by weights alone. Hint: compare what unseen people keep."
    return WRONG, "Hint: first look for who is hidden from a search, then at the unseen people."


def plain(name: str) -> str:
    """Return a method's name in small letters, without what people write differently."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


@same_as(
    "recovered",
    [(0.5, 0.1, 0.9), (0.0, 0.5, 0.9), (1.0, 0.1, 0.7), (0.8, 0.7, 1.0), (0.7, 0.7, 1.0)],
    "from the target, how far did the score go, and how far could it go? Then keep it between 0 and 1.",
)
def check_10_recovered(score: float, target: float, original: float) -> float:
    """Check a function (score, target, original) -> the share of the way back to the original, 0 to 1. Notebook 10."""
    return min(max((score - target) / (original - target), 0.0), 1.0)


COSINES = (([1.0, 2.0], [0.0, 1.0]), ([0.1], [0.5, 0.6, 0.7]), ([0.4, 0.4], [0.4]), ([0.9, 0.2, 0.5], [0.3, 0.1]))


@same_as(
    "AUC",
    [(np.array(forget), np.array(unseen)) for forget, unseen in COSINES],
    "compare every forget cosine with every unseen one: a win counts 1, a tie a half; take the mean.",
)
def check_10_auc(forget: np.ndarray, unseen: np.ndarray) -> float:
    """Check a function (cosines of forget pairs, of unseen pairs) -> AUC, ties counting half. Notebook 10."""
    from sklearn.metrics import roc_auc_score  # here: its import takes a second, and every notebook has exercises

    return float(roc_auc_score(np.repeat([1, 0], [len(forget), len(unseen)]), np.concatenate([forget, unseen])))


@checker("hidden direction")
def check_10_hidden_direction(points: Any) -> tuple[str, str]:
    """Check unit rows (n >= 6, d): no two cosines above 0.3, yet each has cosine 0.5 to the mean. Notebook 10."""
    z, fault = unit_points(points, 6)
    if z is None:
        return WRONG, fault
    template, nearest = z.mean(axis=0), float(nearest_cosines(z).max())
    length = float(np.linalg.norm(template))
    least = float((z @ template).min() / length) if length > 1e-9 else 0.0
    if nearest <= 0.3 and least >= 0.5:
        return EXACT, f"no two nearer than {nearest:.2f}, and all within {least:.2f} of the template."
    found = f"nearest pair {nearest:.2f}, lowest to the template {least:.2f}."
    if nearest <= 0.35 and least >= 0.45:
        return CLOSE, f"{found} Hint: give them a little {'less' if nearest > 0.3 else 'more'} of what they share."
    hint = "give every photo a direction of its own, and add a little of one direction that all share."
    return WRONG, f"{found} Hint: {hint}"


@checker("chance")
def check_11_chance(answer: Any, mine: int, gallery: int) -> tuple[str, str]:
    """Check the chance that the first photo of a gallery in random order is yours. Introduced in notebook 11."""
    hint = "so many of the gallery's photos are yours: what share of all is that?"
    return compared_share(answer, mine / gallery, hint)


@checker("verdicts")
def check_11_verdicts(answer: Any, ranks: Sequence[float], patience: int = 10) -> tuple[str, str]:
    """Check for each rank whether somebody with some patience finds you, as booleans. Introduced in notebook 11."""
    hint = f"found means that the rank after unlearning is {patience} or better."
    return compared(answer, [float(rank <= patience) for rank in ranks], hint, 1e-6)


@checker("leftovers")
def check_11_leftovers(answer: Any) -> tuple[str, str]:
    """Check the list of what still shows your face after notebook 11 has run with delete = True."""
    hint = "what lay in memory only is gone; what was deleted is gone; what is a file, is not."
    if not isinstance(answer, set | frozenset | list | tuple | np.ndarray):
        return WRONG, "wanted is a list of names in quotes."
    given, right = {str(item).casefold() for item in answer}, {"outputs of this notebook", "your folder"}
    if given == right:
        return EXACT, ""
    if given and given < right:
        return CLOSE, f"right so far, and not all. Hint: {hint}"
    return WRONG, f"{len(given - right)} of your names do not belong there. Hint: {hint}" if given else f"Hint: {hint}"
