"""Every number that `utils.retrieval` reports, against plain loops, in a world where no two numbers agree."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from unequal_world import (
    LookupBackbone,
    Ranked,
    World,
    cosines_of,
    flat,
    make_world,
    mean,
    plain_accuracy,
    plain_chance,
    plain_cosines,
    plain_fmr,
    plain_pairs,
    plain_retrieval,
    plain_scores,
    plain_tar,
    plain_threshold,
    ranked,
    wrong_scores,
)

from utils.faces.splits import Splits, make_splits
from utils.retrieval import evaluation
from utils.retrieval.evaluation import Evaluation, evaluate, held_out_photos, order_kept, per_identity
from utils.retrieval.gallery import Gallery
from utils.retrieval.scores import chance_level, retrieval_scores
from utils.retrieval.similarity import unit_rows
from utils.retrieval.verification import compactness, lookalike_fmr, pair_histogram, tar_at_far, true_accept_rate
from utils.settings import CourseError

SCORED = ("forget", "retain", "unseen", "dev_forget")
EXACT = {"abs": 1e-6, "rel": 0, "nan_ok": True}


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def seen(world) -> Evaluation:
    return evaluate(LookupBackbone(world.points), world.splits, world.head, device="cpu")


def test_the_order_kept_is_the_mean_rank_correlation_of_a_pools_queries(world, seen, monkeypatch):
    other = evaluate(LookupBackbone(world.other_points), world.splits, device="cpu")
    gallery = world.gallery()
    for pool in ("forget", "retain", "unseen"):
        found = []
        for query in world.queries(pool):
            now = world.other_points[gallery] @ world.other_points[query]
            found.append(spearmanr(world.points[gallery] @ world.points[query], now).statistic)
        assert order_kept(seen, other, pool) == pytest.approx(mean(found), abs=1e-6)
    assert order_kept(seen, seen) == pytest.approx(1.0)
    whole = order_kept(seen, other)
    monkeypatch.setattr(evaluation, "QUERIES_AT_ONCE", 7)
    assert order_kept(seen, other) == pytest.approx(whole), "in parts as at once"
    blind = seen._replace(embeddings=torch.ones_like(seen.embeddings))
    assert order_kept(seen, blind) == 0.0
    assert order_kept(seen, other) == order_kept(seen, other, "retain") != order_kept(seen, other, "forget")
    nobody = replace(world.splits, query=world.splits.photos("forget", "query"))
    assert math.isnan(order_kept(seen._replace(splits=nobody), other._replace(splits=nobody)))


def rows(world: World, photos: list[int]) -> torch.Tensor:
    return torch.from_numpy(world.points[photos]).float()


def labels(world: World, photos: list[int]) -> list[int]:
    return [world.photos[i].person for i in photos]


# ------------------------------------------------------------------------------------------ what a row of results says


@pytest.mark.parametrize("far", [1e-3, 4e-3, 0.05])
def test_every_reported_score_equals_plain_loops(world, seen, far):
    scores = seen.scores() if far == 1e-3 else seen.scores(far)  # the course's own share is one in a thousand
    assert flat(scores) == pytest.approx(flat(plain_scores(world, far)), **EXACT)
    assert scores["gallery_size"] == len(world.gallery()) and isinstance(scores["gallery_size"], int)


def test_no_two_numbers_of_this_world_agree(world):
    numbers = flat(plain_scores(world))
    for (one, a), (other, b) in itertools.combinations(numbers.items(), 2):
        assert abs(a - b) > 1e-3, (one, other)
    for name, (right, wrong) in wrong_scores(world).items():
        assert math.isnan(wrong) or abs(right - wrong) > 1e-4, name


def test_the_model_that_is_given_is_the_one_that_is_scored(world):
    other = world._replace(points=world.other_points, cosines=cosines_of(world.other_points))
    scores = evaluate(LookupBackbone(world.other_points), world.splits, world.head, device="cpu").scores()
    assert flat(scores) == pytest.approx(flat(plain_scores(other)), **EXACT)


def test_scores_do_not_depend_on_the_order_in_which_photos_were_embedded(world):
    photos = np.random.default_rng(1).permutation(len(world.photos))  # training photos among them
    scores = Evaluation.make(rows(world, photos), photos, world.splits, world.head).scores()
    assert flat(scores) == pytest.approx(flat(plain_scores(world)), **EXACT)


def test_exactly_the_held_out_photos_are_embedded_and_known_by_number_person_and_pool(world, seen):
    held_out = world.chosen()
    assert held_out_photos(world.splits).tolist() == held_out and len(seen.embeddings) == len(held_out)
    assert seen.place.tolist() == [held_out.index(i) if i in held_out else -1 for i in range(len(world.photos))]
    for pools in [("forget",), ("unseen", "retain"), SCORED]:
        photos = seen.held_out(*pools)
        assert sorted(photos.tolist()) == world.chosen(*pools)
        assert [world.photos[i].pool for i in photos] == sorted((world.photos[i].pool for i in photos), key=pools.index)
        assert seen.labels(photos).tolist() == labels(world, photos)
        np.testing.assert_allclose(seen.rows(photos), world.points[photos], atol=1e-6)
    people = [17, 3, 8]
    wanted = [i for person in people for i in held_out if world.photos[i].person == person]
    assert seen.photos_of(*people).tolist() == wanted == seen.photos_of("#17", "Person 3", 8).tolist()


@pytest.mark.parametrize("which", ["head", "small_head"])
def test_accuracy_is_the_share_of_held_out_photos_that_the_head_names(world, seen, which):
    head = getattr(world, which)
    people = world.splits.trained if which == "head" else world.splits.retain_train
    view = seen._replace(head=head)
    for pool in ("forget", "retain", "dev_forget"):
        expected = plain_accuracy(world, world.chosen(pool), head, people)
        assert view.name_accuracy(pool) == pytest.approx(expected, **EXACT)
        assert expected == 0 if (pool, which) == ("forget", "small_head") else 0 < expected < 1
    scores = view.scores()
    assert scores["forget"]["accuracy"] == view.name_accuracy("forget")
    assert scores["retain"]["accuracy"] == view.name_accuracy("retain")
    assert {pool for pool in SCORED if "accuracy" in scores[pool]} == {"forget", "retain"}
    assert "accuracy" not in seen._replace(head=None).scores()["forget"]


@pytest.mark.parametrize("pool", SCORED)
def test_each_persons_row_equals_plain_loops(world, seen, pool):
    held_out = np.array(world.chosen())
    found = per_identity(rows(world, held_out), held_out, world.splits, pool)
    expected = []
    for person, queries in world.people(world.queries(pool)).items():
        ranks = [one for i in queries if (one := ranked(world, i, world.gallery()))]
        if ranks:
            row = {"identity": f"Person {person}", "label": person, "n": len(ranks)}
            row |= {"r1": mean([one.r1 for one in ranks]), "r5": mean([one.r5 for one in ranks])}
            row |= {"map": mean([one.precision for one in ranks])}
            row |= {"first_rank": mean([one.first_rank for one in ranks])}
            expected.append(
                row | plain_cosines(world, [i for i in world.chosen(pool) if labels(world, [i]) == [person]])
            )
    assert len(found) == len(expected) > 1
    for row, wanted in zip(found, expected, strict=True):
        assert row.pop("identity") == wanted.pop("identity") and row == pytest.approx(wanted, **EXACT)
    assert per_identity(rows(world, held_out), held_out, world.splits) == per_identity(
        rows(world, held_out), held_out, world.splits, "forget"
    )


def test_too_few_pairs_give_no_threshold_and_just_enough_give_one(world, seen):
    """A share of one pair is the least that can be shown; of retained and unseen people together."""
    impostor = sorted(plain_pairs(world, world.chosen("retain", "unseen"))[1])
    n_pairs = len(impostor)
    enough, too_few = seen.scores(1 / n_pairs), seen.scores(math.nextafter(1 / n_pairs, 0))
    assert enough["threshold"] == pytest.approx(impostor[-2], abs=2e-6)  # one pair may pass, the next may not
    assert math.isnan(too_few["threshold"]) and math.isnan(too_few["forget"]["lookalike_fmr"])
    assert all(math.isnan(too_few[pool]["tar"]) for pool in SCORED)
    assert too_few["forget"]["map"] == enough["forget"]["map"]


def test_a_threshold_needs_somebody_with_two_photos(world):
    splits = sparse(world, lambda photo, first: photo.pool not in ("retain", "unseen") or first)
    held_out = np.union1d(splits.query, splits.gallery)
    scores = Evaluation.make(rows(world, held_out), held_out, splits).scores(0.2)
    assert math.isnan(scores["threshold"]) and math.isnan(scores["forget"]["tar"])


def sparse(world: World, keeps) -> Splits:
    """Return the world's splits with those held-out photos for which `keeps(photo, first of its person)` is true."""
    kept, people = [], set()
    for i in world.chosen():
        if keeps(world.photos[i], world.photos[i].person not in people):
            kept.append(i)
            people.add(world.photos[i].person)
    splits = world.splits
    parts = {part: np.intersect1d(getattr(splits, part), kept) for part in ("query", "gallery")}
    pools = (splits.forget, splits.dev_forget, splits.retain, splits.unseen, splits.distractors)
    return Splits(splits.faces, 0, *pools, splits.train, **parts)


