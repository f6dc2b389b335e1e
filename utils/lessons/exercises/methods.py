"""Exercises of notebooks 05 to 08: the unlearning methods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...unlearning.dispersion import hardest_cosine, mean_cosine
from ...unlearning.methods.scatter import smallest_principal_axis
from .base import (
    CLOSE,
    EXACT,
    NOT_ATTEMPTED,
    WRONG,
    as_array,
    checker,
    compared,
    is_blank,
    nearest_cosines,
    same_as,
    unit_points,
)
from .faces import drawn


@checker("wrong names")
def check_05_wrong_names(student: Callable) -> tuple[str, str]:
    """Check a function (n photos, allowed names, NumPy generator) -> n wrong names, one for each photo. Notebook 05.

    Properties are tested, not one solution: only allowed names, not the same for all, and repeatable.
    """
    allowed = np.array([3, 5, 8, 13, 21])
    answers = [student(40, allowed.copy(), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    if is_blank(answers[0]):
        return NOT_ATTEMPTED, ""
    first, again, other = map(as_array, answers)
    if any(names is None or names.shape != (40,) for names in (first, again, other)):
        return WRONG, "40 photos want 40 names. Hint: ask the generator for all of them at once."
    if not np.isin(first, allowed).all():
        return WRONG, "a name outside the allowed ones came up. Hint: let the generator pick from them."
    if len(np.unique(first)) == 1:
        return WRONG, "every photo got the same name, and one name for all keeps them together."
    if np.array_equal(first, again) and not np.array_equal(first, other):
        return EXACT, ""
    return CLOSE, "the names do not hang on the generator. Hint: draw them with the one you are given."


@same_as(
    "silent scale",
    [(0.2,), (0.5,), (0.7,), (1.0,)],
    "set exp(-scale × gap) equal to 2 to the power of -24, and take the logarithm of both sides.",
    5e-3,
)
def check_05_silent_scale(gap: float) -> float:
    """Check from which scale on log(1 + exp(-scale x gap)) is exactly 0 in float32: a number for a gap that is given,
    or a function of any gap. Notebook 05."""
    return 24 * math.log(2) / gap


@same_as(
    "bounded ascent",
    [(climbed, bound) for climbed in (0.0, 1.0, 4.0, 9.0) for bound in (4.0, 6.5)],
    "what is still missing to the bound, and nothing once it is reached.",
)
def check_05_bounded(climbed: float, bound: float) -> float:
    """Check a function (cross-entropy, bound) -> loss whose minimiser climbs to the bound and then rests. Notebook 05.

    Floats go in; a tensor may come out.
    """
    return max(bound - climbed, 0.0)


# What became of the forget people in three runs whose head no longer names them: R@1 among the new embeddings, R@1 of
# new queries in the old gallery, and the mean cosine of a photo to its own place before.
DIAGNOSES = {"run 1": (0.97, 0.04, 0.15), "run 2": (0.21, 0.78, 0.66), "run 3": (1.0, 1.0, 1.0)}


@checker("diagnosis")
def check_05_diagnosis(answer: Any) -> tuple[str, str]:
    """Check a string of three letters: which silent failure (a, b or c) each of DIAGNOSES shows. Notebook 05."""
    letters = [letter for letter in str(answer).casefold() if letter.isalnum()]
    if len(letters) != 3 or not set(letters) <= set("abc"):
        return WRONG, "three letters are wanted, one for each run, each of them a, b or c."
    right = sum(map(str.__eq__, letters, diagnoses()))
    hint = "did a photo move at all? Then ask which gallery still finds it."
    return {3: EXACT, 2: CLOSE}.get(right, WRONG), "" if right == 3 else f"{right} of 3. Hint: {hint}"


def diagnoses() -> str:
    """Return the letter of each run: nothing moved (a), found in the new gallery (b), or found in the old one (c)."""
    return "".join("a" if stayed > 0.99 else "b" if new > old else "c" for new, old, stayed in DIAGNOSES.values())


COSINES = np.array([0.9, 0.35, 0.2, -0.1, 0.31])


@same_as(
    "masked target",
    [(COSINES, [0], 16.0), (COSINES, [0, 4], 16.0), (-COSINES, [1, 3], 4.0)],
    "rule the struck names out before the softmax, so that what is left sums to 1.",
)
def check_06_masked_target(cosines: np.ndarray, struck: Sequence[int], scale: float) -> np.ndarray:
    """Check a function (cosines (C,), positions struck out, scale) -> probabilities (C,), DELETE's target. Notebook 06.

    The struck names get 0 and the others share everything.
    """
    shares = np.exp(scale * np.asarray(cosines))
    shares[list(struck)] = 0
    return shares / shares.sum()


PAIRS = (([0.5, 0.5], [0.9, 0.1]), ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6]), ([0.0, 0.4, 0.6], [0.8, 0.1, 0.1]))


@same_as(
    "divergence",
    [(np.array(teacher), np.array(pupil)) for teacher, pupil in PAIRS],
    "the teacher's shares weigh the logarithms; sum over names, and let a share of zero count for nothing.",
)
def check_06_divergence(teacher: np.ndarray, pupil: np.ndarray) -> float:
    """Check a function (teacher (C,), student (C,)) of probabilities -> KL(teacher || student). Notebook 06."""
    return float(sum(t * math.log(t / p) for t, p in zip(teacher, pupil, strict=True) if t > 0))


@same_as(
    "rewind",
    [([0.0, 0.2, 0.7, 1.0, 1.0], 1.0), ([0.1, 0.5, 0.9], 0.6), ([0.25, 0.75, 0.25], 0.5), ([0.25, 0.75, 0.9], 0.6)],
    "what counts is the distance to the reference, on either side; of equal distances the last one wins.",
)
def check_06_rewind(errors: Sequence[float], reference: float) -> int:
    """Check a function (errors at the stops, reference) -> position of the stop SCRUB rewinds to. Notebook 06."""
    return min(range(len(errors)), key=lambda i: (abs(errors[i] - reference), -i))


@same_as(
    "damping factor",
    [(1.0, 0.05, 10, 1.0), (1.0, 0.5, 10, 1.0), (3.0, 1.0, 2, 0.3), (4.0, 1.0, 2, 8.0), (0.0, 0.0, 1, 1.0)],
    "first ask whether the weight stands out at all; and no weight is ever enlarged.",
)
def check_07_damping(forget: float, whole: float, alpha: float, strength: float) -> float:
    """Check a function (forget importance, whole importance, alpha, strength) -> SSD's factor. Notebook 07."""
    return min(strength * whole / forget, 1.0) if forget > alpha * whole else 1.0


