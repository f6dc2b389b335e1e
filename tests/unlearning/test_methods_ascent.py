"""Ascent: the loss that vanishes, the climb, its bound, the watch that ends it, and the head that hides it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from one_step import (
    after_one_step,
    assert_same_step,
    mean_name_loss,
    ordinary_loss,
    own_rows,
    twin,
    vector,
    watch_batches,
)

from utils.models.embedding import embed
from utils.models.heads import CosFace
from utils.settings import CourseError
from utils.unlearning.loop import make_batch, unlearn
from utils.unlearning.methods.ascent import forget_names
from utils.unlearning.registry import METHODS, make_config

SMALL = {"steps": 1, "photos_per_identity": 3, "learning_rate": 1e-3}
KEEPING = SMALL | {"retain_per_step": 5}


def run(task, name, **options):
    METHODS[name].run(task, make_config(name, options))
    return task


def forget_loss(task, scale: float = 16.0) -> float:
    """Return the cross-entropy of all forget photos' own names."""
    with torch.no_grad():
        batch = make_batch(task, 0, task.forget_photos, np.empty(0, dtype=np.int64), False)
        return forget_names(task, batch, scale).item()


def name_accuracy(task) -> float:
    """Return the share of forget photos whose nearest head row is their own."""
    points = embed(task.model, task.splits.faces, task.forget_photos)
    return (task.head.cosines(points).argmax(1) == task.head_rows(task.forget_photos)).float().mean().item()


# ----------------------------------------------------------------------------------------------------- saturation


def test_at_scale_64_the_loss_of_a_sure_model_is_exactly_zero_and_at_16_it_is_not():
    """Own cosine 0.9, 99 others sqrt(0.19 / 99) = 0.044: 99 exp(-64 x 0.856) = 2e-22 vanishes beside 1 in float32."""
    head = CosFace(100, 100, scale=64.0)
    head.weight.data = torch.eye(100)
    own, other = 0.9, math.sqrt(0.19 / 99)
    point = torch.full((1, 100), other)
    point[0, 0] = own
    slopes = {}
    for scale, exact in ((64.0, 0.0), (16.0, math.log1p(99 * math.exp(-16 * (own - other))))):
        z = point.clone().requires_grad_(True)
        loss = F.cross_entropy(head(z, scale=scale), torch.tensor([0]))
        assert loss.item() == exact or (exact > 1e-5 and loss.item() == pytest.approx(exact, rel=0.02))
        slopes[scale] = torch.autograd.grad(loss, z)[0].norm().item()
    assert slopes[64.0] < 1e-9 and slopes[16.0] > 1e-4


# ------------------------------------------------------------------------------------------------- one-step updates


@pytest.mark.parametrize(
    "name, options, weights",
    [
        ("gradient_ascent", SMALL | {"check_every": 0}, (-1.0, 0.0)),
        ("neggrad_plus", KEEPING | {"alpha": 0.7}, (-0.3, 0.7)),
        ("neggrad_plus", KEEPING | {"alpha": 1.0}, (0.0, 1.0)),
        ("bounded_ascent", KEEPING | {"beta": 0.4, "bound": 3.0}, (-0.4, 1.0)),  # 3 log C is not reached
        ("bounded_ascent", KEEPING | {"beta": 0.4, "bound": 0.0}, (0.0, 1.0)),  # 0 always is
    ],
)
def test_one_step_equals_the_slow_reference(name, options, weights, task, monkeypatch):
    photos, reference, before = watch_batches(monkeypatch), twin(task), vector(task.model.parameters())
    assert forget_loss(task) < 3 * math.log(8)
    run(task, name, **options)
    ((forget, retain),) = photos

    def loss(task):
        total = weights[0] * mean_name_loss(task, forget, own_rows(task, forget), 16.0)
        return total + weights[1] * ordinary_loss(task, retain) if len(retain) else total

    assert_same_step(after_one_step(reference, loss, 1e-3), task.model.parameters(), before, 1e-3)