@pytest.mark.parametrize("pool", SCORED)
def test_a_pool_without_queries_is_unknown_and_the_others_stand(world, pool):
    splits = sparse(world, lambda photo, _: (photo.pool, photo.part) != (pool, "query"))
    held_out = np.union1d(splits.query, splits.gallery)
    scores = Evaluation.make(rows(world, held_out), held_out, splits).scores()
    threshold = plain_threshold(world, [i for i in world.chosen("retain", "unseen") if i in held_out], 1e-3)
    assert scores["threshold"] == pytest.approx(threshold, **EXACT)
    for name in SCORED:
        photos = [i for i in world.chosen(name) if i in held_out]
        expected = plain_retrieval(world, world.queries(name), world.gallery()) | plain_cosines(world, photos)
        expected |= {"tar": plain_tar(world, photos, threshold)}
        if name == pool:
            expected = dict.fromkeys(expected, math.nan)
        if name == "forget":
            fmr = plain_fmr(world, world.queries("forget"), world.gallery("retain"), threshold)
            expected["lookalike_fmr"] = math.nan if pool == "forget" else fmr
        assert scores[name] == pytest.approx(expected, **EXACT)
    assert math.isnan(scores["chance"]["r1"]) == math.isnan(scores["chance"]["map"]) == (pool == "forget")


