"""What is drawn on and around a head: colours, brows, eyes, background, body, hair, and things before the face."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import (
    MIDDLE,
    Mouth,
    Scene,
    bump,
    head_turn,
    height,
    inside_head,
    mix,
    mouth_of,
    named_colour,
    normals,
    outline,
    ripples,
    spot,
    squarer,
)


def _face_colours(sc: Scene, mouth: Mouth) -> Tensor:
    """Return the colour of the face (B, 3, S, S) without eyes: skin, beard, lips, brows."""
    face = _beard(sc, _complexion(sc), mouth)
    pale = sc.skin_times(0.78, 0.45, 0.45)
    red = 0.35 * sc.skin + 0.65 * sc.paint(0.62, 0.20, 0.24)
    lip = torch.lerp(pale, red, sc.who["lip_red"].unsqueeze(1))
    face = mix(face, lip, mouth.lips)
    face = mix(face, lip * 0.30, 0.75 * mouth.line)
    face = mix(face, sc.paint(0.28, 0.08, 0.08), mouth.opening)
    face = mix(face, sc.paint(0.93, 0.91, 0.87), mouth.teeth)
    return _brows(sc, face)


def _complexion(sc: Scene) -> Tensor:
    """Return the skin (B, 3, S, S) with red in cheeks and nose, freckles and a mole."""
    who, u, v = sc.who, sc.u, sc.v
    redness = (0.25 + 0.45 * who["blush"]) * spot(u.abs(), v, 0.27, 0.15, 0.13, 0.10)
    redness = redness + 0.25 * spot(u, v, 0, who["nose_length"], 0.07, 0.06)
    face = mix(sc.skin, sc.skin_times(1.0, 0.62, 0.60), redness)
    dots = (ripples(u, v, 61, 67, 9, 23, 19) - 0.45).clamp_(min=0) * 1.6
    speckle = who["freckles"] * dots * spot(u.abs(), v, 0.16, 0.10, 0.20, 0.12)
    face = mix(face, sc.skin * 0.35, speckle.clamp_(max=0.75))
    away = ((u - who["mole_x"]).square() + (v - who["mole_y"]).square()).sqrt()
    return mix(face, sc.skin * 0.16, who["mole"] * sc.edge(0.020 - away))


def _beard(sc: Scene, face: Tensor, mouth: Mouth) -> Tensor:
    """Grow beard, goatee and moustache in the colour of the hair."""
    who, u, v = sc.who, sc.u, sc.v
    side, line, lip = u.abs(), who["mouth_height"], who["lip_upper"]
    cheek_line = 0.12 + 0.9 * (who["face_width"] - 0.06 - side).clamp(min=0)
    jaw = ((v - torch.minimum(cheek_line, line + 0.07)) * 16).clamp_(0, 1)
    chin = (2.2 * spot(u, v, 0, line + who["lip_lower"] + 0.13, 0.12, 0.085)).clamp_(max=1)
    middle = line - 0.5 * lip - 0.035  # between nose and upper lip
    off_middle = (mouth.below + line - middle - 0.12 * side).abs()
    stache = ((0.036 + 0.3 * lip - 0.9 * u.square() - off_middle) * 40).clamp_(0, 1)
    stache = stache * ((who["mouth_width"] * 0.95 - side) * 16).clamp_(0, 1)
    grown = torch.maximum(torch.maximum(who["beard"] * jaw, who["goatee"] * chin), who["moustache"] * stache)
    texture = 0.9 + 0.1 * ((97 * u + 31 * v).sin() * (83 * v - 17 * u).sin())
    return mix(face, named_colour(who, "hair") * 0.85, (grown * texture).clamp_(max=0.95))


def _brows(sc: Scene, face: Tensor) -> Tensor:
    """Draw the eyebrows: arched, tilted, and thinner towards their outer ends."""
    who = sc.who
    e = sc.u.abs() - who["eye_spacing"] - 0.015
    t = e / who["brow_length"]  # -1 at the inner end, 1 at the outer end
    middle = who["eye_height"] - who["brow_height"] - 0.03 * sc.how["brow_raise"]
    middle = middle + who["brow_arch"] * (0.7 * (t - 0.15).square() - 0.4) - who["brow_tilt"] * e
    thick = who["brow_thickness"] * (1.0 - 0.45 * t.clamp(-1, 1).square() - 0.25 * t.clamp(-1, 1))
    mask = sc.edge(torch.minimum(thick - (sc.v - middle).abs(), who["brow_length"] - e.abs()))
    colour = torch.lerp(named_colour(who, "hair"), sc.skin * 0.15, 0.45)
    return mix(face, colour, who["brow_density"] * mask)


@dataclass
class _Lids:
    """Coordinates around an eye's middle and the two lid lines; both eyes are drawn at once, mirrored."""

    e: Tensor  # towards the temple
    v: Tensor  # downwards, tilted with the eye
    t: Tensor  # 0 in the middle, 1 at the corners
    upper: Tensor
    lower: Tensor


