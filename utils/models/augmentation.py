"""The small changes of a photo that training draws anew each time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue look (ITU-R BT.601)


def augment(faces: Tensor, generator: torch.Generator, grey: float = 0.0, tint: float = 0.1) -> Tensor:
    """Return uint8 faces (B, 3, H, W) moved, re-lit and some of them partly covered, all at random. Notebook 02.

    A share `grey` of them loses its colour, and each channel of all is brighter or darker by up to `tint`.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        draws = torch.rand(len(faces), *shape, generator=generator)
        return (draws * (high - low) + low).to(faces.device)

    moved = move(faces.float(), uniform(-0.2, 0.2), uniform(0.85, 1.15), uniform(-0.14, 0.14, 2), uniform(0, 1) < 0.5)
    if grey:
        moved = torch.where(uniform(0, 1, 1, 1, 1) < grey, greyscale(moved), moved)
    gain, tints, offset = uniform(0.85, 1.15, 1, 1, 1), uniform(1 - tint, 1 + tint, 3, 1, 1), uniform(-12, 12, 1, 1, 1)
    covered = rectangle(faces.shape[-1], uniform(0, 1, 2), uniform(0.07, 0.22, 2)) & (uniform(0, 1, 1, 1, 1) < 0.35)
    lit = torch.where(covered, uniform(0, 255, 3, 1, 1), moved * gain * tints + offset)
    return lit.round_().clamp_(0, 255).to(torch.uint8)


def greyscale(faces: Tensor) -> Tensor:
    """Return faces (B, 3, H, W) of the same type with their brightness in all three channels (ITU-R BT.601)."""
    bright = torch.einsum("bchw,c->bhw", faces.float(), torch.tensor(LUMA, device=faces.device))
    bright = bright if faces.is_floating_point() else bright.round()
    return bright.to(faces.dtype)[:, None].expand(-1, 3, -1, -1)


def move(faces: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor, mirror: Tensor) -> Tensor:
    """Return float faces turned by angles (B,) in radians, zoomed, shifted (B, 2) in half sides, some mirrored."""
    side = 1.0 - 2.0 * mirror
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [cos * side, -sin, shift[:, 0], sin * side, cos, shift[:, 1]]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(faces.shape), align_corners=False)
    return F.grid_sample(faces, grid, padding_mode="reflection", align_corners=False)


def rectangle(size: int, centre: Tensor, half: Tensor) -> Tensor:
    """Return masks (B, 1, S, S) of rectangles with centres and half sides (B, 2) given as shares of the side."""
    place = torch.linspace(0, 1, size, device=centre.device)
    inside = (place - centre[..., None]).abs() < half[..., None]
    return (inside[:, 1, :, None] & inside[:, 0, None, :])[:, None]