def test_look_alikes_without_a_retained_gallery_are_unknown(world):
    splits = sparse(world, lambda photo, _: (photo.pool, photo.part) != ("retain", "gallery"))
    held_out = np.union1d(splits.query, splits.gallery)
    scores = Evaluation.make(rows(world, held_out), held_out, splits).scores()
    assert math.isnan(scores["forget"]["lookalike_fmr"]) and scores["forget"]["tar"] > 0


class Everywhere(Splits):
    """Splits in which every held-out photo is searched for, and enrolled: each must leave itself out."""

    def __post_init__(self) -> None:
        both = np.union1d(self.query, self.gallery)
        object.__setattr__(self, "query", both)
        object.__setattr__(self, "gallery", both)


def test_no_photo_finds_itself_in_scores_or_chance(world):
    old, held_out = world.splits, np.array(world.chosen())
    pools = (old.forget, old.dev_forget, old.retain, old.unseen, old.distractors)
    splits = Everywhere(old.faces, 0, *pools, old.train, old.query, old.gallery)
    scores = Evaluation.make(rows(world, held_out), held_out, splits).scores()
    for pool in SCORED:
        expected = plain_retrieval(world, world.chosen(pool), world.chosen())
        assert {key: scores[pool][key] for key in expected} == pytest.approx(expected, **EXACT)
    chance = plain_chance(world, world.chosen("forget"), world.chosen())
    assert scores["chance"] == pytest.approx(chance, **EXACT)


# -------------------------------------------------------------------------------------- the functions, one query each


