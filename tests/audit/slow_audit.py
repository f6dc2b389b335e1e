"""Every attack once more, photo by photo and in plain loops: what utils/audit must agree with."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from utils.audit.photos import DISTURBANCES
from utils.faces.splits import Splits
from utils.models.augmentation import augment
from utils.models.backbones import FaceBackbone

PARTS = ("first", "second")  # the earlier parts of the network, first to last


# ------------------------------------------------------------------------------------------------- the network


def numbers(model: FaceBackbone) -> dict[str, torch.Tensor]:
    """Return weights and statistics as float64, the map of a wrapper under 'projection'."""
    return {
        name.removeprefix("backbone."): value.double().clone()
        for name, value in model.state_dict().items()
        if "tracked" not in name
    }


def normed(w: dict, k: int, x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, var, gain, bias = (v.view(shape) for v in (mean, var, w[f"norm{k}.weight"], w[f"norm{k}.bias"]))
    return (x - mean) / torch.sqrt(var + 1e-5) * gain + bias


def forward(w: dict, faces: torch.Tensor, measured: dict | None = None) -> list[torch.Tensor]:
    """Return what each part makes of uint8 faces (B, 3, 8, 8), the last one with the wrapper's map.

    With `measured`, BatchNorm uses the batch's own statistics and notes them there.
    """

    def norm(k: int, x: torch.Tensor) -> torch.Tensor:
        if measured is None:
            return normed(w, k, x, w[f"norm{k}.running_mean"], w[f"norm{k}.running_var"])
        each = x.transpose(0, 1).flatten(1)
        measured.setdefault(k, []).append((each.mean(dim=1), each.var(dim=1, unbiased=True)))
        return normed(w, k, x, each.mean(dim=1), each.var(dim=1, unbiased=False))

    x = (faces.double() - 127.5) / 128
    first = F.relu(norm(1, F.conv2d(x, w["conv1.weight"], padding=1)))
    second = F.relu(norm(2, F.conv2d(first, w["conv2.weight"], stride=2, padding=1)))
    last = norm(3, second.flatten(1) @ w["linear.weight"].T)
    return [first, second, last @ w["projection"].T if "projection" in w else last]


class Eye:
    """One model's view of photos, one photo at a time."""

    def __init__(self, w: dict, splits: Splits):
        self.w, self.splits, self.cache = w, splits, {}

    def see(self, face: np.ndarray) -> dict[str, np.ndarray]:
        key = face.tobytes()
        if key not in self.cache:
            *parts, last = forward(self.w, torch.from_numpy(face)[None])
            seen = {
                name: np.array([c.mean() for c in part[0].numpy()]) for name, part in zip(PARTS, parts, strict=True)
            }
            self.cache[key] = seen | {"embedding": unit(last[0].numpy()), "length": math.hypot(*last[0].tolist())}
        return self.cache[key]

    def __call__(self, photo: int, part: str = "embedding") -> np.ndarray:
        return self.see(self.splits.faces.pixels[int(photo)].numpy())[part]

    def length(self, photo: int) -> float:
        return self(photo, "length")


def unit(v: np.ndarray) -> np.ndarray:
    return v / math.sqrt((v * v).sum())


# ------------------------------------------------------------------------------------------------- photos and scores


def photos(splits: Splits, pool: str, part: str) -> list[int]:
    people = getattr(splits, pool)
    return [int(i) for i in getattr(splits, part) if int(splits.faces.labels[i]) in people]


def everybody(splits: Splits, part: str) -> list[int]:
    return [int(i) for i in getattr(splits, part)]


def who(splits: Splits, photo: int) -> int:
    return int(splits.faces.labels[photo])


def sampled(splits: Splits) -> list[int]:
    """The first ten training photos of each of the first 150 retained people."""
    chosen = []
    for person in splits.retain[:150]:
        chosen += [i for i in photos(splits, "retain", "train") if who(splits, i) == person][:10]
    return chosen


def chance(n_relevant: int, n: int) -> float:
    """The expected AP of a random order: at rank r stands a right photo with chance G / N, after (r-1)(G-1)/(N-1)."""
    if n == 1:
        return 1.0
    return sum((1 + (r - 1) * (n_relevant - 1) / (n - 1)) / r for r in range(1, n + 1)) / n


