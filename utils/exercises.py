"""Checkers for the notebooks' exercises: each says exact, close, wrong or not attempted yet, and gives a hint.

No checker raises on a student's mistake, and none shows the answer. A checker takes a value, or a function to call.
"""

from __future__ import annotations

import cmath
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .settings import REPO_ROOT, CourseError, check_environment

EXACT, CLOSE, WRONG, NOT_ATTEMPTED = "exact", "close", "wrong", "not attempted yet"
SYMBOLS = {EXACT: "✓", CLOSE: "≈", WRONG: "✗", NOT_ATTEMPTED: "…"}
# What a wrong answer can raise; anything else (such as an interrupt) is not the exercise's business.
STUDENT_ERRORS = (TypeError, ValueError, AttributeError, RuntimeError, LookupError, ArithmeticError, NameError)


# ------------------------------------------------------------------------------------------------- general checkers


def check_value(answer: Any, expected: Any, hint: str, tolerance: float = 1e-3, name: str = "answer") -> str:
    """Compare a number or array with the expected one, print one line and return the status.

    Exact within `tolerance` (absolute), close within ten times that or 5 % of the expected size. Notebook 00.
    """
    return _report(name, *_compare(answer, expected, hint, tolerance))


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
    if _is_blank(student):
        return _report(name, NOT_ATTEMPTED, "")
    if not callable(student):
        return _report(name, WRONG, f"a function is wanted here, not {type(student).__name__}.")
    order = (EXACT, CLOSE, WRONG, NOT_ATTEMPTED)
    verdicts = [_run_case(student, reference, case, hint, tolerance) for case in cases]
    return _report(name, *max(verdicts, key=lambda verdict: order.index(verdict[0])))


def _run_case(student: Callable, reference: Callable, case: tuple, hint: str, tolerance: float) -> tuple[str, str]:
    try:
        answer = student(*case)
    except NotImplementedError:
        return NOT_ATTEMPTED, ""
    except STUDENT_ERRORS as error:
        return WRONG, f"your function stopped with {type(error).__name__}: {_one_line(error)}. Hint: {hint}"
    return _compare(answer, reference(*case), hint, tolerance)


def _compare(answer: Any, expected: Any, hint: str, tolerance: float) -> tuple[str, str]:
    """Return the status of an answer and what to say about it; never raises on a strange answer."""
    if _is_blank(answer):
        return NOT_ATTEMPTED, ""
    got, expected = _as_array(answer), _as_array(expected)
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


def _as_array(value: Any) -> np.ndarray | None:
    """Turn numbers, lists, arrays or tensors into float64, or None when they are something else."""
    if isinstance(value, str | bytes):
        return None
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
        return np.asarray(value, dtype=np.float64)
    except STUDENT_ERRORS:
        return None


def _is_blank(value: Any) -> bool:
    return value is None or value is Ellipsis


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= 120 else text[:119] + "…"


def _report(name: str, status: str, remark: str) -> str:
    print(f"{SYMBOLS[status]} {name}: {status}{'. ' if remark else ''}{remark}")
    return status


# --------------------------------------------------------------------------------------------- notebook 00: machine


def check_00_environment() -> str:
    """Check this machine: Python, packages, a torchvision that fits torch, a writable folder. Notebook 00."""
    try:
        check_environment()
    except CourseError as error:
        return _report("environment", WRONG, str(error))
    fault = _folder_fault()
    return _report("environment", WRONG if fault else EXACT, fault)


def _folder_fault() -> str:
    try:
        with tempfile.TemporaryFile(dir=REPO_ROOT):  # a nameless file: nothing of anybody's is in its way
            return ""
    except OSError as error:
        return f"The course's folder cannot be written ({_one_line(error)}); move it to a folder of your own."


# ------------------------------------------------------------------------------------------------ notebook 01: faces


