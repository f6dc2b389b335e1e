"""UNSIR: how its noise is made, how much of it there is, and what impairing and repairing train on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from one_step import after_one_step, assert_same_step, name_loss, ordinary_loss, twin, vector, watch_batches

from utils.settings import CourseError
from utils.unlearning.loop import unlearn
from utils.unlearning.methods import noise as module
from utils.unlearning.methods.noise import UnsirConfig, make_noise, noise_bank, noise_loss, pick_noise
from utils.unlearning.registry import METHODS, make_config

SMALL = {"noise_batches": 2, "photos_per_identity": 2, "noise_steps": 2, "retain_per_step": 6}
SMALL |= {"learning_rate": 1e-3, "penalty": 0.01, "noise_rate": 0.1}


def small(**changes) -> UnsirConfig:
    return UnsirConfig(**(SMALL | changes))


def run(task, **options):
    METHODS["unsir"].run(task, make_config("unsir", SMALL | options))
    return task


def slow_noise_loss(task, images: torch.Tensor, row: int, penalty: float) -> torch.Tensor:
    """Return the mean over images of penalty x sum of squares - cross-entropy of the name, one after the other."""
    terms = [penalty * (image * image).sum() - name_loss(task, image[None], row, 16.0) for image in images]
    return sum(terms) / len(terms)


# ----------------------------------------------------------------------------------------------------------- noise


def test_noise_loss_is_the_slow_reference(task):
    noise = torch.randn(3, 3, 64, 64, generator=task.generator)
    got = noise_loss(task, noise, 2, small(penalty=0.03))
    assert got.item() == pytest.approx(slow_noise_loss(task, noise, 2, 0.03).item(), rel=1e-4)


def test_noise_is_made_by_adam_on_its_pixels(task):
    """Adam written out: m and v are running means of slope and squared slope, freed of their start at zero."""
    reference = twin(task)
    got = make_noise(task, 5, small(noise_batches=1, noise_steps=3))
    noise = torch.randn(2, 3, 64, 64, generator=reference.generator)
    m, v = torch.zeros_like(noise), torch.zeros_like(noise)
    for t in (1, 2, 3):
        noise.requires_grad_(True)
        (slope,) = torch.autograd.grad(slow_noise_loss(reference, noise, 5, 0.01), noise)
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        noise = noise.detach() - 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    assert ((got - noise).abs() < 1e-3).float().mean() > 0.999
    assert task.images_processed == 2 * 3


def test_noise_is_unlike_its_person(task):
    row = int(task.forget_columns[0])
    random = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    made = make_noise(task, row, small(noise_batches=8, noise_steps=10, penalty=0.001))
    with torch.no_grad():
        logits = [task.head(task.model(images), scale=16.0) for images in (random, made)]
    losses = [-scores.log_softmax(dim=1)[:, row].mean().item() for scores in logits]
    assert losses[1] > losses[0] + 0.5


def test_too_strong_a_penalty_erases_the_noise_and_the_diary_shows_it(task):
    norms = []
    for penalty in (0.0001, 1.0):
        history = run(twin(task), penalty=penalty, noise_steps=15, steps=1, impair_share=1.0).history
        norms.append(history[0]["noise_norm"])
    assert norms[1] < 0.5 * norms[0]


# ------------------------------------------------------------------------------------------------------------ bank


def test_a_bank_holds_different_images_for_every_forget_identity(task):
    bank = noise_bank(task, small(noise_batches=8, photos_per_identity=3, noise_steps=1))
    assert bank.shape == (2, 24, 3, 64, 64)
    assert len({image.sum().item() for image in bank.flatten(0, 1)}) == 48


def test_published_loops_over_a_noise_batch_keep_three_images_of_it():
    """They count batch[0].size(0): the channels of the first image, not the images of the batch."""
    batch = torch.randn(256, 3, 4, 4)
    kept = [batch[i] for i in range(batch[0].size(0))]
    assert len(kept) == 3 and len(batch) == 256


def test_a_round_of_steps_shows_every_image_of_the_bank_once_under_its_own_name(task):
    config = small(noise_batches=3, photos_per_identity=4, noise_steps=1)
    bank = noise_bank(task, config)
    owner = {
        image.sum().item(): row
        for images, row in zip(bank, task.forget_columns.tolist(), strict=True)
        for image in images
    }
    shown = []
    for step in range(3):
        images, rows = pick_noise(task, bank, step, config)
        assert len(images) == 2 * 4
        assert [owner[image.sum().item()] for image in images] == rows.tolist()
        shown += [image.sum().item() for image in images]
    assert sorted(shown) == sorted(owner)


def test_a_step_shows_no_more_people_than_it_may(task):
    config = small(identities_per_step=1)
    assert len(pick_noise(task, noise_bank(task, config), 0, config)[0]) == 2


# ---------------------------------------------------------------------------------------------------------- phases


def test_it_impairs_then_repairs_and_counts_all_images(task):
    run(task, steps=5, impair_share=0.6)
    assert [("noise" in entry, "noise_norm" in entry) for entry in task.history] == [(True, True)] * 3 + [
        (False, False)
    ] * 2
    assert [entry["step"] for entry in task.history] == list(range(5))
    making, impairing, repairing = 2 * 2 * 2 * 2, 3 * (2 * 2 + 6), 2 * 6
    assert task.images_processed == making + impairing + repairing


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_one_step_of_either_phase_is_the_slow_reference(share, task, monkeypatch):
    photos, reference = watch_batches(monkeypatch), twin(task)
    picked, pick = [], module.pick_noise
    monkeypatch.setattr(module, "pick_noise", lambda *args: (picked.append(pick(*args)), picked[-1])[1])
    weights = [*task.model.parameters(), *task.head.parameters()]
    before = vector(weights)
    run(task, steps=1, impair_share=share)
    ((forget, retain),) = photos
    assert len(forget) == 0 and len(retain) == 6

    def loss(task):
        total = ordinary_loss(task, retain)
        for images, rows in picked:
            named = [name_loss(task, x[None], int(k), 16.0) for x, k in zip(images, rows, strict=True)]
            total = total + sum(named) / len(named)
        return total

    assert len(picked) == share
    assert_same_step(after_one_step(reference, loss, 1e-3, head=True), weights, before, 1e-3)


def test_it_never_sees_a_forget_photo_but_must_be_told_whom_to_forget(task, monkeypatch):
    seen, images = [], type(task.splits.faces).images
    monkeypatch.setattr(type(task.splits.faces), "images", lambda faces, i: (seen.extend(i), images(faces, i))[1])
    run(task, steps=4)
    assert seen and not set(seen) & set(task.splits.photos("forget", "train").tolist())
    assert METHODS["unsir"].needs == ("retain_train",) and "forget" in METHODS["unsir"].labels


def test_the_head_moves_unless_it_is_told_not_to(task):
    before = task.head.weight.clone()
    free, held = run(twin(task), steps=2), run(twin(task), steps=2, trainable="backbone")
    assert not torch.equal(free.head.weight, before) and torch.equal(held.head.weight, before)
    assert np.isfinite(free.history[-1]["retain"])


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "options, told",
    [
        ({"noise_batches": 0}, "at least 1"),
        ({"noise_steps": 0}, "at least 1"),
        ({"impair_share": 1.5}, "at most 1, not 1.5"),
        ({"retain_per_step": 0}, "needs retained photos"),
        ({"learning_rate": 1e7}, "diverged at step 1"),
    ],
)
def test_what_cannot_work_is_refused(options, told, tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match=told):
        options = SMALL | options
        unlearn(
            "unsir", tiny_recogniser.model, tiny_recogniser.head, tiny_splits, device="cpu", progress=False, **options
        )


def test_without_anybody_to_forget_it_refuses(tiny_recogniser, tiny_splits):
    nobody = dataclasses.replace(tiny_splits, forget=(), retain=tiny_splits.retain + tiny_splits.forget)
    with pytest.raises(CourseError, match="forget identities to make noise for"):
        unlearn("unsir", tiny_recogniser.model, tiny_recogniser.head, nobody, device="cpu", progress=False)