def _lids(sc: Scene) -> _Lids:
    """Return the lids; a blink brings the upper one down, raised brows widen and a smile narrows the eye."""
    who, how = sc.who, sc.how
    e = sc.u.abs() - who["eye_spacing"]
    v = sc.v - who["eye_height"] + who["eye_tilt"] * e
    t = (e / who["eye_width"]).square()
    arch = (1 - t).clamp(min=0)
    wide = who["eye_open"] * (1 - how["blink"]) * (1 + 0.12 * how["brow_raise"] - 0.12 * how["smile"].clamp(min=0))
    upper = -wide * arch * (1.15 - 0.25 * t) + 0.5 * who["eye_open"] * how["blink"] * arch
    return _Lids(e, v, t, upper, lower=0.75 * who["eye_open"] * arch)


def _eyeball(sc: Scene, lids: _Lids, level: Tensor) -> Tensor:
    """Return white, ringed iris, pupil and highlight (B, 3, S, S), dark under the upper lid."""
    who, how, v, size = sc.who, sc.how, lids.v, sc.who["iris_size"]
    side = torch.where(sc.u < 0, -1.0, 1.0)
    x = lids.e * side - 0.030 * how["gaze_x"]  # not mirrored: both eyes look the same way
    r = (x.square() + (v - 0.018 * how["gaze_y"] + 0.006).square()).sqrt()
    iris = named_colour(who, "iris") * level
    eye = mix(sc.paint(0.93, 0.92, 0.90) * level, iris * 0.35, sc.edge(size - r))
    eye = mix(eye, iris * 1.35, sc.edge(size * 0.82 - r))
    eye = mix(eye, sc.paint(0.04, 0.04, 0.05), sc.edge(size * 0.45 - r))
    eye = eye * (1 - 0.45 * bump(((v - lids.upper) / 0.022).square())).unsqueeze(1)
    glint = (x - 0.016 * torch.sign(how["light_x"])).square() + (v + 0.020).square()
    return mix(eye, sc.paint(1.0, 1.0, 1.0) * level, 0.9 * sc.edge(0.0125 - glint.sqrt()))


def _eyes(sc: Scene, face: Tensor) -> Tensor:
    """Draw the eyes over the shaded face: crease, ball, lashes and lower rim."""
    lashes, lids = sc.who["lashes"], _lids(sc)
    v, t, upper, lower = lids.v, lids.t, lids.upper, lids.lower
    level = (sc.how["light"] * 0.62 + sc.how["ambient"]).unsqueeze(1)  # an eye is lit from wherever it is seen
    crease = bump(((v - upper + 0.032) / 0.010).square()) * (1.25 - t).clamp_(0, 1)
    face = face * (1 - 0.25 * crease).unsqueeze(1)
    opening = torch.minimum(torch.minimum(v - upper, lower - v), (1.05 - t) * 0.06)
    face = mix(face, _eyeball(sc, lids, level), sc.edge(opening))
    lash = sc.edge(0.007 + 0.008 * lashes - (v - upper).abs()) * sc.edge((1.12 - t) * 0.06)
    face = mix(face, sc.skin * 0.06 * level, (0.55 + 0.4 * lashes) * lash)
    rim = sc.edge(0.006 - (v - lower).abs()) * sc.edge((1.0 - t) * 0.06)
    return mix(face, sc.skin * 0.30 * level, 0.5 * rim)


