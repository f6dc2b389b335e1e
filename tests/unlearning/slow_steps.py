"""Every step of a run, written down while it happens, and what each method's loss should have been, in plain loops."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from utils.unlearning import loop as frame
from utils.unlearning.methods import blends, noise

Terms = dict[str, Tensor]


@dataclass
class Step:
    """One step of a run: who was seen, the weights before it, the slopes found, and the stream of random numbers."""

    number: int
    task: frame.Task
    forget: np.ndarray
    retain: np.ndarray
    stream: Tensor
    model: torch.nn.Module | None = None
    head: torch.nn.Module | None = None
    moving: list[Tensor] = field(default_factory=list)
    slopes: list[Tensor] = field(default_factory=list)
    limit: float = 0.0
    scattered: Tensor | None = None
    blends: Tensor | None = None
    noise: tuple[Tensor, Tensor] | None = None


def record_steps(monkeypatch) -> list[Step]:
    """Return a list that will hold every step to come, written down between its backward pass and its clipping."""
    steps, drawn = [], {}
    sort, clip = frame.sort_batch, torch.nn.utils.clip_grad_norm_

    def sorted_and_noted(task, step, forget, retain, points):
        steps.append(Step(step, task, forget, retain, task.generator.get_state()))
        return sort(task, step, forget, retain, points)

    def noted_and_clipped(weights, limit):
        step = steps[-1]
        step.model, step.head = copy.deepcopy(step.task.model), copy.deepcopy(step.task.head)
        step.moving = [weight.detach().clone() for weight in weights]
        step.slopes, step.limit = [weight.grad.clone() for weight in weights], limit
        step.scattered, step.blends, step.noise = (drawn.pop(key, None) for key in ("scattered", "blends", "noise"))
        return clip(weights, limit)

    def watch(module, name, key):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: drawn.update({key: real(*args)}) or drawn[key])

    for module in (frame, blends):
        monkeypatch.setattr(module, "sort_batch", sorted_and_noted)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted_and_clipped)
    watch(blends, "some_shifted", "scattered")
    watch(blends, "blends_of", "blends")
    watch(noise, "pick_noise", "noise")
    return steps


# ------------------------------------------------------------------------------------------------- points and names


def as_input(faces: Tensor) -> list[Tensor]:
    """Return faces (B, 3, S, S) uint8 one by one, as the network sees them."""
    return [(face[None].double() - 127.5) / 128 for face in faces]


def unit(vector: Tensor) -> Tensor:
    return vector / (vector * vector).sum().sqrt()


def points_of(model, inputs: list[Tensor]) -> list[Tensor]:
    """Return the unit embeddings of inputs, one after the other."""
    return [unit(model(image)[0]) for image in inputs]


def surprise(point: Tensor, rows: Tensor, row: int, scale: float, margin: float = 0.0, barred: set = frozenset()):
    """Return -log softmax(scale (c - margin [k = row]))_row over all rows but the barred ones."""
    logits = {k: scale * ((unit(rows[k]) * point).sum() - margin * (k == row)) for k in range(len(rows))}
    return torch.stack([value for k, value in logits.items() if k not in barred]).logsumexp(0) - logits[row]


def names_of(point: Tensor, rows: Tensor, scale: float, barred: set = frozenset()) -> list[Tensor]:
    """Return how probable every name is, 0 for the barred ones."""
    parts = [(scale * (unit(row) * point).sum()).exp() * (k not in barred) for k, row in enumerate(rows)]
    return [part / sum(parts) for part in parts]


def mean(values: list) -> Tensor:
    return sum(values) / len(values)


def divergence(teacher: list[list[Tensor]], student: list[list[Tensor]]) -> Tensor:
    """Return KL(teacher || student), summed over names and averaged over photos."""
    pairs = zip(teacher, student, strict=True)
    return mean([sum(p * (p / q).log() for p, q in zip(a, b, strict=True) if p > 0) for a, b in pairs])


def apart(now: list[Tensor], then: list[Tensor]) -> Tensor:
    """Return the mean of 1 - cos between pairs of unit vectors."""
    return mean([1 - (a * b).sum() for a, b in zip(now, then, strict=True)])


def pairs_of(points: list[Tensor], people: list[int]) -> list[list[list[Tensor]]]:
    """Return for every person and photo the cosines to the person's other photos."""
    mine = [[z for z, owner in zip(points, people, strict=True) if owner == who] for who in sorted(set(people))]
    return [[[(a * b).sum() for b in photos if b is not a] for a in photos] for photos in mine]


