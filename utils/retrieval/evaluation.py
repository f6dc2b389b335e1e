"""All pools of one split, scored side by side on held-out photos."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata

from ..faces.identities import resolve_identity
from ..faces.splits import Splits
from ..models.embedding import embed
from ..models.heads import CosineHead
from ..settings import CourseError, resolve_device
from .scores import RetrievalScores, chance_level, retrieval_scores
from .similarity import (
    Array,
    as_labels,
    as_rows,
)
from .verification import (
    compactness,
    lookalike_fmr,
    tar_at_far,
    true_accept_rate,
)

POOLS = ("forget", "retain", "unseen", "dev_forget")
QUERIES_AT_ONCE = 256  # against all photos of a gallery


def held_out_photos(splits: Splits) -> np.ndarray:
    """Return the indices of all photos that scoring uses, query and gallery of every pool, int64, sorted.

    Introduced in notebook 03.
    """
    return np.unique(np.concatenate([splits.query, splits.gallery]))


def evaluate(
    model: torch.nn.Module,
    splits: Splits,
    head: CosineHead | None = None,
    *,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Evaluation:
    """Embed every held-out photo once and return what scores and figures are made of. Introduced in notebook 05."""
    photos = held_out_photos(splits)
    embeddings = embed(model, splits.faces, photos, device=resolve_device(device), progress=progress)
    return Evaluation.make(embeddings, photos, splits, head)


class Evaluation(NamedTuple):
    """The held-out photos of some splits as one model sees them; made by `evaluate`. Introduced in notebook 05."""

    embeddings: torch.Tensor
    place: np.ndarray  # photo index -> row of `embeddings`, -1 for photos that were not embedded
    splits: Splits
    head: CosineHead | None
    device: str | torch.device

    @classmethod
    def make(
        cls,
        embeddings: Array,
        photos: np.ndarray,
        splits: Splits,
        head: CosineHead | None = None,
        device: str | torch.device = "cpu",
    ) -> Evaluation:
        """Note which row belongs to which photo; raises CourseError if a held-out photo is missing."""
        rows, photos = as_rows(embeddings), np.asarray(photos)
        as_labels(photos, len(rows), "photo")
        place = np.full(len(splits.faces.labels), -1)
        place[photos] = np.arange(len(photos))
        missing = held_out_photos(splits)[place[held_out_photos(splits)] < 0]
        if len(missing):
            raise CourseError(f"{len(missing)} held-out photos were not embedded; embed held_out_photos(splits).")
        return cls(rows, place, splits, head, device)

    def rows(self, photos: np.ndarray) -> torch.Tensor:
        """Return the embeddings (n, d) of held-out photos given by index."""
        return self.embeddings[torch.from_numpy(self.place[photos])]

    def labels(self, photos: np.ndarray) -> np.ndarray:
        """Return the identity labels of these photos."""
        return np.asarray(self.splits.faces.labels)[photos]

    def held_out(self, *pools: str) -> np.ndarray:
        """Return the query and gallery photos of some pools, each once."""
        parts = [self.splits.photos(pool, part) for pool in pools for part in ("query", "gallery")]
        return np.array(list(dict.fromkeys(np.concatenate(parts).tolist())), dtype=np.int64)

    def photos_of(self, *people: int | str) -> np.ndarray:
        """Return the held-out photos of some people, by label or by name, person by person."""
        photos, faces = held_out_photos(self.splits), self.splits.faces
        return np.concatenate([photos[self.labels(photos) == resolve_identity(faces, person)] for person in people])

    def retrieval(self, pool: str) -> RetrievalScores:
        """Score one pool's queries against the gallery of all pools."""
        query, gallery = self.splits.photos(pool, "query"), self.splits.gallery
        return retrieval_scores(
            self.rows(query), self.labels(query), self.rows(gallery), self.labels(gallery),
            query_ids=query, gallery_ids=gallery, device=self.device,
        )  # fmt: skip

    def scores(self, far: float = 1e-3) -> dict:
        """Return the scores pool by pool: one entry of results.json.

        - per pool: 'r1', 'r5' and 'map' of its queries against the gallery of all pools; 'mean_cosine',
          'nearest_cosine' and 'tar' over its held-out photos; NaN for a pool without queries;
        - 'accuracy' in 'forget' and 'retain', if there is a head: the share of held-out photos that it names rightly;
        - 'lookalike_fmr' of the forget queries against the retained gallery, inside 'forget';
        - 'chance': the chance level of the forget queries; 'gallery_size'; 'threshold'.

        The threshold is this model's own: at most a share `far` of the held-out impostor pairs of retained and unseen
        people reach it. With too few pairs it is NaN, and so are 'tar' and 'lookalike_fmr'. Notebook 03.
        """
        splits, threshold = self.splits, _common_threshold(self, far)
        result = {pool: _score_pool(self, pool, threshold) for pool in POOLS}
        query, kept = splits.photos("forget", "query"), splits.photos("retain", "gallery")
        fmr = math.nan
        if len(query) and len(kept):
            fmr = lookalike_fmr(self.rows(query), self.rows(kept), threshold, device=self.device)
        result["forget"]["lookalike_fmr"] = fmr
        if self.head is not None:
            for pool in ("forget", "retain"):
                result[pool]["accuracy"] = self.name_accuracy(pool)
        chance = chance_level(self.labels(query), self.labels(splits.gallery), query, splits.gallery)
        return result | {"chance": chance, "gallery_size": len(splits.gallery), "threshold": threshold}

    def name_accuracy(self, pool: str) -> float:
        """Return the share of a pool's held-out photos whose identity the head ranks first: classification, top 1.

        A head without rows for the forget people (the retrained model's) cannot name them. NaN for an empty pool.
        """
        photos = self.held_out(pool)
        if not len(photos):
            return math.nan
        rows, everybody = len(self.head.weight), len(self.head.weight) == len(self.splits.trained)
        if not everybody and rows != len(self.splits.retain_train):
            raise CourseError(f"The head has {rows} rows, but these splits trained {len(self.splits.trained)} people.")
        people = np.asarray(self.splits.trained if everybody else self.splits.retain_train)
        with torch.no_grad():
            named = self.head.cosines(self.rows(photos).to(self.head.weight)).argmax(dim=1).cpu().numpy()
        return float((people[named] == self.labels(photos)).mean())


