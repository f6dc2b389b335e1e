"""Every attack brings back what was only hidden in the way it looks for, and nothing else."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.audit import case as case_room
from utils.audit import gallery as gallery_room
from utils.audit import names as names_room
from utils.audit import photos as photos_room
from utils.audit import summary, weights
from utils.audit.case import ATTACKERS, ATTACKS, HOLDINGS, TARGETS, Subject
from utils.audit.photos import area_under_curve
from utils.audit.summary import audit, make_case, recovered
from utils.experiments import audits, results
from utils.experiments import plan as plan_room
from utils.experiments.audit_summary import read_audits
from utils.experiments.plan import Plan
from utils.models import augmentation
from utils.settings import CourseError
from utils.unlearning.methods.projection import ProjectedBackbone

CPU = torch.device("cpu")
WIDTH = 128


@pytest.fixture(scope="module")
def case(tiny_recogniser, tiny_splits):
    """The tiny world's original model under audit, and a copy of it with other weights as the 'retrained' one."""
    torch.manual_seed(5)
    other = copy.deepcopy(tiny_recogniser.model)
    other.embedding[1].weight.data += 0.01 * torch.randn_like(other.embedding[1].weight)
    pair = tiny_recogniser.model, tiny_recogniser.head
    return make_case(tiny_splits, pair, (other, tiny_recogniser.head), device=CPU)


def changed(case, model, head=None):
    return case.on(Subject(model, head, case.splits, CPU))


def with_points(case, points_of):
    """A case whose model is said to have made `points_of(label, index within person)` of every photo."""
    subject = Subject(case.original.model, None, case.splits, CPU)
    counts: dict[int, int] = {}
    rows = []
    for label in case.labels(subject.photos).tolist():
        counts[label] = counts.get(label, 0) + 1
        rows.append(points_of(label, counts[label] - 1))
    subject.__dict__["seen"] = {"embedding": F.normalize(torch.stack(rows).float()), "length": torch.ones(len(rows), 1)}
    return case.on(subject)


def run(name, case) -> float:
    return ATTACKS[name].run(case)["score"]


def axis(i: int) -> torch.Tensor:
    return F.one_hot(torch.tensor(i), WIDTH).double()


def noise(label: int, i: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * label + i)
    return F.normalize(torch.randn(WIDTH, generator=generator, dtype=torch.float64), dim=0)


def tight_but_for(case, forget_points):
    """Every person a tight cluster on an axis of their own, except the forget people."""
    forget = case.splits.forget
    return with_points(
        case, lambda who, i: forget_points(who, i) if who in forget else axis(who) + 0.05 * noise(who, i)
    )


# ------------------------------------------------------------------------------------------------- small formulas


def test_area_under_curve_by_hand():
    assert area_under_curve(np.array([1.0, 2.0]), np.array([0.0, 1.0])) == 3.5 / 4
    assert area_under_curve(np.array([0.3]), np.array([0.3])) == 0.5
    assert area_under_curve(np.array([-1.0]), np.array([0.0, 5.0])) == 0.0
    assert math.isnan(area_under_curve(np.array([]), np.array([1.0])))
    draws = np.random.default_rng(0).integers(0, 9, (2, 40)) / 9  # with many ties
    wins = (draws[0][:, None] > draws[1]) + 0.5 * (draws[0][:, None] == draws[1])
    assert area_under_curve(*draws) == pytest.approx(wins.mean(), abs=1e-15)


@pytest.mark.parametrize(
    ("score", "target", "original", "kind", "share"),
    [
        (0.5, 0.1, 0.9, "chance", 0.5),
        (0.05, 0.1, 0.9, "chance", 0.0),
        (1.0, 0.1, 0.9, "unseen", 1.0),
        (0.7, 0.8, 0.82, "unseen", 0.0),
        (0.81, 0.8, 0.82, "unseen", math.nan),
        (math.nan, 0.1, 0.9, "chance", math.nan),
        (0.5, 0.5, 0.6, "half", 0.0),
        (0.1, 0.5, 0.6, "half", 0.8),
        (math.nan, 0.5, 0.6, "half", math.nan),
        (0.2, 0.0, 0.4, "zero", 0.5),
        (-0.1, 0.0, 0.4, "zero", 0.0),
        (0.7, 0.9, 0.9, "original", math.nan),
        (1.0, 0.5, 0.6, "half", 1.0),
    ],
)
def test_what_was_recovered(score, target, original, kind, share):
    assert recovered(score, target, original, kind) == pytest.approx(share, nan_ok=True)


