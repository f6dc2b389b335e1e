"""What each cell of the notebooks must say, worked out again from its data: a check per cell."""

from __future__ import annotations

import json
import math
import re
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from notebook_numbers import (
    POOLS,
    Seen,
    average_precision,
    bars_say,
    cell,
    chance_of,
    cosine_of,
    cross_entropy,
    dots_of,
    front_says,
    header_is,
    heat_says,
    held_out,
    leave_out,
    lines_of,
    lines_say,
    mean,
    off_diagonal,
    own_axes,
    person_dots,
    photo_of,
    rows_of_people,
    rows_say,
    same,
    says,
    scores_of,
    sphere_says,
    spread_is,
    strip_says,
    strips_say,
    titled,
)

from utils.experiments import STORED
from utils.lessons import figures
from utils.lessons.sphere import journey, make_scene
from utils.models import embed
from utils.unlearning import METHODS
from utils.unlearning.registry import by_kind

leave_out(
    "what the machine and the data set are", "00-06", "00-14", "01-07", "01-33", "02-07", "03-07", "03-09", "01-45"
)
leave_out("what reading the folder once more says, and nothing else", "01-13")
leave_out("words, no numbers", "00-08", "00-23", "02-65", "01-24", "01-40", "01-43", "10-07", "10-09", "10-38", "09-05")
leave_out("drawn from other numbers each time", "00-12", "03-19")
leave_out(
    "read from stored results, whose tables tests/experiments checks",
    "09-27a",
    "09-25",
    "09-27",
    "12-11a",
    "10-41b",
    "10-41d",
    "10-41f",
    "10-43",
    "10-45",
    "10-46a",
)
leave_out("drawn by a function that tests/lessons/test_figures checks", "02-25", "01-15", "01-34", "04-21", "10-06a")
leave_out("a stored picture", "09-05b")
leave_out(
    "photos without a score",
    "02-82",
    "01-30",
    "05-06",
    "11-05",
    "11-10",
    "11-11",
    "11-09",
    "08-05",
    "08-44",
    "08-51",
    "10-05",
)


# ---- 00 --------------------------------------------------------------------------------------------------------------


@cell("00-10")
def retained_people(cell):
    n = cell.names
    photos = [p for person in n["splits"].retain[:5] for p in n["faces"].photos_of(person)]
    titled(cell.shown[0], "Retained people")
    rows_of_people(cell.shown[0], n["faces"], photos)


@cell("00-16")
def two_searches(cell):
    n = cell.names
    titled(cell.shown[0], "Before")
    model = n["recogniser"].model
    forget, retain = (int(n["splits"].photos(pool, "query")[0]) for pool in ("forget", "retain"))
    strips_say(cell.shown[0], n["splits"], [(model, forget, "forget pool"), (model, retain, "retain pool")])


@cell("00-18")
def images_looked_at(cell):
    says(cell.printed.partition(" images")[0], cell.names["forgetting"].images_processed)


@cell("00-19")
def the_same_searches_afterwards(cell):
    n, wanted = cell.names, []
    for pool in ("forget", "retain"):
        photo = int(n["splits"].photos(pool, "query")[0])
        wanted += [(n["recogniser"].model, photo, f"{pool} pool · before")]
        wanted += [(n["forgetting"].model, photo, f"{pool} pool · after")]
    strips_say(cell.shown[0], n["splits"], wanted)


@cell("00-21")
def bars_before_and_after(cell):
    n = cell.names
    models = {"original": n["recogniser"].model, "after dispersion": n["forgetting"].model}
    expected = {name: scores_of(Seen.by(model, n["splits"])) for name, model in models.items()}
    bars_say(cell.shown[0], expected)
    for name, scores in expected.items():
        same([n["scores"][name][pool]["map"] for pool in POOLS], [scores[pool]["map"] for pool in POOLS], name)


@cell("00-25")
def two_numbers_for_chance(cell):
    splits = cell.names["splits"]
    mine = Counter(splits.faces.labels[splits.photos("forget", "gallery")].tolist())
    says(cell.printed.splitlines()[0], mean(mine.values()), len(splits.gallery))


@cell("00-29")
def the_price(cell):
    n = cell.names
    models = n["recogniser"].model, n["forgetting"].model
    says(cell.printed.splitlines()[0], *(Seen.by(model, n["splits"]).found("unseen")["map"] for model in models))


@cell("00-27")
def one_forgotten_person(cell):
    n = cell.names
    person = n["faces"].identities.index(n["my_person"])
    photos = [int(p) for p in n["splits"].photos("forget", "query") if n["faces"].labels[p] == person]
    strips_say(cell.shown[0], n["splits"], [(n["forgetting"].model, photos[0], "")])


# ---- 01 --------------------------------------------------------------------------------------------------------------


@cell("01-08")
def people(cell):
    titled(cell.shown[0], "One row per person")
    faces = cell.names["faces"]
    rows_of_people(cell.shown[0], faces, range(len(faces.labels)))


@cell("01-10")
def photos_per_person(cell):
    faces, ax = cell.names["faces"], cell.shown[0].axes[0]
    counts = sorted(Counter(faces.labels.tolist()).values(), reverse=True)
    same(ax.patches[0].get_data().values, counts, "photos")
    enough = sum(count >= faces.trained_min_photos for count in counts)
    says(next(iter(lines_of(ax))), faces.trained_min_photos, enough, len(counts))


def turn_of(n) -> tuple[complex, np.ndarray]:
    """The least-squares a of q = a p + b, and how far each point is missed."""
    p, q = n["face"].landmarks @ [1, 1j], n["wanted"] @ [1, 1j]
    (a, b), *_ = np.linalg.lstsq(np.stack([p, np.ones(5)], axis=1), q, rcond=None)
    return a, np.abs(a * p + b - q)


@cell("01-17")
def landmarks_miss(cell):
    says(cell.printed, *(x for miss in turn_of(cell.names)[1] for x in (miss, cell.names["crop_size"])))


@cell("01-19")
def turn(cell):
    a = turn_of(cell.names)[0]
    says(cell.printed.splitlines()[0].replace("j", ""), a.real, a.imag)


@cell("01-21")
def faces_found(cell):
    says(cell.printed, len(cell.names["rows"]["aligned"]), len(cell.names["mine"]))


@cell("01-22")
def averages(cell):
    n = cell.names
    pictures = [ax.images[0].get_array() for ax in cell.shown[0].axes]
    titles = [ax.get_title("center") for ax in cell.shown[0].axes]
    for i, (name, stack) in enumerate((("unaligned", n["middles"]), ("aligned", [f.crop for f in n["aligned"]]))):
        drawn = min(3, len(stack))
        assert titles[4 * i : 4 * i + drawn + 1] == [name] * drawn + [f"average of {len(stack)}"], titles
        same(pictures[4 * i], stack[0], f"first {name}")
        same(pictures[4 * i + 3], sum(np.float64(x) for x in stack) / len(stack), f"average {name}", atol=1.01)


@cell("01-27")
def four_sizes(cell):
    for ax in cell.shown[0].axes:
        if ax.images:
            says(ax.get_title("center"), *ax.images[0].get_array().shape[:2])


@cell("01-29")
def standardised_pixels(cell):
    says(cell.printed, *((p - 127.5) / 128 for p in (0, 64, 128, 255)))


@cell("01-38")
def who_was_met(cell):
    n = cell.names
    labels, splits = n["faces"].labels.tolist(), n["splits"]
    shuffled = np.random.default_rng(0).permutation(len(labels)).tolist()
    cut = len(labels) * 4 // 5
    met = {labels[i] for i in shuffled[:cut]}
    tested = {labels[i] for i in shuffled[cut:]}
    trained = {labels[i] for i in splits.train}
    line, other = cell.printed.splitlines()
    says(line, 100 * mean(person in met for person in tested))
    says(other, sum(person in trained for person in splits.unseen), len(splits.unseen))


@cell("01-47")
def spoilt_labels(cell):
    n = cell.names
    says(cell.printed, sum(map(int.__ne__, n["true"].tolist(), n["given"].tolist())), len(n["photos"]))


@cell("01-49")
def all_labelled_the_same(cell):
    n, labels = cell.names, set()
    for ax in (ax for ax in cell.shown[0].axes if ax.images):
        photo = photo_of(ax.images[0].get_array(), n["faces"])
        labels.add(int(n["given"][n["photos"].tolist().index(photo)]))
    assert len(labels) == 1 and n["faces"].identities[labels.pop()].replace("_", " ") in figure_title(cell)


def figure_title(cell) -> str:
    return cell.shown[0].get_suptitle()


def margins(n) -> dict[int, float]:
    """Each photo's cosine to the mean of the others under its label, less the highest to another label's mean."""
    seen = Seen.by(n["model"], n["splits"], n["photos"])
    given = dict(zip(n["photos"].tolist(), n["given"].tolist(), strict=True))
    groups = {label: [p for p in given if given[p] == label] for label in set(given.values())}
    result = {}
    for photo, label in given.items():
        others = [p for p in groups[label] if p != photo]
        own = cosine_of(seen.at[photo], sum(seen.at[p] for p in others))[0, 0] if others else 0.0
        strangers = [sum(seen.at[p] for p in group) for other, group in groups.items() if other != label]
        result[photo] = own - max(cosine_of(seen.at[photo], row)[0, 0] for row in strangers)
    return result


@cell("01-53")
def margins_drawn(cell):
    n, found = cell.names, margins(cell.names)
    wrong = {p: bool(w) for p, w in zip(n["photos"].tolist(), n["true"] != n["given"], strict=True)}
    spread_is(cell.shown[0].axes[0], {
        "wrong label": [found[p] for p in found if wrong[p]], "true label": [found[p] for p in found if not wrong[p]],
    })  # fmt: skip


@cell("01-54")
def suspects(cell):
    n, found = cell.names, margins(cell.names)
    wrong = {p for p, w in zip(n["photos"].tolist(), n["true"] != n["given"], strict=True) if w}
    suspected = {p for p, margin in found.items() if margin < 0}
    lowest = sorted(found, key=found.get)[: len(wrong)]
    first, second, third = cell.printed.splitlines()
    says(first, len(suspected), len(suspected & wrong))
    says(second, 100 * len(suspected & wrong) / len(wrong))
    says(third, len(wrong), 100 * mean(p in wrong for p in lowest))


@cell("01-56", "01-58")
def suspects_shown(cell):
    n, found = cell.names, margins(cell.names)
    if not cell.shown:
        return
    innocent = cell.id == "01-58"
    wrong = {p for p, w in zip(n["photos"].tolist(), n["true"] != n["given"], strict=True) if w}
    wanted = [p for p in sorted(found, key=found.get) if not innocent or (found[p] < 0 and p not in wrong)]
    axes = [ax for ax in cell.shown[0].axes if ax.images]
    for ax, photo in zip(axes, wanted, strict=False):
        same(ax.images[0].get_array(), np.moveaxis(n["faces"].images([photo])[0].numpy(), 0, -1), "a suspect")
        assert ax.get_title("center").endswith("spoilt by us" if photo in wrong else "as published")


# ---- 02 --------------------------------------------------------------------------------------------------------------


@cell("02-09")
def retained_rows(cell):
    n = cell.names
    rows_of_people(cell.shown[0], n["faces"], [p for p in n["photos"] if n["faces"].labels[p] in n["people"]])


def nearest_is_same(rows, labels) -> float:
    table = cosine_of(rows, rows)
    np.fill_diagonal(table, -2)
    return mean(labels[i] == labels[j] for i, j in enumerate(table.argmax(axis=1)))


@cell("02-10")
def nearest_by_pixels(cell):
    n = cell.names
    pixels = n["faces"].images(n["photos"]).flatten(1).double() - 127
    says(cell.printed, 100 * nearest_is_same(pixels, n["faces"].labels[n["photos"]]))


def seen_02(n) -> tuple[np.ndarray, np.ndarray]:
    """The held-out photos' rows and labels."""
    photos = held_out(n["splits"])
    return Seen.by(n["model"], n["splits"]).rows(photos), n["faces"].labels[photos]


@cell("02-14")
def lengths(cell):
    rows, _ = seen_02(cell.names)
    says(cell.printed, *rows.shape, 1.0, 1.0)


@cell("02-15")
def nearest_by_embedding(cell):
    rows, labels = seen_02(cell.names)
    first, second = cell.printed.partition("nearest")[::2]
    says(first, *rows[0, :6])
    says(second, 100 * nearest_is_same(rows, labels))