def _common_threshold(world: Evaluation, far: float) -> float:
    """Return the threshold at a false accept rate over retained and unseen people, NaN if they are too few."""
    photos = world.held_out("retain", "unseen")
    counts = np.unique(world.labels(photos), return_counts=True)[1]
    n_impostor = (len(photos) ** 2 - (counts**2).sum()) / 2
    if not n_impostor or far < 1 / n_impostor or (counts < 2).all():
        return math.nan
    return tar_at_far(world.rows(photos), world.labels(photos), far, device=world.device).threshold


def _score_pool(world: Evaluation, pool: str, threshold: float) -> dict[str, float]:
    """Return one pool's row of results.json, NaN throughout for a pool without queries."""
    photos = world.held_out(pool)
    if not len(world.splits.photos(pool, "query")):
        return dict.fromkeys(("r1", "r5", "map", "mean_cosine", "nearest_cosine", "tar"), math.nan)
    scores = world.retrieval(pool)
    close = compactness(world.rows(photos), world.labels(photos), device=world.device)
    cosines = {"mean_cosine": close.mean_cosine, "nearest_cosine": close.nearest_cosine}
    tar = true_accept_rate(world.rows(photos), world.labels(photos), threshold, device=world.device)
    return {"r1": scores.r1, "r5": scores.r5, "map": scores.map, **cosines, "tar": tar}


def order_kept(before: Evaluation, now: Evaluation, pool: str = "retain") -> float:
    """Return how far one model ranks the gallery as another does, the mean over a pool's queries of Spearman's rank
    correlation: 1 if nothing moved, 0 in a random order or where all is one point, NaN without queries.

    The second goal of arXiv 2512.13317: retained orderings stay. Introduced in notebook 08.
    """
    query, gallery = now.splits.photos(pool, "query"), now.splits.gallery
    if not len(query):
        return math.nan
    found = []
    for some in np.array_split(query, math.ceil(len(query) / QUERIES_AT_ONCE)):
        ranks = [rankdata((view.rows(some) @ view.rows(gallery).T).cpu(), axis=1) for view in (before, now)]
        first, second = (each - each.mean(axis=1, keepdims=True) for each in ranks)
        both = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        found.append((first * second).sum(axis=1) / np.maximum(both, 1e-12))
    return float(np.concatenate(found).mean())


def per_identity(
    embeddings: Array, photos: np.ndarray, splits: Splits, pool: str = "forget", *, device: str | torch.device = "cpu"
) -> list[dict]:
    """Return one row per identity of a pool, for figures that show people and not only means.

    A row is {'identity', 'label', 'n', 'r1', 'r5', 'map', 'first_rank', 'mean_cosine', 'nearest_cosine'}; there is none
    for a pool without queries. Raises CourseError if a held-out photo is missing. Introduced in notebook 03.
    """
    world = Evaluation.make(embeddings, photos, splits, device=device)
    held_out = world.held_out(pool)
    if not len(splits.photos(pool, "query")):
        return []
    found = world.retrieval(pool).per_identity()
    close = compactness(world.rows(held_out), world.labels(held_out), device=device)
    cosines = dict(zip(close.labels.tolist(), zip(close.mean_cosines, close.nearest_cosines, strict=True), strict=True))
    return [
        {"identity": splits.faces.identities[label], "label": label, **scores,
         "mean_cosine": float(cosines[label][0]), "nearest_cosine": float(cosines[label][1])}
        for label, scores in found.items()
    ]  # fmt: skip
