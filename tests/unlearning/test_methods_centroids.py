"""Centroids: where forget photos are sent, that the target belongs to the photo, and what a known slip would do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.models.embedding import embed
from utils.settings import CourseError
from utils.unlearning.loop import forget_batches, unlearn
from utils.unlearning.losses import Teacher
from utils.unlearning.methods.centroids import (
    cluster,
    duck_targets,
    farthest_clusters,
    info_nce,
    pull,
    retained_centroids,
)
from utils.unlearning.registry import METHODS, StepConfig, make_config


def unit(*rows) -> torch.Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float32))


def rows_at(table: torch.Tensor, photos: np.ndarray) -> torch.Tensor:
    return table[torch.from_numpy(photos)]


def run(name, recogniser, splits, **config):
    return unlearn(name, recogniser.model, recogniser.head, splits, device="cpu", progress=False, **config)


def slow_centroids(task) -> dict[int, np.ndarray]:
    """One unit mean direction per retained person, person by person."""
    points = embed(task.model, task.splits.faces).double().numpy()
    labels, out = task.splits.faces.labels, {}
    for person in task.splits.retain_train:
        mean = np.mean([points[i] for i in task.splits.train if labels[i] == person], axis=0)
        out[person] = mean / np.linalg.norm(mean)
    return out


# ----------------------------------------------------------------------------------------------------------- DUCK


def test_pull_is_the_mean_of_one_minus_the_cosine():
    assert pull(unit((1, 0), (0, 1)), unit((1, 0), (1, 0))).item() == pytest.approx(0.5)


def test_centroids_are_the_means_of_all_kept_training_photos(task):
    points = Teacher.of(task).points(task.retain_train_photos)
    expected = np.stack(list(slow_centroids(task).values()))
    np.testing.assert_allclose(retained_centroids(task, points).numpy(), expected, atol=1e-5)


def test_duck_sends_each_photo_to_its_nearest_kept_centroid(task):
    targets, centroids = duck_targets(task), slow_centroids(task)
    points = embed(task.model, task.splits.faces).double().numpy()
    for photo in task.forget_photos:
        nearest = max(centroids.values(), key=lambda c, z=points[photo]: float(c @ z))
        np.testing.assert_allclose(targets[photo].numpy(), nearest, atol=1e-5)
    others = np.setdiff1d(np.arange(len(targets)), task.forget_photos)
    assert (rows_at(targets, others) == 0).all()
    assert task.images_processed == len(task.retain_train_photos) + len(task.forget_photos)


def test_duck_losses_agree_with_a_slow_computation(task, monkeypatch):
    targets, head = duck_targets(task), task.head.weight.detach().clone()
    points = embed(task.model, task.splits.faces)
    images, seen = type(task.splits.faces).images, []
    monkeypatch.setattr(
        type(task.splits.faces), "images", lambda faces, i: (seen.append(np.asarray(i)), images(faces, i))[1]
    )
    options = {"steps": 1, "retain_per_step": 5, "photos_per_identity": 3, "pull_weight": 2.0, "retain_weight": 0.5}
    METHODS["duck"].run(task, make_config("duck", options))
    forget, retain = seen[-1][:6], seen[-1][6:]
    expected = np.mean([1 - float(points[i] @ targets[i]) for i in forget])
    assert task.history[0]["forget"] == pytest.approx(2 * expected, rel=1e-4)
    losses = []
    for photo, row in zip(retain, task.splits.class_of(task.splits.faces.labels[retain]), strict=True):
        cosines = (F.normalize(head).double() @ points[photo].double()).numpy()
        losses.append(np.log(np.exp(16.0 * cosines).sum()) - 16.0 * cosines[row])
    assert task.history[0]["retain"] == pytest.approx(0.5 * np.mean(losses), rel=1e-4)


def test_duck_brings_photos_to_their_targets_and_trains_the_head(tiny_recogniser, tiny_splits, task):
    targets = rows_at(duck_targets(task), task.forget_photos)
    outcome = run(
        "duck", tiny_recogniser, tiny_splits, steps=15, learning_rate=1e-3, retain_per_step=12, retain_weight=0.1
    )
    before, after = (
        pull(embed(m, tiny_splits.faces, task.forget_photos), targets).item()
        for m in (tiny_recogniser.model, outcome.model)
    )
    assert after < 0.7 * before
    assert not torch.equal(outcome.trained_head.weight, tiny_recogniser.head.weight)
    still = run("duck", tiny_recogniser, tiny_splits, steps=2, retain_per_step=12, trainable="backbone")
    assert torch.equal(still.trained_head.weight, tiny_recogniser.head.weight)


def test_assignments_appended_in_every_inner_step_give_wrong_targets(task):
    """The slip of a published DUCK: one entry per inner retain step, looked up later by the forget batch's number."""
    targets = duck_targets(task)
    config = StepConfig(identities_per_step=1, photos_per_identity=4)
    stream = forget_batches(task, config)
    batches, inner_steps, appended = [next(stream) for _ in range(3)], 2, []
    for batch in batches:
        for _ in range(inner_steps):
            appended.append(rows_at(targets, batch))
    for number, batch in enumerate(batches):
        right = rows_at(targets, batch)
        assert torch.equal(appended[number * inner_steps], right)
        assert torch.equal(appended[number], appended[(number // inner_steps) * inner_steps])
    # From the second batch on the lookup by number gives the targets of another batch.
    assert torch.equal(appended[1], rows_at(targets, batches[0])) and not np.array_equal(batches[0], batches[1])
    wrong = [not torch.equal(appended[n], rows_at(targets, batch)) for n, batch in enumerate(batches)]
    assert not wrong[0] and any(wrong)


# ----------------------------------------------------------------------------------------------------------- CURE


def test_clusters_are_found_without_names():
    points = unit((1, 0.05), (1, -0.05), (0.05, 1), (-0.05, 1), (-1, 0))
    centroids, own = cluster(points, 3, seed=0)
    assert own[0] == own[1] and own[2] == own[3] and len(set(own.tolist())) == 3
    assert own.dtype == torch.int64
    torch.testing.assert_close(centroids[own], unit((1, 0), (1, 0), (0, 1), (0, 1), (-1, 0)), atol=1e-5, rtol=0)
    again = cluster(points, 3, seed=0)
    assert torch.equal(again[0], centroids) and torch.equal(again[1], own)


def test_the_farthest_cluster_is_the_one_at_the_largest_distance():
    centroids = F.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    expected = [int(np.argmax([np.linalg.norm(a - b) for b in centroids.numpy()])) for a in centroids.numpy()]
    assert farthest_clusters(centroids).tolist() == expected


def test_info_nce_is_the_surprise_at_the_wanted_centroid():
    points, centroids = unit((1, 0)), unit((1, 0), (0, 1), (-1, 0))
    parts = np.exp(np.array([1.0, 0.0, -1.0]) / 0.5)
    loss = info_nce(points, centroids, torch.tensor([1]), 0.5)
    assert loss.item() == pytest.approx(-np.log(parts[1] / parts.sum()), rel=1e-5)


def test_cure_like_losses_agree_with_a_slow_computation(task, monkeypatch):
    points = embed(task.model, task.splits.faces)
    centroids, own = cluster(rows_at(points, task.forget_photos), 3, task.seed)
    images, seen = type(task.splits.faces).images, []
    monkeypatch.setattr(
        type(task.splits.faces), "images", lambda faces, i: (seen.append(np.asarray(i)), images(faces, i))[1]
    )
    options = {"steps": 1, "retain_per_step": 5, "photos_per_identity": 3, "clusters": 3, "contrast_weight": 0.5}
    METHODS["cure_like"].run(task, make_config("cure_like", options | {"temperature": 0.2}))
    batch = next(photos for photos in seen if len(photos) == 11)[:6]
    far, near = [], []
    for photo in batch:
        home = centroids[own[int(np.flatnonzero(task.forget_photos == photo)[0])]]
        goal = int(np.argmax([np.linalg.norm(home - c) for c in centroids]))
        cosines = (centroids @ points[photo]).double().numpy()
        far.append(1 - cosines[goal])
        near.append(np.log(np.exp(cosines / 0.2).sum()) - cosines[goal] / 0.2)
    assert task.history[0]["forget"] == pytest.approx(np.mean(far), rel=1e-4)
    assert task.history[0]["contrast"] == pytest.approx(0.5 * np.mean(near), rel=1e-4)
    assert task.history[0]["retain"] == pytest.approx(0.0, abs=1e-5)
    assert task.images_processed == 11 + len(task.forget_photos) + 5


def test_cure_like_moves_clusters_and_never_looks_at_a_name(tiny_recogniser, tiny_splits):
    outcome = run("cure_like", tiny_recogniser, tiny_splits, steps=20, retain_per_step=12)
    assert outcome.history[-1]["forget"] < 0.7 * outcome.history[0]["forget"]
    assert METHODS["cure_like"].labels == () and "not be verified" in METHODS["cure_like"].caveat
    assert torch.equal(outcome.trained_head.weight, tiny_recogniser.head.weight)


@pytest.mark.parametrize(
    "name, config, told",
    [
        ("cure_like", {"clusters": 1}, "at least 2"),
        ("cure_like", {"clusters": 1000}, "1000 clusters out of"),
        ("cure_like", {"temperature": 0.0}, "temperature must be above 0"),
        ("cure_like", {"retain_per_step": 0}, "'cure_like' needs retained photos"),
        ("duck", {"retain_per_step": 0}, "'duck' needs retained photos"),
        ("duck", {"forget_scale": 0.0}, "forget_scale must be above 0"),
        ("duck", {"learning_rate": 1e6}, "diverged at step"),
        ("cure_like", {"learning_rate": 1e6}, "diverged at step"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, config, told, tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match=told):
        run(name, tiny_recogniser, tiny_splits, **config)
