"""The named numbers behind a synthetic photo, and how they are drawn: who it is, and how the photo was taken.

An identity is one row of `ATTRIBUTES`, the conditions of a photo are one row of `NUISANCE`; both are ordered tuples of
named factors, one tensor column each. Lengths are in units of half the image side, x to the right and y down, angles
in degrees. Nothing is drawn here: renderer.py turns these numbers into pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...settings import as_seed, whole_number


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
ATTRIBUTES = (
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
# sRGB colours from 0 to 255 as (red, green, blue).
HAIR_DARK = ((22, 18, 18), (34, 25, 22), (48, 32, 25), (64, 42, 30))
HAIR_ANY = (*HAIR_DARK, (92, 60, 38), (120, 80, 48), (128, 58, 30), (176, 88, 40), (156, 118, 72), (206, 168, 108),
            (228, 204, 156))  # fmt: skip
HAIR_GREY = ((120, 118, 118), (170, 168, 166), (200, 198, 194))
HAIR_DYED = ((60, 130, 140), (190, 80, 120), (110, 70, 150), (60, 90, 170))
IRIS_DARK = ((46, 28, 18), (66, 40, 22), (88, 54, 28))
IRIS_ANY = (*IRIS_DARK, (120, 84, 40), (96, 110, 60), (70, 120, 86), (92, 130, 170), (60, 100, 156), (120, 136, 146))
FRAMES = ((24, 22, 24), (70, 40, 24), (150, 30, 40), (30, 60, 120), (190, 150, 70), (140, 140, 146), (20, 90, 80))

# Shares of people.
DYED = 0.08  # with a bright hair colour
GREY = 0.12
BALD = {True: 0.28, False: 0.05}  # of masculine and of other short-haired people: thin or no hair
SHORT = {True: 0.72, False: 0.22}  # with short hair
SHAVED_CHIN = 0.45  # of masculine people

GOLDEN = 0.618034  # steps of the golden ratio fill an interval evenly, however many are taken


def sample_identities(n: int, seed: int = 0) -> Tensor:
    """Draw n identities as latents (n, len(ATTRIBUTES)) float32; row i depends on (seed, i) alone; raises CourseError.

    Introduced in notebook 02.
    """
    n, seed = whole_number(n, "n", 1), as_seed(seed)
    return torch.from_numpy(np.stack([_draw_identity(seed, i) for i in range(n)]))


def _draw_identity(seed: int, i: int) -> np.ndarray:
    """Draw every trait uniformly in its range, then let nature's correlations overrule some of them."""
    rng = np.random.default_rng([seed, 0, i])
    who = {
        t.name: t.low + (t.high - t.low) * float(z)
        for t, z in zip(ATTRIBUTES, rng.random(len(ATTRIBUTES)), strict=True)
    }
    # Evenly filling steps keep every group of neighbours balanced over skin tones; chance would leave gaps.
    who["skin_tone"] = float((GOLDEN * (i + 1) + 0.37 * seed + 0.06 * rng.random()) % 1.0)
    style, kind, old, bald, dyed = rng.random(5)
    masculine = kind < 0.5
    _draw_hair(who, rng, style, masculine=masculine, bald=bald)
    _draw_colours(who, rng, dyed=dyed, old=old)
    _draw_beard(who, rng, masculine=masculine and dyed >= DYED)
    _correlate(who, masculine)
    _keep_rare(who, old)
    return np.array([who[t.name] for t in ATTRIBUTES], dtype=np.float32)


@dataclass(frozen=True)
class _HairDice:
    """Eight draws from 0 to 1 that decide a hairstyle; features that go together share one."""

    front: float
    fringe: float
    swing: float
    length: float
    top: float
    side: float
    wear: float
    cut: float


def _draw_hair(who: dict, rng: np.random.Generator, style: float, *, masculine: bool, bald: float) -> None:
    """Choose one of several families of hairstyle and vary it."""
    dice = _HairDice(*rng.random(8))
    curlier = 0.35 * (who["skin_tone"] > 0.7)
    who["curl"] = float(np.clip(who["curl"] * 1.5 - 0.5 + curlier, 0, 1))
    who.update(hair_amount=1.0, bun=0.0, bangs=0.0, sweep=0.1 * dice.swing)
    who.update(hairline=-0.46 + 0.10 * dice.front, recede=0.06 * dice.fringe)
    if style < SHORT[masculine]:
        _wear_short(who, dice, thin=bald < BALD[masculine])
    else:
        _wear_long(who, dice)
    if who["curl"] > 0.6 and bald > 0.4 and dice.side > 0.45:  # a round head of curls
        who.update(hair_top=0.16 + 0.12 * dice.top, hair_side=0.14 + 0.11 * dice.top, hair_tuck=0.0, sweep=0.0)
        who["hair_length"] = 0.12 + 0.35 * dice.length