def check_01_angle(answer: Any, a: complex) -> str:
    """Check by how many degrees the similarity transform p -> a·p + b turns a photo. Notebook 01."""
    expected = math.degrees(cmath.phase(a))
    got = _as_array(answer) if not _is_blank(answer) else None
    if got is not None and got.shape == () and abs(expected) > 0.5:
        if abs(got - math.radians(expected)) < 1e-3:
            return _report("angle", CLOSE, "that is the angle in radians; degrees are wanted.")
        if abs(got + expected) < 0.1:
            return _report("angle", CLOSE, "the size is right, the sign is not: which way does a turn?")
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
    got = _as_array(answer) if not _is_blank(answer) else None
    if got is not None and got.shape == () and expected > 0.5 and abs(got - math.radians(expected)) < 1e-3:
        return _report("angle", CLOSE, "that is the angle in radians; degrees are wanted.")
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
    if _is_blank(points):
        return _report(name, NOT_ATTEMPTED, "")
    z = _as_array(points)
    if z is None or z.ndim != 2 or len(z) < 4 or not np.allclose(np.linalg.norm(z, axis=1), 1, atol=1e-3):
        return _report(name, WRONG, "wanted are at least 4 rows of length 1. Hint: divide each row by its norm.")
    cosines = (z @ z.T)[~np.eye(len(z), dtype=bool)]
    best, worst = -1 / (len(z) - 1), float(cosines.max())
    if worst <= best + 1e-3:
        return _report(name, EXACT, f"every pair of the {len(z)} has a cosine of {worst:+.2f}.")
    remark = f"the largest cosine is {worst:+.2f}, possible is {best:+.2f}."
    return _report(
        name, CLOSE if worst <= best + 0.1 else WRONG, f"{remark} Hint: let the rows sum to zero, all alike."
    )


def check_04_shared(answer: Any) -> str:
    """Check the names of the losses that keep a cluster together, as a set or list. Introduced in notebook 04."""
    name, right = "who keeps the cluster", {"redrawn labels", "one shared target"}
    if _is_blank(answer):
        return _report(name, NOT_ATTEMPTED, "")
    if isinstance(answer, str) or not isinstance(answer, set | list | tuple):
        return _report(name, WRONG, "wanted is a list of names, as they stand beside the film.")
    given = {str(item) for item in answer}
    if given == right:
        return _report(name, EXACT, "")
    hint = "for which losses does every photo, on average, hear the same request?"
    return _report(name, CLOSE if given and given < right else WRONG, f"Hint: {hint}")


# ------------------------------------------------------------------------------- notebook 05: relabelling and ascent


def check_05_wrong_names(student: Callable | None) -> str:
    """Check a function (n photos, allowed names, NumPy generator) -> n wrong names, one for each photo. Notebook 05.

    Properties are tested, not one solution: only allowed names, not the same for all, and repeatable.
    """
    name, allowed = "wrong names", np.array([3, 5, 8, 13, 21])
    if _is_blank(student):
        return _report(name, NOT_ATTEMPTED, "")
    try:
        first, again, other = (student(40, allowed.copy(), np.random.default_rng(seed)) for seed in (0, 0, 1))
    except STUDENT_ERRORS as error:
        return _report(name, WRONG, f"your function stopped with {type(error).__name__}: {_one_line(error)}.")
    if _is_blank(first):
        return _report(name, NOT_ATTEMPTED, "")
    drawn = [_as_array(names) for names in (first, again, other)]
    if any(names is None or names.shape != (40,) for names in drawn):
        return _report(name, WRONG, "40 photos want 40 names. Hint: ask the generator for all of them at once.")
    if not np.isin(drawn[0], allowed).all():
        return _report(name, WRONG, "a name outside the allowed ones came up. Hint: let the generator pick from them.")
    if len(np.unique(drawn[0])) == 1:
        return _report(name, WRONG, "every photo got the same name, and one name for all keeps them together.")
    if np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2]):
        return _report(name, EXACT, "")
    return _report(name, CLOSE, "the names do not hang on the generator. Hint: draw them with the one you are given.")


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
    if _is_blank(answer):
        return _report(name, NOT_ATTEMPTED, "")
    letters = [letter for letter in str(answer).casefold() if letter.isalnum()]
    if len(letters) != 3 or not set(letters) <= set("abc"):
        return _report(name, WRONG, "three letters are wanted, one for each run, each of them a, b or c.")
    right = sum(map(str.__eq__, letters, _diagnoses()))
    hint = "did a photo move at all? Then ask which gallery still finds it."
    return _report(name, {3: EXACT, 2: CLOSE}.get(right, WRONG), "" if right == 3 else f"{right} of 3. Hint: {hint}")


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
    if _is_blank(points):
        return _report(name, NOT_ATTEMPTED, "")
    z = _as_array(points)
    if z is None or z.ndim != 2 or len(z) < 4 or z.shape[1] < 2:
        return _report(name, WRONG, "wanted is a table of numbers: at least 4 rows, one unit vector each.")
    if not np.allclose(np.linalg.norm(z, axis=1), 1, atol=1e-3):
        return _report(name, WRONG, "not every row has length 1. Hint: divide each row by its norm.")
    n = len(z)
    mean, nearest = _mean_pair_cosine(z), _nearest_cosines(z).min()
    lowest = -1 / (n - 1)
    if mean <= lowest + slack and nearest > 0.9:
        return _report(name, EXACT, f"mean cosine {mean:+.2f}, and yet every photo has a neighbour at {nearest:.2f}.")
    if mean <= lowest + 5 * slack and nearest > 0.8:
        return _report(name, CLOSE, f"mean {mean:+.3f} (lowest possible {lowest:+.3f}), nearest {nearest:.2f}.")
    if nearest > 0.9:
        return _report(name, WRONG, f"the mean is still {mean:+.2f}. Hint: let the rows sum to zero.")
    return _report(name, WRONG, f"a photo's nearest cosine is only {nearest:.2f}. Hint: put photos in tight groups.")