@cell("02-17")
def retained_heat(cell):
    rows, labels = seen_02(cell.names)
    chosen = [i for person in sorted(cell.names["people"]) for i in np.flatnonzero(labels == person)]
    titled(cell.shown[0], "Retained")
    heat_says(cell.shown[0], {"": rows[chosen]})


@cell("02-66")
def shapes_and_weights(cell):
    widths, expected = (24, 48, 96, 192), {"photo": [3, 64, 64], "stem": [24, 32, 32, 24 * 3 * 9 + 2 * 24]}
    for k in (1, 2, 3):
        less, more, side = widths[k - 1], widths[k], 32 // 2**k
        expected[f"stage {k}"] = [more, side, side, 9 * less * more + 9 * more * more + less * more + 6 * more]
    expected["embedding"] = [128, 192 * 4 * 4 * 128 + 2 * 128]
    lines_say(cell.printed.replace(",)", ")"), expected)


@cell("02-68")
def two_angles(cell):
    rows, labels = seen_02(cell.names)
    a, b = (np.flatnonzero(labels == person)[:2] for person in cell.names["people"][:2])
    cosines = {"same person": rows[a[0]] @ rows[a[1]], "two people": rows[a[0]] @ rows[b[0]]}
    lines_say(cell.printed, {name: [cosine, np.degrees(np.arccos(cosine))] for name, cosine in cosines.items()})


def cosface_steps(points: np.ndarray, margin: float = 0.35, scale: float = 4.0) -> list[np.ndarray]:
    """Cosines, handicapped cosines, logits, shares and losses of three photos of three people in turn."""
    handicapped = points - margin * np.eye(3)
    shares = np.array([[math.exp(scale * x) for x in row] for row in handicapped])
    shares /= shares.sum(axis=1, keepdims=True)
    return [points, handicapped, scale * handicapped, shares, -np.log(np.diag(shares))[:, None]]


def photo_lines_say(printed: str, tables: list[np.ndarray]) -> None:
    lines = [line.split(maxsplit=3)[3] for line in printed.splitlines() if line.startswith("    photo of")]
    assert len(lines) == 3 * len(tables)
    for line, numbers in zip(lines, (row for table in tables for row in table), strict=True):
        says(line, *numbers)


PHOTOS_02 = np.array([[0.9, 0.3, 0.1], [0.1, 0.6, 0.6], [0.5, 0.1, 0.7]])
PHOTOS_02 /= np.linalg.norm(PHOTOS_02, axis=1, keepdims=True)


@cell("02-70")
def cosface_cosface_steps(cell):
    photo_lines_say(cell.printed, cosface_steps(PHOTOS_02))


@cell("02-72")
def a_step_cosface_steps(cell):
    push = 4.0 / 3 * (np.eye(3) - cosface_steps(PHOTOS_02)[3])
    moved = PHOTOS_02 + 0.5 * push
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    photo_lines_say(cell.printed, [push, moved])
    before, after = (cosface_steps(points)[4].mean() for points in (PHOTOS_02, moved))
    assert after < before
    losses = "\n".join(line for line in cell.printed.splitlines() if line.startswith("mean loss"))
    lines_say(losses, {"mean loss before": [before], "mean loss after": [after]})


@cell("02-74")
def a_small_training(cell):
    n = cell.names
    same(cell.shown[0].axes[0].lines[0].get_ydata(), n["losses"], "losses")
    steps = len(n["losses"]) / 6
    assert np.isfinite(n["losses"]).all() and steps <= -(-len(n["lessons"]) // 64)
    assert set(n["faces"].labels[n["lessons"]]) == set(n["pupils"]) <= set(n["splits"].retain)
    assert set(n["lessons"]) <= set(n["splits"].train)


@cell("02-75")
def random_and_trained(cell):
    n, expected = cell.names, {}
    for name, network in (("random weights", n["net"]), ("trained just now", n["small"])):
        rows = embed(network, n["faces"], n["theirs"], device="cpu")
        expected[name] = [100 * nearest_is_same(rows, n["faces"].labels[n["theirs"]])]
    assert set(n["faces"].labels[n["theirs"]]) == set(n["pupils"])
    lines_say(cell.printed, expected)


def grey_seen(network, splits) -> Seen:
    """The held-out photos in grey."""
    photos = held_out(splits)
    red, green, blue = splits.faces.images(photos).double().unbind(1)
    bright = (0.299 * red + 0.587 * green + 0.114 * blue).round().to(torch.uint8)
    return Seen(splits, photos, embed(network, torch.stack([bright] * 3, dim=1), device="cpu"))


def three_shares(network, splits, people) -> list[float]:
    """R@1 in percent of people's queries among themselves: in colour, grey in colour, grey in grey."""
    colour, grey, labels = Seen.by(network, splits), grey_seen(network, splits), splits.faces.labels
    query, gallery = ([int(p) for p in part if labels[p] in set(people)] for part in (splits.query, splits.gallery))
    shares = []
    for asked, stored in ((colour, colour), (grey, colour), (grey, grey)):
        hits = []
        for q in query:
            others = [g for g in gallery if g != q]
            if any(labels[g] == labels[q] for g in others):
                best = max(others, key=lambda g: asked.at[q] @ stored.at[g])
                hits.append(labels[best] == labels[q])
        shares.append(100 * mean(hits))
    return shares


@cell("02-79", "02-84", "02-86")
def grey_searches(cell):
    n = cell.names
    splits, pupils = n["splits"], n["pupils"]
    header_is(cell.shown[0], "R@1", "colour in colour", "grey in colour", "grey in grey")
    if cell.id == "02-86":
        groups = {"trained people": splits.trained, "unseen people": splits.unseen}
        expected = {name: three_shares(n["model"], splits, people) for name, people in groups.items()}
    else:
        networks = {"trained in colour": n["small"]} | (
            {"a quarter in grey": n["mended"]} if cell.id == "02-84" else {}
        )
        expected = {name: three_shares(network, splits, pupils) for name, network in networks.items()}
    rows_say(cell.shown[0], expected)


@cell("02-80")
def one_photo_twice(cell):
    n = cell.names
    photo, splits = int(n["query"][0]), n["splits"]
    titled(cell.shown[0], "A retained person's held-out photo")
    enrolled, grey = Seen.by(n["small"], splits), grey_seen(n["small"], splits)
    for part, seen in zip(cell.shown[0].subfigs, (enrolled, grey), strict=True):
        row = own_axes(cell.shown[0], part)
        stored = [g for g in splits.gallery if g != photo and n["faces"].labels[g] in n["pupils"]]
        cosines = sorted((float(seen.at[photo] @ enrolled.at[int(g)]) for g in stored), reverse=True)
        for ax, cosine in zip(row[1:], cosines, strict=False):
            if ax.images:
                says(ax.get_xlabel().rpartition("cos")[2], cosine)


def pairs_of(n, pool: str) -> tuple[list[float], list[float]]:
    """Cosines of same-person and of different-person pairs among trained or unseen people."""
    rows, labels = seen_02(n)
    people = set(n["splits"].trained if pool == "trained" else n["splits"].unseen)
    chosen = [i for i, label in enumerate(labels) if label in people]
    same_person, different = [], []
    for k, i in enumerate(chosen):
        for j in chosen[:k]:
            (same_person if labels[i] == labels[j] else different).append(rows[i] @ rows[j])
    return same_person, different


@cell("02-21", "02-39")
def pairs_drawn(cell):
    pool = {"02-21": "trained", "02-39": "unseen"}[cell.id]
    titled(cell.shown[0], pool.capitalize())
    own, other = pairs_of(cell.names, pool)
    spread_is(cell.shown[0].axes[0], {"different people": other, "same person": own})
    if cell.printed:
        rows, labels = seen_02(cell.names)
        pools = {"trained": cell.names["splits"].trained, "unseen": cell.names["splits"].unseen}
        chosen = {name: np.isin(labels, people) for name, people in pools.items()}
        lines_say(cell.printed, {name: [100 * nearest_is_same(rows[c], labels[c])] for name, c in chosen.items()})


@cell("02-62")
def two_models_on_real_faces(cell):
    figure, sides = cell.shown[0], cell.names["sides"]
    titled(figure, f"{sides['photos']:,} held-out photos of {sides['people']} people")
    for ax, side in zip(figure.axes, sides["models"].values(), strict=True):
        drawn = {patch.get_label(): patch.get_data() for patch in ax.patches}
        for kind, label in (("other", "pairs of two people"), ("same", "pairs of one person")):
            same(drawn[label].values, side[kind], label)
            same(drawn[label].edges, sides["bins"], label)
        says(ax.get_title("left").rpartition("R@1")[2], 100 * side["r1"])


@cell("02-22")
def strangers_and_random_points(cell):
    n = cell.names
    _, different = pairs_of(n, "trained")
    random = cosine_of(n["random"], n["random"])[np.triu_indices(len(n["random"]), 1)]
    first, second = (line.partition(":")[2] for line in cell.printed.splitlines())
    says(first, np.mean(different), np.std(different))
    says(second.replace("1/√", ""), random.mean(), random.std(), n["model"].embedding_dim)


@cell("02-29")
def margin_off_and_on(cell):
    n = cell.names
    cosines = cosine_of(n["points"], n["head"].weight)
    names = n["splits"].class_of(n["faces"].labels[n["train"]])
    expected = {}
    for name, margin in (("margin off", 0.0), ("margin on", n["head"].margin)):
        logits = cosines.copy()
        logits[np.arange(len(names)), names] -= margin
        expected[name] = mean(cross_entropy(n["head"].scale * logits, names)), 100 * mean(logits.argmax(1) == names)
    lines_say(cell.printed.replace("loss", "").replace("own row wins", ""), expected)


@cell("02-32")
def own_rows(cell):
    n = cell.names
    rows, labels = seen_02(n)
    people = list(n["splits"].trained)
    centres = [rows[labels == person].mean(axis=0) for person in people]
    table = cosine_of(np.array(centres), n["head"].weight)
    spread_is(cell.shown[0].axes[0], {"another person's row": off_diagonal(table), "own row": np.diag(table)})


@cell("02-34")
def a_strangers_names(cell):
    n = cell.names
    rows, labels = seen_02(n)
    theirs = rows[labels == n["splits"].unseen[0]]
    table = cosine_of(theirs, n["head"].weight)
    *lines, last = [line for line in cell.printed.splitlines() if line]
    for line, row in zip(lines, table, strict=False):
        assert n["faces"].identities[n["splits"].trained[int(row.argmax())]] in line
        says(line.rpartition("cosine")[2], row.max())
    says(last, off_diagonal(cosine_of(theirs, theirs)).mean())


@cell("02-37", "02-38")
def spheres(cell):
    n = cell.names
    rows, labels = seen_02(n)
    people = n["splits"].retain[: n["n_people"]] if cell.id == "02-37" else n["splits"].unseen[: n["n_people"]]
    titled(cell.shown[0], "Retained" if cell.id == "02-37" else "Unseen")
    chosen = np.isin(labels, people)
    sphere_says(cell.shown[0], {"": figures.to_sphere(rows[chosen])}, labels[chosen], n["faces"].identities)


@cell("02-44")
def eight_ways(cell):
    n = cell.names
    rows = embed(n["model"], n["variants"], device="cpu")
    axes = [ax for ax in cell.shown[0].axes if ax.images]
    for ax, name, picture, cosine in zip(
        axes, n["changes"], n["variants"], cosine_of(rows, rows[:1])[:, 0], strict=True
    ):
        same(ax.images[0].get_array(), np.moveaxis(picture.numpy(), 0, -1), name)
        assert ax.get_title("center").startswith(name)
        says(ax.get_title("center").rpartition("cosine")[2], cosine)


# ---- 03 --------------------------------------------------------------------------------------------------------------


@cell("03-10")
def no_photo_twice(cell):
    splits = cell.names["splits"]
    parts = [set(map(int, part)) for part in (splits.train, splits.query, splits.gallery)]
    says(cell.printed, len(parts[0] & parts[1] | parts[1] & parts[2] | parts[0] & parts[2]))


@cell("03-13")
def enrolled(cell):
    says(cell.printed, len(cell.names["splits"].gallery))


@cell("03-16")
def one_search_a_pool(cell):
    n = cell.names
    wanted = [(n["model"], int(n["splits"].photos(pool, "query")[0]), pool) for pool in POOLS]
    strips_say(cell.shown[0], n["splits"], wanted)


@cell("03-24")
def recalls(cell):
    found = Seen.by(cell.names["model"], cell.names["splits"]).found("retain")
    lines_say(cell.printed.replace("of retained people's queries:", ""), {
        f"R@{k:<2}": [100 * found[f"r{k}"]] for k in (1, 5, 10)
    })  # fmt: skip


@cell("03-27")
def one_walk(cell):
    n = cell.names
    hits = Seen.by(n["model"], n["splits"]).hits(int(n["photo"]))[: n["n_shown"]]
    marks, ax = cell.shown[0].axes
    assert [text.get_text() for text in marks.texts] == ["✓" if hit else "✗" for hit in hits]
    same(ax.lines[0].get_ydata(), [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))], "precision so far")