# ---------------------------------------------------------------------------------------------------------------------
# Shading: background, body and head in linear light
# ---------------------------------------------------------------------------------------------------------------------
def background(sc: Scene) -> Tensor:
    """Return a wall with a change of colour, a darker or lighter part beside it, and something out of focus."""
    how = sc.how
    angle = torch.deg2rad(how["back_angle"])
    ramp = 0.5 + 0.5 * how["back_change"] * (sc.x * angle.cos() + sc.y * angle.sin())
    base = named_colour(how, "back")
    wall = base * (0.45 + 0.9 * ramp.clamp(0, 1.2)).unsqueeze(1)
    beside = sc.x * angle.sin() - sc.y * angle.cos() + 0.5 * how["back_x"]  # a door, a window, the edge of a shelf
    in_sight = how["back_x"] < 2  # the neutral studio has an empty wall
    wall = mix(wall, 0.75 - 0.7 * base, 0.8 * (beside.neg() * 30).clamp_(0, 1) * in_sight)
    far = ((sc.x - how["back_x"]).square() + (sc.y - how["back_y"]).square()).sqrt()
    thing = ((how["back_size"] - far) * 14).clamp_(0, 1)
    return mix(wall, 0.62 - 0.55 * base.roll(1, dims=1), 0.85 * thing)


def body(sc: Scene, picture: Tensor) -> Tensor:
    """Add neck, shoulders and clothes, which roll but do not turn; the chin's shadow falls on the neck."""
    who, how, x, y = sc.who, sc.how, sc.x, sc.y
    spread = (y - 0.60).clamp(min=0)
    width = who["neck_width"] + 7.5 * spread * spread
    inside = sc.edge(torch.minimum(width - x.abs(), y - 0.1))
    nx = (x / width).clamp(-1, 1)
    light = sc.shade(0.9 * nx, torch.zeros_like(nx), (1 - 0.8 * nx * nx).sqrt())
    chin = MIDDLE + who["jaw_length"]
    shadow = 1 - 0.68 * (1 - (y - chin + 0.02) * 3.5).clamp(0, 1)
    picture = mix(picture, sc.skin * (0.92 * light * shadow).unsqueeze(1), inside)
    collar = 0.72 + how["neckline"] * (1 - (x / 0.30).square()).clamp(min=0)
    folds = 0.92 + 0.08 * (11 * x + 3 * (4 * y).sin()).sin()
    trim = 1 - 0.35 * bump(((y - collar - 0.02) / 0.03).square())
    colour = named_colour(how, "cloth") * (light * folds * trim).unsqueeze(1)
    return mix(picture, colour, inside * sc.edge(y - collar))


def ears(sc: Scene, picture: Tensor) -> Tensor:
    """Add the ears, which sit behind the face and so move against it when the head turns."""
    who, size = sc.who, sc.who["ear_size"]
    yaw, pitch = head_turn(sc.how)
    u = (sc.x + 0.02 * yaw.sin()) / yaw.cos()
    v = (sc.y + 0.05 * pitch.sin()) / pitch.cos()
    a = u.abs() - who["face_width"] - who["ear_out"] + 0.01
    b = v - 0.03 + 0.12 * a
    r = ((a / (0.065 * size)).square() + (b / (0.135 * size)).square()).sqrt()
    light = sc.shade(0.5 * torch.sign(u), 0.3 * b, torch.full_like(b, 0.8))
    shell = bump(((a + 0.005) / (0.035 * size)).square() + ((b + 0.01) / (0.08 * size)).square())
    colour = sc.skin_times(0.95, 0.80, 0.76) * (light * (1 - 0.5 * shell)).unsqueeze(1)
    return mix(picture, colour, sc.edge((1 - r) * 0.065))


def head(sc: Scene, picture: Tensor, hair: _Hair) -> Tensor:
    """Add the shaded face, with the shadow of the fringe on it."""
    mouth, radius2 = mouth_of(sc), outline(sc)
    nx, ny, nz = normals(sc, height(sc, radius2, mouth))
    light = sc.shade(nx, ny, nz)
    face = _face_colours(sc, mouth) * (light * (1 - _hollows(sc))).unsqueeze(1)
    lx, ly, lz = sc.light
    half = (nx * lx + ny * ly + nz * (lz + 1)) * (2 + 2 * lz).rsqrt()  # Blinn's half vector between light and camera
    gloss = half.clamp_(min=0) ** 16
    face = face + ((0.07 + 0.25 * mouth.lips) * 0.5 * gloss * sc.how["light"]).unsqueeze(1)
    face = _eyes(sc, face)
    fringe = (1 - hair.opening * 14).clamp_(0, 1)
    face = face * (1 - 0.45 * sc.who["hair_amount"] * fringe).unsqueeze(1)
    return mix(picture, face, inside_head(sc, radius2))


