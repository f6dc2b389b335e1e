"""How far one step may go: learning rates that carry over from one network to another."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.backbones import FaceBackbone
from ..models.trunks import Looks, points_of
from ..settings import CourseError

# Degrees per unit of learning rate that pass as usual. `python -m utils.recognisers --degrees mini --start embedded`
# measures a network: this one lies below, dlib's far above.
USUAL = 20_000.0
NUDGE = 1e-5  # what is tried out: small enough for a straight line
PROBED = 32  # photos


def evenly(photos: np.ndarray, most: int) -> np.ndarray:
    """Return up to `most` photos, evenly spaced."""
    return photos[np.unique(np.linspace(0, len(photos) - 1, min(most, len(photos))).astype(int))]


def degrees_per_rate(model: FaceBackbone, weights: list[torch.nn.Parameter], looks: Tensor) -> float:
    """Return by how many degrees points move on the sphere, per unit of learning rate, if all weights go along.

    Adam moves every weight by about the learning rate. Here each takes a tiny step along the sign of one gradient, that
    of the points' mean cosine to a random direction, and is put back. `looks` are what `points_of` takes.
    """
    asked = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    points = F.normalize(points_of(model, looks).float())
    aim = F.normalize(torch.randn(points.shape[1], generator=torch.Generator().manual_seed(0)), dim=0).to(points.device)
    slopes = torch.autograd.grad((points @ aim).mean(), weights, allow_unused=True)
    points = points.detach()
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, slope in zip(weights, slopes, strict=True):
            weight.add_(0.0 if slope is None else NUDGE * slope.sign())
        chords = (F.normalize(points_of(model, looks).float()) - points).norm(dim=1)
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
    for weight, old in zip(weights, asked, strict=True):
        weight.requires_grad_(old)
    turned = torch.rad2deg(2 * torch.asin((chords / 2).clamp(max=1)))
    one = (points - points[0]).abs().max() <= 1e-6 if len(points) > 1 else not points.any()
    return 0.0 if one else float(turned.mean()) / NUDGE


def share_of_rate(model: FaceBackbone, weights: list[torch.nn.Parameter], looks: Looks, photos: np.ndarray) -> float:
    """Return the part of a learning rate that a network takes: all of it, or less if its points move more easily, as
    measured on a few of some photos.

    So a setting that was chosen on one network serves another: a trust ratio (LARS, You et al. 2017) that looks at the
    points, not at the weights' lengths, and once, at the start. Raises CourseError if all points are one or stay.
    """
    moving = [weight for weight in model.parameters() if any(weight is other for other in weights)]
    if not moving:
        return 1.0  # the head alone
    degrees = degrees_per_rate(model, moving, looks.of(evenly(photos, PROBED)))
    if degrees == 0:
        why = "All points of this network are one, or no step moves them"
        raise CourseError(f"{why}: if all weights of a layer are zero, train it first.")
    return min(1.0, USUAL / degrees)  # 1 where a weight is no number: the first step will say so
