"""Attackers who also hold a few named photos of the forgotten people."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..retrieval.scores import chance_level, retrieval_scores
from ..retrieval.similarity import SAME_POINT, cosine_matrix
from .case import AuditCase, attack, mean_by, people_of, ridge_map, sample


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
    return {"score": found.map, "chance": chance, "details": {"r1": found.r1}, "people": people_of(found)}


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
        photos = np.concatenate([splits.apart(pool)[0], train])
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


def named_first(votes: Tensor, people: np.ndarray, labels: np.ndarray) -> dict:
    """Return the share of labels (Q,) whose person gets most votes (Q, P), as expected where several tie for it.

    Under 'score', and by label under 'people'.
    """
    tied = (votes >= votes.amax(dim=1, keepdim=True) - 1e-9).double()
    right = torch.from_numpy(people[None] == labels[:, None])
    share = ((tied * right).sum(dim=1) / tied.sum(dim=1)).numpy()
    return {"score": float(share.mean()), "people": mean_by(labels, share)}


def probe(case: AuditCase, shots: int, namer: Callable) -> dict:
    """Teach a simple classifier everybody's name from a few photos each; ask it about held-out queries."""
    known, given = named_photos(case, shots)
    right, people = {}, {}
    for pool in ("forget", "unseen"):
        photos = case.splits.apart(pool)[1]
        if len(photos):
            votes = namer(case.subject.rows(known), case.labels(known), case.subject.rows(photos))
            found = named_first(votes, np.unique(case.labels(known)), case.labels(photos))
            right[pool], people = found["score"], people or found["people"]
    note = "" if given == shots else f"{given} photos each: somebody has no more"
    unseen = right.get("unseen", math.nan)
    details = right | {"shots": given}
    return {"score": right["forget"], "unseen": unseen, "note": note, "details": details, "people": people}


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
