"""The frame of all steps: what augmentation and BatchNorm see, which batches are drawn, when a run is ended."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils.faces.splits import make_splits
from utils.models.augmentation import augment
from utils.settings import CourseError
from utils.unlearning import loop as frame
from utils.unlearning.loop import (
    EarlyStopping,
    Task,
    first_photos,
    forget_batches,
    make_batch,
    retain_batches,
    run_steps,
    set_batchnorm,
    unlearn,
)
from utils.unlearning.registry import METHODS, StepConfig, make_config, profile_options


@pytest.fixture
def toy_task(toy_world) -> Task:
    """A request in the toy world, with two people to stop early for."""
    splits = make_splits(toy_world[2].faces, n_forget=2, n_dev=2)
    model, head = copy.deepcopy(toy_world[0]), copy.deepcopy(toy_world[1]).requires_grad_(False)
    return Task(model, head, splits, 0, torch.device("cpu"), False, torch.Generator().manual_seed(5))


def push(batch) -> dict:
    """A loss that moves everything a little."""
    return {"forget": batch.forget[:, 0].mean()}


# -------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("augmented", [False, True])
def test_a_batch_shows_photos_as_they_are_or_as_training_draws_them(augmented, toy_task):
    forget, retain = toy_task.forget_photos[:3], toy_task.retain_train_photos[:4]
    faces = toy_task.splits.faces.images(np.concatenate([forget, retain]))
    if augmented:
        faces = augment(faces, torch.Generator().manual_seed(5))
    batch = make_batch(toy_task, 7, forget, retain, augmented)
    expected = F.normalize(toy_task.model((faces.float() - 127.5) / 128))
    torch.testing.assert_close(batch.forget, expected[:3])
    torch.testing.assert_close(batch.retain, expected[3:])
    labels = toy_task.splits.faces.labels
    assert batch.step == 7 and batch.forget_labels.tolist() == labels[forget].tolist()
    assert [toy_task.splits.trained[row] for row in batch.forget_rows] == labels[forget].tolist()
    assert [toy_task.splits.trained[row] for row in batch.retain_rows] == labels[retain].tolist()
    assert batch.forget_photos.tolist() == forget.tolist() and batch.retain_photos.tolist() == retain.tolist()


def test_all_people_and_photos_have_their_turn(toy_task):
    stream = forget_batches(toy_task, StepConfig(identities_per_step=1, photos_per_identity=2))
    drawn = [next(stream) for _ in range(60)]
    assert {photo for batch in drawn for photo in batch} == set(toy_task.forget_photos)
    assert all(len(batch) == 2 and len(set(toy_task.splits.faces.labels[batch])) == 1 for batch in drawn)


def test_every_round_of_retained_photos_is_shuffled_anew(toy_task):
    kept = toy_task.retain_train_photos.tolist()
    stream = retain_batches(toy_task, len(kept))
    first, second = next(stream).tolist(), next(stream).tolist()
    assert kept != first != second != kept and sorted(first) == sorted(second) == sorted(kept)


# ------------------------------------------------------------------------------------------------------ BatchNorm


def test_batchnorm_rests_or_learns_and_dropout_stays_off():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.BatchNorm1d(12)).train()
    for policy in ("frozen", "train"):
        set_batchnorm(net, policy)
        assert [module.training for module in net] == [False, policy == "train", False, False, policy == "train"]


@pytest.mark.parametrize("policy", ["frozen", "train"])
def test_running_statistics_follow_the_policy(policy, toy_task):
    seen, real = [], make_batch

    def noted(task, step, forget, retain, augmented):
        seen.append(np.concatenate([forget, retain]))
        return real(task, step, forget, retain, augmented)

    before = copy.deepcopy(toy_task.model)
    config = StepConfig(steps=1, retain_per_step=4, batchnorm=policy)
    run_steps(toy_task, config, push, batch_of=noted)
    with torch.no_grad():
        maps = before.stem[0]((toy_task.splits.faces.images(seen[0]).float() - 127.5) / 128)
    share = 0.1 if policy == "train" else 0.0  # PyTorch's momentum
    expected = (1 - share) * before.stem[1].running_mean + share * maps.mean(dim=(0, 2, 3))
    torch.testing.assert_close(toy_task.model.stem[1].running_mean, expected, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------- early stopping


def stop_at(task, monkeypatch, scores: list[float], **options) -> list[list[torch.Tensor]]:
    """Run with these scores, the first of them before the run; return the weights that each check saw."""
    passed, told = [], iter(scores)

    def score(watch):
        passed.append([weight.detach().clone() for weight in task.model.parameters()])
        return next(told)

    monkeypatch.setattr(EarlyStopping, "score", score)
    run_steps(task, StepConfig(learning_rate=1e-2, **options), push)
    return passed


@pytest.mark.parametrize(
    "scores, allowed, kept, steps",
    [
        ([1.0, 0.875, 0.75, 0.625], 0.25, 2, 6),  # a fall of just so much is allowed
        ([1.0, 0.625], 0.25, 0, 2),
        ([1.0, 0.625, 0.5, 0.375], 0.5, 2, 6),
        ([0.5, 0.75, 0.25, 0.125], 0.25, 2, 6),  # measured from the start, not from the best check
        ([0.5, 0.75, 0.25, 0.75, 0.75, 0.75], 0.25, 5, 9),  # the last step is checked as well
    ],
)
def test_a_run_goes_back_to_the_last_check_that_lost_no_more_than_allowed(
    scores, allowed, kept, steps, toy_task, monkeypatch
):
    passed = stop_at(toy_task, monkeypatch, scores, steps=9, check_every=2, max_dev_loss=allowed)
    assert len(toy_task.history) == steps
    noted = {entry["step"]: entry["dev_map"] for entry in toy_task.history if "dev_map" in entry}
    due = [1, 3, 5, 7, 8][: len(scores) - 1]
    assert noted == dict(zip(due, scores[1:], strict=True))
    same = [all(map(torch.equal, weights, toy_task.model.parameters())) for weights in passed]
    assert same == [number == kept for number in range(len(scores))]


def test_the_watch_scores_dev_people_among_a_few_others_on_training_photos(toy_task):
    """The mAP in plain loops: four photos of each dev-forget person among four of everybody who stays."""
    splits, config = toy_task.splits, StepConfig(check_every=1)
    labels = splits.faces.labels
    watched = [p for who in splits.retain_train for p in [i for i in splits.train if labels[i] == who][:4]]
    with torch.no_grad():
        points = F.normalize(toy_task.model((splits.faces.images(np.array(watched)).float() - 127.5) / 128)).numpy()
    precisions = []
    for i, query in enumerate(watched):
        if labels[query] not in splits.dev_forget:
            continue
        rest = sorted((j for j in range(len(watched)) if j != i), key=lambda j: -points[i] @ points[j])
        hits = [labels[watched[j]] == labels[query] for j in rest]
        found = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
        precisions.append(sum(found) / len(found))
    watch = EarlyStopping.begin(toy_task, config)
    assert 0.2 < np.mean(precisions) < 0.98, "this world is too easy to tell"
    assert watch.score() == pytest.approx(np.mean(precisions), abs=1e-4)
    assert watch.worst == pytest.approx(np.mean(precisions) - config.max_dev_loss, abs=1e-4)
    assert toy_task.images_processed == 2 * len(watched) and sorted(watch.photos.tolist()) == sorted(watched)
    assert set(first_photos(splits, splits.forget).tolist()) <= set(splits.photos("forget", "train").tolist())


def test_no_more_than_so_many_others_are_watched(toy_task, monkeypatch):
    monkeypatch.setattr("utils.unlearning.loop.WATCHED_PEOPLE", 2)
    watch = EarlyStopping.begin(toy_task, StepConfig(check_every=1))
    people = set(toy_task.splits.faces.labels[watch.photos].tolist())
    assert len(people) == 4 and people > set(toy_task.splits.dev_forget)


# -------------------------------------------------------------------------------------------------- what comes back


@pytest.mark.filterwarnings("ignore:The head names")
def test_each_policy_moves_its_own_part_and_returns_a_model_that_may_go_on(toy_world):
    old = [[weight.detach().clone() for weight in module.parameters()] for module in toy_world[:2]]
    for policy, wanted in (("backbone", (True, False)), ("both", (True, True)), ("head", (False, True))):
        options = {"steps": 2, "check_every": 0, "trainable": policy}
        outcome = unlearn("gradient_ascent", *toy_world, device="cpu", progress=False, **options)
        pairs = zip(old, (outcome.model, outcome.trained_head), strict=True)
        moved = [not all(map(torch.equal, before, module.parameters())) for before, module in pairs]
        assert tuple(moved) == wanted
        assert all(weight.requires_grad for weight in outcome.model.parameters()) and not outcome.model.training


def test_a_head_of_strangers_is_noticed_by_the_photos_a_method_may_see(toy_world, recwarn):
    """Where only the rows of the forgotten are exchanged, a method that sees forget photos alone must say so."""
    model, head, splits = toy_world[0], copy.deepcopy(toy_world[1]), toy_world[2]
    wrong = copy.deepcopy(head)
    rows = splits.class_of(splits.forget).tolist()
    with torch.no_grad():
        for row in rows:
            wrong.weight[row] = -head.weight[row]  # as far from its person as can be
    few = {"device": "cpu", "progress": False, "steps": 1}
    unlearn("random_labels", model, wrong, splits, **few)
    assert not [w for w in recwarn.list if "The head names" in str(w.message)]
    with pytest.warns(UserWarning, match=f"The head names 0 of {len(splits.photos('forget', 'train'))} training"):
        unlearn("delete", model, wrong, splits, **few)


@pytest.mark.parametrize(
    "right, lead, warned",
    [(10, 1.0, True), (11, 1.0, False), (0, 0.31, True), (0, 0.29, False)],
)
def test_a_head_is_strange_if_it_is_wrong_as_by_chance_and_sure(right, lead, warned, toy_task, monkeypatch, recwarn):
    """48 photos and 8 names: chance names 6 rightly, and two deviations more are 6 + 2 sqrt(6) = 10.9."""
    photos = toy_task.retain_train_photos
    own = toy_task.head_rows(photos)
    assert (len(photos), len(toy_task.head.weight)) == (48, 8)
    toy_task.head.weight.data = torch.eye(8, 16)
    angle = math.asin(lead / 2**0.5)  # sin and cos of pi / 4 + angle differ by sqrt(2) sin(angle) = lead
    points = math.sin(math.pi / 4 + angle) * torch.eye(8, 16)[(own + 1) % 8]
    points += math.cos(math.pi / 4 + angle) * torch.eye(8, 16)[own]
    points[:right] = torch.eye(8, 16)[own[:right]]
    monkeypatch.setattr(frame, "embed", lambda *_: points)
    frame.warn_of_strange_head(toy_task, METHODS["dispersion"])
    assert bool(recwarn.list) == warned


@pytest.mark.filterwarnings("ignore:The head names")
@pytest.mark.parametrize("part", ["weight", "buffer", "head"])
def test_no_part_of_a_result_may_hold_what_is_no_number(part, toy_world, monkeypatch):
    def spoil(task, config):
        told = {"weight": task.model.stem[0].weight, "buffer": task.model.stem[1].running_var, "head": task.head.weight}
        told[part].data.flatten()[3] = float("inf")

    monkeypatch.setitem(METHODS, "original", dataclasses.replace(METHODS["original"], run=spoil))
    with pytest.raises(CourseError, match="not finite"):
        unlearn("original", *toy_world, device="cpu", progress=False)


# ------------------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("name", METHODS)
def test_the_full_profile_is_longer_than_the_quick_one(name):
    """All but those that take no steps, and gradient ascent, which must not go on (see its config)."""
    quick, full = (make_config(name, profile_options(name, profile)) for profile in ("quick", "full"))
    if issubclass(METHODS[name].config, StepConfig) and name != "gradient_ascent":
        assert full.steps >= 300 > 3 * quick.steps - 1 >= 59
        assert full.steps == METHODS[name].full["steps"]
    else:
        assert full == quick
    assert vars(full) == vars(quick) | METHODS[name].full
