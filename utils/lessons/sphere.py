"""People as points on a sphere, without photos or a network: what each unlearning loss asks of one person's points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..retrieval.scores import retrieval_scores
from ..settings import CourseError

TILT = 0.4  # about how far, in radians, a person's photos sit from the prototype
TOGETHER = 0.5  # the part of a push that all photos of the person share: one network moves them
FIRST, LEAP = 0.05, 0.1  # radians: the longest first step of a point, and the longest of all


@dataclass(frozen=True, eq=False)
class Scene:
    """Some people on a sphere: points (n, d) of length 1, labels (n,) int64, and one prototype (d,) per person.

    Person 0 is the one to be forgotten. Introduced in notebook 04.
    """

    points: Tensor
    labels: Tensor
    prototypes: Tensor

    @property
    def mine(self) -> Tensor:
        """The points (k, d) of the person to be forgotten."""
        return self.points[self.labels == 0]

    def after(self, mine: Tensor) -> Tensor:
        """Return all points (n, d) with person 0's in new places."""
        points = self.points.clone()
        points[self.labels == 0] = mine
        return points

    def found(self, mine: Tensor) -> float:
        """Return R@1 of person 0's points when each searches all the others."""
        ids, points = np.arange(len(self.points)), self.after(mine)
        chosen = (self.labels == 0).numpy()
        gallery, labels = points.numpy(), self.labels.numpy()
        return retrieval_scores(
            gallery[chosen], labels[chosen], gallery, labels, query_ids=ids[chosen], gallery_ids=ids
        ).r1  # fmt: skip


def make_scene(d: int = 3, people: int = 4, photos: int = 12, spread: float = 0.18, seed: int = 0) -> Scene:
    """Return `people` clusters of `photos` points on the sphere in d dimensions, prototypes as far apart as can be.

    `spread` is about how far, in radians, a photo lies from the person's others. Raises CourseError for more than d + 1
    people, who could not all be equally far apart. Introduced in notebook 04.
    """
    if not 2 <= people <= d + 1 or photos < 2:
        raise CourseError(f"A scene in {d} dimensions holds 2 to {d + 1} people with 2 photos or more.")
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
    corners = torch.linalg.qr(simplex(people).T).R[: people - 1].T  # the same corners, in people - 1 dimensions
    prototypes = F.normalize(corners @ turn[: people - 1])
    labels = torch.arange(people).repeat_interleave(photos)
    tilt = F.normalize(tangent(torch.randn(people, d, generator=generator), prototypes)) * TILT
    noise = torch.randn(people * photos, d, generator=generator) * spread / (d - 1) ** 0.5
    return Scene(F.normalize((prototypes + tilt)[labels] + noise), labels, prototypes)


Asked = Callable[[Tensor, Scene, torch.Generator], Tensor]  # what a loss of notebook 04 is


def tangent(gradient: Tensor, z: Tensor) -> Tensor:
    """Return what is left of gradients (n, d) along the sphere at unit vectors z (n, d). Introduced in notebook 04."""
    return gradient - (gradient * z).sum(dim=1, keepdim=True) * z


def journey(
    scene: Scene,
    asked: Asked,
    start: Tensor | None = None,
    steps: int = 120,
    seed: int = 0,
    along: Callable[[Tensor, Tensor], Tensor] = tangent,
) -> Tensor:
    """Return where person 0's points are before and after every step of a loss, (steps + 1, k, d).

    They go downhill, partly each on its own way and partly together, as one network moves them all: FIRST radians at
    the first step for the one that is pushed hardest, never more than LEAP, less and less towards the end. `along`
    takes off what points outwards. Nobody else moves. Introduced in notebook 04.
    """
    generator = torch.Generator().manual_seed(seed)
    z = (scene.mine if start is None else start).clone()
    places, rate = [z], 0.0
    for step in range(steps):
        z = z.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(asked(z, scene, generator), z)
        push = along((1 - TOGETHER) * gradient + TOGETHER * gradient.mean(dim=0), z.detach())
        length = push.norm(dim=1, keepdim=True).clamp(min=1e-12)
        rate = rate or FIRST / float(length.max())
        strides = (rate * (1 - step / steps) * length).clamp(max=LEAP)
        z = F.normalize(z.detach() - strides * push / length)
        places.append(z)
    return torch.stack(places)


# -------------------------------------------------------------------------------------------- the best there can be


def simplex(n: int) -> Tensor:
    """Return n unit vectors (n, n) whose cosines are all -1/(n-1): the most dispersed that n can be. Notebook 04."""
    if n < 2:
        raise CourseError(f"A simplex has at least 2 corners, not {n}.")
    return F.normalize(torch.eye(n) - 1.0 / n)


def orthoplex(d: int) -> Tensor:
    """Return the 2 d unit vectors (2 d, d) along the axes: nearest cosine 0, the best for d + 2 to 2 d points.

    Introduced in notebook 04.
    """
    return torch.cat([torch.eye(d), -torch.eye(d)])


def lowest_nearest_cosine(n: int, d: int) -> float:
    """Return the smallest possible largest cosine of n points in d dimensions, NaN where no closed form is known.

    -1/(n-1) up to d + 1 points (simplex), 0 up to 2 d (orthoplex); Rankin 1955. Introduced in notebook 04.
    """
    if n < 2:
        raise CourseError(f"A pair needs at least 2 points, and there are {n}.")
    return -1.0 / (n - 1) if n <= d + 1 else 0.0 if n <= 2 * d else float("nan")
