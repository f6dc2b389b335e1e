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
from ...unlearning.losses import teacher_divergence
from ...unlearning.methods.pruning import damping_factors
from ...unlearning.methods.scatter import smallest_principal_axis
from .base import (
    CLOSE,
    EXACT,
    NOT_ATTEMPTED,
    WRONG,
    as_array,
    checker,
    is_blank,
    loss_as,
    nearest_cosines,
    same_as,
    unit_points,
)
from .faces import drawn


@checker("wrong names")
def check_05_wrong_names(student: Callable) -> tuple[str, str]:
    """Check a function (n photos, allowed names, NumPy generator) -> n allowed names, not one for all. Notebook 05."""
    some, others = np.array([3, 5, 8, 13, 21]), np.array([2, 34, 55])
    cases = [(40, some, 0), (40, some, 0), (40, some, 1), (25, others, 1)]
    answers = [student(n, allowed.copy(), np.random.default_rng(seed)) for n, allowed, seed in cases]
    if is_blank(answers[0]):
        return NOT_ATTEMPTED, ""
    names = list(map(as_array, answers))
    for found, (n, allowed, _) in zip(names, cases, strict=True):
        if found is None or found.shape != (n,):
            return WRONG, f"{n} photos want {n} names. Hint: ask the generator for all of them at once."
        if not np.isin(found, allowed).all():
            return WRONG, "a name outside the allowed ones came up. Hint: let the generator pick from them."
    if len(np.unique(names[0])) == 1:
        return WRONG, "every photo got the same name, and one name for all keeps them together."
    if np.array_equal(names[0], names[1]) and not np.array_equal(names[0], names[2]):
        return EXACT, ""
    return CLOSE, "the names do not hang on the generator. Hint: draw them with the one you are given."


check_05_wrong_names.reference = lambda n_photos, allowed, generator: generator.choice(allowed, size=n_photos)


@same_as(
    "silent scale",
    [(0.2,), (0.5,), (0.7,), (1.0,)],
    "set exp(-scale × gap) equal to 2 to the power of -24, and take the logarithm of both sides.",
    5e-3,
)
def check_05_silent_scale(gap: float) -> float:
    """Check from which scale on log(1 + exp(-scale x gap)) is exactly 0 in float32. Introduced in notebook 05."""
    return 24 * math.log(2) / gap


@loss_as(
    "bounded ascent",
    [(torch.tensor(climbed), bound) for climbed in (0.0, 1.0, 4.0, 9.0) for bound in (4.0, 6.5)],
    "what is still missing to the bound, and nothing once it is reached.",
)
def check_05_bounded(climbed: Tensor, bound: float) -> Tensor:
    """Check a function (cross-entropy, bound) -> loss that is climbed to the bound and then rests. Notebook 05."""
    return torch.relu(bound - climbed)


COSINES = np.array([0.9, 0.35, 0.2, -0.1, 0.31])


@same_as(
    "masked target",
    [(COSINES, [0], 16.0), (COSINES, [0, 4], 16.0), (-COSINES, [1, 3], 4.0)],
    "rule the struck names out before the softmax, so that what is left sums to 1.",
)
def check_06_masked_target(cosines: np.ndarray, struck: Sequence[int], scale: float) -> np.ndarray:
    """Check a function (cosines (C,), positions struck out, scale) -> DELETE's probabilities (C,). Notebook 06."""
    shares = np.exp(scale * np.asarray(cosines))
    shares[list(struck)] = 0
    return shares / shares.sum()


@loss_as(
    "divergence",
    [
        (torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]])),
        (torch.tensor([[0.1, 0.3, 0.6], [0.8, 0.1, 0.1]]), torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.4, 0.6]])),
    ],
    "the target's shares weigh the logarithms; sum over names, mean over photos, and 0 log 0 is 0.",
)
def check_06_divergence(opinion: Tensor, target: Tensor) -> Tensor:
    """Check a function of probabilities (n, C) torch -> KL(target || opinion), the mean over photos. Notebook 06."""
    return teacher_divergence(target, opinion.log())


WEIGHTS = torch.tensor([1.0, 1.0, 3.0, 4.0, 0.0]), torch.tensor([0.05, 0.5, 1.0, 1.0, 0.0])


@same_as(
    "damping factors",
    [(*WEIGHTS, 10, 1.0), (*WEIGHTS, 2, 0.3), (*WEIGHTS, 2, 8.0), (WEIGHTS[0].flip(0), WEIGHTS[1].flip(0), 1, 0.5)],
    "first ask whether a weight stands out at all; and no weight is ever enlarged.",
)
def check_07_damping(of_forget: Tensor, of_all: Tensor, alpha: float, strength: float) -> Tensor:
    """Check a function (importances (n,) to forget people, to all; alpha, strength) -> SSD's factors. Notebook 07."""
    return damping_factors(of_forget, of_all, alpha, strength)


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


ROWS = [(F.normalize(draw),) for draw in drawn((2, 3), (5, 4), (8, 16))]


@loss_as(
    "uniform dispersion",
    ROWS,
    "in z @ z.T the diagonal compares each photo with itself: leave it out, and divide by n(n − 1).",
)
def check_08_uniform(z: Tensor) -> Tensor:
    """Check a function: unit rows (n, d) torch float -> mean cosine over all pairs of different rows. Notebook 08."""
    return mean_cosine(z)


@loss_as(
    "hard dispersion",
    [(F.normalize(torch.eye(3) - 1 / 3),), *ROWS],  # the first has negative cosines alone: a diagonal of 0 wins
    "in z @ z.T push the diagonal below every cosine, take the maximum of each row, then the mean of these.",
)
def check_08_hard(z: Tensor) -> Tensor:
    """Check a function: unit rows (n, d) torch float -> mean of each row's largest cosine to another. Notebook 08."""
    return hardest_cosine(z)


@checker("blind spot")
def check_08_blind_spot(points: Any, slack: float = 0.02) -> tuple[str, str]:
    """Check 4 or more unit rows (n, d): mean-pair cosine minimal, every nearest cosine above 0.9. Notebook 08."""
    z, fault = unit_points(points, 4)
    if z is None:
        return WRONG, fault
    mean, nearest, lowest = float(mean_cosine(torch.from_numpy(z))), nearest_cosines(z).min(), -1 / (len(z) - 1)
    if mean <= lowest + slack and nearest > 0.9:
        if (found := groups(z)) > 2:
            hint = "how few can still sum to zero?"
            return CLOSE, f"blind it is, with {found} groups; the figure has three. Hint: {hint}"
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
    """Check a function: unit rows (n, d) torch -> the unit vector (d,), sign free, of least energy. Notebook 08."""
    hint = "torch.linalg.eigh(points.T @ points) sorts its eigenvalues, the smallest first."
    for draw, turn in zip(drawn((60, 8), (30, 3)), drawn((8, 8), (3, 3)), strict=True):
        n, d = draw.shape
        points = F.normalize(draw * torch.linspace(0.2, 2, d)) @ torch.linalg.qr(turn).Q  # aslant, as real points are
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
