"""Exercises of notebooks 00 to 04: faces, models, retrieval, points on a sphere."""

from __future__ import annotations

import cmath
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...settings import REPO_ROOT, CourseError, check_environment
from .base import CLOSE, EXACT, NOT_ATTEMPTED, WRONG, as_array, check_function, check_value, is_blank, one_line, report


def check_00_environment() -> str:
    """Check this machine: Python, packages, a torchvision that fits torch, a writable folder. Notebook 00."""
    try:
        check_environment()
    except CourseError as error:
        return report("environment", WRONG, str(error))
    fault = _folder_fault()
    return report("environment", WRONG if fault else EXACT, fault)


def _folder_fault() -> str:
    try:
        with tempfile.TemporaryFile(dir=REPO_ROOT):  # a nameless file: nothing of anybody's is in its way
            return ""
    except OSError as error:
        return f"The course's folder cannot be written ({one_line(error)}); move it to a folder of your own."


# ------------------------------------------------------------------------------------------------ notebook 01: faces


def check_01_angle(answer: Any, a: complex) -> str:
    """Check by how many degrees the similarity transform p -> a·p + b turns a photo. Notebook 01."""
    expected = math.degrees(cmath.phase(a))
    got = as_array(answer) if not is_blank(answer) else None
    if got is not None and got.shape == () and abs(expected) > 0.5:
        if abs(got - math.radians(expected)) < 1e-3:
            return report("angle", CLOSE, "that is the angle in radians; degrees are wanted.")
        if abs(got + expected) < 0.1:
            return report("angle", CLOSE, "the size is right, the sign is not: which way does a turn?")
    hint = "a complex number's direction is cmath.phase(a), in radians."
    return check_value(answer, expected, hint, tolerance=0.1, name="angle")


def check_01_shared_people(student: Callable | None) -> str:
    """Check a function (labels of one group of photos, labels of another) -> number of people in both. Notebook 01."""
    cases = [([1, 1, 2], [2, 3, 2]), ([0, 0, 4], [1, 2]), ([5, 6, 7, 5], [7, 6, 6, 5]), ([], [1])]
    cases = [(np.array(one, dtype=np.int64), np.array(other, dtype=np.int64)) for one, other in cases]
    hint = "count people, not photos: which labels occur on both sides?"
    return check_function(student, lambda one, other: len(set(one) & set(other)), cases, hint, name="shared people")


def check_01_nearest_centroid(student: Callable | None) -> str:
    """Check a function (unit points (n, d), unit centroids (k, d)) -> nearest row per point (n,). Notebook 01."""
    import torch

    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(n, d, generator=generator) for n, d in ((5, 3), (7, 3), (4, 8), (2, 8))]
    unit = [torch.nn.functional.normalize(draw) for draw in draws]
    hint = "points @ centroids.T holds all cosines: a row per point, a column per centroid; which column is largest?"
    cases = [(unit[0], unit[1]), (unit[2], unit[3])]
    return check_function(student, lambda z, c: (z @ c.T).argmax(1), cases, hint, name="nearest centroid")


# ------------------------------------------------------------------------------------------ notebook 02: face model


def check_02_angle(answer: Any, cosine: float) -> str:
    """Check the angle in degrees between two embeddings whose cosine is given. Notebook 02."""
    expected = math.degrees(math.acos(max(-1.0, min(1.0, float(cosine)))))
    got = as_array(answer) if not is_blank(answer) else None
    if got is not None and got.shape == () and expected > 0.5 and abs(got - math.radians(expected)) < 1e-3:
        return report("angle", CLOSE, "that is the angle in radians; degrees are wanted.")
    hint = "undo the cosine with math.acos, then turn radians into degrees."
    return check_value(answer, expected, hint, tolerance=0.1, name="angle")


def check_02_cosface_logit(answer: Any, cosine: float, scale: float, margin: float) -> str:
    """Check the CosFace logit of the true person, a number or a function (cosine, scale, margin). Notebook 02."""
    hint = "the margin comes off the cosine first, and the scale multiplies what is left."
    if callable(answer):
        cases = [(float(cosine), scale, margin), (0.9, 64.0, 0.35), (-0.2, 10.0, 0.1)]
        return check_function(answer, _cosface_logit, cases, hint, 1e-3, "CosFace logit")
    return check_value(answer, _cosface_logit(float(cosine), scale, margin), hint, 0.01, "CosFace logit")


def _cosface_logit(cosine: float, scale: float, margin: float) -> float:
    return scale * (cosine - margin)