def _nearest_cosines(z: np.ndarray) -> np.ndarray:
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
    if _is_blank(student) or not callable(student):
        return _report(name, NOT_ATTEMPTED if _is_blank(student) else WRONG, "")
    import torch

    generator = torch.Generator().manual_seed(0)
    for n, d in ((30, 3), (60, 8)):
        points = torch.nn.functional.normalize(torch.randn(n, d, generator=generator) * torch.linspace(0.2, 2, d))
        try:
            answer = student(points)
        except STUDENT_ERRORS as error:
            return _report(name, WRONG, f"your function stopped with {type(error).__name__}: {_one_line(error)}.")
        if _is_blank(answer):
            return _report(name, NOT_ATTEMPTED, "")
        found = _as_array(answer)
        if found is None or found.shape != (d,) or abs(np.linalg.norm(found) - 1) > 1e-3:
            return _report(name, WRONG, f"wanted is one vector of {d} numbers, of length 1. Hint: {hint}")
        energy, least = np.square(points.numpy() @ found).sum(), float(torch.linalg.eigvalsh(points.T @ points)[0])
        if energy > least + 0.01 * n:
            close = energy <= least + 0.05 * n
            return _report(name, CLOSE if close else WRONG, f"a quieter direction exists. Hint: {hint}")
    return _report(name, EXACT, "")


# --------------------------------------------------------------------------------------- notebook 09: the benchmark


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
    from .unlearning import METHODS

    name = "recommendation"
    if _is_blank(answer):
        return _report(name, NOT_ATTEMPTED, "")
    if not isinstance(answer, str) or answer not in METHODS:
        return _report(name, WRONG, "wanted is a method's name in quotes, as in the table's code.")
    if answer == "dispersion_strangers":
        return _report(name, EXACT, "it changes weights only, and strangers are what it holds.")
    if answer in ("gather_scatter", "esc"):
        return _report(name, CLOSE, "it hides well, but puts a part behind the network. Hint: weights only.")
    if answer.startswith("dispersion"):
        return _report(name, CLOSE, "it hides by weights alone. Hint: compare what unseen people keep.")
    return _report(name, WRONG, "Hint: first look for who is hidden from a search, then at the unseen people.")


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
    if _is_blank(points):
        return _report(name, NOT_ATTEMPTED, "")
    z = _as_array(points)
    if z is None or z.ndim != 2 or len(z) < 6 or not np.allclose(np.linalg.norm(z, axis=1), 1, atol=1e-3):
        return _report(name, WRONG, "wanted are at least 6 rows of length 1.")
    template = z.mean(axis=0)
    length = float(np.linalg.norm(template))
    least = float((z @ template).min() / length) if length > 1e-9 else 0.0
    nearest = float(_nearest_cosines(z).max())
    if nearest <= 0.3 and least >= 0.5:
        return _report(name, EXACT, f"no two nearer than {nearest:.2f}, and all within {least:.2f} of the template.")
    if nearest <= 0.35 and least >= 0.45:
        return _report(name, CLOSE, f"nearest pair {nearest:.2f}, lowest cosine to the template {least:.2f}.")
    hint = "give every photo a direction of its own, and add a little of one direction that all share."
    return _report(name, WRONG, f"nearest pair {nearest:.2f}, lowest to the template {least:.2f}. Hint: {hint}")


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
    if _is_blank(answer):
        return _report(name, NOT_ATTEMPTED, "")
    if isinstance(answer, str) or not isinstance(answer, set | list | tuple):
        return _report(name, WRONG, "wanted is a list of names in quotes.")
    given = {str(item) for item in answer}
    if given == right:
        return _report(name, EXACT, "")
    hint = "what lay in memory only is gone; what was deleted is gone; what is a file, is not."
    return _report(name, CLOSE if given and given < right else WRONG, f"Hint: {hint}")
