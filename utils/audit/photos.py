"""Attackers who may send photos to the model and search with what comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..faces.datasets import FaceDataset
from ..models.augmentation import move
from ..models.embedding import embed, uncentred
from ..retrieval.similarity import SAME_POINT, mean_or_nan
from .case import (
    AuditCase,
    attack,
    best_of,
    cannot,
    mean_by,
    mean_directions,
    plain_search,
    ridge_map,
    sample,
    searched,
)


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
    return best_of(results)


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
    from sklearn.metrics import roc_auc_score  # here: its import takes a second, and every notebook imports the audit

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


# ------------------------------------------------------------------------------------------- from one embedding alone

FOLDS, NEAREST, NEIGHBOURS = 5, 10, 5


def told_by_one(case: AuditCase, photos: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each single embedding tells (n,): its length, its best cosine to a retained person's mean direction,
    and the density around it: its mean cosine to the ten nearest of retained people's training photos."""
    known, rows = sample(case.splits), case.subject.rows(photos).double()
    stored = case.subject.rows(known).double()
    near = (rows @ stored.T).topk(min(NEAREST, len(known)), dim=1).values
    centroids = mean_directions(stored, case.labels(known))
    told = {"length": case.subject.rows(photos, "length")[:, 0].double(), "centroid": (rows @ centroids.T).amax(dim=1)}
    return {name: values.numpy() for name, values in told.items()} | {"density": near.mean(dim=1).numpy()}


def folds_of(labels: np.ndarray, groups: Sequence[np.ndarray], n_folds: int) -> np.ndarray:
    """Deal people, each group's in the order of their labels, into folds in turn; return each photo's fold (n,)."""
    dealt = {int(person): k % n_folds for group in groups for k, person in enumerate(np.unique(group))}
    return np.array([dealt[int(label)] for label in labels])


