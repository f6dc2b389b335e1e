"""Is the face really forgotten? Attacks that try to bring forgotten people back: `python -m utils.audit --help`.

Every attack is a function of an `AuditCase` and returns at least a `score` between 0 and 1; what it assumes of the
attacker, and with whom it is fair to compare, stands beside it in `ATTACKS`. Definitions:

* **score**: mAP of the forget people's held-out queries, unless the attack's `metric` says otherwise;
* **target**: what the score would be if they were forgotten as stated (`TARGETS`);
* **original**: the score of the same attack on the model before unlearning;
* **recovered**: (score - target) / (original - target), cut to 0..1. It is 0 at or below the target, and unknown
  where the original itself stands less than `NO_GAP` above it. Where the target is 0.5 it is 2 |score - 0.5|.

Chance is the mAP expected of a random order. A model that gives every photo the same embedding scores a little less:
tied photos count as one group, whose average precision is the share of right ones in the gallery. It recovers 0.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import orthogonal_procrustes
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from .backbones import FaceBackbone, bare
from .benchmark import (
    REFERENCES,
    Plan,
    about_run,
    check_plan,
    environment,
    file_of,
    method_options,
    open_splits,
    original_recogniser,
    parse_methods,
    references,
    run_identity,
)
from .cosines import SAME_POINT, cosine_matrix, unit_rows
from .heads import CosineHead, head_from_centroids
from .results import ResultStore, percent, table_with_people
from .retrieval import chance_level, held_out_photos, retrieval_scores
from .runner import refuse, run_missing
from .settings import BUILD_DIR, CourseError, command, one_of, progress_bar, resolve_device
from .splits import Splits
from .training import augment, embed, move
from .unlearning import METHODS, unlearn

NO_GAP = 0.05  # an original closer to its target than this leaves nothing to recover
SAMPLE_PEOPLE, SAMPLE_PHOTOS = 150, 10  # retained people, and training photos of each, that maps and probes may use
PHOTOS_AT_ONCE = 256
TARGETS = {
    "chance": "a random order of the same gallery",
    "unseen": "people whom the same model never saw, attacked in the same way",
    "retrained": "the model retrained without them, attacked in the same way",
    "half": "0.5: their pairs look like anybody's; far above they stand out as known, far below as over-forgotten",
}
ATTACKERS = {
    "photos": "may send photos to the model and search with what comes back",
    "names": "also holds a few named photos of the forgotten people",
    "old gallery": "also kept the embeddings that the old model had stored",
    "weights": "holds the model itself",
}


# ------------------------------------------------------------------------------------------------- who is on trial


@dataclass(frozen=True, eq=False)
class Subject:
    """One model, its head if that is shipped, and what they make of the photos an audit looks at. Notebook 10."""

    model: FaceBackbone
    head: CosineHead | None
    splits: Splits
    device: torch.device | str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", bare(self.model))
        object.__setattr__(self, "head", self.head and bare(self.head, CosineHead))

    @cached_property
    def photos(self) -> np.ndarray:
        """All held-out photos, the forget people's training photos, and a sample of the retained people's."""
        return np.unique(
            np.concatenate([held_out_photos(self.splits), self.splits.photos("forget", "train"), sample(self.splits)])
        )

    @cached_property
    def seen(self) -> dict[str, Tensor]:
        """The pooled features (N, c) of every part but the last, and the unit embeddings as 'embedding'."""
        return look(self.model.to(resolve_device(self.device)), self.splits.faces, self.photos)

    def rows(self, photos: np.ndarray, part: str = "embedding") -> Tensor:
        """Return the features (n, c) float32 of photos by index, of a part by name."""
        return self.seen[part][torch.from_numpy(np.searchsorted(self.photos, photos))]


@dataclass(frozen=True, eq=False)
class AuditCase:
    """A model under audit, with the original and (if there is one) the retrained model to compare with. Notebook 10.

    `memory` keeps what the attacks did to these two; it is shared by the cases that `on` makes.
    """

    subject: Subject
    original: Subject
    retrained: Subject | None
    splits: Splits
    seed: int = 0
    memory: dict = field(default_factory=dict)

    def on(self, subject: Subject) -> AuditCase:
        """Return the same case with another model under audit."""
        return replace(self, subject=subject)

    def labels(self, photos: np.ndarray) -> np.ndarray:
        """Return the identity labels of photos by index."""
        return np.asarray(self.splits.faces.labels)[photos]

    @property
    def queries(self) -> np.ndarray:
        """The forget people's held-out query photos."""
        return self.splits.photos("forget", "query")

    def copy_of_model(self) -> FaceBackbone:
        """Return a copy of the model under audit, for attacks that change weights."""
        return copy.deepcopy(self.subject.model).eval()


def sample(splits: Splits) -> np.ndarray:
    """Return up to ten training photos of each of up to 150 retained people, always the same, int64."""
    photos = splits.photos("retain", "train")
    labels = np.asarray(splits.faces.labels)[photos]
    chosen = [photos[labels == person][:SAMPLE_PHOTOS] for person in splits.retain[:SAMPLE_PEOPLE]]
    return np.concatenate([*chosen, np.empty(0, np.int64)]).astype(np.int64)