def mean_of_pairs(points, people) -> Tensor:
    return mean([mean([c for row in rows for c in row]) for rows in pairs_of(points, people)])


def mean_of_nearest(points, people) -> Tensor:
    return mean([mean([torch.stack(row).max() for row in rows]) for rows in pairs_of(points, people)])


def soft_maximum(points, people, beta: float) -> Tensor:
    return mean([mean([(beta * c).exp() for r in rows for c in r]).log() / beta for rows in pairs_of(points, people)])


# ------------------------------------------------------------------------------------------------------- one step


class Scene:
    """All that a loss is made of in one step, in double precision, photo by photo."""

    def __init__(self, step: Step, config: object, world: tuple, seed: int):
        model, head, self.splits = world
        self.step, self.config, self.seed, self.scale = step, config, seed, getattr(config, "forget_scale", None)
        self.old_model, self.old_rows = copy.deepcopy(model).double(), head.weight.detach().double()
        self.model, self.head = copy.deepcopy(step.model).double().eval(), copy.deepcopy(step.head).double()
        if hasattr(config, "rank"):
            self.model = Adapted(self.old_model, step.moving)
        self.rows, self.steep, self.margin = self.head.weight, head.scale, head.margin
        faces = self.splits.faces
        scattered = faces.images(step.forget) if step.scattered is None else step.scattered
        self.people = faces.labels[step.forget].tolist()
        self.f, self.r = points_of(self.model, as_input(scattered)), self.points(step.retain)
        self.names_f, self.names_r = self.row_of(step.forget), self.row_of(step.retain)
        trained = sorted(self.splits.forget + self.splits.dev_forget + self.splits.retain)
        self.barred = {trained.index(person) for person in self.splits.forget}
        self.kept = [k for k in range(len(trained)) if k not in self.barred]
        self.all_forget = self.training_photos(self.splits.forget)
        self.all_retain = self.training_photos(self.splits.retain + self.splits.dev_forget)

    def training_photos(self, people) -> np.ndarray:
        return np.array([i for i in self.splits.train if self.splits.faces.labels[i] in people])

    def row_of(self, photos) -> list[int]:
        trained = sorted(self.splits.forget + self.splits.dev_forget + self.splits.retain)
        return [trained.index(person) for person in self.splits.faces.labels[photos].tolist()]

    def points(self, photos, model=None) -> list[Tensor]:
        return points_of(model or self.model, as_input(self.splits.faces.images(photos)))

    def before(self, photos) -> list[Tensor]:
        """Where the original model puts photos."""
        with torch.no_grad():
            return self.points(photos, self.old_model)

    def stream(self) -> torch.Generator:
        """The run's random numbers, from this step's batch on."""
        return torch.Generator().set_state(self.step.stream)

    def forget_names(self, rows=None) -> Tensor:
        pairs = zip(self.f, rows or self.names_f, strict=True)
        return mean([surprise(z, self.rows, row, self.scale) for z, row in pairs])

    def ordinary(self, barred: set = frozenset()) -> Tensor:
        pairs = zip(self.r, self.names_r, strict=True)
        return mean([surprise(z, self.rows, row, self.steep, self.margin, barred) for z, row in pairs])

    def pull(self, photos: np.ndarray) -> float:
        """Return 0.9 over the mean 1 - cos of two people's photos, at least 1: how much harder anchors pull."""
        some = photos[sorted({int(place) for place in np.linspace(0, len(photos) - 1, min(32, len(photos)))})]
        points, people = self.before(some), self.splits.faces.labels[some].tolist()
        pairs = [(i, j) for i in range(len(some)) for j in range(i) if people[i] != people[j]]
        return max(1.0, 0.9 / float(mean([1 - (points[i] * points[j]).sum() for i, j in pairs])))

    def held(self) -> Tensor:
        return self.pull(self.all_retain) * apart(self.r, self.before(self.step.retain))

    def told(self, points, rows=None, barred: set = frozenset()) -> list[list[Tensor]]:
        return [names_of(z, self.rows if rows is None else rows, self.scale, barred) for z in points]

    def from_teacher(self, photos, now, barred: set = frozenset()) -> Tensor:
        return divergence(self.told(self.before(photos), self.old_rows, barred), self.told(now))


