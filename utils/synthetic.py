"""Embedded faces: portraits of people who do not exist, drawn from numbers.

A lesson on privacy should not need anybody's photograph. These people are vectors: nobody was photographed, nobody's
licence or consent is in question, nothing has to be downloaded, and 'forgetting' one of them can be checked against
the exact recipe that made them. Each portrait is a height field (skull, brow, nose, cheeks, lips, chin) that gives
shading and parallax, under an albedo layer (skin, hair, eyes, lips, beard, glasses), drawn in batches with torch.

Identity (`TRAITS`) and photo conditions (`NUISANCE`) are ordered tuples of named factors, one tensor column each;
lengths are in units of half the image side, x to the right and y down, angles in degrees.
"""

from __future__ import annotations

import argparse
import hashlib
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.settings import CourseError, atomic_path, cache_dir, progress_bar

VERSION = "3"
CHUNK_PIXELS = 65_536  # photos are drawn in chunks that stay in the processor's cache


@dataclass(frozen=True)
class Factor:
    """One named column: its range and its meaning; `neutral` is the value of a calm studio photo."""

    name: str
    low: float
    high: float
    meaning: str
    neutral: float = 0.0


# ---------------------------------------------------------------------------------------------------------------------
# Identity: who it is
# ---------------------------------------------------------------------------------------------------------------------
TRAITS = (
    Factor("skin_tone", 0.0, 1.0, "from light (0) to deep (1)"),
    Factor("undertone", -1.0, 1.0, "from rosy to golden"),
    Factor("face_width", 0.45, 0.57, "half width at the cheekbones"),
    Factor("skull_height", 0.56, 0.67, "from the middle line to the crown"),
    Factor("jaw_length", 0.58, 0.76, "from the middle line to the chin"),
    Factor("jaw_taper", 0.04, 0.42, "how much the jaw narrows"),
    Factor("jaw_square", -0.35, 0.55, "from pointed to square"),
    Factor("cheeks", 0.1, 1.3, "roundness of the cheeks"),
    Factor("chin", 0.2, 1.4, "how far the chin stands out"),
    Factor("brow_ridge", 0.0, 1.2, "depth of the eye sockets"),
    Factor("eye_spacing", 0.168, 0.262, "from the middle to a pupil"),
    Factor("eye_height", -0.12, -0.02, "where the eyes sit"),
    Factor("eye_width", 0.085, 0.125, "half width of an eye"),
    Factor("eye_open", 0.040, 0.066, "half height of an eye"),
    Factor("eye_tilt", -0.20, 0.24, "outer corner down or up"),
    Factor("iris_size", 0.046, 0.058, "radius of the iris"),
    Factor("iris_red", 0.0, 1.0, "iris colour"),
    Factor("iris_green", 0.0, 1.0, "iris colour"),
    Factor("iris_blue", 0.0, 1.0, "iris colour"),
    Factor("lashes", 0.1, 1.0, "dark upper lash line"),
    Factor("brow_height", 0.105, 0.165, "brow above the eye"),
    Factor("brow_thickness", 0.012, 0.042, "half thickness"),
    Factor("brow_length", 0.10, 0.165, "half length"),
    Factor("brow_arch", 0.0, 0.06, "how much it bends"),
    Factor("brow_tilt", -0.20, 0.05, "outer end down or up"),
    Factor("brow_density", 0.35, 1.0, "how dark"),
    Factor("nose_length", 0.15, 0.30, "height of the tip below the middle line"),
    Factor("nose_width", 0.058, 0.112, "half width at the wings"),
    Factor("nose_bridge", 0.036, 0.066, "width of the bridge"),
    Factor("nose_size", 0.07, 0.15, "how far it stands out"),
    Factor("mouth_height", 0.34, 0.45, "where the mouth line sits"),
    Factor("mouth_width", 0.125, 0.215, "half width"),
    Factor("lip_upper", 0.020, 0.050, "thickness"),
    Factor("lip_lower", 0.028, 0.075, "thickness"),
    Factor("lip_red", 0.05, 0.9, "from skin-coloured to red"),
    Factor("ear_size", 0.8, 1.25, "relative size"),
    Factor("ear_out", 0.0, 0.05, "how far they stand off"),
    Factor("neck_width", 0.23, 0.33, "half width"),
    Factor("hair_red", 0.0, 1.0, "hair colour"),
    Factor("hair_green", 0.0, 1.0, "hair colour"),
    Factor("hair_blue", 0.0, 1.0, "hair colour"),
    Factor("hair_amount", 0.0, 1.0, "from shaved to full"),
    Factor("hairline", -0.95, -0.36, "height of the hairline"),
    Factor("recede", 0.0, 0.2, "temples without hair"),
    Factor("hair_top", 0.02, 0.30, "volume above the crown"),
    Factor("hair_side", 0.01, 0.26, "volume at the sides"),
    Factor("hair_length", -0.1, 1.2, "where the hair ends"),
    Factor("hair_flare", -0.15, 0.35, "narrower or wider towards its ends"),
    Factor("hair_tuck", 0.0, 1.0, "worn behind the ears"),
    Factor("bangs", 0.0, 0.24, "straight fringe"),
    Factor("sweep", 0.0, 0.6, "fringe falling from the parting"),
    Factor("parting", -0.28, 0.28, "where the hair parts"),
    Factor("curl", 0.0, 1.0, "from straight to curly"),
    Factor("bun", 0.0, 1.0, "knot on top"),
    Factor("beard", 0.0, 1.0, "cheeks and jaw"),
    Factor("goatee", 0.0, 1.0, "chin only"),
    Factor("moustache", 0.0, 1.0, "above the mouth"),
    Factor("beard_length", 0.0, 0.2, "below the chin"),
    Factor("age", 0.0, 1.0, "folds and lines"),
    Factor("freckles", 0.0, 1.0, "over nose and cheeks"),
    Factor("blush", 0.0, 1.0, "red in the cheeks"),
    Factor("mole_x", -0.26, 0.26, "position of a mole"),
    Factor("mole_y", 0.02, 0.52, "position of a mole"),
    Factor("mole", 0.0, 1.0, "how visible"),
    Factor("glasses", 0.0, 1.0, "wears glasses"),
    Factor("lens_size", 0.14, 0.185, "half width of a lens"),
    Factor("lens_square", 0.0, 1.0, "from round to square"),
    Factor("frame_width", 0.010, 0.024, "half thickness of the frame"),
    Factor("frame_red", 0.0, 1.0, "frame colour"),
    Factor("frame_green", 0.0, 1.0, "frame colour"),
    Factor("frame_blue", 0.0, 1.0, "frame colour"),
)
# sRGB colours from light to deep; hair, iris and frame colours as (red, green, blue).
SKIN = ((244, 211, 192), (238, 194, 166), (226, 176, 140), (204, 150, 112), (176, 122, 86), (140, 93, 64),
        (110, 72, 51), (86, 57, 43))  # fmt: skip
HAIR_DARK = ((22, 18, 18), (34, 25, 22), (48, 32, 25), (64, 42, 30))
HAIR_ANY = (*HAIR_DARK, (92, 60, 38), (120, 80, 48), (128, 58, 30), (176, 88, 40), (156, 118, 72), (206, 168, 108),
            (228, 204, 156))  # fmt: skip
HAIR_GREY = ((120, 118, 118), (170, 168, 166), (200, 198, 194))
DYED = 0.04  # the share of people with a bright hair colour
HAIR_DYED = ((60, 130, 140), (190, 80, 120), (110, 70, 150), (60, 90, 170))
IRIS_DARK = ((46, 28, 18), (66, 40, 22), (88, 54, 28))
IRIS_ANY = (*IRIS_DARK, (120, 84, 40), (96, 110, 60), (70, 120, 86), (92, 130, 170), (60, 100, 156), (120, 136, 146))
FRAMES = ((24, 22, 24), (70, 40, 24), (150, 30, 40), (30, 60, 120), (190, 150, 70), (140, 140, 146), (20, 90, 80))


