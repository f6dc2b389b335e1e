"""Who is on trial, what is attacked, and the list that every attack joins."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..faces.splits import Splits
from ..models.backbones import FaceBackbone, bare
from ..models.embedding import embed
from ..models.heads import CosineHead
from ..models.interface import Lacking
from ..retrieval.evaluation import held_out_photos
from ..retrieval.scores import RetrievalScores, chance_level, retrieval_scores
from ..settings import CourseError, one_of, resolve_device

NO_GAP = 0.05  # an original closer to its target than this leaves nothing to recover
SAMPLE_PEOPLE, SAMPLE_PHOTOS = 150, 10  # retained people, and training photos of each, that maps and probes may use
PHOTOS_AT_ONCE = 256
TARGETS = {
    "chance": "a random order of the same gallery",
    "unseen": "people whom the same model never saw, attacked in the same way",
    "retrained": "the model retrained without them, attacked in the same way",
    "half": "0.5: they look like anybody; far above they stand out as known, far below as over-forgotten",
    "strangers": "people whom the retrained model never saw, attacked in the same way",
    "zero": "0: nothing is gained over a random stranger",
    "original": "the original's score: a price that others pay, and nothing that could come back",
}
ATTACKERS = {
    "photos": "may send photos to the model and search with what comes back",
    "names": "also holds a few named photos of the forgotten people",
    "old gallery": "also kept the embeddings that the old model had stored",
    "weights": "holds the model that was shipped, and training photos",
    "old head": "also kept the classification head of the old model",
    "old model": "also kept the old model itself, and needs no attack",
}
THINGS = ("photos to send", "named photos", "old gallery", "shipped weights", "old head", "old model")
HOLDINGS = {  # what each attacker has of these things
    "photos": THINGS[:1],
    "names": THINGS[:2],
    "old gallery": (THINGS[0], THINGS[2]),
    "weights": (*THINGS[:2], THINGS[3]),
    "old head": (*THINGS[:2], *THINGS[3:5]),
    "old model": THINGS,
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
        """The pooled features (N, c) of every part but the last, the unit embeddings as 'embedding', their 'length'."""
        return look(self.model.to(resolve_device(self.device)), self.splits.faces, self.photos)

    def rows(self, photos: np.ndarray, part: str = "embedding") -> Tensor:
        """Return features (n, c) float32 of photos by index, of a part by name; raises CourseError outside `photos`."""
        if (strange := np.setdiff1d(photos, self.photos)).size:
            raise CourseError(f"Photo {strange[0]} is none that an audit looks at; choose from subject.photos.")
        return self.seen[one_of(part, self.seen, "part of the network")][
            torch.from_numpy(np.searchsorted(self.photos, photos))
        ]


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
    """Return what every part of a model makes of photos: features pooled over the image, unit embeddings, lengths.

    The last part is left out, as the embedding stands for it: a wrapper may change what comes after.
    """
    heard: dict[str, list[Tensor]] = {name: [] for name in list(model.layers())[:-1]}

    def listen(name: str) -> Callable:
        return lambda module, inputs, output: heard[name].append(output.float().flatten(2).mean(dim=2).cpu())

    hooks = [model.layers()[name][-1].register_forward_hook(listen(name)) for name in heard]
    try:
        points = embed(model, faces, photos, batch_size=PHOTOS_AT_ONCE, whole=True, normalised=False)
    finally:
        for hook in hooks:
            hook.remove()
    features = {name: torch.cat(parts) for name, parts in heard.items()}
    return features | {"embedding": F.normalize(points), "length": points.norm(dim=1, keepdim=True)}


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

    A result may also hold 'chance', 'unseen' (the same score of never-seen people), 'people' (the score of each person
    by label), 'details' and a 'note'. On a network that lacks what it needs, an attack does not apply.
    """

    def register(run: Callable[[AuditCase], dict]) -> Callable[[AuditCase], dict]:
        def run_or_tell(case: AuditCase) -> dict:
            try:
                return run(case)
            except Lacking as why:
                return cannot(str(why))

        one_of(about["attacker"], ATTACKERS, "attacker")
        one_of(about["target"], TARGETS, "target")
        ATTACKS[name] = Attack(name, run_or_tell, **about)
        return run

    return register


def cannot(why: str) -> dict:
    """Return the result of an attack that does not apply, and why."""
    return {"score": math.nan, "note": why}


def best_of(results: dict[str, dict]) -> dict:
    """Return the search that finds most, with the score of every one in its details."""
    best = max(results.values(), key=lambda result: result["score"])
    return best | {"details": {name: result["score"] for name, result in results.items()}}


def searched(case: AuditCase, rows: Tensor, photos: np.ndarray, gallery_rows: Tensor, gallery: np.ndarray) -> dict:
    """Search a gallery with unit rows: mAP, R@1 and the chance level; a photo never finds itself."""
    labels, names = case.labels(photos), case.labels(gallery)
    found = retrieval_scores(rows, labels, gallery_rows, names, query_ids=photos, gallery_ids=gallery)
    chance = chance_level(labels, names, photos, gallery)["map"]
    return {"score": found.map, "chance": chance, "details": {"r1": found.r1}, "people": people_of(found)}


def people_of(found: RetrievalScores) -> dict[int, float]:
    """Return the mAP of each person's own queries, by label: a mean hides who is still found."""
    return {label: scores["map"] for label, scores in found.per_identity().items()}


def mean_by(labels: np.ndarray, values: np.ndarray) -> dict[int, float]:
    """Return the mean of values (n,) for each label (n,)."""
    return {int(label): float(values[labels == label].mean()) for label in np.unique(labels)}


def plain_search(case: AuditCase, model: FaceBackbone | None = None) -> dict:
    """Search held-out forget queries in the gallery of all pools, with the case's model or a changed copy of it."""
    queries, gallery = case.queries, case.splits.gallery
    if model is None:
        return searched(case, case.subject.rows(queries), queries, case.subject.rows(gallery), gallery)
    model.to(resolve_device(case.subject.device))
    points = embed(model, case.splits.faces, np.concatenate([queries, gallery]), batch_size=PHOTOS_AT_ONCE)
    return searched(case, points[: len(queries)], queries, points[len(queries) :], gallery)


def mean_directions(rows: Tensor, labels: np.ndarray) -> Tensor:
    """Return the mean direction (P, d) of each person's rows (n, d), in the order of the labels (n,)."""
    return F.normalize(torch.stack([rows[torch.from_numpy(labels == p)].mean(dim=0) for p in np.unique(labels)]))


def ridge_map(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Return M (d, e) that minimises |x M - y|^2 + ridge s |M|^2, s the mean squared length of a column of x."""
    gram = x.T @ x
    penalty = ridge * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), dtype=x.dtype)
    return torch.linalg.solve(gram + penalty, x.T @ y)
