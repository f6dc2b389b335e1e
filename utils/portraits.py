"""The renderer: turns the numbers of utils/traits.py into uint8 portraits, in batches and on the device they are on.

A head is a height field (skull, brow, nose, cheeks, lips, chin), which gives shading and parallax, under an albedo
layer (skin, hair, eyes, lips, beard, glasses). Every pixel asks which point of the face it sees (camera), how high and
how steep the face is there (geometry), which colour it has (albedo) and how much light it gets (shading); the layers
are laid over one another from back to front in linear light, and a sensor turns the result into a photo.

Shapes: a factor is (B, 1, 1), a plane of pixels (B, S, S), a colour (B, 3, 1, 1), a picture (B, 3, S, S). Lengths are
in units of half the image side, x to the right and y down. Most numbers below are proportions of a face, chosen by eye.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.settings import CourseError
from utils.traits import NUISANCE, TRAITS, Factor, check_whole

CHUNK_PIXELS = 65_536  # photos are drawn in chunks that stay in the processor's cache
SMALLEST, LARGEST = 32, 512  # pixels per side

# sRGB colours from light to deep.
SKIN = ((244, 211, 192), (238, 194, 166), (226, 176, 140), (204, 150, 112), (176, 122, 86), (140, 93, 64),
        (110, 72, 51), (86, 57, 43))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# The whole picture
# ---------------------------------------------------------------------------------------------------------------------
def check_size(image_size: int) -> None:
    """Raise a CourseError unless the image size is one that can be drawn."""
    check_whole(image_size, "image_size", SMALLEST)
    if image_size > LARGEST:
        raise CourseError(f"image_size must be between {SMALLEST} and {LARGEST} pixels, but it is {image_size}.")


@torch.no_grad()
def render(latents: Tensor, nuisance: Tensor, image_size: int = 64) -> Tensor:
    """Draw people (B, len(TRAITS)) under conditions (B, len(NUISANCE)) as uint8 photos (B, 3, S, S).

    Draws on the device of the latents; raises CourseError for shapes or sizes that do not fit. Introduced in
    notebook 02.
    """
    check_size(image_size)
    if latents.shape[1:] != (len(TRAITS),) or nuisance.shape != (len(latents), len(NUISANCE)):
        raise CourseError(
            f"render expects latents (B, {len(TRAITS)}) and nuisance (B, {len(NUISANCE)}), "
            f"but got {tuple(latents.shape)} and {tuple(nuisance.shape)}."
        )
    latents, nuisance = latents.float(), nuisance.to(latents.device).float()
    step = max(1, CHUNK_PIXELS // image_size**2)
    chunks = zip(latents.split(step), nuisance.split(step), strict=True)
    return torch.cat([_render_chunk(who, how, image_size) for who, how in chunks])


def _render_chunk(latents: Tensor, nuisance: Tensor, size: int) -> Tensor:
    """Draw the layers from back to front."""
    sc = _scene(latents, nuisance, size)
    hair = _hair(sc)
    picture = _back_hair(sc, _background(sc), hair)
    picture = _ears(sc, _body(sc, picture))
    picture = _head(sc, picture, hair)
    picture = _only_where(sc.who["beard_length"] * sc.who["beard"], _long_beard, sc, picture)
    picture = _front_hair(sc, picture, hair)
    picture = _only_where(sc.who["glasses"] * (1 - sc.how["glasses_off"]), _glasses, sc, picture)
    picture = _only_where(sc.how["occluder"], _occluder, sc, picture)
    return _sensor(sc.how, picture)


def _only_where(amount: Tensor, layer: Callable[[_Scene, Tensor], Tensor], sc: _Scene, picture: Tensor) -> Tensor:
    """Draw a rare layer in place, and only on the photos whose amount is not zero: the others cost nothing."""
    rows = amount.reshape(-1).nonzero().squeeze(1)
    if len(rows):
        picture[rows] = layer(sc.select(rows), picture[rows])
    return picture


# ---------------------------------------------------------------------------------------------------------------------
# Drawing tools: small functions on planes
# ---------------------------------------------------------------------------------------------------------------------
def _bump(d2: Tensor) -> Tensor:
    """Return about exp(-d2), zero beyond d2 = 4 and much cheaper."""
    return (1 - 0.25 * d2).clamp_(min=0).square_().square_()


def _spot(u: Tensor, v: Tensor, cu, cv, ru, rv) -> Tensor:
    """Return a soft spot of radii (ru, rv) at (cu, cv)."""
    return _bump(((u - cu) / ru).square() + ((v - cv) / rv).square())


def _squarer(t2: Tensor) -> Tensor:
    """Bend t squared so that an ellipse becomes a little more like a rounded box."""
    return t2 * (0.65 + 0.35 * t2)


def _ripples(u: Tensor, v: Tensor, fu: float, fv: float, bend: float, gu: float, gv: float) -> Tensor:
    """Return wavy bumps between -1 and 1: frequencies (fu, fv), bent by `bend` so that no grid shows."""
    return (fu * u + bend * (gu * v).sin()).sin() * (fv * v + bend * (gv * u).sin()).sin()


def _mix(picture: Tensor, colour: Tensor, mask: Tensor) -> Tensor:
    """Lay a colour or a picture over a picture where the mask (B, S, S) says so."""
    return torch.lerp(picture, colour, mask.unsqueeze(1))


def _columns(table: Tensor, factors: tuple[Factor, ...]) -> dict[str, Tensor]:
    """Name the columns of a table (B, F), each as a (B, 1, 1) tensor that broadcasts over pixels."""
    return {f.name: table[:, j].reshape(-1, 1, 1) for j, f in enumerate(factors)}


def _colour(columns: dict[str, Tensor], name: str) -> Tensor:
    """Return a named colour in linear light; squaring undoes the display's gamma."""
    return torch.stack([columns[f"{name}_{c}"] for c in ("red", "green", "blue")], dim=1).square()


