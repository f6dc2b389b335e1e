"""Chance and bookkeeping in every method: the seed alone draws, what is given stays as it was, every image counts."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from toy import Toy

from utils.faces.datasets import FaceDataset
from utils.unlearning import loop as frame
from utils.unlearning.loop import Task, unlearn
from utils.unlearning.registry import METHODS, make_config

pytestmark = [pytest.mark.filterwarnings("ignore:The head names"), pytest.mark.usefixtures("toys_only")]
FEW = {  # small, and with something for chance to decide in every method
    "steps": 3,
    "learning_rate": 1e-2,
    "photos_per_identity": 2,
    "retain_per_step": 4,
    "blends_per_step": 3,
    "noise_steps": 2,
    "noise_batches": 2,
    "max_photos": 12,
    "batch_size": 4,
    "rewind_every": 2,
    "accuracy_every": 2,
    "check_every": 0,
}
CERTAIN = ("original", "esc", "esc_folded")  # nothing is drawn
RUNNERS = [name for name in METHODS if name != "retrain"]


def few(name: str, **options) -> dict:
    """Return the small settings that a method knows, and these."""
    entry, fields = METHODS[name], METHODS[name].config.__dataclass_fields__
    left = set(getattr(entry.config, "unused", ()))
    left |= set() if "retain_train" in (*entry.needs, *entry.optional) else {"retain_per_step"}
    damping = {"alpha": 1.0} if "strength" in fields else {}
    return {key: value for key, value in FEW.items() if key in fields and key not in left} | damping | options


def numbers(*modules) -> list[bytes]:
    return [value.numpy().tobytes() for module in modules for value in module.state_dict().values()]


def watch_photos(monkeypatch) -> list[list[int]]:
    """Return a list that will hold the photos that are asked for, look by look."""
    seen, images = [], FaceDataset.images
    monkeypatch.setattr(FaceDataset, "images", lambda faces, i: seen.append(list(i)) or images(faces, i))
    return seen


@pytest.mark.parametrize("name", RUNNERS)
def test_a_seed_draws_the_photos_and_the_result_and_nothing_given_changes(name, toy_world, monkeypatch):
    seen, given = watch_photos(monkeypatch), numbers(*toy_world[:2])
    modes = [(module.training, [w.requires_grad for w in module.parameters()]) for module in toy_world[:2]]
    pixels, labels = toy_world[2].faces.pixels.clone(), toy_world[2].faces.labels.copy()
    runs = []
    for seed in (0, 0, 1):
        seen.clear()
        outcome = unlearn(name, *toy_world, seed=seed, device="cpu", progress=False, **few(name))
        runs.append((copy.deepcopy(seen), numbers(outcome.model, outcome.trained_head), outcome.history))
        assert torch.initial_seed() == seed and not outcome.model.training
        assert all(weight.requires_grad for weight in outcome.model.parameters())
    assert runs[0] == runs[1]
    for what in range(2):
        assert (runs[0][what] != runs[2][what]) == (name not in CERTAIN)
    assert given == numbers(*toy_world[:2]), "a model or head that was given has changed"
    assert modes == [(module.training, [w.requires_grad for w in module.parameters()]) for module in toy_world[:2]]
    assert torch.equal(pixels, toy_world[2].faces.pixels) and np.array_equal(labels, toy_world[2].faces.labels)


def task_of(world, seed: int = 0) -> Task:
    model, head = copy.deepcopy(world[0]).eval(), copy.deepcopy(world[1]).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    return Task(model, head, world[2], seed, torch.device("cpu"), False, generator)


@pytest.mark.parametrize("name", RUNNERS)
def test_a_method_draws_from_its_task_alone(name, toy_world):
    """Whatever torch's and numpy's own streams hold, the result is the same, and the streams go on undisturbed."""
    results, streams = [], []
    for start in (1, 2):
        task = task_of(toy_world)
        torch.manual_seed(start)
        np.random.seed(start)
        METHODS[name].run(task, make_config(name, few(name)))
        results.append(numbers(task.model, task.head))
        streams.append((torch.rand(1).item(), np.random.rand()))
    assert results[0] == results[1]
    torch.manual_seed(2)
    np.random.seed(2)
    assert streams[1] == (torch.rand(1).item(), np.random.rand())


@pytest.mark.parametrize("check_every", [0, 2])
@pytest.mark.parametrize("name", RUNNERS)
def test_every_image_that_passes_a_network_is_counted_once(name, check_every, toy_world, monkeypatch):
    options = {"check_every": check_every} if check_every else {}
    fields = METHODS[name].config.__dataclass_fields__
    if check_every and "check_every" not in fields:
        pytest.skip("takes no steps")
    options |= {"rewind": not check_every} if "rewind" in fields else {}
    passed, forward = [], Toy.forward
    monkeypatch.setattr(Toy, "forward", lambda net, x: passed.append(len(x)) or forward(net, x))
    monkeypatch.setattr(frame, "warn_of_strange_head", lambda *_: None)  # looks before the method begins
    outcome = unlearn(name, *toy_world, device="cpu", progress=False, **few(name, **options))
    blank = 1 if name == "gs_lora" else 0  # an empty image finds the last layers
    assert outcome.images_processed == sum(passed) - blank
    assert (outcome.images_processed > 0) == (name != "original")


@pytest.mark.parametrize("name", RUNNERS)
def test_a_method_looks_at_the_photos_it_says_it_needs_and_at_no_held_out_one(name, toy_world, monkeypatch):
    monkeypatch.setattr(frame, "warn_of_strange_head", lambda *_: None)
    seen, splits, entry = watch_photos(monkeypatch), toy_world[2], METHODS[name]
    unlearn(name, *toy_world, device="cpu", progress=False, **few(name))
    looked = {photo for look in seen for photo in look}
    pools = {pool: set(splits.photos(pool, "train").tolist()) for pool in ("forget", "retain_train")}
    for pool, photos in pools.items():
        assert bool(looked & photos) == (pool in (*entry.needs, *entry.optional)), pool
    assert looked <= pools["forget"] | pools["retain_train"]


def test_three_seeds_make_three_tasks_of_their_own(toy_world, monkeypatch):
    told = []

    def note(task, config):
        told.append((task.seed, task.generator.initial_seed(), task.device, torch.initial_seed(), np.random.rand()))

    monkeypatch.setitem(METHODS, "original", dataclasses.replace(METHODS["original"], run=note))
    for seed in (0, 5, 2**32 - 1):
        unlearn("original", *toy_world, seed=seed, device="cpu", progress=False)
        expected = np.random.RandomState(seed).rand()
        assert told[-1] == (seed, seed, torch.device("cpu"), seed, expected)