@pytest.mark.parametrize("alone", [False, True])
def test_every_query_has_the_scores_of_plain_loops(world, alone):
    """Against the enrolled photos of all; and each photo against all others."""
    queries, gallery = (world.chosen(), world.chosen()) if alone else (world.queries(), world.gallery())
    options = {"query_ids": queries, "gallery_ids": gallery, "ks": (1, 2, 5, 7)}
    sides = [take(world, photos) for photos in (queries, gallery) for take in (rows, labels)]
    found = retrieval_scores(*sides, **options)
    expected = [ranked(world, query, gallery) for query in queries]
    others = [ranked(world, query, gallery, (2, 7)) for query in queries]
    nothing = Ranked(-1, math.nan, math.nan, math.nan, math.nan)
    expected, others = [one or nothing for one in expected], [one or nothing for one in others]
    assert found.average_precision.tolist() == pytest.approx([one.precision for one in expected], **EXACT)
    assert found.first_rank.tolist() == pytest.approx([one.first_rank for one in expected], **EXACT)
    for k, values in ((1, [one.r1 for one in expected]), (5, [one.r5 for one in expected])):
        assert found.recall[k].tolist() == pytest.approx(values, **EXACT)
    for k, values in ((2, [one.r1 for one in others]), (7, [one.r5 for one in others])):
        assert found.recall[k].tolist() == pytest.approx(values, **EXACT)
        assert found.recall_at(k) == pytest.approx(mean([v for v in values if not math.isnan(v)]), **EXACT)
    skipped = [one is nothing for one in expected]
    assert found.n_skipped == sum(skipped) > 0 and found.scored.tolist() == [not skip for skip in skipped]
    assert found.labels.tolist() == labels(world, queries)
    assert len({found.r1, found.recall_at(2), found.r5, found.recall_at(7), found.map}) == 5


def test_means_over_people_count_each_person_once(world, seen):
    for pool in SCORED:
        found = seen.retrieval(pool)
        ranks = [one for query in world.queries(pool) if (one := ranked(world, query, world.gallery()))]
        people = {one.person: [other for other in ranks if other.person == one.person] for one in ranks}
        assert list(found.per_identity()) == sorted(people)
        names = {"map": "precision", "first_rank": "first_rank", "r1": "r1", "r5": "r5"}
        each = {
            person: {name: mean([getattr(one, field) for one in mine]) for name, field in names.items()}
            for person, mine in people.items()
        }
        for person, row in found.per_identity().items():
            assert row == pytest.approx(each[person] | {"n": len(people[person])}, **EXACT)
        macro = {name: mean([row[name] for row in each.values()]) for name in names}
        assert found.macro() == pytest.approx(macro, **EXACT) and abs(found.macro()["map"] - found.map) > 1e-3


def test_a_persons_mean_leaves_out_the_queries_that_find_nothing():
    """Person 0 has one enrolled photo: as a query it has nothing to find, another of hers finds it behind person 1."""
    points = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    found = retrieval_scores(points[:2], [0, 0], points[[0, 2]], [0, 1], query_ids=[7, 8], gallery_ids=[7, 9])
    row = {"n": 1, "map": 1 / 2, "first_rank": 2.0, "r1": 0.0, "r5": 1.0}
    assert found.n_skipped == 1 and found.per_identity() == {0: pytest.approx(row)}
    assert found.macro() == pytest.approx({name: row[name] for name in ("map", "first_rank", "r1", "r5")})


def test_chance_of_any_queries_and_cut_offs_equals_a_sum_over_places(world):
    for queries, gallery in ((world.queries("unseen"), world.gallery()), (world.chosen("retain"), world.chosen())):
        people, enrolled = labels(world, queries), labels(world, gallery)
        assert chance_level(people, enrolled, queries, gallery) == pytest.approx(
            plain_chance(world, queries, gallery), **EXACT
        )
        place = next(place for place, person in enumerate(people) if enrolled.count(person) > 2)
        one = chance_level([people[place]], enrolled, [queries[place]], gallery, ks=(3, 500))
        own = queries[place] in gallery
        n, right = len(gallery) - own, enrolled.count(people[place]) - own
        assert one["r3"] == pytest.approx(1 - math.comb(n - right, 3) / math.comb(n, 3), **EXACT) and one["r500"] == 1


def test_same_identity_cosines_of_each_person_equal_plain_loops(world):
    photos = world.chosen()
    found = compactness(rows(world, photos), labels(world, photos))
    people = {person: mine for person, mine in world.people(photos).items() if len(mine) > 1}
    assert found.labels.tolist() == list(people) and found.n_skipped == len(world.people(photos)) - len(people) > 1
    each = [plain_cosines(world, mine) for mine in people.values()]
    assert found.mean_cosines.tolist() == pytest.approx([one["mean_cosine"] for one in each], **EXACT)
    assert found.nearest_cosines.tolist() == pytest.approx([one["nearest_cosine"] for one in each], **EXACT)
    both = {"mean_cosine": found.mean_cosine, "nearest_cosine": found.nearest_cosine}
    assert both == pytest.approx(plain_cosines(world, photos), **EXACT)
    assert abs(found.mean_cosine - np.median(found.mean_cosines)) > 1e-3