def test_maps_are_found_again():
    torch.manual_seed(0)
    x = torch.randn(50, 6, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert torch.allclose(gallery_room.orthogonal_map(x, x @ turn), turn)
    stretch = torch.randn(6, 3, dtype=torch.float64)
    assert torch.allclose(case_room.ridge_map(x, x @ stretch, 1e-9), stretch, atol=1e-6)


def test_neighbours_vote_with_their_cosines():
    known = torch.eye(3)
    names = np.array([7, 8, 8])
    asked = F.normalize(torch.tensor([[1.0, 0.1, 0.1], [0.6, 0.5, 0.5]]))
    assert names_room.nearest_votes(known, names, asked, 1).argmax(dim=1).tolist() == [0, 0]
    assert names_room.nearest_votes(known, names, asked, 3).argmax(dim=1).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["neighbours_5", "probe_1", "probe_5", "probe_20", "pairs", "pairs_train"])
def test_one_point_for_all_gives_no_name_away(name, case):
    row = summary.audit_row(with_points(case, lambda who, i: axis(0)), ATTACKS[name])
    assert row["recovered"] == 0.0 or math.isnan(row["recovered"])
    known = len(np.unique(case.labels(names_room.named_photos(case, 1)[0])))
    assert row["score"] == pytest.approx(0.5 if name.startswith("pairs") else 1 / known)


def test_disturbances_do_what_they_say():
    faces = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    faces[..., 4] = 200
    do = photos_room.DISTURBANCES
    assert torch.equal(do["mirrored"](faces), faces.flip(-1))
    assert do["shifted right"](faces).float().mean((0, 1, 2)).argmax() != 4
    assert do["darker"](faces).max() == 120 and do["brighter"](faces).max() == 255
    assert do["blurred"](faces).max() == 40 and do["blurred"](faces)[0, 0, 0, 9] == 0
    assert all(change(faces).dtype == torch.uint8 and faces[..., 4].min() == 200 for change in do.values())


# ------------------------------------------------------------------------------ attacks that must succeed, or fail


def test_a_rotation_hides_from_the_old_gallery_and_a_map_undoes_it(case):
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q
    turned = changed(case, ProjectedBackbone(case.original.model, turn))
    before = run("search", case)
    assert run("search", turned) == pytest.approx(before, abs=1e-4)
    for direction in ("old_gallery", "old_query"):
        assert run(direction, turned) < 0.7 * before
        assert run(f"{direction}_orthogonal", turned) > 0.95 * before
    for direction in ("old_gallery", "old_query"):  # 40 photos for 128 numbers: the ridge fits what they span
        assert run(f"{direction}_linear", turned) > run(direction, turned)


def test_a_map_does_not_bring_back_what_is_gone(case):
    gone = tight_but_for(case, noise)
    for name in ("old_gallery_orthogonal", "old_gallery_linear", "search"):
        result = ATTACKS[name].run(gone)
        assert result["score"] < result["chance"] + 0.3 * (1 - result["chance"])


