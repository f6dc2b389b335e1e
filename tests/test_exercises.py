"""The exercise checkers: right, close, wrong, blank and crashing answers each get their verdict, and nothing raises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from utils import exercises as ex
from utils.settings import CourseError


def circle(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], 1)


TIGHT_TRIO = circle(0, 4, 120, 124, 240, 244)
PRECISION = {"right": lambda r: ex._average_precision(r), "mean over ranks": lambda r: float(np.mean(r))}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (2.0, "exact"),
        (torch.tensor(2.0, requires_grad=True), "exact"),
        (np.float32(2.0), "exact"),
        (2.05, "close"),
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
    assert ex.check_value(answer, 2.0, "count again.") == status
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and status in printed
    assert ("count again." in printed) == (status in ("close", "wrong"))


def test_arrays_are_compared_entry_by_entry():
    expected = np.array([1.0, 2.0, 3.0])
    assert ex.check_value([1, 2, 3], expected, "h") == "exact"
    assert ex.check_value(torch.tensor([1.0, 2.0, 3.1]), expected, "h") == "close"
    assert ex.check_value([3, 2, 1], expected, "h") == "wrong"
    assert ex.check_value([[1, 2, 3]], expected, "h") == "wrong"


def crash(error: Exception):
    def student(*_):
        raise error

    return student


@pytest.mark.parametrize("error", [TypeError("a\nb"), ValueError(), AttributeError("x"), RuntimeError("x" * 500),
                                   IndexError("x"), KeyError("x"), ZeroDivisionError("x"), NameError("x")])  # fmt: skip
def test_a_crashing_function_is_wrong_and_says_so_in_one_line(error, capsys):
    assert ex.check_function(crash(error), abs, [(1,)], "look again.") == "wrong"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and type(error).__name__ in printed and len(printed) < 300


def test_function_verdict_is_the_worst_case():
    cases = [(1.0,), (2.0,)]
    assert ex.check_function(abs, abs, cases, "h") == "exact"
    assert ex.check_function(lambda x: 1.02 * x, abs, cases, "h") == "close"
    assert ex.check_function(lambda x: x if x < 2 else 0, abs, cases, "h") == "wrong"
    assert ex.check_function(lambda x: 1, lambda x: x, cases, "h", name="f") == "wrong"
    assert ex.check_function(lambda x: ..., abs, cases, "h") == "not attempted yet"
    assert ex.check_function(lambda x: None, abs, cases, "h") == "not attempted yet"
    assert ex.check_function(crash(NotImplementedError()), abs, cases, "h") == "not attempted yet"
    assert ex.check_function(None, abs, cases, "h") == "not attempted yet"
    assert ex.check_function(3.0, abs, cases, "h") == "wrong"
    assert ex.check_function(lambda: 1, abs, cases, "h") == "wrong"


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        ex.check_function(crash(KeyboardInterrupt()), abs, [(1,)], "h")


def test_turn_of_an_alignment_with_a_word_on_radians_and_sign(capsys):
    assert ex.check_01_angle(90.0, 2j) == "exact"
    assert ex.check_01_angle(math.pi / 2, 2j) == "close" and "radians" in capsys.readouterr().out
    assert ex.check_01_angle(-90, 2j) == "close" and "sign" in capsys.readouterr().out
    assert ex.check_01_angle(45, 2j) == "wrong"
    assert ex.check_01_angle(0.0, 1 + 0j) == "exact"
    assert ex.check_01_angle(None, 2j) == "not attempted yet" and ex.check_01_angle("left", 2j) == "wrong"


def test_shared_people_are_people_not_photos():
    assert ex.check_01_shared_people(lambda a, b: len(set(a) & set(b))) == "exact"
    assert ex.check_01_shared_people(lambda a, b: len(np.intersect1d(a, b))) == "exact"
    assert ex.check_01_shared_people(lambda a, b: np.isin(a, b).sum()) == "wrong"
    assert ex.check_01_shared_people(lambda a, b: set(a) & set(b)) == "wrong"
    assert ex.check_01_shared_people(lambda a, b: ...) == "not attempted yet"


def test_nearest_centroid():
    assert ex.check_01_nearest_centroid(lambda z, c: (z @ c.T).argmax(1)) == "exact"
    assert ex.check_01_nearest_centroid(lambda z, c: torch.cdist(z, c).argmin(1)) == "exact"
    assert ex.check_01_nearest_centroid(lambda z, c: (z @ c.T).argmin(1)) == "wrong"
    assert ex.check_01_nearest_centroid(lambda z, c: (z @ c.T).argmax(0)) == "wrong"
    assert ex.check_01_nearest_centroid(None) == "not attempted yet"


def test_angle_in_degrees_with_a_word_on_radians(capsys):
    assert ex.check_02_angle(60.0, 0.5) == "exact"
    assert ex.check_02_angle(61.0, 0.5) == "close"
    assert ex.check_02_angle(math.pi / 3, 0.5) == "close" and "radians" in capsys.readouterr().out
    assert ex.check_02_angle(0.5, 0.5) == "wrong"
    assert ex.check_02_angle(None, 0.5) == "not attempted yet"
    assert ex.check_02_angle("sixty", 0.5) == "wrong"
    assert ex.check_02_angle(0.0, 1.0000001) == "exact"


def test_cosface_logit_as_number_or_function():
    assert ex.check_02_cosface_logit(32.0 * 0.25, 0.6, 32, 0.35) == "exact"
    assert ex.check_02_cosface_logit(8.3, 0.6, 32, 0.35) == "close"
    assert ex.check_02_cosface_logit(32 * 0.6 - 0.35, 0.6, 32, 0.35) == "wrong"
    assert ex.check_02_cosface_logit(..., 0.6, 32, 0.35) == "not attempted yet"
    assert ex.check_02_cosface_logit(lambda c, s, m: s * (c - m), 0.6, 32, 0.35) == "exact"
    assert ex.check_02_cosface_logit(lambda c, s, m: s * c - m, 0.6, 32, 0.35) == "wrong"


def test_recall_at_k():
    assert ex.check_03_recall_at_k(lambda relevant, k: float(sum(relevant[:k]) > 0)) == "exact"
    assert ex.check_03_recall_at_k(lambda relevant, k: 1 in relevant[:k]) == "exact"
    assert ex.check_03_recall_at_k(lambda relevant, k: sum(relevant[:k]) / k) == "wrong"
    assert ex.check_03_recall_at_k(lambda relevant, k: relevant[100]) == "wrong"
    assert ex.check_03_recall_at_k(None) == "not attempted yet"


def test_average_precision_by_hand():
    # hits at ranks 1, 3, 4: (1/1 + 2/3 + 3/4) / 3
    ranking, right = [1, 0, 1, 1], (1 + 2 / 3 + 3 / 4) / 3
    assert ex.check_03_average_precision(right, ranking) == "exact"
    assert ex.check_03_average_precision(round(right, 2), ranking) == "exact"
    assert ex.check_03_average_precision(right + 0.03, ranking) == "close"
    assert ex.check_03_average_precision(0.75, ranking) == "wrong"
    assert ex.check_03_average_precision(None, ranking) == "not attempted yet"
    assert ex.check_03_average_precision(PRECISION["right"]) == "exact"
    assert ex.check_03_average_precision(PRECISION["mean over ranks"]) == "wrong"


def test_chance_level():
    assert ex.check_03_chance_r1(5 / 1640, 5, 1640) == "exact"
    assert ex.check_03_chance_r1(5 / 1600, 5, 1640) == "close"
    assert ex.check_03_chance_r1(1 / 180, 5, 1640) == "wrong"
    assert ex.check_03_chance_r1(None, 5, 1640) == "not attempted yet"


def test_mean_pair_cosine_without_the_diagonal():
    def right(z):
        n = len(z)
        return ((z @ z.T).sum() - n) / (n * (n - 1))

    assert ex.check_08_mean_pair_cosine(right) == "exact"
    assert ex.check_08_mean_pair_cosine(lambda z: (z @ z.T).mean()) == "wrong"
    assert ex.check_08_mean_pair_cosine(lambda z: z @ z) == "wrong"
    assert ex.check_08_mean_pair_cosine(lambda z: None) == "not attempted yet"


def test_blind_spot_tests_the_property(capsys):
    assert ex.check_08_blind_spot(TIGHT_TRIO) == "exact"
    assert ex.check_08_blind_spot(torch.tensor(circle(0, 0, 180, 180))) == "exact"
    assert ex.check_08_blind_spot(circle(0, 33, 180, 213)) == "close"
    assert ex.check_08_blind_spot(circle(0, 1, 2, 3)) == "wrong" and "sum to zero" in capsys.readouterr().out
    assert ex.check_08_blind_spot(circle(0, 90, 180, 270)) == "wrong" and "groups" in capsys.readouterr().out
    assert ex.check_08_blind_spot(2 * TIGHT_TRIO) == "wrong"
    assert ex.check_08_blind_spot([[1.0, 0.0]]) == "wrong"
    assert ex.check_08_blind_spot("three clumps") == "wrong"
    assert ex.check_08_blind_spot(np.full((4, 2), np.nan)) == "wrong"
    assert ex.check_08_blind_spot(None) == "not attempted yet"


def test_best_possible_mean():
    assert ex.check_08_best_possible(lambda n: -1 / (n - 1)) == "exact"
    assert ex.check_08_best_possible(lambda n: -1 / n) == "wrong"
    assert ex.check_08_best_possible(lambda n: 1 / 0) == "wrong"
    assert ex.check_08_best_possible(-1 / 9, 10) == "exact"
    assert ex.check_08_best_possible(..., 10) == "not attempted yet"


def test_environment_checker_passes_here_and_tells_what_fails(capsys, monkeypatch):
    assert ex.check_00_environment() == "exact"

    def broken():
        raise CourseError("faiss is missing")

    monkeypatch.setattr(ex, "check_environment", broken)
    assert ex.check_00_environment() == "wrong"
    assert "faiss is missing" in capsys.readouterr().out


def test_no_hint_shows_an_answer(capsys):
    ex.check_02_angle(1.0, 0.25)
    ex.check_03_chance_r1(0.5, 5, 1640)
    ex.check_08_best_possible(0.5, 10)
    printed = capsys.readouterr().out
    for answer in ("75.5", "0.003", "-0.11", "n - 1", "n − 1"):
        assert answer not in printed