def held_out_auc(features: np.ndarray, member: np.ndarray, fold: np.ndarray) -> float:
    """Return the mean, over folds of people, of the AUC of a logistic regression (n, k) that never saw those people."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = []
    for k in np.unique(fold):
        away = fold == k
        model = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=1000)
        ).fit(features[~away], member[~away])
        scores = model.decision_function(features[away])
        found.append(area_under_curve(scores[member[away]], scores[~member[away]]))
    return float(np.mean(found))


@attack(
    "one_photo",
    title="who was forgotten? one photo alone",
    attacker="photos",
    question="Does a single embedding tell a forgotten person from a never-seen one?",
    target="half",
    metric="AUC",
)
def one_photo(case: AuditCase) -> dict:
    """Tell forgotten from never-seen people by one embedding, on people kept out of the fit (RULI, 2506.13009).

    Unlike the pairs', its ideal can go with being unfindable: one point may lie where any stranger's lies, while two
    photos of an unfindable person must be further apart than a stranger's.
    """
    splits = case.splits
    pools = ("forget", "unseen")
    photos = {pool: np.union1d(*(splits.photos(pool, part) for part in ("query", "gallery"))) for pool in pools}
    groups = [case.labels(some) for some in photos.values()]
    n_folds = min(FOLDS, *(len(np.unique(group)) for group in groups))
    if n_folds < 2 or not len(sample(splits)):
        return cannot("needs two forgotten, two never-seen and some retained people")
    told = told_by_one(case, np.concatenate(list(photos.values())))
    member = np.arange(len(groups[0]) + len(groups[1])) < len(groups[0])
    features = np.stack(list(told.values()), axis=1)
    found = held_out_auc(features, member, folds_of(np.concatenate(groups), groups, n_folds))
    alone = {name: area_under_curve(values[member], values[~member]) for name, values in told.items()}
    return {
        "score": max(0.5, found),
        "details": {"cross-validated": found} | alone,
    }  # a probe below 0.5 has learnt nothing


# ---------------------------------------------------------------------------------------------- what is left of looks


def known_attributes(faces: FaceDataset) -> Tensor | None:
    """Return the attributes (people, a) by label that drawn faces were made from; None for photographs."""
    from ..faces.synthetic.dataset import attributes_of  # here, so that real faces are audited without the renderer

    return attributes_of(faces.identities, faces.fingerprint)


def read_attributes(case: AuditCase, photos: np.ndarray, attributes: Tensor) -> Tensor:
    """Return the cosines (n, people) between what a linear probe reads from photos and each person's true attributes.

    The probe is a ridge regression on retained people's training photos; attributes count in their standard deviations.
    """
    known = sample(case.splits)
    rows, wanted = case.subject.rows(known).double(), attributes.double()[torch.from_numpy(case.labels(known))]
    mean, spread = wanted.mean(dim=0), wanted.std(dim=0)
    apart = spread > 1e-6
    table = ((attributes.double() - mean) / spread)[:, apart]
    step = ridge_map(rows - rows.mean(dim=0), ((wanted - mean) / spread)[:, apart], 0.01)
    return F.normalize((case.subject.rows(photos).double() - rows.mean(dim=0)) @ step) @ F.normalize(table).T


@attack(
    "trait_leakage",
    title="looks read by a linear probe",
    attacker="photos",
    question="Does a probe taught on others read looks that fit the forgotten person better than anybody else?",
    target="strangers",
    metric="matched",
)
def trait_leakage(case: AuditCase) -> dict:
    """Read the drawn faces' latent attributes from held-out queries.

    The score is the share of the other forgotten and never-seen people whose attributes fit the reading less than the
    person's own, ties counting half: 0.5 tells nothing.
    """
    attributes, splits = known_attributes(case.splits.faces), case.splits
    if attributes is None or not len(sample(splits)):
        return cannot("attributes are known of drawn faces only" if attributes is None else "nobody is retained")
    others, found = np.array([*splits.forget, *splits.unseen]), {}
    for pool in ("forget", "unseen"):
        photos = splits.photos(pool, "query")
        labels, cosines = case.labels(photos), read_attributes(case, photos, attributes).numpy()
        own, rest = cosines[np.arange(len(photos)), labels][:, None], cosines[:, others]
        fits = ((own > rest) + 0.5 * (own == rest)) * (labels[:, None] != others)
        shares = fits.sum(axis=1) / max(1, len(others) - 1)
        found[pool] = mean_or_nan(shares), mean_by(labels, shares)
    return {"score": found["forget"][0], "unseen": found["unseen"][0], "people": found["forget"][1]}


# ----------------------------------------------------------------------------------- the searcher's choice, and a price


def lifted(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit rows (Q, d + 2), (N, d + 2) whose cosines rank the gallery as Euclidean distance does (float64).

    |q - g|² falls as q·g - |g|²/2 rises: (q, 1, 0)·(g, -|g|²/2, rest); `rest` makes all gallery rows equally long.
    """
    q, g = (rows.double() / gallery.double().norm(dim=1).mean() for rows in (queries, gallery))
    half = -g.square().sum(dim=1, keepdim=True) / 2
    g = torch.cat([g, half], dim=1)
    rest = (g.square().sum(dim=1).max() - g.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
    q = torch.cat([q, torch.ones(len(q), 1), torch.zeros(len(q), 1)], dim=1)
    return F.normalize(q).float(), F.normalize(torch.cat([g, rest], dim=1)).float()


def directions_from(centre: Tensor, rows: Tensor) -> Tensor:
    """Return unit rows (n, d) from a centre (d,) to rows; what float32 cannot tell from the centre is one point."""
    apart = rows - centre
    apart[apart.norm(dim=1) <= 1e-6 * centre.norm()] = F.one_hot(torch.tensor(0), rows.shape[1]).float()
    return F.normalize(apart)


@attack(
    "other_similarity",
    title="search: another similarity",
    attacker="photos",
    question="Is who was hidden under one similarity found under another that the searcher chooses?",
    target="chance",
)
def other_similarity(case: AuditCase) -> dict:
    """Search by centred cosine, by Euclidean distance and, if the model takes a centre off, by raw cosine: the best."""
    subject, queries, gallery = case.subject, case.queries, case.splits.gallery
    known = sample(case.splits)
    asked, stored, others = (subject.rows(i) * subject.rows(i, "length") for i in (queries, gallery, known))
    centre = others.mean(dim=0) if len(known) else torch.zeros(asked.shape[1])
    choices = {"centred": [directions_from(centre, rows) for rows in (asked, stored)]}
    choices["Euclidean"] = lifted(asked, stored)
    if any(name.endswith("centre") and buffer.any() for name, buffer in subject.model.named_buffers()):
        choices["raw"] = [uncentred(rows, subject.model) for rows in (asked, stored)]
    results = {name: searched(case, q, queries, g, gallery) for name, (q, g) in choices.items()}
    return best_of(results)


@attack(
    "collateral",
    title="the price: five nearest unseen people",
    attacker="photos",
    question="Are the never-seen people who look most like the forgotten still found as before?",
    target="original",
)
def collateral(case: AuditCase) -> dict:
    """Search the queries of the five unseen people who, in the original, lie nearest to a forgotten one's mean."""
    splits, old = case.splits, case.original
    known, stored = (splits.photos(*which) for which in (("forget", "train"), ("unseen", "gallery")))
    if not len(stored):
        return cannot("nobody is unseen")
    means = [mean_directions(old.rows(photos), case.labels(photos)) for photos in (known, stored)]
    close = (means[1] @ means[0].T).amax(dim=1)
    order = close.argsort(descending=True, stable=True)[:NEIGHBOURS]
    nearest, asked = np.unique(case.labels(stored))[order.numpy()], splits.photos("unseen", "query")
    asked = asked[np.isin(case.labels(asked), nearest)]
    found = searched(case, case.subject.rows(asked), asked, case.subject.rows(splits.gallery), splits.gallery)
    return found | {"details": found["details"] | {"cosine to the forgotten": float(close[order].mean())}}