def found(queries: list[tuple], gallery: list[tuple]) -> dict:
    """Search (person, photo, vector) queries in a gallery of the same; a photo never finds itself."""
    precisions, firsts, chances, people = [], [], [], {}
    for person, photo, vector in queries:
        others = [(float(vector @ v), p == person) for p, i, v in gallery if i != photo or photo is None]
        right = [hit for _, hit in sorted(others, key=lambda pair: -pair[0])]
        if not any(right):
            continue
        precisions.append(np.mean([sum(right[: r + 1]) / (r + 1) for r in range(len(right)) if right[r]]))
        people.setdefault(person, []).append(precisions[-1])
        firsts.append(float(right[0]))
        chances.append(chance(sum(right), len(right)))
    result = {"score": np.mean(precisions), "chance": np.mean(chances), "details": {"r1": np.mean(firsts)}}
    return result | {"people": {person: np.mean(mine) for person, mine in people.items()}}


def rows(splits: Splits, chosen: list[int], see) -> list[tuple]:
    return [(who(splits, i), i, see(i)) for i in chosen]


def search(splits: Splits, eye: Eye) -> dict:
    queries, gallery = photos(splits, "forget", "query"), everybody(splits, "gallery")
    return found(rows(splits, queries, eye), rows(splits, gallery, eye))


# ------------------------------------------------------------------------------------------------- attacks by photos


def search_train(splits: Splits, eye: Eye) -> dict:
    asked = rows(splits, photos(splits, "forget", "train"), eye)
    return found(asked, asked + rows(splits, everybody(splits, "gallery"), eye))


