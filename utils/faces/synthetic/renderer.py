"""The renderer: turns the numbers of latents.py into uint8 portraits, in batches and on the device they are on.

A head is a height field (skull, brow, nose, cheeks, lips, chin), which gives shading and parallax, under an albedo
layer (skin, hair, eyes, lips, beard, glasses). Every pixel asks which point of the face it sees (camera), how high and
how steep the face is there (geometry), which colour it has (albedo) and how much light it gets (shading); the layers
are laid over one another from back to front in linear light, and a sensor turns the result into a photo.

Shapes: a factor is (B, 1, 1), a plane of pixels (B, S, S), a colour (B, 3, 1, 1), a picture (B, 3, S, S). Lengths are
in units of half the image side, x to the right and y down. Most numbers below are proportions of a face, chosen by eye.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...settings import CourseError, whole_number
from .canvas import Scene, rgb, scene
from .features import back_hair, background, body, ears, front_hair, glasses, hair_of, head, long_beard, occluder
from .latents import ATTRIBUTES, NUISANCE

CHUNK_PIXELS = 65_536  # photos are drawn in chunks that stay in the processor's cache
SMALLEST, LARGEST = 32, 512  # pixels per side


# ---------------------------------------------------------------------------------------------------------------------
# The whole picture
# ---------------------------------------------------------------------------------------------------------------------
def check_size(image_size: int) -> int:
    """Return the image size as an int; raises CourseError for one that cannot be drawn."""
    return whole_number(image_size, "image_size", SMALLEST, LARGEST)


@torch.no_grad()
def render(latents: Tensor, nuisance: Tensor, image_size: int = 64) -> Tensor:
    """Draw people (B, len(ATTRIBUTES)) under conditions (B, len(NUISANCE)) as uint8 photos (B, 3, S, S).

    Draws on the device of the latents; raises CourseError for shapes or sizes that do not fit. Introduced in
    notebook 02.
    """
    image_size = check_size(image_size)
    if latents.shape[1:] != (len(ATTRIBUTES),) or nuisance.shape != (len(latents), len(NUISANCE)):
        raise CourseError(
            f"render expects latents (B, {len(ATTRIBUTES)}) and nuisance (B, {len(NUISANCE)}), "
            f"but got {tuple(latents.shape)} and {tuple(nuisance.shape)}."
        )
    latents, nuisance = latents.float(), nuisance.to(latents.device).float()
    step = max(1, CHUNK_PIXELS // image_size**2)
    chunks = zip(latents.split(step), nuisance.split(step), strict=True)
    return torch.cat([_render_chunk(who, how, image_size) for who, how in chunks])


def _render_chunk(latents: Tensor, nuisance: Tensor, size: int) -> Tensor:
    """Draw the layers from back to front."""
    sc = scene(latents, nuisance, size)
    hair = hair_of(sc)
    picture = back_hair(sc, background(sc), hair)
    picture = ears(sc, body(sc, picture))
    picture = head(sc, picture, hair)
    picture = _only_where(sc.who["beard_length"] * sc.who["beard"], long_beard, sc, picture)
    picture = front_hair(sc, picture, hair)
    picture = _only_where(sc.who["glasses"] * (1 - sc.how["glasses_off"]), glasses, sc, picture)
    picture = _only_where(sc.how["occluder"], occluder, sc, picture)
    return _sensor(sc.how, picture)


def _only_where(amount: Tensor, layer: Callable[[Scene, Tensor], Tensor], sc: Scene, picture: Tensor) -> Tensor:
    """Draw a rare layer in place, and only on the photos whose amount is not zero: the others cost nothing."""
    rows = amount.reshape(-1).nonzero().squeeze(1)
    if len(rows):
        picture[rows] = layer(sc.select(rows), picture[rows])
    return picture


# ---------------------------------------------------------------------------------------------------------------------
# Sensor
# ---------------------------------------------------------------------------------------------------------------------
def _sensor(how: dict[str, Tensor], picture: Tensor) -> Tensor:
    """Expose, tint, blur, add noise and round to uint8."""
    warm = how["warmth"].unsqueeze(1) * rgb(0.14, 0.01, -0.20, picture)
    photo = (picture * (1 + warm) * how["exposure"].unsqueeze(1)).clamp_(min=0)
    photo = photo * (1 + 0.10 * photo) / (1 + 0.45 * photo)  # a film-like shoulder keeps highlights coloured
    photo = photo.mul_(1.18).clamp_(0, 1).sqrt_()  # the display's gamma
    photo = torch.lerp(photo, _neighbours(photo), 0.7 * how["blur"].unsqueeze(1))
    size = photo.shape[-1]
    photo = photo + _grain(how, size).to(photo.device) * (how["noise"] * (64 / size)).unsqueeze(1)
    return photo.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _neighbours(photo: Tensor) -> Tensor:
    """Return the mean of each pixel's four neighbours."""
    wide = torch.nn.functional.pad(photo, (1, 1, 1, 1), mode="replicate")
    return (wide[..., 1:-1, 2:] + wide[..., 1:-1, :-2] + wide[..., 2:, 1:-1] + wide[..., :-2, 1:-1]) / 4


def _grain(how: dict[str, Tensor], size: int) -> Tensor:
    """Return standard normal noise (B, 3, S, S) on the CPU, the same on every machine for the same `grain`."""
    seeds = (how["grain"].reshape(-1) * 2**24).long().tolist()
    noise = [np.random.default_rng(seed).standard_normal((3, size, size), dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(noise))
