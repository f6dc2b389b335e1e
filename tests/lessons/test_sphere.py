"""Points on a sphere: the scene, what each loss does to it, and the best that is possible."""

from __future__ import annotations

import math

import pytest
import torch
from small_world import names_of

from utils.lessons.sphere import journey, lowest_nearest_cosine, make_scene, orthoplex, simplex, tangent
from utils.settings import CourseError
from utils.unlearning.dispersion import hardest_cosine, mean_cosine, pair_cosines

SCENE = make_scene()
SCALE, DRAWS = 3.0, 16  # how sharply the notebook's softmax chooses, and how many names it draws for a photo at once
NOTEBOOK = names_of("04", "04-04", "04-05", "04-11", "04-34", "04-37", "04-41")
LABEL_LOSSES, DISPERSAL_LOSSES = NOTEBOOK["label_losses"], NOTEBOOK["pair_losses"]


@pytest.mark.parametrize("d", [3, 128])
def test_a_scene_is_made_of_tight_clusters_far_apart(d):
    scene = make_scene(d)
    assert torch.allclose(scene.points.norm(dim=1), torch.ones(48), atol=1e-5)
    assert mean_cosine(scene.mine) > 0.9 and (scene.prototypes @ scene.prototypes.T).triu(1).max() < 1e-5
    assert scene.found(scene.mine) == 1.0
    assert torch.equal(make_scene(d, seed=3).points, make_scene(d, seed=3).points)


def test_too_many_people_are_refused():
    with pytest.raises(CourseError, match="holds 2 to 4 people"):
        make_scene(3, people=5)


def test_a_tangent_has_nothing_along_the_point():
    gradient = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose((tangent(gradient, SCENE.mine) * SCENE.mine).sum(1), torch.zeros(12), atol=1e-6)


@pytest.mark.parametrize("name", [*LABEL_LOSSES, *DISPERSAL_LOSSES])
@pytest.mark.parametrize("d", [3, 128])
def test_every_loss_moves_the_points_and_keeps_their_length(name, d):
    scene = make_scene(d)
    places = journey(scene, (LABEL_LOSSES | DISPERSAL_LOSSES)[name], steps=40)
    assert places.shape == (41, 12, d) and torch.equal(places[0], scene.mine)
    assert torch.allclose(places.norm(dim=2), torch.ones(41, 12), atol=1e-5)
    assert (places[-1] * scene.mine).sum(1).mean() < 0.9


@pytest.mark.parametrize("d", [3, 128])
def test_targets_move_a_cluster_and_dispersion_opens_it(d):
    scene = make_scene(d)
    ends = {name: journey(scene, loss)[-1] for name, loss in (LABEL_LOSSES | DISPERSAL_LOSSES).items()}
    for name in ("redrawn labels", "one shared target", "gradient ascent"):
        assert mean_cosine(ends[name]) > 0.8 and scene.found(ends[name]) > 0.7, name
    assert mean_cosine(ends["fixed labels"]) < 0.4 and hardest_cosine(ends["fixed labels"]) > 0.9
    for name in DISPERSAL_LOSSES:
        assert mean_cosine(ends[name]) < 0, name
        assert scene.found(ends[name]) < 0.8, name
    assert hardest_cosine(ends["log-sum-exp"]) < hardest_cosine(ends["mean cosine"]) - 0.1
    assert scene.found(ends["log-sum-exp"]) <= 0.2


@pytest.mark.parametrize(("d", "seed"), [(3, 0), (128, 0), (128, 1), (128, 2)])
def test_who_stays_in_one_piece_is_what_the_notebook_says(d, seed):
    scene = make_scene(d, seed=seed)
    ends = {name: mean_cosine(journey(scene, loss, seed=seed)[-1]) for name, loss in LABEL_LOSSES.items()}
    whole = {"redrawn labels", "one shared target", "gradient ascent"}
    assert {name for name, cosine in ends.items() if cosine > 0.5} == whole


def test_a_journey_moves_by_the_tangent_it_is_given():
    def asked(z, scene, generator):
        return (z @ scene.prototypes[1]).sum()

    def nowhere(gradient, z):
        return torch.zeros_like(gradient)

    assert torch.allclose(journey(SCENE, asked, steps=2, along=nowhere)[-1], SCENE.mine, atol=1e-6)


def test_the_mean_leaves_three_tight_clumps_where_they_are():
    angles = torch.tensor([a + s for a in (0, 120, 240) for s in (-3, -1, 1, 3)]) * math.pi / 180
    height = 0.02 * torch.randn(12, generator=torch.Generator().manual_seed(0))
    clumps = torch.nn.functional.normalize(torch.stack([angles.cos(), angles.sin(), height], dim=1))
    ends = {name: journey(SCENE, loss, start=clumps)[-1] for name, loss in DISPERSAL_LOSSES.items()}
    assert hardest_cosine(ends["mean cosine"]) > 0.98
    assert hardest_cosine(ends["log-sum-exp"]) < 0.6
    assert torch.equal(journey(SCENE, DISPERSAL_LOSSES["mean cosine"], start=clumps, steps=0)[-1], clumps)