@cell("03-28")
def the_same_query(cell):
    n = cell.names
    strips_say(cell.shown[0], n["splits"], [(n["model"], int(n["photo"]), "The same query, retained")])


@cell("03-32")
def by_hand(cell):
    found = Seen.by(cell.names["model"], cell.names["splits"]).found("retain")
    says(cell.printed, found["map"], found["map"])


@cell("03-34")
def right_photos(cell):
    n = cell.names
    hits = Seen.by(n["model"], n["splits"]).hits(int(n["photo"]))
    says(cell.printed.splitlines()[0], sum(hits), len(n["splits"].gallery))


@cell("03-36")
def luck(cell):
    chance, splits = chance_of(cell.names["splits"]), cell.names["splits"]
    queries, labels = splits.photos("forget", "query"), splits.faces.labels
    n, r = len(splits.gallery), mean(sum(labels[splits.gallery] == labels[q]) for q in queries)
    missed = np.prod([(n - r - i) / (n - i) for i in range(5)])
    printed = dict(re.findall(r"'(\w+)': '([\d.]+)%'", cell.printed))
    for name, value in (("r1", chance["r1"]), ("r5", 1 - missed), ("map", chance["map"])):
        if name in printed:
            says(printed[name], 100 * value)


@cell("03-38")
def smaller_galleries(cell):
    n = cell.names
    seen, splits, labels = Seen.by(n["model"], n["splits"]), n["splits"], n["faces"].labels
    expected = []
    for share in (0.1, 0.3, 1.0):
        people = {int(labels[g]) for g in splits.gallery if labels[g] % 10 < 10 * share}
        if people & set(splits.retain):
            gallery = [g for g in splits.gallery if labels[g] in people]
            precision = []
            for q in splits.photos("retain", "query"):
                ranked = sorted(gallery, key=lambda g, q=q: -(seen.at[int(q)] @ seen.at[int(g)]))
                if any(hits := [labels[g] == labels[q] for g in ranked]):
                    precision.append(average_precision(hits))
            expected.append((len(people), 100 * mean(precision)))
    for line, values in zip(cell.printed.splitlines(), expected, strict=True):
        says(line.partition("luck")[0], *values)


@cell("03-41")
def the_table(cell):
    n = cell.names
    seen = Seen.by(n["model"], n["splits"])
    header_is(cell.shown[0], "held-out", "r1", "r5", "map", "mean_cosine", "nearest_cosine", "tar")
    expected = {}
    for pool in POOLS:
        found, close = seen.found(pool), seen.cosines_within(seen.held_out(pool)).values()
        cosines = mean(m for m, _ in close), mean(near for _, near in close)
        expected[pool] = [found["r1"], found["r5"], found["map"], *cosines, n["scores"][pool]["tar"]]
    rows_say(cell.shown[0], expected)


@cell("03-42")
def the_bars(cell):
    bars_say(cell.shown[0], {"original": scores_of(Seen.by(cell.names["model"], cell.names["splits"]))})


@cell("03-45")
def all_pairs(cell):
    n = cell.names
    rows, labels = seen_02(n)
    first, second = np.triu_indices(len(labels), 1)
    cosines, own = (rows @ rows.T)[first, second], labels[first] == labels[second]
    spread_is(cell.shown[0].axes[0], {"different people": cosines[~own], "same person": cosines[own]})
    strangers = np.sort(cosines[~own])[::-1]
    rate = max(1e-3, 1 / len(strangers))
    threshold = next(iter(cell.shown[0].axes[0].lines)).get_xdata()[0]
    above = threshold + 1e-6  # a cosine at the threshold itself is on either side of it, by rounding
    assert (strangers >= above).mean() <= rate + 1e-9 and (strangers >= threshold - 0.02).mean() >= rate - 1e-9


@cell("03-46")
def the_roc(cell):
    n = cell.names
    rows, labels = seen_02(n)
    first, second = np.triu_indices(len(labels), 1)
    cosines, own = (rows @ rows.T)[first, second], labels[first] == labels[second]
    curve = cell.shown[0].axes[0].lines[0]
    assert curve.get_label() == "this model"
    strangers, others = np.sort(cosines[~own])[::-1], cosines[own]
    for far, tar in list(zip(curve.get_xdata(), curve.get_ydata(), strict=True))[
        :: max(1, len(curve.get_xdata()) // 7)
    ]:
        rank = min(int(round(far * len(strangers))), len(strangers) - 1)
        low, high = (
            (others >= strangers[max(rank - 2, 0)]).mean(),
            (others >= strangers[min(rank + 2, len(strangers) - 1)]).mean(),
        )
        if far <= curve.get_xdata()[0]:
            low = 0.0  # a share of 0 has no place on a logarithmic axis: it stands where the smallest one does
        assert low - 0.05 <= tar <= high + 0.05, f"at {far} {tar} is drawn, not {low} to {high}"


@cell("03-49", "08-13", "08-24")
def circles(cell):
    sets = cell.names[{"03-49": "three_ways", "08-13": "sets", "08-24": "walked"}[cell.id]]
    for ax, (name, points) in zip(cell.shown[0].axes, sets.items(), strict=True):
        table = cosine_of(points, points)
        np.fill_diagonal(table, -2)
        words, first, second = ax.get_title("center").split("\n")
        assert words == name
        says(first, table[table > -1.5].mean())
        says(second, table.max(axis=1).mean())
        same(dots_of(ax)[0], points, name)


@cell("03-51")
def cosines_by_person(cell):
    seen = Seen.by(cell.names["model"], cell.names["splits"])
    close = seen.cosines_within(held_out(cell.names["splits"]).tolist()).values()
    person_dots(cell.shown[0], {"mean cosine": [m for m, _ in close], "nearest cosine": [near for _, near in close]})


@cell("03-53")
def precision_by_person(cell):
    seen = Seen.by(cell.names["model"], cell.names["splits"])
    person_dots(cell.shown[0], {pool: list(seen.by_person(pool).values()) for pool in POOLS})


@cell("03-54")
def hardest_person(cell):
    n = cell.names
    people = Seen.by(n["model"], n["splits"]).by_person("unseen")
    photos = [int(q) for q in n["splits"].photos("unseen", "query")]
    first = n["faces"].labels[n["mine"][0]]
    assert people[int(first)] <= min(people.values()) + 1e-6
    mine = [q for q in photos if n["faces"].labels[q] == first][:2]
    strips_say(cell.shown[0], n["splits"], [(n["model"], q, "Hardest unseen person") for q in mine])


# ---- 04 --------------------------------------------------------------------------------------------------------------


@cell("04-05")
def the_scene(cell):
    scene = cell.names["scene"]
    people = Counter(scene.labels.tolist())
    says(cell.printed, len(people), people[0], scene.points.shape[1])


@cell("04-07")
def the_ball(cell):
    scene = cell.names["scene"]
    sphere_says(cell.shown[0], {"": scene.points.numpy()}, scene.labels.numpy(), ["you", "Ann", "Ben", "Cleo"])


def state(scene, z) -> tuple[float, float, float]:
    """Mean and nearest cosine of person 0's points, and the share of them that find each other."""
    table = cosine_of(z, z)
    others = cosine_of(z, scene.points[scene.labels != 0])
    np.fill_diagonal(table, -2)
    found = mean(table[i].max() > others[i].max() for i in range(len(z)))
    return table[table > -1.5].mean(), table.max(axis=1).mean(), 100 * found


@cell("04-09")
def the_start(cell):
    says(cell.printed, *state(cell.names["scene"], cell.names["scene"].mine))


@cell("04-13", "04-17", "04-19")
def films(cell):
    n = cell.names
    losses = n["label_losses" if cell.id == "04-13" else "pair_losses"]
    start = n["clumps"] if cell.id == "04-19" else None
    titled(
        cell.shown[0], {"04-13": "four losses", "04-17": "three dispersion losses", "04-19": "three clumps"}[cell.id]
    )
    rows = [cell.shown[0].axes[i : i + 5] for i in range(0, 5 * len(losses), 5)]
    front = figures.points._towards(n["view"])
    right = np.array([-np.sin(np.radians(n["view"][1])), np.cos(np.radians(n["view"][1])), 0.0])
    for row, (name, loss) in zip(rows, losses.items(), strict=True):
        places = journey(n["scene"], loss, start=start, seed=n["seed"]).numpy()
        assert row[0].texts[0].get_text().replace("\n", " ") == name
        says(row[-1].texts[-1].get_text(), *state(n["scene"], places[-1]))
        for ax, moment in zip(row, (0, 5, 15, 40, 120), strict=True):
            drawn = np.concatenate(dots_of(ax))
            meant = places[moment] @ np.stack([right, np.cross(front, right)], axis=1)
            assert all(np.abs(drawn - dot).max(axis=1).min() < 1e-5 for dot in meant), f"{name}, step {moment}"


@cell("04-32")
def three_pushes(cell):
    lines = cell.printed.splitlines()
    for k, point in enumerate(np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0.6, 0.8]])):
        outward = point[0]
        left = np.array([1.0, 0, 0]) - outward * point
        moved = point + 0.5 * left
        says(lines[3 * k], *point, 1, 0, 0)
        says(lines[3 * k + 1], outward, *left)
        says(lines[3 * k + 2], *(moved / np.linalg.norm(moved)))


@cell("04-36")
def twins_by_hand(cell):
    ab, ac, bc = (math.cos(math.radians(x)) for x in (10, 120, 110))
    raised = np.exp(10 * np.array([ab, ac, bc]))
    pairs, mean_line, nearest_line, raised_line, logged, shares = cell.printed.splitlines()
    says(pairs, ab, ac, bc)
    says(mean_line, ab, ac, bc, 3, (ab + ac + bc) / 3)
    says(nearest_line, ab, ab, bc, 3, (2 * ab + bc) / 3)
    says(raised_line.partition(":")[2], *raised)
    says(logged.partition(":")[2], np.log(raised.mean()) / 10)
    says(shares, *(raised / raised.sum()))


@cell("04-39")
def pushes_on_corners(cell):
    n, expected = cell.names, {}
    for name in n["pair_losses"]:
        expected[name] = []
        for z in (n["corners"], n["random"]):
            z = np.asarray(z, dtype=np.float64)
            cosines = z @ z.T
            np.fill_diagonal(cosines, -2)
            if name == "nearest cosine":
                weights = np.eye(len(z))[cosines.argmax(axis=1)] / len(z)
            elif name == "mean cosine":
                weights = np.where(cosines > -1.5, 1.0, 0.0) / (len(z) * (len(z) - 1))
            else:
                weights = np.where(cosines > -1.5, np.exp(10 * cosines), 0.0)
                weights /= weights.sum()
            gradient = (weights + weights.T) @ z
            left = gradient - (gradient * z).sum(axis=1, keepdims=True) * z
            expected[name].append(np.linalg.norm(left, axis=1).max())
    if len({round(float(x), 6) for x in off_diagonal(cosine_of(n["corners"], n["corners"]))}) == 1:
        lines = cell.printed.splitlines()  # which of equally close companions is the nearest, rounding decides
        cell = cell._replace(printed="\n".join(line for line in lines if not line.startswith("nearest")))
        del expected["nearest cosine"]
    lines_say(cell.printed, expected)


@cell("04-25")
def what_losses_reach(cell):
    n, ax = cell.names, cell.shown[0].axes[0]
    drawn = lines_of(ax)
    assert list(drawn)[1:] == list(n["pair_losses"]), list(drawn)
    same(list(drawn.values())[0], [-1.0, -1 / 2, -1 / 3, 0, 0, *[np.nan] * 6], "best possible in three dimensions")
    for name, loss in n["pair_losses"].items():
        for i in (0, 5):
            few = make_scene(3, photos=n["counts"][i], seed=n["seed"])
            z = journey(few, loss, steps=300, seed=n["seed"])[-1]
            same(drawn[name][i], off_diagonal(cosine_of(z, z)).max(), name, atol=1e-4)