def _hollows(sc: Scene) -> Tensor:
    """Return the share of light that nostrils, eye sockets, the chin's dip and the lines of age swallow."""
    who, u, v, side = sc.who, sc.u, sc.v, sc.u.abs()
    hollow = 0.35 * spot(side, v, who["nose_width"] * 0.55, who["nose_length"] + 0.042, 0.026, 0.018)
    hollow = hollow + 0.28 * spot(side, v, who["eye_spacing"] - 0.02, who["eye_height"], 0.13, 0.08)
    hollow = hollow + 0.22 * spot(u, v, 0, who["mouth_height"] + who["lip_lower"] + 0.035, 0.10, 0.025)
    hollow = hollow + _laugh_lines(sc)
    wrinkles = (52 * (v + 0.3 * u.square())).sin().clamp(min=0).square()
    hollow = hollow + 0.30 * who["age"] * wrinkles * spot(u, v, 0, -0.36, 0.26, 0.09)
    return hollow.clamp(0, 0.85)


def _laugh_lines(sc: Scene) -> Tensor:
    """Return the folds from the wings of the nose to the corners of the mouth, deeper with age and with a smile."""
    who, v = sc.who, sc.v
    fold = who["nose_width"] + 0.02 + 0.55 * (v - who["nose_length"])
    span = ((v - who["nose_length"] + 0.04) * 20).clamp(0, 1)
    span = span * ((who["mouth_height"] + 0.03 - v) * 20).clamp(0, 1)
    deep = 0.03 + 0.35 * who["age"] + 0.15 * sc.how["smile"].clamp(min=0)
    return deep * span * bump(((sc.u.abs() - fold) / 0.028).square())


# ---------------------------------------------------------------------------------------------------------------------
# Hair
# ---------------------------------------------------------------------------------------------------------------------
@dataclass
class _Hair:
    """Signed distances to the hair's outline and to the opening for the face, and its shaded colour."""

    outer: Tensor
    opening: Tensor
    colour: Tensor


def hair_of(sc: Scene) -> _Hair:
    """Return the shape of the hair around the head, with today's volume, and its colour."""
    who, u, v = sc.who, sc.u, sc.v
    today = 1 + 0.25 * sc.how["hair_volume"]
    t = v - MIDDLE
    a = who["face_width"] + who["hair_side"] * today
    b = who["skull_height"] + who["hair_top"] * today
    curls = ripples(u, v, 21, 19, 1.2, 9, 11)  # curls make both outlines wavy
    dome = (1 - ((u / a).square() + squarer((t / b).clamp(max=0).square())).sqrt()) * a
    curtain = a + who["hair_flare"] * t - u.abs()
    outer = torch.where(t < 0, dome, curtain) + 0.035 * who["curl"] * curls
    opening = _face_opening(sc) - 0.02 * who["curl"] * curls
    return _Hair(outer, opening, _hair_colour(sc, (u / a).clamp(-1, 1), (t / b).clamp(-1, 0.25)))


def _face_opening(sc: Scene) -> Tensor:
    """Return the signed distance to the opening for the face, bounded above by hairline, fringe and temples."""
    who, u = sc.who, sc.u
    fall = sc.how["hair_fall"]
    away = (u - who["parting"]).abs().clamp(max=0.45)
    fringe = who["bangs"] * (1 + 0.2 * fall) + who["sweep"] * away * (1 + 0.25 * fall)
    line = who["hairline"] + fringe - who["recede"] * bump(((u.abs() - 0.24) / 0.10).square())
    inner = 0.90 * who["face_width"]
    top = ((0.12 - sc.v) / (0.12 - line)).clamp(min=0)
    return (1 - (squarer((u / inner).square()) + squarer(top.square())).sqrt()) * inner


def _hair_colour(sc: Scene, nx: Tensor, ny: Tensor) -> Tensor:
    """Return shaded hair with strands or curls and a soft sheen (B, 3, S, S)."""
    who, u, v, colour = sc.who, sc.u, sc.v, named_colour(sc.who, "hair")
    light = sc.shade(nx * 0.9, ny, (1.15 - nx * nx - ny * ny).clamp(min=0.05).sqrt())
    flow = (u - who["parting"]) / (v + 1.35).clamp(min=0.25)  # strands fan out from a point above the head
    strands = 0.5 * (29 * flow).sin() + 0.6 * (67 * flow + 3 * v).sin() + 0.5 * (113 * flow - 5 * v).sin()
    curls = ripples(u, v, 27, 25, 1.8, 17, 19) * 1.4
    texture = 1 + 0.16 * torch.lerp(strands, curls, who["curl"].expand_as(u))
    band = (ny + 0.62 + 0.1 * nx * nx + 0.03 * strands) / 0.13
    sheen = bump(band.square()) * (1 - 0.7 * who["curl"])
    return colour * (light * texture).unsqueeze(1) + (0.10 * sheen * light).unsqueeze(1) * (0.25 + colour)


