"""Dispersion losses against formulas and hand-made point sets."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from utils.settings import CourseError
from utils.unlearning.dispersion import (
    DISPERSIONS,
    SOFT,
    dispersion_loss,
    hardest_cosine,
    hinge_at,
    koleo,
    log_sum_exp_cosine,
    mean_cosine,
    pair_cosines,
    riesz_energy,
    uniformity,
)


def simplex(n: int) -> torch.Tensor:
    """n unit vectors with all pair cosines -1/(n-1)."""
    return F.normalize(torch.eye(n) - 1.0 / n)


def points(n: int = 7, d: int = 5) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("loss", [mean_cosine, hardest_cosine, log_sum_exp_cosine])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_every_loss_reaches_the_bound_on_a_simplex(loss, n):
    assert loss(simplex(n)).item() == pytest.approx(-1 / (n - 1), abs=1e-5)


def test_mean_cosine_is_the_mean_over_pairs():
    z = points()
    pairs = [float(z[i] @ z[j]) for i in range(7) for j in range(7) if i != j]
    assert mean_cosine(z).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_hardest_cosine_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    assert hardest_cosine(z).item() == pytest.approx((0.6 + 0.6 - 0.6) / 3)


def test_mean_cosine_is_blind_to_tight_clusters_and_the_others_are_not():
    corners = torch.tensor([[math.cos(a), math.sin(a)] for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)])
    z = corners.repeat_interleave(10, dim=0)
    assert mean_cosine(z).item() == pytest.approx(-1 / 29, abs=1e-5)
    assert hardest_cosine(z).item() == pytest.approx(1.0)
    assert log_sum_exp_cosine(z).item() > 0.8


def test_log_sum_exp_runs_from_mean_to_maximum():
    z = points()
    assert log_sum_exp_cosine(z, beta=1e-3).item() == pytest.approx(mean_cosine(z).item(), abs=1e-3)
    assert log_sum_exp_cosine(z, beta=1e4).item() == pytest.approx(pair_cosines(z).max().item(), abs=1e-3)
    values = [log_sum_exp_cosine(z, beta=b).item() for b in (1.0, 5.0, 25.0)]
    assert values == sorted(values)


def test_log_sum_exp_gradient_weighs_pairs_by_softmax():
    z = points().requires_grad_()
    log_sum_exp_cosine(z, beta=4.0).backward()
    weights = torch.softmax(4.0 * pair_cosines(z.detach()).flatten(), 0).view(7, 7)
    assert torch.allclose(z.grad, (weights + weights.T) @ z.detach(), atol=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "hard", "lse"])
def test_gradients_stay_finite_for_duplicated_photos(kind):
    z = points(4)[[0, 0, 1, 2]].clone().requires_grad_()
    dispersion_loss(kind, z, torch.zeros(4)).backward()
    assert torch.isfinite(z.grad).all()


def test_people_are_scored_apart_and_lonely_photos_passed_over():
    z, y = points(5), torch.tensor([3, 3, 8, 8, 9])
    expected = (z[0] @ z[1] + z[2] @ z[3]) / 2
    assert dispersion_loss("uniform", z, y).item() == pytest.approx(expected.item(), abs=1e-6)


def test_no_pair_and_unknown_kind_are_one_sentence():
    with pytest.raises(CourseError, match="two photos of one identity"):
        dispersion_loss("hard", points(2), torch.tensor([0, 1]))
    with pytest.raises(CourseError, match="uniform, hard, lse, uniformity, riesz, koleo, hinge"):
        dispersion_loss("wish", points(2), torch.tensor([0, 0]))


def test_uniformity_is_log_sum_exp_in_other_units():
    z = points()
    squared = [float((z[i] - z[j]).square().sum()) for i in range(7) for j in range(7) if i != j]
    by_hand = math.log(sum(math.exp(-2 * d) for d in squared) / len(squared))
    assert uniformity(z).item() == pytest.approx(by_hand, abs=1e-5)


def test_riesz_koleo_and_hinge_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])  # squared distances 0.8, 4 and 3.2
    near, far, middle = 0.8 + SOFT, 4 + SOFT, 3.2 + SOFT
    assert riesz_energy(z).item() == pytest.approx((near**-0.5 + far**-0.5 + middle**-0.5) / 3, rel=1e-5)
    assert koleo(z).item() == pytest.approx(-(math.log(near) * 2 + math.log(middle)) / 6, rel=1e-5)
    soft = [math.log1p(math.exp(10 * (c - 0.1))) / 10 for c in (0.6, -1.0, -0.6)]
    assert hinge_at(z, level=0.1).item() == pytest.approx(sum(soft) / 3, rel=1e-5)


def test_powers_temperatures_and_sharpness_are_heeded_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])  # squared distances 0.8, 4 and 3.2, cosines 0.6, -1, -0.6
    inverse = [1 / (0.8 + SOFT), 1 / (4 + SOFT), 1 / (3.2 + SOFT)]
    assert riesz_energy(z, s=2.0).item() == pytest.approx(sum(inverse) / 3, rel=1e-5)
    assert riesz_energy(z, s=4.0).item() == pytest.approx(sum(x * x for x in inverse) / 3, rel=1e-5)
    kernel = [math.exp(-3 * d) for d in (0.8, 4.0, 3.2)]
    assert uniformity(z, t=3.0).item() == pytest.approx(math.log(sum(kernel) / 3), rel=1e-5)
    soft = [math.log1p(math.exp(4 * (c + 0.2))) / 4 for c in (0.6, -1.0, -0.6)]
    assert hinge_at(z, level=-0.2, sharpness=4.0).item() == pytest.approx(sum(soft) / 3, rel=1e-5)
    assert hinge_at(z).item() == pytest.approx(hinge_at(z, level=0.0, sharpness=10.0).item())
    peaks = sum(math.exp(7 * c) for c in (0.6, -1.0, -0.6)) / 3
    assert log_sum_exp_cosine(z, beta=7.0).item() == pytest.approx(math.log(peaks) / 7, rel=1e-5)


@pytest.mark.parametrize("kind", DISPERSIONS)
def test_a_kind_is_the_mean_of_its_own_loss_over_people(kind):
    """Of three people with 3, 2 and 1 photos; the one photo has no pair."""
    own = {
        "uniform": mean_cosine, "hard": hardest_cosine, "lse": log_sum_exp_cosine, "uniformity": uniformity,
        "riesz": riesz_energy, "koleo": koleo, "hinge": hinge_at,
    }  # fmt: skip
    z = points(6)
    expected = (own[kind](z[[0, 2, 5]]) + own[kind](z[[1, 4]])) / 2
    found = dispersion_loss(kind, z, torch.tensor([7, 9, 7, 1, 9, 7]))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_hinge_lets_strangers_rest():
    pair = F.normalize(torch.tensor([[1.0, 0.02], [0.02, 1.0]])).requires_grad_()
    close, apart = (torch.autograd.grad(hinge_at(pair, level), pair)[0].norm() for level in (-0.5, 0.8))
    assert apart < 0.01 * close


@pytest.mark.parametrize("kind", DISPERSIONS)
def test_identical_photos_give_finite_values_and_gradients(kind):
    z = F.normalize(torch.ones(4, 8)).requires_grad_()
    value = DISPERSIONS[kind](z)
    (gradient,) = torch.autograd.grad(value, z)
    assert torch.isfinite(value) and torch.isfinite(gradient).all()