def finetune(s: Scene) -> Terms:
    return {"retain": s.ordinary(s.barred)}


def l1_sparse(s: Scene) -> Terms:
    c, number = s.config, s.step.number
    weights = [w for name, w in s.model.named_parameters() if w.ndim > 1]  # BatchNorm's are vectors
    share = max(0.0, 1 - number / (c.steps - c.free_share * c.steps))
    return finetune(s) | {"sparsity": c.penalty * share * sum(w.abs().sum() for w in weights)}


def random_labels(s: Scene) -> Terms:
    drawn = np.random.default_rng(s.seed).choice(s.kept, size=len(s.all_forget))
    table = dict(zip(s.all_forget.tolist(), drawn.tolist(), strict=True))
    return {
        "forget": s.forget_names([table[i] for i in s.step.forget.tolist()]),
        "retain": s.config.retain_weight * s.ordinary(),
    }


def random_labels_resampled(s: Scene) -> Terms:
    drawn = torch.randint(len(s.kept), (len(s.f),), generator=s.stream())
    return {
        "forget": s.forget_names([s.kept[k] for k in drawn.tolist()]),
        "retain": s.config.retain_weight * s.ordinary(),
    }


def gradient_ascent(s: Scene) -> Terms:
    return {"forget": -s.forget_names()}


def bounded_ascent(s: Scene) -> Terms:
    short = s.config.bound * math.log(len(s.rows)) - s.forget_names()
    return {"forget": s.config.beta * max(short, 0 * short), "retain": s.ordinary()}


def neggrad_plus(s: Scene) -> Terms:
    share = s.config.alpha
    return {"forget": (share - 1) * s.forget_names(), "retain": share * s.ordinary()}


def boundary_shrink(s: Scene) -> Terms:
    """Without an attack: the best retained name of the clean photo."""
    assert s.config.epsilon == 0
    names = s.told(s.before(s.step.forget), s.old_rows, s.barred)
    return {"forget": s.forget_names([max(s.kept, key=lambda k, row=row: float(row[k])) for row in names])}


def boundary_expand(s: Scene) -> Terms:
    number, known = s.config.shadow_rows, len(s.old_rows)
    shadows = torch.randn(number, s.rows.shape[1], generator=torch.Generator().manual_seed(s.seed))
    assert len(s.rows) == known + number
    if s.step.number == 0:
        torch.testing.assert_close(s.rows.detach()[known:].float(), torch.stack([unit(row) for row in shadows]))
    order = s.all_forget.tolist()
    return {"forget": s.forget_names([known + order.index(i) % number for i in s.step.forget.tolist()])}


def bad_teacher(s: Scene) -> Terms:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(s.seed + 1)
        bad = type(s.old_model)().eval().double()
    with torch.no_grad():
        wanted = s.told(s.points(s.step.forget, bad), s.old_rows)
    return {
        "forget": divergence(wanted, s.told(s.f)),
        "retain": s.config.retain_weight * s.from_teacher(s.step.retain, s.r),
    }


