"""Exercises of notebooks 00 to 04: faces, models, retrieval, points on a sphere."""

from __future__ import annotations

import cmath
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.augmentation import greyscale
from ...settings import REPO_ROOT, CourseError, check_environment
from ..sphere import tangent
from .base import (
    CLOSE,
    EXACT,
    ROUNDED,
    WRONG,
    as_array,
    checker,
    compared,
    compared_share,
    is_number,
    loss_as,
    one_line,
    report,
    same_as,
    unit_points,
)


def check_00_environment() -> str:
    """Check this machine: Python, packages, a torchvision that fits torch, a writable folder. Notebook 00."""
    try:
        check_environment()
        with tempfile.TemporaryFile(dir=REPO_ROOT):  # a nameless file: nothing of anybody's is in its way
            return report("environment", EXACT, "")
    except CourseError as error:
        return report("environment", WRONG, str(error))
    except OSError as error:
        fault = f"The course's folder cannot be written ({one_line(error)}); move it to a folder of your own."
        return report("environment", WRONG, fault)


@checker("chance R@1")
def check_00_chance(answer: Any, chance: float) -> tuple[str, str]:
    """Check the R@1 that a random ranking would have, a fraction between 0 and 1. Notebook 00."""
    return compared_share(answer, chance, "right ones over all: how many of the gallery's photos show the person?")


@checker("price")
def check_00_price(answer: Any, before: float, after: float) -> tuple[str, str]:
    """Check the share of a score that was lost, and tell it from the difference and from what is left. Notebook 00."""
    hint, got = "what went, over what there was.", as_array(answer)
    status, remark = compared_share(answer, (before - after) / before, hint)
    others = {
        "those are points, one score minus the other": (before - after, 100 * (before - after)),
        "that is what they kept": (after / before, 100 * after / before),
        "that is a share of what is left": ((before - after) / after,),
        "the size is right, and a loss counts as positive": ((after - before) / before,),
    }
    for said, several in others.items():
        if status != EXACT and is_number(got) and any(abs(got - other) <= ROUNDED * abs(other) for other in several):
            return WRONG, f"{said}. Hint: {hint}"
    return status, remark


@checker("angle")
def check_01_angle(answer: Any, a: complex) -> tuple[str, str]:
    """Check by how many degrees the similarity transform p -> a·p + b turns a photo. Notebook 01."""
    expected, got = math.degrees(cmath.phase(a)), as_array(answer)
    if is_number(got) and abs(expected) > 0.5:
        if abs(got - math.radians(expected)) < 1e-3:
            return CLOSE, "that is the angle in radians; degrees are wanted."
        if abs(got + expected) < 0.1:
            return CLOSE, "the size is right, the sign is not: which way does a turn?"
    tenth = 0.1 / max(abs(expected), 1.0)  # of a degree, as a share of the angle
    return compared(answer, expected, "a complex number's direction is cmath.phase(a), in radians.", tenth)


GROUPS = (([1, 1, 2], [2, 3, 2]), ([0, 0, 4], [1, 2]), ([5, 6, 7, 5], [7, 6, 6, 5]), ([], [1]))


@same_as(
    "shared people",
    [(np.array(one, dtype=np.int64), np.array(other, dtype=np.int64)) for one, other in GROUPS],
    "count people, not photos: which labels occur on both sides?",
)
def check_01_shared_people(one: np.ndarray, other: np.ndarray) -> int:
    """Check a function (labels of one group of photos, labels of another) -> number of people in both. Notebook 01."""
    return len(set(one) & set(other))