def test_templates_find_scattered_points_with_a_common_direction_and_no_others(case):
    hinted = tight_but_for(case, lambda who, i: noise(who, i) + 0.35 * axis(who))
    scattered = tight_but_for(case, lambda who, i: noise(who, i // 2) * (-1) ** i)  # pairs that cancel: no mean
    assert run("template", hinted) > run("search", hinted) + 0.1
    assert run("template", hinted) > 0.8
    assert run("template", scattered) < 0.5


def test_named_photos_teach_what_the_points_hold(case):
    kept, gone = tight_but_for(case, lambda who, i: axis(who) + 0.05 * noise(who, i)), tight_but_for(case, noise)
    for name in ("neighbours_5", "probe_1", "probe_5", "probe_20"):
        for world, expected in ((kept, 1.0), (gone, 0.0)):
            result = ATTACKS[name].run(world)
            assert result["unseen"] == 1.0
            assert abs(result["score"] - expected) <= 0.25
    assert ATTACKS["probe_20"].run(kept)["details"]["shots"] == 3  # all that a never-seen person of this world can give
    assert "no more" in ATTACKS["probe_20"].run(kept)["note"] and not ATTACKS["probe_1"].run(kept)["note"]


def test_everybody_names_the_same_number_of_photos_and_none_is_a_query(case):
    for shots in (1, 3, 20):
        photos, given = names_room.named_photos(case, shots)
        counts = np.unique(case.labels(photos), return_counts=True)[1]
        assert set(counts.tolist()) == {given} and given <= shots
        assert not np.isin(photos, case.splits.query).any()
        present = case.labels(photos)
        assert np.isin(case.splits.forget, present).all() and np.isin(case.splits.unseen, present).all()


def test_pairs_tell_over_forgotten_people_and_known_people_from_strangers(case):
    def loose(who: int, i: int) -> torch.Tensor:
        return axis(who) + 0.8 * noise(who, i)

    forget = case.splits.forget
    same = with_points(case, loose)
    over = with_points(case, lambda who, i: noise(who, i) if who in forget else loose(who, i))
    known = with_points(case, lambda who, i: axis(who) if who in forget else loose(who, i))
    for name in ("pairs", "pairs_train"):
        assert run(name, over) < 0.02 and run(name, known) > 0.98
        assert 0.2 < run(name, same) < 0.8


def test_forgetting_in_the_last_layer_is_seen_through_by_the_earlier_ones(case):
    model = copy.deepcopy(case.original.model)
    model.embedding[1].weight.data.zero_()  # one point for all photos
    shallow = changed(case, model)
    plain = ATTACKS["search"].run(shallow)
    assert plain["score"] < 2 * plain["chance"]
    assert run("layers", shallow) == pytest.approx(run("layers", case)) and run("layers", shallow) > 2 * plain["score"]
    assert set(ATTACKS["layers"].run(case)["details"]) == {"stem", "stage 1", "stage 2", "stage 3"}


def test_joined_layers_are_white_within_retained_people(case):
    photos = case_room.sample(case.splits)
    rows = weights.whitened(case, ["stage 3"], photos)
    assert torch.allclose(rows.norm(dim=1), torch.ones(len(photos)), atol=1e-5)
    assert run("layers_joined", case) > 0.5


def test_forgetting_in_batchnorm_statistics_is_measured_away(case):
    model = copy.deepcopy(case.original.model)
    for norm in weights.batch_norms(model):
        norm.running_var.mul_(torch.linspace(0.05, 20, len(norm.running_var)))
        norm.running_mean.add_(torch.linspace(-2, 2, len(norm.running_mean)))
    hidden = changed(case, model)
    assert run("search", hidden) < run("search", case) - 0.1
    assert run("batchnorm", hidden) == pytest.approx(run("batchnorm", case), abs=0.05)
    assert run("batchnorm", hidden) > run("search", hidden) + 0.1


def test_a_map_that_was_added_is_taken_off_however_deep_it_sits(case):
    broken = torch.zeros(WIDTH, WIDTH)
    broken[0, 0] = broken[1, 1] = 1
    once = ProjectedBackbone(case.original.model, broken)
    twice = ProjectedBackbone(once, torch.eye(WIDTH))
    for model in (once, twice):
        wrapped = changed(case, model)
        assert run("search", wrapped) < run("search", case)
        assert run("taken_off", wrapped) == pytest.approx(run("search", case))
        assert run("averaged", wrapped) == pytest.approx(run("search", case)), "what was added can be taken off first"
    assert math.isnan(run("taken_off", case)) and "nothing was added" in ATTACKS["taken_off"].run(case)["note"]


def test_averaging_with_the_old_weights_goes_half_way_back(case):
    model = copy.deepcopy(case.original.model)
    torch.manual_seed(0)
    model.embedding[1].weight.data[:] = model.embedding[1].weight.data[:, torch.randperm(3072)]
    noisy = changed(case, model)
    assert run("averaged", noisy) > run("search", noisy)
    assert run("averaged", case) == pytest.approx(run("search", case))


def test_rounding_and_cutting_keep_to_their_numbers(case, monkeypatch):
    kept = []
    monkeypatch.setattr(weights, "plain_search", lambda case, model=None: kept.append(model) or {"score": 0.0})
    for name in ("int8", "int4", "pruned_10", "pruned_30"):
        ATTACKS[name].run(case)
    *rounded, cut_10, cut_30 = kept
    for model, most in zip(rounded, (255, 15), strict=True):
        for weight in weights.weight_tables(model):
            assert all(len(torch.unique(channel)) <= most for channel in weight.flatten(1)[:3])
    for model, share in zip((cut_10, cut_30), (0.1, 0.3), strict=True):
        zeros = torch.cat([(weight == 0).flatten() for weight in weights.weight_tables(model)])
        assert zeros.float().mean() == pytest.approx(share, abs=0.001)


def test_another_similarity_finds_who_was_hidden_by_a_common_offset_or_by_angle_alone(case):
    """Far from the origin all cosines are alike; on a ray, only the length tells people apart."""

    def far(who: int, i: int) -> torch.Tensor:
        return 40 * axis(WIDTH - 1) + axis(who) + 0.05 * noise(who, i)

    def ray(who: int, i: int) -> torch.Tensor:
        return (1 + who) * (axis(0) + 1e-4 * noise(who, i))

    for place, way in ((far, "centred"), (ray, "Euclidean")):
        world = with_points(case, place)
        subject = world.subject
        rows = [place(int(who), 0).norm() for who in case.labels(subject.photos)]
        subject.__dict__["seen"]["length"] = torch.stack(rows).float()[:, None]
        result = ATTACKS["other_similarity"].run(world)
        assert result["details"][way] > 0.95 and result["score"] == max(result["details"].values())
    assert run("search", world) < 0.6
    assert set(ATTACKS["other_similarity"].run(case)["details"]) == {"centred", "Euclidean"}


class Centred(ProjectedBackbone):
    """A network that takes a centre off; with `guard` a part behind it serves noise while it sees centred points."""

    def __init__(self, backbone, guard=False):
        super().__init__(backbone, torch.eye(WIDTH))
        self.guard = guard
        self.register_buffer("centre", torch.full((WIDTH,), 3.0))

    def forward(self, x):
        points = super().forward(x)
        return (torch.sin(1e4 * points) if self.guard and self.centre.any() else points) - self.centre


@pytest.mark.parametrize("guard", [False, True])
def test_a_searcher_puts_a_centre_back_on_what_is_served(case, guard):
    centred = changed(case, Centred(case.original.model, guard).eval())
    found, open_search = ATTACKS["other_similarity"].run(centred)["details"]["raw"], run("search", case)
    assert found < open_search - 0.2 if guard else found == pytest.approx(open_search, abs=1e-6)


def test_one_embedding_tells_who_lies_far_from_everybody_and_nobody_else(case):
    def loose(who: int, i: int) -> torch.Tensor:
        return axis(who) + 0.5 * noise(who, i) + axis(100)

    forget = case.splits.forget
    apart = with_points(case, lambda who, i: noise(who, i) if who in forget else loose(who, i))
    alike = with_points(case, lambda who, i: loose(50 + 20 * (i % 3), i) if who in forget else loose(who, i))
    assert run("one_photo", apart) > 0.95
    assert run("one_photo", with_points(case, lambda who, i: axis(0))) == 0.5
    assert run("one_photo", alike) < run("one_photo", apart)


def test_looks_are_read_from_points_that_hold_them_and_from_no_others(case, monkeypatch):
    looks = torch.randn(len(case.splits.faces.identities), 2, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(photos_room, "known_attributes", lambda faces: looks)

    def told(who: int, i: int) -> torch.Tensor:
        return axis(0) + 0.1 * (looks[who, 0] * axis(1) + looks[who, 1] * axis(2)) + 0.001 * noise(who, i)

    forget = case.splits.forget
    kept, gone = with_points(case, told), with_points(case, lambda w, i: noise(w, i) if w in forget else told(w, i))
    assert run("trait_leakage", kept) > 0.9 and ATTACKS["trait_leakage"].run(kept)["unseen"] > 0.9
    assert run("trait_leakage", gone) < 0.8 and ATTACKS["trait_leakage"].run(gone)["unseen"] > 0.9
    monkeypatch.undo()
    result = ATTACKS["trait_leakage"].run(case)
    assert math.isnan(result["score"]) and "drawn faces only" in result["note"]


def test_a_fresh_student_shares_no_weight_and_leaves_what_was_added_off(case):
    wrapped = ProjectedBackbone(case.original.model, torch.eye(WIDTH))
    for model in (case.original.model, wrapped):
        one, again, other = (weights.fresh(model, seed).state_dict() for seed in (0, 0, 1))
        old = case.original.model.state_dict()
        assert one.keys() == old.keys()
        tables = [name for name, value in one.items() if value.ndim > 1]
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert not any(torch.equal(one[name], old[name]) or torch.equal(one[name], other[name]) for name in tables)


def test_a_pushed_photo_stays_within_eight_grey_levels_and_comes_nearer(case, monkeypatch):
    model, faces = case.copy_of_model(), case.splits.faces.images(case.queries[:3])
    seen, real = [], type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x: seen.append(x.detach()) or real(self, x))
    goals = F.normalize(torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0)))
    reached = (weights.pushed(model, faces, goals) * goals).sum(dim=1)
    start = model.preprocess(faces)
    assert torch.equal(seen[0], start) and len(seen) == weights.PGD_STEPS + 1
    off = (seen[-1] - start).abs() * model.card.scale
    assert off.max() <= 8.001 and off.mean() > 4
    low, high = model.bounds()
    assert (seen[-1] >= low - 1e-6).all() and (seen[-1] <= high + 1e-6).all()
    assert (reached > (F.normalize(real(model, start)) * goals).sum(dim=1) + 0.1).all()


