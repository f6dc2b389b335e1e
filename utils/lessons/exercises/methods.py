"""Exercises of notebooks 05 to 08: the unlearning methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .base import (
    CLOSE,
    EXACT,
    NOT_ATTEMPTED,
    STUDENT_ERRORS,
    WRONG,
    as_array,
    check_function,
    check_value,
    is_blank,
    one_line,
    report,
)


def check_05_wrong_names(student: Callable | None) -> str:
    """Check a function (n photos, allowed names, NumPy generator) -> n wrong names, one for each photo. Notebook 05.

    Properties are tested, not one solution: only allowed names, not the same for all, and repeatable.
    """
    name, allowed = "wrong names", np.array([3, 5, 8, 13, 21])
    if is_blank(student):
        return report(name, NOT_ATTEMPTED, "")
    try:
        first, again, other = (student(40, allowed.copy(), np.random.default_rng(seed)) for seed in (0, 0, 1))
    except STUDENT_ERRORS as error:
        return report(name, WRONG, f"your function stopped with {type(error).__name__}: {one_line(error)}.")
    if is_blank(first):
        return report(name, NOT_ATTEMPTED, "")
    drawn = [as_array(names) for names in (first, again, other)]
    if any(names is None or names.shape != (40,) for names in drawn):
        return report(name, WRONG, "40 photos want 40 names. Hint: ask the generator for all of them at once.")
    if not np.isin(drawn[0], allowed).all():
        return report(name, WRONG, "a name outside the allowed ones came up. Hint: let the generator pick from them.")
    if len(np.unique(drawn[0])) == 1:
        return report(name, WRONG, "every photo got the same name, and one name for all keeps them together.")
    if np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2]):
        return report(name, EXACT, "")
    return report(name, CLOSE, "the names do not hang on the generator. Hint: draw them with the one you are given.")


def check_05_silent_scale(student: Any, gap: float | None = None) -> str:
    """Check from which scale on log(1 + exp(-scale x gap)) is exactly 0 in float32: a number for `gap`, or a function
    of any gap. Notebook 05."""
    hint = "set exp(-scale × gap) equal to 2 to the power of -24, and take the logarithm of both sides."
    if gap is not None and not callable(student):
        return check_value(student, _silent_scale(gap), hint, 0.01 * _silent_scale(gap), "silent scale")
    return check_function(student, _silent_scale, [(0.2,), (0.5,), (0.7,), (1.0,)], hint, 0.1, "silent scale")


def _silent_scale(gap: float) -> float:
    return 24 * math.log(2) / gap


def check_05_bounded(student: Callable | None) -> str:
    """Check a function (cross-entropy, bound) -> loss whose minimiser climbs to the bound and then rests. Notebook 05.

    Floats go in; a tensor may come out.
    """
    cases = [(climbed, bound) for climbed in (0.0, 1.0, 4.0, 9.0) for bound in (4.0, 6.5)]
    hint = "what is still missing to the bound, and nothing once it is reached."
    return check_function(student, lambda climbed, bound: max(bound - climbed, 0.0), cases, hint, name="bounded ascent")


# What became of the forget people in three runs whose head no longer names them: R@1 among the new embeddings, R@1 of
# new queries in the old gallery, and the mean cosine of a photo to its own place before.
DIAGNOSES = {"run 1": (0.97, 0.04, 0.15), "run 2": (0.21, 0.78, 0.66), "run 3": (1.0, 1.0, 1.0)}


def check_05_diagnosis(answer: Any) -> str:
    """Check a string of three letters: which silent failure (a, b or c) each of DIAGNOSES shows. Notebook 05."""
    name = "diagnosis"
    if is_blank(answer):
        return report(name, NOT_ATTEMPTED, "")
    letters = [letter for letter in str(answer).casefold() if letter.isalnum()]
    if len(letters) != 3 or not set(letters) <= set("abc"):
        return report(name, WRONG, "three letters are wanted, one for each run, each of them a, b or c.")
    right = sum(map(str.__eq__, letters, _diagnoses()))
    hint = "did a photo move at all? Then ask which gallery still finds it."
    return report(name, {3: EXACT, 2: CLOSE}.get(right, WRONG), "" if right == 3 else f"{right} of 3. Hint: {hint}")


def _diagnoses() -> str:
    """Return the letter of each run: nothing moved (a), found in the new gallery (b), or found in the old one (c)."""
    return "".join("a" if stayed > 0.99 else "b" if new > old else "c" for new, old, stayed in DIAGNOSES.values())


# ----------------------------------------------------------------------------- notebook 06: boundaries and teachers


def check_06_masked_target(student: Callable | None) -> str:
    """Check a function (cosines (C,), positions struck out, scale) -> probabilities (C,), DELETE's target. Notebook 06.

    The struck names get 0 and the others share everything.
    """
    cosines = np.array([0.9, 0.35, 0.2, -0.1, 0.31])
    cases = [(cosines.copy(), struck, scale) for struck, scale in (([0], 16.0), ([0, 4], 16.0), ([1, 3], 4.0))]
    hint = "rule the struck names out before the softmax, so that what is left sums to 1."
    return check_function(student, _masked_target, cases, hint, name="masked target")


def _masked_target(cosines: np.ndarray, struck: Sequence[int], scale: float) -> np.ndarray:
    shares = np.exp(scale * np.delete(cosines, struck))
    target = np.zeros(len(cosines))
    target[np.setdiff1d(np.arange(len(cosines)), struck)] = shares / shares.sum()
    return target


def check_06_divergence(student: Callable | None) -> str:
    """Check a function (teacher (C,), student (C,)) of probabilities -> KL(teacher || student). Notebook 06."""
    pairs = [([0.5, 0.5], [0.9, 0.1]), ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6]), ([0.0, 0.4, 0.6], [0.8, 0.1, 0.1])]
    cases = [(np.array(teacher), np.array(pupil)) for teacher, pupil in pairs]
    hint = "the teacher's shares weigh the logarithms; sum over names, and let a share of zero count for nothing."
    return check_function(student, _divergence, cases, hint, name="divergence")


def _divergence(teacher: np.ndarray, pupil: np.ndarray) -> float:
    return float(sum(t * math.log(t / p) for t, p in zip(teacher, pupil, strict=True) if t > 0))


def check_06_rewind(student: Callable | None) -> str:
    """Check a function (errors at the stops, reference) -> position of the stop SCRUB rewinds to. Notebook 06."""
    cases = [([0.0, 0.2, 0.7, 1.0, 1.0], 1.0), ([0.1, 0.5, 0.9], 0.6), ([0.25, 0.75, 0.25], 0.5), ([0.3], 1.0)]
    hint = "what counts is the distance to the reference, on either side; of equal distances the last one wins."
    return check_function(student, _rewind, [(list(errors), wanted) for errors, wanted in cases], hint, name="rewind")


def _rewind(errors: Sequence[float], reference: float) -> int:
    return min(range(len(errors)), key=lambda i: (abs(errors[i] - reference), -i))


# -------------------------------------------------------------------------------- notebook 07: prune and project


def check_07_damping(student: Callable | None) -> str:
    """Check a function (forget importance, whole importance, alpha, strength) -> SSD's factor. Notebook 07."""
    cases = [(1.0, 0.05, 10, 1.0), (1.0, 0.5, 10, 1.0), (3.0, 1.0, 2, 0.3), (4.0, 1.0, 2, 8.0), (0.0, 0.0, 1, 1.0)]
    hint = "first ask whether the weight stands out at all; and no weight is ever enlarged."
    return check_function(student, _damping_factor, cases, hint, name="damping factor")