def _wear_short(who: dict, dice: _HairDice, *, thin: bool) -> None:
    """Cut the hair above the jaw; where it is thin, shave it or raise the hairline."""
    who.update(hair_length=-0.1 + 0.16 * dice.length, hair_top=0.04 + 0.16 * dice.top)
    who.update(hair_side=0.015 + 0.05 * dice.side, hair_tuck=1.0, hair_flare=0.0)
    who.update(sweep=0.35 * dice.wear, bangs=0.08 * (dice.cut > 0.6))
    if thin:
        who.update(hair_amount=float(dice.wear > 0.4), hairline=-0.62 - 0.33 * dice.front)
        who.update(hair_top=0.02, hair_side=0.015, sweep=0.0, bangs=0.0)


def _wear_long(who: dict, dice: _HairDice) -> None:
    """Let the hair fall to the chin or the shoulders, with or without a fringe, or pin it up."""
    to_chin, to_shoulders = 0.38 + 0.16 * dice.length, 0.75 + 0.45 * dice.length
    who.update(hair_length=to_chin if dice.cut < 0.45 else to_shoulders)
    who.update(hair_top=0.06 + 0.10 * dice.top, hair_side=0.04 + 0.12 * dice.side)
    who.update(hair_tuck=float(dice.wear < 0.25), hair_flare=-0.1 + 0.35 * dice.swing * (0.4 + who["curl"]))
    if dice.fringe < 0.30:
        who["bangs"] = 0.12 + 0.10 * dice.front
    elif dice.fringe < 0.7:
        who["sweep"] = 0.25 + 0.35 * dice.front
    if dice.wear > 0.86:  # pinned up
        who.update(bun=1.0, hair_length=-0.05, hair_tuck=1.0, hair_side=0.03, hair_top=0.07)


def _draw_colours(who: dict, rng: np.random.Generator, *, dyed: float, old: float) -> None:
    """Choose natural colours of hair, irises and glasses for the skin tone, and vary each a little."""
    dark = who["skin_tone"] > 0.5 and rng.random() < 0.8
    natural = HAIR_DARK if dark else HAIR_ANY
    hair = HAIR_DYED if dyed < DYED else HAIR_GREY if old > 1 - GREY else natural
    for name, palette in (("hair", hair), ("iris", IRIS_DARK if dark else IRIS_ANY), ("frame", FRAMES)):
        colour = np.array(palette[rng.integers(len(palette))]) / 255
        colour = np.clip(colour * (0.75 + 0.5 * rng.random()) + 0.02 * rng.standard_normal(3), 0.03, 1)
        who.update(zip((f"{name}_red", f"{name}_green", f"{name}_blue"), colour.tolist(), strict=True))


def _draw_beard(who: dict, rng: np.random.Generator, *, masculine: bool) -> None:
    """Give about half of the masculine faces stubble, moustache, goatee or full beard."""
    kind, strength, length = rng.random(3)
    who.update(beard=0.0, goatee=0.0, moustache=0.0, beard_length=0.0)
    if not masculine or kind < SHAVED_CHIN:
        return
    if kind < 0.60:  # stubble
        who.update(beard=0.25 + 0.25 * strength, moustache=0.25 + 0.25 * strength)
    elif kind < 0.72:  # moustache alone
        who.update(moustache=0.75 + 0.25 * strength)
    elif kind < 0.84:  # goatee
        who.update(goatee=0.7 + 0.3 * strength, moustache=0.8 * (length > 0.4))
    else:  # full beard
        who.update(beard=0.75 + 0.25 * strength, moustache=0.85, goatee=0.9, beard_length=0.2 * length**2)


def _correlate(who: dict, masculine: bool) -> None:
    """Tie traits together that come together on real faces."""
    if masculine:
        who["lip_red"] *= 0.45
        who["lashes"] *= 0.6
        who["blush"] *= 0.4
    else:
        who["brow_ridge"] *= 0.4
        who["brow_thickness"] = 0.012 + 0.6 * (who["brow_thickness"] - 0.012)
        who["neck_width"] -= 0.03
        who["lashes"] = 0.5 + 0.5 * who["lashes"]
    who["mouth_width"] -= 0.15 * max(0.0, who["jaw_taper"] - 0.2)  # a narrow jaw has room for a narrow mouth


def _keep_rare(who: dict, old: float) -> None:
    """Give lines of age, freckles, a mole and glasses to a part of the people only."""
    who["age"] = max(0.0, (old - 0.55) / 0.45)
    who["freckles"] = max(0.0, who["freckles"] - 0.6) * 2.5 * (who["skin_tone"] < 0.55)
    who["mole"] = float(who["mole"] > 0.55)
    who["mole_x"] += 0.10 if who["mole_x"] > 0 else -0.10  # beside nose and mouth, not on them
    who["glasses"] = float(who["glasses"] > 0.72)


