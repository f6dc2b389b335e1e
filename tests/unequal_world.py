"""A world of unequal pools, and every number the course reports of it by plain loops.

Pools differ in people, photos and difficulty, so that a score taken from the wrong pool, photos or metric is another
number. The loops know each photo's person, pool and part from the world's own list, never from the code under test.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from utils.faces.datasets import FaceDataset
from utils.faces.splits import Splits
from utils.models.backbones import FaceBackbone
from utils.models.heads import CosFace

# (query, gallery) photos of each person: some are searched for without being enrolled, some the other way round
SIZES = {
    "forget": ((3, 2), (1, 4), (5, 3), (2, 0), (0, 2)),
    "dev_forget": ((2, 3), (4, 2), (3, 1)),
    "retain": ((4, 6), (5, 5), (3, 3), (6, 4), (2, 7), (5, 3), (4, 4)),
    "unseen": ((3, 4), (1, 2), (4, 4), (2, 3), (5, 2), (1, 0)),
    "distractors": ((0, 1), (0, 1), (0, 1)),
}
SPREAD = {"forget": 0.36, "dev_forget": 0.31, "retain": 0.24, "unseen": 0.28, "distractors": 0.3}
TRAIN_PHOTOS, DIM, SEED = 3, 10, 369


class Photo(NamedTuple):
    """What the loops know of a photo."""

    person: int
    pool: str
    part: str


class LookupBackbone(FaceBackbone):
    """A face model that reads a photo's number from two pixels and looks its point up, not of unit length."""

    name, input_size = "lookup", 4

    def __init__(self, points: np.ndarray) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.from_numpy(points).float(), requires_grad=False)
        self.embedding_dim = points.shape[1]

    def layers(self) -> dict:
        return {}

    def forward(self, x: Tensor) -> Tensor:
        pixels = (x * 128 + 127.5).round().long()
        return 3 * self.points[pixels[:, 0, 0, 0] + 256 * pixels[:, 1, 0, 0]]


class World(NamedTuple):
    """Faces that say who they are, the points of two models, and heads that are wrong now and then."""

    photos: list[Photo]
    points: np.ndarray  # (N, d) float64, of unit length
    other_points: np.ndarray  # another model's
    splits: Splits
    head: CosFace
    small_head: CosFace  # without rows for the forget people
    cosines: list[list[float]]

    def chosen(self, *pools: str, parts: tuple[str, ...] = ("query", "gallery")) -> list[int]:
        """Return the numbers of the photos of some pools (all, if none is named) and parts, in order."""
        return [i for i, photo in enumerate(self.photos) if (not pools or photo.pool in pools) and photo.part in parts]

    def queries(self, *pools: str) -> list[int]:
        return self.chosen(*pools, parts=("query",))

    def gallery(self, *pools: str) -> list[int]:
        return self.chosen(*pools, parts=("gallery",))

    def people(self, photos: list[int]) -> dict[int, list[int]]:
        """Return photos by person, in the order of labels."""
        found: dict[int, list[int]] = {}
        for photo in sorted(photos, key=lambda i: self.photos[i].person):
            found.setdefault(self.photos[photo].person, []).append(photo)
        return found