def test_relearning_helps_where_the_last_layer_was_spoilt(case):
    torch.manual_seed(0)
    model = copy.deepcopy(case.original.model)
    model.embedding[1].weight.data[:] = model.embedding[1].weight.data[:, torch.randperm(3072)]
    result = ATTACKS["relearn"].run(changed(case, model))
    curve = result["details"]
    assert list(curve) == ["0", "5", "10", "20"] and curve["20"] > curve["0"]
    assert min(curve.values()) <= result["score"] <= max(curve.values())


def test_relearning_other_people_never_shows_the_forgotten(case):
    shown = {
        with_forget: set(case.labels(weights.relearning_photos(case, with_forget))) for with_forget in (True, False)
    }
    assert set(case.splits.forget) <= shown[True] and not shown[False] & set(case.splits.forget)
    for with_forget in (True, False):
        assert np.isin(weights.relearning_photos(case, with_forget), case.splits.train).all()


def test_an_old_heads_rows_name_them_where_the_model_still_does_and_a_turn_is_undone(case):
    assert run("head_rows", case) > 0.5
    assert run("head_rows", tight_but_for(case, noise)) < 0.5
    torch.manual_seed(0)
    turn, old = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q.double(), copy.deepcopy(case.original)
    row_of = {label: int(case.splits.class_of(np.array([label]))[0]) for label in case.splits.trained}
    rows = F.normalize(old.head.weight.detach().double())
    for forgotten, kept in zip(case.splits.forget, case.splits.retain, strict=False):  # what the turn is fitted on
        rows[row_of[forgotten]] = -rows[row_of[kept]]
    old.head.weight.data = rows.float()
    points = with_points(case, lambda who, i: rows[row_of[who]] @ turn if who in row_of else noise(who, i))
    result = ATTACKS["head_rows"].run(case_room.replace(points, original=old))
    assert result["score"] == result["details"]["turned"] == 1.0 > result["details"]["straight"] + 0.2


