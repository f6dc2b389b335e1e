"""Boundaries: where an attack leads, that it never leads home, and what a shadow row does to a cluster."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from one_step import (
    after_one_step,
    assert_same_step,
    cosines_of,
    input_of,
    mean_name_loss,
    name_loss,
    own_rows,
    twin,
    vector,
    watch_batches,
)

from utils.models.checkpoints import EMBEDDED, load_recogniser
from utils.models.embedding import embed
from utils.models.heads import CosFace
from utils.settings import MODEL_DIR, CourseError
from utils.unlearning.loop import Task, run_steps, unlearn
from utils.unlearning.methods.boundary import BoundaryShrinkConfig, attack, neighbours, with_shadow_rows
from utils.unlearning.registry import METHODS, make_config

SMALL = {"steps": 1, "photos_per_identity": 3, "learning_rate": 1e-3}


def run(task, name, **options):
    METHODS[name].run(task, make_config(name, options))
    return task


def inputs_of(task, photos) -> torch.Tensor:
    return torch.cat([input_of(task, photo) for photo in photos.tolist()])


def slow_attack(task, photo: int, row: int, epsilon: float) -> torch.Tensor:
    """Attack one photo as the paper says: x + epsilon sign grad CE(x, y), kept to real pixel values."""
    image = input_of(task, photo).requires_grad_(True)
    (slope,) = torch.autograd.grad(name_loss(task, image, row, 16.0), image)
    pixels = (image.detach() * 128 + 127.5) + 255 * epsilon * slope.sign()
    return (pixels.clamp(0, 255) - 127.5) / 128


def slow_neighbour(task, image: torch.Tensor) -> int:
    """Return the kept row nearest to one image."""
    cosines = cosines_of(task.model, task.head.weight, image).tolist()
    return max((k for k in range(len(cosines)) if k not in task.forget_columns.tolist()), key=lambda k: cosines[k])


# ---------------------------------------------------------------------------------------------------------- attack


def test_the_attack_is_the_slow_reference(task):
    photos = task.forget_photos[:5]
    rows = own_rows(task, photos)
    got = attack(task, inputs_of(task, photos), torch.tensor(rows), 0.1, 16.0)
    for image, photo, row in zip(got, photos.tolist(), rows, strict=True):
        expected = slow_attack(task, photo, row, 0.1)[0]
        assert ((image - expected).abs() < 1e-5).float().mean() > 0.999  # a slope that rounds to 0 may turn its sign


def test_epsilon_counts_from_black_to_white_and_no_pixel_leaves_that_range(task):
    photos = task.forget_photos[:4]
    clean = inputs_of(task, photos)
    before = clean.clone()
    moved = attack(task, clean, task.head_rows(photos), 0.1, 16.0)
    assert torch.equal(clean, before)
    steps = (moved - clean).abs() * 128 / 255
    assert steps.max() == pytest.approx(0.1, abs=1e-5) and steps.median() == pytest.approx(0.1, abs=1e-5)
    assert moved.min() >= -127.5 / 128 and moved.max() <= 127.5 / 128


def test_the_attack_leads_away_from_the_own_name(task):
    photos = task.forget_photos
    rows, clean = task.head_rows(photos), inputs_of(task, photos)
    attacked = attack(task, clean, rows, 0.03, 16.0)
    with torch.no_grad():
        own = [task.head.cosines(task.model(x)).gather(1, rows[:, None]).mean() for x in (clean, attacked)]
    assert own[1] < own[0] - 0.05


# ---------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_targets_are_the_slow_reference_and_never_a_forget_identity(epsilon, task):
    table = neighbours(task, epsilon, 16.0)
    photos = task.forget_photos
    assert not set(table[torch.from_numpy(photos)].tolist()) & set(task.forget_columns.tolist())
    others = np.setdiff1d(np.arange(len(table)), photos)
    assert (table[torch.from_numpy(others)] == -1).all()
    assert task.images_processed == len(photos) * (2 if epsilon else 1)
    expected = []
    for photo, row in zip(photos.tolist(), own_rows(task, photos), strict=True):
        image = slow_attack(task, photo, row, epsilon) if epsilon else input_of(task, photo)
        expected.append(slow_neighbour(task, image))
    same = table[torch.from_numpy(photos)] == torch.tensor(expected)
    assert same.float().mean() > (0.9 if epsilon else 0.999)


def test_targets_are_the_papers_wherever_its_own_are_no_forgotten_name(task):
    """The authors' target is the attacked photo's argmax over all names; only a forgotten one is replaced here."""
    table, photos = neighbours(task, 0.1, 16.0), task.forget_photos
    pairs = list(zip(photos.tolist(), own_rows(task, photos), strict=True))
    cosines = [cosines_of(task.model, task.head.weight, slow_attack(task, i, row, 0.1)) for i, row in pairs]
    authors = torch.stack(cosines).argmax(dim=1)
    kept = ~torch.isin(authors, task.forget_columns)
    assert kept.any() and (table[torch.from_numpy(photos)][kept] == authors[kept]).float().mean() > 0.9


def test_the_default_step_reaches_a_neighbour_and_a_fifth_of_it_does_not(default_splits):
    """How many attacked photos of the default forget people the original model still calls by their own name."""
    recogniser = load_recogniser(MODEL_DIR / EMBEDDED["original"])[0]
    model, head = recogniser.model.eval(), recogniser.head
    photos = default_splits.photos("forget", "train")[::5]
    rows = torch.from_numpy(default_splits.class_of(default_splits.faces.labels[photos]))
    task = Task(model, head, default_splits, 0, torch.device("cpu"), False, torch.Generator())
    config = BoundaryShrinkConfig()
    own = {}
    for epsilon in (0.02, config.epsilon):
        attacked = attack(task, inputs_of(task, photos), rows, epsilon, config.forget_scale)
        with torch.no_grad():
            own[epsilon] = (head.cosines(model(attacked)).argmax(dim=1) == rows).float().mean().item()
    assert own[config.epsilon] < 0.15 < own[0.02] - 0.2, own


def test_targets_do_not_depend_on_how_many_photos_are_looked_at_at_once(task, monkeypatch):
    whole = neighbours(task, 0.05, 16.0)
    monkeypatch.setattr("utils.unlearning.methods.boundary.PHOTOS_AT_ONCE", 5)
    assert (whole == neighbours(task, 0.05, 16.0)).float().mean() > 0.99


def train_towards(task, targets: torch.Tensor) -> None:
    """Take Boundary Shrink's steps towards given targets, a table (all photos,)."""

    def losses(batch):
        rows = targets[torch.from_numpy(batch.forget_photos)]
        return {"forget": F.cross_entropy(task.head(batch.forget, scale=16.0), rows)}

    run_steps(task, BoundaryShrinkConfig(steps=15, learning_rate=1e-3), losses)