# ------------------------------------------------------------------------------------------- notebook 03: retrieval

RANKINGS = ([1, 0, 0, 1], [0, 1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1], [0, 0, 1, 0, 0, 0, 1])


def check_03_recall_at_k(student: Callable | None) -> str:
    """Check a function (relevant: list of 0/1 down one ranking, k) -> 1.0 or 0.0. Notebook 03."""
    cases = [(list(ranking), k) for ranking in RANKINGS for k in (1, 2, 3)]
    hint = "is there at least one 1 among the first k entries? Then 1.0, however many there are."
    return check_function(student, lambda relevant, k: float(any(relevant[:k])), cases, hint, name="recall@k")


def check_03_average_precision(answer: Any, relevant: Sequence[int] | None = None) -> str:
    """Check average precision: a number for the ranking `relevant`, or a function of any ranking. Notebook 03."""
    hint = "at every hit, divide the hits so far by the rank; then take the mean over the hits, not over all ranks."
    if relevant is not None and not callable(answer):
        return check_value(answer, _average_precision(relevant), hint, 0.005, "average precision")
    cases = [(list(ranking),) for ranking in RANKINGS]
    return check_function(answer, _average_precision, cases, hint, name="average precision")


def _average_precision(relevant: Sequence[int]) -> float:
    hits = np.flatnonzero(np.asarray(relevant)) + 1
    return float(np.mean(np.arange(1, len(hits) + 1) / hits)) if len(hits) else 0.0


def check_03_chance_r1(answer: Any, n_relevant: int, gallery_size: int) -> str:
    """Check the chance that a blind pick from the gallery shows the query's person. Notebook 03."""
    hint = "how many of the gallery's photos show the right person, out of how many?"
    expected = n_relevant / gallery_size
    return check_value(answer, expected, hint, tolerance=0.01 * expected, name="chance R@1")


# ------------------------------------------------------------------------------------------ notebook 04: the sphere


def check_04_tangent(student: Callable | None) -> str:
    """Check a function: (gradient (n, d), unit rows z (n, d)) torch -> what is left along the sphere. Notebook 04."""
    import torch

    generator = torch.Generator().manual_seed(0)
    draws = [
        (torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)) for n, d in ((3, 3), (5, 8))
    ]
    cases = [(gradient, torch.nn.functional.normalize(z)) for gradient, z in draws]
    hint = "row by row, take away the part that points along z: the dot product of the two, times z."
    return check_function(student, _tangent, cases, hint, name="tangent")


def _tangent(gradient: Any, z: Any) -> Any:
    return gradient - (gradient * z).sum(dim=1, keepdim=True) * z


def check_04_simplex(points: Any) -> str:
    """Check four or more unit rows whose cosines are all equal and as low as can be. Introduced in notebook 04.

    The property is tested, not one solution.
    """
    name = "simplex"
    if is_blank(points):
        return report(name, NOT_ATTEMPTED, "")
    z = as_array(points)
    if z is None or z.ndim != 2 or len(z) < 4 or not np.allclose(np.linalg.norm(z, axis=1), 1, atol=1e-3):
        return report(name, WRONG, "wanted are at least 4 rows of length 1. Hint: divide each row by its norm.")
    cosines = (z @ z.T)[~np.eye(len(z), dtype=bool)]
    best, worst = -1 / (len(z) - 1), float(cosines.max())
    if worst <= best + 1e-3:
        return report(name, EXACT, f"every pair of the {len(z)} has a cosine of {worst:+.2f}.")
    remark = f"the largest cosine is {worst:+.2f}, possible is {best:+.2f}."
    return report(name, CLOSE if worst <= best + 0.1 else WRONG, f"{remark} Hint: let the rows sum to zero, all alike.")


def check_04_shared(answer: Any) -> str:
    """Check the names of the losses that keep a cluster together, as a set or list. Introduced in notebook 04."""
    name, right = "who keeps the cluster", {"redrawn labels", "one shared target"}
    if is_blank(answer):
        return report(name, NOT_ATTEMPTED, "")
    if isinstance(answer, str) or not isinstance(answer, set | list | tuple):
        return report(name, WRONG, "wanted is a list of names, as they stand beside the film.")
    given = {str(item) for item in answer}
    if given == right:
        return report(name, EXACT, "")
    hint = "for which losses does every photo, on average, hear the same request?"
    return report(name, CLOSE if given and given < right else WRONG, f"Hint: {hint}")