LAYERS = [np.array([5.0, 4.0, 0.1]), np.array([3.0, 2.0, 1.0, 0.5, 0.2])]


@same_as(
    "salient counts",
    [*((LAYERS, share) for share in (0.5, 0.25, 0.75, 1.0)), (LAYERS[::-1], 0.25)],
    "rank the scores of all layers in one list, find the lowest that still gets in, then count layer by layer.",
)
def check_07_salient_counts(scores: Sequence[np.ndarray], share: float) -> list[int]:
    """Check a function (list of score arrays, share) -> how many of each are in the top share. Notebook 07."""
    ranked = np.sort(np.concatenate(scores))[::-1]
    lowest = ranked[round(share * len(ranked)) - 1]
    return [int((layer >= lowest).sum()) for layer in scores]


STRETCHED = drawn((40, 5))[0] * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5]) + torch.tensor([0.0, 4.0, 0.0, 0.0, 0.0])


@same_as(
    "eraser",
    [*((STRETCHED, k) for k in (1, 2, 4)), (STRETCHED.flip(1), 2)],
    "singular vectors come strongest first: keep everything but what lies along the first k, without centring.",
    1e-3,
)
def check_07_eraser(points: Tensor, k: int) -> np.ndarray:
    """Check a function: points (n, d) torch float, k -> the projection (d, d) that erases k directions. Notebook 07."""
    directions = np.linalg.svd(points.numpy().astype(np.float64), full_matrices=False)[2][:k]
    return np.eye(directions.shape[1]) - directions.T @ directions


ROWS = [F.normalize(draw) for draw in drawn((2, 3), (5, 4), (8, 16))]