@torch.no_grad()
def look(model: FaceBackbone, faces, photos: np.ndarray) -> dict[str, Tensor]:
    """Return what every part of a model makes of photos: features pooled over the image, and unit embeddings.

    The last part is left out, as the embedding stands for it: a wrapper may change what comes after.
    """
    heard: dict[str, list[Tensor]] = {name: [] for name in list(model.parts())[:-1]}

    def listen(name: str) -> Callable:
        return lambda module, inputs, output: heard[name].append(output.float().flatten(2).mean(dim=2).cpu())

    hooks = [model.parts()[name][-1].register_forward_hook(listen(name)) for name in heard]
    try:
        points = embed(model, faces, photos, batch_size=PHOTOS_AT_ONCE)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in heard.items()} | {"embedding": points}


# ------------------------------------------------------------------------------------------------- the attacks' list


@dataclass(frozen=True)
class Attack:
    """An entry of the list: the function, what it asks, what the attacker must have, and the fair comparison."""

    name: str
    run: Callable[[AuditCase], dict]
    title: str
    attacker: str
    question: str
    target: str
    metric: str = "mAP"


ATTACKS: dict[str, Attack] = {}


def attack(name: str, **about: str) -> Callable:
    """Register an attack under a name; used as a decorator on `run(case) -> {'score': ...}`.

    A result may also hold 'chance', 'unseen' (the same score of never-seen people), 'details' and a 'note'.
    """

    def register(run: Callable[[AuditCase], dict]) -> Callable[[AuditCase], dict]:
        one_of(about["attacker"], ATTACKERS, "attacker")
        one_of(about["target"], TARGETS, "target")
        ATTACKS[name] = Attack(name, run, **about)
        return run

    return register


def cannot(why: str) -> dict:
    """Return the result of an attack that does not apply, and why."""
    return {"score": math.nan, "note": why}


def searched(case: AuditCase, rows: Tensor, photos: np.ndarray, gallery_rows: Tensor, gallery: np.ndarray) -> dict:
    """Search a gallery with unit rows: mAP, R@1 and the chance level; a photo never finds itself."""
    labels, names = case.labels(photos), case.labels(gallery)
    found = retrieval_scores(rows, labels, gallery_rows, names, query_ids=photos, gallery_ids=gallery)
    chance = chance_level(labels, names, photos, gallery)["map"]
    return {"score": found.map, "chance": chance, "details": {"r1": found.r1}}


def plain_search(case: AuditCase, model: FaceBackbone | None = None) -> dict:
    """Search held-out forget queries in the gallery of all pools, with the case's model or a changed copy of it."""
    queries, gallery = case.queries, case.splits.gallery
    if model is None:
        return searched(case, case.subject.rows(queries), queries, case.subject.rows(gallery), gallery)
    model.to(resolve_device(case.subject.device))
    points = embed(model, case.splits.faces, np.concatenate([queries, gallery]), batch_size=PHOTOS_AT_ONCE)
    return searched(case, points[: len(queries)], queries, points[len(queries) :], gallery)


# ------------------------------------------------------------------------------------- attackers with photos alone


@attack(
    "search",
    title="search: new photo, new gallery",
    attacker="photos",
    question="Is a photo that no method saw still found in the gallery?",
    target="chance",
)
def search(case: AuditCase) -> dict:
    """Search held-out queries in the gallery of held-out photos."""
    return plain_search(case)


@attack(
    "search_train",
    title="search: the photos it was to forget",
    attacker="photos",
    question="Are the very training photos found, among each other and in the gallery?",
    target="chance",
)
def search_train(case: AuditCase) -> dict:
    """Search forget people's training photos in the gallery and these same photos; none finds itself."""
    photos = case.splits.photos("forget", "train")
    gallery = np.union1d(case.splits.gallery, photos)
    return searched(case, case.subject.rows(photos), photos, case.subject.rows(gallery), gallery)


def turned(faces: Tensor, angle: float = 0, zoom: float = 1, right: float = 0, down: float = 0, flip: bool = False):
    """Return uint8 faces all turned (degrees), cropped (zoom below 1), shifted (half sides) or mirrored alike."""

    def same(value: float, *shape: int) -> Tensor:
        return torch.full((len(faces), *shape), float(value))

    shift = torch.cat([same(right, 1), same(down, 1)], dim=1)
    moved = move(faces.float(), same(math.radians(angle)), same(zoom), shift, same(flip))
    return moved.round().clamp(0, 255).to(torch.uint8)


def blurred(faces: Tensor) -> Tensor:
    """Return uint8 faces averaged over 5×5 pixels."""
    padded = F.pad(faces.float(), (2, 2, 2, 2), mode="replicate")
    return F.avg_pool2d(padded, 5, stride=1).round().to(torch.uint8)


def relit(faces: Tensor, gain: float) -> Tensor:
    """Return uint8 faces darker (gain below 1) or brighter."""
    return (faces.float() * gain).round().clamp(0, 255).to(torch.uint8)


DISTURBANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "mirrored": partial(turned, flip=True),
    "shifted right": partial(turned, right=0.12),
    "shifted down": partial(turned, down=0.12),
    "cropped": partial(turned, zoom=0.8),
    "turned": partial(turned, angle=15),
    "blurred": blurred,
    "darker": partial(relit, gain=0.6),
    "brighter": partial(relit, gain=1.4),
}