def _damping_factor(forget: float, whole: float, alpha: float, strength: float) -> float:
    return min(strength * whole / forget, 1.0) if forget > alpha * whole else 1.0


def check_07_salient_counts(student: Callable | None) -> str:
    """Check a function (list of score arrays, share) -> how many of each are in the top share. Notebook 07."""
    layers = [np.array([5.0, 4.0, 0.1]), np.array([3.0, 2.0, 1.0, 0.5, 0.2])]
    cases = [([layer.copy() for layer in layers], share) for share in (0.5, 0.25, 0.75, 1.0)]
    hint = "rank the scores of all layers in one list, find the lowest that still gets in, then count layer by layer."
    return check_function(student, _salient_counts, cases, hint, name="salient counts")


def _salient_counts(scores: Sequence[np.ndarray], share: float) -> list[int]:
    ranked = np.sort(np.concatenate(scores))[::-1]
    lowest = ranked[round(share * len(ranked)) - 1]
    return [int((layer >= lowest).sum()) for layer in scores]


def check_07_eraser(student: Callable | None) -> str:
    """Check a function: points (n, d) torch float, k -> the projection (d, d) that erases k directions. Notebook 07."""
    import torch

    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5])
    points = torch.randn(40, 5, generator=generator) * sizes + torch.tensor([0.0, 4.0, 0.0, 0.0, 0.0])
    hint = "singular vectors come strongest first: keep everything but what lies along the first k, without centring."
    return check_function(student, _eraser, [(points.clone(), k) for k in (1, 2, 4)], hint, 1e-3, "eraser")


def _eraser(points: Any, k: int) -> np.ndarray:
    directions = np.linalg.svd(points.numpy().astype(np.float64), full_matrices=False)[2][:k]
    return np.eye(directions.shape[1]) - directions.T @ directions