def test_simplex_and_orthoplex_are_the_best_there_is():
    for n in (2, 3, 7):
        corners = simplex(n)
        cosines = pair_cosines(corners)
        assert torch.allclose(cosines[torch.isfinite(cosines)], torch.tensor(-1 / (n - 1)), atol=1e-5)
        assert lowest_nearest_cosine(n, n - 1) == pytest.approx(float(cosines.max()), abs=1e-5)
    assert pair_cosines(orthoplex(4)).max() == 0 == lowest_nearest_cosine(8, 4)
    assert math.isnan(lowest_nearest_cosine(9, 4))
    for wrong in (lambda: simplex(1), lambda: lowest_nearest_cosine(1, 3)):
        with pytest.raises(CourseError, match="at least 2"):
            wrong()


# ---- each loss and each step against plain numbers ------------------------------------------------------------


def cross_entropies(z: torch.Tensor, names: list[int]) -> list[float]:
    logits = (SCALE * z.double() @ SCENE.prototypes.double().T).tolist()
    return [math.log(sum(map(math.exp, row))) - row[name] for row, name in zip(logits, names, strict=True)]


def dots(z: torch.Tensor) -> list[list[float]]:
    rows = z.double().tolist()
    return [[sum(a * b for a, b in zip(one, two, strict=True)) for two in rows if two is not one] for one in rows]


def asked_by_hand(name: str, z: torch.Tensor) -> float:
    n, people = len(z), len(SCENE.prototypes)
    if name == "fixed labels":
        losses = cross_entropies(z, [1 + i % (people - 1) for i in range(n)])
    elif name == "redrawn labels":
        wrong = torch.randint(1, people, (DRAWS * n,), generator=torch.Generator().manual_seed(7)).tolist()
        losses = cross_entropies(z.repeat(DRAWS, 1), wrong)
    elif name == "one shared target":
        target = SCENE.prototypes[1] + SCENE.prototypes[2]
        losses = [1 - float(row @ target / target.norm()) for row in z]
    elif name == "gradient ascent":
        losses = [-loss for loss in cross_entropies(z, [0] * n)]
    elif name == "mean cosine":
        losses = [sum(row) / len(row) for row in dots(z)]
    elif name == "nearest cosine":
        losses = [max(row) for row in dots(z)]
    else:
        return math.log(sum(math.exp(10 * c) for row in dots(z) for c in row) / (n * (n - 1))) / 10
    return sum(losses) / len(losses)


@pytest.mark.parametrize("name", [*LABEL_LOSSES, *DISPERSAL_LOSSES])
def test_a_loss_asks_what_its_name_says(name):
    z = torch.nn.functional.normalize(torch.randn(7, 3, generator=torch.Generator().manual_seed(1)))
    value = (LABEL_LOSSES | DISPERSAL_LOSSES)[name](z, SCENE, torch.Generator().manual_seed(7))
    assert float(value) == pytest.approx(asked_by_hand(name, z), abs=1e-5)


def test_two_steps_of_a_journey_by_hand():
    def asked(z, scene, generator):
        return (z * scene.prototypes[1]).sum() + (z[0] * scene.prototypes[2]).sum()

    places = journey(SCENE, asked, steps=2)
    z, first = SCENE.mine.clone(), None
    for step, expected in enumerate(places[1:]):
        gradient = SCENE.prototypes[1].repeat(len(z), 1)
        gradient[0] += SCENE.prototypes[2]
        push = torch.stack([0.5 * row + 0.5 * gradient.mean(dim=0) for row in gradient])
        push = torch.stack([row - (row @ point) * point for row, point in zip(push, z, strict=True)])
        first = first or 0.05 / float(push.norm(dim=1).max())
        strides = [min(first * (1 - step / 2) * float(row.norm()), 0.1) for row in push]
        moved = [p - s * row / row.norm() for p, s, row in zip(z, strides, push, strict=True)]
        z = torch.nn.functional.normalize(torch.stack(moved))
        assert torch.allclose(z, expected, atol=1e-6)


def test_found_asks_for_the_nearest_other_point():
    some = journey(SCENE, DISPERSAL_LOSSES["nearest cosine"])[40]
    points, labels = SCENE.after(some), SCENE.labels.tolist()
    hits = []
    for i in range(len(labels)):
        if labels[i] == 0:
            others = sorted((j for j in range(len(labels)) if j != i), key=lambda j: -float(points[i] @ points[j]))
            hits.append(labels[others[0]] == 0)
    assert SCENE.found(some) == pytest.approx(sum(hits) / 12) and 0 < sum(hits) < 12
    assert torch.equal(points[SCENE.labels > 0], SCENE.points[SCENE.labels > 0])


def test_a_scenes_people_stand_beside_their_prototypes_and_photos_beside_each_other():
    for spread in (0.02, 0.18):
        scene = make_scene(3, spread=spread)
        centres = torch.stack([scene.points[scene.labels == person].mean(dim=0) for person in range(4)])
        angles = (torch.nn.functional.normalize(centres) * scene.prototypes).sum(dim=1).acos()
        assert torch.allclose(angles, torch.full((4,), math.atan(0.4)), atol=0.05 + spread / 2)
        around = (scene.mine * torch.nn.functional.normalize(centres[0], dim=0)).sum(dim=1).clamp(max=1).acos()
        assert 0.4 * spread < float(around.mean()) < 2 * spread