def warped(face: np.ndarray, angle=0.0, zoom=1.0, right=0.0, down=0.0, flip=False) -> np.ndarray:
    """Ask, for each pixel, where it comes from: turned by degrees, zoomed, shifted in half sides, mirrored first."""
    side, out = face.shape[-1], np.zeros(face.shape)
    cos, sin = math.cos(math.radians(angle)) * zoom, math.sin(math.radians(angle)) * zoom

    def pixel(i: int) -> int:  # beyond the border the picture is mirrored
        return -1 - i if i < 0 else 2 * side - 1 - i if i >= side else i

    for row in range(side):
        for column in range(side):
            x, y = ((2 * k + 1) / side - 1 for k in (column, row))
            x = -x if flip else x
            x, y = cos * x - sin * y + right, sin * x + cos * y + down
            x, y = (((k + 1) * side - 1) / 2 for k in (x, y))
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    out[:, row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * face[:, pixel(i), pixel(j)]
    return out


def smoothed(face: np.ndarray) -> np.ndarray:
    side = face.shape[-1]
    out = np.zeros(face.shape)
    for row in range(side):
        for column in range(side):
            near = [min(max(k, 0), side - 1) for k in range(-2, side + 2)]
            block = face[:, near[row : row + 5]][:, :, near[column : column + 5]].astype(float)
            out[:, row, column] = block.mean(axis=(1, 2))
    return out


CHANGES = {  # before they are rounded and cut to 0..255
    "mirrored": lambda face: face[..., ::-1].astype(float),
    "shifted right": lambda face: warped(face, right=0.12),
    "shifted down": lambda face: warped(face, down=0.12),
    "cropped": lambda face: warped(face, zoom=0.8),
    "turned": lambda face: warped(face, angle=15),
    "blurred": smoothed,
    "darker": lambda face: 0.6 * face,
    "brighter": lambda face: 1.4 * face,
}


def changed_queries(splits: Splits, eye: Eye, name: str) -> list[tuple]:
    def see(photo: int) -> np.ndarray:  # the rounded faces are the code's own: they are compared with CHANGES by a test
        return eye.see(DISTURBANCES[name](splits.faces.pixels[[photo]])[0].numpy())["embedding"]

    return rows(splits, photos(splits, "forget", "query"), see)


def views(splits: Splits, eye: Eye) -> dict:
    versions = [changed_queries(splits, eye, name) for name in ("mirrored", "shifted right", "shifted down", "cropped")]
    versions.append(rows(splits, photos(splits, "forget", "query"), eye))
    queries = [(*photo[0][:2], unit(sum(v for *_, v in photo))) for photo in zip(*versions, strict=True)]
    return found(queries, rows(splits, everybody(splits, "gallery"), eye))


def best_of(results: dict[str, dict]) -> dict:
    best = max(results.values(), key=lambda result: result["score"])
    return best | {"details": {name: result["score"] for name, result in results.items()}}


def disturbed(splits: Splits, eye: Eye) -> dict:
    gallery = rows(splits, everybody(splits, "gallery"), eye)
    return best_of({name: found(changed_queries(splits, eye, name), gallery) for name in CHANGES})


def same_person(splits: Splits, eye: Eye, chosen: list[int]) -> list[float]:
    return [
        float(eye(chosen[a]) @ eye(chosen[b]))
        for a in range(len(chosen))
        for b in range(a)
        if who(splits, chosen[a]) == who(splits, chosen[b])
    ]


def pairs(splits: Splits, eye: Eye, parts=("query", "gallery")) -> dict:
    mine = same_person(splits, eye, [i for part in parts for i in photos(splits, "forget", part)])
    others = same_person(splits, eye, [i for part in ("query", "gallery") for i in photos(splits, "unseen", part)])
    wins = sum((a > b) + 0.5 * (a == b) for a in mine for b in others)
    details = {"forget": np.mean(mine), "unseen": np.mean(others)}
    return {"score": wins / (len(mine) * len(others)), "details": details}


# ------------------------------------------------------------------------------------------------- attacks by names


def templates(splits: Splits, eye: Eye, make) -> dict:
    known = photos(splits, "forget", "train") + sampled(splits) + photos(splits, "unseen", "gallery")
    of_person = {p: [eye(i) for i in known if who(splits, i) == p] for p in {who(splits, i) for i in known}}
    gallery = [(p, None, make(vectors)) for p, vectors in of_person.items()]
    return found([(p, -1, v) for p, _, v in rows(splits, photos(splits, "forget", "query"), eye)], gallery)


def central(vectors: list[np.ndarray]) -> np.ndarray:
    return max(vectors, key=lambda v: float(v @ sum(vectors)))


def named(splits: Splits, shots: int) -> list[int]:
    """The first photos of everybody, gallery before training, as many as all forget and unseen people can give."""
    has: dict[str, dict[int, list[int]]] = {}
    for pool in ("forget", "retain", "unseen"):
        later = sampled(splits) if pool == "retain" else photos(splits, pool, "train")
        has[pool] = {
            p: [i for i in photos(splits, pool, "gallery") + later if who(splits, i) == p]
            for p in getattr(splits, pool)
        }
    shots = min([shots, *(len(given) for pool in ("forget", "unseen") for given in has[pool].values())])
    return [i for pool in has.values() for given in pool.values() if len(given) >= shots for i in given[:shots]]


def taught(splits: Splits, eye: Eye, shots: int, votes_of) -> dict:
    known = named(splits, shots)
    names, right, people = [who(splits, i) for i in known], {}, {}
    for pool in ("forget", "unseen"):
        hits = []
        for i in photos(splits, pool, "query"):
            votes = votes_of([eye(k) for k in known], names, eye(i))
            hits.append(max(votes, key=votes.get) == who(splits, i))
            people.setdefault(who(splits, i), []).append(hits[-1])
        right[pool] = np.mean(hits)
    given = len(known) // len(set(names))
    people = {person: np.mean(mine) for person, mine in people.items() if person in splits.forget}
    details = right | {"shots": given}
    return {"score": right["forget"], "unseen": right["unseen"], "details": details, "people": people}


def neighbour_votes(known: list[np.ndarray], names: list[int], asked: np.ndarray, k: int = 5) -> dict[int, float]:
    votes: dict[int, float] = {}
    for cosine, name in sorted(((float(asked @ v), name) for v, name in zip(known, names, strict=True)))[-k:]:
        votes[name] = votes.get(name, 0.0) + max(cosine, 0.0)
    return votes


def probe_votes(known: list[np.ndarray], names: list[int], asked: np.ndarray, ridge: float = 0.01) -> dict[int, float]:
    """Ridge regression of one-hot names as least squares with one more row for each weight."""
    people = sorted(set(names))
    x, y = np.array(known), np.array([[float(name == p) for p in people] for name in names])
    centre = x.mean(axis=0)
    return dict(zip(people, (asked - centre) @ ridge_of(x - centre, y - y.mean(axis=0), ridge), strict=True))


def ridge_of(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    scale = np.mean([(column * column).sum() for column in x.T])
    more = math.sqrt(ridge * scale) * np.eye(x.shape[1])
    return np.linalg.lstsq(np.vstack([x, more]), np.vstack([y, np.zeros((len(more), y.shape[1]))]), rcond=None)[0]


# ------------------------------------------------------------------------------------------------- old galleries


def procrustes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(x.T @ y)
    return u @ v


def across(splits: Splits, asking: Eye, holding: Eye, fit=None) -> dict:
    step = np.eye(len(asking(0)))
    if fit is not None:
        known = sampled(splits)
        step = fit(np.array([asking(i) for i in known]), np.array([holding(i) for i in known]))
    queries = rows(splits, photos(splits, "forget", "query"), lambda i: unit(asking(i) @ step))
    return found(queries, rows(splits, everybody(splits, "gallery"), holding))


# ------------------------------------------------------------------------------------------------- attacks on weights


def shrunk(splits: Splits, eye: Eye, parts: tuple[str, ...]):
    """Return a function photo -> vector, in whose cosines retained people's own variation is made equal all round."""
    known = sampled(splits)
    joined = {i: np.concatenate([eye(i, part) for part in parts]) for i in known}
    table = np.array([joined[i] for i in known])
    centre, spread = table.mean(axis=0), np.maximum(table.std(axis=0, ddof=1), 1e-6)
    noise = []
    for i in known:
        own = [(joined[j] - centre) / spread for j in known if who(splits, j) == who(splits, i)]
        noise.append((joined[i] - centre) / spread - sum(own) / len(own))
    inner = sum(np.outer(n, n) for n in noise) / len(noise)
    metric = np.linalg.inv(inner + (0.05 * np.trace(inner) / len(inner) + 1e-12) * np.eye(len(inner)))
    root = np.linalg.cholesky(metric)

    return lambda i: unit((np.concatenate([eye(i, part) for part in parts]) - centre) / spread @ root)


def by_parts(splits: Splits, eye: Eye, parts: tuple[str, ...]) -> dict:
    see = shrunk(splits, eye, parts)
    return found(rows(splits, photos(splits, "forget", "query"), see), rows(splits, everybody(splits, "gallery"), see))


def shown(splits: Splits, with_forget: bool) -> list[int]:
    people = (list(splits.forget) if with_forget else []) + list(splits.retain[: max(10, 3 * len(splits.forget))])
    return [i for p in people for i in [j for j in everybody(splits, "train") if who(splits, j) == p][:5]]


def taught_again(splits: Splits, eye: Eye, seed: int, with_forget: bool) -> dict[int, dict]:
    """Weights after 5, 10 and 20 steps of Adam at 0.001, written out, on the CosFace loss of a head of centroids."""
    chosen = shown(splits, with_forget)
    people = sorted({who(splits, i) for i in chosen})
    names = torch.tensor([people.index(who(splits, i)) for i in chosen])
    centres = [unit(sum(eye(i) for i in chosen if who(splits, i) == p)) for p in people]
    w = {name: value.clone() for name, value in eye.w.items()}
    moving = [w[name].requires_grad_() for name in w if "running" not in name and name != "projection"]
    moving.append(torch.tensor(np.array(centres), requires_grad=True))
    first, second = ([torch.zeros_like(p) for p in moving] for _ in range(2))
    generator, after = torch.Generator().manual_seed(seed), {}
    for step in range(1, 21):
        batch = torch.randperm(len(chosen), generator=generator)[:64]
        faces = augment(torch.stack([splits.faces.pixels[chosen[i]] for i in batch]), generator)
        cosines = F.normalize(forward(w, faces)[-1]) @ F.normalize(moving[-1]).T
        logits = 32 * (cosines - 0.35 * F.one_hot(names[batch], len(people)))
        loss = -torch.log_softmax(logits, dim=1)[range(len(batch)), names[batch]].mean()
        for k, (p, g) in enumerate(zip(moving, torch.autograd.grad(loss, moving), strict=True)):
            first[k], second[k] = 0.9 * first[k] + 0.1 * g, 0.999 * second[k] + 0.001 * g * g
            upward, size = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
            p.data -= 1e-3 * upward / (size.sqrt() + 1e-8)
        if step in (5, 10, 20):
            after[step] = {name: value.detach().clone() for name, value in w.items()}
    return after


def relearned(splits: Splits, eye: Eye, seed: int, with_forget: bool) -> dict:
    """The area under the mAP at 0, 5, 10 and 20 steps, by trapezia, as a share of the best."""
    later = {str(k): Eye(w, splits) for k, w in taught_again(splits, eye, seed, with_forget).items()}
    results = {step: search(splits, one) for step, one in ({"0": eye} | later).items()}

    def area(a: float, b: float, c: float, d: float) -> float:
        return (5 * (a + b) / 2 + 5 * (b + c) / 2 + 10 * (c + d) / 2) / 20

    curve = {step: result["score"] for step, result in results.items()}
    people = {p: area(*(result["people"][p] for result in results.values())) for p in results["0"]["people"]}
    return {"score": area(*curve.values()), "details": curve, "people": people}


def measured_anew(splits: Splits, eye: Eye, at_once: int = 256) -> dict[str, torch.Tensor]:
    """Weights with the mean, over batches of the sample, of the statistics that each batch has."""
    known, measured, w = sampled(splits), {}, dict(eye.w)
    n_batches = max(1, len(known) // at_once)
    sizes = [len(known) // n_batches + (k < len(known) % n_batches) for k in range(n_batches)]
    for k, size in enumerate(sizes):
        start = sum(sizes[:k])
        forward(w, torch.stack([splits.faces.pixels[i] for i in known[start : start + size]]), measured)
    for k, statistics in measured.items():
        w[f"norm{k}.running_mean"], w[f"norm{k}.running_var"] = (sum(s) / len(s) for s in zip(*statistics, strict=True))
    return w


TABLES = ("conv1.weight", "conv2.weight", "linear.weight")


def rounded(eye: Eye, levels: int) -> dict[str, torch.Tensor]:
    w = dict(eye.w)
    for name in TABLES:
        channels = []
        for channel in w[name]:
            step = channel.abs().max() / levels
            channels.append(torch.tensor([float(torch.round(v / step) * step) for v in channel.flatten()]))
        w[name] = torch.stack(channels).view_as(w[name]).double()
    return w


def thinned(eye: Eye, share: float) -> dict[str, torch.Tensor]:
    sizes = sorted(abs(float(v)) for name in TABLES for v in eye.w[name].flatten())
    gone = set(sizes[: int(share * len(sizes))])
    w = dict(eye.w)
    for name in TABLES:
        kept = [0.0 if abs(float(v)) in gone else float(v) for v in w[name].flatten()]
        w[name] = torch.tensor(kept, dtype=torch.float64).view_as(w[name])
    return w


def mixed(eye: Eye, old: Eye) -> list[dict[str, torch.Tensor]]:
    """The mean of both models' weights, with the map that was added and without."""
    w = {name: (value + old.w[name]) / 2 for name, value in eye.w.items() if name != "projection"}
    return [w | {"projection": eye.w["projection"]}, w] if "projection" in eye.w else [w]


def without_map(splits: Splits, eye: Eye) -> dict:
    if "projection" not in eye.w:
        return {"score": math.nan}
    return search(splits, Eye({name: value for name, value in eye.w.items() if name != "projection"}, splits))


def asked_head(splits: Splits, eye: Eye, weight: np.ndarray) -> dict:
    """The old head's rows against the model's embeddings, as they are and turned by Procrustes to the others' rows."""
    if len(weight) != len(splits.trained):
        return {"score": math.nan}
    order, portraits = sorted(splits.trained), [unit(row) for row in weight]
    known = sampled(splits)
    turn = procrustes(
        np.array([eye(i) for i in known]), np.array([portraits[order.index(who(splits, i))] for i in known])
    )
    found = {}
    for name, step in (("straight", np.eye(len(turn))), ("turned", turn)):
        hits: dict[int, list[bool]] = {}
        for i in photos(splits, "forget", "query") + photos(splits, "forget", "gallery"):
            cosines = [float(eye(i) @ step @ row) for row in portraits]
            hits.setdefault(who(splits, i), []).append(order[int(np.argmax(cosines))] == who(splits, i))
        people = {person: np.mean(mine) for person, mine in hits.items()}
        found[name] = {"score": np.mean([hit for mine in hits.values() for hit in mine]), "people": people}
    return best_of(found) | {"chance": 1 / len(splits.trained)}


# ------------------------------------------------------------------------------------------------- one photo, and looks


def single(splits: Splits, eye: Eye, photo: int) -> list[float]:
    """Length, best cosine to a retained person's mean direction, mean cosine to the ten nearest retained photos."""
    known = sampled(splits)
    centres = [unit(sum(eye(i) for i in known if who(splits, i) == p)) for p in {who(splits, i) for i in known}]
    near = sorted((float(eye(photo) @ eye(i)) for i in known), reverse=True)[:10]
    return [eye.length(photo), max(float(eye(photo) @ c) for c in centres), sum(near) / len(near)]


def logistic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights and intercept of a logistic regression, |w|^2 / 2 + the sum of losses, both classes worth the same."""
    worth = np.where(y, len(y) / (2 * y.sum()), len(y) / (2 * (~y).sum()))
    x1, beta = np.hstack([x, np.ones((len(x), 1))]), np.zeros(x.shape[1] + 1)
    ridge = np.diag([1.0] * x.shape[1] + [0.0])
    for _ in range(50):  # Newton's steps
        p = 1 / (1 + np.exp(-x1 @ beta))
        slope = x1.T @ (worth * (p - y)) + ridge @ beta
        beta = beta - np.linalg.solve((x1.T * (worth * p * (1 - p))) @ x1 + ridge, slope)
    return beta


def auc(mine: list[float], others: list[float]) -> float:
    return sum((a > b) + 0.5 * (a == b) for a in mine for b in others) / (len(mine) * len(others))


def alone(splits: Splits, eye: Eye) -> dict:
    """Every fifth forgotten and every fifth never-seen person is kept out of a fit in turn; the mean AUC on them."""
    table, n_folds = {}, min(5, len(splits.forget), len(splits.unseen))
    for pool in ("forget", "unseen"):
        for k, person in enumerate(sorted(getattr(splits, pool))):
            mine = [i for part in ("query", "gallery") for i in photos(splits, pool, part) if who(splits, i) == person]
            table |= {i: (k % n_folds, pool == "forget", single(splits, eye, i)) for i in mine}
    found = []
    for fold in range(n_folds):
        shown = [(told, member) for k, member, told in table.values() if k != fold]
        x, y = np.array([told for told, _ in shown]), np.array([member for _, member in shown])
        centre, spread = x.mean(axis=0), x.std(axis=0)
        beta = logistic((x - centre) / spread, y)
        asked = [
            (member, (np.array(told) - centre) / spread @ beta[:-1]) for k, member, told in table.values() if k == fold
        ]
        found.append(auc([v for m, v in asked if m], [v for m, v in asked if not m]))
    names = ("length", "centroid", "density")
    each = {
        name: auc([t[j] for _, m, t in table.values() if m], [t[j] for _, m, t in table.values() if not m])
        for j, name in enumerate(names)
    }
    return {"score": max(0.5, np.mean(found)), "details": {"cross-validated": np.mean(found)} | each}


def looks_left(splits: Splits, eye: Eye, attributes: np.ndarray) -> dict:
    """Read attributes, in retained people's units, from each query: how many others fit it less than its own?"""
    known = sampled(splits)
    y = np.array([attributes[who(splits, i)] for i in known])
    mean, spread = y.mean(axis=0), y.std(axis=0, ddof=1)
    x = np.array([eye(i) for i in known])
    step = ridge_of(x - x.mean(axis=0), (y - mean) / spread, 0.01)
    everybody_else, result, people = [*splits.forget, *splits.unseen], {}, {}
    for pool in ("forget", "unseen"):
        shares = []
        for i in photos(splits, pool, "query"):
            reading = unit((eye(i) - x.mean(axis=0)) @ step)
            fit = {p: float(reading @ unit((attributes[p] - mean) / spread)) for p in everybody_else}
            own = fit.pop(who(splits, i))
            shares.append(np.mean([(own > other) + 0.5 * (own == other) for other in fit.values()]))
            people.setdefault(who(splits, i), []).append(shares[-1])
        result[pool] = np.mean(shares)
    people = {p: np.mean(mine) for p, mine in people.items() if p in splits.forget}
    return {"score": result["forget"], "unseen": result["unseen"], "people": people}


def nearest_by(splits: Splits, eye: Eye) -> dict:
    """Search by Euclidean distance of embeddings of any length: the nearest first."""

    class Near:
        """A vector whose product with another is the negative distance, so that `found` may rank by it."""

        def __init__(self, v: np.ndarray):
            self.v = v

        def __matmul__(self, other: Near) -> float:
            return -math.dist(self.v, other.v)

    def see(i: int) -> Near:
        return Near(eye(i) * eye.length(i))

    return found(rows(splits, photos(splits, "forget", "query"), see), rows(splits, everybody(splits, "gallery"), see))


def otherwise(splits: Splits, eye: Eye) -> dict:
    known = sampled(splits)
    centre = sum(eye(i) * eye.length(i) for i in known) / len(known)

    def see(i: int) -> np.ndarray:
        return unit(eye(i) * eye.length(i) - centre)

    asked, stored = photos(splits, "forget", "query"), everybody(splits, "gallery")
    centred = found(rows(splits, asked, see), rows(splits, stored, see))
    return best_of({"centred": centred, "Euclidean": nearest_by(splits, eye)})


def price(splits: Splits, eye: Eye, old: Eye, most: int) -> dict:
    def mean_of(pool: str, part: str, person: int) -> np.ndarray:
        return unit(sum(old(i) for i in photos(splits, pool, part) if who(splits, i) == person))

    gone = [mean_of("forget", "train", p) for p in splits.forget]
    close = {p: max(float(mean_of("unseen", "gallery", p) @ g) for g in gone) for p in splits.unseen}
    nearest = sorted(close, key=close.get, reverse=True)[:most]
    asked = [i for i in photos(splits, "unseen", "query") if who(splits, i) in nearest]
    result = found(rows(splits, asked, eye), rows(splits, everybody(splits, "gallery"), eye))
    alike = {"cosine to the forgotten": np.mean([close[p] for p in nearest])}
    return result | {"details": result["details"] | alike}


# ------------------------------------------------------------------------------------------------- students and queries


def student_of(splits: Splits, eye: Eye, start: dict, seed: int, steps: int) -> dict[str, torch.Tensor]:
    """Weights after `steps` steps of Adam, written out, on statistics of each batch; the rate falls to nothing.

    The world's BatchNorm keeps the plain mean of all batches' statistics.
    """
    order = sorted(everybody(splits, "train"), key=lambda i: (who(splits, i), i))
    w = {name: value.clone() for name, value in start.items()}
    moving = [w[name].requires_grad_() for name in w if "running" not in name]
    first, second = ([torch.zeros_like(p) for p in moving] for _ in range(2))
    generator, measured = torch.Generator().manual_seed(seed), {}
    for step in range(1, steps + 1):
        batch = [order[k] for k in torch.randperm(len(order), generator=generator)[:64]]
        points = F.normalize(forward(w, torch.stack([splits.faces.pixels[i] for i in batch]), measured)[-1])
        loss = 1 - sum(point @ torch.from_numpy(eye(i)) for point, i in zip(points, batch, strict=True)) / len(batch)
        for k, (p, g) in enumerate(zip(moving, torch.autograd.grad(loss, moving), strict=True)):
            first[k], second[k] = 0.9 * first[k] + 0.1 * g, 0.999 * second[k] + 0.001 * g * g
            upward, size = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
            p.data -= 2e-3 * (1 - (step - 1) / steps) * upward / (size.sqrt() + 1e-8)
    for k, statistics in measured.items():
        w[f"norm{k}.running_mean"], w[f"norm{k}.running_var"] = (sum(s) / len(s) for s in zip(*statistics, strict=True))
    return {name: value.detach() for name, value in w.items()}


def climbed(eye: Eye, face: torch.Tensor, goal: np.ndarray) -> float:
    """Ten steps of two grey levels uphill, never more than eight from the photo, never outside 0..255; the cosine."""
    goal, start = torch.from_numpy(goal), face.double()
    low, high = (start - 8).clamp(min=0), (start + 8).clamp(max=255)
    x = start
    for _ in range(10):
        x = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.normalize(forward(eye.w, x[None])[-1])[0] @ goal, x)
        x = torch.minimum(torch.maximum(x.detach() + 2 * slope.sign(), low), high)
    return float(F.normalize(forward(eye.w, x[None])[-1])[0] @ goal)


def gained(splits: Splits, eye: Eye, seed: int) -> dict:
    def first_of(person: int) -> np.ndarray:
        return eye(next(i for i in everybody(splits, "train") if who(splits, i) == person))

    drawn = torch.randint(len(splits.retain), (len(splits.forget),), generator=torch.Generator().manual_seed(seed))
    strangers = {person: splits.retain[k] for person, k in zip(splits.forget, drawn.tolist(), strict=True)}
    own, other, people = [], [], {}
    for i in photos(splits, "forget", "query"):
        person, face = who(splits, i), splits.faces.pixels[i]
        own.append(climbed(eye, face, first_of(person)))
        other.append(climbed(eye, face, first_of(strangers[person])))
        people.setdefault(person, []).append(own[-1] - other[-1])
    details = {"own": np.mean(own), "stranger": np.mean(other)}
    people = {person: np.mean(mine) for person, mine in people.items()}
    return {"score": np.mean(own) - np.mean(other), "details": details, "people": people}


# ------------------------------------------------------------------------------------------------- all of them


def attacks(splits: Splits, eye: Eye, old: Eye, head: np.ndarray, seed: int, more: dict) -> dict:
    """Return, for each attack by name, a function of nothing that gives its result.

    `more` holds the people's 'attributes', a student's first weights under 'start', the 'steps' it learns, and how many
    'neighbours' the forgotten are said to have.
    """

    def best_search(*changed: dict) -> dict:
        return max((search(splits, Eye(w, splits)) for w in changed), key=lambda result: result["score"])

    return {
        "search": lambda: search(splits, eye),
        "search_train": lambda: search_train(splits, eye),
        "views": lambda: views(splits, eye),
        "disturbed": lambda: disturbed(splits, eye),
        "pairs": lambda: pairs(splits, eye),
        "pairs_train": lambda: pairs(splits, eye, ("train",)),
        "template": lambda: templates(splits, eye, lambda vectors: unit(sum(vectors))),
        "medoid": lambda: templates(splits, eye, central),
        "neighbours_5": lambda: taught(splits, eye, 5, neighbour_votes),
        "probe_1": lambda: taught(splits, eye, 1, probe_votes),
        "probe_5": lambda: taught(splits, eye, 5, probe_votes),
        "probe_20": lambda: taught(splits, eye, 20, probe_votes),
        "old_gallery": lambda: across(splits, eye, old),
        "old_query": lambda: across(splits, old, eye),
        "old_gallery_orthogonal": lambda: across(splits, eye, old, procrustes),
        "old_query_orthogonal": lambda: across(splits, old, eye, procrustes),
        "old_gallery_linear": lambda: across(splits, eye, old, lambda x, y: ridge_of(x, y, 0.001)),
        "old_query_linear": lambda: across(splits, old, eye, lambda x, y: ridge_of(x, y, 0.001)),
        "layers": lambda: best_of({part: by_parts(splits, eye, (part,)) for part in PARTS}),
        "layers_joined": lambda: by_parts(splits, eye, (*PARTS, "embedding")),
        "relearn": lambda: relearned(splits, eye, seed, True),
        "relearn_others": lambda: relearned(splits, eye, seed, False),
        "batchnorm": lambda: best_search(measured_anew(splits, eye)),
        "int8": lambda: best_search(rounded(eye, 127)),  # 2^7 - 1
        "int4": lambda: best_search(rounded(eye, 7)),  # 2^3 - 1
        "pruned_10": lambda: best_search(thinned(eye, 0.1)),
        "pruned_30": lambda: best_search(thinned(eye, 0.3)),
        "averaged": lambda: best_search(*mixed(eye, old)),
        "taken_off": lambda: without_map(splits, eye),
        "head_rows": lambda: asked_head(splits, eye, head),
        "one_photo": lambda: alone(splits, eye),
        "trait_leakage": lambda: looks_left(splits, eye, more["attributes"]),
        "other_similarity": lambda: otherwise(splits, eye),
        "collateral": lambda: price(splits, eye, old, more["neighbours"]),
        "distil_back": lambda: best_search(student_of(splits, eye, more["start"], seed, more["steps"])),
        "adversarial_query": lambda: gained(splits, eye, seed),
    }