def disturbed_rows(case: AuditCase, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the embeddings of the forget queries under each disturbance."""
    photos = case.splits.faces.images(case.queries)
    return {name: embed(case.subject.model, DISTURBANCES[name](photos)) for name in names}


@attack(
    "views",
    title="search: mean of flips and shifted crops",
    attacker="photos",
    question="Does averaging a query over a flip, shifts and a crop bring the person back?",
    target="chance",
)
def views(case: AuditCase) -> dict:
    """Search with the mean embedding of a query and four versions of it."""
    versions = disturbed_rows(case, ("mirrored", "shifted right", "shifted down", "cropped"))
    mean = torch.stack([case.subject.rows(case.queries), *versions.values()]).mean(dim=0)
    gallery = case.splits.gallery
    return searched(case, F.normalize(mean), case.queries, case.subject.rows(gallery), gallery)


@attack(
    "disturbed",
    title="search: the best of eight disturbances",
    attacker="photos",
    question="Did forgetting cover only photos cut and lit as in training?",
    target="chance",
)
def disturbed(case: AuditCase) -> dict:
    """Search with queries turned, cut, blurred or lit otherwise; the score is the best of them."""
    gallery = case.splits.gallery
    results = {
        name: searched(case, rows, case.queries, case.subject.rows(gallery), gallery)
        for name, rows in disturbed_rows(case, tuple(DISTURBANCES)).items()
    }
    best = max(results.values(), key=lambda result: result["score"])
    return best | {"details": {name: result["score"] for name, result in results.items()}}


def pair_cosines(case: AuditCase, pool: str, parts: Sequence[str]) -> np.ndarray:
    """Return the cosines of all pairs of photos of one person, over the people of a pool, float64."""
    photos = np.concatenate([case.splits.photos(pool, part) for part in parts])
    rows, labels = case.subject.rows(photos).double(), case.labels(photos)
    groups = [rows[torch.from_numpy(labels == person)] for person in np.unique(labels)]
    pairs = [(z @ z.T).clamp(max=SAME_POINT)[*torch.triu_indices(len(z), len(z), 1)] for z in groups]
    return torch.cat([*pairs, torch.empty(0, dtype=torch.float64)]).numpy()


def area_under_curve(higher: np.ndarray, lower: np.ndarray) -> float:
    """Return the chance that a value of `higher` exceeds one of `lower`, ties counting half: AUC, NaN if one is empty.

    Introduced in notebook 10.
    """
    if not len(higher) or not len(lower):
        return math.nan
    is_higher = np.repeat([1, 0], [len(higher), len(lower)])
    return float(roc_auc_score(is_higher, np.concatenate([higher, lower])))


def membership(case: AuditCase, parts: Sequence[str]) -> dict:
    """Tell forget people from never-seen ones by the cosines between two photos of one person."""
    mine, others = pair_cosines(case, "forget", parts), pair_cosines(case, "unseen", ("query", "gallery"))
    if not len(others) or not len(mine):
        return cannot("needs two photos of a forgotten and of a never-seen person")
    details = {"forget": float(mine.mean()), "unseen": float(others.mean())}
    return {"score": area_under_curve(mine, others), "details": details}


for _name, _parts, _which in (("pairs", ("query", "gallery"), "new photos"), ("pairs_train", ("train",), "old photos")):
    attack(
        _name,
        title=f"who was forgotten? pairs of {_which}",
        attacker="photos",
        question=f"Do two {_which} of one person tell by their cosine that the person was forgotten?",
        target="half",
        metric="AUC",
    )(partial(membership, parts=_parts))


# --------------------------------------------------------------------------------- attackers with some named photos


def medoid(rows: Tensor) -> Tensor:
    """Return the row (d,) that is nearest to the mean of unit rows (n, d)."""
    return rows[(rows @ rows.mean(dim=0)).argmax()]


def mean_direction(rows: Tensor) -> Tensor:
    """Return the mean of unit rows (n, d), scaled back to length 1."""
    return F.normalize(rows.mean(dim=0), dim=0)


def template_search(case: AuditCase, make: Callable[[Tensor], Tensor]) -> dict:
    """Search a gallery of one template per person, made of training photos (of gallery photos for the unseen)."""
    splits, people, rows = case.splits, [], []
    kept = np.concatenate([splits.photos("forget", "train"), sample(splits), splits.photos("unseen", "gallery")])
    labels = case.labels(kept)
    for person in np.unique(labels):
        rows.append(make(case.subject.rows(kept[labels == person])))
        people.append(person)
    queries = case.queries
    found = retrieval_scores(case.subject.rows(queries), case.labels(queries), torch.stack(rows), np.array(people))
    chance = chance_level(case.labels(queries), np.array(people))["map"]
    return {"score": found.map, "chance": chance, "details": {"r1": found.r1}}


for _name, _make, _title, _doubt in (
    ("template", mean_direction, "template: mean of the training photos", "the mean of scattered points"),
    ("medoid", medoid, "template: the most central photo", "the most central of scattered points"),
):
    attack(
        _name,
        title=_title,
        attacker="names",
        question=f"Does {_doubt} still point at the person?",
        target="chance",
    )(partial(template_search, make=_make))


def named_photos(case: AuditCase, shots: int) -> tuple[np.ndarray, int]:
    """Return the same number of named photos of everybody, and that number: at most `shots`, or what all can give.

    Gallery photos come first, then training photos; never-seen people have gallery photos alone.
    """
    splits = case.splits
    groups: dict[str, list[np.ndarray]] = {"forget": [], "retain": [], "unseen": []}
    for pool, group in groups.items():
        train = sample(splits) if pool == "retain" else splits.photos(pool, "train")
        photos = np.concatenate([splits.photos(pool, "gallery"), train])
        labels = case.labels(photos)
        group += [photos[labels == person] for person in dict.fromkeys(labels.tolist())]
    fewest = [min(map(len, group)) for name, group in groups.items() if group and name != "retain"]
    shots = min([shots, *fewest])
    chosen = [photos[:shots] for group in groups.values() for photos in group if len(photos) >= shots]
    return np.concatenate(chosen), shots


def one_hot(names: np.ndarray) -> Tensor:
    """Return (N, P) float64: which of the sorted P people each of N names is."""
    return F.one_hot(torch.from_numpy(np.unique(names, return_inverse=True)[1])).double()


def nearest_votes(known: Tensor, names: np.ndarray, asked: Tensor, k: int) -> Tensor:
    """Return the votes (Q, P) of the k nearest known rows, each its cosine; those tied for the last places share."""
    cosines = cosine_matrix(asked, known).double()
    last = cosines.topk(k, dim=1).values[:, -1:]
    inside, tied = (cosines > last).double(), (cosines == last).double()
    share = inside + tied * (k - inside.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True)
    return (share * cosines.clamp(min=0)) @ one_hot(names)


def probed_votes(known: Tensor, names: np.ndarray, asked: Tensor, ridge: float = 0.01) -> Tensor:
    """Return what a linear probe gives each name (Q, P): ridge regression of one-hot names on known rows (N, d)."""
    wanted, centre = one_hot(names), known.double().mean(dim=0)

    def offsets(rows: Tensor) -> Tensor:  # none for a photo that float32 cannot tell from the centre
        apart = rows.double() - centre
        return apart * (apart.square().sum(dim=1, keepdim=True) > 2 - 2 * SAME_POINT)

    return offsets(asked) @ ridge_map(offsets(known), wanted - wanted.mean(dim=0), ridge)


def share_first(votes: Tensor, people: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of labels (Q,) whose person gets most votes (Q, P), as expected where several tie for it."""
    tied = (votes >= votes.amax(dim=1, keepdim=True) - 1e-9).double()
    right = torch.from_numpy(people[None] == labels[:, None])
    return float(((tied * right).sum(dim=1) / tied.sum(dim=1)).mean())


def ridge_map(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Return M (d, e) that minimises |x M - y|^2 + ridge s |M|^2, s the mean squared length of a column of x."""
    gram = x.T @ x
    penalty = ridge * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), dtype=x.dtype)
    return torch.linalg.solve(gram + penalty, x.T @ y)


def probe(case: AuditCase, shots: int, namer: Callable) -> dict:
    """Teach a simple classifier everybody's name from a few photos each; ask it about held-out queries."""
    known, given = named_photos(case, shots)
    right = {}
    for pool in ("forget", "unseen"):
        photos = case.splits.photos(pool, "query")
        if len(photos):
            votes = namer(case.subject.rows(known), case.labels(known), case.subject.rows(photos))
            right[pool] = share_first(votes, np.unique(case.labels(known)), case.labels(photos))
    note = "" if given == shots else f"{given} photos each: somebody has no more"
    unseen = right.get("unseen", math.nan)
    return {"score": right["forget"], "unseen": unseen, "note": note, "details": right | {"shots": given}}


attack(
    "neighbours_5",
    title="5 named photos: nearest neighbours",
    attacker="names",
    question="With five named photos of everybody, do the nearest ones give the name?",
    target="unseen",
    metric="top-1",
)(partial(probe, shots=5, namer=partial(nearest_votes, k=5)))

for _shots in (1, 5, 20):
    attack(
        f"probe_{_shots}",
        title=f"{_shots} named photo{'s' * (_shots > 1)}: linear probe",
        attacker="names",
        question="Can a linear classifier on top of the embeddings learn the name from so few photos?",
        target="unseen",
        metric="top-1",
    )(partial(probe, shots=_shots, namer=probed_votes))


# -------------------------------------------------------------------------------------- attackers with the old gallery


def orthogonal_map(x: Tensor, y: Tensor) -> Tensor:
    """Return the orthogonal M (d, d) that minimises |x M - y|: Procrustes. Introduced in notebook 10."""
    return torch.from_numpy(orthogonal_procrustes(x.numpy(), y.numpy())[0])


def fitted_ridge(x: Tensor, y: Tensor) -> Tensor:
    """Return the linear map (d, e) from x to y, barely held back."""
    return ridge_map(x, y, 0.001)


FITS: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
    "": None,
    "orthogonal": orthogonal_map,
    "linear": fitted_ridge,
}


def cross_search(case: AuditCase, fit: Callable | None, back: bool) -> dict:
    """Search the original's gallery with new queries, or (back) the new gallery with old queries.

    A map from the queries' model to the gallery's is fitted on retained people's training photos.
    """
    asking, holding = (case.original, case.subject) if back else (case.subject, case.original)
    queries, gallery, photos = case.queries, case.splits.gallery, sample(case.splits)
    rows, stored = asking.rows(queries), holding.rows(gallery)
    if rows.shape[1] != stored.shape[1] and fit is not fitted_ridge:
        return cannot(f"one model gives {rows.shape[1]} numbers and the other {stored.shape[1]}")
    if fit is not None:
        step = fit(asking.rows(photos).double(), holding.rows(photos).double())
        rows = F.normalize(rows.double() @ step).float()
    return searched(case, rows, queries, stored, gallery)


for _fit, _function in FITS.items():
    for _back in (False, True):
        _how = f", {_fit} map" if _fit else ""
        attack(
            "_".join(filter(None, ("old_query" if _back else "old_gallery", _fit))),
            title=("old query, new gallery" if _back else "new query, old gallery") + _how,
            attacker="old gallery",
            question="Do embeddings of the two models still match" + (f" after an {_fit} map?" if _fit else "?"),
            target="chance",
        )(partial(cross_search, fit=_function, back=_back))


# ------------------------------------------------------------------------------------------- attackers with the weights


def whitened(case: AuditCase, parts: Sequence[str], photos: np.ndarray, subject: Subject | None = None) -> Tensor:
    """Return parts' features side by side (n, c), scaled so that retained people's own photos vary equally all round.

    What differs between photos of one retained person is noise to a search: its directions are shrunk. Unit rows.
    """
    subject, known = subject or case.subject, sample(case.splits)

    def joined(chosen: np.ndarray) -> Tensor:
        return torch.cat([subject.rows(chosen, part) for part in parts], dim=1).double()

    rows, labels = joined(known), case.labels(known)
    centre, spread = rows.mean(dim=0), rows.std(dim=0).clamp(min=1e-6)
    rows = (rows - centre) / spread
    means = torch.stack([rows[torch.from_numpy(labels == person)].mean(dim=0) for person in np.unique(labels)])
    noise = rows - means[torch.from_numpy(np.unique(labels, return_inverse=True)[1])]
    values, vectors = torch.linalg.eigh(noise.T @ noise / len(noise))
    scale = (values.clamp(min=0) + 0.05 * values.mean() + 1e-12).rsqrt()
    return F.normalize(((joined(photos) - centre) / spread) @ vectors * scale).float()


def layer_search(case: AuditCase, parts: Sequence[str]) -> dict:
    """Search with whitened features of some parts of the model in place of its embedding."""
    queries, gallery = case.queries, case.splits.gallery
    return searched(case, whitened(case, parts, queries), queries, whitened(case, parts, gallery), gallery)


@attack(
    "layers",
    title="the best of the earlier layers",
    attacker="weights",
    question="Was only the last layer changed, so that an earlier one still knows the person?",
    target="retrained",
)
def layers(case: AuditCase) -> dict:
    """Search with the pooled, whitened features of each earlier part; the score is the best of them."""
    earlier = [part for part in case.subject.seen if part != "embedding"]
    if not earlier:
        return cannot("the model names no earlier parts")
    results = {part: layer_search(case, [part]) for part in earlier}
    best = max(results.values(), key=lambda result: result["score"])
    return best | {"details": {part: result["score"] for part, result in results.items()}}


@attack(
    "layers_joined",
    title="all layers side by side",
    attacker="weights",
    question="Do all layers together, whitened on retained people, still know the person?",
    target="retrained",
)
def layers_joined(case: AuditCase) -> dict:
    """Search with the whitened features of all parts and the embedding, side by side."""
    return layer_search(case, list(case.subject.seen))


RELEARN_PHOTOS, RELEARN_CHECKS, RELEARN_BATCH, RELEARN_RATE = 5, (0, 5, 10, 20), 64, 1e-3


def relearning_photos(case: AuditCase, with_forget: bool) -> np.ndarray:
    """Return five training photos of each forget person, if asked for, and of three times as many retained people."""
    n_others = max(10, 3 * len(case.splits.forget))
    people = (case.splits.forget if with_forget else ()) + case.splits.retain[:n_others]
    photos = case.splits.train
    labels = case.labels(photos)
    return np.concatenate([photos[labels == person][:RELEARN_PHOTOS] for person in people])


def relearn(case: AuditCase, with_forget: bool) -> dict:
    """Fine-tune a copy for a few steps on a few photos; the score is the mean of the mAP along the way.

    The loss is the margin loss of a new head that starts at the people's centroids; BatchNorm statistics stay.
    """
    model, device = case.copy_of_model(), resolve_device(case.subject.device)
    model.to(device).requires_grad_(True)
    photos = relearning_photos(case, with_forget)
    names = torch.from_numpy(np.unique(case.labels(photos), return_inverse=True)[1])
    start = embed(model, case.splits.faces, photos)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        head = head_from_centroids("cosface", start, names, int(names.max()) + 1).to(device)
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=RELEARN_RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(case.seed)
    curve = {0: plain_search(case)["score"]}
    for step in range(1, RELEARN_CHECKS[-1] + 1):
        batch = torch.randperm(len(photos), generator=generator)[:RELEARN_BATCH]
        faces = augment(case.splits.faces.images(photos[batch.numpy()]).to(device), generator)
        loss = F.cross_entropy(head(model(model.preprocess(faces)), names[batch].to(device)), names[batch].to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step in RELEARN_CHECKS:
            curve[step] = plain_search(case, model)["score"]
    area = np.trapezoid(list(curve.values()), list(curve)) / RELEARN_CHECKS[-1]
    return {"score": float(area), "details": {str(step): value for step, value in curve.items()}}


for _name, _with, _title, _question in (
    ("relearn", True, "relearning: 5 photos each, 20 steps", "Does a little fine-tuning on their photos bring them"),
    ("relearn_others", False, "relearning other people only", "Does fine-tuning that never shows them bring them"),
):
    attack(
        _name,
        title=_title,
        attacker="weights",
        question=f"{_question} back faster than to the retrained model?",
        target="retrained",
        metric="mean mAP",
    )(partial(relearn, with_forget=_with))


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return a model's BatchNorm modules that keep running statistics."""
    kinds = nn.modules.batchnorm._BatchNorm
    return [module for module in model.modules() if isinstance(module, kinds) and module.track_running_stats]


@attack(
    "batchnorm",
    title="BatchNorm measured anew",
    attacker="weights",
    question="Does the forgetting live in BatchNorm's statistics?",
    target="chance",
)
@torch.no_grad()
def batchnorm(case: AuditCase) -> dict:
    """Measure every BatchNorm's mean and variance again on retained people's training photos."""
    model, photos = case.copy_of_model(), sample(case.splits)
    norms = batch_norms(model)
    if not norms or len(photos) < 2:
        return cannot("the model has no BatchNorm statistics" if not norms else "there are no retained photos")
    model.to(resolve_device(case.subject.device))
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()
    for batch in np.array_split(photos, max(1, len(photos) // PHOTOS_AT_ONCE)):
        model(model.preprocess(case.splits.faces.images(batch).to(model.device)))
    return plain_search(case, model.eval())


def weight_tables(model: nn.Module) -> list[Tensor]:
    """Return the weights of convolutions and linear layers."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@attack(
    "int8",
    title="weights rounded to 8 bits",
    attacker="weights",
    question="Does the rounding of an ordinary deployment undo fine changes?",
    target="chance",
)
@torch.no_grad()
def int8(case: AuditCase) -> dict:
    """Round every weight to 255 levels per output channel."""
    model = case.copy_of_model()
    for weight in weight_tables(model):
        step = weight.flatten(1).abs().amax(dim=1).clamp(min=1e-12).view(-1, *[1] * (weight.ndim - 1)) / 127
        weight.copy_((weight / step).round() * step)
    return plain_search(case, model)


@torch.no_grad()
def pruned(case: AuditCase, share: float) -> dict:
    """Set the smallest share of all weights to zero."""
    model = case.copy_of_model()
    tables = weight_tables(model)
    sizes = torch.cat([weight.abs().flatten() for weight in tables])
    limit = sizes.kthvalue(max(1, int(share * len(sizes)))).values
    for weight in tables:
        weight.mul_(weight.abs() > limit)
    return plain_search(case, model)


for _share in (0.1, 0.3):
    attack(
        f"pruned_{100 * _share:.0f}",
        title=f"smallest {_share:.0%} of the weights cut",
        attacker="weights",
        question="Does thinning the network out undo fine changes?",
        target="chance",
    )(partial(pruned, share=_share))


@attack(
    "averaged",
    title="weights averaged with the old ones",
    attacker="weights",
    question="Half-way back to the old weights, who is found? (the attacker kept the old model, too)",
    target="chance",
)
@torch.no_grad()
def averaged(case: AuditCase) -> dict:
    """Take the mean of new and original weights and statistics, what was added left on or taken off: the best."""
    model, old = case.copy_of_model(), case.original.model.state_dict()
    core = innermost(model)
    mine = core.state_dict()
    if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in old.items()}:
        return cannot("the weights do not match the original's one to one")
    for name, value in mine.items():
        if value.is_floating_point():
            value.copy_((value + old[name].to(value)) / 2)
    found = [plain_search(case, some) for some in ((model,) if model is core else (model, core))]
    return max(found, key=lambda result: result["score"])


def inside(model: FaceBackbone) -> FaceBackbone | None:
    """Return the complete face model that a wrapper holds, or None if the model is no wrapper. Notebook 10."""
    return next((child for child in model.children() if isinstance(child, FaceBackbone)), None)


def innermost(model: FaceBackbone) -> FaceBackbone:
    """Return the face model inside all wrappers, or the model itself."""
    while (inner := inside(model)) is not None:
        model = inner
    return model


@attack(
    "taken_off",
    title="the added map taken off",
    attacker="weights",
    question="If forgetting is a part that was added, what happens when it is removed?",
    target="chance",
)
def taken_off(case: AuditCase) -> dict:
    """Search with the model inside a wrapper."""
    if inside(case.subject.model) is None:
        return cannot("nothing was added to the network")
    return plain_search(case, innermost(case.copy_of_model()))


@attack(
    "head_rows",
    title="the shipped head's rows",
    attacker="weights",
    question="Does a head that was shipped along still hold their portraits?",
    target="chance",
    metric="top-1",
)
@torch.no_grad()
def head_rows(case: AuditCase) -> dict:
    """Name the forget people's held-out photos: the original's embeddings against the rows of the new head."""
    splits, head = case.splits, case.subject.head
    if head is None or len(head.weight) != len(splits.trained):
        return cannot("the head holds no rows for them")
    photos = np.concatenate([case.queries, splits.photos("forget", "gallery")])
    rows = case.original.rows(photos).to(head.weight)
    if rows.shape[1] != head.weight.shape[1]:
        return cannot("the head is not as wide as the original's embeddings")
    score = share_first(head.cosines(rows).cpu(), np.asarray(splits.trained), case.labels(photos))
    return {"score": score, "chance": 1 / len(splits.trained)}


# ------------------------------------------------------------------------------------------------------- the audit


def recovered(score: float, target: float, original: float, kind: str) -> float:
    """Return which share of the way from the stated target back to the original an attack went, 0..1. Notebook 10.

    0 at or below the target; NaN if a number is missing, or if the original is less than NO_GAP above the target.
    """
    if kind == "half":
        return min(1.0, 2 * abs(score - 0.5))
    if any(map(math.isnan, (score, target))):
        return math.nan
    if score <= target + 1e-9:  # rounding is no recovery
        return 0.0
    gap = original - target
    return math.nan if not gap >= NO_GAP else min(1.0, (score - target) / gap)


def remembered(case: AuditCase, entry: Attack, who: str) -> dict:
    """Return what an attack does to the original or the retrained model: computed once per case."""
    subject = getattr(case, who)
    if subject is None:
        return cannot("there is no retrained model to compare with")
    if (entry.name, who) not in case.memory:
        case.memory[entry.name, who] = entry.run(case.on(subject))
    return case.memory[entry.name, who]


def audit_row(case: AuditCase, entry: Attack) -> dict:
    """Run one attack and return its row: score, stated target, original, what was recovered, and notes."""
    began = time.perf_counter()
    role = next((who for who in ("original", "retrained") if getattr(case, who) is case.subject), None)
    result = remembered(case, entry, role) if role else entry.run(case)
    seconds = time.perf_counter() - began
    old, notes = remembered(case, entry, "original")["score"], [result.get("note", "")]
    if math.isnan(old):  # nothing to undo in the original: there, the attack is a plain search
        old = remembered(case, ATTACKS["search"], "original")["score"]
    target = {"chance": result.get("chance", math.nan), "unseen": result.get("unseen", math.nan), "half": 0.5}
    if entry.target == "retrained":
        reference = remembered(case, entry, "retrained")
        target["retrained"] = reference["score"]
        notes.append(reference.get("note", ""))
    score, goal = result["score"], target[entry.target]
    return {
        "attack": entry.name,
        "title": entry.title,
        "attacker": entry.attacker,
        "metric": entry.metric,
        "stated_target": entry.target,
        "score": score,
        "target": goal,
        "original": old,
        "recovered": recovered(score, goal, old, entry.target),
        "note": "; ".join(dict.fromkeys(filter(None, notes))),
        "details": result.get("details", {}),
        "seconds": round(seconds, 2),
    }


def audit(case: AuditCase, attacks: Iterable[str] | None = None, progress: bool = False) -> list[dict]:
    """Run attacks (all by default) on the model of a case and return one row per attack; no model is changed.

    Raises CourseError for an unknown attack, or splits without forget people's held-out photos. Notebook 10.
    """
    names = list(ATTACKS) if attacks is None else [one_of(name, ATTACKS, "attack") for name in attacks]
    if not len(case.queries) or not len(case.splits.photos("forget", "gallery")):
        raise CourseError("An audit needs held-out query and gallery photos of the forget people; there are none.")
    unit_rows(case.subject.seen["embedding"])  # a diverged model is refused in one sentence, before the attacks
    return [audit_row(case, ATTACKS[name]) for name in progress_bar(names, desc="attacks", enabled=progress)]


def make_case(
    splits: Splits,
    original: tuple[FaceBackbone, CosineHead],
    retrained: tuple[FaceBackbone, CosineHead] | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "auto",
) -> AuditCase:
    """Return a case with the original model under audit; `case.on(Subject(...))` puts another in its place.

    Introduced in notebook 10.
    """
    first = Subject(*original, splits, device)
    second = None if retrained is None else Subject(*retrained, splits, device)
    return AuditCase(first, first, second, splits, seed)


# ------------------------------------------------------------------------------------------------ many methods


def run_audit(
    plan: Plan, out: Path, *, attacks: Sequence[str] | None = None, fresh: bool = False, progress: bool = True
) -> dict:
    """Unlearn with every method and seed of a plan, attack the result, write `out` after each, return the audits.

    Audits that `out` already holds, made with the same data, settings and attacks, are not repeated unless `fresh`.
    Raises CourseError. Introduced in notebook 10.
    """
    check_plan(plan)
    names = list(ATTACKS) if attacks is None else [one_of(name, ATTACKS, "attack") for name in attacks]
    store, finish, opened = ResultStore(out).checked(), partial(file_of, environment(plan)), {}
    tasks = [(plan, name, seed) for seed in range(plan.seed, plan.seed + plan.seeds) for name in plan.methods]
    splits = {seed: open_splits(plan, seed, opened, progress) for _, _, seed in tasks}
    wanted = [(task, audit_identity(plan, splits[task[2]], *task[1:], names)) for task in tasks]
    function, describe = partial(audit_run, opened, names, progress), partial(about_run, opened, progress)
    options = {"fresh": fresh, "finish": finish, "desc": "audits", "progress": progress}
    runs, failed = run_missing(function, wanted, store, describe=describe, **options)
    return finish(runs) | ({"failed": failed} if failed else {})


def audit_run(opened: dict, attacks: Sequence[str], progress: bool, plan: Plan, name: str, seed: int) -> dict:
    """Unlearn with one method and attack the result; the case of the last seed is kept in `opened`."""
    if opened.get("case", (None,))[0] != seed:
        opened["case"] = seed, plan_case(plan, open_splits(plan, seed, opened, progress), seed, progress)
    case = opened["case"][1]
    return {"audit": audit(case.on(plan_subject(plan, case, name, seed, progress)), attacks)}


def audit_identity(plan: Plan, splits: Splits, name: str, seed: int, attacks: Sequence[str]) -> dict:
    """Return the fields that tell one audit from another: the run's own, and the attacks."""
    return run_identity(plan, splits, name, seed) | {"attacks": list(attacks)}


def plan_case(plan: Plan, splits: Splits, seed: int, progress: bool) -> AuditCase:
    """Load or train the original and, where that is possible, the retrained model of a plan."""
    recogniser = original_recogniser(plan, splits, progress)
    retrained = None
    if "retrain" in references(plan):
        outcome = unlearned(plan, splits, recogniser, "retrain", seed, progress)
        retrained = outcome.model, outcome.head
    return make_case(splits, (recogniser.model, recogniser.head), retrained, seed=seed, device=plan.device)


def unlearned(plan: Plan, splits: Splits, start, name: str, seed: int, progress: bool):
    """Run one method of a plan on a model with a head and return its outcome."""
    options = method_options(plan, name)
    return unlearn(name, start.model, start.head, splits, seed=seed, device=plan.device, progress=progress, **options)


def plan_subject(plan: Plan, case: AuditCase, name: str, seed: int, progress: bool) -> Subject:
    """Return the model to audit: a reference as it stands in the case, or what a method makes of the original."""
    if name in REFERENCES and (known := case.original if name == "original" else case.retrained) is not None:
        return known
    outcome = unlearned(plan, case.splits, case.original, name, seed, progress)
    return Subject(outcome.model, outcome.head, case.splits, plan.device)


def audit_table(audits: dict[str, list[dict]], runs: Sequence[dict] = ()) -> str:
    """Return scores and, in brackets, what was recovered, in percent: a line per attack, a column per method.

    `runs` are the results rows behind them, which know who was forgotten.
    Introduced in notebook 10.
    """
    known = {row["attack"]: row for rows in audits.values() for row in rows}
    cells = [["attack", "metric", "stated target", *audits]]
    for name, row in known.items():
        line = [row["title"], row["metric"], row["stated_target"].replace("half", "0.5")]
        for rows in audits.values():
            mine = next((other for other in rows if other["attack"] == name), {})
            line.append(f"{percent([mine.get('score')])} ({percent([mine.get('recovered')])})")
        cells.append(line)
    return table_with_people(cells, runs)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, plan = parser.add_argument, Plan()
    add("--dataset", default=plan.dataset, metavar="NAME", help="as in python -m utils.benchmark, like what follows")
    add("--root", default="", metavar="DIR", help="folder of a data set of real faces")
    add("--backbone", default=plan.backbone, metavar="NAME", help="mini or facenet")
    add("--pretrained", default=plan.pretrained, metavar="NAME", help="auto, none, or facenet's own weights")
    add("--train-epochs", type=int, default=0, metavar="N", help="epochs of pretraining (0: the recipe's own)")
    default = "retrain,random_labels,esc,dispersion"
    add("--methods", default=default, metavar="A,B", help=f"'all', or some of: {', '.join(METHODS)}")
    add("--attacks", default="", metavar="A,B", help=f"all by default, or some of: {', '.join(ATTACKS)}")
    add("--forget", type=int, metavar="N", help="forget N people drawn by the seed (10, or fewer of few)")
    add("--seed", type=int, default=plan.seed, metavar="S", help="the first seed")
    add("--seeds", type=int, default=plan.seeds, metavar="K", help="audit K seeds, from the first one on")
    add("--dev", action="store_true", help="forget the dev-forget people instead: for choosing settings")
    add("--profile", default=plan.profile, metavar="NAME", help="quick or full")
    add("--device", default=plan.device, metavar="NAME", help="auto, cpu, cuda or mps")
    add("--out", type=Path, default=BUILD_DIR / "audit.json", metavar="FILE", help="where audits are kept")
    add("--fresh", action="store_true", help="audit these again though that file holds them; others stay")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    args = make_parser().parse_args(arguments)
    flags = {name: value for name, value in vars(args).items() if name in Plan.__dataclass_fields__}
    plan = Plan(**flags | {"methods": parse_methods(args.methods)})
    chosen = [name.strip() for name in args.attacks.split(",") if name.strip()] or None
    results = run_audit(plan, args.out, attacks=chosen, fresh=args.fresh, progress=not args.quiet)
    for seed in dict.fromkeys(run["seed"] for run in results["runs"]):
        print(f"seed {seed}: score (recovered), in percent")
        runs = [run for run in results["runs"] if run["seed"] == seed]
        print(audit_table({run["method"]: run.get("audit", []) for run in runs}, runs))
    refuse(results.get("failed", ()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