def make_world(seed: int = SEED) -> World:
    """Draw the world: forgotten people stand near retained ones, and some photos of two people are one point."""
    generator = np.random.default_rng(seed)
    pools = [(pool, size) for pool, sizes in SIZES.items() for size in sizes]
    pools = [pools[i] for i in generator.permutation(len(pools))]  # labels of a pool lie apart
    centres = unit(generator.normal(size=(len(pools), DIM)))
    kept = [label for label, (pool, _) in enumerate(pools) if pool == "retain"]
    for label, (pool, _) in enumerate(pools):
        if pool == "forget":
            centres[label] = unit(centres[label] + 0.8 * centres[kept[label % len(kept)]])
    photos, points = [], []
    for label, (pool, (n_query, n_gallery)) in enumerate(pools):
        n_train = TRAIN_PHOTOS if pool in ("forget", "dev_forget", "retain") else 0
        for part in ["train"] * n_train + ["query"] * n_query + ["gallery"] * n_gallery:
            photos.append(Photo(label, pool, part))
            away = 3.0 if part == "train" else 1.0  # nothing is scored on training photos: they lie elsewhere
            noise = generator.normal(size=DIM) * SPREAD[pool] * away * generator.uniform(0.5, 1.5)
            points.append(unit(centres[label] + noise))
    order = generator.permutation(len(photos))  # photos of a person lie apart, too
    photos, points = [photos[i] for i in order], np.array([points[i] for i in order])
    make_ties(photos, points)
    other_points = unit(points + 0.15 * generator.normal(size=points.shape))
    splits = splits_of(photos, len(pools))
    rows = unit(centres + 0.4 * generator.normal(size=centres.shape))
    heads = [head_of(rows, people) for people in (splits.trained, splits.retain_train)]
    return World(photos, points, other_points, splits, *heads, cosines_of(points))


def cosines_of(points: np.ndarray) -> list[list[float]]:
    """Return the cosines of all pairs of points of unit length."""
    points = points.tolist()
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in points] for one in points]


def make_ties(photos: list[Photo], points: np.ndarray) -> None:
    """Lay a gallery photo of each pool on one of another's: a tie between a right and a wrong person."""
    enrolled = {pool: [i for i, p in enumerate(photos) if (p.pool, p.part) == (pool, "gallery")] for pool in SIZES}
    pairs = [
        ("retain", "forget", 0),
        ("retain", "unseen", 1),
        ("dev_forget", "retain", 2),
        ("distractors", "unseen", 1),
    ]
    for source, target, place in pairs:
        points[enrolled[target][place]] = points[enrolled[source][place]]


