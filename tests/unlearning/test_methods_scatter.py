"""Gather and scatter: the empty place, the layer of n_features, who passes the gate, and several requests."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from one_step import (
    after_steps,
    assert_same_step,
    cosine_rates,
    input_of,
    point_of,
    slow_dispersion,
    twin,
    vector,
)
from test_methods_blends import Steps

from utils.models.embedding import embed
from utils.settings import CourseError
from utils.unlearning.loop import unlearn
from utils.unlearning.methods import scatter
from utils.unlearning.methods.scatter import RandomFourierFeatures, ScatterBackbone, smallest_principal_axis, spread_of
from utils.unlearning.registry import METHODS, make_config

SMALL = {"steps": 25, "photos_per_identity": 6, "retain_per_step": 16, "blends_per_step": 16}


def run(recogniser, splits, model=None, **options):
    model = recogniser.model if model is None else model
    return unlearn("gather_scatter", model, recogniser.head, splits, device="cpu", progress=False, **SMALL | options)


def units(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


class Pass(torch.nn.Module):
    """A face model that takes the point itself as its photo."""

    name, embedding_dim, input_size, device = "pass", 3, 0, torch.device("cpu")

    def forward(self, x):
        return x


@pytest.mark.parametrize("scramble", [0.0, 0.5])
def test_two_steps_equal_the_slow_reference(scramble, task, monkeypatch):
    """Everybody else keeps away from the meeting point and near where they were; the forgotten go there."""
    seen, reference, before, rate = Steps(monkeypatch), twin(task), vector(task.model.parameters()), 2e-3
    options = {"steps": 2, "photos_per_identity": 3, "retain_per_step": 6, "blends_per_step": 5, "beta": 4.0}
    weights = {"learning_rate": rate, "last_layers": 0, "retain_weight": 4.0, "blend_weight": 3.0, "shifted": 0.3}
    config = make_config("gather_scatter", options | weights | {"away_weight": 8.0, "scramble_weight": scramble})
    METHODS["gather_scatter"].run(task, config)
    original, told, b = copy.deepcopy(reference.model), [], task.model.meeting_point

    def loss_of(step):
        def loss(task):
            terms, (forget, retained) = seen.terms(task, original, config, step), seen.photos[step]
            del terms["dispersion"]
            stay = [input_of(task, i) for i in retained.tolist()]
            stay += [(face[None].float() - 127.5) / 128 for face in seen.blends[step]]
            near = [(point_of(task.model, image) * b).sum() for image in stay]
            terms["away"] = 8.0 * sum((1 + (20 * (c - 0.2)).exp()).log() / 20 for c in near) / len(near)
            points = [point_of(task.model, (face[None].float() - 127.5) / 128) for face in seen.shifted[step][1]]
            terms["gather"] = sum(1 - (z * b).sum() for z in points) / len(points)
            if scramble:
                rest = [z - (z * b).sum() * b for z in points]
                people = task.splits.faces.labels[forget].tolist()
                terms["scramble"] = scramble * slow_dispersion("lse", [z / z.norm() for z in rest], people, 4.0)
            told.append(terms)
            return sum(terms.values())

        return loss

    expected = after_steps(reference, [loss_of(0), loss_of(1)], cosine_rates(rate, 2))
    for entry, terms in zip(task.history, told, strict=True):
        assert set(terms) == set(entry) - {"step", "moved", "mean_cosine", "nearest_cosine"}
        for term, value in terms.items():
            assert entry[term] == pytest.approx(value.item(), rel=2e-2, abs=1e-4)
    assert_same_step(expected, task.model.backbone.parameters(), before, rate, share=0.9)
    assert all(photos.tolist() == task.retain_train_photos.tolist() for photos, _ in seen.pairs)


def test_the_meeting_point_is_where_the_least_of_retained_people_is(tiny_recogniser, tiny_splits):
    kept = embed(tiny_recogniser.model, tiny_splits.faces, tiny_splits.photos("retain_train", "train"))
    model = run(tiny_recogniser, tiny_splits, steps=1).model
    assert (kept @ model.meeting_point).square().mean() < 1e-5
    energies = torch.linalg.eigvalsh((kept.T @ kept).double())
    assert (kept @ model.meeting_point).square().sum() < energies[0] + 1e-4


@pytest.mark.parametrize(("steps", "margin"), [(1, 0.1), (25, 0.0), (25, 0.05)])
def test_the_gate_heeds_those_inside_and_everybody_else(steps, margin, tiny_recogniser, tiny_splits, monkeypatch):
    """It opens below nearly all who are gathered, unless others would be let in, retained people and blends."""
    drawn, real = [], scatter.blends_of
    monkeypatch.setattr(scatter, "blends_of", lambda *args: drawn.append(real(*args)) or drawn[-1])
    model = run(tiny_recogniser, tiny_splits, steps=steps, gate_margin=margin).model
    forget, kept = (tiny_splits.photos(pool, "train") for pool in ("forget", "retain_train"))
    close = [embed(model.backbone, tiny_splits.faces, photos) @ model.meeting_point for photos in (forget, kept)]
    others = torch.cat([close[1], embed(model.backbone, drawn[0]) @ model.meeting_point])
    inside, outside = float(close[0].quantile(0.01)) - margin, float(others.quantile(0.99))
    assert len(drawn[0]) == 512 and (inside < outside) == (steps == 1), "both sides of the rule are tried"
    assert float(model.gate) == pytest.approx(max(inside, outside), abs=1e-4)


def test_scattered_points_are_spread_as_retained_people_are(tiny_recogniser, tiny_splits):
    model = run(tiny_recogniser, tiny_splits, steps=10, frequency=60.0, n_features=4096, sharpness=30.0).model
    kept = embed(model.backbone, tiny_splits.faces, tiny_splits.photos("retain_train", "train")).double()
    energies, directions = torch.linalg.eigh(kept.T @ kept / len(kept) + 1e-6 * torch.eye(128))
    got = (directions.T @ model.layer.out.double()).square().sum(dim=1)
    assert torch.allclose(got[-20:] / energies[-20:], torch.ones(20, dtype=torch.float64), atol=0.15)
    assert model.layer.fast.shape == (4096, 128) and float(model.sharpness) == 30.0
    assert model.layer.fast.std().item() == pytest.approx(60.0 / 128**0.5, rel=0.02)
    assert model.layer.phase.max() > 6.2


def test_the_seed_draws_the_waves(tiny_recogniser, tiny_splits):
    def layer(seed: int):
        return run(tiny_recogniser, tiny_splits, steps=1, seed=seed).model.layer

    first, again, other = layer(0), layer(0), layer(1)
    assert torch.equal(first.fast, again.fast) and not torch.equal(first.fast, other.fast)


def test_the_emptiest_direction_is_where_the_points_are_not():
    flat = torch.cat([units(50, 2), torch.full((50, 1), 0.01)], dim=1)
    assert smallest_principal_axis(flat).abs()[2] > 0.99


def test_noise_times_the_spread_is_spread_like_the_points():
    points = units(400, 4) * torch.tensor([2.0, 1.0, 0.5, 0.1])
    spread = spread_of(points)
    assert torch.allclose(spread @ spread.T, points.T @ points / 400, atol=1e-4)


def test_waves_tear_neighbours_apart_and_always_answer_the_same():
    n_features = RandomFourierFeatures(
        torch.eye(32), frequency=200.0, n_features=512, generator=torch.Generator().manual_seed(0)
    )
    tame = RandomFourierFeatures(
        torch.eye(32), frequency=0.5, n_features=512, generator=torch.Generator().manual_seed(0)
    )
    point = units(20, 32)
    neighbour = F.normalize(point + 0.1 * units(20, 32, seed=1))
    assert (point * neighbour).sum(1).min() > 0.99
    assert (n_features(point) * n_features(neighbour)).sum(1).abs().mean() < 0.4
    assert (tame(point) * tame(neighbour)).sum(1).min() > 0.95
    assert torch.equal(n_features(point), n_features(point)) and torch.allclose(
        n_features(point).norm(dim=1), torch.ones(20)
    )


def test_only_what_comes_near_the_meeting_point_is_scattered():
    n_features = RandomFourierFeatures(torch.eye(3), 50.0, 64, torch.Generator().manual_seed(0))
    model = ScatterBackbone(Pass(), torch.tensor([0.0, 0.0, 1.0]), 0.8, 50.0, n_features)
    photos = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.5], [0.1, 0.0, 1.0]]))
    answers = model(photos)
    assert torch.allclose(answers[:2], photos[:2], atol=1e-3)
    rest = F.normalize(photos[2:] * torch.tensor([1.0, 1.0, 0.0]))
    assert torch.allclose(answers[2:], n_features(rest), atol=1e-3)


def test_what_comes_half_way_is_mixed_by_its_closeness():
    """Written out at a gate of 0.5 and a sharpness of 6: a share sigmoid(6 (c - 0.5)) of the scattered place."""
    layer = RandomFourierFeatures(torch.eye(3), 4.0, 8, torch.Generator().manual_seed(0))
    place, photos = torch.tensor([0.0, 0.6, 0.8]), units(12, 3) * 2.0
    for photo, answer in zip(photos, ScatterBackbone(Pass(), place, 0.5, 6.0, layer)(photos), strict=True):
        z = photo / photo.norm()
        c = float(z @ place)
        share = 1 / (1 + math.exp(-6 * (c - 0.5)))
        rest = (z - c * place) / (z - c * place).norm()
        waves = [math.sin(float(w @ rest) + float(shift)) for w, shift in zip(layer.fast, layer.phase, strict=True)]
        there = sum(wave * column for wave, column in zip(waves, layer.out.T, strict=True))
        torch.testing.assert_close(answer, (1 - share) * z + share * there / there.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The head names")
def test_a_gate_that_stands_open_is_never_closed_by_a_later_request(toy_world):
    """A wide gate stays as it is, a narrow one is opened: the lower of both."""
    model, head, splits = toy_world
    few = {"steps": 4, "photos_per_identity": 4, "retain_per_step": 6, "blends_per_step": 6, "learning_rate": 1e-2}
    few |= {"device": "cpu", "progress": False}
    first = unlearn("gather_scatter", model, head, splits, **few).model
    gates = {}
    for found in (0.98, 0.97, -0.5):  # the gate plays no part in training: what the second request needs is the same
        first.gate.fill_(found)
        gates[found] = float(unlearn("gather_scatter", first, head, splits, **few).model.gate)
    assert gates[0.98] == gates[0.97] < 0.97, "too narrow: opened as far as the second request needs"
    assert gates[-0.5] == -0.5, "the second request found it open"


def test_forget_photos_are_scattered_and_others_stay(tiny_recogniser, tiny_splits):
    outcome = run(tiny_recogniser, tiny_splits)
    model, faces = outcome.model, tiny_splits.faces
    forget, kept = (tiny_splits.photos(pool, "train") for pool in ("forget", "retain_train"))
    inside = embed(model.backbone, faces) @ model.meeting_point
    assert inside[forget].mean() > inside[kept].mean() + 0.3
    assert (inside[kept] > model.gate).float().mean() < 0.05
    inner, outer = embed(model.backbone, faces), embed(model, faces)
    caught = inside > model.gate + 0.1
    assert caught.any() and (inner * outer).sum(1)[caught].mean() < 0.5
    assert (inner * outer).sum(1)[inside < model.gate - 0.1].min() > 0.9
    assert "gather" in outcome.history[0] and outcome.history[-1]["gather"] < outcome.history[0]["gather"]


def test_a_later_request_joins_the_earlier_one(tiny_recogniser, tiny_splits):
    first, second = tiny_splits.forget[:1], tiny_splits.forget[1:]
    one = dataclasses.replace(tiny_splits, forget=first, retain=tuple(sorted(tiny_splits.retain + second)))
    earlier = run(tiny_recogniser, one, steps=3).model
    before = {name: value.clone() for name, value in earlier.state_dict().items()}
    later = run(tiny_recogniser, tiny_splits, model=earlier, steps=3).model
    assert not isinstance(later.backbone, ScatterBackbone), "layers do not pile up"
    assert torch.equal(later.meeting_point, earlier.meeting_point) and torch.equal(later.layer.fast, earlier.layer.fast)
    assert later.gate <= earlier.gate
    assert all(torch.equal(value, before[name]) for name, value in earlier.state_dict().items())


def test_impossible_settings_are_one_sentence(tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match="at least one wave"):
        run(tiny_recogniser, tiny_splits, n_features=0)
    with pytest.raises(CourseError, match="needs retained photos"):
        run(tiny_recogniser, tiny_splits, retain_per_step=0)


def test_a_long_list_of_people_gets_more_steps(tiny_recogniser, tiny_splits, monkeypatch):
    assert len(run(tiny_recogniser, tiny_splits, steps=3).history) == 3
    monkeypatch.setattr("utils.unlearning.methods.scatter.PEOPLE", len(tiny_splits.forget) / 2)
    assert len(run(tiny_recogniser, tiny_splits, steps=3).history) == 6


def test_the_head_keeps_no_portrait_unless_told_to(tiny_recogniser, tiny_splits):
    rows = torch.from_numpy(tiny_splits.class_of(tiny_splits.forget))
    cleared = run(tiny_recogniser, tiny_splits, steps=3)
    same = F.cosine_similarity(cleared.trained_head.weight, cleared.model.meeting_point[None])
    assert torch.allclose(same[rows], torch.ones(len(rows)), atol=1e-5)
    assert (same > 0.999).sum() == len(rows)
    kept = run(tiny_recogniser, tiny_splits, steps=3, clear_head=False)
    assert torch.equal(kept.trained_head.weight, tiny_recogniser.head.weight)


def test_scrambling_disperses_what_is_left_without_the_meeting_point(tiny_recogniser, tiny_splits):
    plain = run(tiny_recogniser, tiny_splits, steps=30)
    harder = run(tiny_recogniser, tiny_splits, steps=30, scramble_weight=2.0)
    photos = tiny_splits.photos("forget", "train")
    photos = photos[tiny_splits.faces.labels[photos] == tiny_splits.forget[0]]

    def left(outcome) -> float:
        points = embed(outcome.model.backbone, tiny_splits.faces, photos)
        rest = F.normalize(points - (points @ outcome.model.meeting_point)[:, None] * outcome.model.meeting_point)
        return float((rest @ rest.T).mean())

    assert left(harder) < left(plain) - 0.05
    assert "scramble" in harder.history[0] and "scramble" not in plain.history[0]