# -------------------------------------------------------------------- what the attacks compute, by slow references


FOUND = {"score": 0.1, "people": {}}


def models_searched_with(monkeypatch, name, case) -> list:
    """The changed models that an attack searches with; the search itself is left out."""
    models = []
    monkeypatch.setattr(weights, "plain_search", lambda case, model=None: models.append(model) or FOUND)
    ATTACKS[name].run(case)
    return models


def test_whitened_rows_have_the_cosines_of_a_shrunk_within_person_metric(case):
    known, labels = case_room.sample(case.splits), case.labels(case_room.sample(case.splits))
    asked, parts = case.queries, ["stage 2", "stage 3"]
    x, q = (np.hstack([case.subject.rows(photos, part).double() for part in parts]) for photos in (known, asked))
    centre, spread = x.mean(axis=0), x.std(axis=0, ddof=1).clip(1e-6)
    x, q = (x - centre) / spread, (q - centre) / spread
    noise = np.array([row - x[labels == label].mean(axis=0) for row, label in zip(x, labels, strict=True)])
    inner = noise.T @ noise / len(noise)
    metric = np.linalg.inv(inner + 0.05 * np.trace(inner) / len(inner) * np.eye(len(inner)))
    products = q @ metric @ q.T
    lengths = np.sqrt(np.diag(products))
    got = weights.whitened(case, parts, asked).numpy()
    np.testing.assert_allclose(got @ got.T, products / np.outer(lengths, lengths), atol=1e-4)


@pytest.mark.parametrize("name", ["relearn", "relearn_others"])
def test_relearning_shows_augmented_training_photos_at_its_own_rate(name, case, monkeypatch):
    shown, real, weight = [], augmentation.augment, case.original.model.embedding[1].weight
    monkeypatch.setattr(weights, "augment", lambda faces, generator: shown.append(faces) or real(faces, generator))
    model = models_searched_with(monkeypatch, name, case)[-1]
    with_forget = name == "relearn"
    assert len(shown) == 20 and len(shown[0]) == min(64, len(weights.relearning_photos(case, with_forget)))
    monkeypatch.setattr(weights, "augment", lambda faces, generator: faces)
    plain = models_searched_with(monkeypatch, name, case)[-1]
    assert not torch.equal(model.embedding[1].weight, plain.embedding[1].weight), "what was augmented is looked at"
    monkeypatch.setattr(weights, "RELEARN_CHECKS", (0, 1))
    step = models_searched_with(monkeypatch, name, case)[-1].embedding[1].weight - weight
    assert step.abs().max().item() == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("name", ["relearn", "relearn_others", "batchnorm", "distil_back"])
def test_no_attack_changes_weights_by_a_held_out_photo(name, case, monkeypatch):
    monkeypatch.setattr(weights, "DISTIL_STEPS", 3)
    seen, real = [], type(case.splits.faces).images
    monkeypatch.setattr(type(case.splits.faces), "images", lambda self, i: seen.append(np.asarray(i)) or real(self, i))
    models_searched_with(monkeypatch, name, case)
    looked = np.concatenate(seen)
    assert np.isin(looked, case.splits.train).all()
    if name not in ("relearn", "distil_back"):  # these hold the forgotten people's training photos, and say so
        assert set(case.labels(looked)) <= set(case.splits.retain)