@cell("04-27")
def the_wide_table(cell):
    n, expected = cell.names, {}
    header_is(cell.shown[0], "", "mean cosine", "nearest", "found")
    for name, loss in (n["label_losses"] | n["pair_losses"]).items():
        expected[name] = state(n["wide"], journey(n["wide"], loss, seed=n["seed"])[-1])
    corners = -1 / (n["photos"] - 1)
    expected |= {"simplex": (corners, corners), "orthoplex": (-1 / 255, 0.0)}  # each has one opposite among 255
    rows_say(cell.shown[0], expected)


def fingerprint(n) -> tuple[np.ndarray, np.ndarray]:
    z = journey(n["wide"], n["pair_losses"]["log-sum-exp"], seed=n["seed"])[-1]
    yours = cosine_of(z, z)[np.triu_indices(len(z), 1)]
    return yours, np.array(
        [cosine_of(a, b)[0, 0] for a, b in zip(n["strangers"][:200], n["strangers"][200:], strict=True)]
    )


@cell("04-29")
def fingerprint_drawn(cell):
    yours, strangers = fingerprint(cell.names)
    spread_is(cell.shown[0].axes[0], {"two random strangers": strangers, "forget": yours})


@cell("04-30")
def fingerprint_auc(cell):
    yours, strangers = fingerprint(cell.names)
    auc = mean(1.0 if a > b else 0.5 if a == b else 0.0 for a in yours for b in strangers)
    says(cell.printed.partition("(")[0], auc)


# ---- 05 --------------------------------------------------------------------------------------------------------------


def shares_say(table, session, views) -> None:
    """Assert that a table holds the four shares of these views, {name: evaluation}."""
    header_is(table, "", *session.bars(session.before))
    rows_say(table, {name: [100 * share for share in Seen.of(v).bars(v.head).values()] for name, v in views.items()})


@cell("05-08", "05-12", "05-27", "05-42")
def who_is_named_and_found(cell):
    n = cell.names
    (table,) = (shown for shown in cell.shown if hasattr(shown, "rows"))
    chosen = ("original", "head alone") if cell.id == "05-42" else n["views"]
    shares_say(table, n["session"], {name: n["views"][name] for name in chosen})
    if cell.id == "05-42":
        moved = np.abs(stayed(n, n["views"]["head alone"], "retain") - 1).max() > 1e-5
        assert cell.printed.strip().endswith(str(not moved))


def pushes(points, weights, targets, scale: float) -> np.ndarray:
    """Against the gradient of the cross-entropy towards target shares (n, C), along the sphere; up to its length."""
    z, w = (np.asarray(torch.as_tensor(x).detach().cpu(), dtype=np.float64) for x in (points, weights))
    w = w / np.linalg.norm(w, axis=1, keepdims=True)
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    shares = np.exp(scale * (z @ w.T) - (scale * (z @ w.T)).max(axis=1, keepdims=True))
    asked = scale * ((targets - shares / shares.sum(axis=1, keepdims=True)) @ w)
    return asked - (asked * z).sum(axis=1, keepdims=True) * z


def towards(names, count: int) -> np.ndarray:
    return np.eye(count)[np.asarray(torch.as_tensor(names).cpu())]


def logits_of(head, points, names=None, scale=None) -> np.ndarray:
    """Scaled cosines to every row of a head, the margin on if names are given."""
    cosines = cosine_of(points, head.weight)
    if names is not None:
        cosines[np.arange(len(cosines)), np.asarray(names)] -= head.margin
    return (head.scale if scale is None else scale) * cosines


ADA = np.array([[3.0, 1.0, 0.0], [3.0, 0.0, 1.0], [3.0, 0.5, 0.5]])
ADA = ADA / np.linalg.norm(ADA, axis=1, keepdims=True)