def own_loss(task) -> float:
    points = embed(task.model, task.splits.faces, task.forget_photos)
    return F.cross_entropy(task.head(points, scale=16.0), task.head_rows(task.forget_photos)).item()


def test_a_failed_attack_would_reinforce_the_name_if_the_own_name_were_not_barred(task):
    """The published code takes the attacked photo's argmax over all names: too weak an attack finds the own one."""
    photos, before = task.forget_photos, own_loss(task)
    rows = task.head_rows(photos)
    weak = attack(task, inputs_of(task, photos), rows, 0.002, 16.0)
    with torch.no_grad():
        unchecked = task.head.cosines(task.model(weak)).argmax(1)
    assert (unchecked == rows).float().mean() > 0.5, "the attack was meant to fail"
    table = torch.full((len(task.splits.faces),), -1)
    table[torch.from_numpy(photos)] = unchecked
    defective, barred = twin(task), twin(task)
    train_towards(defective, table)
    train_towards(barred, neighbours(task, 0.002, 16.0))
    assert own_loss(defective) < before < own_loss(barred) - 0.1


# --------------------------------------------------------------------------------------------------------- updates


def test_shrink_with_epsilon_zero_is_pseudo_labelling(task, monkeypatch):
    """PL: cross-entropy to the best retained name of the clean photo."""
    photos, reference, before = watch_batches(monkeypatch), twin(task), vector(task.model.parameters())
    run(task, "boundary_shrink", epsilon=0.0, **SMALL)
    forget = photos[0][0]
    rows = [slow_neighbour(reference, input_of(reference, photo)) for photo in forget.tolist()]
    expected = after_one_step(reference, lambda t: mean_name_loss(t, forget, rows, 16.0), 1e-3)
    assert_same_step(expected, task.model.parameters(), before, 1e-3)


