"""A slow reference for the tests of methods: one photo after the other, and the first step of AdamW by hand."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from utils.unlearning import Task, frame


def twin(task: Task) -> Task:
    """Return a task with copies of model and head, at the same place in the same stream of random numbers."""
    generator = torch.Generator()
    generator.set_state(task.generator.get_state())
    copies = {"model": copy.deepcopy(task.model), "head": copy.deepcopy(task.head)}
    return dataclasses.replace(task, **copies, generator=generator, history=[])


def watch_batches(monkeypatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return a list that will hold the forget and the retained photos of every step to come."""
    seen, make_batch = [], frame.make_batch

    def watched(task, step, forget_photos, retain_photos, augmented):
        seen.append((forget_photos, retain_photos))
        return make_batch(task, step, forget_photos, retain_photos, augmented)

    monkeypatch.setattr(frame, "make_batch", watched)
    return seen


def input_of(task: Task, photo: int) -> Tensor:
    """Return one photo as the model sees it, (1, 3, S, S)."""
    pixels = task.splits.faces.images(np.array([photo]))
    return (pixels.float() - 127.5) / 128


def cosines_of(model, prototypes: Tensor, image: Tensor) -> Tensor:
    """Return the cosines (C,) between the embedding of one image and the prototypes (C, d)."""
    point = model(image)[0]
    lengths = (prototypes * prototypes).sum(1).sqrt() * (point * point).sum().sqrt()
    return (prototypes * point).sum(1) / lengths


def name_loss(task: Task, image: Tensor, row: int, scale: float, margin: float = 0.0, rows: Tensor | None = None):
    """Return -log softmax(scale (c - margin [k = row]))_row of one image, written out."""
    logits = list(cosines_of(task.model, task.head.weight if rows is None else rows, image))
    logits[row] = logits[row] - margin
    return -scale * logits[row] + torch.logsumexp(scale * torch.stack(logits), dim=0)


def mean_name_loss(task: Task, photos: np.ndarray, rows: object, scale: float, margin: float = 0.0) -> Tensor:
    """Return the mean of name_loss over photos, each with its own head row."""
    pairs = zip(photos.tolist(), [int(row) for row in rows], strict=True)
    return sum(name_loss(task, input_of(task, i), row, scale, margin) for i, row in pairs) / len(photos)


def own_rows(task: Task, photos: np.ndarray) -> list[int]:
    """Return the head row of each photo's person, looked up in the sorted list of trained people."""
    people = sorted(task.splits.forget + task.splits.dev_forget + task.splits.retain)
    return [people.index(person) for person in task.splits.faces.labels[photos].tolist()]


def ordinary_loss(task: Task, photos: np.ndarray) -> Tensor:
    """Return the margin loss of training, on each photo's own name."""
    return mean_name_loss(task, photos, own_rows(task, photos), task.head.scale, task.head.margin)


def after_one_step(task: Task, loss_of: Callable[[Task], Tensor], learning_rate: float, head: bool = False) -> Tensor:
    """Return all moving weights as one vector after AdamW's first step: each moves by rate x g / (|g| + 1e-8)."""
    task.model.requires_grad_(True)
    task.head.requires_grad_(head)
    weights = [*task.model.parameters(), *(task.head.parameters() if head else ())]
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(task), weights)])
    slope = slope * min(1.0, 1.0 / float(slope.norm()))
    return vector(weights) - learning_rate * slope / (slope.abs() + 1e-8)


def vector(weights) -> Tensor:
    """Return weights as one vector, without gradient."""
    return torch.cat([weight.detach().flatten() for weight in weights])


def assert_same_step(expected: Tensor, weights, before: Tensor, learning_rate: float) -> None:
    """Check an update against the reference; a weight whose slope is all rounding error may differ, few are."""
    got = vector(weights)
    assert (got - before).abs().max() > 0.9 * learning_rate, "nothing moved"
    agree = (got - expected).abs() < 0.02 * learning_rate
    assert agree.float().mean() > 0.99
