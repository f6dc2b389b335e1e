"""Retrieval scores: by hand, against two other libraries, against brute force, and where ties could bring luck."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import average_precision_score

from utils.models.embedding import embed
from utils.models.heads import CosFace
from utils.retrieval import scores, verification
from utils.retrieval import scores as scores_room
from utils.retrieval.evaluation import Evaluation, evaluate, held_out_photos, per_identity
from utils.retrieval.gallery import Gallery
from utils.retrieval.scores import chance_level, retrieval_scores
from utils.retrieval.similarity import chunks, cosine_matrix, unit_rows
from utils.retrieval.verification import (
    compactness,
    lookalike_fmr,
    pair_histogram,
    tar_at_far,
    true_accept_rate,
)
from utils.settings import CourseError


def unit(n: int, dim: int, seed: int = 0, centres: int = 0) -> np.ndarray:
    """Random unit rows, around `centres` directions in turn if there are any."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(n, dim))
    if centres:
        rows += 1.5 * generator.normal(size=(centres, dim))[np.arange(n) % centres]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def at_angles(*degrees: float) -> torch.Tensor:
    """Points on the circle: the cosine of two of them is the cosine of the difference of their angles."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def coarse(n: int, seed: int = 0) -> np.ndarray:
    """Unit rows of +-1/2 in 4 dimensions: every cosine is one of -1, -.5, 0, .5, 1, so nearly everything ties."""
    return np.random.default_rng(seed).choice([-0.5, 0.5], size=(n, 4)).astype(np.float32)


def sklearn_ap(query, query_labels, gallery, gallery_labels, leave_one_out=False) -> np.ndarray:
    """Average precision per query by scikit-learn, NaN where nothing is relevant."""
    values = []
    for i, cosines in enumerate(query.astype(np.float64) @ gallery.astype(np.float64).T):
        keep = np.arange(len(gallery)) != i if leave_one_out else np.full(len(gallery), True)
        relevant = (gallery_labels == query_labels[i])[keep]
        values.append(average_precision_score(relevant, cosines[keep]) if relevant.any() else math.nan)
    return np.array(values)


def accuracy_calculator(query, query_labels, gallery=None, gallery_labels=None) -> dict:
    """mAP and R@1 by pytorch-metric-learning over the full ranking."""
    include = ("mean_average_precision", "precision_at_1")
    calculator = AccuracyCalculator(include=include, k=None, device=torch.device("cpu"))
    return calculator.get_accuracy(query, query_labels, gallery, gallery_labels)


def self_scores(rows, labels, **options):
    """Leave-one-out scores of a set against itself."""
    ids = np.arange(len(rows))
    return retrieval_scores(rows, labels, rows, labels, query_ids=ids, gallery_ids=ids, **options)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_scores_by_hand():
    # The query at 0 degrees sees, nearest first: B(10) A(20) B(30) A(40) C(50).
    scores = retrieval_scores(at_angles(0), ["A"], at_angles(40, 10, 20, 50, 30), list("ABACB"), ks=(1, 2, 5))
    assert scores.map == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert scores.first_rank.tolist() == [2]
    assert (scores.recall_at(1), scores.recall_at(2), scores.recall_at(5)) == (0, 1, 1)
    assert scores.n_skipped == 0


def test_perfect_and_worst_ranking():
    gallery = at_angles(1, 2, 90, 91)
    assert retrieval_scores(at_angles(0), [0], gallery, [0, 0, 1, 1]).map == pytest.approx(1)
    worst = retrieval_scores(at_angles(0), [1], gallery, [0, 0, 1, 1])
    assert worst.map == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert worst.first_rank[0] == 3


def test_queries_without_a_relevant_photo_are_counted_not_scored():
    scores = retrieval_scores(at_angles(0, 5), [0, 7], at_angles(1, 50), [0, 1])
    assert scores.n_skipped == 1 and scores.scored.tolist() == [True, False]
    assert scores.r1 == 1 and scores.map == 1 and math.isnan(scores.first_rank[1])
    nothing = retrieval_scores(at_angles(0), [9], at_angles(1), [0])
    assert nothing.n_skipped == 1 and math.isnan(nothing.map) and math.isnan(nothing.r1)
    assert nothing.per_identity() == {}


def test_own_photo_is_left_out_and_only_that_one():
    rows, labels = at_angles(0, 1, 30, 31), [0, 1, 0, 1]
    # Without ids each photo finds itself; with ids the nearest other photo is the wrong person.
    assert retrieval_scores(rows, labels, rows, labels).r1 == 1
    scores = self_scores(rows, labels)
    assert scores.r1 == 0
    assert scores.first_rank.tolist() == [2, 3, 3, 2]
    # A query that is not in the gallery loses nothing, whatever its id.
    outside = retrieval_scores(rows, labels, rows, labels, query_ids=[10, 11, 12, 13], gallery_ids=[0, 1, 2, 3])
    assert outside.r1 == 1


def test_query_whose_only_relevant_photo_is_itself_is_skipped():
    scores = self_scores(at_angles(0, 10, 20), [0, 0, 1])
    assert scores.n_skipped == 1 and scores.scored.tolist() == [True, True, False]


def test_ids_may_be_names_in_any_order():
    rows, labels, names = at_angles(0, 1, 30, 31), [0, 1, 0, 1], np.array(["d", "a", "c", "b"])
    by_name = retrieval_scores(rows, labels, rows, labels, query_ids=names, gallery_ids=names)
    assert np.array_equal(by_name.first_rank, self_scores(rows, labels).first_rank)


def test_macro_average_counts_each_person_once():
    # Person 0 has three good queries, person 1 one bad query.
    gallery, labels = at_angles(0, 90, 180), [0, 2, 1]
    scores = retrieval_scores(at_angles(1, 2, 3, 4), [0, 0, 0, 1], gallery, labels)
    assert scores.map == pytest.approx((3 + 1 / 3) / 4)
    assert scores.macro()["map"] == pytest.approx((1 + 1 / 3) / 2)
    assert scores.macro()["r1"] == 0.5 and scores.r1 == 0.75
    assert scores.per_identity()[0] == {"n": 3, "map": 1.0, "first_rank": 1.0, "r1": 1.0, "r5": 1.0}


# --- ties ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_gallery_order_never_matters(order):
    gallery, labels = at_angles(5, 5, 5, 60), np.array([0, 1, 1, 0])
    scores = retrieval_scores(at_angles(0), [0], gallery[list(order)], labels[list(order)], ks=(1, 2, 3, 4))
    assert [scores.recall_at(k) for k in (1, 2, 3, 4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert scores.first_rank[0] == pytest.approx(2)  # 1, 2 or 3, equally likely
    assert scores.map == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_collapsed_embeddings_have_the_recall_of_chance_and_the_share_of_right_photos_as_map():
    labels = np.repeat(np.arange(10), 6)
    rows = np.repeat(unit(1, 128), 60, axis=0)
    scores, ids = self_scores(rows, labels), np.arange(60)
    chance = chance_level(labels, labels, ids, ids)
    assert scores.r1 == pytest.approx(chance["r1"]) and scores.r5 == pytest.approx(chance["r5"])
    assert scores.map == pytest.approx(5 / 59) and scores.map < chance["map"]  # not the mAP of a random order


def test_collapse_up_to_rounding_noise_has_the_recall_of_chance():
    labels = np.repeat(np.arange(10), 6)
    noise = 1e-6 * np.random.default_rng(0).normal(size=(10, 128))[labels]  # the noise even knows the identity
    rows = np.repeat(unit(1, 128), 60, axis=0) + noise.astype(np.float32)
    assert self_scores(rows, labels).r1 == pytest.approx(5 / 59)


def test_expected_recall_equals_the_mean_over_random_tie_breaks():
    before, tied, right = 2, 5, 2
    positions = [before + min(pair) + 1 for pair in itertools.combinations(range(tied), right)]
    values = [np.array([float(x)]) for x in (before, tied, right)]
    for k in range(1, 9):
        expected = np.mean([position <= k for position in positions])
        assert scores_room._hit_probability(k, *values)[0] == pytest.approx(expected)
    assert np.mean(positions) == pytest.approx(before + (tied + 1) / (right + 1))


# --- agreement with scikit-learn and pytorch-metric-learning ---------------------------------------------------------


@pytest.mark.parametrize(("dim", "n_people"), [(8, 5), (64, 20), (512, 40)])
def test_agrees_on_random_inputs(dim, n_people):
    query, gallery = unit(120, dim, 1, n_people), unit(400, dim, 1, n_people)
    query_labels, gallery_labels = np.arange(120) % n_people, np.arange(400) % n_people
    scores = retrieval_scores(query, query_labels, gallery, gallery_labels)
    reference = sklearn_ap(query, query_labels, gallery, gallery_labels)
    assert scores.map == pytest.approx(reference.mean(), abs=1e-6)
    # A single query may differ a little more: cosines that are nearer than float32 can tell (6e-8) count as a tie.
    np.testing.assert_allclose(scores.average_precision, reference, atol=2e-5)
    theirs = accuracy_calculator(query, query_labels, gallery, gallery_labels)
    assert scores.map == pytest.approx(theirs["mean_average_precision"], abs=1e-6)
    assert scores.r1 == pytest.approx(theirs["precision_at_1"], abs=1e-6)


@pytest.mark.parametrize("n_people", [4, 50])  # many relevant photos are counted by sorting, few by comparison
def test_agrees_on_leave_one_out(n_people):
    rows, labels = unit(300, 32, 2, n_people), np.arange(300) % n_people
    scores = self_scores(rows, labels)
    reference = sklearn_ap(rows, labels, rows, labels, leave_one_out=True)
    assert scores.map == pytest.approx(reference.mean(), abs=1e-6)
    np.testing.assert_allclose(scores.average_precision, reference, atol=2e-5)
    theirs = accuracy_calculator(rows, labels)
    assert scores.map == pytest.approx(theirs["mean_average_precision"], abs=1e-6)
    assert scores.r1 == pytest.approx(theirs["precision_at_1"], abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_sklearn_where_nearly_everything_ties(seed):
    query, gallery = coarse(40, seed), coarse(150, seed + 100)
    query_labels, gallery_labels = np.arange(40) % 7, np.random.default_rng(seed).integers(0, 8, 150)
    scores = retrieval_scores(query, query_labels, gallery, gallery_labels)
    reference = sklearn_ap(query, query_labels, gallery, gallery_labels)
    np.testing.assert_allclose(scores.average_precision, reference, atol=1e-6)
    loo = self_scores(gallery, gallery_labels)
    reference = sklearn_ap(gallery, gallery_labels, gallery, gallery_labels, leave_one_out=True)
    np.testing.assert_allclose(loo.average_precision, reference, atol=1e-6)


DEGENERATE = {
    "all equal": (np.repeat(unit(1, 16), 30, axis=0), np.arange(30) % 5),
    "each photo twice": (np.repeat(unit(15, 16), 2, axis=0), np.arange(30) % 4),
    "single identity": (unit(30, 16), np.zeros(30, dtype=int)),
    "one relevant each": (unit(30, 16), np.arange(30) // 2),
    "some with none": (unit(30, 16), np.r_[np.zeros(10, dtype=int), np.arange(1, 21)]),
    "two photos": (unit(2, 16), np.zeros(2, dtype=int)),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_agrees_with_sklearn_on_degenerate_inputs(case):
    rows, labels = DEGENERATE[case]
    exact = cosine_matrix(unit_rows(rows), unit_rows(rows)).numpy()  # sklearn sees the ties that the inputs have
    reference = np.full(len(rows), math.nan)
    for i in range(len(rows)):
        keep = np.arange(len(rows)) != i
        relevant = (labels == labels[i])[keep]
        if relevant.any():
            reference[i] = average_precision_score(relevant, exact[i, keep])
    np.testing.assert_allclose(self_scores(rows, labels).average_precision, reference, atol=1e-6)


@pytest.mark.parametrize("case", ["single identity", "one relevant each", "some with none", "two photos"])
def test_agrees_with_accuracy_calculator_where_its_order_is_defined(case):
    rows, labels = DEGENERATE[case]
    scores, theirs = self_scores(rows, labels), accuracy_calculator(rows, labels)
    assert scores.map == pytest.approx(theirs["mean_average_precision"], abs=1e-6)
    assert scores.r1 == pytest.approx(theirs["precision_at_1"], abs=1e-6)


def test_agrees_where_duplicates_share_their_identity():
    rows, labels = np.repeat(unit(20, 16), 3, axis=0), np.repeat(np.arange(20) % 6, 3)
    scores, theirs = self_scores(rows, labels), accuracy_calculator(rows, labels)
    # A group of three right photos counts as a group here and one by one there; both are perfect at the first place.
    assert scores.r1 == theirs["precision_at_1"] == 1


# --- exactness and memory --------------------------------------------------------------------------------------------


def test_chunk_size_changes_nothing():
    rows, labels = np.concatenate([unit(150, 48, 3), unit(150, 48, 3)]), np.arange(300) % 9
    whole = self_scores(rows, labels, chunk_size=300)
    for chunk_size in (1, 7, 64, None):
        part = self_scores(rows, labels, chunk_size=chunk_size)
        assert (part.r1, part.r5) == (whole.r1, whole.r5) and part.map == pytest.approx(whole.map, abs=1e-6)


@pytest.mark.parametrize("n", [3, 17, 63, 64, 65, 1000, 2049])
@pytest.mark.parametrize("dim", [64, 128, 512])
def test_equal_photos_tie_exactly_wherever_they_stand(n, dim):
    copies = np.random.default_rng(n + dim).permutation(np.repeat(np.arange(n), 2))
    gallery, order = unit_rows(unit(n, dim, n)[copies]), np.argsort(copies, kind="stable")
    for n_queries in (1, 5, 70):
        cosines = cosine_matrix(unit_rows(unit(n_queries, dim, 99)), gallery).numpy()[:, order]
        assert np.array_equal(cosines[:, 0::2], cosines[:, 1::2])


def test_cosines_are_those_of_float64(monkeypatch):
    rows = unit(40, 300)
    true = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.testing.assert_allclose(cosine_matrix(unit_rows(rows), unit_rows(rows)), true, atol=1.1e-6)
    monkeypatch.setattr("utils.retrieval.similarity.BLOCK", 7)
    np.testing.assert_allclose(cosine_matrix(unit_rows(rows), unit_rows(rows)), true, atol=1.1e-6)


def test_counting_by_sorting_equals_counting_by_comparison(monkeypatch):
    rows, labels = coarse(120), np.arange(120) % 5
    compared = self_scores(rows, labels)
    monkeypatch.setattr(scores_room, "FEW_RELEVANT", 0)
    assert np.array_equal(self_scores(rows, labels).average_precision, compared.average_precision)


def test_cosines_held_at_a_time_are_bounded(monkeypatch):
    held = []

    def spy(queries, gallery):
        held.append(len(queries) * len(gallery))
        return cosine_matrix(queries, gallery)

    for module in (scores, verification):
        monkeypatch.setattr(module, "cosine_matrix", spy)
    rows, labels = unit(500, 8), np.arange(500) % 25
    self_scores(rows, labels, chunk_size=10)
    compactness(rows, np.zeros(500), chunk_size=10)
    pair_histogram(rows, labels, chunk_size=10)
    lookalike_fmr(rows, rows, 0.5, chunk_size=10)
    assert max(held) <= 10 * 500


def test_default_chunks_stay_small_for_large_galleries():
    assert next(chunks(10**6, 10_000, None)) == slice(0, 262)
    assert next(chunks(10**6, 10**6, None)) == slice(0, 32)
    assert [part.stop for part in chunks(5, 10, 2)] == [2, 4, 5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_scores_equal_those_of_the_cpu():
    rows, labels = unit(300, 64, centres=10), np.arange(300) % 10
    cpu, gpu = self_scores(rows, labels), self_scores(rows, labels, device="cuda")
    assert (cpu.r1, cpu.r5) == pytest.approx((gpu.r1, gpu.r5)) and cpu.map == pytest.approx(gpu.map, abs=1e-5)
    close = compactness(rows, labels, device="cuda")
    assert compactness(rows, labels).nearest_cosine == pytest.approx(close.nearest_cosine, abs=1e-6)
    on_gpu = tar_at_far(rows, labels, 0.01, device="cuda")
    assert tar_at_far(rows, labels, 0.01) == pytest.approx(on_gpu, abs=1e-4)


def test_inputs_are_not_changed():
    rows, labels = torch.from_numpy(unit(20, 8)), torch.arange(20) % 4
    before = rows.clone()
    self_scores(rows, labels)
    compactness(rows, labels)
    Gallery(rows, labels).search(rows, 3)
    assert torch.equal(rows, before)


# --- chance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "g"), [(1, 1), (2, 1), (4, 2), (5, 3), (6, 1), (6, 6)])
def test_chance_equals_brute_force_over_all_orders(n, g):
    labels = np.r_[np.zeros(g, dtype=int), np.ones(n - g, dtype=int)]
    precisions, hits = [], []
    for order in itertools.permutations(range(n)):
        relevant = labels[list(order)] == 0
        precisions.append(np.mean(np.cumsum(relevant)[relevant] / (np.flatnonzero(relevant) + 1)))
        hits.append([relevant[:k].any() for k in (1, 3, 5)])
    chance = chance_level([0], labels, ks=(1, 3, 5))
    assert chance["map"] == pytest.approx(np.mean(precisions))
    assert [chance["r1"], chance["r3"], chance["r5"]] == pytest.approx(np.mean(hits, axis=0).tolist())


def test_chance_equals_simulation_with_own_photos_left_out():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), [2, 3, 5, 8, 12, 1])
    ids = np.arange(len(labels))
    chance = chance_level(labels, labels, ids, ids)
    runs = []
    for _ in range(300):
        rows = generator.normal(size=(len(labels), 64))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        scores = self_scores(rows, labels)
        runs.append([scores.r1, scores.r5, scores.map])
    error = 4 * np.std(runs, axis=0) / math.sqrt(len(runs))
    assert (np.abs(np.mean(runs, axis=0) - [chance["r1"], chance["r5"], chance["map"]]) < error).all()


def test_chance_without_relevant_photos_is_nan():
    assert math.isnan(chance_level([3], [0, 1])["map"])
    assert math.isnan(chance_level([0], [0], ["a"], ["a"])["r1"])


# --- same-identity cosines -------------------------------------------------------------------------------------------


def test_compactness_by_hand():
    # Person 0 at 0, 60 and 90 degrees; person 1 at 0 and 180; person 2 alone.
    close = compactness(at_angles(0, 0, 60, 180, 90, 45), [0, 1, 0, 1, 0, 2])
    c60, c30 = 0.5, math.cos(math.radians(30))
    assert close.labels.tolist() == [0, 1] and close.n_skipped == 1
    assert close.mean_cosines == pytest.approx([(c60 + c30 + 0) / 3, -1], abs=1e-6)
    assert close.nearest_cosines == pytest.approx([(c60 + c30 + c30) / 3, -1], abs=1e-6)
    assert close.mean_cosine == pytest.approx(((c60 + c30) / 3 - 1) / 2, abs=1e-6)


def test_mean_cosine_has_the_blind_spot_that_nearest_cosine_sees():
    # Three tight clusters at 120 degrees: as low as the mean can go, and every photo is still found.
    rows, labels = at_angles(*[0, 120, 240] * 10), np.zeros(30)
    close = compactness(rows, labels)
    assert close.mean_cosine == pytest.approx(-1 / 29, abs=1e-6)
    assert close.nearest_cosine == pytest.approx(1, abs=1e-6)


def test_compactness_of_single_photos_is_nan():
    close = compactness(at_angles(0, 90), [0, 1])
    assert close.n_skipped == 2 and math.isnan(close.mean_cosine) and math.isnan(close.nearest_cosine)


def test_compactness_agrees_with_plain_loops():
    rows, labels = unit(60, 16, centres=7), np.arange(60) % 7
    close = compactness(rows, labels, chunk_size=4)
    for label, mean, nearest in zip(close.labels, close.mean_cosines, close.nearest_cosines, strict=True):
        cosines = rows[labels == label] @ rows[labels == label].T
        others = cosines[~np.eye(len(cosines), dtype=bool)].reshape(len(cosines), -1)
        assert (mean, nearest) == pytest.approx((others.mean(), others.max(axis=1).mean()), abs=1e-6)


# --- verification ----------------------------------------------------------------------------------------------------


def test_pair_histogram_counts_every_pair_once():
    rows, labels = unit(50, 8), np.arange(50) % 4
    pairs = pair_histogram(rows, labels, chunk_size=7)
    same = sum(n * (n - 1) // 2 for n in np.bincount(labels))
    assert pairs.genuine.sum() == same and pairs.impostor.sum() == 50 * 49 // 2 - same
    genuine = [rows[i] @ rows[j] for i, j in itertools.combinations(range(50), 2) if labels[i] == labels[j]]
    assert pairs.genuine @ pairs.cosines / same == pytest.approx(np.mean(genuine), abs=2e-6)


def test_tar_at_far_by_hand():
    # Person 0 at 0, 10, 50; person 1 at 80, 85. Genuine gaps: 10, 40, 50, 5. Impostor gaps: 80 85 70 75 30 35.
    rows, labels = at_angles(0, 10, 50, 80, 85), [0, 0, 0, 1, 1]
    result = tar_at_far(rows, labels, far=1 / 6 + 1e-9)  # one impostor pair (30 degrees) may pass, 35 may not
    assert result.achieved_far == pytest.approx(1 / 6)
    assert result.tar == pytest.approx(2 / 4)  # 10 and 5 degrees are nearer than 35
    assert math.cos(math.radians(35)) < result.threshold < math.cos(math.radians(30))
    assert true_accept_rate(rows, labels, result.threshold) == result.tar
    assert true_accept_rate(rows, labels, -1.0) == 1
    assert math.isnan(true_accept_rate(at_angles(0, 5), [0, 1], 0.5))


def test_tar_at_far_agrees_with_sorting():
    rows, labels, far = unit(200, 16, centres=10), np.arange(200) % 10, 0.01
    i, j = np.triu_indices(200, 1)
    cosines, same = cosine_matrix(unit_rows(rows), unit_rows(rows)).numpy()[i, j], labels[i] == labels[j]
    allowed = int(far * (~same).sum())
    bar = np.sort(cosines[~same])[::-1][allowed]  # the best impostor that must not pass
    result = tar_at_far(rows, labels, far)
    assert result.achieved_far <= far and result.threshold == pytest.approx(bar, abs=2e-6)
    assert result.tar == pytest.approx((cosines[same] > bar).mean(), abs=2e-3)


def test_collapsed_model_accepts_nobody():
    result = tar_at_far(np.repeat(unit(1, 32), 40, axis=0), np.arange(40) % 4, 0.01)
    assert result.tar == 0 and result.achieved_far == 0 and result.threshold >= 1


def test_lookalike_rate_by_hand():
    query, kept = at_angles(0, 90, 180, 270), at_angles(5, 100)
    assert lookalike_fmr(query, kept, 0.9) == 0.5
    assert lookalike_fmr(query, kept, 0.99) == 0.25
    assert lookalike_fmr(query, kept, -1.0) == 1
    assert math.isnan(lookalike_fmr(query, kept, math.nan))


# --- the gallery -----------------------------------------------------------------------------------------------------


def test_gallery_returns_the_nearest_photos():
    gallery = Gallery(at_angles(0, 50, 10), [3, 4, 5], names=["Ada", "Bo", "Cy"])
    cosines, indices = gallery.search(at_angles(2, 48), k=2)
    assert indices.tolist() == [[0, 2], [1, 2]]
    assert cosines.dtype == np.float32 and indices.dtype == np.int64
    assert cosines[0] == pytest.approx([math.cos(math.radians(2)), math.cos(math.radians(8))], abs=1e-6)
    best = gallery.identify(at_angles(48), k=1)[0][0]
    assert (best.label, best.name, best.index) == (4, "Bo", 1) and len(gallery) == 3


def test_gallery_leaves_out_the_own_photo_whether_it_is_near_or_far():
    rows = unit(30, 8)
    gallery = Gallery(rows, np.arange(30), photo_ids=np.arange(100, 130))
    _, indices = gallery.search(rows, k=4, query_ids=np.arange(100, 130))
    expected = np.argsort(-(rows @ rows.T) + 9 * np.eye(30), axis=1)[:, :4]
    assert np.array_equal(indices, expected)
    _, unknown = gallery.search(rows, k=4, query_ids=np.arange(30))  # ids that are not in the gallery
    assert unknown[:, 0].tolist() == list(range(30)) and unknown.shape == (30, 4)


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_approximate_galleries_find_an_enrolled_photo(index):
    rows = unit(400, 32, centres=20)
    _, indices = Gallery(rows, np.arange(400), index=index).search(rows, k=1)
    assert (indices[:, 0] == np.arange(400)).mean() > 0.95


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((0, 4), dtype=np.float32), "at least one row"),
        (np.ones(4, dtype=np.float32), "at least one row"),
        (np.ones((3, 4), dtype=np.int64), "floating-point"),
        (np.full((3, 4), np.nan, dtype=np.float32), "Row 0 .* NaN or infinity"),
        (np.array([[1, 0], [np.inf, 0]], dtype=np.float32), "Row 1 .* NaN or infinity"),
        (np.array([[1, 0], [0, 1.01]], dtype=np.float32), "Row 1 .* length 1.01, not 1; use training.embed"),
        (np.array([[0, 0]], dtype=np.float32), "length 0"),
    ],
)
def test_unusable_embeddings_are_refused(rows, message):
    with pytest.raises(CourseError, match=message):
        unit_rows(rows)
    with pytest.raises(CourseError, match=message):
        Gallery(rows, np.zeros(len(rows)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: retrieval_scores(r, [0] * 6, r[:, :1] / r[:, :1].abs(), [0] * 6), "Queries have 2 .* gallery 1"),
        (lambda r: retrieval_scores(r, [0] * 5, r, [0] * 6), "6 query embeddings but labels"),
        (lambda r: retrieval_scores(r, [0] * 6, r, [0] * 6, query_ids=range(6)), "together"),
        (lambda r: retrieval_scores(r, [0] * 6, r, [0] * 6, query_ids=range(6), gallery_ids=[0] * 6), "repeat"),
        (lambda r: retrieval_scores(r, [0] * 6, r, [0] * 6, ks=(0,)), "at least 1"),
        (lambda r: retrieval_scores(r, [0] * 6, r, [0] * 6, chunk_size=0), "chunk_size is 0"),
        (lambda r: retrieval_scores(r, [0] * 6, r, [0] * 6, ks=(1,)).r5, "R@5 was not computed"),
        (lambda r: Gallery(r, [0] * 6).search(r, k=7), "k is 7; .* 1 to 6"),
        (lambda r: Gallery(r, [0] * 6, range(6)).search(r, k=6, query_ids=range(6)), "1 to 5"),
        (lambda r: Gallery(r, [0] * 6).search(r, k=2, query_ids=range(6)), "build it with photo_ids"),
        (lambda r: Gallery(r, [0] * 6).search(torch.eye(3), k=1), "Queries have 3 .* gallery 2"),
        (lambda r: Gallery(r, [0] * 6, names=["a"]), "1 names"),
        (lambda r: Gallery(r, [0] * 6, index="exakt"), "exact, hnsw, ivf"),
        (lambda r: tar_at_far(r, [0, 0, 0, 1, 1, 1]), "9 impostor pairs .* at least 1000"),
        (lambda r: tar_at_far(r, range(6), 0.5), "No identity has two photos"),
        (lambda r: tar_at_far(r, [0] * 6, 2.0), "between 0 and 1"),
        (lambda r: lookalike_fmr(r, torch.eye(3), 0.5), "Queries have 2 .* gallery 3"),
        (lambda r: chance_level([0], []), "empty"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(CourseError, match=message):
        call(at_angles(0, 10, 20, 30, 40, 50))


# --- the course's protocol -------------------------------------------------------------------------------------------

PEOPLE = {"forget": (0, 1), "dev_forget": (2,), "retain": (3, 4, 5), "unseen": (6, 7), "distractors": (8,)}


class TinySplits:
    """Nine people with six held-out photos each, half of them query, half gallery; the distractor is gallery only."""

    def __init__(self):
        labels = np.repeat(np.arange(9), 8)
        self.faces = SimpleNamespace(labels=labels, identities=tuple(f"person {i}" for i in range(9)))
        place = np.arange(72) % 8
        self.query = np.flatnonzero((place >= 2) & (place % 2 == 0) & (labels != 8))
        self.gallery = np.flatnonzero((place >= 2) & (place % 2 == 1))

    def photos(self, pool, part):
        photos = getattr(self, part)
        return photos[np.isin(self.faces.labels[photos], PEOPLE[pool])]


@pytest.fixture
def world():
    splits = TinySplits()
    photos = held_out_photos(splits)
    generator = np.random.default_rng(0)
    centres = np.eye(9, 32)
    rows = centres[splits.faces.labels[photos]] + 0.02 * generator.normal(size=(len(photos), 32))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), photos, splits


def test_every_pool_is_scored_with_the_keys_of_the_results_schema(world):
    result = Evaluation.make(*world).scores(far=0.01)
    pool_keys = {"r1", "r5", "map", "mean_cosine", "nearest_cosine", "tar"}
    assert set(result) == {"forget", "retain", "unseen", "dev_forget", "chance", "gallery_size", "threshold"}
    assert set(result["forget"]) == pool_keys | {"lookalike_fmr"}
    assert all(set(result[pool]) == pool_keys for pool in ("retain", "unseen", "dev_forget"))
    assert set(result["chance"]) == {"r1", "r5", "map"}
    for pool in ("forget", "retain", "unseen", "dev_forget"):
        assert result[pool]["r1"] == result[pool]["map"] == result[pool]["tar"] == 1
        assert result[pool]["nearest_cosine"] >= result[pool]["mean_cosine"] > 0.9
    assert result["forget"]["lookalike_fmr"] == 0
    assert result["gallery_size"] == 27 and result["chance"]["r1"] == pytest.approx(3 / 27)


def test_dispersed_forget_set_and_look_alikes_show(world):
    rows, photos, splits = world
    labels = splits.faces.labels[photos]
    rows[labels == 0] = np.eye(32)[12:18]  # person 0 dispersed: no photo near another
    rows[labels == 1] = rows[labels == 3]  # person 1 now looks like the retained person 3
    forget = Evaluation.make(rows, photos, splits).scores(far=0.01)["forget"]
    assert forget["lookalike_fmr"] == 0.5 and forget["tar"] == pytest.approx(0.5)
    people = per_identity(rows, photos, splits, "forget")
    assert [row["identity"] for row in people] == ["person 0", "person 1"]
    assert people[0]["nearest_cosine"] == pytest.approx(0, abs=1e-6) and people[0]["r1"] < 0.2
    assert people[1]["nearest_cosine"] > 0.9 and people[0]["n"] == 3


def test_too_few_impostor_pairs_give_nan_not_a_false_number(world):
    result = Evaluation.make(*world).scores()  # 5 people x 6 photos: 360 impostor pairs cannot show 1e-3
    assert math.isnan(result["threshold"]) and math.isnan(result["forget"]["lookalike_fmr"])
    assert math.isnan(result["retain"]["tar"]) and result["retain"]["r1"] == 1


def test_empty_pool_is_nan(world, monkeypatch):
    monkeypatch.setitem(PEOPLE, "dev_forget", ())
    result = Evaluation.make(*world).scores(far=0.01)
    assert all(math.isnan(value) for value in result["dev_forget"].values())
    assert per_identity(*world, "dev_forget") == []


def test_missing_photos_are_refused(world):
    rows, photos, splits = world
    with pytest.raises(CourseError, match="2 held-out photos were not embedded"):
        Evaluation.make(rows[2:], photos[2:], splits).scores()


def test_evaluate_embeds_each_held_out_photo_once(world, monkeypatch):
    rows, photos, splits = world
    asked = []

    def embed(model, faces, indices=None, **options):
        asked.append(indices)
        return torch.from_numpy(rows[np.searchsorted(photos, indices)]).float()

    monkeypatch.setattr("utils.retrieval.evaluation.embed", embed)
    result = evaluate(torch.nn.Identity(), splits, device="cpu").scores()
    assert result["forget"]["r1"] == 1
    assert len(asked) == 1 and np.array_equal(np.sort(asked[0]), photos)


# ---- names, and the evaluation that figures are made of ----------------------------------------------------------


def test_names_are_scored_beside_searches(tiny_recogniser, tiny_splits):
    seen = evaluate(tiny_recogniser.model, tiny_splits, tiny_recogniser.head, device="cpu")
    scores = seen.scores()
    photos = seen.held_out("forget")
    points = embed(tiny_recogniser.model, tiny_splits.faces, photos)
    prototypes = torch.nn.functional.normalize(tiny_recogniser.head.weight.detach())
    named = [tiny_splits.trained[int((prototypes @ point).argmax())] for point in points]
    expected = np.mean([name == label for name, label in zip(named, tiny_splits.faces.labels[photos], strict=True)])
    assert scores["forget"]["accuracy"] == pytest.approx(expected)
    assert "accuracy" not in scores["unseen"]
    assert "accuracy" not in evaluate(tiny_recogniser.model, tiny_splits, device="cpu").scores()["forget"]


def test_a_head_without_the_forget_people_cannot_name_them(tiny_recogniser, tiny_splits):
    rows = torch.from_numpy(tiny_splits.class_of(tiny_splits.retain_train))
    head = CosFace(128, len(rows))
    head.weight.data = tiny_recogniser.head.weight.data[rows]
    scores = evaluate(tiny_recogniser.model, tiny_splits, head, device="cpu").scores()
    assert scores["forget"]["accuracy"] == 0 and scores["retain"]["accuracy"] > 1 / len(rows)


def test_an_examination_finds_the_held_out_photos_of_people(tiny_recogniser, tiny_splits):
    seen = evaluate(tiny_recogniser.model, tiny_splits, device="cpu")
    one, two = tiny_splits.forget[0], tiny_splits.retain[0]
    photos = seen.photos_of(two, one)
    names = tiny_splits.faces.identities
    assert np.array_equal(photos, seen.photos_of(f"#{two}", names[one]))
    for nobody in (True, 7.5, "7", len(names), ""):
        with pytest.raises(CourseError, match="No identity|names nobody"):
            seen.photos_of(nobody)
    assert seen.labels(photos).tolist() == sorted(seen.labels(photos).tolist(), key=[two, one].index)
    assert not set(photos) & set(tiny_splits.train)
    alone = embed(tiny_recogniser.model, tiny_splits.faces, photos)
    assert torch.allclose(seen.rows(photos), alone, atol=1e-5)  # a batch of another size is rounded otherwise


# ------------------------------------------------------------------------------- what is compared is of one kind


LABELS = np.repeat(np.arange(4), 3)


@pytest.mark.parametrize(
    "labels",
    [LABELS.astype(str), LABELS.astype(str).astype(object), [*LABELS[:-1].tolist(), "3"], LABELS > 1, LABELS + 0.5,
     [None] * 12, LABELS.astype("S"), [*LABELS[:-1].tolist(), math.nan], [*LABELS[:-1].tolist(), True]],
)  # fmt: skip
def test_labels_and_ids_of_another_kind_are_refused(labels):
    rows, ids = unit(12, 8), np.arange(12)
    gallery = Gallery(rows, LABELS, ids)
    for search in (
        lambda: retrieval_scores(rows, labels, rows, LABELS),
        lambda: retrieval_scores(rows, LABELS, rows, labels),
        lambda: retrieval_scores(rows, LABELS, rows, LABELS, query_ids=labels, gallery_ids=ids),
        lambda: gallery.search(rows, 3, query_ids=labels),
        lambda: chance_level(labels, LABELS),
    ):
        with pytest.raises(CourseError, match="use one kind|whole numbers only, or text only"):
            search()


class Column:
    """What a column of a data frame is to NumPy: a length, items and a conversion."""

    def __init__(self, values) -> None:
        self.values = np.asarray(values)

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.values.astype(dtype or self.values.dtype)


def test_labels_and_ids_may_come_in_any_container_of_one_kind():
    rows, ids = unit(12, 8), np.arange(12)
    expected = retrieval_scores(rows, LABELS, rows, LABELS, query_ids=ids, gallery_ids=ids)
    for wrap in (list, tuple, torch.from_numpy, Column, lambda x: x.astype(object), np.float64):
        labels, photos = wrap(LABELS), wrap(ids)
        found = retrieval_scores(rows, labels, rows, LABELS, query_ids=photos, gallery_ids=ids)
        assert np.array_equal(found.average_precision, expected.average_precision), wrap
        assert Gallery(rows, labels, photos).search(rows, np.int64(3), photos)[1].shape == (12, 3)
    text = Column(LABELS.astype(str))
    named = retrieval_scores(rows, text, rows, text, query_ids=ids, gallery_ids=ids)
    assert np.array_equal(named.average_precision, expected.average_precision)


@pytest.mark.parametrize("k", [True, 2.5, 0, "3"])
def test_a_number_of_photos_is_a_whole_number(k):
    rows = unit(12, 8)
    with pytest.raises(CourseError, match="whole number of at least 1"):
        Gallery(rows, LABELS).search(rows, k)
    with pytest.raises(CourseError, match="whole number of at least 1"):
        retrieval_scores(rows, LABELS, rows, LABELS, ks=(1, k))


@pytest.mark.parametrize(
    "ks", [1, np.int64(1), torch.tensor(1), np.array([1, 900]), (1.0, 900), torch.tensor([1, 900])]
)
def test_cut_offs_of_any_library_are_taken(ks):
    rows = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    found = retrieval_scores(rows, [0, 0, 1, 1, 2, 2], rows, [0, 0, 1, 1, 2, 2], ks=ks)
    assert (
        found.recall_at(np.int64(1)) == 1.0
        and set(found.recall) <= {1, 900}
        and found.recall.get(900, np.ones(1))[0] == 1
    )
    assert chance_level([0], [0, 1, 1], ks=ks)["r1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("ks", [0, True, "1", None, 1.5, [[1]], float("nan")])
def test_what_counts_no_photos_is_one_sentence(ks):
    with pytest.raises(CourseError, match="Each k in ks is .*whole number of at least 1"):
        chance_level([0], [0, 1], ks=ks)


def test_half_precision_in_few_dimensions_is_of_unit_length():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert len(unit_rows(torch.nn.functional.normalize(torch.randn(500, 2)).to(dtype))) == 500
