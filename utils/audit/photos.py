"""Attackers who may send photos to the model and search with what comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ..models.augmentation import move
from ..models.embedding import embed
from ..retrieval.similarity import SAME_POINT
from .case import AuditCase, attack, cannot, plain_search, searched


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
    photos, where = case.splits.faces.images(case.queries), case.subject.device
    return {name: embed(case.subject.model, DISTURBANCES[name](photos), device=where) for name in names}


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
    photos = np.unique(np.concatenate([case.splits.photos(pool, part) for part in parts]))
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
