"""Points on a sphere: the scene, what each loss does to it, and the best that is possible."""

from __future__ import annotations

import math

import pytest
import torch

from utils.lessons.sphere import (
    DISPERSAL_LOSSES,
    LABEL_LOSSES,
    journey,
    lowest_nearest_cosine,
    make_scene,
    orthoplex,
    simplex,
    tangent,
    uniform,
)
from utils.settings import CourseError
from utils.unlearning.dispersion import hardest_cosine, mean_cosine, pair_cosines

SCENE = make_scene()


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


def test_the_mean_leaves_three_tight_clumps_where_they_are():
    angles = torch.tensor([a + s for a in (0, 120, 240) for s in (-3, -1, 1, 3)]) * math.pi / 180
    height = 0.02 * torch.randn(12, generator=torch.Generator().manual_seed(0))
    clumps = torch.nn.functional.normalize(torch.stack([angles.cos(), angles.sin(), height], dim=1))
    ends = {name: journey(SCENE, loss, start=clumps)[-1] for name, loss in DISPERSAL_LOSSES.items()}
    assert hardest_cosine(ends["mean cosine"]) > 0.98
    assert hardest_cosine(ends["log-sum-exp"]) < 0.6
    assert torch.equal(journey(SCENE, uniform, start=clumps, steps=0)[-1], clumps)


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