# ------------------------------------------------------------------------------------------ notebook 08: dispersion


def check_08_mean_pair_cosine(student: Callable | None) -> str:
    """Check a function: unit rows (n, d) torch float -> mean cosine over all pairs of different rows. Notebook 08."""
    import torch

    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(n, d, generator=generator) for n, d in ((2, 3), (5, 4), (8, 16))]
    cases = [(torch.nn.functional.normalize(draw),) for draw in draws]
    hint = "in z @ z.T the diagonal compares each photo with itself: leave it out, and divide by n(n − 1)."
    return check_function(student, _mean_pair_cosine, cases, hint, name="mean-pair cosine")


def _mean_pair_cosine(z: Any) -> float:
    total, n = float((z @ z.T).sum()), len(z)
    return (total - float((z * z).sum())) / (n * (n - 1))


def check_08_blind_spot(points: Any, slack: float = 0.02) -> str:
    """Check unit vectors (n, d) whose mean-pair cosine is minimal though every nearest cosine exceeds 0.9. Notebook 08.

    The property is tested, not one solution: any set of at least 4 rows that has it is exact.
    """
    name = "blind spot"
    if is_blank(points):
        return report(name, NOT_ATTEMPTED, "")
    z = as_array(points)
    if z is None or z.ndim != 2 or len(z) < 4 or z.shape[1] < 2:
        return report(name, WRONG, "wanted is a table of numbers: at least 4 rows, one unit vector each.")
    if not np.allclose(np.linalg.norm(z, axis=1), 1, atol=1e-3):
        return report(name, WRONG, "not every row has length 1. Hint: divide each row by its norm.")
    n = len(z)
    mean, nearest = _mean_pair_cosine(z), nearest_cosines(z).min()
    lowest = -1 / (n - 1)
    if mean <= lowest + slack and nearest > 0.9:
        return report(name, EXACT, f"mean cosine {mean:+.2f}, and yet every photo has a neighbour at {nearest:.2f}.")
    if mean <= lowest + 5 * slack and nearest > 0.8:
        return report(name, CLOSE, f"mean {mean:+.3f} (lowest possible {lowest:+.3f}), nearest {nearest:.2f}.")
    if nearest > 0.9:
        return report(name, WRONG, f"the mean is still {mean:+.2f}. Hint: let the rows sum to zero.")
    return report(name, WRONG, f"a photo's nearest cosine is only {nearest:.2f}. Hint: put photos in tight groups.")


def nearest_cosines(z: np.ndarray) -> np.ndarray:
    cosines = z @ z.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.max(1)


def check_08_best_possible(student: Any, n: int | None = None) -> str:
    """Check the lowest mean-pair cosine that n unit vectors can have: a number, or a function of n. Notebook 08."""
    hint = "the squared length of a sum of unit vectors is n plus all pair cosines, and it is never below 0."
    if n is not None and not callable(student):
        return check_value(student, -1 / (n - 1), hint, 0.002, "best possible")
    cases = [(count,) for count in (2, 3, 10, 40)]
    return check_function(student, lambda count: -1 / (count - 1), cases, hint, name="best possible")


def check_08_empty_place(student: Callable | None) -> str:
    """Check a function: unit rows (n, d) torch float -> the unit vector (d,) along which they have least energy.

    The energy is compared, not the vector, as its sign is free. Introduced in notebook 08.
    """
    name, hint = "empty place", "torch.linalg.eigh(points.T @ points) sorts its eigenvalues, the smallest first."
    if is_blank(student) or not callable(student):
        return report(name, NOT_ATTEMPTED if is_blank(student) else WRONG, "")
    import torch

    generator = torch.Generator().manual_seed(0)
    for n, d in ((30, 3), (60, 8)):
        points = torch.nn.functional.normalize(torch.randn(n, d, generator=generator) * torch.linspace(0.2, 2, d))
        try:
            answer = student(points)
        except STUDENT_ERRORS as error:
            return report(name, WRONG, f"your function stopped with {type(error).__name__}: {one_line(error)}.")
        if is_blank(answer):
            return report(name, NOT_ATTEMPTED, "")
        found = as_array(answer)
        if found is None or found.shape != (d,) or abs(np.linalg.norm(found) - 1) > 1e-3:
            return report(name, WRONG, f"wanted is one vector of {d} numbers, of length 1. Hint: {hint}")
        energy, least = np.square(points.numpy() @ found).sum(), float(torch.linalg.eigvalsh(points.T @ points)[0])
        if energy > least + 0.01 * n:
            close = energy <= least + 0.05 * n
            return report(name, CLOSE if close else WRONG, f"a quieter direction exists. Hint: {hint}")
    return report(name, EXACT, "")