def _rgb(red: float, green: float, blue: float, like: Tensor) -> Tensor:
    """Return three numbers as a colour (1, 3, 1, 1) on the device of `like`."""
    return torch.tensor([red, green, blue], device=like.device).reshape(1, 3, 1, 1)


@dataclass
class _Scene:
    """Everything the layers share: traits, conditions, coordinate planes, colours, and the sharpness of edges."""

    who: dict[str, Tensor]
    how: dict[str, Tensor]
    x: Tensor  # upright picture plane
    y: Tensor
    u: Tensor  # face plane: the surface point that is seen here
    v: Tensor
    sharp: Tensor  # pixels per unit
    skin: Tensor
    light: tuple[Tensor, Tensor, Tensor]  # unit vector towards the main light

    def select(self, rows: Tensor) -> _Scene:
        """Return the scene of some of the photos."""
        parts = (self.x, self.y, self.u, self.v, self.sharp, self.skin)
        named = ({name: column[rows] for name, column in table.items()} for table in (self.who, self.how))
        return _Scene(*named, *(part[rows] for part in parts), tuple(axis[rows] for axis in self.light))

    def edge(self, distance: Tensor) -> Tensor:
        """Turn a signed distance (positive inside) into an anti-aliased mask, one pixel wide."""
        return (distance * self.sharp + 0.5).clamp_(0, 1)

    def shade(self, nx: Tensor, ny: Tensor, nz: Tensor) -> Tensor:
        """Return the light on a surface with this normal: Lambert, softened at the terminator, plus ambient."""
        lx, ly, lz = self.light
        lambert = ((nx * lx + ny * ly + nz * lz) * 0.78 + 0.22).clamp_(min=0)
        return self.how["light"] * lambert + self.how["ambient"] * (0.8 - 0.2 * ny)

    def paint(self, red: float, green: float, blue: float) -> Tensor:
        """Return a fixed colour in linear light (1, 3, 1, 1) from sRGB values in 0..1."""
        return _rgb(red, green, blue, self.skin).square()

    def skin_times(self, red: float, green: float, blue: float) -> Tensor:
        """Return the skin's colour with its channels weakened."""
        return self.skin * _rgb(red, green, blue, self.skin)


# ---------------------------------------------------------------------------------------------------------------------
# Camera: which point of the face does a pixel see?
# ---------------------------------------------------------------------------------------------------------------------
HEAD_DEPTH = 0.40
ZOOM = 1.15  # a portrait crop: the face fills the picture
LIGHT_FRONT = 0.75  # the main light stands before the face, never behind it
NEWTON_STEPS = 3  # enough for errors below a pixel at every allowed pose


def _scene(latents: Tensor, nuisance: Tensor, size: int) -> _Scene:
    """Undo roll, scale, shift, yaw and pitch: find the face point behind every pixel."""
    who, how = _columns(latents, TRAITS), _columns(nuisance, NUISANCE)
    grid = (torch.arange(size, dtype=torch.float32, device=latents.device) + 0.5) * (2 / size) - 1
    gx, gy = grid.reshape(1, 1, -1) - how["shift_x"], grid.reshape(1, -1, 1) - how["shift_y"]
    roll = torch.deg2rad(how["roll"])
    zoom = ZOOM * how["scale"]
    x = (gx * roll.cos() + gy * roll.sin()) / zoom
    y = (gy * roll.cos() - gx * roll.sin()) / zoom
    u, v = _unturn(x, y, who, how)
    light = torch.stack([how["light_x"], how["light_y"], torch.full_like(how["light_x"], LIGHT_FRONT)])
    light = light / light.norm(dim=0)
    return _Scene(who, how, x, y, u, v, zoom * (size / 2), _skin(who), tuple(light))


