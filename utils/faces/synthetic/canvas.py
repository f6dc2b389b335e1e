"""Drawing tools, the camera, and the head as a height field: where every pixel lies, how high and how steep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .latents import ATTRIBUTES, NUISANCE, Factor

# sRGB colours from light to deep.
SKIN = ((244, 211, 192), (238, 194, 166), (226, 176, 140), (204, 150, 112), (176, 122, 86), (140, 93, 64),
        (110, 72, 51), (86, 57, 43))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Drawing tools: small functions on planes
# ---------------------------------------------------------------------------------------------------------------------
def bump(d2: Tensor) -> Tensor:
    """Return about exp(-d2), zero beyond d2 = 4 and much cheaper."""
    return (1 - 0.25 * d2).clamp_(min=0).square_().square_()


def spot(u: Tensor, v: Tensor, cu, cv, ru, rv) -> Tensor:
    """Return a soft spot of radii (ru, rv) at (cu, cv)."""
    return bump(((u - cu) / ru).square() + ((v - cv) / rv).square())


def squarer(t2: Tensor) -> Tensor:
    """Bend t squared so that an ellipse becomes a little more like a rounded box."""
    return t2 * (0.65 + 0.35 * t2)


def ripples(u: Tensor, v: Tensor, fu: float, fv: float, bend: float, gu: float, gv: float) -> Tensor:
    """Return wavy bumps between -1 and 1: frequencies (fu, fv), bent by `bend` so that no grid shows."""
    return (fu * u + bend * (gu * v).sin()).sin() * (fv * v + bend * (gv * u).sin()).sin()


def mix(picture: Tensor, colour: Tensor, mask: Tensor) -> Tensor:
    """Lay a colour or a picture over a picture where the mask (B, S, S) says so."""
    return torch.lerp(picture, colour, mask.unsqueeze(1))


def _columns(table: Tensor, factors: tuple[Factor, ...]) -> dict[str, Tensor]:
    """Name the columns of a table (B, F), each as a (B, 1, 1) tensor that broadcasts over pixels."""
    return {f.name: table[:, j].reshape(-1, 1, 1) for j, f in enumerate(factors)}


def named_colour(columns: dict[str, Tensor], name: str) -> Tensor:
    """Return a named colour in linear light; squaring undoes the display's gamma."""
    return torch.stack([columns[f"{name}_{c}"] for c in ("red", "green", "blue")], dim=1).square()


def rgb(red: float, green: float, blue: float, like: Tensor) -> Tensor:
    """Return three numbers as a colour (1, 3, 1, 1) on the device of `like`."""
    return torch.tensor([red, green, blue], device=like.device).reshape(1, 3, 1, 1)


@dataclass
class Scene:
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

    def select(self, rows: Tensor) -> Scene:
        """Return the scene of some of the photos."""
        parts = (self.x, self.y, self.u, self.v, self.sharp, self.skin)
        named = ({name: column[rows] for name, column in table.items()} for table in (self.who, self.how))
        return Scene(*named, *(part[rows] for part in parts), tuple(axis[rows] for axis in self.light))

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
        return rgb(red, green, blue, self.skin).square()

    def skin_times(self, red: float, green: float, blue: float) -> Tensor:
        """Return the skin's colour with its channels weakened."""
        return self.skin * rgb(red, green, blue, self.skin)


# ---------------------------------------------------------------------------------------------------------------------
# Camera: which point of the face does a pixel see?
# ---------------------------------------------------------------------------------------------------------------------
HEAD_DEPTH = 0.40
ZOOM = 1.15  # a portrait crop: the face fills the picture
LIGHT_FRONT = 0.75  # the main light stands before the face, never behind it
NEWTON_STEPS = 3  # enough for errors below a pixel at every allowed pose


def scene(latents: Tensor, nuisance: Tensor, size: int) -> Scene:
    """Undo roll, scale, shift, yaw and pitch: find the face point behind every pixel."""
    who, how = _columns(latents, ATTRIBUTES), _columns(nuisance, NUISANCE)
    grid = (torch.arange(size, dtype=torch.float32, device=latents.device) + 0.5) * (2 / size) - 1
    gx, gy = grid.reshape(1, 1, -1) - how["shift_x"], grid.reshape(1, -1, 1) - how["shift_y"]
    roll = torch.deg2rad(how["roll"])
    zoom = ZOOM * how["scale"]
    x = (gx * roll.cos() + gy * roll.sin()) / zoom
    y = (gy * roll.cos() - gx * roll.sin()) / zoom
    u, v = _unturn(x, y, who, how)
    light = torch.stack([how["light_x"], how["light_y"], torch.full_like(how["light_x"], LIGHT_FRONT)])
    light = light / light.norm(dim=0)
    return Scene(who, how, x, y, u, v, zoom * (size / 2), _skin(who), tuple(light))