def test_shrink_trains_on_clean_photos_towards_attacked_names(task, monkeypatch):
    photos, reference, before = watch_batches(monkeypatch), twin(task), vector(task.model.parameters())
    run(task, "boundary_shrink", epsilon=0.1, **SMALL)
    forget = photos[0][0]
    rows = neighbours(reference, 0.1, 16.0)[torch.from_numpy(forget)]
    expected = after_one_step(reference, lambda t: mean_name_loss(t, forget, rows, 16.0), 1e-3)
    assert_same_step(expected, task.model.parameters(), before, 1e-3)


@pytest.mark.parametrize("shadows", [1, 3])
def test_expand_is_the_slow_reference(shadows, task, monkeypatch):
    photos, reference, before = watch_batches(monkeypatch), twin(task), vector(task.model.parameters())
    run(task, "boundary_expand", shadow_rows=shadows, **SMALL)
    forget = photos[0][0]
    added = torch.randn(shadows, 128, generator=reference.generator)
    rows = torch.cat([reference.head.weight, added])
    order = reference.forget_photos.tolist()

    def loss(task):
        terms = [
            name_loss(task, input_of(task, i), 8 + order.index(i) % shadows, 16.0, rows=rows) for i in forget.tolist()
        ]
        return sum(terms) / len(terms)

    assert_same_step(after_one_step(reference, loss, 1e-3), task.model.parameters(), before, 1e-3)


# ------------------------------------------------------------------------------------------------------ shadow rows


def test_the_shadow_row_is_there_while_it_runs_and_gone_afterwards(task, monkeypatch):
    rows, before = [], task.head.weight.clone()
    cosines = CosFace.cosines
    monkeypatch.setattr(CosFace, "cosines", lambda head, z: (rows.append(len(head.weight)), cosines(head, z))[1])
    run(task, "boundary_expand", steps=2, shadow_rows=2)
    assert set(rows) == {10} and torch.equal(task.head.weight, before)


def test_a_head_that_moves_loses_its_shadow_rows_too(task):
    before = task.head.weight.clone()
    run(task, "boundary_expand", steps=2, trainable="both")
    assert task.head.weight.shape == before.shape and not torch.equal(task.head.weight, before)


def test_shadow_rows_are_unit_length_and_leave_the_other_rows_alone(task):
    wide = with_shadow_rows(task.head, 4, task.generator)
    assert torch.equal(wide.weight[:8], task.head.weight) and len(task.head.weight) == 8
    assert wide.weight[8:].norm(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-6)
    assert (wide.scale, wide.margin) == (task.head.scale, task.head.margin)


def test_one_shadow_row_takes_the_name_and_keeps_the_cluster_while_many_disperse_it(task):
    after = {}
    for shadows in (1, 10):
        copied = twin(task)
        run(copied, "boundary_expand", steps=60, learning_rate=2e-3, shadow_rows=shadows)
        points = embed(copied.model, copied.splits.faces, copied.forget_photos)
        names = copied.head.cosines(points).argmax(1)
        after[shadows] = (names == copied.head_rows(copied.forget_photos)).float().mean(), copied.history[-1]
    assert after[1][0] <= 0.5  # without the shadow row, one of the two people falls to another
    assert after[1][1]["nearest_cosine"] > 0.9 > after[10][1]["nearest_cosine"]


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "name, options, told",
    [
        ("boundary_shrink", {"epsilon": 25.0}, "at most 1, not 25.0"),
        ("boundary_shrink", {"epsilon": -0.1}, "not negative"),
        ("boundary_shrink", {"learning_rate": 1e7}, "diverged at step 1"),
        ("boundary_shrink", {"retain_per_step": 4}, "forget photos only"),
        ("boundary_expand", {"shadow_rows": 0}, "shadow_rows of at least 1"),
        ("boundary_expand", {"learning_rate": 1e7}, "diverged at step 1"),
    ],
)
def test_what_cannot_work_is_refused(name, options, told, tiny_recogniser, tiny_splits):
    head = copy.deepcopy(tiny_recogniser.head)
    with pytest.raises(CourseError, match=told):
        unlearn(name, tiny_recogniser.model, head, tiny_splits, device="cpu", progress=False, **options)
    assert torch.equal(head.weight, tiny_recogniser.head.weight)