def _turn(how: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return yaw and pitch in radians; pitch counts downwards, as y does."""
    return torch.deg2rad(how["yaw"]), torch.deg2rad(-how["pitch"])


def _unturn(x: Tensor, y: Tensor, who: dict, how: dict) -> tuple[Tensor, Tensor]:
    """Invert x = u cos(yaw) + h(u, v) sin(yaw), and the same for pitch, by Newton steps.

    h is a smooth dome at first, since a nose has folds on which Newton's method fails; the nose's own parallax follows.
    """
    yaw, pitch = _turn(how)
    c, s, cp, sp = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    kx, ky = who["face_width"].mul(1.1).pow(-2), who["skull_height"].mul(1.1).pow(-2)
    u, v = x / c, y / cp
    for _ in range(NEWTON_STEPS):
        bowl = 1.6 * HEAD_DEPTH * torch.exp(-0.75 * (u * u * kx + v * v * ky))
        h = bowl - 0.6 * HEAD_DEPTH
        # The slopes are kept away from zero: at the rim of the dome a step would jump out of the picture.
        u = u - (c * u + s * h - x) / (c - 1.5 * s * kx * u * bowl).clamp_(min=0.4)
        v = v - (cp * v + sp * h - y) / (cp - 1.5 * sp * ky * v * bowl).clamp_(min=0.4)
    nose = 0.6 * who["nose_size"] * _spot(u, v, 0, who["nose_length"] - 0.03, 0.11, 0.13)
    return u - s / c * nose, v - sp / cp * nose


def _skin(who: dict[str, Tensor]) -> Tensor:
    """Return the skin colour (B, 3, 1, 1) in linear light from tone and undertone."""
    tone = who["skin_tone"].reshape(-1)
    palette = (torch.tensor(SKIN, device=tone.device) / 255).square()
    place = tone.clamp(0, 1) * (len(SKIN) - 1)
    low = place.long().clamp(max=len(SKIN) - 2)
    colour = torch.lerp(palette[low], palette[low + 1], (place - low).unsqueeze(1)).reshape(-1, 3, 1, 1)
    golden = who["undertone"].unsqueeze(1) * _rgb(0.01, 0.01, -0.08, tone)
    return colour * (1 + golden)


# ---------------------------------------------------------------------------------------------------------------------
# Geometry: outline and height field of the head
# ---------------------------------------------------------------------------------------------------------------------
MIDDLE = -0.06  # the head is widest here


def _outline(sc: _Scene, longer: Tensor | float = 0.0) -> Tensor:
    """Return the squared radius of the head: 1 on its outline, less inside; `longer` lengthens the jaw."""
    who, t = sc.who, sc.v - MIDDLE
    drop = 0.05 * sc.how["mouth_open"] + longer
    below, above = (t / (who["jaw_length"] + drop)).clamp(min=0), (t / who["skull_height"]).clamp(max=0)
    b2 = below * below
    width = who["face_width"] * (1 - who["jaw_taper"] * b2)
    return (sc.u / width).square() + b2 * (1 - who["jaw_square"] * (1 - b2)) + _squarer(above * above)


def _inside(sc: _Scene, radius2: Tensor) -> Tensor:
    """Return the mask of everything within a squared radius of 1."""
    return sc.edge((1 - radius2.clamp(max=4).sqrt()) * sc.who["face_width"])


def _height(sc: _Scene, radius2: Tensor, mouth: _Mouth) -> Tensor:
    """Return the height of the face above the picture plane: dome, brow, sockets, cheeks, chin, nose, lips."""
    who, u, v = sc.who, sc.u, sc.v
    side, eye = u.abs(), who["eye_height"]
    lift = sc.how["smile"].clamp(min=0)  # a smile lifts and fills the cheeks
    h = 0.42 * ((1 - radius2).clamp(min=0) + 0.04).sqrt()
    h = h + 0.030 * who["brow_ridge"] * _spot(u, v, 0, eye - 0.11, 0.32, 0.07)
    h = h - (0.035 + 0.02 * who["brow_ridge"]) * _spot(side, v, who["eye_spacing"], eye, 0.12, 0.075)
    h = h + (0.035 * who["cheeks"] + 0.02 * lift) * _spot(side, v, 0.26, 0.17 - 0.03 * lift, 0.13, 0.12)
    h = h + 0.045 * who["chin"] * _spot(u, v, 0, MIDDLE + who["jaw_length"] - 0.09, 0.11, 0.08)
    h = _add_nose(sc, h)
    return h + 0.022 * mouth.lips - 0.015 * mouth.line


def _add_nose(sc: _Scene, h: Tensor) -> Tensor:
    """Add the ridge, which rises from between the eyes and ends under the tip, the tip and the wings."""
    who, u, v = sc.who, sc.u, sc.v
    size, half, tip, eye = who["nose_size"], who["nose_width"], who["nose_length"], who["eye_height"]
    along = ((v - eye + 0.06) / (tip - eye + 0.06)).clamp(0, 1)  # 0 at the root, 1 at the tip
    under = (1 - ((v - tip + 0.01) / 0.085).clamp(0, 1).square()).square()
    width = who["nose_bridge"] + 0.30 * half * along * along
    h = h + size * (0.2 * along + 0.45 * along * along) * under * _bump((u / width).square())
    h = h + 0.40 * size * _spot(u, v, 0, tip - 0.012, 0.55 * half + 0.02, 0.052)
    return h + 0.30 * size * _spot(u.abs(), v, 0.70 * half, tip + 0.012, 0.038, 0.036)


def _normals(sc: _Scene, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit normals of the turned head from differences between neighbouring pixels."""
    yaw, pitch = _turn(sc.how)
    depth = h * yaw.cos() * pitch.cos() - sc.u * yaw.sin() - sc.v * pitch.sin()
    depth = torch.nn.functional.pad(depth.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    nx = (depth[:, 1:-1, :-2] - depth[:, 1:-1, 2:]) * (sc.sharp / 2)
    ny = (depth[:, :-2, 1:-1] - depth[:, 2:, 1:-1]) * (sc.sharp / 2)
    nz = (1 + nx * nx + ny * ny).rsqrt()
    return nx * nz, ny * nz, nz


@dataclass
class _Mouth:
    """Masks of the mouth's parts, and the distance below the bent mouth line."""

    lips: Tensor
    line: Tensor
    opening: Tensor
    teeth: Tensor
    below: Tensor


def _mouth(sc: _Scene) -> _Mouth:
    """Return the mouth: a smile bends and widens it, an open jaw parts the lips."""
    who, smile, gap = sc.who, sc.how["smile"], 0.065 * sc.how["mouth_open"]
    width = who["mouth_width"] * (1 + 0.16 * smile - 0.12 * sc.how["mouth_open"])
    t = (sc.u / width).square()  # 0 in the middle, 1 at the corners
    arch = (1 - t).clamp(min=0)
    below = sc.v - who["mouth_height"] + 0.055 * smile * (t.clamp(max=1.5) - 0.35)
    edge_up, edge_down = below + 0.3 * gap * arch, gap * arch - below  # the lips' inner edges; the lower lip moves more
    cupid = 1 - 0.30 * _bump((sc.u / 0.03).square())  # the dent in the middle of the upper lip
    thin = 1 - 0.15 * smile.clamp(min=0)
    top = edge_up + who["lip_upper"] * thin * arch.sqrt() * cupid
    bottom = who["lip_lower"] * thin * arch.sqrt() + gap * arch - below
    lips = torch.minimum(torch.minimum(top, bottom), 0.5 * width * (1 - t))
    from_line = torch.minimum(below.abs(), (below - gap * arch).abs())
    line = _bump((from_line / 0.011).square()) * sc.edge((1.0 - t) * 0.08)
    inside = torch.minimum(torch.minimum(edge_up, edge_down), 0.5 * width * (0.9 - t))
    opening = sc.edge(inside) * (gap > 0.004)
    teeth = opening * sc.edge(0.55 * gap * arch - below) * sc.edge(0.75 - t)
    return _Mouth(sc.edge(lips), line, opening, teeth, below)


# ---------------------------------------------------------------------------------------------------------------------
# Albedo: the colours on the head
# ---------------------------------------------------------------------------------------------------------------------
def _face_colours(sc: _Scene, mouth: _Mouth) -> Tensor:
    """Return the colour of the face (B, 3, S, S) without eyes: skin, beard, lips, brows."""
    face = _beard(sc, _complexion(sc), mouth)
    pale = sc.skin_times(0.78, 0.45, 0.45)
    red = 0.35 * sc.skin + 0.65 * sc.paint(0.62, 0.20, 0.24)
    lip = torch.lerp(pale, red, sc.who["lip_red"].unsqueeze(1))
    face = _mix(face, lip, mouth.lips)
    face = _mix(face, lip * 0.30, 0.75 * mouth.line)
    face = _mix(face, sc.paint(0.28, 0.08, 0.08), mouth.opening)
    face = _mix(face, sc.paint(0.93, 0.91, 0.87), mouth.teeth)
    return _brows(sc, face)


def _complexion(sc: _Scene) -> Tensor:
    """Return the skin (B, 3, S, S) with red in cheeks and nose, freckles and a mole."""
    who, u, v = sc.who, sc.u, sc.v
    redness = (0.25 + 0.45 * who["blush"]) * _spot(u.abs(), v, 0.27, 0.15, 0.13, 0.10)
    redness = redness + 0.25 * _spot(u, v, 0, who["nose_length"], 0.07, 0.06)
    face = _mix(sc.skin, sc.skin_times(1.0, 0.62, 0.60), redness)
    dots = (_ripples(u, v, 61, 67, 9, 23, 19) - 0.45).clamp_(min=0) * 1.6
    speckle = who["freckles"] * dots * _spot(u.abs(), v, 0.16, 0.10, 0.20, 0.12)
    face = _mix(face, sc.skin * 0.35, speckle.clamp_(max=0.75))
    away = ((u - who["mole_x"]).square() + (v - who["mole_y"]).square()).sqrt()
    return _mix(face, sc.skin * 0.16, who["mole"] * sc.edge(0.020 - away))


def _beard(sc: _Scene, face: Tensor, mouth: _Mouth) -> Tensor:
    """Grow beard, goatee and moustache in the colour of the hair."""
    who, u, v = sc.who, sc.u, sc.v
    side, line, lip = u.abs(), who["mouth_height"], who["lip_upper"]
    cheek_line = 0.12 + 0.9 * (who["face_width"] - 0.06 - side).clamp(min=0)
    jaw = ((v - torch.minimum(cheek_line, line + 0.07)) * 16).clamp_(0, 1)
    chin = (2.2 * _spot(u, v, 0, line + who["lip_lower"] + 0.13, 0.12, 0.085)).clamp_(max=1)
    middle = line - 0.5 * lip - 0.035  # between nose and upper lip
    off_middle = (mouth.below + line - middle - 0.12 * side).abs()
    stache = ((0.036 + 0.3 * lip - 0.9 * u.square() - off_middle) * 40).clamp_(0, 1)
    stache = stache * ((who["mouth_width"] * 0.95 - side) * 16).clamp_(0, 1)
    grown = torch.maximum(torch.maximum(who["beard"] * jaw, who["goatee"] * chin), who["moustache"] * stache)
    texture = 0.9 + 0.1 * ((97 * u + 31 * v).sin() * (83 * v - 17 * u).sin())
    return _mix(face, _colour(who, "hair") * 0.85, (grown * texture).clamp_(max=0.95))


def _brows(sc: _Scene, face: Tensor) -> Tensor:
    """Draw the eyebrows: arched, tilted, and thinner towards their outer ends."""
    who = sc.who
    e = sc.u.abs() - who["eye_spacing"] - 0.015
    t = e / who["brow_length"]  # -1 at the inner end, 1 at the outer end
    middle = who["eye_height"] - who["brow_height"] - 0.03 * sc.how["brow_raise"]
    middle = middle + who["brow_arch"] * (0.7 * (t - 0.15).square() - 0.4) - who["brow_tilt"] * e
    thick = who["brow_thickness"] * (1.0 - 0.45 * t.clamp(-1, 1).square() - 0.25 * t.clamp(-1, 1))
    mask = sc.edge(torch.minimum(thick - (sc.v - middle).abs(), who["brow_length"] - e.abs()))
    colour = torch.lerp(_colour(who, "hair"), sc.skin * 0.15, 0.45)
    return _mix(face, colour, who["brow_density"] * mask)


@dataclass
class _Lids:
    """Coordinates around an eye's middle and the two lid lines; both eyes are drawn at once, mirrored."""

    e: Tensor  # towards the temple
    v: Tensor  # downwards, tilted with the eye
    t: Tensor  # 0 in the middle, 1 at the corners
    upper: Tensor
    lower: Tensor


def _lids(sc: _Scene) -> _Lids:
    """Return the lids; a blink brings the upper one down, raised brows widen and a smile narrows the eye."""
    who, how = sc.who, sc.how
    e = sc.u.abs() - who["eye_spacing"]
    v = sc.v - who["eye_height"] + who["eye_tilt"] * e
    t = (e / who["eye_width"]).square()
    arch = (1 - t).clamp(min=0)
    wide = who["eye_open"] * (1 - how["blink"]) * (1 + 0.12 * how["brow_raise"] - 0.12 * how["smile"].clamp(min=0))
    upper = -wide * arch * (1.15 - 0.25 * t) + 0.5 * who["eye_open"] * how["blink"] * arch
    return _Lids(e, v, t, upper, lower=0.75 * who["eye_open"] * arch)


def _eyeball(sc: _Scene, lids: _Lids, level: Tensor) -> Tensor:
    """Return white, ringed iris, pupil and highlight (B, 3, S, S), dark under the upper lid."""
    who, how, v, size = sc.who, sc.how, lids.v, sc.who["iris_size"]
    side = torch.where(sc.u < 0, -1.0, 1.0)
    x = lids.e * side - 0.030 * how["gaze_x"]  # not mirrored: both eyes look the same way
    r = (x.square() + (v - 0.018 * how["gaze_y"] + 0.006).square()).sqrt()
    iris = _colour(who, "iris") * level
    eye = _mix(sc.paint(0.93, 0.92, 0.90) * level, iris * 0.35, sc.edge(size - r))
    eye = _mix(eye, iris * 1.35, sc.edge(size * 0.82 - r))
    eye = _mix(eye, sc.paint(0.04, 0.04, 0.05), sc.edge(size * 0.45 - r))
    eye = eye * (1 - 0.45 * _bump(((v - lids.upper) / 0.022).square())).unsqueeze(1)
    glint = (x - 0.016 * torch.sign(how["light_x"])).square() + (v + 0.020).square()
    return _mix(eye, sc.paint(1.0, 1.0, 1.0) * level, 0.9 * sc.edge(0.0125 - glint.sqrt()))


def _eyes(sc: _Scene, face: Tensor) -> Tensor:
    """Draw the eyes over the shaded face: crease, ball, lashes and lower rim."""
    lashes, lids = sc.who["lashes"], _lids(sc)
    v, t, upper, lower = lids.v, lids.t, lids.upper, lids.lower
    level = (sc.how["light"] * 0.62 + sc.how["ambient"]).unsqueeze(1)  # an eye is lit from wherever it is seen
    crease = _bump(((v - upper + 0.032) / 0.010).square()) * (1.25 - t).clamp_(0, 1)
    face = face * (1 - 0.25 * crease).unsqueeze(1)
    opening = torch.minimum(torch.minimum(v - upper, lower - v), (1.05 - t) * 0.06)
    face = _mix(face, _eyeball(sc, lids, level), sc.edge(opening))
    lash = sc.edge(0.007 + 0.008 * lashes - (v - upper).abs()) * sc.edge((1.12 - t) * 0.06)
    face = _mix(face, sc.skin * 0.06 * level, (0.55 + 0.4 * lashes) * lash)
    rim = sc.edge(0.006 - (v - lower).abs()) * sc.edge((1.0 - t) * 0.06)
    return _mix(face, sc.skin * 0.30 * level, 0.5 * rim)


# ---------------------------------------------------------------------------------------------------------------------
# Shading: background, body and head in linear light
# ---------------------------------------------------------------------------------------------------------------------
def _background(sc: _Scene) -> Tensor:
    """Return a wall with a change of colour, a darker or lighter part beside it, and something out of focus."""
    how = sc.how
    angle = torch.deg2rad(how["back_angle"])
    ramp = 0.5 + 0.5 * how["back_change"] * (sc.x * angle.cos() + sc.y * angle.sin())
    base = _colour(how, "back")
    wall = base * (0.45 + 0.9 * ramp.clamp(0, 1.2)).unsqueeze(1)
    beside = sc.x * angle.sin() - sc.y * angle.cos() + 0.5 * how["back_x"]  # a door, a window, the edge of a shelf
    in_sight = how["back_x"] < 2  # the neutral studio has an empty wall
    wall = _mix(wall, 0.75 - 0.7 * base, 0.8 * (beside.neg() * 30).clamp_(0, 1) * in_sight)
    far = ((sc.x - how["back_x"]).square() + (sc.y - how["back_y"]).square()).sqrt()
    thing = ((how["back_size"] - far) * 14).clamp_(0, 1)
    return _mix(wall, 0.62 - 0.55 * base.roll(1, dims=1), 0.85 * thing)


def _body(sc: _Scene, picture: Tensor) -> Tensor:
    """Add neck, shoulders and clothes, which roll but do not turn; the chin's shadow falls on the neck."""
    who, how, x, y = sc.who, sc.how, sc.x, sc.y
    spread = (y - 0.60).clamp(min=0)
    width = who["neck_width"] + 7.5 * spread * spread
    inside = sc.edge(torch.minimum(width - x.abs(), y - 0.1))
    nx = (x / width).clamp(-1, 1)
    light = sc.shade(0.9 * nx, torch.zeros_like(nx), (1 - 0.8 * nx * nx).sqrt())
    chin = MIDDLE + who["jaw_length"]
    shadow = 1 - 0.68 * (1 - (y - chin + 0.02) * 3.5).clamp(0, 1)
    picture = _mix(picture, sc.skin * (0.92 * light * shadow).unsqueeze(1), inside)
    collar = 0.72 + how["neckline"] * (1 - (x / 0.30).square()).clamp(min=0)
    folds = 0.92 + 0.08 * (11 * x + 3 * (4 * y).sin()).sin()
    trim = 1 - 0.35 * _bump(((y - collar - 0.02) / 0.03).square())
    colour = _colour(how, "cloth") * (light * folds * trim).unsqueeze(1)
    return _mix(picture, colour, inside * sc.edge(y - collar))


def _ears(sc: _Scene, picture: Tensor) -> Tensor:
    """Add the ears, which sit behind the face and so move against it when the head turns."""
    who, size = sc.who, sc.who["ear_size"]
    yaw, pitch = _turn(sc.how)
    u = (sc.x + 0.02 * yaw.sin()) / yaw.cos()
    v = (sc.y + 0.05 * pitch.sin()) / pitch.cos()
    a = u.abs() - who["face_width"] - who["ear_out"] + 0.01
    b = v - 0.03 + 0.12 * a
    r = ((a / (0.065 * size)).square() + (b / (0.135 * size)).square()).sqrt()
    light = sc.shade(0.5 * torch.sign(u), 0.3 * b, torch.full_like(b, 0.8))
    shell = _bump(((a + 0.005) / (0.035 * size)).square() + ((b + 0.01) / (0.08 * size)).square())
    colour = sc.skin_times(0.95, 0.80, 0.76) * (light * (1 - 0.5 * shell)).unsqueeze(1)
    return _mix(picture, colour, sc.edge((1 - r) * 0.065))


def _head(sc: _Scene, picture: Tensor, hair: _Hair) -> Tensor:
    """Add the shaded face, with the shadow of the fringe on it."""
    mouth, radius2 = _mouth(sc), _outline(sc)
    nx, ny, nz = _normals(sc, _height(sc, radius2, mouth))
    light = sc.shade(nx, ny, nz)
    face = _face_colours(sc, mouth) * (light * (1 - _hollows(sc))).unsqueeze(1)
    lx, ly, lz = sc.light
    half = (nx * lx + ny * ly + nz * (lz + 1)) * (2 + 2 * lz).rsqrt()  # Blinn's half vector between light and camera
    gloss = half.clamp_(min=0) ** 16
    face = face + ((0.07 + 0.25 * mouth.lips) * 0.5 * gloss * sc.how["light"]).unsqueeze(1)
    face = _eyes(sc, face)
    fringe = (1 - hair.opening * 14).clamp_(0, 1)
    face = face * (1 - 0.45 * sc.who["hair_amount"] * fringe).unsqueeze(1)
    return _mix(picture, face, _inside(sc, radius2))


def _hollows(sc: _Scene) -> Tensor:
    """Return the share of light that nostrils, eye sockets, the chin's dip and the lines of age swallow."""
    who, u, v, side = sc.who, sc.u, sc.v, sc.u.abs()
    hollow = 0.35 * _spot(side, v, who["nose_width"] * 0.55, who["nose_length"] + 0.042, 0.026, 0.018)
    hollow = hollow + 0.28 * _spot(side, v, who["eye_spacing"] - 0.02, who["eye_height"], 0.13, 0.08)
    hollow = hollow + 0.22 * _spot(u, v, 0, who["mouth_height"] + who["lip_lower"] + 0.035, 0.10, 0.025)
    hollow = hollow + _laugh_lines(sc)
    wrinkles = (52 * (v + 0.3 * u.square())).sin().clamp(min=0).square()
    hollow = hollow + 0.30 * who["age"] * wrinkles * _spot(u, v, 0, -0.36, 0.26, 0.09)
    return hollow.clamp(0, 0.85)


def _laugh_lines(sc: _Scene) -> Tensor:
    """Return the folds from the wings of the nose to the corners of the mouth, deeper with age and with a smile."""
    who, v = sc.who, sc.v
    fold = who["nose_width"] + 0.02 + 0.55 * (v - who["nose_length"])
    span = ((v - who["nose_length"] + 0.04) * 20).clamp(0, 1)
    span = span * ((who["mouth_height"] + 0.03 - v) * 20).clamp(0, 1)
    deep = 0.03 + 0.35 * who["age"] + 0.15 * sc.how["smile"].clamp(min=0)
    return deep * span * _bump(((sc.u.abs() - fold) / 0.028).square())


# ---------------------------------------------------------------------------------------------------------------------
# Hair
# ---------------------------------------------------------------------------------------------------------------------
@dataclass
class _Hair:
    """Signed distances to the hair's outline and to the opening for the face, and its shaded colour."""

    outer: Tensor
    opening: Tensor
    colour: Tensor


def _hair(sc: _Scene) -> _Hair:
    """Return the shape of the hair around the head, with today's volume, and its colour."""
    who, u, v = sc.who, sc.u, sc.v
    today = 1 + 0.25 * sc.how["hair_volume"]
    t = v - MIDDLE
    a = who["face_width"] + who["hair_side"] * today
    b = who["skull_height"] + who["hair_top"] * today
    curls = _ripples(u, v, 21, 19, 1.2, 9, 11)  # curls make both outlines wavy
    dome = (1 - ((u / a).square() + _squarer((t / b).clamp(max=0).square())).sqrt()) * a
    curtain = a + who["hair_flare"] * t - u.abs()
    outer = torch.where(t < 0, dome, curtain) + 0.035 * who["curl"] * curls
    opening = _face_opening(sc) - 0.02 * who["curl"] * curls
    return _Hair(outer, opening, _hair_colour(sc, (u / a).clamp(-1, 1), (t / b).clamp(-1, 0.25)))


def _face_opening(sc: _Scene) -> Tensor:
    """Return the signed distance to the opening for the face, bounded above by hairline, fringe and temples."""
    who, u = sc.who, sc.u
    fall = sc.how["hair_fall"]
    away = (u - who["parting"]).abs().clamp(max=0.45)
    fringe = who["bangs"] * (1 + 0.2 * fall) + who["sweep"] * away * (1 + 0.25 * fall)
    line = who["hairline"] + fringe - who["recede"] * _bump(((u.abs() - 0.24) / 0.10).square())
    inner = 0.90 * who["face_width"]
    top = ((0.12 - sc.v) / (0.12 - line)).clamp(min=0)
    return (1 - (_squarer((u / inner).square()) + _squarer(top.square())).sqrt()) * inner


def _hair_colour(sc: _Scene, nx: Tensor, ny: Tensor) -> Tensor:
    """Return shaded hair with strands or curls and a soft sheen (B, 3, S, S)."""
    who, u, v, colour = sc.who, sc.u, sc.v, _colour(sc.who, "hair")
    light = sc.shade(nx * 0.9, ny, (1.15 - nx * nx - ny * ny).clamp(min=0.05).sqrt())
    flow = (u - who["parting"]) / (v + 1.35).clamp(min=0.25)  # strands fan out from a point above the head
    strands = 0.5 * (29 * flow).sin() + 0.6 * (67 * flow + 3 * v).sin() + 0.5 * (113 * flow - 5 * v).sin()
    curls = _ripples(u, v, 27, 25, 1.8, 17, 19) * 1.4
    texture = 1 + 0.16 * torch.lerp(strands, curls, who["curl"].expand_as(u))
    band = (ny + 0.62 + 0.1 * nx * nx + 0.03 * strands) / 0.13
    sheen = _bump(band.square()) * (1 - 0.7 * who["curl"])
    return colour * (light * texture).unsqueeze(1) + (0.10 * sheen * light).unsqueeze(1) * (0.25 + colour)


def _hair_end(sc: _Scene, hair: _Hair, length: Tensor) -> Tensor:
    """Return the signed distance to the ends of the hair, rounded at the corners."""
    return length + 0.03 * sc.how["hair_fall"] - sc.v - 9 * (0.13 - hair.outer).clamp(min=0).square()


def _back_hair(sc: _Scene, picture: Tensor, hair: _Hair) -> Tensor:
    """Add the hair behind neck and ears, and a knot on top; it lies in shadow below the eyes."""
    who = sc.who
    end = _hair_end(sc, hair, who["hair_length"])
    above = sc.v - MIDDLE + who["skull_height"] + who["hair_top"] + 0.06
    knot = 0.16 - ((sc.u / 1.15).square() + above.square()).sqrt()
    shape = torch.maximum(torch.minimum(hair.outer, end), torch.where(who["bun"] > 0.02, knot, -1.0))
    colour = hair.colour * (0.60 + 0.4 * (sc.v < -0.1)).unsqueeze(1)
    return _mix(picture, colour, who["hair_amount"] * sc.edge(shape))


def _front_hair(sc: _Scene, picture: Tensor, hair: _Hair) -> Tensor:
    """Add the hair around the face opening; worn behind the ears, it ends at the temples."""
    who = sc.who
    temples = torch.minimum(who["hair_length"], torch.full_like(who["hair_length"], -0.04))
    end = _hair_end(sc, hair, torch.lerp(who["hair_length"], temples, who["hair_tuck"]))
    end = end - who["hair_tuck"] * (sc.u.abs() - 0.86 * who["face_width"]).clamp(min=0)
    mask = sc.edge(torch.minimum(torch.minimum(hair.outer, -hair.opening), end))
    return _mix(picture, hair.colour, who["hair_amount"] * mask)


def _long_beard(sc: _Scene, picture: Tensor) -> Tensor:
    """Add the part of a beard that hangs below the chin."""
    who = sc.who
    mask = _inside(sc, _outline(sc, longer=who["beard_length"])) * ((sc.v - 0.42) * 16).clamp(0, 1)
    light = sc.shade(sc.u, torch.zeros_like(sc.u), torch.full_like(sc.u, 0.9)).unsqueeze(1)
    grown = who["beard"] * (who["beard_length"] * 40).clamp(max=1)
    return _mix(picture, _colour(who, "hair") * 0.8 * light, grown * mask)


# ---------------------------------------------------------------------------------------------------------------------
# Things before the face
# ---------------------------------------------------------------------------------------------------------------------
def _glasses(sc: _Scene, picture: Tensor) -> Tensor:
    """Add the frame, its bridge and temples, and a faint reflection."""
    who, size = sc.who, sc.who["lens_size"]
    worn = who["glasses"] * (1 - sc.how["glasses_off"])
    e, v = sc.u.abs() - who["eye_spacing"] - 0.01, sc.v - who["eye_height"] - 0.015
    a, b = (e / size).square(), (v / (size * 0.82)).square()
    square, round_ = (a * a + b * b).sqrt().sqrt(), (a + b).sqrt()
    r = torch.lerp(square, round_, (1 - 0.9 * who["lens_square"]).expand_as(a))
    lens = (1 - r) * size
    frame = who["frame_width"] - lens.abs()
    bar = torch.minimum(who["frame_width"] * 0.8 - (v + 0.035).abs(), -lens)  # bridge and temples, outside the lenses
    bar = torch.minimum(bar, who["face_width"] * 0.98 - sc.u.abs())
    glare = sc.edge(lens) * _bump(((e + 0.8 * v + 0.03) / 0.035).square())
    picture = _mix(picture, sc.paint(1.0, 1.0, 1.0), worn * (0.006 * sc.edge(lens) + 0.03 * glare))
    light = (sc.how["light"] * 0.5 + sc.how["ambient"]).unsqueeze(1)
    return _mix(picture, _colour(who, "frame") * light, worn * sc.edge(torch.maximum(frame, bar)))


def _occluder(sc: _Scene, picture: Tensor) -> Tensor:
    """Add something before the lower face: a thing held up in a hand, or, when it is wide, a scarf."""
    how, wide, high = sc.how, sc.how["object_w"], sc.how["object_h"]
    held = (wide < 0.6).float()
    turn = torch.deg2rad(how["object_turn"])
    x, y = sc.x - how["object_x"], sc.y - how["object_y"]
    a = x * turn.cos() + y * turn.sin()
    b = y * turn.cos() - x * turn.sin() + (1 - held) * 0.5 * (a * a).clamp(max=0.3)  # a scarf hangs in a curve
    da, db = (a.abs() - wide + 0.08).clamp(min=0), (b.abs() - high + 0.08).clamp(min=0)  # a box with round corners
    nx = (a / wide).clamp(-1, 1)
    light = sc.shade(0.7 * nx, torch.full_like(nx, -0.1), (1 - 0.5 * nx * nx).sqrt())
    stripes = 0.88 + 0.12 * (24 * b + 2 * (5 * a).sin()).sin()
    mask = how["occluder"] * sc.edge(0.08 - (da * da + db * db).sqrt())
    picture = _mix(picture, _colour(how, "object") * (light * stripes).unsqueeze(1), mask)
    return _fingers(sc, picture, a + wide, b, light, how["occluder"] * held)


def _fingers(sc: _Scene, picture: Tensor, a: Tensor, b: Tensor, light: Tensor, amount: Tensor) -> Tensor:
    """Add four fingers around the left edge of a held object; a runs along and b across them."""
    across = b - (b / 0.088).round().clamp(-2, 1) * 0.088  # distance to the nearest of four middle lines
    along = (a.abs() - 0.11).clamp(min=0)
    mask = amount * sc.edge(0.043 - (along.square() + across.square()).sqrt())
    return _mix(picture, sc.skin * (light * (1 - 240 * across.square()).clamp(min=0.25)).unsqueeze(1), mask)


# ---------------------------------------------------------------------------------------------------------------------
# Sensor
# ---------------------------------------------------------------------------------------------------------------------
def _sensor(how: dict[str, Tensor], picture: Tensor) -> Tensor:
    """Expose, tint, blur, add noise and round to uint8."""
    warm = how["warmth"].unsqueeze(1) * _rgb(0.14, 0.01, -0.20, picture)
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