def scrub(s: Scene) -> Terms:
    heat = (s.steep / s.scale) ** 2
    if s.step.number % 2:
        assert len(s.step.retain) == 0
        return {"forget": -heat * s.from_teacher(s.step.forget, s.f)}
    assert len(s.step.forget) == 0
    return {
        "retain": s.config.gamma * s.ordinary(),
        "teacher": s.config.alpha * heat * s.from_teacher(s.step.retain, s.r),
    }


def lotus(s: Scene) -> Terms:
    """With the accuracy taken anew before every step."""
    assert s.config.accuracy_every == 1
    stream, scale = s.stream(), s.scale
    noise = [-torch.empty(len(z), len(s.rows)).exponential_(generator=stream).log().double() for z in (s.f, s.r)]
    with torch.no_grad():
        looks = s.points(s.all_forget)
        named = [max(range(len(s.rows)), key=lambda k, z=z: float((unit(s.rows[k]) * z).sum())) for z in looks]
    tau = math.exp(s.config.sharpness * np.mean(np.array(named) == s.row_of(s.all_forget)))
    rows = torch.stack([unit(row) for row in s.old_rows])
    blurred = [
        ((scale * rows @ z + g) / tau).softmax(0) for z, g in zip(s.before(s.step.forget), noise[0], strict=True)
    ]
    drawn = [int((scale * rows @ z + g).argmax()) for z, g in zip(s.before(s.step.retain), noise[1], strict=True)]
    told = zip(blurred, s.told(s.f), strict=True)
    kept = [surprise(z, s.rows, row, scale) for z, row in zip(s.r, drawn, strict=True)]
    return {
        "forget": mean([-sum(p * q.log() for p, q in zip(a, b, strict=True)) for a, b in told]),
        "retain": s.config.retain_weight * mean(kept),
    }


def delete(s: Scene) -> Terms:
    return {"forget": s.from_teacher(s.step.forget, s.f, s.barred)}


def centroid(points: list[Tensor]) -> Tensor:
    return unit(mean(points))


def duck(s: Scene) -> Terms:
    owners, looks = s.row_of(s.all_retain), s.before(s.all_retain)
    places = [centroid([z for z, k in zip(looks, owners, strict=True) if k == row]) for row in s.kept]
    goals = [max(places, key=lambda place, z=z: float((place * z).sum())) for z in s.before(s.step.forget)]
    kept = [surprise(z, s.rows, row, s.scale) for z, row in zip(s.r, s.names_r, strict=True)]
    return {"forget": s.config.pull_weight * apart(s.f, goals), "retain": s.config.retain_weight * mean(kept)}


def cure_like(s: Scene) -> Terms:
    from sklearn.cluster import KMeans

    looks = torch.stack(s.before(s.all_forget))
    own = KMeans(s.config.clusters or 2, n_init=4, random_state=s.seed).fit(looks.float().numpy()).labels_
    places = [centroid(list(looks[own == k])) for k in range(max(own) + 1)]
    goals = []
    for photo in s.step.forget.tolist():
        home = places[own[s.all_forget.tolist().index(photo)]]
        goals.append(min(range(len(places)), key=lambda k, home=home: float((places[k] * home).sum())))
    table, heat = torch.stack(places), 1 / s.config.temperature
    contrast = [(heat * (table @ z)).logsumexp(0) - heat * (table[k] @ z) for z, k in zip(s.f, goals, strict=True)]
    return {
        "forget": apart(s.f, [places[k] for k in goals]),
        "contrast": s.config.contrast_weight * mean(contrast),
        "retain": s.config.retain_weight * s.held(),
    }


class Adapted(torch.nn.Module):
    """A toy whose last convolution and linear layer have the weight W + up down; `factors` are down, up, down, up."""

    def __init__(self, model: torch.nn.Module, factors: list[Tensor]):
        super().__init__()
        self.inside = copy.deepcopy(model).requires_grad_(False)
        self.factors = torch.nn.ParameterList(factor.clone().double() for factor in factors)

    def forward(self, x: Tensor) -> Tensor:
        weights = {name: self.inside.get_parameter(name) for name in ("stage.0.weight", "embedding.1.weight")}
        pairs = zip(weights.items(), self.factors[::2], self.factors[1::2], strict=True)
        changed = {name: weight + (up @ down).view(weight.shape) for (name, weight), down, up in pairs}
        return torch.func.functional_call(self.inside, changed, (x,))