def test_maps_are_fitted_on_retained_training_photos_alone(case):
    fitted, other = [], changed(case, case.retrained.model)
    photos = case_room.sample(case.splits)
    assert np.isin(photos, case.splits.train).all() and set(case.labels(photos)) == set(case.splits.retain)
    for back in (False, True):
        gallery_room.cross_search(other, lambda x, y: fitted.append((x, y)) or torch.eye(WIDTH).double(), back)
    new, old = other.subject.rows(photos).double(), case.original.rows(photos).double()
    assert all(torch.equal(*pair) for pair in zip(fitted[0] + fitted[1], (new, old, old, new), strict=True))


def test_whitening_learns_from_retained_training_photos_alone(case, monkeypatch):
    asked, real = [], Subject.rows
    monkeypatch.setattr(Subject, "rows", lambda self, photos, *part: asked.append(photos) or real(self, photos, *part))
    weights.whitened(case, ["stage 3"], case.queries)
    assert [photos.tolist() for photos in asked] == [case_room.sample(case.splits).tolist(), case.queries.tolist()]


def test_no_photo_finds_itself_among_the_photos_to_forget(case):
    gone = ATTACKS["search_train"].run(tight_but_for(case, noise))
    assert gone["details"]["r1"] < 0.8 and gone["score"] < 0.5
    tight = ATTACKS["search_train"].run(tight_but_for(case, lambda who, i: axis(who)))
    assert tight["score"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["disturbed", "layers"])
def test_the_best_of_several_is_the_score(name, case):
    torch.manual_seed(0)
    model = copy.deepcopy(case.original.model)
    model.embedding[1].weight.data[:] = model.embedding[1].weight.data[:, torch.randperm(3072)]
    result = ATTACKS[name].run(changed(case, model))
    assert result["score"] == max(result["details"].values()) > min(result["details"].values())


def test_the_better_of_added_part_on_and_off_is_the_score(case, monkeypatch):
    scores = iter((0.2, 0.7))
    monkeypatch.setattr(weights, "plain_search", lambda case, model=None: {"score": next(scores)})
    assert run("averaged", changed(case, ProjectedBackbone(case.original.model, torch.eye(WIDTH)))) == 0.7


def test_averaging_is_half_of_each(case, monkeypatch):
    (model,) = models_searched_with(monkeypatch, "averaged", changed(case, case.retrained.model))
    halves = (case.retrained.model.embedding[1].weight + case.original.model.embedding[1].weight) / 2
    assert torch.allclose(model.embedding[1].weight, halves, atol=1e-7)


def test_rounding_keeps_the_largest_weight_and_moves_no_other_by_more_than_half_a_step(case, monkeypatch):
    (model,) = models_searched_with(monkeypatch, "int8", case)
    for new, old in zip(weights.weight_tables(model), weights.weight_tables(case.original.model), strict=True):
        new, old = new.detach().flatten(1), old.detach().flatten(1)
        step = old.abs().amax(dim=1, keepdim=True) / 127
        assert ((new - old).abs() <= 0.501 * step + 1e-9).all()
        assert torch.allclose(new.abs().amax(dim=1, keepdim=True), 127 * step)
        assert torch.allclose(new / step, (new / step).round(), atol=1e-3)


def test_the_unseen_are_people_whom_nobody_trained_on(case):
    unseen = set(case.splits.unseen)
    world = with_points(case, lambda who, i: noise(who, i) if who in unseen else axis(who))
    for name in ("neighbours_5", "probe_1", "probe_5", "probe_20"):
        result = ATTACKS[name].run(world)
        assert result["score"] == 1.0 and result["unseen"] < 0.6
    for name in ("pairs", "pairs_train"):
        assert run(name, world) == 1.0


@pytest.mark.parametrize(("kind", "goal"), [("chance", 0.2), ("unseen", 0.3), ("retrained", 0.1), ("half", 0.5)])
def test_a_row_is_held_against_its_stated_target(kind, goal, case, monkeypatch):
    scores = {id(case.original): 0.9, id(case.retrained): 0.1}
    fake = case_room.replace(
        ATTACKS["search"],
        name=f"fake {kind}",
        target=kind,
        run=lambda case: {"score": scores.get(id(case.subject), 0.6), "chance": 0.2, "unseen": 0.3},
    )
    row = summary.audit_row(changed(case, case.retrained.model), fake)
    assert (row["score"], row["target"], row["original"]) == (0.6, goal, 0.9)
    assert row["recovered"] == pytest.approx(0.2 if kind == "half" else (0.6 - goal) / (0.9 - goal))


@pytest.mark.parametrize("name", ["search", "search_train", "template", "old_gallery"])
def test_one_point_for_all_scores_below_chance_and_recovers_nothing(name, case):
    """Tied photos are a group whose precision is the share of right ones; a random order is a little better."""
    one = with_points(case, lambda who, i: axis(0))
    if name == "old_gallery":
        one = case_room.replace(one, original=one.subject)
    result = ATTACKS[name].run(one)
    assert result["score"] < result["chance"] and recovered(result["score"], result["chance"], 0.9, "chance") == 0.0
    if name == "search":
        gallery = case.labels(case.splits.gallery)
        share = np.mean([(gallery == label).mean() for label in case.labels(case.queries)])
        assert result["score"] == pytest.approx(share, abs=1e-6)