def test_two_right_photos_in_a_tie_of_three_are_twice_as_likely_to_come_first():
    """The first of two right ones among three places stands at (3 + 1)/(2 + 1) on average, and first in 2 of 3."""
    points = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0]])
    found = retrieval_scores(points[:1], [0], points[1:], [0, 1, 0, 1], ks=(1, 2))
    assert found.first_rank[0] == pytest.approx(4 / 3) and found.r1 == pytest.approx(2 / 3)
    assert found.recall_at(2) == pytest.approx(1) and found.map == pytest.approx(2 / 3)


def test_a_photo_that_is_enrolled_under_another_name_is_left_out_all_the_same():
    """Of four enrolled photos three remain, and both of person 0 are still there to be found."""
    assert chance_level([0], [1, 0, 0, 1], [7], [7, 8, 9, 10])["r1"] == pytest.approx(2 / 3)
    points = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.4], [0.5, 0.9], [0.0, 1.0]]))
    found = retrieval_scores(points[:1], [0], points, [1, 0, 0, 1], query_ids=[7], gallery_ids=[7, 8, 9, 10])
    assert (found.r1, found.map) == (1.0, 1.0)


@pytest.mark.parametrize("far", [1e-3, 5e-3, 0.02, 0.3])
def test_accept_rates_at_any_share_equal_plain_loops(world, far):
    photos = world.chosen("retain", "unseen")
    genuine, impostor = plain_pairs(world, photos)
    found = tar_at_far(rows(world, photos), labels(world, photos), far)
    threshold = plain_threshold(world, photos, far)
    assert found.threshold == pytest.approx(threshold, **EXACT)
    assert found.tar == pytest.approx(mean([cosine >= threshold for cosine in genuine]), **EXACT)
    assert found.achieved_far == pytest.approx(mean([cosine >= threshold for cosine in impostor]), **EXACT)
    assert 0 < found.achieved_far <= far < found.achieved_far + 1.5 / len(impostor)
    default = tar_at_far(rows(world, photos), labels(world, photos))
    assert default == tar_at_far(rows(world, photos), labels(world, photos), 1e-3)


@pytest.mark.parametrize("k", [1, 2, 3, 6, 7, 11, 13, 14, 25, 29, 49])
def test_a_share_of_k_pairs_lets_k_pairs_through(world, k):
    """However k/n is rounded: at most a share means that the k best impostor pairs pass, and the next does not."""
    photos = world.chosen("retain", "unseen")
    impostor = sorted(plain_pairs(world, photos)[1], reverse=True)
    found = tar_at_far(rows(world, photos), labels(world, photos), k / len(impostor))
    assert found.achieved_far == k / len(impostor)
    assert impostor[k] < found.threshold + 1e-6 < impostor[k - 1] + 2e-6


def test_pairs_are_counted_in_bins_by_their_lower_edge(world):
    photos = world.chosen("forget", "dev_forget")
    pairs = pair_histogram(rows(world, photos), labels(world, photos), chunk_size=5)
    for counted, cosines in zip((pairs.genuine, pairs.impostor), plain_pairs(world, photos), strict=True):
        places = np.repeat(pairs.cosines, counted)  # the lower edge of each pair's bin
        assert len(places) == len(cosines)
        above = np.sort(cosines) - places
        assert above.min() > -1e-6 and above.max() < 2**-20 + 1e-6
        assert mean(above.tolist()) == pytest.approx(2**-21, abs=2e-7)


def test_who_reaches_a_threshold_is_accepted():
    """At 0, 90 and 180 degrees the cosines are 0 and -1 exactly: what equals the threshold reaches it."""
    points, people = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), [0, 0, 0]
    rates = {0.0: 2 / 3, 1e-6: 0.0, -1e-6: 2 / 3, -1.0: 1.0}
    for threshold, rate in rates.items():
        assert true_accept_rate(points, people, threshold) == pytest.approx(rate)
    # both impostor pairs stand at 0 exactly: the lowest threshold that stops them is one step of the grid above
    pair_and_other = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert tar_at_far(pair_and_other, [0, 0, 1], 0.5) == (1.0, 2**-20, 0.0)
    assert lookalike_fmr(points[:1], points[1:], 0.0) == 1.0 and lookalike_fmr(points[:1], points[1:], 1e-6) == 0.0
    assert math.isnan(true_accept_rate(points, people, math.inf)) and math.isnan(
        lookalike_fmr(points, points, math.inf)
    )