def sample_identities(n: int, seed: int = 0) -> Tensor:
    """Draw n identities as latents (n, len(TRAITS)) float32; row i depends on (seed, i) alone. Notebook 02."""
    _check_whole(n, "n", 1)
    _check_whole(seed, "seed", 0)
    return torch.from_numpy(np.stack([_draw_identity(seed, i) for i in range(n)]))


def _draw_identity(seed: int, i: int) -> np.ndarray:
    """Draw every trait uniformly in its range, then let nature's correlations overrule some of them."""
    rng = np.random.default_rng([seed, 0, i])
    who = {t.name: t.low + (t.high - t.low) * float(z) for t, z in zip(TRAITS, rng.random(len(TRAITS)), strict=True)}
    # A low-discrepancy sequence keeps every group of neighbours balanced over skin tones.
    who["skin_tone"] = float((0.618034 * (i + 1) + 0.37 * seed + 0.06 * rng.random()) % 1.0)
    style, beardiness, old, bald, dyed = rng.random(5)
    _draw_hair(who, rng, style, masculine=beardiness < 0.5, bald=bald)
    _draw_colours(who, rng, dyed=dyed, old=old)
    _draw_beard(who, rng, masculine=beardiness < 0.5 and dyed >= DYED)
    if beardiness >= 0.5:  # softer features go with the other half
        who["brow_ridge"] *= 0.4
        who["brow_thickness"] = 0.012 + 0.6 * (who["brow_thickness"] - 0.012)
        who["neck_width"] -= 0.03
        who["lashes"] = 0.5 + 0.5 * who["lashes"]
    else:
        who["lip_red"] *= 0.45
        who["lashes"] *= 0.6
        who["blush"] *= 0.4
    who["mouth_width"] -= 0.15 * max(0.0, who["jaw_taper"] - 0.2)  # a narrow jaw has room for a narrow mouth
    who["age"] = max(0.0, (old - 0.55) / 0.45)
    who["freckles"] = max(0.0, who["freckles"] - 0.6) * 2.5 * (who["skin_tone"] < 0.55)
    who["mole"] = float(who["mole"] > 0.55)
    who["mole_x"] += 0.10 if who["mole_x"] > 0 else -0.10  # beside nose and mouth
    who["glasses"] = float(who["glasses"] > 0.72)
    return np.array([who[t.name] for t in TRAITS], dtype=np.float32)


def _draw_hair(who: dict, rng: np.random.Generator, style: float, *, masculine: bool, bald: float) -> None:
    """Choose one of several families of hairstyle and vary it."""
    r = rng.random(8)
    who["curl"] = float(np.clip(who["curl"] * 1.5 - 0.5 + 0.35 * (who["skin_tone"] > 0.7), 0, 1))
    who.update(hair_amount=1.0, bun=0.0, hairline=-0.46 + 0.10 * r[0], recede=0.06 * r[1], bangs=0.0, sweep=0.1 * r[2])
    short = style < (0.72 if masculine else 0.22)
    if short:
        who.update(hair_length=-0.1 + 0.16 * r[3], hair_top=0.04 + 0.16 * r[4], hair_side=0.015 + 0.05 * r[5])
        who.update(hair_tuck=1.0, sweep=0.35 * r[6], bangs=0.08 * (r[7] > 0.6), hair_flare=0.0)
        if bald < (0.28 if masculine else 0.05):
            who.update(hair_amount=float(r[6] > 0.4), hairline=-0.62 - 0.33 * r[0], hair_top=0.02, sweep=0.0, bangs=0.0)
            who.update(hair_side=0.015)
    else:
        length = (0.38 + 0.16 * r[3]) if r[7] < 0.45 else (0.75 + 0.45 * r[3])
        who.update(hair_length=length, hair_top=0.06 + 0.10 * r[4], hair_side=0.04 + 0.12 * r[5])
        who.update(hair_tuck=float(r[6] < 0.25), hair_flare=-0.1 + 0.35 * r[2] * (0.4 + who["curl"]))
        if r[1] < 0.30:
            who["bangs"] = 0.12 + 0.10 * r[0]
        elif r[1] < 0.7:
            who["sweep"] = 0.25 + 0.35 * r[0]
        if r[6] > 0.86:  # hair pinned up
            who.update(bun=1.0, hair_length=-0.05, hair_tuck=1.0, hair_side=0.03, hair_top=0.07)
    if who["curl"] > 0.6 and bald > 0.4 and r[5] > 0.45:  # a round head of curls
        who.update(hair_top=0.16 + 0.12 * r[4], hair_side=0.14 + 0.11 * r[4], hair_tuck=0.0, sweep=0.0)
        who["hair_length"] = 0.12 + 0.35 * r[3]


def _draw_colours(who: dict, rng: np.random.Generator, *, dyed: float, old: float) -> None:
    """Choose natural colours of hair, irises and glasses for the skin tone, and vary each a little."""
    dark = who["skin_tone"] > 0.5 and rng.random() < 0.8
    hair = HAIR_DYED if dyed < DYED else HAIR_GREY if old > 0.88 else HAIR_DARK if dark else HAIR_ANY
    for name, palette in (("hair", hair), ("iris", IRIS_DARK if dark else IRIS_ANY), ("frame", FRAMES)):
        colour = np.array(palette[rng.integers(len(palette))]) / 255
        colour = np.clip(colour * (0.85 + 0.3 * rng.random()) + 0.008 * rng.standard_normal(3), 0.03, 1)
        who.update(zip((f"{name}_red", f"{name}_green", f"{name}_blue"), colour.tolist(), strict=True))


def _draw_beard(who: dict, rng: np.random.Generator, *, masculine: bool) -> None:
    """Give about half of the masculine faces stubble, moustache, goatee or full beard."""
    kind, strength, length = rng.random(3)
    who.update(beard=0.0, goatee=0.0, moustache=0.0, beard_length=0.0)
    if not masculine or kind < 0.45:
        return
    if kind < 0.60:
        who.update(beard=0.25 + 0.25 * strength, moustache=0.25 + 0.25 * strength)  # stubble
    elif kind < 0.72:
        who.update(moustache=0.75 + 0.25 * strength)
    elif kind < 0.84:
        who.update(goatee=0.7 + 0.3 * strength, moustache=0.8 * (length > 0.4))
    else:
        who.update(beard=0.75 + 0.25 * strength, moustache=0.85, goatee=0.9, beard_length=0.2 * length**2)


def identity_names(n: int, seed: int = 0) -> tuple[str, ...]:
    """Return n invented names, unique and easy to say, such as 'Amara 007'."""
    order = np.random.default_rng([seed, 2]).permutation(len(FIRST_NAMES))
    return tuple(f"{FIRST_NAMES[order[i % len(order)]]} {i:03d}" for i in range(n))


FIRST_NAMES = (
    "Ada Amara Anik Arlo Asha Bea Bilal Bram Ceri Chidi Chiara Dalia Davi Dina Ebo Edda Eero Elif Emre Enzo Esme Fadi "
    "Femi Finn Freya Gael Gita Hana Hugo Ibra Ida Imani Indra Ines Ivo Jaya Jin Joni Juno Kaia Kofi Kira Lalo Leda "
    "Liv Luca Maia Malik Mara Mei Milo Mina Nadia Nao Nia Niko Noor Oda Olu Omar Orla Otis Pia Priya Quim Rafa Rana "
    "Remy Rhea Rumi Sami Sana Senna Silas Sora Suri Tala Tariq Tess Tomo Uma Uri Vera Vito Wanda Wren Xenia Yara "
    "Yael Yuki Zara Zeno"
).split()

