"""Relabelling: which wrong names are given, how often they change, and the update that follows from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from one_step import after_one_step, assert_same_step, mean_name_loss, ordinary_loss, twin, vector, watch_batches

from utils.settings import CourseError
from utils.unlearning.loop import unlearn
from utils.unlearning.methods import labels as module
from utils.unlearning.methods.labels import draw_again, draw_any, draw_wrong_labels
from utils.unlearning.registry import METHODS, make_config

BOTH = ("random_labels", "random_labels_resampled")
SMALL = {"steps": 1, "photos_per_identity": 3, "retain_per_step": 5, "learning_rate": 1e-3, "retain_weight": 0.3}


def watch_targets(monkeypatch) -> list[torch.Tensor]:
    """Return a list that will hold the wrong names of every step to come."""
    drawn, draw = [], module.draw_again

    def watched(task, count):
        drawn.append(draw(task, count))
        return drawn[-1]

    monkeypatch.setattr(module, "draw_again", watched)
    return drawn


def test_redrawn_labels_differ_from_step_to_step_and_are_never_a_forget_identity(task, monkeypatch):
    drawn = watch_targets(monkeypatch)
    photos = watch_batches(monkeypatch)
    options = {"steps": 6, "photos_per_identity": 12, "retain_per_step": 0}
    METHODS["random_labels_resampled"].run(task, make_config("random_labels_resampled", options))
    steps = zip(photos, drawn, strict=True)
    names = [dict(zip(forget.tolist(), rows.tolist(), strict=True)) for (forget, _), rows in steps]
    assert len(names) == 6 and all(set(step) == set(names[0]) for step in names)
    assert all(len({step[photo] for step in names}) > 1 for photo in names[0])
    forgotten = set(task.forget_columns.tolist())
    assert not forgotten & {row for step in names for row in step.values()}


def test_fixed_labels_are_the_same_whenever_a_photo_comes_back(task):
    table = draw_wrong_labels(task)
    torch.rand(100, generator=task.generator)
    assert torch.equal(table, draw_wrong_labels(task))


def test_all_kept_names_are_drawn_alike(task):
    rows, counts = draw_again(task, 5000).unique(return_counts=True)
    assert rows.tolist() == sorted(task.retain_train_columns.tolist())
    assert counts.float().std() / counts.float().mean() < 0.1


def test_any_name_may_be_drawn_and_all_alike(task):
    rows, counts = draw_any(task, 5000).unique(return_counts=True)
    assert rows.tolist() == list(range(len(task.head.weight)))
    assert counts.float().std() / counts.float().mean() < 0.1


def test_drawing_again_pulls_every_photo_to_the_same_target(task):
    """Averaged over all names that may be drawn, the slope is that of the uniform target: no photo has its own."""
    kept, columns = task.retain_train_columns, len(task.head.weight)
    logits = torch.randn(4, columns, generator=task.generator).requires_grad_(True)
    average = torch.stack([F.cross_entropy(logits, kept[[k] * 4]) for k in range(len(kept))]).mean()
    (slope,) = torch.autograd.grad(average, logits)
    uniform = torch.zeros(columns)
    uniform[kept] = 1 / len(kept)
    assert torch.allclose(slope, (logits.softmax(1) - uniform).detach() / 4, atol=1e-6)


@pytest.mark.parametrize("name", BOTH)
def test_one_step_equals_the_slow_reference(name, task, monkeypatch):
    drawn, photos = watch_targets(monkeypatch), watch_batches(monkeypatch)
    reference, before = twin(task), vector(task.model.parameters())
    METHODS[name].run(task, make_config(name, SMALL))
    ((forget, retain),) = photos
    rows = drawn[0] if drawn else draw_wrong_labels(reference)[torch.from_numpy(forget)]

    def loss(task):
        return mean_name_loss(task, forget, rows, 16.0) + 0.3 * ordinary_loss(task, retain)

    assert_same_step(after_one_step(reference, loss, 1e-3), task.model.parameters(), before, 1e-3)


def test_fixed_labels_disperse_and_redrawn_ones_do_not(task):
    """The photos of one person end far apart only if each of them has a target of its own."""
    few = {"steps": 30, "retain_per_step": 0, "photos_per_identity": 8, "learning_rate": 1e-3}
    spread = {}
    for name in BOTH:
        copied = twin(task)
        METHODS[name].run(copied, make_config(name, few))
        spread[name] = np.mean([entry["nearest_cosine"] for entry in copied.history[-5:]])
    assert spread["random_labels"] < spread["random_labels_resampled"] - 0.05


@pytest.mark.parametrize("name", BOTH)
def test_a_diverging_run_names_its_step(name, tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match="diverged at step 1"):
        unlearn(
            name, tiny_recogniser.model, tiny_recogniser.head, tiny_splits,
            device="cpu", progress=False, learning_rate=1e7,
        )  # fmt: skip
