"""Who goes into which pool: hand-computed cases, seeds, names, and everything that can be asked for wrongly."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from utils.faces.identities import resolve_identities
from utils.faces.splits import PARTS, Splits, make_splits, part_sizes
from utils.settings import CourseError


@dataclass(frozen=True)
class FakeFaces:
    """Labels and names without any pixels: all that splits look at."""

    labels: np.ndarray
    identities: tuple[str, ...]
    photo_names: tuple[str, ...]
    trained_min_photos: int = 10
    name: str = "fake"
    held_out: str = "fifth"


def fake_faces(*counts: int, names: tuple[str, ...] | None = None) -> FakeFaces:
    identities = names or tuple(f"P{i:02d}" for i in range(len(counts)))
    labels = np.repeat(np.arange(len(counts)), counts)
    return FakeFaces(labels, identities, tuple(f"{identities[label]}/{i}" for i, label in enumerate(labels)))


def person_parts(splits: Splits, label: int) -> list[list[int]]:
    labels = splits.faces.labels
    return [part[labels[part] == label].tolist() for part in (splits.train, splits.query, splits.gallery)]


@pytest.mark.parametrize(
    ("n_photos", "sizes"),
    [(50, (40, 5, 5)), (12, (8, 2, 2)), (10, (6, 2, 2)), (30, (24, 3, 3)), (5, (2, 1, 2)), (4, (2, 1, 1))],
)
def test_a_trained_person_holds_out_a_fifth_and_at_least_four(n_photos, sizes):
    n_train, n_query = part_sizes(n_photos, is_trained=True)
    assert (n_train, n_query, n_photos - n_train - n_query) == sizes


@pytest.mark.parametrize(("n_photos", "sizes"), [(20, (10, 10)), (3, (1, 2)), (2, (1, 1)), (1, (0, 1))])
def test_an_unseen_person_is_halved_and_a_single_photo_goes_to_the_gallery(n_photos, sizes):
    n_train, n_query = part_sizes(n_photos, is_trained=False)
    assert n_train == 0 and (n_query, n_photos - n_query) == sizes


def test_pools_follow_the_photo_counts():
    faces = fake_faces(*[12] * 9, 9, 2, 3, 1, 1)  # nine to train, three unseen, two distractors; 3 >= 0.25 * 12
    splits = make_splits(faces, n_forget=2, n_dev=2)
    assert splits.trained == tuple(range(9)) and splits.unseen == (9, 10, 11) and splits.distractors == (12, 13)
    assert len(splits.forget) == 2 and len(splits.dev_forget) == 2 and len(splits.retain) == 5
    assert splits.retain_train == tuple(sorted(splits.retain + splits.dev_forget))
    assert splits.n_identities == 14
    assert [len(part) for part in person_parts(splits, 9)] == [0, 4, 5]
    assert [len(part) for part in person_parts(splits, 12)] == [0, 0, 1]
    assert [len(splits.photos("trained", part)) for part in PARTS] == [9 * 8, 9 * 2, 9 * 2]
    assert [len(splits.photos("forget", part)) for part in PARTS] == [16, 4, 4]
    assert any("3 people have fewer than 10 photos" in note for note in splits.notes)
    assert any("2 people have a single photo" in note for note in splits.notes)


def test_every_photo_is_dealt_exactly_once():
    faces = fake_faces(*[12] * 9, 9, 2, 3, 1)
    splits = make_splits(faces, n_forget=2, n_dev=2)
    dealt = np.concatenate([splits.train, splits.query, splits.gallery])
    assert sorted(dealt.tolist()) == list(range(len(faces.labels)))
    assert all(part.dtype == np.int64 for part in (splits.train, splits.query, splits.gallery))


def test_others_join_the_unseen_until_their_share_is_large_enough():
    splits = make_splits(fake_faces(*[12] * 20), n_forget=2, n_dev=2, unseen_fraction=0.25)
    assert len(splits.unseen) == 5 and len(splits.trained) == 15
    assert splits.unseen != tuple(range(5))  # drawn, not the first of the alphabet
    assert len(splits.photos("unseen", "train")) == 0
    assert any("5 people with enough photos were set aside" in note for note in splits.notes)
    assert make_splits(fake_faces(*[12] * 20), n_forget=2, unseen_fraction=0).unseen == ()


def test_the_seed_changes_who_is_forgotten_and_nothing_else():
    faces = fake_faces(*[12] * 40)
    first, second = make_splits(faces, n_forget=5, n_dev=5, seed=0), make_splits(faces, n_forget=5, n_dev=5, seed=1)
    assert first.forget != second.forget
    assert first.forget == make_splits(faces, n_forget=5, n_dev=5, seed=0).forget
    for same in ("dev_forget", "unseen", "trained", "distractors"):
        assert getattr(first, same) == getattr(second, same)
    for part in PARTS:
        assert np.array_equal(getattr(first, part), getattr(second, part))


def test_the_original_model_does_not_depend_on_who_is_forgotten():
    faces = fake_faces(*[12] * 40)
    drawn = make_splits(faces, n_forget=5, n_dev=5)
    named = make_splits(faces, forget_ids=drawn.retain[:3], n_dev=5)
    assert drawn.trained == named.trained and np.array_equal(drawn.train, named.train)
    assert named.forget == drawn.retain[:3]


def test_a_persons_photos_are_dealt_alike_when_others_are_missing():
    all_of_them, fewer = fake_faces(*[12] * 12), fake_faces(*[12] * 6)
    a = make_splits(all_of_them, n_forget=1, n_dev=1, unseen_fraction=0)
    b = make_splits(fewer, n_forget=2, n_dev=1, unseen_fraction=0)
    assert all(person_parts(a, label) == person_parts(b, label) for label in range(6))
    assert person_parts(a, 0) != [[i - 12 for i in part] for part in person_parts(a, 1)]  # not one order for all


def test_names_numbers_and_comma_lists_mean_the_same_people():
    faces = fake_faces(*[12] * 12, names=tuple("Ada Bob Cléo Dan Eve Fay Gil Hal Ida Jon Kim Lea".split()))
    options = {"n_dev": 2, "unseen_fraction": 0.0}
    by_name = make_splits(faces, forget_ids=["Cléo", "Ada"], **options)
    assert by_name.forget == (0, 2)
    for same in ("Ada, Cléo", "#0,#2", [0, 2], [np.int64(2), "Ada"], ["Cle\u0301o", "Ada", " Ada "], "Ada,#2,"):
        assert make_splits(faces, forget_ids=same, **options).forget == (0, 2)
    assert not set(by_name.dev_forget) & {0, 2}
    assert len(make_splits(faces, forget_ids=None, n_forget=3, **options).forget) == 3


@pytest.mark.parametrize("nobody", ["", ",", "  ", " , ,", [], (), [""], np.array([])])
def test_a_request_that_names_nobody_is_no_request_for_anybody(nobody):
    with pytest.raises(CourseError, match="names nobody"):
        make_splits(fake_faces(*[12] * 12), forget_ids=nobody, n_dev=2)


@pytest.mark.parametrize(
    "neither",
    [True, [True], np.bool_(True), [np.True_], np.array(7.0), [torch.tensor(True)], 7.0, [1.0], [None], b"P01"],
)
def test_what_is_neither_a_name_nor_a_label_is_refused(neither):
    with pytest.raises(CourseError, match="a name as text, or a label as a whole number"):
        make_splits(fake_faces(*[12] * 12), forget_ids=neither, n_dev=2)


def test_a_number_in_text_is_a_name_and_a_label_has_a_sign_of_its_own():
    faces = fake_faces(*[12] * 12, names=tuple(str(12 - i) for i in range(12)))
    assert [faces.identities[label] for label in resolve_identities(faces, "7")] == ["7"]
    assert resolve_identities(faces, "#7") == [7] == resolve_identities(faces, 7)
    with pytest.raises(CourseError, match=r"No identity '0' .*'#0'"):
        resolve_identities(faces, "0")
    with pytest.raises(CourseError, match="numbers run from 0 to 11"):
        resolve_identities(faces, "#12")


def test_a_name_that_reads_as_another_persons_label_is_refused():
    faces = fake_faces(12, 12, 12, names=("#1", "Ada", "#9"))
    with pytest.raises(CourseError, match="'#1' is a person's name and the label of Ada"):
        resolve_identities(faces, "#1")
    assert resolve_identities(faces, "#9") == [2]


def test_a_name_that_is_a_number_or_holds_a_comma_is_still_a_name():
    faces = fake_faces(12, 12, 12, 12, names=("7", "1", "Doe, Jane", "0"))
    assert resolve_identities(faces, "7") == [0]
    assert resolve_identities(faces, "1,0") == [1, 3]
    assert resolve_identities(faces, 1) == [1]
    assert resolve_identities(faces, "Doe, Jane") == [2]


def test_a_named_person_leaves_the_unseen_pool_to_be_trained():
    faces = fake_faces(*[12] * 9, 6, 2, 3)
    splits = make_splits(faces, forget_ids=["P09"], n_dev=2)
    assert splits.forget == (9,) and 9 in splits.trained and splits.unseen == (10, 11)
    assert [len(part) for part in person_parts(splits, 9)] == [2, 2, 2]
    assert any("P09" in note for note in splits.notes)


def test_class_of_is_the_row_in_the_head():
    splits = make_splits(fake_faces(*[12] * 20), n_forget=2, n_dev=2)
    assert splits.class_of(splits.trained).tolist() == list(range(15))
    assert splits.class_of(splits.trained[3]) == 3
    with pytest.raises(CourseError, match="not trained on"):
        splits.class_of([splits.unseen[0]])


def test_who_is_no_query_stays_in_the_gallery():
    splits = make_splits(fake_faces(*[12] * 20), n_forget=2)
    first, *others = splits.unseen
    fewer = splits.without_queries([first])
    assert fewer.unseen == tuple(others) and first in fewer.distractors
    assert set(splits.photos("unseen", "query")) - set(fewer.photos("unseen", "query"))
    for part in ("train", "query", "gallery"):
        assert getattr(fewer, part).tolist() == getattr(splits, part).tolist()
    assert (fewer.trained, fewer.n_identities) == (splits.trained, splits.n_identities)


def test_swap_dev_exchanges_forget_and_dev():
    splits = make_splits(fake_faces(*[12] * 20), n_forget=2, n_dev=3)
    swapped = splits.swap_dev()
    assert swapped.forget == splits.dev_forget and swapped.dev_forget == splits.forget
    assert swapped.trained == splits.trained and swapped.swap_dev().forget == splits.forget
    assert set(splits.forget) <= set(swapped.retain_train)
    with pytest.raises(CourseError, match="n_dev"):
        make_splits(fake_faces(*[12] * 20), n_forget=2, n_dev=0).swap_dev()


def test_dev_people_are_fewer_where_people_are_few_and_a_note_says_so():
    splits = make_splits(fake_faces(*[12] * 8), n_forget=1, unseen_fraction=0)
    assert len(splits.dev_forget) == 2 and len(splits.retain) == 5
    assert any("2 drawn instead" in note for note in splits.notes)


def test_summary_counts_people_and_photos():
    rows = make_splits(fake_faces(*[12] * 9, 9, 2, 3, 1), n_forget=2, n_dev=2).summary().splitlines()
    table = {row.split()[0]: row.split()[1:] for row in rows[1:6]}
    assert table["forget"] == ["2", "16", "4", "4"]
    assert table["unseen"] == ["3", "0", "6", "8"]
    assert table["distractors"] == ["1", "0", "0", "1"]
    assert rows[-1].startswith("note: ")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"forget_ids": "P1"}, r"No identity 'P1' in 'fake'\. Nearest: P1"),
        ({"forget_ids": [99]}, "numbers run from 0 to 12"),
        ({"forget_ids": [-1]}, "numbers run from 0 to 12"),
        ({"forget_ids": ["P00", "P12"]}, r"at least 4 usable photos .*too few: P12 \(3\)"),
        ({"n_forget": 9}, "at most 6 can be forgotten"),
        ({"n_forget": 0}, "at least 1"),
        ({"n_dev": -1}, "n_dev is -1"),
        ({"unseen_fraction": 1.0}, "unseen_fraction"),
        ({"trained_min_photos": 3}, "at least 4 photos"),
        ({"trained_min_photos": 20}, "Too few people .* 0 of 13 have 20 photos"),
    ],
)
def test_wrong_wishes_get_one_clear_sentence(wrong, sentence):
    with pytest.raises(CourseError, match=sentence):
        make_splits(fake_faces(*[12] * 12, 3), **wrong)


@pytest.mark.parametrize(
    ("people", "photos", "pools"),
    [(6, 8, (1, 1, 2, 2)), (6, 4, (1, 1, 2, 2)), (12, 12, (3, 2, 4, 3)), (60, 12, (10, 10, 25, 15))],
)
def test_the_usual_number_to_forget_suits_the_people_there_are(people, photos, pools):
    splits = make_splits(fake_faces(*[photos] * people))
    assert tuple(len(getattr(splits, pool)) for pool in ("forget", "dev_forget", "retain", "unseen")) == pools
    for pool in ("forget", "dev_forget", "retain"):
        for person in getattr(splits, pool):
            assert min(map(len, person_parts(splits, person))) >= 1
    assert any(f"who has {photos} can be trained on" in note for note in splits.notes) == (photos < 10)


def test_fewer_photos_do_only_where_people_would_not_suffice_and_never_when_a_number_is_asked_for():
    mixed = fake_faces(*[12] * 8, *[8] * 4)
    assert make_splits(mixed).unseen == (8, 9, 10, 11)
    assert len(make_splits(mixed, n_forget=6).forget) == 6  # with ten photos, five is the most
    with pytest.raises(CourseError, match="at most 5 can be forgotten"):
        make_splits(mixed, n_forget=6, trained_min_photos=10)


@pytest.mark.parametrize("counts", [(2, 2), (3, 3, 3), (8,), [2] * 40, [8] * 5])
def test_too_few_people_are_told_what_is_there_and_what_is_needed(counts):
    with pytest.raises(CourseError, match=rf"of {len(counts)} have 4 photos or more.*six people with eight photos"):
        make_splits(fake_faces(*counts))


def test_two_people_are_not_enough():
    with pytest.raises(CourseError, match="1 are left to train on, but 4 are needed"):
        make_splits(fake_faces(12, 12), n_forget=1)


def test_unknown_pools_and_parts_are_listed():
    splits = make_splits(fake_faces(*[12] * 12), n_forget=2)
    with pytest.raises(CourseError, match="dev_forget"):
        splits.photos("forgotten", "train")
    with pytest.raises(CourseError, match="gallery"):
        splits.photos("forget", "test")


@pytest.mark.parametrize(
    ("field", "value"),
    [("forget", lambda s: s.retain[:1]), ("query", lambda s: s.gallery), ("unseen", lambda s: s.unseen * 2)],
)
def test_overlapping_pools_or_parts_cannot_be_built(field, value):
    splits = make_splits(fake_faces(*[12] * 12), n_forget=2)
    with pytest.raises(CourseError, match="not disjoint|holds an entry twice"):
        replace(splits, **{field: value(splits)})


def test_training_photos_of_unseen_people_cannot_be_built():
    splits = make_splits(fake_faces(*[12] * 12), n_forget=2)
    with pytest.raises(CourseError, match="outside the trained pools"):
        replace(splits, train=splits.photos("unseen", "query"), query=np.array([], dtype=np.int64))


def slow_splits(n_people: int, n_photos: int, n_forget: int, n_dev: int, seed: int) -> dict[str, list[int]]:
    """Deal equally photographed people one after the other, with generators that nothing but the seed shares."""
    unseen = np.random.default_rng(1001).permutation(n_people).tolist()[: math.ceil(n_people / 4)]
    trained = [person for person in range(n_people) if person not in unseen]
    dev = np.random.default_rng(1002).permutation(trained).tolist()[:n_dev]
    others = [person for person in trained if person not in dev]
    forget = np.random.default_rng(seed).permutation(others).tolist()[:n_forget]
    pools = {"unseen": unseen, "dev_forget": dev, "forget": forget, "retain": [p for p in others if p not in forget]}
    parts: dict[str, list[int]] = {"train": [], "query": [], "gallery": []}
    for person in range(n_people):
        draw = np.random.default_rng([1003, zlib.crc32(f"P{person:02d}".encode())])
        photos = draw.permutation(np.arange(person * n_photos, (person + 1) * n_photos)).tolist()
        held_out = max(round(n_photos / 5), 4)
        sizes = (n_photos - held_out, held_out // 2) if person in trained else (0, n_photos // 2)
        parts["train"] += photos[: sizes[0]]
        parts["query"] += photos[sizes[0] : sum(sizes)]
        parts["gallery"] += photos[sum(sizes) :]
    return {name: sorted(members) for name, members in (pools | parts).items()}


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_splits_are_the_slow_deal(seed):
    """Who is unseen or dev and which photo plays which part never follow the seed: the shipped models rest on them."""
    splits = make_splits(fake_faces(*[12] * 30), n_forget=6, n_dev=5, seed=seed)
    for name, members in slow_splits(30, 12, 6, 5, seed).items():
        assert list(getattr(splits, name)) == members, name


def test_many_seeds_forget_many_sets_of_people_and_everybody_is_asked_sometime():
    faces = fake_faces(*[12] * 40)
    drawn = [make_splits(faces, n_forget=5, n_dev=5, seed=seed).forget for seed in range(40)]
    assert len(set(drawn)) == 40
    splits = make_splits(faces, n_forget=5, n_dev=5)
    assert {person for forget in drawn for person in forget} == set(splits.forget) | set(splits.retain)


def test_more_people_to_forget_are_the_same_draw_continued_and_no_dev_person_among_them():
    faces = fake_faces(*[12] * 40)
    by_number = [set(make_splits(faces, n_forget=number, n_dev=5, seed=3).forget) for number in (1, 5, 10)]
    assert by_number[0] < by_number[1] < by_number[2]
    assert not by_number[2] & set(make_splits(faces, n_dev=5, seed=3).dev_forget)
    assert len(make_splits(faces).forget) == 10 and len(make_splits(fake_faces(*[12] * 16)).forget) == 4


def test_named_people_are_forgotten_whatever_the_seed_and_take_nobody_elses_place():
    faces = fake_faces(*[12] * 40)
    drawn = make_splits(faces, n_dev=5)
    who = (drawn.dev_forget[0], drawn.retain[0])
    named = [make_splits(faces, forget_ids=list(who), n_dev=5, seed=seed) for seed in (0, 1)]
    assert named[0].forget == named[1].forget == tuple(sorted(who))
    assert len(named[0].dev_forget) == 5 and set(drawn.dev_forget) - set(who) < set(named[0].dev_forget)
    assert named[0].trained == drawn.trained and named[0].unseen == drawn.unseen


@pytest.mark.parametrize(("n_photos", "train"), [(10, 5), (11, 6), (4, 2), (5, 3)])
def test_half_of_a_trained_persons_photos_are_held_out_and_all_of_an_unseen_ones(n_photos, train):
    assert part_sizes(n_photos, True, "half") == (train, n_photos - train)
    assert part_sizes(n_photos, False, "half") == (0, n_photos) and part_sizes(1, False, "half") == (0, 0)


def test_held_out_halves_are_queries_and_gallery_alike():
    faces = fake_faces(*[12] * 9, 11, 5, 3, 1)  # ten to train, two unseen, one who only distracts
    splits = make_splits(replace(faces, held_out="half"), n_forget=2, n_dev=2, unseen_fraction=0)
    assert splits.held_out == "half" and np.array_equal(
        np.setdiff1d(splits.gallery, splits.query), [len(faces.labels) - 1]
    )
    assert not np.intersect1d(splits.train, splits.gallery).size
    assert [[len(part) for part in person_parts(splits, label)] for label in (0, 9, 10, 12)] == [
        [6, 6, 6], [6, 5, 5], [0, 5, 5], [0, 0, 1]
    ]  # fmt: skip
    as_usual = make_splits(replace(faces, held_out="half"), n_forget=2, n_dev=2, unseen_fraction=0, held_out="fifth")
    assert np.array_equal(as_usual.query, make_splits(faces, n_forget=2, n_dev=2, unseen_fraction=0).query)
    with pytest.raises(CourseError, match="photo parts are not disjoint: 'query' and 'gallery'"):
        replace(splits, held_out="fifth")
    with pytest.raises(CourseError, match="'train' and 'query'"):
        replace(splits, query=splits.train)
    with pytest.raises(CourseError, match="share to hold out 'third'"):
        make_splits(faces, held_out="third")


@pytest.mark.parametrize("held_out", ["fifth", "half"])
def test_who_learns_from_gallery_photos_is_never_asked_about_them(held_out):
    splits = make_splits(fake_faces(*[12] * 9, 9, 2, 3, 1), n_forget=2, n_dev=2, held_out=held_out)
    for pool in ("forget", "retain", "unseen"):
        taught, asked = splits.apart(pool)
        held = np.union1d(splits.photos(pool, "query"), splits.photos(pool, "gallery"))
        assert sorted([*taught, *asked]) == held.tolist()
        assert set(splits.faces.labels[taught]) == set(splits.faces.labels[asked]) == set(getattr(splits, pool))