# ---------------------------------------------------------------------------------------------------------------------
# Nuisance: what differs from photo to photo
# ---------------------------------------------------------------------------------------------------------------------
NUISANCE = (
    Factor("yaw", -26, 26, "degrees; positive turns to the right of the picture"),
    Factor("pitch", -11, 11, "degrees; positive looks up"),
    Factor("roll", -18, 18, "degrees; positive tilts clockwise"),
    Factor("scale", 0.80, 1.20, "size of the head", 1.0),
    Factor("shift_x", -0.28, 0.28, "head moved to the right"),
    Factor("shift_y", -0.18, 0.30, "head moved down", 0.08),
    Factor("smile", -0.25, 1.0, "corners of the mouth", 0.2),
    Factor("mouth_open", 0.0, 1.0, "jaw dropped"),
    Factor("brow_raise", -0.4, 1.0, "brows down or up"),
    Factor("gaze_x", -1.0, 1.0, "eyes to the right"),
    Factor("gaze_y", -0.6, 0.6, "eyes down"),
    Factor("blink", 0.0, 1.0, "eyes closed"),
    Factor("light_x", -0.9, 0.9, "light from the right", -0.4),
    Factor("light_y", -0.9, 0.35, "light from below (from above when negative)", -0.45),
    Factor("light", 0.45, 1.45, "strength of the main light", 1.0),
    Factor("ambient", 0.17, 0.50, "strength of the light from all around", 0.38),
    Factor("exposure", 0.55, 1.60, "brightness of the whole photo", 1.0),
    Factor("warmth", -1.0, 1.0, "colour temperature, from blue to orange"),
    Factor("back_red", 0.05, 0.95, "background colour", 0.62),
    Factor("back_green", 0.05, 0.95, "background colour", 0.66),
    Factor("back_blue", 0.05, 0.95, "background colour", 0.70),
    Factor("back_change", -1.0, 1.0, "how the background changes across the picture"),
    Factor("back_angle", 0.0, 360.0, "direction of that change", 90.0),
    Factor("back_x", -1.0, 1.0, "place of something behind", 2.5),
    Factor("back_y", -1.0, 1.0, "place of something behind"),
    Factor("back_size", 0.2, 1.0, "size of something behind", 0.2),
    Factor("cloth_red", 0.05, 0.95, "clothes colour", 0.30),
    Factor("cloth_green", 0.05, 0.95, "clothes colour", 0.42),
    Factor("cloth_blue", 0.05, 0.95, "clothes colour", 0.50),
    Factor("neckline", 0.0, 0.22, "depth of the neckline", 0.08),
    Factor("occluder", 0.0, 1.0, "1 puts an object before the face, 0 none"),
    Factor("object_x", -0.35, 0.35, "its place"),
    Factor("object_y", 0.62, 0.95, "its place", 0.75),
    Factor("object_w", 0.18, 1.5, "its half width (a scarf when above 0.6)", 0.25),
    Factor("object_h", 0.26, 0.42, "its half height", 0.3),
    Factor("object_turn", -25, 25, "its angle in degrees"),
    Factor("object_red", 0.05, 0.95, "its colour", 0.8),
    Factor("object_green", 0.05, 0.95, "its colour", 0.3),
    Factor("object_blue", 0.05, 0.95, "its colour", 0.2),
    Factor("hair_volume", -0.4, 0.6, "more or less volume today"),
    Factor("hair_fall", -1.0, 1.0, "fringe and length today"),
    Factor("glasses_off", 0.0, 1.0, "1 takes the glasses off"),
    Factor("blur", 0.0, 0.6, "out of focus"),
    Factor("noise", 0.0, 0.03, "sensor noise, standard deviation at 64 pixels"),
    Factor("grain", 0.0, 1.0, "which noise"),
)


def neutral_nuisance(n: int = 1) -> Tensor:
    """Return the conditions of a calm studio photo, n rows (n, len(NUISANCE)); change one column to sweep a factor."""
    return torch.tensor([[f.neutral for f in NUISANCE]], dtype=torch.float32).repeat(n, 1)


def sample_nuisance(identity: int, photos: int, seed: int = 0, first: int = 0) -> Tensor:
    """Draw conditions (photos, len(NUISANCE)); row k depends on (seed, identity, first + k) alone. Notebook 02."""
    rows = [_draw_nuisance(seed, identity, k) for k in range(first, first + photos)]
    return torch.from_numpy(np.stack(rows))


_LOW, _SPAN = (np.array(v, dtype=np.float64) for v in zip(*((f.low, f.high - f.low) for f in NUISANCE), strict=True))
_INDEX = {f.name: j for j, f in enumerate(NUISANCE)}


def _draw_nuisance(seed: int, identity: int, photo: int) -> np.ndarray:
    """Draw every factor uniformly in its range, then make the rare ones rare."""
    z = np.random.default_rng([seed, 1, identity, photo]).random(len(NUISANCE))
    for name, share in (("blink", 0.08), ("occluder", 0.12), ("glasses_off", 0.12)):
        z[_INDEX[name]] = z[_INDEX[name]] < share
    z[_INDEX["mouth_open"]] = max(0.0, 2 * z[_INDEX["mouth_open"]] - 1)
    z[_INDEX["blur"]] **= 2
    for name, colourful in (("back", 0.6), ("cloth", 0.6), ("object", 0.7)):  # rooms and clothes are rarely garish
        j = _INDEX[f"{name}_red"]
        z[j : j + 3] = np.clip(z[j] + colourful * (z[[j, j + 1, j + 2]] - z[j : j + 3].mean()), 0, 1)
    wide = z[_INDEX["object_w"]]
    z[_INDEX["object_w"]] = 0.15 * wide if wide < 0.65 else 1.0
    if wide >= 0.65:
        z[_INDEX["object_y"]] = 0.6 + 0.4 * z[_INDEX["object_y"]]
        z[_INDEX["object_x"]] = 0.4 + 0.2 * z[_INDEX["object_x"]]
    return (_LOW + _SPAN * z).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Drawing tools: small functions on (B, S, S) planes
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


def _mix(picture: Tensor, colour: Tensor, mask: Tensor) -> Tensor:
    """Lay a colour (B, 3, 1, 1) or picture over a picture (B, 3, S, S) where the mask (B, S, S) says so."""
    return torch.lerp(picture, colour, mask.unsqueeze(1))


def _columns(table: Tensor, factors: tuple[Factor, ...]) -> dict[str, Tensor]:
    """Name the columns of a table (B, F), each as a (B, 1, 1) tensor that broadcasts over pixels."""
    return {f.name: table[:, j].reshape(-1, 1, 1) for j, f in enumerate(factors)}


def _colour(columns: dict[str, Tensor], name: str) -> Tensor:
    """Return a named colour in linear light, (B, 3, 1, 1)."""
    return torch.stack([columns[f"{name}_{c}"] for c in ("red", "green", "blue")], dim=1).square()


def _constant(*values: float) -> Tensor:
    """Return a colour in linear light from sRGB values in 0..1, (1, 3, 1, 1)."""
    return torch.tensor(values).square().reshape(1, 3, 1, 1)


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
    light: tuple[Tensor, Tensor, Tensor]

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


# ---------------------------------------------------------------------------------------------------------------------
# Camera
# ---------------------------------------------------------------------------------------------------------------------
HEAD_DEPTH = 0.40
ZOOM = 1.15  # a portrait crop: the face fills the picture