def judged_loss(student: Callable, right: Callable[[Tensor], Tensor], hint: str) -> tuple[str, str]:
    """Return the status of a loss of unit rows (n, d): its value is compared, and a gradient must flow."""
    for rows in ROWS:
        answer = student(rows.clone().requires_grad_())
        status, remark = compared(answer, right(rows), hint, 1e-4)
        if status != EXACT:
            return status, remark
        if not getattr(answer, "requires_grad", False):
            return (
                CLOSE,
                "the number is right, and no gradient flows. Hint: torch alone, without .item(), float() or NumPy.",
            )
    return EXACT, ""


@checker("uniform dispersion")
def check_08_uniform(student: Callable) -> tuple[str, str]:
    """Check a function: unit rows (n, d) torch float -> mean cosine over all pairs of different rows. Notebook 08."""
    hint = "in z @ z.T the diagonal compares each photo with itself: leave it out, and divide by n(n − 1)."
    return judged_loss(student, mean_cosine, hint)


@checker("hard dispersion")
def check_08_hard(student: Callable) -> tuple[str, str]:
    """Check a function: unit rows (n, d) torch float -> mean of each row's largest cosine to another. Notebook 08."""
    hint = "in z @ z.T push the diagonal below every cosine, take the maximum of each row, then the mean of these."
    return judged_loss(student, hardest_cosine, hint)


check_08_uniform.reference, check_08_hard.reference = mean_cosine, hardest_cosine


@checker("blind spot")
def check_08_blind_spot(points: Any, slack: float = 0.02) -> tuple[str, str]:
    """Check two groups of unit vectors (n, d): mean-pair cosine minimal, every nearest cosine above 0.9. Notebook 08.

    The property is tested, not one solution: any set of at least 4 rows that has it is exact.
    """
    if (z := unit_points(points, 4)) is None:
        return WRONG, "wanted are at least 4 rows, one unit vector each. Hint: divide each row by its norm."
    mean, nearest, lowest = float(mean_cosine(torch.from_numpy(z))), nearest_cosines(z).min(), -1 / (len(z) - 1)
    if mean <= lowest + slack and nearest > 0.9:
        if (found := groups(z)) > 2:
            return (
                CLOSE,
                f"blind it is, with {found} groups; the figure has three. Hint: how few can still sum to zero?",
            )
        return EXACT, f"mean cosine {mean:+.2f}, and yet every photo has a neighbour at {nearest:.2f}."
    if mean <= lowest + 5 * slack and nearest > 0.8:
        return CLOSE, f"mean {mean:+.3f} (lowest possible {lowest:+.3f}), nearest {nearest:.2f}."
    if nearest > 0.9:
        return WRONG, f"the mean is still {mean:+.2f}. Hint: let the rows sum to zero."
    return WRONG, f"a photo's nearest cosine is only {nearest:.2f}. Hint: put photos in tight groups."


def groups(z: np.ndarray, near: float = 0.9) -> int:
    """Return into how many groups unit rows fall, if rows with a cosine above `near` are linked."""
    linked, left = z @ z.T > near, set(range(len(z)))
    for count in itertools.count():
        if not left:
            return count
        edge = {left.pop()}
        while edge:
            edge = {int(j) for i in edge for j in np.flatnonzero(linked[i])} & left
            left -= edge


@checker("empty place")
def check_08_empty_place(student: Callable) -> tuple[str, str]:
    """Check a function: unit rows (n, d) torch float -> the unit vector (d,) along which they have least energy.

    The energy is compared, not the vector, as its sign is free. Introduced in notebook 08.
    """
    hint = "torch.linalg.eigh(points.T @ points) sorts its eigenvalues, the smallest first."
    for draw in drawn((30, 3), (60, 8)):
        n, d = draw.shape
        points = F.normalize(draw * torch.linspace(0.2, 2, d))
        answer = student(points.clone())
        if is_blank(answer):
            return NOT_ATTEMPTED, ""
        found = as_array(answer)
        if found is None or found.shape != (d,) or abs(np.linalg.norm(found) - 1) > 1e-3:
            return WRONG, f"wanted is one vector of {d} numbers, of length 1. Hint: {hint}"
        excess = np.square(points.numpy() @ found).sum() - float(torch.linalg.eigvalsh(points.T @ points)[0])
        if excess > 0.01 * n:
            return CLOSE if excess <= 0.05 * n else WRONG, f"a quieter direction exists. Hint: {hint}"
    return EXACT, ""


check_08_empty_place.reference = smallest_principal_axis
