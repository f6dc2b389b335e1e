"""Dispersion losses: how tightly one person's points sit together on the sphere, as numbers to push down.

Every function of one person takes unit vectors z (n, d) with n >= 2 and returns a scalar; S is the sum of the z_i and
c_ij = z_i . z_j. "Uniform" and "hard" are this course's reading of the two weightings named in arXiv 2512.13317.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..settings import CourseError, one_of

SOFT = 1e-2  # added to squared distances: a pair of identical points has a large force, not an infinite one


def at_least_two(z: Tensor) -> Tensor:
    """Return z (n, d) unchanged; raises CourseError when it holds fewer than two points."""
    if len(z) < 2:
        raise CourseError(f"A pair needs at least 2 points, and there are {len(z)}.")
    return z


def pair_cosines(z: Tensor) -> Tensor:
    """Return the cosines (n, n) between unit vectors z (n, d) in float32; the diagonal is -inf. Notebook 08."""
    z = at_least_two(z).float()
    return (z @ z.T).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -math.inf)


def mean_cosine(z: Tensor) -> Tensor:
    """Return the mean cosine over pairs, (|S|^2 - n) / (n (n - 1)): uniform dispersion.

    Every pair weighs the same. Minimal, -1/(n-1), whenever S = 0: even for a few tight clusters. Notebook 08.
    """
    n = len(at_least_two(z))
    total = z.float().sum(dim=0)
    return (total @ total - n) / (n * (n - 1))


def hardest_cosine(z: Tensor) -> Tensor:
    """Return the mean over photos of the cosine to the nearest other photo: hard dispersion. Notebook 08."""
    return pair_cosines(z).amax(dim=1).mean()


def log_sum_exp_cosine(z: Tensor, beta: float = 10.0) -> Tensor:
    """Return (1/beta) log mean exp(beta c_ij) over pairs: the bridge from uniform (beta -> 0) to hard (beta -> inf).

    The gradient weighs each pair by softmax(beta c). At beta = 2t it is the uniformity loss of Wang & Isola (ICML
    2020) up to constants. Introduced in notebook 08.
    """
    if beta <= 0:
        raise CourseError(f"beta must be above 0, not {beta}; near 0 the loss is the mean cosine.")
    n = len(z)
    # the diagonal is -inf and adds nothing to the sum
    return (torch.logsumexp(beta * pair_cosines(z).flatten(), dim=0) - math.log(n * (n - 1))) / beta


def squared_distances(z: Tensor) -> Tensor:
    """Return 2 - 2 c_ij + SOFT (n (n - 1),) over ordered pairs of unit vectors z (n, d): never 0, so safe to divide by.

    Introduced in notebook 08.
    """
    cosines = pair_cosines(z)
    return (2.0 - 2.0 * cosines[torch.isfinite(cosines)]).clamp(min=0.0) + SOFT


def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    """Return log mean exp(-t d_ij^2) over pairs: 2t (lse at beta 2t, less 1), Wang & Isola (ICML 2020). Notebook 08."""
    return 2.0 * t * (log_sum_exp_cosine(z, beta=2.0 * t) - 1.0)


def riesz_energy(z: Tensor, s: float = 1.0) -> Tensor:
    """Return the mean over pairs of d_ij^-s: charges that repel each other (MHE, Liu et al., NeurIPS 2018).

    The force would be infinite at distance 0; SOFT caps it. Introduced in notebook 08.
    """
    return squared_distances(z).pow(-s / 2.0).mean()


def koleo(z: Tensor) -> Tensor:
    """Return -mean log of each photo's distance to its nearest same-identity photo (Sablayrolles et al., ICLR 2019).

    Like the hard loss it sees nearest pairs only, and it pushes near duplicates most. Introduced in notebook 08.
    """
    nearest = (2.0 - 2.0 * pair_cosines(z).amax(dim=1)).clamp(min=0.0) + SOFT
    return -0.5 * nearest.log().mean()


def hinge_at(z: Tensor, level: float = 0.0, sharpness: float = 10.0) -> Tensor:
    """Return mean softplus(b (c_ij - level)) / b over pairs: the push fades once a pair is as far apart as strangers.

    `level` is the cosine of ordinary impostors, `sharpness` is b. Introduced in notebook 08.
    """
    cosines = pair_cosines(z)
    return F.softplus(sharpness * (cosines[torch.isfinite(cosines)] - level)).mean() / sharpness


DISPERSIONS: dict[str, Callable[..., Tensor]] = {
    "uniform": mean_cosine,
    "hard": hardest_cosine,
    "lse": log_sum_exp_cosine,
    "uniformity": uniformity,
    "riesz": riesz_energy,
    "koleo": koleo,
    "hinge": hinge_at,
}


def pairs_by_identity(embeddings: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the rows (n, d) of each identity that has at least two, for embeddings (B, d) and labels (B,)."""
    groups = [embeddings[labels == label] for label in labels.unique()]
    return [z for z in groups if len(z) >= 2]


def dispersion_loss(kind: str, embeddings: Tensor, labels: Tensor, **options: float) -> Tensor:
    """Return the mean over identities of one dispersion loss, for unit embeddings (B, d) and labels (B,).

    Identities with a single photo in the batch have no pair and are passed over; raises CourseError if none has two.
    Pairs of different people are left alone: they are strangers already. Introduced in notebook 08.
    """
    one_of(kind, DISPERSIONS, "dispersion")
    losses = [DISPERSIONS[kind](z, **options) for z in pairs_by_identity(embeddings, labels)]
    if not losses:
        raise CourseError("Dispersion needs two photos of one identity in a batch; every identity here has one.")
    return torch.stack(losses).mean()
