"""The exercise checkers: right, close, wrong, blank and crashing answers each get their verdict, and nothing raises."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from operator import le

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.lessons import exercises as ex
from utils.lessons.sphere import orthoplex, simplex, tangent
from utils.models.augmentation import greyscale
from utils.settings import CourseError
from utils.unlearning import METHODS, mean_cosine


def check_value(answer: object, expected: object, hint: str) -> str:
    return ex.report("answer", *ex.compared(answer, expected, hint, 1e-3))


def check_function(student: object, reference: Callable, cases: list[tuple], hint: str, name: str = "function") -> str:
    return ex.same_as(name, cases, hint)(reference)(student)


def weighted(photos: torch.Tensor) -> torch.Tensor:
    """Return how bright photos (B, 3, H, W) are, (B, H, W), channel by channel."""
    red, green, blue = photos.double().unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).round()


def pairs(z: torch.Tensor) -> torch.Tensor:
    """Return the cosines of all pairs of different rows."""
    return torch.stack([a @ b for i, a in enumerate(z) for j, b in enumerate(z) if i != j])


def soft_top(z: torch.Tensor, beta: float) -> float:
    return math.log(sum(math.exp(beta * float(c)) for c in pairs(z)) / len(pairs(z))) / beta


def circle(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], 1)


TIGHT_TRIO = circle(0, 4, 120, 124, 240, 244)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (2.0, "exact"),
        (torch.tensor(2.0, requires_grad=True), "exact"),
        (np.float32(2.0), "exact"),
        (2.001, "exact"),
        (2.003, "close"),
        (2.09, "close"),
        (2.11, "wrong"),
        (3, "wrong"),
        (float("nan"), "wrong"),
        ("two", "wrong"),
        ([2.0, 2.0], "wrong"),
        ({"a": 2}, "wrong"),
        ([[1], [1, 2]], "wrong"),
        (object(), "wrong"),
        (None, "not attempted yet"),
        (..., "not attempted yet"),
    ],
)
def test_value_verdicts_and_one_printed_line(answer, status, capsys):
    assert check_value(answer, 2.0, "count again.") == status
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and status in printed
    assert ("count again." in printed) == (status in ("close", "wrong"))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_tolerances_are_shares_of_what_is_expected(size):
    for share, status in ((0.0, "wrong"), (0.94, "wrong"), (0.96, "close"), (0.9985, "close"), (0.9995, "exact")):
        assert check_value(share * size, size, "h") == status
    assert check_value(0.0005, 0.0, "h") == "exact" and check_value(0.1, 0.0, "h") == "wrong"


def test_arrays_are_compared_entry_by_entry():
    expected = np.array([1.0, 2.0, 3.0])
    assert check_value([1, 2, 3], expected, "h") == "exact"
    assert check_value(torch.tensor([1.0, 2.0, 3.1]), expected, "h") == "close"
    assert check_value([3, 2, 1], expected, "h") == "wrong"
    assert check_value([[1, 2, 3]], expected, "h") == "wrong"


def crash(error: Exception):
    def student(*_):
        raise error

    return student


@pytest.mark.parametrize("error", [TypeError("a\nb"), ValueError(), AttributeError("x"), RuntimeError("x" * 500),
                                   IndexError("x"), KeyError("x"), ZeroDivisionError("x"), NameError("x")])  # fmt: skip
def test_a_crashing_function_is_wrong_and_says_so_in_one_line(error, capsys):
    assert check_function(crash(error), abs, [(1,)], "look again.") == "wrong"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and type(error).__name__ in printed and len(printed) < 300


def test_function_verdict_is_the_worst_case():
    cases = [(1.0,), (2.0,)]
    assert check_function(abs, abs, cases, "h") == "exact"
    assert check_function(lambda x: 1.02 * x, abs, cases, "h") == "close"
    assert check_function(lambda x: x if x < 2 else 0, abs, cases, "h") == "wrong"
    assert check_function(lambda x: 1, lambda x: x, cases, "h", name="f") == "wrong"
    assert check_function(lambda x: ..., abs, cases, "h") == "not attempted yet"
    assert check_function(lambda x: None, abs, cases, "h") == "not attempted yet"
    assert check_function(crash(NotImplementedError()), abs, cases, "h") == "not attempted yet"
    assert check_function(None, abs, cases, "h") == "not attempted yet"
    assert check_function(3.0, abs, cases, "h") == "wrong"
    assert check_function(lambda: 1, abs, cases, "h") == "wrong"


def test_a_function_that_spoils_its_arguments_is_judged_by_what_it_returns():
    def spoils(numbers):
        total = sum(numbers)
        numbers.clear()
        return total

    assert [check_function(spoils, sum, [([1, 2],)], "h") for _ in range(2)] == ["exact", "exact"]
    assert ex.check_03_average_precision.__name__ == "check_03_average_precision"


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        check_function(crash(KeyboardInterrupt()), abs, [(1,)], "h")


# ---- every checker ---------------------------------------------------------------------------------------------------
#
# An answer is right, a typical mistake, or odd: everything ticked, nothing clipped, another type, a constant. Beside it
# stand the verdict and words of the hint that it deserves; what follows the answer is what the notebook gives besides.


def near_simplex(share: float) -> torch.Tensor:
    return F.normalize(simplex(12) + share * torch.eye(12).roll(1, 0))


def masked(cosines, struck, scale):
    logits = scale * torch.tensor(cosines)
    logits[struck] = -torch.inf
    return logits.softmax(dim=0)


def struck_too_late(cosines, struck, scale):
    shares = torch.softmax(scale * torch.tensor(cosines), dim=0)
    shares[struck] = 0
    return shares


def divergence(opinion, target):
    total = torch.zeros(())
    for shares, wanted in zip(opinion, target, strict=True):
        total = total + sum(t * (t / p).log() for p, t in zip(shares, wanted, strict=True) if t > 0)
    return total / len(opinion)


def damping(of_forget, of_all, alpha, strength):
    rows = zip(of_forget.tolist(), of_all.tolist(), strict=True)
    return torch.tensor([min(strength * w / f, 1.0) if f > alpha * w else 1.0 for f, w in rows])


def eraser(points, k, start=0, centre=False):
    points = points - points.mean(dim=0) if centre else points
    directions = torch.linalg.svd(points, full_matrices=False)[2][start : start + k]
    return torch.eye(points.shape[1]) - directions.T @ directions


def in_place(cosines, own, scale, margin):
    cosines[torch.arange(len(own)), own] -= margin
    return scale * cosines


def pair_mean(z):
    rows = z.double().tolist()
    pairs = [sum(a * b for a, b in zip(one, two, strict=True)) for i, one in enumerate(rows) for two in rows[:i]]
    return sum(pairs) / len(pairs)


def quiet(points):
    return torch.linalg.eigh(points.T @ points).eigenvectors[:, 0]


def precision(relevant):
    hits = [rank for rank, hit in enumerate(relevant, 1) if hit]
    return sum((i + 1) / rank for i, rank in enumerate(hits)) / len(hits)


def merged(answers, k):
    left, kept = [pair for shard in answers for pair in shard], []
    while left and len(kept) < k:
        best = max(cosine for cosine, _ in left)
        kept.append(min(row for cosine, row in left if cosine == best))
        left.remove((best, kept[-1]))
    return kept


def front(points):
    rows = points.tolist()
    beats = [[all(map(le, p, q)) and p != q for p in rows] for q in rows]
    return [not any(row) for row in beats]


def hidden(shared: float, count: int = 8) -> np.ndarray:
    """Rows with cosine s²/(1 + s²) to each other, for s shared."""
    rows = np.hstack([np.eye(count), shared * np.ones((count, 1))])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def auc(forget, unseen):
    return np.mean([1.0 if f > u else 0.5 if f == u else 0.0 for f in forget for u in unseen])


EXACT, CLOSE, WRONG, BLANK = "exact", "close", "wrong", "not attempted yet"
RIGHT, TYPICAL, ODD = "right", "typical", "odd"
TURN = 2 * np.exp(1j * np.pi / 3)  # 60 degrees
LITTLE = [1, 0, 1, 1]  # (1/1 + 2/3 + 3/4) / 3 = 0.8056
LEFT_OVER = ("outputs of this notebook", "your folder")
CASES = {
    "00_chance": [
        (RIGHT, EXACT, "", 5 / 1200, 5 / 1200),
        (RIGHT, EXACT, "", 0.0042, 5 / 1200),
        (TYPICAL, WRONG, "right ones over all", 1 / 1200, 5 / 1200),
        (TYPICAL, CLOSE, "percent", 0.42, 5 / 1200),
        (ODD, WRONG, "right ones", 0, 0.0042),
        (ODD, WRONG, "right ones", 0.0051, 0.0042),
        (ODD, CLOSE, "small slip", 0.0043, 0.0042),
        (ODD, CLOSE, "percent", 0.4, 5 / 1200),
        (ODD, WRONG, "one number is wanted here", [0.0042], 0.0042),
        (ODD, EXACT, "", np.float32(0.0042), 0.0042),
    ],
    "00_price": [
        (RIGHT, EXACT, "", (0.863 - 0.746) / 0.863, 0.863, 0.746),
        (RIGHT, EXACT, "", torch.tensor(0.1356), 0.863, 0.746),
        (TYPICAL, WRONG, "those are points", 0.117, 0.863, 0.746),
        (TYPICAL, WRONG, "those are points", 0.94 - 0.9, 0.94, 0.9),
        (TYPICAL, WRONG, "what they kept", 0.746 / 0.863, 0.863, 0.746),
        (ODD, CLOSE, "percent", 13.6, 0.863, 0.746),
        (ODD, CLOSE, "small slip", 0.14, 0.863, 0.746),
        (ODD, CLOSE, "percent", 14, 0.863, 0.746),
        (ODD, WRONG, "those are points", 11.7, 0.863, 0.746),
        (ODD, WRONG, "counts as positive", -0.1356, 0.863, 0.746),
        (ODD, WRONG, "share of what is left", 0.117 / 0.746, 0.863, 0.746),
        (ODD, EXACT, "", 0, 0.8, 0.8),
    ],
    "01_angle": [
        (RIGHT, EXACT, "", 60.0, TURN),
        (RIGHT, EXACT, "", 60.09, TURN),
        (TYPICAL, CLOSE, "radians", math.pi / 3, TURN),
        (TYPICAL, CLOSE, "sign", -60, TURN),
        (ODD, CLOSE, "small slip", 60.2, TURN),
        (ODD, WRONG, "direction", 120.0, TURN),
        (ODD, WRONG, "numbers are wanted", "left", TURN),
        (ODD, WRONG, "shape", [60.0, 60.0], TURN),
        (ODD, EXACT, "", 0.0, 1 + 0j),
    ],
    "01_shared_people": [
        (RIGHT, EXACT, "", lambda a, b: len(set(a) & set(b))),
        (RIGHT, EXACT, "", lambda a, b: np.intersect1d(a, b).size),
        (TYPICAL, WRONG, "not photos", lambda a, b: np.isin(a, b).sum()),
        (ODD, WRONG, "numbers are wanted", lambda a, b: set(a) & set(b)),
        (ODD, WRONG, "not photos", lambda a, b: 0),
        (ODD, WRONG, "not photos", lambda a, b: len(set(a) | set(b))),
    ],
    "01_nearest_centroid": [
        (RIGHT, EXACT, "", lambda z, c: torch.cdist(z, c).argmin(1)),
        (RIGHT, EXACT, "", lambda z, c: (z @ c.T).argmax(1).numpy()),
        (TYPICAL, WRONG, "which column", lambda z, c: torch.cdist(z, c).argmax(1)),
        (TYPICAL, WRONG, "shape", lambda z, c: (z @ c.T).argmax(0)),
        (ODD, WRONG, "which column", lambda z, c: torch.zeros(len(z))),
    ],
    "02_angle": [
        (RIGHT, EXACT, "", lambda c: math.degrees(math.acos(c))),
        (RIGHT, EXACT, "", lambda c: np.degrees(np.arccos(c))),
        (TYPICAL, WRONG, "undo the cosine", math.acos),
        (TYPICAL, WRONG, "undo the cosine", lambda c: math.degrees(c)),
        (ODD, WRONG, "undo the cosine", lambda c: 180 - math.degrees(math.acos(c))),
        (ODD, WRONG, "undo the cosine", lambda c: 60.0),
        (ODD, WRONG, "numbers are wanted", lambda c: "sixty"),
        (ODD, WRONG, "a function is wanted", 60.0),
    ],
    "02_cosface_logits": [
        (RIGHT, EXACT, "", lambda c, own, s, m: s * c - s * m * torch.nn.functional.one_hot(own, c.shape[1])),
        (RIGHT, EXACT, "", lambda c, own, s, m: s * c.scatter(1, own[:, None], c.gather(1, own[:, None]) - m)),
        (TYPICAL, WRONG, "own person's cosine alone", lambda c, own, s, m: s * (c - m)),
        (TYPICAL, WRONG, "multiplies", lambda c, own, s, m: s * c - m * torch.nn.functional.one_hot(own, c.shape[1])),
        (TYPICAL, WRONG, "comes off", lambda c, own, s, m: s * (c + m * torch.nn.functional.one_hot(own, c.shape[1]))),
        (TYPICAL, CLOSE, "no gradient", lambda c, own, s, m: torch.tensor(in_place(c, own, s, m).tolist())),
        (ODD, EXACT, "", in_place),
        (ODD, WRONG, "shape", lambda c, own, s, m: s * (c.gather(1, own[:, None]) - m)),
        (ODD, WRONG, "comes off", lambda c, own, s, m: c),
        (ODD, WRONG, "a function is wanted", 8.0),
    ],
    "02_grey": [
        (RIGHT, EXACT, "", greyscale),
        (RIGHT, EXACT, "", lambda x: torch.stack([weighted(x)] * 3, 1).to(torch.uint8)),
        (TYPICAL, WRONG, "weighted", lambda x: x.float().mean(1, keepdim=True).expand(-1, 3, -1, -1).to(torch.uint8)),
        (TYPICAL, WRONG, "shape", lambda x: weighted(x)[:, None].to(torch.uint8)),
        (TYPICAL, CLOSE, "uint8", lambda x: torch.stack([weighted(x)] * 3, 1)),
        (ODD, WRONG, "weighted", lambda x: x),
        (ODD, WRONG, "stopped with TypeError", 3),
    ],
    "03_recall_at_k": [
        (RIGHT, EXACT, "", lambda relevant, k: float(sum(relevant[:k]) > 0)),
        (RIGHT, EXACT, "", lambda relevant, k: 1 in relevant[:k]),
        (TYPICAL, WRONG, "however many", lambda relevant, k: sum(relevant[:k]) / k),
        (TYPICAL, WRONG, "however many", lambda relevant, k: relevant[k - 1]),
        (ODD, WRONG, "IndexError", lambda relevant, k: relevant[100]),
        (ODD, WRONG, "however many", lambda relevant, k: 1.0),
        (ODD, WRONG, "however many", lambda relevant, k: sum(relevant[:k])),
    ],
    "03_average_precision": [
        (RIGHT, EXACT, "", (1 + 2 / 3 + 3 / 4) / 3, LITTLE),
        (RIGHT, EXACT, "", 0.81, LITTLE),
        (RIGHT, EXACT, "", precision),
        (TYPICAL, WRONG, "not over all ranks", (1 + 2 / 3 + 3 / 4) / 4, LITTLE),
        (TYPICAL, WRONG, "not over all ranks", np.mean),
        (ODD, CLOSE, "small slip", 0.79, LITTLE),
        (ODD, WRONG, "not over all ranks", lambda relevant: 0.81, LITTLE),
        (ODD, WRONG, "a function is wanted", 0.81),
    ],
    "03_chance_r1": [
        (RIGHT, EXACT, "", 5 / 1640, 5, 1640),
        (RIGHT, EXACT, "", 0.00305, 5, 1640),
        (TYPICAL, WRONG, "out of how many", 1 / 1640, 5, 1640),
        (TYPICAL, WRONG, "out of how many", 5, 5, 1640),
        (ODD, CLOSE, "small slip", 5 / 1600, 5, 1640),
        (ODD, CLOSE, "percent", 0.305, 5, 1640),
        (ODD, WRONG, "out of how many", 0.0, 5, 1640),
        (ODD, WRONG, "shape", [5 / 1640], 5, 1640),
    ],
    "04_tangent": [
        (RIGHT, EXACT, "", tangent),
        (RIGHT, EXACT, "", lambda g, z: torch.stack([a - (a @ b) * b for a, b in zip(g, z, strict=True)])),
        (ODD, CLOSE, "torch tensor", lambda g, z: [(a - (a @ b) * b).tolist() for a, b in zip(g, z, strict=True)]),
        (ODD, CLOSE, "torch tensor", lambda g, z: tangent(g, z).numpy()),
        (TYPICAL, WRONG, "dot product", lambda g, z: g - (g * z).sum() * z),
        (TYPICAL, WRONG, "dot product", lambda g, z: (g * z).sum(dim=1, keepdim=True) * z),
        (ODD, WRONG, "dot product", lambda g, z: g),
        (ODD, WRONG, "dot product", lambda g, z: torch.zeros_like(g)),
        (ODD, WRONG, "shape", lambda g, z: (g * z).sum(dim=1)),
    ],
    "04_simplex": [
        (RIGHT, EXACT, "every pair of the 4", simplex(4)),
        (RIGHT, EXACT, "", simplex(7).numpy().astype(np.float16)),
        (TYPICAL, WRONG, "rows sum to zero", torch.eye(4)),
        (TYPICAL, WRONG, "at least 4 rows of length 1", torch.eye(4) - 1 / 4),
        (TYPICAL, WRONG, "divide each row", torch.eye(4) - 1 / 4),
        (TYPICAL, WRONG, "rows sum to zero", torch.eye(12)),
        (ODD, WRONG, "here are 3", simplex(3)),
        (ODD, WRONG, "rows sum to zero", torch.eye(1200)),
        (ODD, CLOSE, "rows sum to zero", near_simplex(0.01)),
        (ODD, WRONG, "rows sum to zero", near_simplex(0.25)),
        (ODD, WRONG, "rows sum to zero", orthoplex(2)),
        (ODD, WRONG, "at least 4", "corners"),
        (ODD, WRONG, "at least 4", np.full((4, 4), np.nan)),
    ],
    "04_log_sum_exp": [
        (RIGHT, EXACT, "", lambda z, beta: torch.exp(beta * pairs(z)).mean().log() / beta),
        (RIGHT, EXACT, "", lambda z, beta: torch.logsumexp(beta * pairs(z), 0) / beta - math.log(len(pairs(z))) / beta),
        (TYPICAL, WRONG, "different points", lambda z, beta: torch.exp(beta * (z @ z.T)).mean().log() / beta),
        (TYPICAL, WRONG, "divide by beta", lambda z, beta: torch.exp(beta * pairs(z)).mean().log()),
        (TYPICAL, WRONG, "then mean", lambda z, beta: torch.logsumexp(beta * pairs(z), 0) / beta),
        (ODD, WRONG, "then mean", lambda z, beta: pairs(z).max()),
        (TYPICAL, CLOSE, "no gradient", soft_top),
        (TYPICAL, WRONG, "no gradient", lambda z, beta: np.log(np.exp(beta * pairs(z).numpy()).mean()) / beta),
        (ODD, WRONG, "one number", lambda z, beta: pairs(z)),
        (ODD, WRONG, "a function is wanted", 0.5),
    ],
    "05_wrong_names": [
        (RIGHT, EXACT, "", lambda n, allowed, rng: rng.choice(allowed, n)),
        (RIGHT, EXACT, "", lambda n, allowed, rng: torch.from_numpy(rng.permutation(allowed)).repeat(n)[:n]),
        (TYPICAL, WRONG, "same name", lambda n, allowed, rng: np.full(n, rng.choice(allowed))),
        (TYPICAL, WRONG, "outside the allowed", lambda n, allowed, rng: rng.integers(0, len(allowed), n)),
        (TYPICAL, CLOSE, "do not hang", lambda n, allowed, rng: np.random.default_rng().choice(allowed, n)),
        (ODD, CLOSE, "do not hang", lambda n, allowed, rng: np.resize(allowed, n)),
        (ODD, WRONG, "40 photos want 40 names", lambda n, allowed, rng: rng.choice(allowed)),
        (ODD, WRONG, "40 photos", lambda n, allowed, rng: "Ada"),
        (ODD, WRONG, "IndexError", lambda n, allowed, rng: allowed[n]),
        (ODD, BLANK, "", crash(NotImplementedError())),
    ],
    "05_silent_scale": [
        (RIGHT, EXACT, "", lambda gap: math.log(2**24) / gap),
        (RIGHT, EXACT, "", 23.8, 0.7),
        (TYPICAL, WRONG, "logarithm", lambda gap: 24 / gap),
        (TYPICAL, WRONG, "logarithm", lambda gap: 24 * math.log(2) * gap),
        (ODD, CLOSE, "small slip", lambda gap: math.log(2**23) / gap),
        (ODD, WRONG, "logarithm", lambda gap: 23.76),
        (ODD, WRONG, "logarithm", 64, 0.7),
        (ODD, WRONG, "logarithm", -23.76, 0.7),
    ],
    "05_bounded": [
        (RIGHT, EXACT, "", lambda climbed, bound: torch.relu(bound - climbed)),
        (RIGHT, EXACT, "", lambda climbed, bound: (bound - climbed).clamp(min=0)),
        (TYPICAL, WRONG, "nothing once it is reached", lambda climbed, bound: bound - climbed),
        (TYPICAL, WRONG, "still missing", lambda climbed, bound: torch.relu(climbed - bound)),
        (TYPICAL, CLOSE, "no gradient", lambda climbed, bound: max(bound - climbed, 0.0)),
        (ODD, WRONG, "still missing", lambda climbed, bound: abs(bound - climbed)),
        (ODD, WRONG, "still missing", lambda climbed, bound: min(climbed, bound)),
        (ODD, CLOSE, "no gradient", lambda climbed, bound: torch.relu(bound - climbed).item()),
        (ODD, WRONG, "still missing", lambda climbed, bound: 0.0 * climbed),
    ],
    "06_masked_target": [
        (RIGHT, EXACT, "", masked),
        (RIGHT, EXACT, "", lambda c, struck, s: masked(c, struck, s).tolist()),
        (TYPICAL, WRONG, "before the softmax", struck_too_late),
        (TYPICAL, WRONG, "before the softmax", lambda c, struck, s: masked(c, struck[:1], s)),
        (ODD, WRONG, "before the softmax", lambda c, struck, s: masked(c, struck, 1.0)),
        (ODD, WRONG, "before the softmax", lambda c, struck, s: np.full(5, 0.2)),
        (ODD, WRONG, "NaN", lambda c, struck, s: masked(c, list(range(5)), s)),
        (ODD, WRONG, "shape", lambda c, struck, s: masked(c, struck, s).max()),
    ],
    "06_divergence": [
        (RIGHT, EXACT, "", divergence),
        (RIGHT, EXACT, "", lambda p, t: F.kl_div(p.log(), t, reduction="batchmean")),
        (TYPICAL, WRONG, "weigh the logarithms", lambda p, t: divergence(p, t) / p.shape[1]),
        (TYPICAL, WRONG, "weigh the logarithms", lambda p, t: divergence(t, p)),
        (TYPICAL, WRONG, "0 log 0", lambda p, t: (t * (t / p).log()).sum(dim=1).mean()),
        (TYPICAL, CLOSE, "no gradient", lambda p, t: float(divergence(p, t))),
        (ODD, WRONG, "weigh the logarithms", lambda p, t: -divergence(p, t)),
        (ODD, WRONG, "mean over photos", lambda p, t: len(p) * divergence(p, t) if len(p) > 1 else divergence(p, t)),
        (ODD, WRONG, "weigh the logarithms", lambda p, t: 0.0),
        (ODD, WRONG, "weigh the logarithms", lambda p, t: divergence(p, t) / math.log(2)),
    ],
    "07_damping": [
        (RIGHT, EXACT, "", damping),
        (RIGHT, EXACT, "", lambda f, w, a, s: damping(f, w, a, s).tolist()),
        (TYPICAL, WRONG, "ever enlarged", lambda f, w, a, s: torch.where(f > a * w, s * w / f, 1.0)),
        (TYPICAL, WRONG, "stands out", lambda f, w, a, s: torch.where(f > 0, (s * w / f).clamp(max=1), 1.0)),
        (TYPICAL, WRONG, "stands out", lambda f, w, a, s: damping(f, w, 1, s)),
        (ODD, CLOSE, "small slip", lambda f, w, a, s: 1.02 * damping(f, w, a, s)),
        (ODD, WRONG, "stands out", lambda f, w, a, s: torch.ones(5)),
        (ODD, WRONG, "shape", lambda f, w, a, s: 1),
        (ODD, WRONG, "RuntimeError", lambda f, w, a, s: min(s * w / f, 1)),
        (ODD, WRONG, "stands out", lambda f, w, a, s: damping(f, w, a, 1.0)),
    ],
    "07_eraser": [
        (RIGHT, EXACT, "", eraser),
        (RIGHT, EXACT, "", lambda points, k: eraser(points, k).tolist()),
        (TYPICAL, WRONG, "without centring", lambda points, k: eraser(points, k, centre=True)),
        (TYPICAL, WRONG, "strongest first", lambda points, k: eraser(points, k, start=1)),
        (TYPICAL, WRONG, "keep everything but", lambda points, k: torch.eye(5) - eraser(points, k)),
        (ODD, WRONG, "strongest first", lambda points, k: eraser(points, 1)),
        (ODD, WRONG, "keep everything but", lambda points, k: np.eye(5)),
        (ODD, WRONG, "shape", lambda points, k: eraser(points, k)[0]),
    ],
    "08_uniform": [
        (RIGHT, EXACT, "", lambda z: (z.sum(0) @ z.sum(0) - len(z)) / (len(z) * (len(z) - 1))),
        (RIGHT, EXACT, "", lambda z: torch.stack([a @ b for i, a in enumerate(z) for b in z[:i]]).mean()),
        (TYPICAL, WRONG, "leave it out", lambda z: (z @ z.T).mean()),
        (TYPICAL, WRONG, "divide by", lambda z: ((z @ z.T).sum() - len(z)) / len(z) ** 2),
        (TYPICAL, CLOSE, "no gradient", pair_mean),
        (TYPICAL, WRONG, "no gradient", lambda z: z.numpy() @ z.numpy().T),
        (ODD, CLOSE, "no gradient", lambda z: mean_cosine(z).detach()),
        (ODD, WRONG, "RuntimeError", lambda z: z @ z),
        (ODD, WRONG, "leave it out", lambda z: 0.0),
        (ODD, WRONG, "a function is wanted", 3),
    ],
    "08_hard": [
        (RIGHT, EXACT, "", lambda z: (z @ z.T - 3 * torch.eye(len(z))).max(dim=1).values.mean()),
        (RIGHT, EXACT, "", lambda z: (z @ z.T).topk(2, dim=1).values[:, 1].mean()),
        (TYPICAL, WRONG, "push the diagonal", lambda z: (z @ z.T).max(dim=1).values.mean()),
        (TYPICAL, WRONG, "of each row", lambda z: (z @ z.T - 3 * torch.eye(len(z))).max()),
        (TYPICAL, WRONG, "below every cosine", lambda z: (z @ z.T - torch.eye(len(z))).max(dim=1).values.mean()),
        (TYPICAL, CLOSE, "no gradient", lambda z: (z @ z.T - 3 * torch.eye(len(z))).max(dim=1).values.mean().item()),
        (ODD, WRONG, "of each row", mean_cosine),
        (ODD, WRONG, "shape", lambda z: (z @ z.T - 3 * torch.eye(len(z))).max(dim=1).values),
        (ODD, WRONG, "numbers are wanted", lambda z: z.max(dim=1)),
    ],
    "08_blind_spot": [
        (RIGHT, EXACT, "neighbour at 1.00", torch.tensor(circle(0, 0, 180, 180))),
        (RIGHT, EXACT, "", circle(0, 20, 180, 200).tolist()),
        (TYPICAL, CLOSE, "with 3 groups", TIGHT_TRIO),
        (TYPICAL, WRONG, "sum to zero", circle(0, 1, 2, 3)),
        (TYPICAL, WRONG, "tight groups", circle(0, 90, 180, 270)),
        (ODD, CLOSE, "nearest 0.84", circle(0, 33, 180, 213)),
        (ODD, WRONG, "tight groups", circle(0, 40, 180, 220)),
        (ODD, CLOSE, "mean", circle(0, 0, 150, 150)),
        (ODD, WRONG, "sum to zero", circle(0, 0, 120, 120)),
        (ODD, WRONG, "at least 4 rows", 2 * TIGHT_TRIO),
        (ODD, WRONG, "here are 2. Hint: add rows", [[1.0, 0.0], [-1.0, 0.0]]),
        (ODD, WRONG, "at least 4 rows", np.full((4, 2), np.nan)),
        (ODD, WRONG, "at least 4 rows", "two clumps"),
    ],
    "08_empty_place": [
        (RIGHT, EXACT, "", quiet),
        (RIGHT, EXACT, "", lambda z: (-quiet(z)).numpy()),
        (TYPICAL, WRONG, "quieter direction", lambda z: F.normalize(-z.sum(0), dim=0)),
        (TYPICAL, WRONG, "quieter direction", lambda z: torch.linalg.eigh(z.T @ z).eigenvectors[:, -1]),
        (TYPICAL, WRONG, "of length 1", lambda z: 2 * quiet(z)),
        (TYPICAL, WRONG, "quieter direction", lambda z: torch.linalg.eigh(z.T @ z).eigenvectors[0]),
        (ODD, WRONG, "quieter direction", lambda z: torch.eye(z.shape[1])[0]),
        (ODD, CLOSE, "quieter direction", lambda z: F.normalize(quiet(z) + 0.3 * F.normalize(z.sum(0), dim=0), dim=0)),
        (ODD, WRONG, "quieter direction", lambda z: F.normalize(torch.ones(z.shape[1]), dim=0)),
        (ODD, WRONG, "one vector", lambda z: torch.linalg.eigh(z.T @ z).eigenvectors),
        (ODD, WRONG, "TypeError", 3),
        (ODD, WRONG, "KeyError", crash(KeyError("x"))),
    ],
    "09_front": [
        (RIGHT, EXACT, "", front),
        (RIGHT, EXACT, "", lambda points: np.array(front(points), dtype=np.int8)),
        (TYPICAL, WRONG, "somewhere lower", lambda points: points[:, 0] == points[:, 0].min()),
        (
            TYPICAL,
            WRONG,
            "equal rows",
            lambda p: [sum((q <= r).all() for q in p) == 1 for r in p],
        ),
        (ODD, WRONG, "somewhere lower", lambda points: np.ones(len(points), dtype=bool)),
        (ODD, WRONG, "somewhere lower", lambda points: np.zeros(len(points), dtype=bool)),
        (ODD, WRONG, "somewhere lower", lambda points: front(-points)),
    ],
    "09_share_above": [
        (RIGHT, EXACT, "", lambda scores, limit: sum(score > limit for score in scores) / len(scores)),
        (RIGHT, EXACT, "", lambda scores, limit: torch.tensor(np.mean(np.array(scores) > limit))),
        (TYPICAL, WRONG, "Equal is not above", lambda scores, limit: np.mean(np.array(scores) >= limit)),
        (TYPICAL, WRONG, "the mean of the comparisons", lambda scores, limit: np.sum(np.array(scores) > limit)),
        (ODD, WRONG, "the mean of the comparisons", lambda scores, limit: 0.5),
        (TYPICAL, WRONG, "from 0 to 1", lambda scores, limit: 100 * np.mean(np.array(scores) > limit)),
        (ODD, WRONG, "shape", lambda scores, limit: np.array(scores) > limit),
    ],
    "09_choice": [
        (RIGHT, EXACT, "weights only", "dispersion_blends"),
        (RIGHT, EXACT, "weights only", np.str_(METHODS["dispersion_blends"].title)),
        (RIGHT, EXACT, "weights only", "dispersion beside Blends"),
        (TYPICAL, CLOSE, "behind the network", "esc"),
        (TYPICAL, CLOSE, "behind the network", METHODS["gather_scatter"].title),
        (TYPICAL, CLOSE, "behind the network", "block_list"),
        (TYPICAL, CLOSE, "by weights alone", METHODS["esc_folded"].title),
        (TYPICAL, CLOSE, "unseen people keep", "Dispersion, hard"),
        (TYPICAL, WRONG, "nobody may be retrained", "retrain"),
        (TYPICAL, WRONG, "hidden from a search", "random_labels"),
        (TYPICAL, WRONG, "hidden from a search", "dispersion_hard_alone"),
        (ODD, WRONG, "hides nobody", "Original model"),
        (ODD, WRONG, "one method's name", "magic"),
        (ODD, WRONG, "one method's name", list(METHODS)),
        (ODD, WRONG, "one method's name", ""),
    ],
    "10_recovered": [
        (RIGHT, EXACT, "", lambda s, t, o: min(max((s - t) / (o - t), 0), 1)),
        (RIGHT, EXACT, "", lambda s, t, o: np.clip((s - t) / (o - t), 0, 1)),
        (TYPICAL, WRONG, "between 0 and 1", lambda s, t, o: (s - t) / (o - t)),
        (TYPICAL, WRONG, "between 0 and 1", lambda s, t, o: min((s - t) / (o - t), 1)),
        (TYPICAL, WRONG, "between 0 and 1", lambda s, t, o: max((s - t) / (o - t), 0)),
        (TYPICAL, WRONG, "from the target", lambda s, t, o: np.clip((s - t) / o, 0, 1)),
        (ODD, WRONG, "from the target", lambda s, t, o: s / o),
        (ODD, WRONG, "from the target", lambda s, t, o: 1 - np.clip((s - t) / (o - t), 0, 1)),
        (ODD, WRONG, "from the target", lambda s, t, o: 0.5),
    ],
    "10_auc": [
        (RIGHT, EXACT, "", auc),
        (RIGHT, EXACT, "", lambda f, u: torch.tensor(auc(f, u))),
        (TYPICAL, WRONG, "a tie a half", lambda f, u: (f[:, None] > u).mean()),
        (TYPICAL, WRONG, "a win counts 1", lambda f, u: auc(u, f)),
        (ODD, WRONG, "a tie a half", lambda f, u: (f[:, None] >= u).mean()),
        (ODD, WRONG, "take the mean", lambda f, u: 0.5),
        (ODD, WRONG, "take the mean", lambda f, u: f.mean() - u.mean()),
    ],
    "10_hidden_direction": [
        (RIGHT, EXACT, "no two nearer than 0.20", hidden(0.5)),  # 0.25 / 1.25; to the template sqrt((1 + 7 × 0.2) / 8)
        (RIGHT, EXACT, "", torch.tensor(hidden(0.65), dtype=torch.float32)),
        (TYPICAL, WRONG, "a direction of its own", np.eye(8)),
        (TYPICAL, WRONG, "a direction of its own", np.ones((8, 4)) / 2),
        (TYPICAL, WRONG, "at least 6 rows of length 1", 2 * hidden(0.5)),
        (ODD, CLOSE, "a little less", hidden(0.7)),
        (ODD, WRONG, "nearest pair 0.36", hidden(0.75)),
        (ODD, WRONG, "here are 5", hidden(0.5)[:5]),
        (ODD, CLOSE, "template 0.47. Hint: give them a little more", hidden(0.36)),  # sqrt((1 + 7 × 0.115) / 8)
        (ODD, WRONG, "template 0.40", hidden(0.2)),
        (ODD, WRONG, "at least 6", "far"),
        (ODD, WRONG, "template 0.00", simplex(8)),
    ],
    "12_merged": [
        (RIGHT, EXACT, "", merged),
        (RIGHT, EXACT, "", lambda answers, k: torch.tensor(merged(answers, k))),
        (TYPICAL, WRONG, "equal by rising row", lambda a, k: [r for _, r in sorted(sum(a, []), reverse=True)][:k]),
        (TYPICAL, WRONG, "shape", lambda answers, k: merged(answers, 99)),
        (ODD, WRONG, "falling cosine", lambda answers, k: [row for _, row in sum(answers, [])][:k]),
        (ODD, WRONG, "shape", lambda answers, k: sum(answers, [])[:k]),
    ],
    "12_pairs_seen": [
        (RIGHT, EXACT, "", lambda n, w: w * (n // w) * (n // w - 1) / (n * (n - 1))),
        (TYPICAL, WRONG, "how many other photos", lambda n, w: 1 / w),
        (TYPICAL, WRONG, "how many other photos", lambda n, w: (n / w) / n),
        (ODD, WRONG, "how many other photos", lambda n, w: 1 - (n / w - 1) / (n - 1)),
        (ODD, WRONG, "TypeError", lambda n: 0.5),
    ],
    "11_chance": [
        (RIGHT, EXACT, "", 5 / 400, 5, 400),
        (RIGHT, EXACT, "", np.float32(0.0125), 5, 400),
        (TYPICAL, WRONG, "what share of all", 1 / 400, 5, 400),
        (TYPICAL, WRONG, "what share of all", 5, 5, 400),
        (ODD, CLOSE, "percent", 1.25, 5, 400),
        (ODD, WRONG, "what share of all", 0, 5, 400),
        (ODD, WRONG, "numbers are wanted", "little", 5, 400),
    ],
    "11_verdicts": [
        (RIGHT, EXACT, "", [True, True, False], [3.0, 10.0, 10.5]),
        (RIGHT, EXACT, "", np.array([1, 1, 0]), [3.0, 10.0, 10.5]),
        (RIGHT, EXACT, "", [False], [11]),
        (TYPICAL, WRONG, "10 or better", [False, False, True], [3.0, 10.0, 10.5]),
        (TYPICAL, WRONG, "10 or better", [True, False, False], [3.0, 10.0, 10.5]),
        (ODD, WRONG, "10 or better", [True, True, True], [3.0, 10.0, 10.5]),
        (ODD, WRONG, "10 or better", [False, False, False], [3.0, 10.0, 10.5]),
        (ODD, WRONG, "shape", True, [3.0, 40.0]),
        (ODD, WRONG, "numbers are wanted", ["yes", "no"], [3.0, 40.0]),
    ],
    "11_leftovers": [
        (RIGHT, EXACT, "", LEFT_OVER),
        (RIGHT, EXACT, "", set(map(np.str_, LEFT_OVER))),
        (ODD, EXACT, "", [name.capitalize() for name in LEFT_OVER]),
        (TYPICAL, CLOSE, "not all", ["your folder"]),
        (TYPICAL, WRONG, "1 of your names", [*LEFT_OVER, "the model"]),
        (ODD, WRONG, "1 of your names", ["the model"]),
        (ODD, WRONG, "memory only is gone", []),
        (ODD, WRONG, "list of names", "your folder"),
        (ODD, WRONG, "list of names", 2),
    ],
}
GIVEN = {"01_angle": (TURN,)} | {name: cases[0][4:] for name, cases in CASES.items()}


def test_every_checker_has_a_right_a_typical_and_an_odd_answer():
    assert {f"check_{name}" for name in CASES} == {name for name in dir(ex) if re.match(r"check_\d\d_", name)} - {
        "check_00_environment"
    }
    for name, cases in CASES.items():
        assert {case[0] for case in cases} == {RIGHT, TYPICAL, ODD}, name
        assert {case[1] for case in cases if case[0] == RIGHT} == {EXACT}, name
        assert EXACT not in {case[1] for case in cases if case[0] == TYPICAL}, name


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in CASES.items() for case in cases])
def test_an_answer_gets_the_verdict_and_the_hint_that_it_deserves(name, case, capsys):
    _, status, said, answer, *given = case
    with np.errstate(all="ignore"):
        assert getattr(ex, f"check_{name}")(answer, *given) == status
    printed = capsys.readouterr().out
    assert printed.startswith(ex.SYMBOLS[status]) and printed.count("\n") == 1 and said in printed
    assert status in (EXACT, BLANK) or said, "an answer that is not right gets a word on it"


def asked_of(check, given: tuple) -> list[tuple]:
    """Return the arguments of every call that a checker makes to a function that gives the right answers."""
    calls: list[tuple] = []

    def student(*arguments):
        calls.append(arguments)
        return check.reference(*arguments)

    assert check(student, *given) == EXACT
    return calls


@pytest.mark.parametrize("name", [name for name in CASES if hasattr(getattr(ex, f"check_{name}"), "reference")])
def test_a_function_that_always_takes_one_argument_for_the_same_is_not_exact(name):
    check = getattr(ex, f"check_{name}")
    calls = asked_of(check, GIVEN[name])
    for place in range(len(calls[0])):
        for call in (calls[0], calls[-1]):

            def blind(*arguments, place=place, fixed=call[place]):
                return check.reference(*arguments[:place], fixed, *arguments[place + 1 :])

            with np.errstate(all="ignore"):
                assert check(blind, *GIVEN[name]) != EXACT, f"argument {place} may be ignored"


@pytest.mark.parametrize("name", CASES)
def test_a_missing_answer_is_no_mistake(name):
    check, given = getattr(ex, f"check_{name}"), GIVEN[name]
    assert {check(None, *given), check(..., *given)} == {BLANK}
    if callable(CASES[name][0][3]):
        assert {check(lambda *_: None, *given), check(crash(NotImplementedError()), *given)} == {BLANK}


# ---- the right answers themselves, by hand ---------------------------------------------------------------------------


def test_environment_checker_passes_here_and_tells_what_fails(capsys, monkeypatch):
    assert ex.check_00_environment() == "exact"

    def broken():
        raise CourseError("faiss is missing")

    monkeypatch.setattr(ex.faces, "check_environment", broken)
    assert ex.check_00_environment() == "wrong"
    assert "faiss is missing" in capsys.readouterr().out


def test_an_environment_that_cannot_be_written_is_one_sentence(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(ex.faces, "REPO_ROOT", tmp_path / "not there")
    assert ex.check_00_environment() == "wrong"
    assert "cannot be written" in capsys.readouterr().out


def test_silent_scale_is_where_float32_stops_telling_the_loss_from_zero():
    for gap in (0.25, 0.7):
        scale = ex.check_05_silent_scale.reference(gap)
        losses = [torch.log(1 + torch.exp(torch.tensor(-factor * scale * gap))).item() for factor in (0.99, 1.01)]
        assert losses[0] > 0 and losses[1] == 0


def test_some_right_answers_by_hand():
    # with 0.9 struck out, 0.35 beats 0.31 by exp(16 x 0.04)
    by_hand = ex.check_06_masked_target.reference(np.array([0.9, 0.35, 0.31]), [0], 16.0)
    assert by_hand == pytest.approx([0, 1 / (1 + math.exp(-0.64)), 1 / (1 + math.exp(0.64))])
    target, opinion = torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.full((2, 2), 0.5)
    assert ex.check_06_divergence.reference(opinion, target).item() == pytest.approx(math.log(2) / 2)
    damped = ex.check_07_damping.reference(torch.tensor([8.0, 3.0, 1.0]), torch.tensor([1.0, 2.0, 4.0]), 2.0, 1.0)
    assert damped.tolist() == [0.125, 1, 1]
    erased = ex.check_07_eraser.reference(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1)
    assert np.allclose(erased, [[0, 0], [0, 1]])


@pytest.mark.parametrize(
    ("degrees", "count"), [((0, 1), 1), ((0, 90), 2), ((0, 20, 40, 60), 1), ((0, 0, 180), 2), ((0, 120, 240), 3)]
)
def test_groups_are_what_is_linked(degrees, count):
    assert ex.groups(circle(*degrees)) == count


def test_no_hint_shows_an_answer(capsys):
    ex.check_03_chance_r1(0.5, 5, 1640)
    ex.check_05_silent_scale(1.0, 0.7)
    printed = capsys.readouterr().out
    for answer in ("0.003", "-0.11", "n - 1", "n − 1", "23.7", "16.6"):
        assert answer not in printed