def _hair_end(sc: Scene, hair: _Hair, length: Tensor) -> Tensor:
    """Return the signed distance to the ends of the hair, rounded at the corners."""
    return length + 0.03 * sc.how["hair_fall"] - sc.v - 9 * (0.13 - hair.outer).clamp(min=0).square()


def back_hair(sc: Scene, picture: Tensor, hair: _Hair) -> Tensor:
    """Add the hair behind neck and ears, and a knot on top; it lies in shadow below the eyes."""
    who = sc.who
    end = _hair_end(sc, hair, who["hair_length"])
    above = sc.v - MIDDLE + who["skull_height"] + who["hair_top"] + 0.06
    knot = 0.16 - ((sc.u / 1.15).square() + above.square()).sqrt()
    shape = torch.maximum(torch.minimum(hair.outer, end), torch.where(who["bun"] > 0.02, knot, -1.0))
    colour = hair.colour * (0.60 + 0.4 * (sc.v < -0.1)).unsqueeze(1)
    return mix(picture, colour, who["hair_amount"] * sc.edge(shape))


def front_hair(sc: Scene, picture: Tensor, hair: _Hair) -> Tensor:
    """Add the hair around the face opening; worn behind the ears, it ends at the temples."""
    who = sc.who
    temples = torch.minimum(who["hair_length"], torch.full_like(who["hair_length"], -0.04))
    end = _hair_end(sc, hair, torch.lerp(who["hair_length"], temples, who["hair_tuck"]))
    end = end - who["hair_tuck"] * (sc.u.abs() - 0.86 * who["face_width"]).clamp(min=0)
    mask = sc.edge(torch.minimum(torch.minimum(hair.outer, -hair.opening), end))
    return mix(picture, hair.colour, who["hair_amount"] * mask)


def long_beard(sc: Scene, picture: Tensor) -> Tensor:
    """Add the part of a beard that hangs below the chin."""
    who = sc.who
    mask = inside_head(sc, outline(sc, longer=who["beard_length"])) * ((sc.v - 0.42) * 16).clamp(0, 1)
    light = sc.shade(sc.u, torch.zeros_like(sc.u), torch.full_like(sc.u, 0.9)).unsqueeze(1)
    grown = who["beard"] * (who["beard_length"] * 40).clamp(max=1)
    return mix(picture, named_colour(who, "hair") * 0.8 * light, grown * mask)


# ---------------------------------------------------------------------------------------------------------------------
# Things before the face
# ---------------------------------------------------------------------------------------------------------------------
def glasses(sc: Scene, picture: Tensor) -> Tensor:
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
    glare = sc.edge(lens) * bump(((e + 0.8 * v + 0.03) / 0.035).square())
    picture = mix(picture, sc.paint(1.0, 1.0, 1.0), worn * (0.006 * sc.edge(lens) + 0.03 * glare))
    light = (sc.how["light"] * 0.5 + sc.how["ambient"]).unsqueeze(1)
    return mix(picture, named_colour(who, "frame") * light, worn * sc.edge(torch.maximum(frame, bar)))


def occluder(sc: Scene, picture: Tensor) -> Tensor:
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
    picture = mix(picture, named_colour(how, "object") * (light * stripes).unsqueeze(1), mask)
    return _fingers(sc, picture, a + wide, b, light, how["occluder"] * held)


def _fingers(sc: Scene, picture: Tensor, a: Tensor, b: Tensor, light: Tensor, amount: Tensor) -> Tensor:
    """Add four fingers around the left edge of a held object; a runs along and b across them."""
    across = b - (b / 0.088).round().clamp(-2, 1) * 0.088  # distance to the nearest of four middle lines
    along = (a.abs() - 0.11).clamp(min=0)
    mask = amount * sc.edge(0.043 - (along.square() + across.square()).sqrt())
    return mix(picture, sc.skin * (light * (1 - 240 * across.square()).clamp(min=0.25)).unsqueeze(1), mask)