def _scene(latents: Tensor, nuisance: Tensor, size: int) -> _Scene:
    """Undo roll, scale, shift, yaw and pitch: find the face point behind every pixel."""
    who, how = _columns(latents, TRAITS), _columns(nuisance, NUISANCE)
    grid = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    gx, gy = grid.reshape(1, 1, -1) - how["shift_x"], grid.reshape(1, -1, 1) - how["shift_y"]
    roll = torch.deg2rad(how["roll"])
    zoom = ZOOM * how["scale"]
    x = (gx * roll.cos() + gy * roll.sin()) / zoom
    y = (gy * roll.cos() - gx * roll.sin()) / zoom
    u, v = _unturn(x, y, who, how)
    light = torch.stack([how["light_x"], how["light_y"], torch.full_like(how["light_x"], 0.75)])
    light = light / light.norm(dim=0)
    return _Scene(who, how, x, y, u, v, zoom * (size / 2), _skin(who), tuple(light))


def _unturn(x: Tensor, y: Tensor, who: dict, how: dict) -> tuple[Tensor, Tensor]:
    """Invert x = u cos(yaw) + h(u, v) sin(yaw), and the same for pitch, by three Newton steps; h is a smooth dome."""
    yaw, pitch = torch.deg2rad(how["yaw"]), torch.deg2rad(-how["pitch"])
    c, s, cp, sp = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    kx, ky = who["face_width"].mul(1.1).pow(-2), who["skull_height"].mul(1.1).pow(-2)
    u, v = x / c, y / cp
    for _ in range(3):
        bowl = 1.6 * HEAD_DEPTH * torch.exp(-0.75 * (u * u * kx + v * v * ky))
        h = bowl - 0.6 * HEAD_DEPTH
        u = u - (c * u + s * h - x) / (c - 1.5 * s * kx * u * bowl).clamp_(min=0.4)
        v = v - (cp * v + sp * h - y) / (cp - 1.5 * sp * ky * v * bowl).clamp_(min=0.4)
    nose = 0.6 * who["nose_size"] * _spot(u, v, 0, who["nose_length"] - 0.03, 0.11, 0.13)
    return u - s / c * nose, v - sp / cp * nose


def _skin(who: dict[str, Tensor]) -> Tensor:
    """Return the skin colour (B, 3, 1, 1) in linear light from tone and undertone."""
    palette = (torch.tensor(SKIN) / 255).square()
    place = who["skin_tone"].reshape(-1).clamp(0, 1) * (len(SKIN) - 1)
    low = place.long().clamp(max=len(SKIN) - 2)
    colour = torch.lerp(palette[low], palette[low + 1], (place - low).unsqueeze(1))
    warm = who["undertone"].reshape(-1, 1) * torch.tensor([0.01, 0.01, -0.08])
    return (colour * (1 + warm)).reshape(-1, 3, 1, 1)


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


def _height(sc: _Scene, q: Tensor, mouth: dict[str, Tensor]) -> Tensor:
    """Return the height of the face above the picture plane: dome, brow, sockets, cheeks, nose, lips, chin."""
    who, how, u, v = sc.who, sc.how, sc.u, sc.v
    au, ev, tip = u.abs(), who["eye_height"], who["nose_length"]
    h = 0.42 * ((1 - q).clamp(min=0) + 0.04).sqrt()
    h = h + 0.030 * who["brow_ridge"] * _spot(u, v, 0, ev - 0.11, 0.32, 0.07)
    h = h - (0.035 + 0.02 * who["brow_ridge"]) * _spot(au, v, who["eye_spacing"], ev, 0.12, 0.075)
    lift = how["smile"].clamp(min=0)
    h = h + (0.035 * who["cheeks"] + 0.02 * lift) * _spot(au, v, 0.26, 0.17 - 0.03 * lift, 0.13, 0.12)
    h = h + 0.045 * who["chin"] * _spot(u, v, 0, MIDDLE + who["jaw_length"] - 0.09, 0.11, 0.08)
    along = ((v - ev + 0.06) / (tip - ev + 0.06)).clamp(0, 1)
    under = (1 - ((v - tip + 0.01) / 0.085).clamp(0, 1).square()).square()
    width = who["nose_bridge"] + 0.30 * who["nose_width"] * along * along
    h = h + who["nose_size"] * (0.2 * along + 0.45 * along * along) * under * _bump((u / width).square())
    h = h + 0.40 * who["nose_size"] * _spot(u, v, 0, tip - 0.012, 0.55 * who["nose_width"] + 0.02, 0.052)
    h = h + 0.30 * who["nose_size"] * _spot(au, v, 0.70 * who["nose_width"], tip + 0.012, 0.038, 0.036)
    return h + 0.022 * mouth["lips"] - 0.015 * mouth["line"]