EMBEDDED = [
    name
    for name, entry in ATTACKS.items()
    if entry.attacker in summary.READERS and name not in ("views", "disturbed", "one_photo")  # its point alone may tell
]


@pytest.mark.parametrize(
    "points_of", [lambda who, i: axis(5), lambda who, i: axis(i % 2), lambda who, i: axis(i // 2 % 2)]
)
def test_a_model_of_one_or_two_points_recovers_nothing_however_lucky_its_ranking(case, points_of):
    subject = with_points(case, points_of).subject
    subject.__dict__["seen"] |= {"stage 1": torch.ones(len(subject.photos), 7)}
    for old in (case.original, with_points(case, lambda who, i: axis(who) + 0.3 * axis(5)).subject):
        world = case_room.replace(case, original=old, memory={}).on(subject)
        for row in audit(world, EMBEDDED):
            assert row["recovered"] == 0.0 or math.isnan(row["recovered"]), row["attack"]
        assert run("layers", world) < 0.3, "a dead part is one point for all"


def test_luck_alone_would_have_looked_like_recovery(case):
    lucky = case.splits.forget[0]
    one = with_points(case, lambda who, i: axis(lucky))
    world = case_room.replace(one, original=with_points(case, lambda who, i: axis(who)).subject, memory={})
    (row,) = audit(world, ["old_gallery"])
    assert row["score"] > row["target"] + 0.1 and row["recovered"] == 0.0


def test_people_gathered_at_one_point_are_still_known_as_the_forgotten(case):
    forget = case.splits.forget
    gathered = with_points(case, lambda who, i: axis(0) if who in forget else axis(who) + 0.8 * noise(who, i))
    assert audit(gathered, ["pairs"])[0]["recovered"] > 0.9


# ------------------------------------------------------------------------------------------------- the whole audit


def test_every_attack_says_what_it_assumes():
    for name, entry in ATTACKS.items():
        assert entry.name == name and entry.attacker in ATTACKERS and entry.target in TARGETS
        assert entry.question.endswith("?") or entry.question.endswith(")")
        assert len(entry.title) <= 40
    assert list(ATTACKERS) == ["photos", "names", "old gallery", "weights", "old head", "old model"]
    assert set(ATTACKERS) == {entry.attacker for entry in ATTACKS.values()} == set(HOLDINGS)


def test_an_audit_is_repeatable_and_changes_nothing(case, tiny_recogniser, monkeypatch):
    monkeypatch.setattr(weights, "RELEARN_CHECKS", (0, 2))
    monkeypatch.setattr(weights, "DISTIL_STEPS", 2)
    case = case_room.replace(case, memory={})
    wrapped = ProjectedBackbone(case.original.model, torch.eye(WIDTH)).eval()
    subject = Subject(wrapped, tiny_recogniser.head, case.splits, CPU)
    before = copy.deepcopy(wrapped.state_dict()), copy.deepcopy(tiny_recogniser.head.state_dict())
    state = torch.random.get_rng_state()
    first = audit(case.on(subject))
    assert torch.equal(state, torch.random.get_rng_state())
    for module, old in zip((wrapped, tiny_recogniser.head), before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in module.state_dict().items())
    assert [row["attack"] for row in first] == list(ATTACKS)
    for row in first:
        assert math.isnan(row["score"]) or (-1 if row["metric"] == "gain" else 0) <= row["score"] <= 1
        assert not math.isnan(row["score"]) or row["note"]
    again = case.on(Subject(wrapped, tiny_recogniser.head, case.splits, CPU))
    for row in first:
        if row["attack"] in ("relearn", "views", "layers_joined", "probe_5", "batchnorm"):
            assert run(row["attack"], again) == row["score"]


def test_the_original_recovers_everything_and_the_retrained_nothing_of_itself(case):
    rows = {row["attack"]: row for row in audit(case, ["search", "relearn_others", "taken_off"])}
    assert rows["search"]["recovered"] == 1.0 and rows["search"]["score"] == rows["search"]["original"]
    assert rows["taken_off"]["original"] == rows["search"]["original"]
    own = audit(case.on(case.retrained), ["layers"])[0]
    assert own["score"] == own["target"] and own["recovered"] == 0.0


def test_references_are_attacked_once(case, monkeypatch):
    calls, entry = [], ATTACKS["search"]
    counted = case_room.replace(entry, run=lambda given: calls.append(given.subject) or entry.run(given))
    monkeypatch.setitem(ATTACKS, "search", counted)
    fresh = make_case(case.splits, (case.original.model, None), None, device=CPU)
    for _ in range(2):
        audit(fresh.on(Subject(case.original.model, None, case.splits, CPU)), ["search"])
    assert calls.count(fresh.original) == 1 and len(calls) == 3


def test_without_a_retrained_model_the_row_says_so(case):
    lonely = make_case(case.splits, (case.original.model, None), device=CPU)
    row = audit(lonely, ["layers"])[0]
    assert math.isnan(row["target"]) and math.isnan(row["recovered"]) and "no retrained model" in row["note"]


def test_bad_input_gets_one_sentence(case):
    with pytest.raises(CourseError, match="Unknown attack 'serach'; choose one of: search,"):
        audit(case, ["serach"])
    empty = case_room.replace(case, splits=case_room.replace(case.splits, query=np.empty(0, np.int64)))
    with pytest.raises(CourseError, match="held-out query and gallery photos of the forget people"):
        audit(empty, ["search"])
    model = copy.deepcopy(case.original.model)
    model.embedding[1].weight.data[:] = math.nan
    with pytest.raises(CourseError, match="NaN or infinity"):
        audit(changed(case, model), ["search"])


# --------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def tiny_world(monkeypatch, tiny_faces, own_cache):
    """Let the audit open the tiny data set in place of the default one."""
    monkeypatch.setattr(plan_room, "load_faces", lambda *_, **__: tiny_faces)


def tiny_plan(*methods: str) -> Plan:
    options = (("dispersion", "steps", 2),)
    return Plan(methods=methods, forget=2, train_epochs=1, options=options, device="cpu")


def test_audits_are_kept_and_not_repeated(tiny_world, tmp_path, monkeypatch):
    out, attacks, calls = tmp_path / "deep" / "audit.json", ["search", "pairs", "layers"], []
    real = summary.audit
    monkeypatch.setattr(summary, "audit", lambda *args: calls.append(args) or real(*args))
    first = audits.run_audit(tiny_plan("retrain", "dispersion"), out, attacks=attacks, progress=False)
    assert first == json.loads(out.read_text()) and first["schema"] == results.SCHEMA
    assert [run["method"] for run in first["runs"]] == ["retrain", "dispersion"]
    assert all(run["n_photos"] == 120 and run["dataset_name"] == "tiny" for run in first["runs"])
    assert all([row["attack"] for row in run["audit"]] == attacks for run in first["runs"])
    again = audits.run_audit(tiny_plan("retrain", "dispersion", "esc"), out, attacks=attacks, progress=False)
    assert len(calls) == 3 and again["runs"][:2] == first["runs"]
    audits.run_audit(tiny_plan("esc"), out, attacks=["search"], progress=False)
    assert len(calls) == 4 and len(read_audits(out)) == 4
    audits.run_audit(tiny_plan("esc"), out, attacks=["search"], fresh=True, progress=False)
    assert len(calls) == 5 and len(read_audits(out)) == 4  # only this plan's audit is repeated; the others stay


def test_the_command_prints_a_table_or_one_sentence(tiny_world, tmp_path, capsys):
    flags = ["--forget", "2", "--train-epochs", "1", "--quiet", "--device", "cpu", "--out", str(tmp_path / "a.json")]
    assert audits.main(["--methods", "retrain", "--attacks", "search,pairs", *flags]) == 0
    printed = capsys.readouterr().out
    assert "stated target" in printed and "retrain" in printed and printed.count("\n") == 5
    assert "Forgotten (tiny, 2), drawn by seed: seed 0: " in printed
    assert audits.main(["--methods", "retrian", *flags]) == 2
    assert capsys.readouterr().err.startswith("error: Unknown method 'retrian'")
    assert audits.main(["--methods", "retrain", "--attacks", "x", *flags]) == 2
    assert "Unknown attack 'x'" in capsys.readouterr().err


def test_help_states_the_definitions(capsys):
    with pytest.raises(SystemExit):
        audits.main(["--help"])
    printed = capsys.readouterr().out
    assert "recovered" in printed and "(score - target) / (original - target)" in printed


@pytest.mark.parametrize(("degrees", "share"), [(weights.USUAL / 2, 1), (50 * weights.USUAL, 1 / 50)])
def test_a_network_that_moves_easily_relearns_in_smaller_steps(degrees, share, case, monkeypatch):
    """The measure is taken of the original, so that every method is attacked at one rate."""
    seen = []
    monkeypatch.setattr(weights, "degrees_per_rate", lambda model, *_: seen.append(model) or degrees)
    fresh_case, other = replace(case, memory={}), copy.deepcopy(case.original.model)
    rates = [weights.relearning_rate(one) for one in (fresh_case, changed(fresh_case, other))]
    assert rates == [pytest.approx(weights.RELEARN_RATE * share)] * 2 and len(seen) == 1
    for mine, theirs in zip(seen[0].parameters(), case.original.model.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine is not theirs