def drawn(*shapes: tuple[int, int]) -> list[Tensor]:
    """Return random numbers of some shapes, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


UNIT = [F.normalize(draw) for draw in drawn((5, 3), (7, 3), (4, 8), (2, 8))]


@same_as(
    "nearest centroid",
    [(UNIT[0], UNIT[1]), (UNIT[2], UNIT[3])],
    "points @ centroids.T holds all cosines: a row per point, a column per centroid; which column is largest?",
)
def check_01_nearest_centroid(z: Tensor, centroids: Tensor) -> Tensor:
    """Check a function (unit points (n, d), unit centroids (k, d)) -> nearest row per point (n,). Notebook 01."""
    return (z @ centroids.T).argmax(1)


@same_as("angle", [(0.5,), (-0.2,), (1.0,)], "undo the cosine with np.arccos, then turn radians into degrees.")
def check_02_angle(cosine: float) -> float:
    """Check a function from the cosine of two unit vectors to their angle in degrees. Notebook 02."""
    return math.degrees(math.acos(cosine))


@loss_as(
    "CosFace logits",
    [
        (torch.tensor([[0.9, 0.2], [-0.2, 0.4], [0.1, 0.3]]), torch.tensor([0, 1, 0]), 64.0, 0.35),
        (torch.tensor([[0.5, -0.6, 0.1], [0.2, 0.7, 0.8]]), torch.tensor([2, 1]), 10.0, 0.1),
    ],
    "the margin comes off the own person's cosine alone, and the scale multiplies everything that is left.",
)
def check_02_cosface_logits(cosines: Tensor, own: Tensor, scale: float, margin: float) -> Tensor:
    """Check a function (cosines (B, C), own (B,), scale, margin) -> CosFace logits (B, C). Notebook 02."""
    return scale * (cosines - margin * F.one_hot(own, cosines.shape[1]))


@checker("grey")
def check_02_grey(to_grey: Callable) -> tuple[str, str]:
    """Check a function from uint8 photos (B, 3, H, W) to their brightness in all three channels. Notebook 02."""
    photos = torch.randint(0, 256, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = to_grey(photos.clone())
    status, remark = compared(found, greyscale(photos), "add up the weighted channels; all three get the sum.", 0.005)
    if status == EXACT and getattr(found, "dtype", None) != torch.uint8:
        return CLOSE, "the numbers are right; end with .round().to(torch.uint8)."
    return status, remark


RANKINGS = ([1, 0, 0, 1], [0, 1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1], [0, 0, 1, 0, 0, 0, 1])


@same_as(
    "recall@k",
    [(ranking, k) for ranking in RANKINGS for k in (1, 2, 3)],
    "is there at least one 1 among the first k entries? Then 1.0, however many there are.",
)
def check_03_recall_at_k(relevant: Sequence[int], k: int) -> float:
    """Check a function (relevant: list of 0/1 down one ranking, k) -> 1.0 or 0.0. Notebook 03."""
    return float(any(relevant[:k]))


@same_as(
    "average precision",
    [(ranking,) for ranking in RANKINGS],
    "at every hit, divide the hits so far by the rank; then take the mean over the hits, not over all ranks.",
)
def check_03_average_precision(relevant: Sequence[int]) -> float:
    """Check average precision: a number for a ranking that is given, or a function of any ranking. Notebook 03."""
    hits = np.flatnonzero(np.asarray(relevant)) + 1
    return float(np.mean(np.arange(1, len(hits) + 1) / hits)) if len(hits) else 0.0


@checker("chance R@1")
def check_03_chance_r1(answer: Any, n_relevant: int, gallery_size: int) -> tuple[str, str]:
    """Check the chance that a blind pick from the gallery shows the query's person. Notebook 03."""
    hint = "how many of the gallery's photos show the right person, out of how many?"
    return compared_share(answer, n_relevant / gallery_size, hint)


DRAWS = drawn((3, 3), (3, 3), (5, 8), (5, 8))


@checker("tangent")
def check_04_tangent(student: Callable) -> tuple[str, str]:
    """Check a function: (gradient (n, d), unit rows z (n, d)) torch -> what is left along the sphere. Notebook 04."""
    hint = "row by row, take away the part that points along z: the dot product of the two, times z."
    for gradient, z in ((DRAWS[0], F.normalize(DRAWS[1])), (DRAWS[2], F.normalize(DRAWS[3]))):
        answer = student(gradient.clone(), z.clone())
        status, remark = compared(answer, tangent(gradient, z), hint, 1e-4)
        if status != EXACT:
            return status, remark
        if not isinstance(answer, Tensor):
            return CLOSE, f"the numbers are right; the journeys below want a torch tensor, not {type(answer).__name__}."
    return EXACT, ""


check_04_tangent.reference = tangent


@checker("simplex")
def check_04_simplex(points: Any) -> tuple[str, str]:
    """Check four or more unit rows whose cosines are all equal and as low as can be. Introduced in notebook 04."""
    z, fault = unit_points(points, 4)
    if z is None:
        return WRONG, fault
    best, worst = -1 / (len(z) - 1), float((z @ z.T)[~np.eye(len(z), dtype=bool)].max())
    if worst <= 0.99 * best:
        return EXACT, f"every pair of the {len(z)} has a cosine of {worst:+.2f}."
    remark = f"the largest cosine is {worst:+.2f}, possible is {best:+.2f}."
    return CLOSE if worst <= 0.75 * best else WRONG, f"{remark} Hint: let the rows sum to zero, all alike."


@loss_as(
    "log-sum-exp",
    [(F.normalize(DRAWS[0]), 10.0), (F.normalize(DRAWS[3]), 2.0)],
    "pairs of different points only; exponential, then mean, then logarithm, and divide by beta at the end.",
)
def check_04_log_sum_exp(z: Tensor, beta: float) -> Tensor:
    """Check a function (unit rows z (n, d), beta) -> log-sum-exp of the cosines of its pairs. Notebook 04."""
    different = ~torch.eye(len(z), dtype=torch.bool)
    return torch.exp(beta * (z @ z.T)[different]).mean().log() / beta