# ---------------------------------------------------------------------------------------------------------------------
# Nuisance: what differs from photo to photo
# ---------------------------------------------------------------------------------------------------------------------
NUISANCE = (
    Factor("yaw", -17, 17, "degrees; positive turns to the right of the picture"),
    Factor("pitch", -8, 8, "degrees; positive looks up"),
    Factor("roll", -11, 11, "degrees; positive tilts clockwise"),
    Factor("scale", 0.87, 1.17, "size of the head", 1.0),
    Factor("shift_x", -0.34, 0.34, "head moved to the right"),
    Factor("shift_y", -0.22, 0.34, "head moved down", 0.08),
    Factor("smile", -0.2, 0.8, "corners of the mouth", 0.2),
    Factor("mouth_open", 0.0, 1.0, "jaw dropped"),
    Factor("brow_raise", -0.4, 1.0, "brows down or up"),
    Factor("gaze_x", -1.0, 1.0, "eyes to the right"),
    Factor("gaze_y", -0.6, 0.6, "eyes down"),
    Factor("blink", 0.0, 1.0, "eyes closed"),
    Factor("light_x", -0.7, 0.7, "light from the right", -0.4),
    Factor("light_y", -0.9, 0.35, "light from below (from above when negative)", -0.45),
    Factor("light", 0.7, 1.25, "strength of the main light", 1.0),
    Factor("ambient", 0.30, 0.52, "strength of the light from all around", 0.38),
    Factor("exposure", 0.54, 1.65, "brightness of the whole photo", 1.0),
    Factor("warmth", -0.5, 0.5, "colour temperature, from blue to orange"),
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
    Factor("hair_volume", -0.25, 0.35, "more or less volume today"),
    Factor("hair_fall", -0.6, 0.6, "fringe and length today"),
    Factor("glasses_off", 0.0, 1.0, "1 takes the glasses off"),
    Factor("blur", 0.0, 0.20, "out of focus"),
    Factor("noise", 0.0, 0.012, "sensor noise, standard deviation at 64 pixels"),
    Factor("grain", 0.0, 1.0, "which noise"),
)
RARE = (("blink", 0.08), ("occluder", 0.05), ("glasses_off", 0.05))  # on or off, and the share of photos that have it
COLOURFUL = (("back", 0.6), ("cloth", 0.6), ("object", 0.7))  # 1 would be as garish as colours drawn at random
SCARVES = 0.35  # the share of scarves among the objects before the face

_COLUMN = {f.name: j for j, f in enumerate(NUISANCE)}
_LOW, _SPAN = (np.array(v, dtype=np.float64) for v in zip(*((f.low, f.high - f.low) for f in NUISANCE), strict=True))


def neutral_nuisance(n: int = 1) -> Tensor:
    """Return the conditions of a calm studio photo, n rows (n, len(NUISANCE)) float32, one column per factor.

    Change one column to see what a factor does. Introduced in notebook 02.
    """
    n = whole_number(n, "n", 1)
    return torch.tensor([[f.neutral for f in NUISANCE]], dtype=torch.float32).repeat(n, 1)


def sample_nuisance(identity: int, photos: int, seed: int = 0, first: int = 0) -> Tensor:
    """Draw conditions (photos, len(NUISANCE)) float32; row k depends on (seed, identity, first + k) alone.

    Raises CourseError. Introduced in notebook 02.
    """
    photos, seed = whole_number(photos, "photos", 1), as_seed(seed)
    identity, first = whole_number(identity, "identity"), whole_number(first, "first")
    return torch.from_numpy(np.stack([_draw_nuisance(seed, identity, k) for k in range(first, first + photos)]))


def _draw_nuisance(seed: int, identity: int, photo: int) -> np.ndarray:
    """Draw every factor uniformly in its range, then make the rare ones rare and the colours calm."""
    z = np.random.default_rng([seed, 1, identity, photo]).random(len(NUISANCE))
    for name, share in RARE:
        z[_COLUMN[name]] = z[_COLUMN[name]] < share
    z[_COLUMN["mouth_open"]] = max(0.0, 2 * z[_COLUMN["mouth_open"]] - 1)  # half of the mouths are closed
    z[_COLUMN["blur"]] **= 2  # most photos are sharp
    for name, colourful in COLOURFUL:
        j = _COLUMN[f"{name}_red"]
        z[j : j + 3] = np.clip(z[j] + colourful * (z[[j, j + 1, j + 2]] - z[j : j + 3].mean()), 0, 1)
    _shape_object(z)
    return (_LOW + _SPAN * z).astype(np.float32)


def _shape_object(z: np.ndarray) -> None:
    """Make the object a thing of hand's width or, more rarely, a scarf: full width, lower, in the middle."""
    width = z[_COLUMN["object_w"]]
    scarf = width >= 1 - SCARVES
    z[_COLUMN["object_w"]] = 1.0 if scarf else 0.15 * width
    if scarf:
        z[_COLUMN["object_y"]] = 0.6 + 0.4 * z[_COLUMN["object_y"]]
        z[_COLUMN["object_x"]] = 0.4 + 0.2 * z[_COLUMN["object_x"]]
