"""Dispersion methods: two updates against a slow reference, so that both sides of the loss weigh what they should."""

from __future__ import annotations

import copy

import pytest
from one_step import (
    after_steps,
    assert_same_step,
    cosine_rates,
    input_of,
    moved_from,
    point_of,
    slow_dispersion,
    twin,
    vector,
    watch_batches,
)

from utils.settings import CourseError
from utils.unlearning.loop import unlearn
from utils.unlearning.methods import dispersal
from utils.unlearning.registry import METHODS, check_data, make_config

KINDS = {"dispersion_uniform": "uniform", "dispersion_hard": "hard", "dispersion": "lse"}
RATE = 2e-3
SMALL = {"steps": 2, "photos_per_identity": 3, "retain_per_step": 6, "learning_rate": RATE}
WEIGHTS, PULL = {"dispersion_weight": 0.5, "retain_weight": 4.0}, 1.5


@pytest.mark.parametrize("retain", [0, 6])
@pytest.mark.parametrize("name", KINDS)
def test_two_steps_equal_the_slow_reference(name, retain, task, monkeypatch):
    """Two, because in the first one everybody who stays lies where the original puts them, and nothing pulls."""
    photos, reference, before = watch_batches(monkeypatch), twin(task), vector(task.model.parameters())
    beta, asked = {"beta": 4.0} if name == "dispersion" else {}, []
    monkeypatch.setattr(dispersal, "anchor_pull", lambda task, photos: asked.append(photos.tolist()) or PULL)
    METHODS[name].run(task, make_config(name, SMALL | WEIGHTS | beta | {"retain_per_step": retain}))
    assert asked == ([task.retain_train_photos.tolist()] if retain else [])
    original, told = copy.deepcopy(reference.model), []

    def loss_of(forget, retained):
        def loss(task):
            people = task.splits.faces.labels[forget].tolist()
            points = [point_of(task.model, input_of(task, i)) for i in forget.tolist()]
            terms = {"dispersion": 0.5 * slow_dispersion(KINDS[name], points, people, beta=4.0)}
            if retain:
                images = [input_of(task, i) for i in retained.tolist()]
                terms["retain"] = PULL * 4.0 * moved_from(original, task.model, images)
            told.append(terms)
            return sum(terms.values())

        return loss

    expected = after_steps(reference, [loss_of(*step) for step in photos], cosine_rates(RATE, 2))
    assert len(photos) == 2 and (not retain or float(told[1]["retain"].detach()) > 0.05), "the second step pulls back"
    for entry, terms in zip(task.history, told, strict=True):
        for term, value in terms.items():
            assert entry[term] == pytest.approx(value.item(), rel=2e-2, abs=1e-4)
    assert_same_step(expected, task.model.parameters(), before, RATE, share=0.9)


@pytest.mark.parametrize("kind", ["koleo", "riesz"])
def test_another_loss_of_the_family_takes_the_place(kind, task, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "utils.unlearning.methods.dispersal.dispersion_loss",
        lambda kind, z, y, **options: asked.append((kind, options)) or (z @ z.T).mean(),
    )
    METHODS["dispersion"].run(task, make_config("dispersion", SMALL | {"steps": 1, "kind": kind}))
    assert asked == [(kind, {})]


@pytest.mark.parametrize("name", KINDS)
def test_the_seed_draws_the_photos(name, tiny_recogniser, tiny_splits, monkeypatch):
    seen = watch_batches(monkeypatch)
    for seed in (0, 0, 1):
        unlearn(
            name, tiny_recogniser.model, tiny_recogniser.head, tiny_splits,
            seed=seed, device="cpu", progress=False, **SMALL | {"steps": 1},
        )  # fmt: skip
    first, again, other = ([photos.tolist() for photos in step] for step in seen)
    assert first == again and first[0] != other[0] and first[1] != other[1]


ALONE = {"dispersion_uniform_alone": "uniform", "dispersion_hard_alone": "hard"}


@pytest.mark.parametrize("name", ALONE)
def test_the_papers_setting_sees_forget_photos_and_nothing_else(name, task, monkeypatch):
    photos, reference, before = watch_batches(monkeypatch), twin(task), vector(task.model.parameters())
    METHODS[name].run(task, make_config(name, {"steps": 2, "photos_per_identity": 3, "learning_rate": RATE}))

    def loss_of(forget):
        def loss(task):
            points = [point_of(task.model, input_of(task, i)) for i in forget.tolist()]
            return slow_dispersion(ALONE[name], points, task.splits.faces.labels[forget].tolist())

        return loss

    expected = after_steps(reference, [loss_of(forget) for forget, _ in photos], cosine_rates(RATE, 2))
    assert_same_step(expected, task.model.parameters(), before, RATE, share=0.9)
    assert all(len(retained) == 0 for _, retained in photos) and task.images_processed == sum(len(f) for f, _ in photos)
    assert METHODS[name].needs == ("forget",) and METHODS[name].optional == () and METHODS[name].kind == "weights"
    with pytest.raises(CourseError, match="leave retain_per_step at 0"):
        check_data(METHODS[name], make_config(name, {"retain_per_step": 4}), task.splits)