def unit(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def head_of(rows: np.ndarray, people: tuple[int, ...]) -> CosFace:
    head = CosFace(DIM, len(people))
    head.weight.data = torch.from_numpy(rows[list(people)]).float() * torch.linspace(1, 4, len(people))[:, None]
    return head


def splits_of(photos: list[Photo], n_people: int) -> Splits:
    """Return faces whose pixels are their own number, and splits as the list of photos says."""
    number = np.arange(len(photos))
    pixels = np.zeros((len(photos), 3, 4, 4), dtype=np.uint8)
    pixels[:, 0], pixels[:, 1] = (number % 256)[:, None, None], (number // 256)[:, None, None]
    faces = FaceDataset(
        "unequal", torch.from_numpy(pixels), np.array([photo.person for photo in photos]),
        tuple(f"Person {label}" for label in range(n_people)), tuple(f"{i}.png" for i in number), 4, "", "", 4,
    )  # fmt: skip
    pools = [tuple(sorted({p.person for p in photos if p.pool == pool})) for pool in SIZES]
    parts = [np.array([i for i, p in enumerate(photos) if p.part == part]) for part in ("train", "query", "gallery")]
    return Splits(faces, 0, *pools, *parts)


# ---------------------------------------------------------------------------- every reported number, by plain loops


class Ranked(NamedTuple):
    """One query's scores."""

    person: int
    precision: float
    first_rank: float
    r1: float
    r5: float


def ranked(world: World, query: int, gallery: list[int], ks: tuple[int, int] = (1, 5)) -> Ranked | None:
    """Rank one query against a gallery without itself; None if nobody there is the same person."""
    person, others = world.photos[query].person, [i for i in gallery if i != query]
    right = [world.cosines[query][i] for i in others if world.photos[i].person == person]
    if not right:
        return None
    everything = [world.cosines[query][i] for i in others]
    shares = [reach(right, bar) / reach(everything, bar) for bar in right]
    best = max(right)
    tied = sum(abs(cosine - best) < 1e-9 for cosine in everything)
    right_tied = sum(abs(cosine - best) < 1e-9 for cosine in right)
    before = reach(everything, best) - tied
    hits = []
    for k in ks:
        places = max(0, min(k - before, tied))
        hits.append(1 - math.comb(tied - right_tied, places) / math.comb(tied, places))
    return Ranked(person, mean(shares), before + (tied + 1) / (right_tied + 1), *hits)


def reach(cosines: list[float], bar: float) -> int:
    return sum(cosine >= bar - 1e-9 for cosine in cosines)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def plain_retrieval(world: World, queries: list[int], gallery: list[int]) -> dict[str, float]:
    """Return R@1, R@5 and mAP over the queries that have something to find."""
    found = [one for query in queries if (one := ranked(world, query, gallery))]
    return {
        "r1": mean([q.r1 for q in found]),
        "r5": mean([q.r5 for q in found]),
        "map": mean([q.precision for q in found]),
    }


def plain_cosines(world: World, photos: list[int]) -> dict[str, float]:
    """Return the mean and the nearest same-identity cosine, averaged over people with two photos or more."""
    means, nearest = [], []
    for mine in world.people(photos).values():
        if len(mine) > 1:
            means.append(mean([world.cosines[i][j] for i in mine for j in mine if i != j]))
            nearest.append(mean([max(world.cosines[i][j] for j in mine if j != i) for i in mine]))
    return {"mean_cosine": mean(means), "nearest_cosine": mean(nearest)}


def plain_pairs(world: World, photos: list[int]) -> tuple[list[float], list[float]]:
    """Return the cosines of all pairs of one person, and of two."""
    genuine, impostor = [], []
    for place, i in enumerate(photos):
        for j in photos[place + 1 :]:
            same = world.photos[i].person == world.photos[j].person
            (genuine if same else impostor).append(world.cosines[i][j])
    return genuine, impostor


def plain_threshold(world: World, photos: list[int], far: float) -> float:
    """Return the lowest threshold, on a grid of 2⁻²⁰, that at most a share `far` of the impostor pairs reach."""
    impostor = sorted(plain_pairs(world, photos)[1], reverse=True)
    stopped = impostor[math.floor(far * len(impostor))]  # the best pair that must not pass
    return (math.floor(stopped * 2**20) + 1) / 2**20


def plain_tar(world: World, photos: list[int], threshold: float) -> float:
    return mean([cosine >= threshold for cosine in plain_pairs(world, photos)[0]])


def plain_fmr(world: World, queries: list[int], gallery: list[int], threshold: float) -> float:
    return mean([max(world.cosines[query][i] for i in gallery) >= threshold for query in queries])


def plain_chance(world: World, queries: list[int], gallery: list[int]) -> dict[str, float]:
    """Return what a random order gives: place by place, the chance of the first k, and of precision, at that place."""
    r1, r5, precision = [], [], []
    for query in queries:
        others = [i for i in gallery if i != query]
        n, right = len(others), sum(world.photos[i].person == world.photos[query].person for i in others)
        if right:
            r1.append(right / n)
            r5.append(1 - math.comb(n - right, 5) / math.comb(n, 5))
            # a right photo, as likely at any place p, has on average (right - 1)(p - 1)/(n - 1) right ones ahead
            precision.append(mean([(1 + (right - 1) * (p - 1) / (n - 1)) / p for p in range(1, n + 1)]))
    return {"r1": mean(r1), "r5": mean(r5), "map": mean(precision)}


def plain_accuracy(world: World, photos: list[int], head: CosFace, people: tuple[int, ...]) -> float:
    """Return the share of photos whose best row of the head is that of their person."""
    rows = unit(head.weight.detach().double().numpy())
    hits = []
    for photo in photos:
        cosines = [sum(a * b for a, b in zip(row, world.points[photo], strict=True)) for row in rows]
        hits.append(people[cosines.index(max(cosines))] == world.photos[photo].person)
    return mean(hits)


def plain_scores(world: World, far: float = 1e-3) -> dict:
    """Return all that `Evaluation.scores` reports."""
    threshold = plain_threshold(world, world.chosen("retain", "unseen"), far)
    result = {}
    for pool in ("forget", "retain", "unseen", "dev_forget"):
        photos = world.chosen(pool)
        result[pool] = plain_retrieval(world, world.queries(pool), world.gallery()) | plain_cosines(world, photos)
        result[pool]["tar"] = plain_tar(world, photos, threshold)
    fmr = plain_fmr(world, world.queries("forget"), world.gallery("retain"), threshold)
    result["forget"]["lookalike_fmr"] = fmr
    for pool in ("forget", "retain"):
        result[pool]["accuracy"] = plain_accuracy(world, world.chosen(pool), world.head, world.splits.trained)
    chance = plain_chance(world, world.queries("forget"), world.gallery())
    return result | {"chance": chance, "gallery_size": len(world.gallery()), "threshold": threshold}


def wrong_scores(world: World, far: float = 1e-3) -> dict[str, tuple[float, float]]:
    """Return (right, wrong) numbers: the same loops over photos that somebody could take by mistake."""
    scores, pairs = plain_scores(world, far), {}
    everybody, forget, pools = world.gallery(), world.queries("forget"), ("forget", "retain", "unseen", "dev_forget")
    for pool in pools:
        galleries = {"its own gallery": world.gallery(pool), "no strangers": world.gallery(*pools)}
        galleries |= {f"no {other}": [i for i in everybody if world.photos[i].pool != other] for other in pools[1:3]}
        galleries["all held-out photos"] = world.chosen()
        for name, gallery in galleries.items():
            if pool not in name:
                wrong = plain_retrieval(world, world.queries(pool), gallery)
                pairs |= {f"{pool} {key} in {name}": (scores[pool][key], wrong[key]) for key in ("map",)}
        for parts in (("query",), ("gallery",), ("query", "gallery", "train")):
            photos, name = world.chosen(pool, parts=parts), f"{pool} {{}} of {' and '.join(parts)}"
            if len(parts) < 3 or pool != "unseen":
                wrong = plain_cosines(world, photos) | {"tar": plain_tar(world, photos, scores["threshold"])}
                pairs |= {name.format(key): (scores[pool][key], value) for key, value in wrong.items()}
        chance = plain_chance(world, world.queries(pool), everybody)
        pairs |= {f"chance {key} of {pool}": (scores["chance"][key], chance[key]) for key in chance if pool != "forget"}
    own = plain_chance(world, forget, world.gallery("forget"))
    pairs |= {f"chance {key} in its own gallery": (scores["chance"][key], own[key]) for key in own}
    takings = [("retain",), ("unseen",), ("forget", "unseen"), ("forget", "retain"), ("retain", "dev_forget"), ()]
    for taken in [*takings, ("forget", "retain", "unseen"), ("retain", "unseen", "dev_forget")]:
        pairs[f"threshold of {taken}"] = scores["threshold"], plain_threshold(world, world.chosen(*taken), far)
    for parts in (("query",), ("gallery",)):
        photos = world.chosen("retain", "unseen", parts=parts)
        pairs[f"threshold of {parts}"] = scores["threshold"], plain_threshold(world, photos, far)
    fmr, bar = scores["forget"]["lookalike_fmr"], scores["threshold"]
    for pool in ("forget", "unseen", "dev_forget"):
        pairs[f"look-alikes of {pool}"] = fmr, plain_fmr(world, forget, world.gallery(pool), bar)
    pairs["look-alikes in everybody"] = fmr, plain_fmr(world, forget, everybody, bar)
    pairs["look-alikes of all photos"] = fmr, plain_fmr(world, world.chosen("forget"), world.gallery("retain"), bar)
    pairs["look-alikes in all photos"] = fmr, plain_fmr(world, forget, world.chosen("retain"), bar)
    for pool in ("forget", "retain"):
        for part in ("query", "gallery", "train"):
            photos = world.chosen(pool, parts=(part,))
            wrong = plain_accuracy(world, photos, world.head, world.splits.trained)
            pairs[f"accuracy {pool} {part}"] = scores[pool]["accuracy"], wrong
    return pairs


def flat(scores: dict) -> dict[str, float]:
    """Return nested scores as {'forget r1': ...}."""
    flatter = {}
    for name, value in scores.items():
        flatter |= {f"{name} {key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return flatter
