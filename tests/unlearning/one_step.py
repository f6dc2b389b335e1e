"""A slow reference for the tests of methods: one photo after the other, and the first step of AdamW by hand."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from utils.unlearning import loop as frame
from utils.unlearning.loop import Task


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
    return after_steps(task, [loss_of], [learning_rate], head)


def after_steps(task: Task, losses: list[Callable[[Task], Tensor]], rates: list[float], head: bool = False) -> Tensor:
    """Return all moving weights as one vector after some steps of AdamW, by its formula; the task's copies move."""
    task.model.requires_grad_(True)
    task.head.requires_grad_(head)
    weights = [*task.model.parameters(), *(task.head.parameters() if head else ())]
    first = second = torch.zeros(1)
    for step, (loss_of, rate) in enumerate(zip(losses, rates, strict=True), 1):
        slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(task), weights)])
        slope = slope * min(1.0, 1.0 / float(slope.norm()))
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        push = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.nn.utils.vector_to_parameters(vector(weights) - rate * push, weights)
    return vector(weights)


def cosine_rates(rate: float, steps: int) -> list[float]:
    """Return the learning rate of every step: from the whole one down half a wave towards a twentieth."""
    return [rate * (0.05 + 0.95 * (1 + np.cos(np.pi * step / steps)) / 2) for step in range(steps)]


def point_of(model, image: Tensor) -> Tensor:
    """Return the unit embedding (d,) of one image as the model sees it."""
    point = model(image)[0]
    return point / (point * point).sum().sqrt()


def moved_from(old, new, images: list[Tensor]) -> Tensor:
    """Return the mean of 1 - cos between what the new and the old model make of images, one after the other."""
    return sum(1 - (point_of(new, image) * point_of(old, image).detach()).sum() for image in images) / len(images)


def slow_dispersion(kind: str, points: list[Tensor], people: list[int], beta: float = 10.0) -> Tensor:
    """Return the mean over people of the mean, the nearest or the soft maximum of their photos' pair cosines."""
    losses = []
    for person in sorted(set(people)):
        mine = [point for point, owner in zip(points, people, strict=True) if owner == person]
        rows = [[(a * b).sum() for b in mine if b is not a] for a in mine]
        flat = torch.stack([c for row in rows for c in row])
        if kind == "hard":
            losses.append(torch.stack([torch.stack(row).max() for row in rows]).mean())
        else:
            losses.append(flat.mean() if kind == "uniform" else (beta * flat).exp().mean().log() / beta)
    return torch.stack(losses).mean()


def vector(weights) -> Tensor:
    """Return weights as one vector, without gradient."""
    return torch.cat([weight.detach().flatten() for weight in weights])


def assert_same_step(expected: Tensor, weights, before: Tensor, learning_rate: float, share: float = 0.99) -> None:
    """Check an update against the reference; a weight whose slope is all rounding error may differ, few are."""
    got = vector(weights)
    assert (got - before).abs().max() > 0.9 * learning_rate, "nothing moved"
    agree = (got - expected).abs() < 0.02 * learning_rate
    assert agree.float().mean() > share
