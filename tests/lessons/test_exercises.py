"""The exercise checkers: right, close, wrong, blank and crashing answers each get their verdict, and nothing raises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from utils.lessons import exercises as ex
from utils.settings import CourseError


def circle(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], 1)


TIGHT_TRIO = circle(0, 4, 120, 124, 240, 244)
PRECISION = {"right": ex.check_03_average_precision.reference, "mean over ranks": lambda r: float(np.mean(r))}


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


def test_a_function_that_spoils_its_arguments_is_judged_by_what_it_returns():
    def spoils(numbers):
        total = sum(numbers)
        numbers.clear()
        return total

    assert [ex.check_function(spoils, sum, [([1, 2],)], "h") for _ in range(2)] == ["exact", "exact"]
    assert ex.check_03_average_precision.__name__ == "check_03_average_precision"
    assert ex.check_05_wrong_names(crash(NotImplementedError())) == "not attempted yet"
    assert ex.check_08_empty_place(crash(KeyError("x"))) == "wrong"


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


def test_wrong_names_are_allowed_varied_and_repeatable():
    assert ex.check_05_wrong_names(lambda n, allowed, rng: rng.choice(allowed, n)) == "exact"
    assert (
        ex.check_05_wrong_names(lambda n, allowed, rng: torch.from_numpy(rng.permutation(allowed)).repeat(8)) == "exact"
    )
    assert ex.check_05_wrong_names(lambda n, allowed, rng: np.resize(allowed, n)) == "close"
    assert ex.check_05_wrong_names(lambda n, allowed, rng: np.random.default_rng().choice(allowed, n)) == "close"
    assert ex.check_05_wrong_names(lambda n, allowed, rng: np.full(n, rng.choice(allowed))) == "wrong"
    assert ex.check_05_wrong_names(lambda n, allowed, rng: rng.integers(0, len(allowed), n)) == "wrong"
    assert ex.check_05_wrong_names(lambda n, allowed, rng: rng.choice(allowed)) == "wrong"
    assert ex.check_05_wrong_names(lambda n, allowed, rng: allowed[n]) == "wrong"
    assert ex.check_05_wrong_names(lambda n, allowed, rng: None) == "not attempted yet"
    assert ex.check_05_wrong_names(None) == "not attempted yet"


def test_silent_scale_is_where_float32_stops_telling_the_loss_from_zero(capsys):
    for gap in (0.25, 0.7):
        scale = ex.check_05_silent_scale.reference(gap)
        losses = [torch.log(1 + torch.exp(torch.tensor(-factor * scale * gap))).item() for factor in (0.99, 1.01)]
        assert losses[0] > 0 and losses[1] == 0
    assert ex.check_05_silent_scale(lambda gap: math.log(2**24) / gap) == "exact"
    assert ex.check_05_silent_scale(lambda gap: math.log(2**23) / gap) == "close"
    assert ex.check_05_silent_scale(lambda gap: 24 / gap) == "wrong"
    assert ex.check_05_silent_scale(lambda gap: None) == "not attempted yet"
    assert ex.check_05_silent_scale(23.76, 0.7) == "exact" and ex.check_05_silent_scale(64, 0.7) == "wrong"
    assert "16.6" not in capsys.readouterr().out


def test_bounded_ascent_rests_at_the_bound():
    def bounded(climbed, bound):
        return torch.relu(torch.tensor(bound - climbed))

    assert ex.check_05_bounded(bounded) == "exact"
    assert ex.check_05_bounded(lambda climbed, bound: max(climbed - bound, 0)) == "wrong"
    assert ex.check_05_bounded(lambda climbed, bound: bound - climbed) == "wrong"
    assert ex.check_05_bounded(lambda climbed, bound: min(climbed, bound)) == "wrong"
    assert ex.check_05_bounded(lambda climbed, bound: torch.relu(bound - climbed)) == "wrong"
    assert ex.check_05_bounded(None) == "not attempted yet"


def test_diagnosis_wants_the_three_failures_in_order(capsys):
    right = ex.diagnoses()
    assert sorted(right) == ["a", "b", "c"]
    assert ex.check_05_diagnosis(right) == ex.check_05_diagnosis(", ".join(right.upper())) == "exact"
    assert ex.check_05_diagnosis(right[:2] + right[0]) == "close"
    assert ex.check_05_diagnosis(right[::-1]) == ex.check_05_diagnosis("xyz") == ex.check_05_diagnosis(3) == "wrong"
    assert ex.check_05_diagnosis(...) == "not attempted yet"
    assert right not in capsys.readouterr().out


def test_masked_target_strikes_names_out_before_the_softmax():
    def masked(cosines, struck, scale):
        logits = scale * torch.tensor(cosines)
        logits[struck] = -torch.inf
        return logits.softmax(dim=0)

    def struck_too_late(cosines, struck, scale):
        target = torch.softmax(scale * torch.tensor(cosines), dim=0)
        target[struck] = 0
        return target

    # by hand: with 0.9 struck out, 0.35 beats 0.31 by exp(16 x 0.04)
    by_hand = ex.check_06_masked_target.reference(np.array([0.9, 0.35, 0.31]), [0], 16.0)
    assert by_hand == pytest.approx([0, 1 / (1 + math.exp(-0.64)), 1 / (1 + math.exp(0.64))])
    assert ex.check_06_masked_target(masked) == "exact"
    assert ex.check_06_masked_target(struck_too_late) == "wrong"
    assert ex.check_06_masked_target(lambda cosines, struck, scale: masked(cosines, struck[:1], scale)) == "wrong"
    assert ex.check_06_masked_target(lambda cosines, struck, scale: None) == "not attempted yet"


def test_divergence_catches_the_two_usual_slips():
    def divergence(teacher, pupil):
        named = teacher > 0
        return float((teacher[named] * np.log(teacher[named] / pupil[named])).sum())

    assert ex.check_06_divergence.reference([0.0, 1.0], [0.5, 0.5]) == pytest.approx(math.log(2))
    assert ex.check_06_divergence(divergence) == "exact"
    assert ex.check_06_divergence(lambda t, p: divergence(t, p) / len(t)) == "wrong"
    with np.errstate(all="ignore"):
        assert ex.check_06_divergence(lambda t, p: divergence(p, t)) == "wrong"
        assert ex.check_06_divergence(lambda t, p: (t * np.log(t / p)).sum()) == "wrong"  # 0 log 0
    assert ex.check_06_divergence(None) == "not attempted yet"


def test_rewind_takes_the_last_of_the_nearest():
    def rewind(errors, reference):
        distances = [abs(error - reference) for error in errors]
        return max(i for i, distance in enumerate(distances) if distance == min(distances))

    assert ex.check_06_rewind(rewind) == "exact"
    assert ex.check_06_rewind(lambda errors, wanted: int(np.argmin(np.abs(np.array(errors) - wanted)))) == "wrong"
    assert ex.check_06_rewind(lambda errors, wanted: len(errors) - 1) == "wrong"
    assert ex.check_06_rewind(lambda errors, wanted: errors.index(wanted)) == "wrong"
    assert ex.check_06_rewind(...) == "not attempted yet"


def test_damping_factor():
    def right(forget, whole, alpha, strength):
        return min(strength * whole / forget, 1) if forget > alpha * whole else 1

    assert ex.check_07_damping(right) == "exact"
    assert ex.check_07_damping(lambda f, w, a, s: s * w / f if f > a * w else 1) == "wrong"  # enlarges a weight
    assert ex.check_07_damping(lambda f, w, a, s: min(s * w / f, 1)) == "wrong"  # forgets to ask, and divides by zero
    assert ex.check_07_damping(lambda f, w, a, s: 1.02 * right(f, w, a, s)) == "close"
    assert ex.check_07_damping(lambda f, w, a, s: None) == "not attempted yet"


def test_salient_counts_rank_all_layers_at_once(capsys):
    def per_layer(scores, share):
        return [round(share * len(layer)) for layer in scores]

    def right(scores, share):
        chosen = torch.cat([torch.as_tensor(layer) for layer in scores])
        lowest = chosen.topk(round(share * len(chosen))).values.min()
        return np.array([(layer >= lowest.item()).sum() for layer in scores])

    assert ex.check_07_salient_counts(right) == "exact"
    assert ex.check_07_salient_counts.reference(
        [np.array([5.0, 4.0, 0.1]), np.array([3.0, 2.0, 1.0, 0.5, 0.2])], 0.5
    ) == [2, 2]
    assert ex.check_07_salient_counts(per_layer) == "wrong" and "in one list" in capsys.readouterr().out
    assert ex.check_07_salient_counts(lambda scores, share: [1]) == "wrong"
    assert ex.check_07_salient_counts(lambda scores, share: None) == "not attempted yet"


def test_eraser_is_a_projection_without_centring():
    def right(points, k, start=0, centre=False):
        points = points - points.mean(dim=0) if centre else points
        directions = torch.linalg.svd(points, full_matrices=False)[2][start : start + k]
        return torch.eye(points.shape[1]) - directions.T @ directions

    assert ex.check_07_eraser(right) == "exact"
    assert ex.check_07_eraser(lambda points, k: right(points, k).tolist()) == "exact"
    assert ex.check_07_eraser(lambda points, k: right(points, k, start=1)) == "wrong"  # the second direction
    assert ex.check_07_eraser(lambda points, k: right(points, k, centre=True)) == "wrong"
    assert ex.check_07_eraser(lambda points, k: torch.eye(5) - right(points, k)) == "wrong"  # what is erased
    assert ex.check_07_eraser(lambda points, k: right(points, k)[0]) == "wrong"
    assert ex.check_07_eraser(lambda points, k: ...) == "not attempted yet"
    erased = ex.check_07_eraser.reference(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1)
    assert np.allclose(erased, [[0, 0], [0, 1]])


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


def test_08_empty_place():
    def right(points):
        return torch.linalg.eigh(points.T @ points).eigenvectors[:, 0]

    assert ex.check_08_empty_place(right) == "exact" and ex.check_08_empty_place(lambda z: -right(z)) == "exact"
    assert ex.check_08_empty_place(lambda z: torch.nn.functional.normalize(-z.sum(0), dim=0)) == "wrong"
    assert ex.check_08_empty_place(lambda z: 2 * right(z)) == "wrong"
    assert ex.check_08_empty_place(lambda z: z @ z) == "wrong" and ex.check_08_empty_place(3) == "wrong"
    assert ex.check_08_empty_place(lambda z: None) == ex.check_08_empty_place(None) == "not attempted yet"


def test_environment_checker_passes_here_and_tells_what_fails(capsys, monkeypatch):
    assert ex.check_00_environment() == "exact"

    def broken():
        raise CourseError("faiss is missing")

    monkeypatch.setattr(ex.faces, "check_environment", broken)
    assert ex.check_00_environment() == "wrong"
    assert "faiss is missing" in capsys.readouterr().out


def test_no_hint_shows_an_answer(capsys):
    ex.check_02_angle(1.0, 0.25)
    ex.check_03_chance_r1(0.5, 5, 1640)
    ex.check_08_best_possible(0.5, 10)
    printed = capsys.readouterr().out
    for answer in ("75.5", "0.003", "-0.11", "n - 1", "n − 1"):
        assert answer not in printed


# ------------------------------------------------------------------------------------------- notebook 10: the audit


def test_audit_shares_and_auc_have_their_traps():
    assert ex.check_10_recovered(lambda s, t, o: min(max((s - t) / (o - t), 0), 1)) == "exact"
    assert ex.check_10_recovered(lambda s, t, o: (s - t) / (o - t)) == "wrong"
    assert ex.check_10_recovered(lambda s, t, o: None) == "not attempted yet"
    assert ex.check_10_auc(lambda f, u: (f[:, None] > u).mean() + 0.5 * (f[:, None] == u).mean()) == "exact"
    assert ex.check_10_auc(lambda f, u: (f[:, None] > u).mean()) == "wrong"
    assert ex.check_10_auc(lambda f, u: (f[:, None] < u).mean() + 0.5 * (f[:, None] == u).mean()) == "wrong"


def test_a_hidden_direction_needs_far_photos_and_a_near_template():
    hidden = np.hstack([np.eye(8), 0.5 * np.ones((8, 1))])
    hidden /= np.linalg.norm(hidden, axis=1, keepdims=True)
    for points, status in (
        (hidden, "exact"),
        (torch.tensor(hidden), "exact"),
        (np.eye(8), "wrong"),
        (np.eye(6), "wrong"),
        (hidden[:5], "wrong"),
        (np.ones((8, 4)) / 2, "wrong"),
        (2 * hidden, "wrong"),
        ("far", "wrong"),
        (None, "not attempted yet"),
    ):
        assert ex.check_10_hidden_direction(points) == status


def test_09_front_share_and_choice():
    assert ex.check_09_front(ex.check_09_front.reference) == "exact" and ex.check_09_front(None) == "not attempted yet"
    assert ex.check_09_front(lambda points: points[:, 0] == points[:, 0].min()) == "wrong"
    assert ex.check_09_share_above(lambda scores, limit: np.mean(np.array(scores) > limit)) == "exact"
    assert ex.check_09_share_above(lambda scores, limit: np.mean(np.array(scores) >= limit)) == "wrong"
    assert ex.check_09_choice(None) == "not attempted yet"
    assert ex.check_09_choice("dispersion_blends") == "exact"
    assert {ex.check_09_choice(name) for name in ("esc", "gather_scatter", "dispersion")} == {"close"}
    assert {ex.check_09_choice(name) for name in ("retrain", "magic", 3)} == {"wrong"}


def test_04_tangent_simplex_and_shared():
    from utils.lessons.sphere import orthoplex, simplex, tangent

    assert ex.check_04_tangent(tangent) == "exact" and ex.check_04_tangent(None) == "not attempted yet"
    assert ex.check_04_tangent(lambda gradient, z: gradient) == "wrong"
    assert ex.check_04_simplex(simplex(4)) == ex.check_04_simplex(simplex(7)) == "exact"
    assert ex.check_04_simplex(orthoplex(2)) == "wrong" and ex.check_04_simplex(simplex(3)) == "wrong"
    near = torch.nn.functional.normalize(simplex(12) + 0.02 * torch.eye(12).roll(1, 0))
    assert ex.check_04_simplex(near) == "close"
    assert ex.check_04_simplex("corners") == "wrong" and ex.check_04_simplex(None) == "not attempted yet"
    assert ex.check_04_shared(["one shared target", "redrawn labels"]) == "exact"
    assert ex.check_04_shared({"one shared target"}) == "close" and ex.check_04_shared(["mean cosine"]) == "wrong"
    assert ex.check_04_shared("redrawn labels") == "wrong" and ex.check_04_shared(None) == "not attempted yet"


def test_11_chance_verdicts_and_leftovers():
    assert ex.check_11_chance(5 / 400, 5, 400) == "exact" and ex.check_11_chance(None, 5, 400) == "not attempted yet"
    assert ex.check_11_chance(5, 5, 400) == "wrong"
    assert ex.check_11_verdicts([True, False], [3.0, 40.0]) == "exact"
    assert ex.check_11_verdicts([False, False], [3.0, 40.0]) == "wrong"
    assert ex.check_11_verdicts(None, [3.0]) == "not attempted yet"
    assert ex.check_11_leftovers(("your folder", "outputs of this notebook")) == "exact"
    assert ex.check_11_leftovers(["your folder"]) == "close" and ex.check_11_leftovers(["model"]) == "wrong"
    assert ex.check_11_leftovers("your folder") == "wrong" and ex.check_11_leftovers(...) == "not attempted yet"