def test_neggrad_plus_at_alpha_one_is_ordinary_training_of_the_retained_photos(task, monkeypatch):
    """Several steps long, beside a plain loop that has never heard of forget photos."""
    photos, plain = watch_batches(monkeypatch), twin(task)
    run(task, "neggrad_plus", **(KEEPING | {"alpha": 1.0, "steps": 4}))
    weights = list(plain.model.requires_grad_(True).parameters())
    optimiser = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    for step, (_, retain) in enumerate(photos):
        optimiser.param_groups[0]["lr"] = 1e-3 * (0.05 + 0.95 * (1 + math.cos(math.pi * step / 4)) / 2)
        points = plain.model(plain.model.preprocess(plain.splits.faces.images(retain)))
        rows = plain.head_rows(retain)
        optimiser.zero_grad()
        F.cross_entropy(plain.head(points, rows), rows).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    apart = (vector(task.model.parameters()) - vector(weights)).abs()
    assert apart.max() < 4e-3 and (apart < 1e-4).float().mean() > 0.98


# ---------------------------------------------------------------------------------------------- where the climb ends


def test_past_its_bound_bounded_ascent_stands_still_on_the_forget_side(task):
    """The loss is 0 there and has no slope; where it is below, its slope is beta times that of plain ascent."""
    slopes = {}
    for bound in (0.5 * forget_loss(task), 2.0 * forget_loss(task)):
        limit = bound / math.log(8)
        copied = run(twin(task), "bounded_ascent", bound=limit, photos_per_identity=12, steps=1, retain_per_step=5)
        slopes[limit] = copied.history[0]["forget"]
    assert min(slopes.values()) == 0.0
    assert max(slopes.values()) == pytest.approx(make_config("bounded_ascent", {}).beta * forget_loss(task), rel=1e-3)


def test_bounded_ascent_stops_soon_after_its_bound_where_plain_ascent_goes_on(task):
    bound, free = twin(task), twin(task)
    few = {"steps": 30, "learning_rate": 5e-4, "photos_per_identity": 8}
    run(bound, "bounded_ascent", beta=3.0, retain_per_step=8, **few)
    run(free, "gradient_ascent", check_every=0, **few)
    assert math.log(8) * 0.5 < forget_loss(bound) < 0.85 * forget_loss(free)


def test_gradient_ascent_ends_before_the_dev_people_are_lost(task):
    steep = {"steps": 30, "learning_rate": 3e-3, "photos_per_identity": 3}
    watched, blind = twin(task), twin(task)
    run(watched, "gradient_ascent", max_dev_loss=0.02, **steep)
    run(blind, "gradient_ascent", check_every=0, **steep)
    scores = [entry["dev_map"] for entry in watched.history if "dev_map" in entry]
    assert len(watched.history) == 3 * len(scores) < 30 == len(blind.history)
    assert watched.images_processed > 6 * len(watched.history), "the watch's own photos are not counted"
    assert forget_loss(blind) > forget_loss(watched)


def test_without_the_watch_gradient_ascent_reads_forget_photos_only(task, monkeypatch):
    seen, images = [], type(task.splits.faces).images
    monkeypatch.setattr(type(task.splits.faces), "images", lambda faces, i: (seen.extend(i), images(faces, i))[1])
    run(task, "gradient_ascent", steps=3, check_every=0)
    assert seen and set(seen) <= set(task.forget_photos.tolist())


# --------------------------------------------------------------------------------------------- the silent failure


def test_with_the_head_alone_every_name_is_lost_and_no_embedding_moves(task):
    before = embed(task.model, task.splits.faces)
    assert name_accuracy(task) > 0.5
    run(task, "gradient_ascent", trainable="head", learning_rate=0.1, steps=15, check_every=0)
    assert name_accuracy(task) == 0.0
    assert torch.equal(before, embed(task.model, task.splits.faces))


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "name, options, told",
    [
        ("neggrad_plus", {"alpha": 1.5}, "between 0 and 1, not 1.5"),
        ("neggrad_plus", {"retain_per_step": 0}, "needs retained photos"),
        ("bounded_ascent", {"retain_per_step": 0}, "needs retained photos"),
        ("bounded_ascent", {"bound": -1.0}, "not negative"),
        ("bounded_ascent", {"learning_rate": 1e7}, "diverged at step 1"),
        ("neggrad_plus", {"learning_rate": 1e7}, "diverged at step 1"),
        ("gradient_ascent", {"learning_rate": 1e7}, "diverged at step 1"),
    ],
)
def test_what_cannot_work_is_refused(name, options, told, tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match=told):
        unlearn(name, tiny_recogniser.model, tiny_recogniser.head, tiny_splits, device="cpu", progress=False, **options)