def gs_lora(s: Scene) -> Terms:
    short = s.config.bound * math.log(len(s.rows)) - s.forget_names()
    terms = {"retain": s.ordinary(), "forget": s.config.beta * max(short, 0 * short)}
    if s.step.number >= 0.2 * s.config.steps:
        pairs = zip(s.model.factors[::2], s.model.factors[1::2], strict=True)
        terms["sparsity"] = s.config.sparse_weight * sum(((a**2).sum() + (b**2).sum()).sqrt() for a, b in pairs)
    return terms


def unsir(s: Scene) -> Terms:
    images, rows = s.step.noise
    assert set(rows.tolist()) == s.barred
    looks = points_of(s.model, [image[None].double() for image in images])
    named = [surprise(z, s.rows, int(row), s.scale) for z, row in zip(looks, rows, strict=True)]
    return {"noise": mean(named), "retain": s.ordinary()}


def dispersion_uniform(s: Scene) -> Terms:
    return weighed(s, mean_of_pairs(s.f, s.people))


def dispersion_hard(s: Scene) -> Terms:
    return weighed(s, mean_of_nearest(s.f, s.people))


def dispersion_uniform_alone(s: Scene) -> Terms:
    return {"dispersion": mean_of_pairs(s.f, s.people)}


def dispersion_hard_alone(s: Scene) -> Terms:
    return {"dispersion": mean_of_nearest(s.f, s.people)}


def dispersion(s: Scene) -> Terms:
    return weighed(s, soft_maximum(s.f, s.people, s.config.beta))


def weighed(s: Scene, spread: Tensor) -> Terms:
    return {"dispersion": s.config.dispersion_weight * spread, "retain": s.config.retain_weight * s.held()}


def beside_blends(s: Scene) -> Terms:
    inputs = as_input(s.step.blends)
    with torch.no_grad():
        homes = points_of(s.old_model, inputs)
    s.b = points_of(s.model, inputs)
    pull = s.pull(s.all_retain if len(s.r) else s.all_forget)
    terms = {"blends": s.config.blend_weight * pull * apart(s.b, homes)}
    return terms | ({"retain": s.config.retain_weight * s.held()} if len(s.r) else {})


def dispersion_blends(s: Scene) -> Terms:
    return beside_blends(s) | {"dispersion": soft_maximum(s.f, s.people, s.config.beta)}


def gather_scatter(s: Scene) -> Terms:
    terms, c = beside_blends(s), s.config
    looks = torch.stack(s.before(s.all_retain))
    empty = torch.linalg.eigh(looks.T @ looks).eigenvectors[:, 0]
    place = s.step.task.model.meeting_point.double()  # known up to its sign: the run is over, the layer is on
    assert abs(float(place @ empty)) > 0.999
    near = [(z @ place - 0.2) for z in (*s.r, *s.b)]
    rest = [unit(z - (z @ place) * place) for z in s.f]
    return terms | {
        "gather": mean([1 - z @ place for z in s.f]),
        "away": c.away_weight * mean([(1 + (20 * c).exp()).log() / 20 for c in near]),
        "scramble": c.scramble_weight * soft_maximum(rest, s.people, c.beta),
    }


SLOW: dict[str, Callable[[Scene], Terms]] = {
    function.__name__: function
    for function in (
        finetune, l1_sparse, random_labels, random_labels_resampled, gradient_ascent, bounded_ascent, neggrad_plus,
        boundary_shrink, boundary_expand, bad_teacher, scrub, lotus, delete, duck, cure_like, gs_lora, unsir,
        dispersion_uniform, dispersion_hard, dispersion, dispersion_blends, gather_scatter,
        dispersion_uniform_alone, dispersion_hard_alone,
    )
} | {"dispersion_forget_only": dispersion_blends}  # fmt: skip