def _normals(sc: _Scene, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit normals of the turned head from differences between neighbouring pixels."""
    yaw, pitch = torch.deg2rad(sc.how["yaw"]), torch.deg2rad(-sc.how["pitch"])
    depth = h * yaw.cos() * pitch.cos() - sc.u * yaw.sin() - sc.v * pitch.sin()
    depth = torch.nn.functional.pad(depth.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    nx = (depth[:, 1:-1, :-2] - depth[:, 1:-1, 2:]) * (sc.sharp / 2)
    ny = (depth[:, :-2, 1:-1] - depth[:, 2:, 1:-1]) * (sc.sharp / 2)
    nz = (1 + nx * nx + ny * ny).rsqrt()
    return nx * nz, ny * nz, nz


def _mouth(sc: _Scene) -> dict[str, Tensor]:
    """Return the masks of lips, mouth line, opening and teeth."""
    who, how = sc.who, sc.how
    smile, gap = how["smile"], 0.065 * how["mouth_open"]
    width = who["mouth_width"] * (1 + 0.16 * smile - 0.12 * how["mouth_open"])
    t = (sc.u / width).square()
    arch = (1 - t).clamp(min=0)
    v = sc.v - who["mouth_height"] + 0.055 * smile * (t.clamp(max=1.5) - 0.35)
    bow = 1 - 0.30 * _bump((sc.u / 0.03).square())
    thin = 1 - 0.15 * smile.clamp(min=0)
    top = v + 0.3 * gap * arch + who["lip_upper"] * thin * arch.sqrt() * bow
    bottom = who["lip_lower"] * thin * arch.sqrt() + gap * arch - v
    lips = torch.minimum(torch.minimum(top, bottom), 0.5 * width * (1 - t))
    inside = torch.minimum(v + 0.3 * gap * arch, gap * arch - v)
    line = _bump((torch.minimum(v.abs(), (v - gap * arch).abs()) / 0.011).square()) * sc.edge((1.0 - t) * 0.08)
    opening = sc.edge(torch.minimum(inside, 0.5 * width * (0.9 - t))) * (gap > 0.004)
    teeth = opening * sc.edge(0.55 * gap * arch - v) * sc.edge(0.75 - t)
    return {"lips": sc.edge(lips), "line": line, "opening": opening, "teeth": teeth, "v": v, "arch": arch, "t": t}


# ---------------------------------------------------------------------------------------------------------------------
# Albedo: the colours on the head
# ---------------------------------------------------------------------------------------------------------------------
def _face_colours(sc: _Scene, mouth: dict[str, Tensor]) -> Tensor:
    """Return the colour of the face (B, 3, S, S): skin, blush, freckles, mole, lips, beard, brows."""
    who, u, v = sc.who, sc.u, sc.v
    au, tip = u.abs(), who["nose_length"]
    rosy = sc.skin * torch.tensor([1.0, 0.62, 0.60]).reshape(1, 3, 1, 1)
    redness = (0.25 + 0.45 * who["blush"]) * _spot(au, v, 0.27, 0.15, 0.13, 0.10)
    face = _mix(sc.skin, rosy, redness + 0.25 * _spot(u, v, 0, tip, 0.07, 0.06))
    dots = ((61 * u + 9 * (23 * v).sin()).sin() * (67 * v + 9 * (19 * u).sin()).sin() - 0.45).clamp_(min=0) * 1.6
    speckle = who["freckles"] * dots * _spot(au, v, 0.16, 0.10, 0.20, 0.12)
    face = _mix(face, sc.skin * 0.35, speckle.clamp_(max=0.75))
    away = ((u - who["mole_x"]).square() + (v - who["mole_y"]).square()).sqrt()
    face = _mix(face, sc.skin * 0.16, who["mole"] * sc.edge(0.020 - away))
    pale = sc.skin * torch.tensor([0.78, 0.45, 0.45]).reshape(1, 3, 1, 1)
    lip = torch.lerp(pale, 0.35 * sc.skin + 0.65 * _constant(0.62, 0.20, 0.24), who["lip_red"].unsqueeze(1))
    face = _beard(sc, face, mouth)
    face = _mix(face, lip, mouth["lips"])
    face = _mix(face, lip * 0.30, 0.75 * mouth["line"])
    face = _mix(face, _constant(0.28, 0.08, 0.08), mouth["opening"])
    face = _mix(face, _constant(0.93, 0.91, 0.87), mouth["teeth"])
    return _brows(sc, face)


def _beard(sc: _Scene, face: Tensor, mouth: dict[str, Tensor]) -> Tensor:
    """Grow beard, goatee and moustache in the colour of the hair."""
    who, u, v = sc.who, sc.u, sc.v
    au, mv = u.abs(), who["mouth_height"]
    cheek_line = 0.12 + 0.9 * (who["face_width"] - 0.06 - au).clamp(min=0)
    jaw = ((v - torch.minimum(cheek_line, mv + 0.07)) * 16).clamp_(0, 1)
    chin = (2.2 * _spot(u, v, 0, mv + who["lip_lower"] + 0.13, 0.12, 0.085)).clamp_(max=1)
    lip = who["lip_upper"]
    middle = mv - 0.5 * lip - 0.035
    stache = ((0.036 + 0.3 * lip - 0.9 * u.square() - (mouth["v"] + mv - middle - 0.12 * au).abs()) * 40).clamp_(0, 1)
    stache = stache * ((who["mouth_width"] * 0.95 - au) * 16).clamp_(0, 1)
    grown = torch.maximum(torch.maximum(who["beard"] * jaw, who["goatee"] * chin), who["moustache"] * stache)
    texture = 0.9 + 0.1 * ((97 * u + 31 * v).sin() * (83 * v - 17 * u).sin())
    return _mix(face, _colour(who, "hair") * 0.85, (grown * texture).clamp_(max=0.95))


def _brows(sc: _Scene, face: Tensor) -> Tensor:
    """Draw the eyebrows."""
    who, how = sc.who, sc.how
    e = sc.u.abs() - who["eye_spacing"] - 0.015
    t = e / who["brow_length"]
    middle = who["eye_height"] - who["brow_height"] - 0.03 * how["brow_raise"]
    middle = middle + who["brow_arch"] * (0.7 * (t - 0.15).square() - 0.4) - who["brow_tilt"] * e
    thick = who["brow_thickness"] * (1.0 - 0.45 * t.clamp(-1, 1).square() - 0.25 * t.clamp(-1, 1))
    mask = sc.edge(torch.minimum(thick - (sc.v - middle).abs(), who["brow_length"] - e.abs()))
    colour = torch.lerp(_colour(who, "hair"), sc.skin * 0.15, 0.45)
    return _mix(face, colour, who["brow_density"] * mask)


def _eyes(sc: _Scene, face: Tensor) -> Tensor:
    """Draw the eyes over the shaded face: lids, white, iris, pupil, highlight and lashes."""
    who, how = sc.who, sc.how
    side = torch.where(sc.u < 0, -1.0, 1.0)
    e = sc.u.abs() - who["eye_spacing"]
    v = sc.v - who["eye_height"] + who["eye_tilt"] * e
    t = (e / who["eye_width"]).square()
    arch = (1 - t).clamp(min=0)
    wide = who["eye_open"] * (1 - how["blink"]) * (1 + 0.12 * how["brow_raise"] - 0.12 * how["smile"].clamp(min=0))
    upper = -wide * arch * (1.15 - 0.25 * t) + 0.5 * who["eye_open"] * how["blink"] * arch
    lower = 0.75 * who["eye_open"] * arch
    ball = sc.edge(torch.minimum(torch.minimum(v - upper, lower - v), (1.05 - t) * 0.06))
    crease = _bump(((v - upper + 0.032) / 0.010).square()) * (1.25 - t).clamp_(0, 1)
    face = face * (1 - 0.25 * crease).unsqueeze(1)
    local = e * side - 0.030 * how["gaze_x"]
    r = (local.square() + (v - 0.018 * how["gaze_y"] + 0.006).square()).sqrt()
    level = (how["light"] * 0.62 + how["ambient"]).unsqueeze(1)
    white = _constant(0.93, 0.92, 0.90) * level
    iris = _colour(who, "iris") * level
    eye = _mix(white, iris * 0.35, sc.edge(who["iris_size"] - r))
    eye = _mix(eye, iris * 1.35, sc.edge(who["iris_size"] * 0.82 - r))
    eye = _mix(eye, _constant(0.04, 0.04, 0.05), sc.edge(who["iris_size"] * 0.45 - r))
    glint = (local - 0.016 * torch.sign(how["light_x"])).square() + (v + 0.020).square()
    eye = eye * (1 - 0.45 * _bump(((v - upper) / 0.022).square())).unsqueeze(1)
    eye = _mix(eye, _constant(1.0, 1.0, 1.0) * level, 0.9 * sc.edge(0.0125 - glint.sqrt()))
    face = _mix(face, eye, ball)
    lash = sc.edge(0.007 + 0.008 * who["lashes"] - (v - upper).abs() ) * sc.edge((1.12 - t) * 0.06)
    face = _mix(face, sc.skin * 0.06 * level, (0.55 + 0.4 * who["lashes"]) * lash)
    rim = sc.edge(0.006 - (v - lower).abs()) * sc.edge((1.0 - t) * 0.06)
    return _mix(face, sc.skin * 0.30 * level, 0.5 * rim)


# ---------------------------------------------------------------------------------------------------------------------
# Shading: the layers from back to front, in linear light
# ---------------------------------------------------------------------------------------------------------------------
def _background(sc: _Scene) -> Tensor:
    """Return a wall with a change of colour, a darker or lighter part beside it, and something out of focus."""
    how = sc.how
    angle = torch.deg2rad(how["back_angle"])
    ramp = 0.5 + 0.5 * how["back_change"] * (sc.x * angle.cos() + sc.y * angle.sin())
    base = _colour(how, "back")
    wall = base * (0.45 + 0.9 * ramp.clamp(0, 1.2)).unsqueeze(1)
    beside = sc.x * angle.sin() - sc.y * angle.cos() + 0.5 * how["back_x"]  # a door, a window, the edge of a shelf
    wall = _mix(wall, 0.75 - 0.7 * base, 0.8 * (beside.neg() * 30).clamp_(0, 1) * (how["back_x"] < 2))
    far = ((sc.x - how["back_x"]).square() + (sc.y - how["back_y"]).square()).sqrt()
    thing = ((how["back_size"] - far) * 14).clamp_(0, 1)
    return _mix(wall, 0.62 - 0.55 * base.roll(1, dims=1), 0.85 * thing)


def _body(sc: _Scene, picture: Tensor) -> Tensor:
    """Add neck, shoulders and clothes; the chin's shadow falls on the neck."""
    who, how, x = sc.who, sc.how, sc.x
    v = sc.y
    spread = (v - 0.60).clamp(min=0)
    width = who["neck_width"] + 7.5 * spread * spread
    inside = sc.edge(torch.minimum(width - x.abs(), v - 0.1))
    nx = (x / width).clamp(-1, 1)
    light = sc.shade(0.9 * nx, torch.zeros_like(nx), (1 - 0.8 * nx * nx).sqrt())
    chin = MIDDLE + who["jaw_length"]
    shadow = 1 - 0.68 * (1 - (v - chin + 0.02) * 3.5).clamp(0, 1)
    picture = _mix(picture, sc.skin * (0.92 * light * shadow).unsqueeze(1), inside)
    collar = 0.72 + how["neckline"] * (1 - (x / 0.30).square()).clamp(min=0)
    folds = 0.92 + 0.08 * (11 * x + 3 * (4 * v).sin()).sin()
    cloth = sc.edge(v - collar)
    trim = 1 - 0.35 * _bump(((v - collar - 0.02) / 0.03).square())
    colour = _colour(how, "cloth") * (light * folds * trim).unsqueeze(1)
    return _mix(picture, colour, inside * cloth)


def _ears(sc: _Scene, picture: Tensor) -> Tensor:
    """Add the ears, which sit behind the face and so move against it when the head turns."""
    who, yaw, pitch = sc.who, torch.deg2rad(sc.how["yaw"]), torch.deg2rad(-sc.how["pitch"])
    u = (sc.x + 0.02 * yaw.sin()) / yaw.cos()
    v = (sc.y + 0.05 * pitch.sin()) / pitch.cos()
    a = u.abs() - who["face_width"] - who["ear_out"] + 0.01
    b = v - 0.03 + 0.12 * a
    size = who["ear_size"]
    r = ((a / (0.065 * size)).square() + (b / (0.135 * size)).square()).sqrt()
    light = sc.shade(0.5 * torch.sign(u), 0.3 * b, torch.full_like(b, 0.8))
    inner = _bump(((a + 0.005) / (0.035 * size)).square() + ((b + 0.01) / (0.08 * size)).square())
    colour = sc.skin * torch.tensor([0.95, 0.80, 0.76]).reshape(1, 3, 1, 1) * (light * (1 - 0.5 * inner)).unsqueeze(1)
    return _mix(picture, colour, sc.edge((1 - r) * 0.065))


def _head(sc: _Scene, picture: Tensor, hair: _Hair) -> Tensor:
    """Add the shaded face, with the shadow of the fringe on it."""
    who = sc.who
    mouth = _mouth(sc)
    q = _outline(sc)
    nx, ny, nz = _normals(sc, _height(sc, q, mouth))
    light = sc.shade(nx, ny, nz)
    lx, ly, lz = sc.light
    gloss = ((nx * lx + ny * ly + nz * (lz + 1)) * (2 + 2 * lz).rsqrt()).clamp_(min=0) ** 16
    face = _face_colours(sc, mouth) * (light * (1 - _hollows(sc))).unsqueeze(1)
    face = face + ((0.07 + 0.25 * mouth["lips"]) * 0.5 * gloss * sc.how["light"]).unsqueeze(1)
    face = _eyes(sc, face)
    face = face * (1 - 0.45 * who["hair_amount"] * (1 - hair.opening * 14).clamp_(0, 1)).unsqueeze(1)
    return _mix(picture, face, sc.edge((1 - q.clamp(max=4).sqrt()) * who["face_width"]))


def _hollows(sc: _Scene) -> Tensor:
    """Return the share of light that nostrils, eye sockets, the chin's dip and the lines of age swallow."""
    who = sc.who
    hollow = 0.35 * _spot(sc.u.abs(), sc.v, who["nose_width"] * 0.55, who["nose_length"] + 0.042, 0.026, 0.018)
    hollow = hollow + 0.28 * _spot(sc.u.abs(), sc.v, who["eye_spacing"] - 0.02, who["eye_height"], 0.13, 0.08)
    hollow = hollow + 0.22 * _spot(sc.u, sc.v, 0, who["mouth_height"] + who["lip_lower"] + 0.035, 0.10, 0.025)
    fold = who["nose_width"] + 0.02 + 0.55 * (sc.v - who["nose_length"])
    span = ((sc.v - who["nose_length"] + 0.04) * 20).clamp(0, 1)
    span = span * ((who["mouth_height"] + 0.03 - sc.v) * 20).clamp(0, 1)
    deep = 0.03 + 0.35 * who["age"] + 0.15 * sc.how["smile"].clamp(min=0)
    hollow = hollow + deep * span * _bump(((sc.u.abs() - fold) / 0.028).square())
    lines = (52 * (sc.v + 0.3 * sc.u.square())).sin().clamp(min=0).square()
    hollow = hollow + 0.30 * who["age"] * lines * _spot(sc.u, sc.v, 0, -0.36, 0.26, 0.09)
    return hollow.clamp(0, 0.85)


@dataclass
class _Hair:
    """Signed distances to the hair's outline and to the opening for the face, and its shaded colour."""

    outer: Tensor
    opening: Tensor
    colour: Tensor


def _hair(sc: _Scene) -> _Hair:
    """Return the shape of the hair around the head, with today's volume, and its colour."""
    who, how, u, v = sc.who, sc.how, sc.u, sc.v
    today = 1 + 0.25 * how["hair_volume"]
    t = v - MIDDLE
    a = who["face_width"] + who["hair_side"] * today
    b = who["skull_height"] + who["hair_top"] * today
    curls = (21 * u + 1.2 * (9 * v).sin()).sin() * (19 * v + 1.2 * (11 * u).sin()).sin()
    round_ = 1 - ((u / a).square() + _squarer((t / b).clamp(max=0).square())).sqrt()
    outer = torch.where(t < 0, round_ * a, a + who["hair_flare"] * t - u.abs()) + 0.035 * who["curl"] * curls
    away = (u - who["parting"]).abs().clamp(max=0.45)
    fringe = who["bangs"] * (1 + 0.2 * how["hair_fall"]) + who["sweep"] * away * (1 + 0.25 * how["hair_fall"])
    line = who["hairline"] + fringe - who["recede"] * _bump(((u.abs() - 0.24) / 0.10).square())
    inner = 0.90 * who["face_width"]
    top = ((0.12 - v) / (0.12 - line)).clamp(min=0)
    opening = (1 - (_squarer((u / inner).square()) + _squarer(top.square())).sqrt()) * inner
    colour = _hair_colour(sc, (u / a).clamp(-1, 1), (t / b).clamp(-1, 0.25))
    return _Hair(outer, opening - 0.02 * who["curl"] * curls, colour)


def _hair_colour(sc: _Scene, nx: Tensor, ny: Tensor) -> Tensor:
    """Return shaded hair with strands or curls and a soft sheen (B, 3, S, S)."""
    who, u, v = sc.who, sc.u, sc.v
    light = sc.shade(nx * 0.9, ny, (1.15 - nx * nx - ny * ny).clamp(min=0.05).sqrt())
    flow = (u - who["parting"]) / (v + 1.35).clamp(min=0.25)
    strands = 0.5 * (29 * flow).sin() + 0.6 * (67 * flow + 3 * v).sin() + 0.5 * (113 * flow - 5 * v).sin()
    curls = (27 * u + 1.8 * (17 * v).sin()).sin() * (25 * v + 1.8 * (19 * u).sin()).sin() * 1.4
    texture = 1 + 0.16 * torch.lerp(strands, curls, who["curl"].expand_as(u))
    sheen = _bump(((ny + 0.62 + 0.1 * nx * nx + 0.03 * strands) / 0.13).square()) * (1 - 0.7 * who["curl"])
    colour = _colour(who, "hair") * (light * texture).unsqueeze(1)
    return colour + (0.10 * sheen * light).unsqueeze(1) * (0.25 + _colour(who, "hair"))


def _back_hair(sc: _Scene, picture: Tensor, hair: _Hair) -> Tensor:
    """Add the hair behind neck and ears, and a knot on top."""
    who = sc.who
    end = who["hair_length"] + 0.03 * sc.how["hair_fall"] - sc.v - 9 * (0.13 - hair.outer).clamp(min=0).square()
    above = sc.v - MIDDLE + who["skull_height"] + who["hair_top"] + 0.06
    knot = 0.16 - ((sc.u / 1.15).square() + above.square()).sqrt()
    shape = torch.maximum(torch.minimum(hair.outer, end), torch.where(who["bun"] > 0.02, knot, -1.0))
    colour = hair.colour * (0.60 + 0.4 * (sc.v < -0.1)).unsqueeze(1)
    return _mix(picture, colour, who["hair_amount"] * sc.edge(shape))


def _front_hair(sc: _Scene, picture: Tensor, hair: _Hair) -> Tensor:
    """Add the hair around the face opening."""
    who = sc.who
    tucked = torch.minimum(who["hair_length"], torch.full_like(who["hair_length"], -0.04))
    length = torch.lerp(who["hair_length"], tucked, who["hair_tuck"])
    end = length + 0.03 * sc.how["hair_fall"] - sc.v - 9 * (0.13 - hair.outer).clamp(min=0).square()
    end = end - who["hair_tuck"] * (sc.u.abs() - 0.86 * who["face_width"]).clamp(min=0)
    mask = sc.edge(torch.minimum(torch.minimum(hair.outer, -hair.opening), end))
    return _mix(picture, hair.colour, who["hair_amount"] * mask)


def _long_beard(sc: _Scene, picture: Tensor) -> Tensor:
    """Add the part of a beard that hangs below the chin."""
    who = sc.who
    q = _outline(sc, longer=who["beard_length"])
    mask = sc.edge((1 - q.clamp(max=4).sqrt()) * who["face_width"]) * ((sc.v - 0.42) * 16).clamp(0, 1)
    light = sc.shade(sc.u, torch.zeros_like(sc.u), torch.full_like(sc.u, 0.9)).unsqueeze(1)
    grown = who["beard"] * (who["beard_length"] * 40).clamp(max=1)
    return _mix(picture, _colour(who, "hair") * 0.8 * light, grown * mask)


def _glasses(sc: _Scene, picture: Tensor) -> Tensor:
    """Add the frame, its bridge and temples, and a faint reflection."""
    who = sc.who
    worn = who["glasses"] * (1 - sc.how["glasses_off"])
    e, v = sc.u.abs() - who["eye_spacing"] - 0.01, sc.v - who["eye_height"] - 0.015
    a, b = (e / who["lens_size"]).square(), (v / (who["lens_size"] * 0.82)).square()
    power = 1 - 0.9 * who["lens_square"]
    r = torch.lerp((a * a + b * b).sqrt().sqrt(), (a + b).sqrt(), power.expand_as(a))
    lens = (1 - r) * who["lens_size"]
    frame = who["frame_width"] - lens.abs()
    bar = torch.minimum(who["frame_width"] * 0.8 - (v + 0.035).abs(), -lens)
    bar = torch.minimum(bar, who["face_width"] * 0.98 - sc.u.abs())
    glare = sc.edge(lens) * _bump(((e + 0.8 * v + 0.03) / 0.035).square())
    picture = _mix(picture, _constant(1.0, 1.0, 1.0), worn * (0.006 * sc.edge(lens) + 0.03 * glare))
    light = (sc.how["light"] * 0.5 + sc.how["ambient"]).unsqueeze(1)
    return _mix(picture, _colour(who, "frame") * light, worn * sc.edge(torch.maximum(frame, bar)))


def _occluder(sc: _Scene, picture: Tensor) -> Tensor:
    """Add something before the lower face: a thing held up in a hand, or, when it is wide, a scarf."""
    how = sc.how
    turn = torch.deg2rad(how["object_turn"])
    hand = (how["object_w"] < 0.6).float()
    x, y = sc.x - how["object_x"], sc.y - how["object_y"]
    a = x * turn.cos() + y * turn.sin()
    b = y * turn.cos() - x * turn.sin() + (1 - hand) * 0.5 * (a * a).clamp(max=0.3)  # a scarf hangs in a curve
    da, db = (a.abs() - how["object_w"] + 0.08).clamp(min=0), (b.abs() - how["object_h"] + 0.08).clamp(min=0)
    nx = (a / how["object_w"]).clamp(-1, 1)
    light = sc.shade(0.7 * nx, torch.full_like(nx, -0.1), (1 - 0.5 * nx * nx).sqrt())
    stripes = 0.88 + 0.12 * (24 * b + 2 * (5 * a).sin()).sin()
    mask = how["occluder"] * sc.edge(0.08 - (da * da + db * db).sqrt())
    picture = _mix(picture, _colour(how, "object") * (light * stripes).unsqueeze(1), mask)
    across = b - (b / 0.088).round().clamp(-2, 1) * 0.088  # four fingers around its left edge
    along = ((a + how["object_w"]).abs() - 0.11).clamp(min=0)
    fingers = how["occluder"] * hand * sc.edge(0.043 - (along.square() + across.square()).sqrt())
    return _mix(picture, sc.skin * (light * (1 - 240 * across.square()).clamp(min=0.25)).unsqueeze(1), fingers)


def _sensor(how: dict[str, Tensor], picture: Tensor) -> Tensor:
    """Expose, tint, blur, add noise and round to uint8."""
    warm = how["warmth"].unsqueeze(1) * torch.tensor([0.14, 0.01, -0.20]).reshape(1, 3, 1, 1)
    photo = (picture * (1 + warm) * how["exposure"].unsqueeze(1)).clamp_(min=0)
    photo = photo * (1 + 0.10 * photo) / (1 + 0.45 * photo)  # a film-like shoulder keeps highlights coloured
    photo = photo.mul_(1.18).clamp_(0, 1).sqrt_()
    size = photo.shape[-1]
    wide = torch.nn.functional.pad(photo, (1, 1, 1, 1), mode="replicate")
    cross = (wide[..., 1:-1, 2:] + wide[..., 1:-1, :-2] + wide[..., 2:, 1:-1] + wide[..., :-2, 1:-1]) / 4
    photo = torch.lerp(photo, cross, 0.7 * how["blur"].unsqueeze(1))
    seeds = (how["grain"].reshape(-1) * 2**24).long().tolist()
    grain = np.stack([np.random.default_rng(s).standard_normal((3, size, size), dtype=np.float32) for s in seeds])
    photo = photo + torch.from_numpy(grain) * (how["noise"] * (64 / size)).unsqueeze(1)
    return photo.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


@torch.no_grad()
def render(latents: Tensor, nuisance: Tensor, image_size: int = 64) -> Tensor:
    """Draw people (B, len(TRAITS)) under conditions (B, len(NUISANCE)) as uint8 photos (B, 3, S, S). Notebook 02."""
    _check_size(image_size)
    if latents.shape[1:] != (len(TRAITS),) or nuisance.shape != (len(latents), len(NUISANCE)):
        raise CourseError(
            f"render expects latents (B, {len(TRAITS)}) and nuisance (B, {len(NUISANCE)}), "
            f"but got {tuple(latents.shape)} and {tuple(nuisance.shape)}."
        )
    step = max(1, CHUNK_PIXELS // image_size**2)
    chunks = zip(latents.float().split(step), nuisance.float().split(step), strict=True)
    return torch.cat([_render_chunk(a, b, image_size) for a, b in chunks])


def _render_chunk(latents: Tensor, nuisance: Tensor, size: int) -> Tensor:
    """Draw the layers from back to front."""
    sc = _scene(latents, nuisance, size)
    hair = _hair(sc)
    picture = _back_hair(sc, _background(sc), hair)
    picture = _ears(sc, _body(sc, picture))
    picture = _head(sc, picture, hair)
    picture = _where(sc, picture, sc.who["beard_length"] * sc.who["beard"], _long_beard)
    picture = _front_hair(sc, picture, hair)
    picture = _where(sc, picture, sc.who["glasses"] * (1 - sc.how["glasses_off"]), _glasses)
    picture = _where(sc, picture, sc.how["occluder"], _occluder)
    return _sensor(sc.how, picture)


def _where(sc: _Scene, picture: Tensor, amount: Tensor, layer: Callable[[_Scene, Tensor], Tensor]) -> Tensor:
    """Draw a rare layer only on the photos that have it, in place."""
    rows = amount.reshape(-1).nonzero().squeeze(1)
    if len(rows):
        picture[rows] = layer(sc.select(rows), picture[rows])
    return picture


# ---------------------------------------------------------------------------------------------------------------------
# The data set
# ---------------------------------------------------------------------------------------------------------------------
def _check_whole(value: int, name: str, least: int) -> None:
    """Raise a CourseError unless the value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise CourseError(f"{name} must be a whole number of at least {least}, but it is {value!r}.")


def _check_size(image_size: int) -> None:
    """Raise a CourseError unless the image size is one that can be drawn."""
    _check_whole(image_size, "image_size", 32)
    if image_size > 512:
        raise CourseError(f"image_size must be between 32 and 512 pixels, but it is {image_size}.")


def synthetic_faces(
    n_trained: int = 120,
    n_unseen: int = 60,
    photos_trained: int = 50,
    photos_unseen: int = 20,
    image_size: int = 64,
    seed: int = 0,
    progress: bool = True,
    cached: bool = True,
) -> tuple[Tensor, np.ndarray, tuple[str, ...]]:
    """Return the embedded faces: uint8 photos (N, 3, S, S), int64 labels (N,) sorted, and the identities' names.

    Identities 0..n_trained-1 have `photos_trained` photos, the others `photos_unseen`; photo k of identity i depends
    on (seed, i, k, image_size) alone. Cached on disk; raises CourseError for impossible numbers. Notebook 02.
    """
    for name, value in (("n_trained", n_trained), ("n_unseen", n_unseen), ("seed", seed)):
        _check_whole(value, name, 0)
    _check_whole(photos_trained, "photos_trained", 1)
    _check_whole(photos_unseen, "photos_unseen", 1)
    _check_size(image_size)
    if n_trained + n_unseen == 0:
        raise CourseError("n_trained and n_unseen are both 0; ask for at least one person.")
    counts = [photos_trained] * n_trained + [photos_unseen] * n_unseen
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    path = _cache_path(n_trained, n_unseen, photos_trained, photos_unseen, image_size, seed)
    photos = _read_cache(path, (len(labels), 3, image_size, image_size)) if cached else None
    if photos is None:
        photos = _render_all(counts, image_size, seed, progress)
        if cached:
            _write_cache(path, photos)
    return photos, labels, identity_names(len(counts), seed)


def _render_all(counts: list[int], image_size: int, seed: int, progress: bool) -> Tensor:
    """Draw counts[i] photos of every identity i."""
    latents = sample_identities(len(counts), seed)
    photos = torch.empty((sum(counts), 3, image_size, image_size), dtype=torch.uint8)
    start = 0
    with progress_bar(desc="drawing faces", total=len(photos), enabled=progress) as bar:
        for i, count in enumerate(counts):
            photos[start : start + count] = render(
                latents[i].expand(count, -1), sample_nuisance(i, count, seed), image_size
            )
            start += count
            bar.update(count)
    return photos


def _cache_path(*arguments: int) -> Path:
    """Return a file name that changes with the arguments, the recipe's version and this very source."""
    recipe = repr((VERSION, arguments)).encode() + Path(__file__).read_bytes()
    return cache_dir() / "synthetic" / f"faces-{hashlib.sha256(recipe).hexdigest()[:20]}.npz"


def _read_cache(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Return the cached photos, or None if there are none or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:  # the archive's checksum is verified while reading
            photos = file["photos"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    return torch.from_numpy(photos) if photos.shape == shape and photos.dtype == np.uint8 else None


def _write_cache(path: Path, photos: Tensor) -> None:
    """Write the photos so that a reader sees all of them or none."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, photos=photos.numpy())


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------
def contact_sheet(photos: Tensor, columns: int) -> np.ndarray:
    """Lay photos (N, 3, S, S) out in rows of `columns`; returns uint8 (height, width, 3)."""
    rows = len(photos) // columns
    size = photos.shape[-1]
    grid = photos[: rows * columns].reshape(rows, columns, 3, size, size)
    return grid.permute(0, 3, 1, 4, 2).reshape(rows * size, columns * size, 3).numpy()


def pixel_r1(photos: Tensor, labels: np.ndarray, gallery: np.ndarray, query: np.ndarray) -> float:
    """Return the share of query photos whose nearest other gallery photo, pixel by pixel, shows the same person."""
    flat = photos.flatten(1).float()
    distances = torch.cdist(flat[query], flat[gallery])
    distances[torch.from_numpy(query[:, None] == gallery[None, :])] = torch.inf
    nearest = gallery[distances.argmin(dim=1).numpy()]
    return float((labels[nearest] == labels[query]).mean())


def _bench(seed: int, size: int) -> str:
    """Measure photos per second and the recall of raw pixels on the default protocol."""
    start = time.perf_counter()
    photos, labels, _ = synthetic_faces(image_size=size, seed=seed, cached=False)
    rate = len(photos) / (time.perf_counter() - start)
    order = np.concatenate([np.arange(n) for n in np.bincount(labels)])
    held_out = np.flatnonzero((labels >= 120) | (order >= 40))
    trained = held_out[labels[held_out] < 120]
    unseen = held_out[labels[held_out] >= 120]
    lines = [f"{rate:.0f} photos per second at {size}x{size} with {torch.get_num_threads()} thread(s)"]
    for name, query in (("held-out", trained), ("unseen", unseen), ("both", held_out)):
        lines.append(f"pixel R@1, {name} photos, leave one out: {pixel_r1(photos, labels, query, query):.1%}")
    everything = pixel_r1(photos, labels, np.arange(len(labels)), trained)
    return "\n".join([*lines, f"pixel R@1, held-out photos against all others: {everything:.1%}"])


def main(arguments: list[str] | None = None) -> None:
    """Write a contact sheet of synthetic people, or measure speed and difficulty."""
    parser = argparse.ArgumentParser(prog="python -m utils.synthetic", description=main.__doc__)
    parser.add_argument("--out", type=Path, help="PNG file for the contact sheet")
    parser.add_argument("--identities", type=int, default=6, help="rows of the sheet")
    parser.add_argument("--photos", type=int, default=8, help="columns of the sheet")
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bench", action="store_true", help="print photos per second and the R@1 of raw pixels")
    options = parser.parse_args(arguments)
    if options.bench:
        print(_bench(options.seed, options.size))
    if options.out:
        from PIL import Image

        people, each = options.identities, options.photos
        photos, _, _ = synthetic_faces(people, 0, each, 1, options.size, options.seed, cached=False)
        with atomic_path(options.out) as temporary:
            Image.fromarray(contact_sheet(photos, options.photos)).save(temporary, format="PNG")


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        raise SystemExit(f"Error: {error}") from error