def head_turn(how: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return yaw and pitch in radians; pitch counts downwards, as y does."""
    return torch.deg2rad(how["yaw"]), torch.deg2rad(-how["pitch"])


def _unturn(x: Tensor, y: Tensor, who: dict, how: dict) -> tuple[Tensor, Tensor]:
    """Invert x = u cos(yaw) + h(u, v) sin(yaw), and the same for pitch, by Newton steps.

    h is a smooth dome at first, since a nose has folds on which Newton's method fails; the nose's own parallax follows.
    """
    yaw, pitch = head_turn(how)
    c, s, cp, sp = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    kx, ky = who["face_width"].mul(1.1).pow(-2), who["skull_height"].mul(1.1).pow(-2)
    u, v = x / c, y / cp
    for _ in range(NEWTON_STEPS):
        bowl = 1.6 * HEAD_DEPTH * torch.exp(-0.75 * (u * u * kx + v * v * ky))
        h = bowl - 0.6 * HEAD_DEPTH
        # The slopes are kept away from zero: at the rim of the dome a step would jump out of the picture.
        u = u - (c * u + s * h - x) / (c - 1.5 * s * kx * u * bowl).clamp_(min=0.4)
        v = v - (cp * v + sp * h - y) / (cp - 1.5 * sp * ky * v * bowl).clamp_(min=0.4)
    nose = 0.6 * who["nose_size"] * spot(u, v, 0, who["nose_length"] - 0.03, 0.11, 0.13)
    return u - s / c * nose, v - sp / cp * nose


def _skin(who: dict[str, Tensor]) -> Tensor:
    """Return the skin colour (B, 3, 1, 1) in linear light from tone and undertone."""
    tone = who["skin_tone"].reshape(-1)
    palette = (torch.tensor(SKIN, device=tone.device) / 255).square()
    place = tone.clamp(0, 1) * (len(SKIN) - 1)
    low = place.long().clamp(max=len(SKIN) - 2)
    colour = torch.lerp(palette[low], palette[low + 1], (place - low).unsqueeze(1)).reshape(-1, 3, 1, 1)
    golden = who["undertone"].unsqueeze(1) * rgb(0.01, 0.01, -0.08, tone)
    return colour * (1 + golden)


# ---------------------------------------------------------------------------------------------------------------------
# Geometry: outline and height field of the head
# ---------------------------------------------------------------------------------------------------------------------
MIDDLE = -0.06  # the head is widest here


def outline(sc: Scene, longer: Tensor | float = 0.0) -> Tensor:
    """Return the squared radius of the head: 1 on its outline, less inside; `longer` lengthens the jaw."""
    who, t = sc.who, sc.v - MIDDLE
    drop = 0.05 * sc.how["mouth_open"] + longer
    below, above = (t / (who["jaw_length"] + drop)).clamp(min=0), (t / who["skull_height"]).clamp(max=0)
    b2 = below * below
    width = who["face_width"] * (1 - who["jaw_taper"] * b2)
    return (sc.u / width).square() + b2 * (1 - who["jaw_square"] * (1 - b2)) + squarer(above * above)


def inside_head(sc: Scene, radius2: Tensor) -> Tensor:
    """Return the mask of everything within a squared radius of 1."""
    return sc.edge((1 - radius2.clamp(max=4).sqrt()) * sc.who["face_width"])


def height(sc: Scene, radius2: Tensor, mouth: Mouth) -> Tensor:
    """Return the height of the face above the picture plane: dome, brow, sockets, cheeks, chin, nose, lips."""
    who, u, v = sc.who, sc.u, sc.v
    side, eye = u.abs(), who["eye_height"]
    lift = sc.how["smile"].clamp(min=0)  # a smile lifts and fills the cheeks
    h = 0.42 * ((1 - radius2).clamp(min=0) + 0.04).sqrt()
    h = h + 0.030 * who["brow_ridge"] * spot(u, v, 0, eye - 0.11, 0.32, 0.07)
    h = h - (0.035 + 0.02 * who["brow_ridge"]) * spot(side, v, who["eye_spacing"], eye, 0.12, 0.075)
    h = h + (0.035 * who["cheeks"] + 0.02 * lift) * spot(side, v, 0.26, 0.17 - 0.03 * lift, 0.13, 0.12)
    h = h + 0.045 * who["chin"] * spot(u, v, 0, MIDDLE + who["jaw_length"] - 0.09, 0.11, 0.08)
    h = _add_nose(sc, h)
    return h + 0.022 * mouth.lips - 0.015 * mouth.line


def _add_nose(sc: Scene, h: Tensor) -> Tensor:
    """Add the ridge, which rises from between the eyes and ends under the tip, the tip and the wings."""
    who, u, v = sc.who, sc.u, sc.v
    size, half, tip, eye = who["nose_size"], who["nose_width"], who["nose_length"], who["eye_height"]
    along = ((v - eye + 0.06) / (tip - eye + 0.06)).clamp(0, 1)  # 0 at the root, 1 at the tip
    under = (1 - ((v - tip + 0.01) / 0.085).clamp(0, 1).square()).square()
    width = who["nose_bridge"] + 0.30 * half * along * along
    h = h + size * (0.2 * along + 0.45 * along * along) * under * bump((u / width).square())
    h = h + 0.40 * size * spot(u, v, 0, tip - 0.012, 0.55 * half + 0.02, 0.052)
    return h + 0.30 * size * spot(u.abs(), v, 0.70 * half, tip + 0.012, 0.038, 0.036)


def normals(sc: Scene, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit normals of the turned head from differences between neighbouring pixels."""
    yaw, pitch = head_turn(sc.how)
    depth = h * yaw.cos() * pitch.cos() - sc.u * yaw.sin() - sc.v * pitch.sin()
    depth = torch.nn.functional.pad(depth.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    nx = (depth[:, 1:-1, :-2] - depth[:, 1:-1, 2:]) * (sc.sharp / 2)
    ny = (depth[:, :-2, 1:-1] - depth[:, 2:, 1:-1]) * (sc.sharp / 2)
    nz = (1 + nx * nx + ny * ny).rsqrt()
    return nx * nz, ny * nz, nz


@dataclass
class Mouth:
    """Masks of the mouth's parts, and the distance below the bent mouth line."""

    lips: Tensor
    line: Tensor
    opening: Tensor
    teeth: Tensor
    below: Tensor


def mouth_of(sc: Scene) -> Mouth:
    """Return the mouth: a smile bends and widens it, an open jaw parts the lips."""
    who, smile, gap = sc.who, sc.how["smile"], 0.065 * sc.how["mouth_open"]
    width = who["mouth_width"] * (1 + 0.16 * smile - 0.12 * sc.how["mouth_open"])
    t = (sc.u / width).square()  # 0 in the middle, 1 at the corners
    arch = (1 - t).clamp(min=0)
    below = sc.v - who["mouth_height"] + 0.055 * smile * (t.clamp(max=1.5) - 0.35)
    edge_up, edge_down = below + 0.3 * gap * arch, gap * arch - below  # the lips' inner edges; the lower lip moves more
    cupid = 1 - 0.30 * bump((sc.u / 0.03).square())  # the dent in the middle of the upper lip
    thin = 1 - 0.15 * smile.clamp(min=0)
    top = edge_up + who["lip_upper"] * thin * arch.sqrt() * cupid
    bottom = who["lip_lower"] * thin * arch.sqrt() + gap * arch - below
    lips = torch.minimum(torch.minimum(top, bottom), 0.5 * width * (1 - t))
    from_line = torch.minimum(below.abs(), (below - gap * arch).abs())
    line = bump((from_line / 0.011).square()) * sc.edge((1.0 - t) * 0.08)
    inside = torch.minimum(torch.minimum(edge_up, edge_down), 0.5 * width * (0.9 - t))
    opening = sc.edge(inside) * (gap > 0.004)
    teeth = opening * sc.edge(0.55 * gap * arch - below) * sc.edge(0.75 - t)
    return Mouth(sc.edge(lips), line, opening, teeth, below)