@pytest.mark.parametrize("index", ["exact", "hnsw", "ivf"])
@pytest.mark.parametrize("k", [1, 5])
def test_a_search_returns_the_nearest_other_photos_in_order(world, index, k):
    enrolled = world.chosen()
    names = [f"photo {i}" for i in enrolled]
    gallery = Gallery(rows(world, enrolled), labels(world, enrolled), photo_ids=enrolled, names=names, index=index)
    queries = world.chosen("unseen", "forget")
    cosines, places = gallery.search(rows(world, queries), k, query_ids=queries)
    matches = gallery.identify(rows(world, queries), k, query_ids=queries)
    agreed = 0
    for query, mine, where, found in zip(queries, cosines, places, matches, strict=True):
        others = sorted((world.cosines[query][i] for i in enrolled if i != query), reverse=True)[:k]
        agreed += np.allclose(mine, others, atol=1e-6)
        known = [int(place) for place in where if place >= 0]
        assert [match.index for match in found] == known and query not in [enrolled[place] for place in known]
        for match, cosine in zip(found, mine, strict=False):
            photo = enrolled[match.index]
            assert match.cosine == pytest.approx(float(cosine)) == pytest.approx(world.cosines[query][photo], abs=1e-6)
            assert (match.label, match.name) == (world.photos[photo].person, f"photo {photo}")
    assert agreed == len(queries) if index != "ivf" else agreed > len(queries) / 4


def test_five_photos_are_shown_and_two_cut_offs_scored_unless_asked_otherwise(world):
    enrolled = world.gallery()
    gallery = Gallery(rows(world, enrolled), labels(world, enrolled))
    assert gallery.search(rows(world, enrolled[:2]))[1].shape == (2, 5)
    assert [len(found) for found in gallery.identify(rows(world, enrolled[:2]))] == [5, 5]
    found = retrieval_scores(rows(world, [0]), labels(world, [0]), rows(world, enrolled), labels(world, enrolled))
    assert set(found.recall) == {1, 5} and set(chance_level([0], labels(world, enrolled))) == {"r1", "r5", "map"}


def test_rows_of_any_precision_come_back_of_length_1_or_not_at_all(world):
    halves = rows(world, world.chosen()).half()
    assert (halves.double().norm(dim=1) - 1).abs().max() > 1e-4
    assert (unit_rows(halves).double().norm(dim=1) - 1).abs().max() < 1e-6
    with pytest.raises(CourseError, match="Row 0 .* length 1.0[12]"):
        unit_rows(torch.tensor([[1.015, 0.0]]).half())


def test_photos_that_are_query_and_gallery_find_all_others_but_themselves(tiny_faces):
    splits = make_splits(tiny_faces, n_forget=2, n_dev=1, held_out="half")
    photos = held_out_photos(splits)
    points = torch.nn.functional.normalize(torch.randn(len(photos), 5, generator=torch.Generator().manual_seed(3)))
    world = Evaluation.make(points, photos, splits)
    row, label = {photo: i for i, photo in enumerate(photos.tolist())}, tiny_faces.labels
    for pool in ("forget", "unseen"):
        hits, cosines = [], []
        for photo in splits.photos(pool, "query").tolist():
            others = [other for other in splits.gallery.tolist() if other != photo]
            near = [float(points[row[photo]] @ points[row[other]]) for other in others]
            hits.append(label[others[int(np.argmax(near))]] == label[photo])
        for person in getattr(splits, pool):
            mine = [photo for photo in splits.photos(pool, "query").tolist() if label[photo] == person]
            pairs = [float(points[row[a]] @ points[row[b]]) for a, b in itertools.combinations(mine, 2)]
            cosines.append(np.mean(pairs))
        scores = world.scores()[pool]
        assert len(hits) == {"forget": 12, "unseen": 24}[pool] and scores["r1"] == np.mean(hits)
        assert scores["mean_cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