def opinions(scale: float) -> np.ndarray:
    shares = np.exp(scale * ADA - (scale * ADA).max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def three_pairs(rows) -> list[float]:
    table = cosine_of(rows, rows)
    return [table[0, 1], table[0, 2], table[1, 2]]


@cell("05-14")
def wrong_names_by_hand(cell):
    first, *rest = re.split(r"before:|\];? push:|after:", cell.printed.replace("a name each, [", "["))
    cosines, _, opinion = first.partition("opinion:")
    says(cosines, *ADA.ravel())
    says(opinion.rpartition("cosines")[0], *opinions(4).ravel())
    says(rest[0].partition("one name")[0], *three_pairs(ADA))
    parted = []
    for wrong, (push, after) in zip(([1, 1, 1], [1, 2, 1]), (rest[1:3], rest[3:5]), strict=True):
        expected = np.eye(3)[wrong] - opinions(4)
        says(push.rpartition("cosines")[0], *expected.ravel())
        parted.append(three_pairs(ADA + 0.5 * expected))
        says(after.partition("[")[0], *parted[-1])
    assert parted[0][0] > three_pairs(ADA)[0] > parted[1][0], "one name for all does not keep them closer"


@cell("05-31")
def ascent_by_hand(cell):
    push, alike, *losses = re.split(r"cosines of the pushes:|losses at scale", cell.printed)
    expected = opinions(4) - np.eye(3)[[0, 0, 0]]
    says(push.partition("scale 4:")[2], *expected.ravel())
    says(alike, *three_pairs(expected))
    for line, scale in zip(losses, (4, 16, 64), strict=True):
        own = -np.log(opinions(scale)[:, 0])
        said = [float(word) for word in re.findall(r"[\d.]+e[-+]\d+", line)]
        same(said, own if scale < 64 else [0.0] * 3, "losses", atol=2e-6 if scale > 4 else 1e-3)


def stayed(n, trial, pool: str = "forget") -> np.ndarray:
    """Each held-out photo's cosine to its own place before; of a view, or of a trial whose model is asked anew."""
    session = n["session"]
    before = Seen.by(session.recogniser.model, session.splits)
    after = Seen.by(trial.outcome.model, session.splits) if hasattr(trial, "outcome") else Seen.of(trial)
    return np.array([before.at[i] @ after.at[i] for i in before.held_out(pool)])


@cell("05-37")
def loud_and_silent(cell):
    n = cell.names
    photos = n["splits"].photos("forget", "train")
    cosines = np.sort(cosine_of(embed(n["model"], n["faces"], photos, device="cpu"), n["head"].weight), axis=1)
    gap = sorted(cosines[:, -1] - cosines[:, -2])[(len(photos) - 1) // 2]
    lines = [line for line in cell.printed.splitlines() if not line.startswith("step")]
    silent = 24 * np.log(2) / gap
    says(lines[0], gap, silent)
    shares = []
    for line, scale in zip(lines[1:], (silent / 2, silent, 2 * silent), strict=True):
        says(line.partition(":")[0], scale)
        shares.append(float(re.search(r"(\d+)% of", line)[1]))
    assert shares == sorted(shares)
    shares_say(cell.shown[-1], n["session"], n["views"])


@cell("05-51")
def three_squares(cell):
    n = cell.names
    mine = crowd_of(n["session"], 0)
    heat_says(cell.shown[0], {name: Seen.of(n["views"][name]).rows(mine) for name in n["shown"]})


@cell("05-55")
def strayed_by_hand(cell):
    angles = np.array([0.0, 2.0, 4.0])
    side = (1 - 0.7**2) ** 0.5
    rows = np.stack([np.full(3, 0.7), side * np.cos(angles), side * np.sin(angles)], axis=1)
    photos, place, pairs = re.split(r"cosines to the old place:|cosines of the pairs:", cell.printed)
    says(photos, *rows.ravel())
    says(place, 0.7, 0.7, 0.7)
    says(pairs, *three_pairs(rows))


def crowd_of(session, friends: int = 3) -> list[int]:
    """The held-out photos of the session's example and some retained people, person by person."""
    splits, photos = session.splits, held_out(session.splits)
    labels = splits.faces.labels
    most = max(splits.forget, key=lambda person: (labels[photos] == person).sum())
    return [int(i) for person in (most, *splits.retain[:friends]) for i in photos if labels[i] == person]


@cell("05-53")
def two_galleries_and_a_diagnosis(cell):
    n, expected = cell.names, {}
    before = Seen.of(n["session"].before)
    header_is(cell.shown[0], "", "mAP new gallery", "mAP old gallery", "own place", "failure")
    for (name, view), row in zip(n["views"].items(), cell.shown[0].rows[1:], strict=True):
        seen = Seen.of(view)
        new, old, place = seen.found("forget")["map"], seen.found("forget", before)["map"], stayed(n, view).mean()
        expected[name] = [new, old, place]
        assert row[-1] == ("a" if place > 0.99 else "none" if max(new, old) < 0.5 else "b" if new > old else "c")
    rows_say(cell.shown[0], expected)


@cell("05-60", "06-62", "07-60")
def stored_methods(cell):
    gallery_says(cell.shown[0])


def gallery_says(table) -> None:
    """Assert that a gallery's shares are the means of the stored runs, method by method."""
    stored = json.loads((STORED / "synthetic_quick.json").read_text(encoding="utf-8"))["runs"]
    columns = ("forget", "accuracy"), ("forget", "r1"), ("forget", "map"), ("unseen", "r1"), ("unseen", "map")
    titles = {entry.title: name for name, entry in METHODS.items()}
    for row in table.rows[1:]:
        mine = [run for run in stored if run["method"] == titles[row[0]]]
        says(" ".join(row[3:]), *(100 * mean(run[pool][key] for run in mine) for pool, key in columns))


@cell("05-real-figure", "08-real-figure")
def two_stored_worlds(cell):
    """Each mark lies at the mean of its method's stored runs, the drawn faces first; a method not run has none."""
    fig = cell.shown[0]
    titles = {figures.class_of(name)[1]: name for name in METHODS}
    shown = [titles[tick.get_text()] for tick in fig.axes[0].get_yticklabels()]
    wanted = {name for name, entry in METHODS.items() if entry.notebook == cell.id[:2]}
    assert {"original"} <= set(shown) and wanted <= set(shown), shown
    for ax, pool in zip(fig.axes, ("forget", "unseen"), strict=True):
        assert ax.get_xlabel().startswith(f"{pool} mAP")
        for dots, file in zip(dots_of(ax), ("synthetic_quick", "lfw_dlib"), strict=True):
            stored = json.loads((STORED / f"{file}.json").read_text(encoding="utf-8"))["runs"]
            for (share, height), (place, name) in zip(dots, enumerate(shown), strict=True):
                mine = [run[pool]["map"] for run in stored if run["method"] == name and pool in run]
                same(share, mean(mine) if mine else np.nan, f"{name} {pool} {file}", atol=1e-6)
                assert height == -place


# ---- 06 --------------------------------------------------------------------------------------------------------------


@cell("06-07")
def who_is_taught(cell):
    n = cell.names
    says(cell.printed, len(n["splits"].photos("forget", "train")), len(n["splits"].forget), len(n["head"].weight))


@cell("06-09")
def one_target_by_hand(cell):
    target = np.array([0.2, 0.4, 0.4])
    opinion, *photos = re.split(r"photo \d: KL =", cell.printed)
    says(opinion, *opinions(4).ravel())
    cuts = r"cosines of the pairs, before:|cosines of the pairs, after:|cosines to Ada, after:"
    photos[-1], *rest = re.split(cuts, photos[-1])
    for line, p in zip(photos, opinions(4), strict=True):
        terms = target * np.log(target / p)
        says(line.replace("+", " "), *terms, terms.sum(), *(target - p))
    moved = ADA + 0.5 * (target - opinions(4))
    moved = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    for text, values in zip(rest, (three_pairs(ADA), three_pairs(moved), moved[:, 0]), strict=True):
        says(text, *values)
    assert min(three_pairs(moved)) > 0.7 and all(moved[:, 0] < ADA[:, 0])


def one_person_pairs(n) -> list[tuple[int, int]]:
    who = n["faces"].labels[n["forget_pool"]]
    return [(i, j) for i in range(len(who)) for j in range(i) if who[i] == who[j]]


@cell("06-39")
def two_teachers(cell):
    n, expected = cell.names, {}
    same_person = set(one_person_pairs(n))
    for name, model in (("good", n["model"]), ("bad", n["bad"])):
        rows = embed(model, n["faces"], n["forget_pool"], device="cpu")
        table = cosine_of(rows, rows)
        pairs = [(i, j) for i in range(len(table)) for j in range(i)]
        expected[name] = [mean(table[pair] for pair in pairs if (pair in same_person) == own) for own in (True, False)]
    header_is(cell.shown[0], "teacher", "pairs of one person", "pairs of two people")
    rows_say(cell.shown[0], expected)


def alike(n, targets) -> float:
    """The mean cosine of the places to which two photos of one person are pulled."""
    places = targets[n["forget_pool"]].double().cpu() @ n["prototypes"].double().cpu()
    table = cosine_of(places, places)
    return mean(table[pair] for pair in one_person_pairs(n))


@cell("06-57")
def addresses(cell):
    n = cell.names
    struck, scaled = n["forgotten"], 16 * n["cosines"][n["forget_pool"]].double().cpu().numpy()
    scaled[:, struck] = -np.inf
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    same(n["tables"]["masked"][n["forget_pool"]].cpu(), shares / shares.sum(axis=1, keepdims=True), "masked", atol=1e-4)
    flat, drawn = (n["tables"][name][n["forget_pool"]] for name in ("flat", "a random name each"))
    assert torch.allclose(flat, flat[0, 0]) and set(drawn.argmax(dim=1).tolist()).isdisjoint(struck.tolist())
    lines = [line.partition("cosine of two addresses") for line in cell.printed.splitlines()[1:]]
    assert [name.strip() for name, _, _ in lines] == list(n["tables"])
    for (_, _, told), targets in zip(lines, n["tables"].values(), strict=True):
        says(told, alike(n, targets))


@cell("06-59")
def what_became_of_them(cell):
    n, expected = cell.names, {}
    (table,) = (shown for shown in cell.shown if hasattr(shown, "rows"))
    header_is(table, "targets", "addresses alike", "photos alike", *n["session"].bars(n["session"].before))
    for name, view in n["views"].items():
        seen = Seen.of(view)
        together = mean(m for m, _ in seen.cosines_within(seen.held_out("forget")).values())
        address = alike(n, n["tables"][name]) if name in n["tables"] else None
        expected[name] = [address, together, *(100 * share for share in seen.bars(view.head).values())]
    rows_say(table, expected)


@cell("06-60")
def four_squares(cell):
    n = cell.names
    heat_says(cell.shown[0], {name: Seen.of(view).rows(crowd_of(n["session"], 0)) for name, view in n["views"].items()})


# ---- 07 --------------------------------------------------------------------------------------------------------------


def importance(n, photos, scale=16.0) -> np.ndarray:
    """The mean over batches of the squared gradient of the mean loss."""
    batches = np.array_split(photos, -(-len(photos) // 50))
    total = 0.0
    for batch in batches:
        points = F.normalize(n["probe"](n["probe"].preprocess(n["faces"].images(batch))))
        logits = scale * points @ F.normalize(n["head"].weight.detach()).T
        names = torch.from_numpy(n["splits"].class_of(n["faces"].labels[batch]))
        loss = -logits.log_softmax(dim=1)[torch.arange(len(names)), names].mean()
        slopes = torch.autograd.grad(loss, list(n["probe"].parameters()))
        total = total + torch.cat([slope.flatten() for slope in slopes]).double().numpy() ** 2
    return total / len(batches)


@cell("07-08a")
def factors_by_hand(cell):
    for line, (mine, everybody) in zip(cell.printed.splitlines(), ((8, 1), (3, 2), (1, 4)), strict=True):
        out = mine > 2 * everybody
        says(line, mine, everybody, mine / everybody, min(everybody / mine, 1) if out else 1)
        assert str(out) in line


@cell("07-13")
def importances_drawn(cell):
    n = cell.names
    of_forget, of_all = importance(n, n["forget"]), importance(n, n["everybody"])
    same(n["of_forget"].numpy()[::997] ** 0.5, of_forget[::997] ** 0.5, "importance to forget people", atol=1e-4)
    same(n["of_all"].numpy()[::997] ** 0.5, of_all[::997] ** 0.5, "importance to everybody", atol=1e-4)
    with np.errstate(all="ignore"):
        ratio = np.log10(n["of_forget"].numpy() / n["of_all"].numpy())
    ratio = ratio[np.isfinite(ratio)]
    ax = cell.shown[0].axes[0]
    inside = [((ratio >= low) & (ratio < low + 0.125)).sum() for low in np.linspace(-6, 8, 113)[:-1]]
    assert np.abs(np.cumsum([p.get_height() for p in ax.patches]) - np.cumsum(inside)).max() <= 3
    says(ax.lines[0].get_label().partition(":")[2], 100 * (ratio > 1).mean())


def maps(seen: Seen) -> list[float]:
    return [seen.found(pool)["map"] for pool in POOLS]


def damped(n, alpha: float) -> Seen:
    """The held-out photos as a network sees them whose weights are damped at one alpha."""
    changed, at = {}, 0
    for name, weight in n["model"].named_parameters():
        part = slice(at, at := at + weight.numel())
        mine, all_ = n["of_forget"][part].view(weight.shape), n["of_all"][part].view(weight.shape)
        factor = torch.where(mine > alpha * all_, (all_ / mine).clamp(max=1), torch.ones_like(mine))
        changed[name] = weight.detach() * factor.to(weight)
    copied = n["copy"].deepcopy(n["model"])
    copied.load_state_dict(n["model"].state_dict() | changed)
    return Seen.by(copied.eval(), n["splits"])


def without(points, k: int, view) -> Seen:
    """A view from which the k strongest directions of some points are erased."""
    seen, rows = Seen.of(view), points.double().numpy()
    strongest = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :k]
    left = {photo: row - strongest @ (strongest.T @ row) for photo, row in seen.at.items()}
    seen.at = {photo: row / np.linalg.norm(row) for photo, row in left.items()}
    return seen


def between(heights, views, pool: str) -> None:
    """Assert mAPs of one pool: damped weights may send all photos to one point, where any order is right."""
    low, high = ([seen.found(pool, lean=lean)["map"] for seen in views] for lean in (-1e-6, 1e-6))
    assert all(low - heights <= 0.02) and all(heights - high <= 0.02), f"{pool}: {heights}, not {low} to {high}"


@cell("07-19")
def damping(cell):
    n = cell.names
    header_is(cell.shown[0], "mAP", *POOLS)
    views = [Seen.of(n["session"].before), *(damped(n, alpha) for alpha in n["alphas"])]
    shares = np.array([[float(share.strip("%")) / 100 for share in row[1:]] for row in cell.shown[0].rows[1:]])
    for pool, heights in zip(POOLS, shares.T, strict=True):
        between(heights, views, pool)


@cell("07-51")
def two_dials(cell):
    n = cell.names
    before = n["session"].before
    left, right = cell.shown[0].axes
    views = {
        left: [Seen.of(before), *(damped(n, alpha) for alpha in n["alphas"])],
        right: [Seen.of(before), *(without(n["points"], k, before) for k in n["ks"])],
    }
    ticks = {left: ["0%", *(f"{share:.0%}" for share in n["shares"])], right: ["0", *map(str, n["ks"])]}
    for ax, seen in views.items():
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ticks[ax]
        drawn = lines_of(ax)
        assert list(drawn) == list(POOLS)
        for pool, heights in drawn.items():
            between(heights, seen, pool)


@cell("07-46")
def one_direction_by_hand(cell):
    ada = np.array([[3.0, 1.0, 0.0], [3.0, -0.5, 0.87], [3.0, -0.5, -0.87]])
    ben = np.array([[1.0, 3.0, 1.0], [1.0, 3.0, 2.0]])
    text = re.sub(r"-0\.0+(?!\d)", "0.0", cell.printed)
    cuts = r"Ada, part|cosines of Ada's pairs, before|Ben, part|cosines of Ben's pairs, before"
    direction, ada_part, ada_pairs, ben_part, ben_pairs = re.split(cuts, text)
    says(direction, 1, 0, 0)
    for rows, part, pairs in ((ada, ada_part, ada_pairs), (ben, ben_part, ben_pairs)):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        left = rows * [0, 1, 1]
        says(part, *rows[:, 0], *left.ravel())
        for text, z in zip(pairs.split("after:"), (rows, left), strict=True):
            says(text, *(cosine_of(z, z)[i, j] for i in range(len(z)) for j in range(i)))


@cell("07-47")
def strengths(cell):
    n, ax = cell.names, cell.shown[0].axes[0]
    points = embed(n["model"], n["faces"], n["splits"].photos("forget", "train"), device="cpu").double().numpy()
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(points.T @ points)[::-1], 0))
    heights = [bar.get_height() for bar in ax.patches]
    same(heights, values[: len(heights)], "singular values", atol=1e-3)
    says(ax.lines[0].get_label(), len(n["splits"].forget))
    says(cell.printed.partition(" directions")[0], (values > values[0] / 4).sum())


@cell("07-56")
def the_box_opened(cell):
    n = cell.names
    first, *lines, _ = cell.printed.splitlines()
    assert first.endswith("True")
    photos = [int(i) for i in held_out(n["splits"]) if n["faces"].labels[i] == n["person"]][:2]
    for line, word, model in zip(lines, ("with the eraser", "taken off"), (n["box"], n["model"]), strict=True):
        rows = embed(model, n["faces"], photos, device="cpu")
        assert word in line
        says(line.rpartition("cosine")[2], cosine_of(rows, rows)[0, 1])


@cell("07-65")
def practice(cell):
    n = cell.names
    points = n["dev_points"]
    for line, per_person in zip(cell.printed.splitlines(), (1, 2), strict=True):
        k = min(per_person * len(n["practice"].forget), min(points.shape) - 1)
        seen = without(points, k, n["session"].before._replace(splits=n["practice"]))
        words, _, shares = line.partition("mAP:")
        says(words, per_person)
        assert re.findall(r"[a-z]+", shares) == list(POOLS)
        says(shares, *(100 * value for value in maps(seen)))


# ---- 08 --------------------------------------------------------------------------------------------------------------


@cell("08-07")
def two_searches_of_08(cell):
    n = cell.names
    strips_say(cell.shown[0], n["splits"], list(zip([n["model"]] * 2, n["queries"], n["titles"], strict=True)))


def goals_of(seen: Seen, before: Seen) -> tuple[float, float]:
    """How often a stranger is ahead of an own photo of a forget query, and how alike retained queries' rankings are."""
    splits, ahead, alike = seen.splits, [], []
    for q in splits.photos("forget", "query"):
        own, other = [], []
        for g in splits.gallery:
            if g != q:
                (own if seen.labels[g] == seen.labels[q] else other).append(seen.at[int(q)] @ seen.at[int(g)])
        if own:
            ahead.append(mean([stranger > mine for mine in own for stranger in other]))
    for q in splits.photos("retain", "query"):
        rows = [[s.at[int(q)] @ s.at[int(g)] for g in splits.gallery] for s in (before, seen)]
        alike.append(np.corrcoef(*(np.argsort(np.argsort(row)) for row in rows))[0, 1])
    return mean(ahead), mean(alike)


def report_says(table, views, before: Seen) -> None:
    """Assert that a table holds both goals and R@1 of these views, {name: evaluation}."""
    header_is(table, "", "strangers ahead", "order kept", *(f"{pool} R@1" for pool in POOLS))
    assert [row[0] for row in table.rows[1:]] == list(views)
    for row, view in zip(table.rows[1:], views.values(), strict=True):
        seen = Seen.of(view)
        ahead, alike = goals_of(seen, before)
        says(row[1], 100 * ahead)
        assert abs(float(row[2]) - alike) <= 0.02, (row, alike)  # photos at equal cosines take either rank
        for written, pool in zip(row[3:], POOLS, strict=True):
            says(written, 100 * seen.found(pool)["r1"])


@cell("08-09", "08-17", "08-30", "08-35")
def goals_of_models(cell):
    n = cell.names
    views = n["broken"] if cell.id == "08-35" else n["views"]
    (table,) = (shown for shown in cell.shown if hasattr(shown, "rows"))
    report_says(table, views, Seen.of(n["session"].before))


@cell("08-11", "08-21a")
def three_photos_by_hand(cell):
    n = cell.names
    rows = np.array([[2.0, 1.0, 0.0], [2.0, 0.0, 1.0], [1.0, 2.0, 1.0]])
    table = cosine_of(rows, rows)
    c12, c13, c23 = table[0, 1], table[0, 2], table[1, 2]
    lines = cell.printed.splitlines()
    if cell.id == "08-21a":
        says(re.sub(r"photo \d", "", lines[0]), c12, c12, c13)
        says(re.sub(r" / 3", "", lines[1]), c12, c12, c13, (2 * c12 + c13) / 3)
        return
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    moved = rows - 0.5 * np.array([rows[1] + rows[2], rows[0] + rows[2], rows[0] + rows[1]]) / 3
    stranger = [[2.0, -1.0, -1.0]]
    after = cosine_of(moved, moved)
    pairs, later = (c12, c13, c23), (after[0, 1], after[0, 2], after[1, 2])
    left = [re.sub(r"c\d\d|photo \d|/ 3|->", "", line) for line in lines[-4:]]
    says(left[0], *pairs)
    says(left[1], *pairs, mean(pairs))
    says(left[2], *later, mean(later))
    spots = cosine_of(rows[:1], stranger)[0, 0], cosine_of(moved[:1], stranger)[0, 0]
    says(left[3], c12, later[0], *spots)
    assert spots[0] < c12 and spots[1] > later[0], "the stranger does not come to be ahead"
    assert n["c12"] == max(n["c12"], n["c13"], n["c23"])


@cell("08-27")
def forget_photos_alone(cell):
    n = cell.names
    seen = {name: Seen.of(view) for name, view in n["views"].items()}
    lost = [
        seen["original"].found(pool)["map"] - seen["hard alone"].found(pool)["map"] for pool in ("retain", "unseen")
    ]
    says(cell.printed.splitlines()[-1], *(100 * x for x in lost))
    table, bars = cell.shown
    report_says(table, n["views"], seen["original"])
    bars_say(bars, {name: scores_of(one) for name, one in seen.items()})
    moved = Seen.of(n["views"]["uniform alone"])
    assert any(abs(moved.at[i] @ seen["original"].at[i] - 1) > 1e-4 for i in moved.held_out("forget"))


@cell("08-32")
def shares_of_the_push(cell):
    n = cell.names
    cosines = np.array([n["c12"], n["c13"], n["c23"]])
    table = cell.shown[0]
    says(" ".join(table.rows[1][1:4]), *cosines)
    for row, beta in zip(table.rows[2:], (0.1, 10, 100), strict=True):
        weights = np.exp(beta * (cosines - 1))
        says(" ".join(row[1:4]), *(100 * weights / weights.sum()))
        says(row[4], np.log(np.exp(beta * (cosines - 1)).mean()) / beta + 1)


@cell("08-39")
def blends(cell):
    n = cell.names
    shown = [np.asarray(ax.images[0].get_array(), dtype=float) for ax in cell.shown[0].axes]
    assert [ax.get_title("center") for ax in cell.shown[0].axes] == ["person A", "person B", "nobody"] * 2
    people = []
    for one, other, mixed in zip(shown[::3], shown[1::3], shown[2::3], strict=True):
        same(mixed, (one + other) / 2, "a blend of two", atol=1.01)
        people += [n["faces"].labels[photo_of(x.astype(np.uint8), n["faces"])] for x in (one, other)]
    assert set(people) <= set(n["splits"].retain_train)


@cell("08-41")
def where_blends_lie(cell):
    n = cell.names
    splits, train = n["splits"], n["kept_pool"]
    assert set(train) <= set(splits.photos("retain_train", "train"))
    seen, trained = Seen.of(n["session"].before), Seen.by(n["model"], splits, train)
    people = sorted({int(seen.labels[i]) for i in train})
    means = [sum(trained.at[int(i)] for i in train if seen.labels[i] == person) for person in people]
    near = {pool: cosine_of(seen.rows(seen.held_out(pool)), means).max(axis=1) for pool in ("retain", "unseen")}
    near["blends"] = cosine_of(n["nobodies"], means).max(axis=1)
    lines_say(cell.printed.replace(":", ""), {name: [values.mean()] for name, values in near.items()})
    spread_is(cell.shown[0].axes[0], {"unseen people": near["unseen"], "blends": near["blends"]})


@cell("08-46")
def recommended_before_and_after(cell):
    goals_of_models(cell)
    n = cell.names
    before, after = n["model"], n["recommended"].outcome.model
    rows = [(model, q, t) for q, t in zip(n["queries"], n["titles"], strict=True) for model in (before, after)]
    strips_say(cell.shown[1], n["splits"], rows)


@cell("08-49")
def walks_that_end_where_the_networks_do(cell):
    n, crowd = cell.names, crowd_of(cell.names["session"])
    before = Seen.of(n["session"].before).rows(crowd)
    asked = n["faces"].labels[crowd] == n["faces"].labels[crowd[0]]
    for name in ("hard alone", "hard + anchor"):
        ends = [figures.to_sphere(rows, before) for rows in (before, Seen.of(n["views"][name]).rows(crowd))]
        for place, expected in zip((0, -1), ends, strict=True):
            same(n["mine"][name][place], expected[asked], f"{name}, who asked", atol=1e-3)
            same(n["rest"][name][place], expected[~asked], f"{name}, who stays", atol=1e-3)


@cell("08-49b")
def faces_at_their_embeddings(cell):
    n, crowd = cell.names, crowd_of(cell.names["session"])
    before, after = (Seen.of(n["views"][name]).rows(crowd) for name in ("original", "dispersion_blends"))
    across = np.linalg.eigh(np.cov(np.asarray(before, dtype=float).T))[1][:, :-3:-1]
    for ax, rows in zip(cell.shown[0].axes, (before, after), strict=True):
        drawn = [box.xyann for box in ax.artists]
        flat = (np.asarray(rows, dtype=float) - np.mean(before, axis=0)) @ across
        same(np.abs(drawn), np.abs(flat), "places of the faces", atol=1e-3)  # an axis may point either way


@cell("08-50a")
def who_lost_most(cell):
    n = cell.names
    splits, models = n["splits"], (n["model"], n["recommended"].outcome.model)
    seen = [Seen.by(model, splits) for model in models]
    before, after = (one.by_person("unseen") for one in seen)
    person = max(before, key=lambda p: before[p] - after[p])
    name = splits.faces.identities[person]
    assert cell.printed.startswith(f"{name}:")
    says(cell.printed[len(name) :], 100 * before[person], 100 * after[person])
    was, now = (one.found("unseen")["precision"] for one in seen)
    photo = max((i for i in was if splits.faces.labels[i] == person), key=lambda i: was[i] - now[i])
    strips_say(cell.shown[0], splits, [(model, photo, "unseen") for model in models])


@cell("08-61")
def at_the_gate(cell):
    n = cell.names
    seen, place = Seen.of(n["inside"]), n["target"]
    near = {pool: cosine_of(seen.rows(seen.held_out(pool)), place)[:, 0] for pool in POOLS}
    spread_is(cell.shown[0].axes[0], {
        "forgotten people": near["forget"], "everybody else": np.concatenate([near["retain"], near["unseen"]]),
    })  # fmt: skip
    assert abs(cell.shown[0].axes[0].lines[0].get_xdata()[0] - n["gate"]) < 1e-6
    trained = Seen.by(n["model"], n["splits"], n["kept_pool"])
    rows = np.array(list(trained.at.values()))
    energy = np.square(rows @ np.asarray(place, dtype=float)).sum()
    assert energy <= 1.01 * np.linalg.eigvalsh(rows.T @ rows)[0] + 1e-4, "not the emptiest place"


@cell("08-63")
def parts_on_and_off(cell):
    n = cell.names
    before, inside = Seen.of(n["session"].before), Seen.of(n["inside"])
    recommended = Seen.of(n["recommended"].after)
    off = {"block_list": before, "esc": before, "gather_scatter": inside, "dispersion_blends": recommended}
    served = {name: Seen.of(view) for name, view in n["boxes"].items()} | {"dispersion_blends": recommended}
    for row, name in zip(cell.shown[0].rows[1:], off, strict=True):
        assert row[0] == METHODS[name].title
        found = served[name].found("forget"), off[name].found("forget"), served[name].found("unseen")
        says(" ".join(row[1:4]), *(100 * scores["map"] for scores in found))


@cell("08-65")
def the_ablation(cell):
    lines = cell.names["ablation_lines"](cell.names["read_ablation"]())
    for ax, pool in zip(cell.shown[0].axes, ("forget", "unseen"), strict=True):
        assert ax.get_xlabel().startswith(pool)
        for dots, (_, label, trials) in zip(dots_of(ax), lines, strict=True):
            same(dots[:, 0], [trial[pool]["map"] for trial in trials], f"{label} {pool}")


@cell("08-67")
def the_front_of_08(cell):
    n = cell.names
    named = {text.get_text(): text.xy for text in cell.shown[0].axes[0].texts}
    known = {name: Seen.of(view) for name, view in (n["views"] | n["boxes"]).items()}
    assert set(named) == {figures.class_of(name)[1] for name in n["results"]}
    for name, seen in known.items():
        forget, _, unseen = maps(seen)
        same(named[figures.class_of(name)[1]], (unseen, forget), name, atol=1e-4)


# ---- 09 --------------------------------------------------------------------------------------------------------------


def of_seeds(n) -> dict[str, list[dict]]:
    """The stored runs of each method."""
    found: dict[str, list[dict]] = {}
    for run in n["runs"]:
        found.setdefault(run["method"], []).append(run)
    return found


@cell("09-07", "09-08")
def stored_tables(cell):
    runs, expected = of_seeds(cell.names), {}
    books = ("05", "06") if cell.id == "09-07" else ("07", "08")
    for name, entry in sorted(METHODS.items(), key=lambda item: by_kind(item[0])):
        if name in runs and (name in ("original", "retrain") or entry.notebook in books):
            scores = [("forget", "accuracy"), *((pool, key) for pool in POOLS for key in ("r1", "map"))]
            known = [[run[pool].get(key) for run in runs[name]] for pool, key in scores]
            expected[entry.title] = [
                100 * mean(values) if all(v is not None and not np.isnan(v) for v in values) else float("nan")
                for values in known
            ]
    rows_say(cell.shown[0], expected)


def mean_scores(n) -> dict[str, dict]:
    return {
        name: {pool: {k: mean(run[pool][k] for run in rows) for k in ("r1", "map")} for pool in (*POOLS, "chance")}
        for name, rows in of_seeds(n).items()
    }


@cell("09-12")
def the_front(cell):
    points = {name: (s["unseen"]["map"], s["forget"]["map"]) for name, s in mean_scores(cell.names).items()}
    front_says(cell.shown[0].axes[0], points)
    kinds = [kind for kind in ("weights", "wrapper") if any(METHODS[name].kind == kind for name in points)]
    for line, kind in zip(cell.printed.strip().split("\n"), kinds, strict=True):
        rivals = {name: spot for name, spot in points.items() if METHODS[name].kind == kind}
        best = [name for name, (x, y) in rivals.items() if not any(
            u >= x and f <= y and (u, f) != (x, y) for u, f in rivals.values()
        )]  # fmt: skip
        assert line.startswith(kind) and line.rpartition(": ")[2].split(", ") == best


def forgotten(n) -> dict[str, list[float]]:
    wanted = ["random_labels", "scrub", "esc", "dispersion", "dispersion_blends", "gather_scatter"]
    runs = of_seeds(n)
    return {m: [v for run in runs[m] for v in run["forget_people"].values()] for m in wanted if m in runs}


@cell("09-14")
def everybody_forgotten(cell):
    person_dots(cell.shown[0], {name.replace("_", "\n"): scores for name, scores in forgotten(cell.names).items()})
    line = next(line for line in cell.shown[0].axes[0].lines if line.get_label() == "chance")
    same(line.get_ydata()[0], mean(s["chance"]["map"] for s in mean_scores(cell.names).values()), "chance")


@cell("09-18")
def promises(cell):
    header_is(cell.shown[0], "method", "mean mAP", "worst", "above 10 %")
    rows_say(cell.shown[0], {
        name: [100 * mean(v), 100 * max(v), 100 * mean(x > 0.1 for x in v)] for name, v in forgotten(cell.names).items()
    })  # fmt: skip


@cell("09-20")
def costs(cell):
    n, ax = cell.names, cell.shown[0].axes[0]
    prices = {
        name: mean(run["images_processed"] for run in rows) for name, rows in of_seeds(n).items() if name != "original"
    }
    order = sorted(prices, key=prices.get)
    drawn = {
        tick.get_text().replace(" ", "_"): text.get_text()
        for tick, text in zip(ax.get_yticklabels(), ax.texts, strict=True)
    }
    assert set(drawn) == set(order)
    for name, text in drawn.items():
        says(text.split()[0], prices[name])
        if "%" in text:
            says(text.split()[1], 100 * prices[name] / prices["retrain"])
    ends = [bar.get_x() + bar.get_width() for bar in ax.patches]
    assert ends == sorted(ends)


@cell("09-20b")
def few_photos_and_many(cell):
    runs = json.loads((STORED / "budgets.json").read_text(encoding="utf-8"))["runs"]
    panels = {ax.get_title(loc="left").replace("\n", " ").replace(" ", "_"): ax for ax in cell.shown[0].axes}
    for name in {run["method"] for run in runs}:
        mine = sorted((run for run in runs if run["method"] == name), key=lambda run: run.get("images_processed", 0))
        for line, pool in zip(panels[name].lines, ("forget", "unseen"), strict=True):
            same(line.get_xdata(), [run.get("images_processed", 0) for run in mine], name)
            same(line.get_ydata(), [run[pool]["map"] if pool in run else math.nan for run in mine], name)


@cell("09-22")
def sizes(cell):
    n = cell.names
    for ax, pool in zip(cell.shown[0].axes, ("forget", "unseen"), strict=True):
        assert pool in ax.get_ylabel()
        for line in ax.lines:
            name = line.get_label().replace(" ", "_")
            runs = sorted(
                (r for r in n["every_run"] if r["method"] == name and r["seed"] == 0), key=lambda r: r["n_forget"]
            )
            same(line.get_xdata(), [run["n_forget"] for run in runs], name)
            same(line.get_ydata(), [run[pool]["map"] for run in runs], name)


@cell("09-24")
def requests(cell):
    rows = cell.names["requests"]
    for ax in cell.shown[0].axes:
        mine = [run["after"] for run in rows if run["method"] == ax.get_title("center").replace(" ", "_")]
        *groups, unseen = ax.lines
        assert unseen.get_label() == "unseen people"
        states = range(len(mine[0]))
        same(unseen.get_ydata(), [mean(run[k]["unseen"] for run in mine) for k in states], "unseen")
        for group, line in enumerate(groups):
            assert line.get_label() == f"forget, request {group + 1}"
            same(line.get_ydata(), [mean(run[k]["groups"][group] for run in mine) for k in states], line.get_label())


@cell("09-29")
def run_here(cell):
    n, session = cell.names, cell.names["session"]
    expected = {"original": scores_of(Seen.by(session.recogniser.model, session.splits))}
    expected["retrain"] = scores_of(Seen.by(session.forget("retrain").outcome.model, session.splits))
    for name in n["parse_methods"](n["methods"]):
        expected[name] = scores_of(Seen.by(session.forget(name).outcome.model, session.splits))
    bars_say(cell.shown[0], {name: expected[name] for name in METHODS if name in expected})


# ---- 10 --------------------------------------------------------------------------------------------------------------


def models_10(n) -> dict[str, torch.nn.Module]:
    models = {"original": n["session"].recogniser.model, "retrain": n["trials"]["retrain"].outcome.model}
    return models | {name: trial.outcome.model for name, trial in n["trials"].items()}


@cell("10-14a")
def recovered_by_hand(cell):
    n, expected = cell.names, {}
    header_is(cell.shown[0], "plain search, forget people", "score", "target", "original", "recovered, by your rule")
    original = Seen.by(models_10(n)["original"], n["splits"]).found("forget")["map"]
    for name in n["names"]:
        score = Seen.by(models_10(n)[name], n["splits"]).found("forget")["map"]
        way = (score - n["chance"]) / (original - n["chance"])
        expected[METHODS[name].title] = [
            100 * value for value in (score, n["chance"], original, float(np.clip(way, 0, 1)))
        ]
    rows_say(cell.shown[0], expected)


@cell("10-19a")
def hidden_person(cell):
    n, expected = cell.names, {}
    header_is(cell.shown[0], "one person's photos", "nearest other photo", "to the template")
    seen = Seen.by(models_10(n)[n["names"][-1]], n["splits"], n["photos"].tolist())
    theirs = f"{n['faces'].identities[n['person']]}, {n['names'][-1]}"
    for who, z in (("yours", np.asarray(n["my_points"], float)), (theirs, seen.rows(n["photos"].tolist()))):
        nearest = [max(z[i] @ z[j] for j in range(len(z)) if j != i) for i in range(len(z))]
        expected[who] = [mean(nearest), mean(cosine_of(row, z.mean(axis=0))[0, 0] for row in z)]
    rows_say(cell.shown[0], expected)


@cell("10-16")
def templates(cell):
    n, expected = cell.names, {}
    labels, splits = n["faces"].labels, n["splits"]
    person = max(splits.forget, key=lambda p: (labels[held_out(splits)] == p).sum())
    train = [int(i) for i in splits.photos("forget", "train") if labels[i] == person]
    asked = [int(i) for i in held_out(splits) if labels[i] == person]
    header_is(cell.shown[0], "mean cosine of held-out photos", "to one photo", "to the template")
    for name, model in models_10(n).items():
        seen = Seen.by(model, splits, [*train, *asked])
        template = seen.rows(train).mean(axis=0)
        expected[name] = [mean(seen.at[a] @ seen.at[t] for a in asked for t in train),
                          mean(cosine_of(seen.at[a], template)[0, 0] for a in asked)]  # fmt: skip
    rows_say(cell.shown[0], expected)


@cell("10-20")
def disturbed(cell):
    n = cell.names
    axes = [ax for ax in cell.shown[0].axes if ax.images]
    for ax, (name, picture) in zip(axes, n["versions"].items(), strict=True):
        assert ax.get_title("center").startswith(name[:10])
        same(ax.images[0].get_array(), np.moveaxis(picture[0].numpy(), 0, -1), name)
    assert photo_of(axes[0].images[0].get_array(), n["faces"]) in set(
        n["session"].before.photos_of(n["person"]).tolist()
    )


@cell("10-22")
def turned_back(cell):
    n, expected = cell.names, {}
    header_is(cell.shown[0], "cosine of a forget photo to its old place", "as it is", "after the map")
    queries = n["splits"].photos("forget", "query").tolist()
    both = sorted({*n["known"].tolist(), *queries})
    old = Seen.by(n["session"].recogniser.model, n["splits"], both)
    for name, model in models_10(n).items():
        new = Seen.by(model, n["splits"], both)
        expected[name] = [mean(new.at[q] @ old.at[q] for q in queries), None]
    # few photos leave a map free in some directions, so only the cell's own last one tells what it makes of a query
    turn = n["turn"].double().numpy()
    expected[name][1] = mean(new.at[q] @ turn @ old.at[q] for q in queries)
    rows_say(cell.shown[0], expected)
    between = new.rows(n["known"]).T @ old.rows(n["known"])
    same(turn @ turn.T, np.eye(len(turn)), "a turn times its transpose", atol=1e-4)
    same((turn * between).sum(), np.linalg.svd(between)[1].sum(), "how well the turn fits", atol=1e-3)


@cell("10-26")
def pairs_in_two_pools(cell):
    n, last = cell.names, cell.names["names"][-1]
    titled(cell.shown[0], METHODS[last].title)
    seen, drawn = Seen.by(models_10(n)[last], n["splits"]), {}
    for pool, words in (("forget", "forgotten people"), ("unseen", "never-seen people")):
        photos = seen.held_out(pool)
        drawn[words] = [
            seen.at[a] @ seen.at[b]
            for k, a in enumerate(photos)
            for b in photos[:k]
            if seen.labels[a] == seen.labels[b]
        ]
    spread_is(cell.shown[0].axes[0], drawn)


@cell("10-27a")
def told_by_one_photo(cell):
    n, expected = cell.names, {}
    splits = n["splits"]
    header_is(cell.shown[0], "AUC, one photo", "all three", "length", "best cosine", "density")
    known = n["sample"](splits).tolist()
    for name, model in models_10(n).items():
        row = n["alone"][name]
        if np.isnan(row["score"]):
            expected[name] = [float("nan")] * 4
            continue
        seen, told = Seen.by(model, splits, sorted({*held_out(splits), *known})), {}
        labels = n["faces"].labels
        centres = [sum(seen.at[i] for i in known if labels[i] == p) for p in sorted({int(labels[i]) for i in known})]
        centres = [centre / np.linalg.norm(centre) for centre in centres]
        for pool in ("forget", "unseen"):
            photos = sorted({int(i) for part in ("query", "gallery") for i in splits.photos(pool, part)})
            near = [sorted((seen.at[i] @ seen.at[k] for k in known), reverse=True)[:10] for i in photos]
            told[pool] = [
                (max(seen.at[i] @ c for c in centres), np.mean(most)) for i, most in zip(photos, near, strict=True)
            ]
        auc = [
            np.mean([(a[k] > b[k]) + 0.5 * (a[k] == b[k]) for a in told["forget"] for b in told["unseen"]])
            for k in (0, 1)
        ]
        same([row["details"]["centroid"], row["details"]["density"]], auc, name, atol=0.01)
        expected[name] = [row["score"], *(row["details"][key] for key in ("length", "centroid", "density"))]
    rows_say(cell.shown[0], expected)


@cell("10-29")
def changed_models(cell):
    n, expected = cell.names, {}
    header_is(cell.shown[0], "forget mAP", "as it is", "half-way back", "BatchNorm anew", "taken off")
    for name in n["names"]:
        model = models_10(n)[name]
        changed = [model, n["half_way"](model), n["measured_anew"](model), n["inside"](model)]
        expected[name] = [
            100 * Seen.by(m, n["splits"]).found("forget")["map"] if m is not None else float("nan") for m in changed
        ]
    rows_say(cell.shown[0], expected)


leave_out("seconds", "10-32")


@cell("10-34", "10-36")
def pages(cell):
    n = cell.names
    shown = n["names"][:1] if cell.id == "10-34" else n["names"][1:]
    for name, figure in zip(shown, cell.shown, strict=True):
        titled(figure, METHODS[name].title)
        rows = [row for row in n["audits"][name] if row["score"] is not None and not np.isnan(row["score"])]
        drawn = {
            c.get_label(): np.asarray(c.get_offsets())[:, 0]
            for c in figure.axes[0].collections
            if c.get_label()[0] != "_"
        }
        looks = {
            "original model": "original",
            "stated target, named on the right": "target",
            "after unlearning": "score",
        }
        worst = sorted(row["worst"]["score"] for row in rows if row["worst"])
        same(sorted(drawn["worst person"]), worst, f"{name} worst person")
        for label, key in looks.items():
            left = drawn[label][~np.isnan(drawn[label])]
            same(sorted(left), sorted(row[key] for row in rows if not np.isnan(row[key])), f"{name} {label}")
        plain = (
            next(row for row in rows if row["attack"] == "search")
            if any(r["attack"] == "search" for r in rows)
            else None
        )
        if plain:
            same(
                plain["score"],
                Seen.by(models_10(n)[name], n["splits"]).found("forget")["map"],
                "plain search",
                atol=1e-4,
            )


def map_says(figure, audits) -> None:
    ax = figure.axes[0]
    assert [t.get_text().replace("\n", " ") for t in ax.get_xticklabels()] == [METHODS[name].title for name in audits]
    shares = np.ma.filled(np.ma.masked_invalid(ax.images[0].get_array()), np.nan)
    lines = [t.get_text().rpartition("  [")[0] for t in ax.get_yticklabels()]
    written = {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}
    for column, rows in enumerate(audits.values()):
        for row in rows:
            if row["score"] is not None and not np.isnan(row["score"]):
                (place,) = (i for i, line in enumerate(lines) if line == row["title"].replace("_", " "))
                same(shares[place, column], row["recovered"], row["title"])
                plain = row["metric"] in ("AUC", "gain")
                says(written[column, place], row["score"] if plain else 100 * row["score"])


@cell("10-40")
def the_map(cell):
    map_says(cell.shown[0], cell.names["audits"])


@cell("10-41")
def winners(cell):
    lines = iter(cell.printed.splitlines())
    for name, rows in cell.names["audits"].items():
        assert next(lines).startswith(METHODS[name].title)
        rows = [row for row in rows if row["attacker"] not in ("old head", "old model")]
        known = sorted((row["recovered"] for row in rows if not np.isnan(row["recovered"])), reverse=True)[:4]
        for value in known:
            line = next(lines)
            says(line.partition("recovered")[0], 100 * value)
            assert any(row["title"] in line and row["attacker"] in line for row in rows if row["recovered"] == value)


@cell("10-48")
def layers(cell):
    n, expected = cell.names, {}
    names = list(dict.fromkeys(("retrain", *n["names"])))
    parts = cell.shown[0].rows[0][1:]
    for name in names:
        rows = [row["details"] for row in n["audits"].get(name, ()) if row["attack"] == "layers"]
        found = rows[0] if rows else n["reference"]
        expected[name] = [100 * found.get(part, float("nan")) for part in parts]
    rows_say(cell.shown[0], expected)


# ---- 11 --------------------------------------------------------------------------------------------------------------


leave_out("files and connections", "11-07", "11-30")


@cell("11-13")
def my_photos(cell):
    n = cell.names
    mine = [len(n["splits"].photos("forget", part)) for part in ("train", "query", "gallery")]
    first, second = cell.printed.splitlines()
    assert re.findall(r"\d+ (\w+)", first.rpartition(":")[2]) == ["train", "query", "gallery"]
    says(first.rpartition(":")[2], *mine)
    people = {int(n["splits"].faces.labels[g]) for g in n["splits"].gallery}
    says(second, len(n["splits"].gallery), len(people))


def seen_11(n, *models: torch.nn.Module) -> list[Seen]:
    """Every held-out photo and mine to train on, as each model sees them: once for all cells, the gallery is large."""
    splits, kept = n["splits"], n.setdefault("seen so far", {})
    for model in models:
        if model not in kept:
            kept[model] = Seen.by(model, splits, [*held_out(splits), *splits.photos("forget", "train")])
    return [kept[model] for model in models]


@cell("11-17")
def found_first(cell):
    n = cell.names
    photos = n["splits"].photos("forget", "query")[:2]
    strips_say(cell.shown[0], n["splits"], [(*seen_11(n, n["model"]), int(photo), "") for photo in photos])


@cell("11-19")
def photos_processed(cell):
    says(cell.printed.partition(",")[2].partition("photos")[0], cell.names["outcome"].images_processed)


@cell("11-20")
def before_and_after(cell):
    n = cell.names
    photo = int(n["splits"].photos("forget", "query")[0])
    strips_say(cell.shown[0], n["splits"], [(seen, photo, "") for seen in seen_11(n, n["model"], n["outcome"].model)])
    assert [part.get_suptitle().rpartition("· ")[2] for part in cell.shown[0].subfigs] == ["before", "after unlearning"]


def my_ranks(n) -> dict[str, tuple[float, float]]:
    """The mean rank of the first right photo by way of looking, before and after."""
    splits = n["splits"]
    train, query = (splits.photos("forget", part).tolist() for part in ("train", "query"))
    old, new = seen_11(n, n["model"], n["outcome"].model)
    me = splits.forget[0]

    def rank(row, enrolled: Seen, leave: int = -1) -> int:
        order = sorted((g for g in splits.gallery if g != leave), key=lambda g: -(row @ enrolled.at[int(g)]))
        return next(i for i, g in enumerate(order, 1) if splits.faces.labels[g] == me)

    def photo(seen: Seen, enrolled: Seen) -> float:
        return mean(rank(seen.at[q], enrolled) for q in query)

    templates = [seen.rows(train).mean(axis=0) for seen in (old, new)]
    return {
        "a new photo": (photo(old, old), photo(new, new)),
        "a template of several photos": (rank(templates[0], old), rank(templates[1], new)),
        "a new photo, the old gallery": (photo(old, old), photo(new, old)),
        "an old template, the new gallery": (rank(templates[0], old), rank(templates[0], new)),
    }


@cell("11-22")
def my_rank_table(cell):
    header_is(cell.shown[0], "mean rank", "before", "after")
    rows_say(cell.shown[0], my_ranks(cell.names))


@cell("11-26")
def bars_of_me(cell):
    n = cell.names
    before, after = seen_11(n, n["model"], n["outcome"].model)
    bars_say(cell.shown[0], {"before": scores_of(before), "after": scores_of(after)})


@cell("11-28")
def my_page(cell):
    n = cell.names
    figure, ranks = cell.shown[0], my_ranks(n)
    photo = int(n["splits"].photos("forget", "query")[0])
    top, middle, bottom = figure.subfigs
    for part, seen in zip((top, middle), seen_11(n, n["model"], n["outcome"].model), strict=True):
        strip_says(own_axes(figure, part), n["splits"], seen, photo)
    (ax,) = own_axes(figure, bottom)
    dots = dots_of(ax)
    for i, (old, new) in enumerate(ranks.values()):
        same([dots[2 * i][0, 0], dots[2 * i + 1][0, 0]], [old, new], list(ranks)[i])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(ranks)


# ---- 12 --------------------------------------------------------------------------------------------------------------

leave_out("what the engines' files and the stored measurements say; tests/retrieval and test_scale check them",
          "12-32", "12-34", "12-35", "12-42")  # fmt: skip


@cell("12-07")
def how_embeddings_lie(cell):
    view, splits = cell.names["before"], cell.names["splits"]
    photos = sorted({int(p) for pool in ("retain", "unseen") for p in held_out_of(splits, pool)})
    table, people = cosine_of(view.rows(np.array(photos)), view.rows(np.array(photos))), splits.faces.labels[photos]
    above = np.triu(np.ones_like(table, dtype=bool), 1)
    same_person = people[:, None] == people[None]
    within, between = table[above & same_person].mean(), table[above & ~same_person].std()
    says(cell.printed, np.clip(within, 0.05, 0.95), np.clip(between, 0.05, 0.95))


def held_out_of(splits, pool: str) -> list[int]:
    return [int(i) for part in ("query", "gallery") for i in splits.photos(pool, part)]


@cell("12-08")
def drawn_faces(cell):
    rows = cell.names["rows"]
    says(cell.printed, len(rows), rows.shape[1], rows.size * 4 / 2**20)


def searched_again(n, row) -> tuple[float, float, float]:
    """Recall@1, @10 and the person's, searched once more with an index built the same way."""
    from utils.retrieval import drawn

    index, _ = drawn.build_index(n["rows_asked"], row["index"])
    name, _, effort = row["effort"].partition(" ")
    if name:
        drawn.faiss.ParameterSpace().set_index_parameter(index, name, int(effort))
    found = index.search(n["queries"], 10)[1]
    cosines = n["queries"].astype(np.float64) @ n["rows_asked"].T.astype(np.float64)
    truth = np.argsort(-cosines, axis=1, kind="stable")[:, :10]
    ten = mean(len({*f} & {*t}) / 10 for f, t in zip(found.tolist(), truth.tolist(), strict=True))
    own = mean(f[0] // drawn.PHOTOS == q for q, f in enumerate(found))
    return mean(f[0] == t[0] for f, t in zip(found, truth, strict=True)), ten, own


@cell("12-10")
def recall_against_time(cell):
    n = cell.names
    n["rows_asked"] = n["rows"].copy()  # the next cells put copies of one photo into it
    drawn_lines = {label.partition(" (")[0]: line for label, line in lines_of(cell.shown[0].axes[0]).items()}
    for kind, line in drawn_lines.items():
        rows = [row for row in n["measured"] if row["index"] == kind]
        same(
            line, [searched_again(n, row)[1] for row in rows], kind, atol=0.02
        )  # an index may be built a little differently


@cell("12-11")
def table_of_recall(cell):
    n = cell.names
    for line, row in zip(cell.shown[0].rows[1:], n["measured"], strict=True):
        assert line[:2] == [row["index"], row["effort"]]
        for written, key in zip(line[2:], ("recall@1", "recall@10", "person@1"), strict=False):
            says(written, 100 * row[key])
        for written, key in zip(line[5:], ("median_ms", "p99_ms"), strict=True):
            says(written, row[key])


@cell("12-15")
def the_same_ids(cell):
    n = cell.names
    cosines = n["asked"].astype(np.float64) @ n["rows"].T.astype(np.float64)
    for query, row in enumerate(cosines[:-1]):
        assert set(n["merged"][query]) == set(np.argsort(-row, kind="stable")[:10])
    equal = np.flatnonzero((n["rows"] == n["rows"][-1]).all(axis=1))
    assert n["merged"][-1].tolist() == equal[:10].tolist()
    assert "same ids as one flat index: True" in cell.printed
    says(cell.printed.partition("[")[2].partition("]")[0], *equal[:5])


@cell("12-17")
def a_damaged_shard(cell):
    assert cell.printed.count("\n") == 1 and cell.names["manifest"]["shards"][2]["sha256"][:12] in cell.printed


@cell("12-20")
def rolled_over(cell):
    n, splits = cell.names, cell.names["splits"]
    for ax, (name, trial) in zip(cell.shown[0].axes, n["trials"].items(), strict=True):
        old, new = Seen.of(n["before"]), Seen.of(trial.after)
        drawn_lines = lines_of(ax)
        for done in range(5):
            first = {
                int(g) for g in n["gallery"][: sum(4 * i // len(n["gallery"]) < done for i in range(len(n["gallery"])))]
            }
            there = Seen.__new__(Seen)
            there.at = {int(g): (new if int(g) in first else old).at[int(g)] for g in splits.gallery}
            for asker, seen in (("new", new), ("old", old)):
                for pool in POOLS:
                    expected = [seen.found(pool, there, lean)["r1"] for lean in (-1e-6, 1e-6)]
                    value = drawn_lines[f"{pool}, {asker} model asks"][done]
                    assert min(expected) - 1e-9 <= value <= max(expected) + 1e-9, (name, done, asker, pool)


@cell("12-22")
def the_old_gallery(cell):
    n = cell.names
    r1 = Seen.of(n["trials"]["dispersion"].after).found("forget", Seen.of(n["before"]))["r1"]
    for line in cell.printed.splitlines():
        says(line.partition("R@1 ")[2], 100 * r1)


@cell("12-24")
def scores_in_a_mixed_gallery(cell):
    n, splits = cell.names, cell.names["splits"]
    for ax, trial in zip(cell.shown[0].axes, n["trials"].values(), strict=True):
        old, new, found = Seen.of(n["before"]), Seen.of(trial.after), {"new": [], "old": [], "strangers": []}
        for query in splits.photos("retain", "query"):
            for place, g in enumerate(n["gallery"]):
                fresh = 4 * place // len(n["gallery"]) < 2
                cosine = new.at[int(query)] @ (new if fresh else old).at[int(g)]
                mine = splits.faces.labels[query] == splits.faces.labels[g]
                found[("new" if fresh else "old") if mine else "strangers"].append(cosine)
        words = ("same person, new vector", "same person, old vector", "strangers")
        spread_is(ax, dict(zip(words, found.values(), strict=True)))


@cell("12-26")
def killed_and_gone_on(cell):
    assert "4 of 4" in cell.printed and "accident: True" in cell.printed
    assert len(set(cell.names["asked_for"])) == 4 and len(cell.names["asked_for"]) == 5


@cell("12-28")
def filtered(cell):
    says(cell.printed, 0)


@cell("12-30")
def read_back(cell):
    n, splits, faces = cell.names, cell.names["splits"], cell.names["faces"]
    says(cell.printed.partition("%")[0], 100)
    seen, labels = Seen.of(n["before"]), splits.faces.labels
    photo = next(int(g) for g in splits.gallery if labels[g] in splits.forget)
    queries = [int(q) for pool in POOLS for q in splits.photos(pool, "query")]
    ranked = sorted(queries, key=lambda q: -(seen.at[q] @ seen.at[photo]))
    for ax, q in zip(own_axes(cell.shown[0], cell.shown[0].subfigs[0])[1:], ranked, strict=False):
        if ax.images:
            assert (np.asarray(ax.images[0].get_array()) == np.moveaxis(faces.images([q])[0].numpy(), 0, -1)).all()
            assert ("✓" in ax.get_title("center")) == (labels[q] == labels[photo])
            says(ax.get_xlabel().rpartition("cos")[2], float(seen.at[q] @ seen.at[photo]))


@cell("12-39")
def two_processes(cell):
    written = [text.get_text() for text in cell.shown[0].axes[0].texts]
    for text, gap in zip(written, cell.names["gaps"].values(), strict=True):
        assert text == f"{gap:.0e}"
    assert cell.names["gaps"]["gathered"] < 1e-5 < cell.names["gaps"]["local"]


@cell("12-41")
def the_price_of_a_request(cell):
    n, ax = cell.names, cell.shown[0].axes[0]
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    for name, text in zip(names, ax.texts, strict=True):
        photos = n["photos_processed"]().get(name.replace(" ", "_"), 3_141_890)
        seconds = photos / n["speed"]["embed" if name == "gallery anew" else "train"]
        says(text.get_text(), seconds / 60)
