"""Who is forgotten, who is kept, who was never seen: identity pools, and train, query and gallery photos."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ..settings import CourseError, as_seed, one_of, whole_number
from .datasets import FaceDataset
from .identities import resolve_identities

POOLS = ("forget", "dev_forget", "retain", "retain_train", "unseen", "trained", "distractors")
PARTS = ("train", "query", "gallery")
HELD_OUT = ("fifth", "half")  # of a trained person's photos
MIN_TRAINED_PHOTOS = 4  # 2 to train on, 1 to search with, 1 to be found
MIN_RETAINED = 2  # with fewer there is nobody left to keep recognising
USUAL_FORGET = 10  # where people are few: a third of the trained ones
# The model before unlearning must not depend on who is forgotten, so these choices never follow the run's seed.
UNSEEN_SEED, DEV_SEED, PHOTO_SEED = 1001, 1002, 1003


@dataclass(frozen=True, eq=False)
class Splits:
    """Disjoint identity pools (tuples of labels) and disjoint photo parts (int64 index arrays) of one data set;
    a set of pools or parts that overlap raises CourseError. Where half of the photos are `held_out`, each of them is a
    query and lies in the gallery of all others: there, a search must leave the query's own photo out. Notebook 03."""

    faces: FaceDataset
    seed: int
    forget: tuple[int, ...]
    dev_forget: tuple[int, ...]
    retain: tuple[int, ...]
    unseen: tuple[int, ...]
    distractors: tuple[int, ...]
    train: np.ndarray
    query: np.ndarray
    gallery: np.ndarray
    notes: tuple[str, ...] = ()
    held_out: str = "fifth"

    def __post_init__(self) -> None:
        pools = {name: getattr(self, name) for name in ("forget", "dev_forget", "retain", "unseen", "distractors")}
        parts = {name: getattr(self, name) for name in PARTS}
        _require_disjoint(pools, "identity pools")
        for pair in combinations(PARTS, 2):
            if pair != ("query", "gallery") or self.held_out != "half":
                _require_disjoint({part: parts[part] for part in pair}, "photo parts")
        strangers = set(self._labels(self.train)) - set(self.trained)
        if strangers:
            raise CourseError(f"Training photos show people outside the trained pools: labels {sorted(strangers)}.")

    @property
    def trained(self) -> tuple[int, ...]:
        """Labels the original model was trained on, sorted: the order of the classification head's rows."""
        return tuple(sorted(self.forget + self.dev_forget + self.retain))

    @property
    def retain_train(self) -> tuple[int, ...]:
        """Labels whose training photos a method may use to stay useful: retain and dev-forget, sorted."""
        return tuple(sorted(self.retain + self.dev_forget))

    def apart(self, pool: str) -> tuple[np.ndarray, np.ndarray]:
        """Return gallery and query photos of one pool of which none is in both: for who learns from the first.

        Where each held-out photo plays both parts, every second one of a person plays the first alone.
        """
        gallery, query = self.photos(pool, "gallery"), self.photos(pool, "query")
        if self.held_out != "half":
            return gallery, query
        labels = self._labels(gallery)
        first = np.concatenate([gallery[labels == person][::2] for person in np.unique(labels)] or [gallery])
        return np.sort(first), np.setdiff1d(query, first)

    @property
    def n_identities(self) -> int:
        """Number of people in all pools, distractors included."""
        return len(self.trained) + len(self.unseen) + len(self.distractors)

    def photos(self, pool: str, part: str) -> np.ndarray:
        """Return the int64 photo indices of one pool and one part; raises CourseError for an unknown name."""
        people = getattr(self, one_of(pool, POOLS, "pool"))
        indices = getattr(self, one_of(part, PARTS, "part"))
        return indices[np.isin(self._labels(indices), people)]

    def class_of(self, labels: Iterable[int] | int) -> np.ndarray:
        """Map identity labels to rows of the classification head, int64; raises CourseError for untrained people."""
        labels = np.asarray(labels)
        if labels.size and labels.dtype.kind not in "iu":
            raise CourseError(
                f"Labels are whole numbers, not {labels.reshape(-1)[0]!r}; see faces.photos_of for names."
            )
        labels = labels.astype(np.int64)
        rows = np.asarray(self.trained, dtype=np.int64)
        outside = np.setdiff1d(labels, rows)
        if outside.size:
            who = ", ".join(str(label) for label in outside[:5])
            raise CourseError(f"Labels {who} were not trained on, so the classification head has no row for them.")
        return np.searchsorted(rows, labels)

    def swap_dev(self) -> Splits:
        """Exchange forget and dev-forget: hyper-parameters are chosen on these splits, never on the true forget set."""
        if not self.dev_forget:
            raise CourseError("These splits have no dev-forget people; make them with n_dev of at least 1.")
        return replace(self, forget=self.dev_forget, dev_forget=self.forget)

    def without_queries(self, unseen: Sequence[int]) -> Splits:
        """Let some unseen people do no more than distract in the gallery."""
        others = tuple(label for label in self.unseen if label not in unseen)
        return replace(self, unseen=others, distractors=tuple(sorted({*self.distractors, *unseen})))

    def summary(self) -> str:
        """Return a table of people and photos per pool, followed by the notes."""
        lines = [f"{'pool':<12}{'people':>8}{'train':>8}{'query':>8}{'gallery':>9}"]
        for pool in ("forget", "dev_forget", "retain", "unseen", "distractors"):
            train, query, gallery = (len(self.photos(pool, part)) for part in PARTS)
            lines.append(f"{pool:<12}{len(getattr(self, pool)):>8}{train:>8}{query:>8}{gallery:>9}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def _labels(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self.faces.labels)[indices]


def make_splits(
    faces: FaceDataset,
    *,
    n_forget: int | None = None,
    forget_ids: Sequence[str | int] | str | None = None,
    n_dev: int = 10,
    seed: int = 0,
    unseen_fraction: float = 0.25,
    trained_min_photos: int | None = None,
    held_out: str | None = None,
) -> Splits:
    """Deal the people of a data set into pools and their photos into train, query and gallery; `forget_ids` (names or
    labels, see `resolve_identities`) replaces the random draw of `n_forget` (None: ten, or a third of few); `held_out`
    is one of HELD_OUT (None: the data set's own choice), see `part_sizes`. Where too few have the data set's usual
    number of photos to be trained on, fewer photos do, and a note says so; raises CourseError when the people or photos
    do not suffice. Introduced in notebook 03."""
    minimum = faces.trained_min_photos if trained_min_photos is None else trained_min_photos
    n_forget = n_forget if n_forget is None else whole_number(n_forget, "n_forget", 1)
    n_dev, seed = whole_number(n_dev, "n_dev"), as_seed(seed)
    held_out = one_of(held_out or faces.held_out, HELD_OUT, "share to hold out")
    minimum = whole_number(minimum, "trained_min_photos")
    _check_sizes(unseen_fraction, minimum)
    counts = np.bincount(np.asarray(faces.labels), minlength=len(faces.identities))
    named = resolve_identities(faces, forget_ids)
    _require_photos(faces, named, counts)

    stay = MIN_RETAINED + min(n_dev, 1)  # early stopping asks at least one dev-forget person
    least = minimum if trained_min_photos is not None else MIN_TRAINED_PHOTOS
    for limit in range(minimum, least - 1, -1):
        trained, unseen = _trained_and_unseen(counts, limit, unseen_fraction)
        notes = _photo_notes(faces, counts, limit, named, unseen)
        trained, unseen = sorted(set(trained) | set(named)), sorted(set(unseen) - set(named))
        if len(trained) >= (len(named) or n_forget or 1) + stay:
            break
    if limit < minimum:
        notes.append(f"Too few people have {minimum} photos: who has {limit} can be trained on.")
    forget_size = len(named) or n_forget or min(USUAL_FORGET, max(1, len(trained) // 3))
    _require_people(faces, counts, len(trained), len(unseen), forget_size, stay, limit)

    dev_size = min(n_dev, max(1, (len(trained) - forget_size) // 3))
    if dev_size < n_dev:
        notes.append(f"Too few trained people for {n_dev} dev-forget people: {dev_size} drawn instead.")
    dev = [label for label in _shuffled(trained, DEV_SEED) if label not in named][:dev_size]
    others = [label for label in trained if label not in dev]
    forget = named or _shuffled(others, seed)[:forget_size]
    retain = [label for label in others if label not in forget]
    train, query, gallery = _deal_photos(faces, counts, trained, held_out)
    distractors = np.flatnonzero(counts == 1)
    pools = (tuple(sorted(int(label) for label in pool)) for pool in (forget, dev, retain, unseen, distractors))
    return Splits(faces, seed, *pools, train, query, gallery, tuple(notes), held_out)


def _check_sizes(unseen_fraction: float, minimum: int) -> None:
    if not 0 <= unseen_fraction < 1:
        raise CourseError(f"unseen_fraction is {unseen_fraction}, but it must lie in [0, 1).")
    if minimum < MIN_TRAINED_PHOTOS:
        raise CourseError(
            f"trained_min_photos is {minimum}, but a trained person needs at least {MIN_TRAINED_PHOTOS} photos: "
            "2 to train on, 1 query and 1 in the gallery."
        )


def _require_photos(faces: FaceDataset, named: list[int], counts: np.ndarray) -> None:
    short = [f"{faces.identities[label]} ({counts[label]})" for label in named if counts[label] < MIN_TRAINED_PHOTOS]
    if short:
        raise CourseError(
            f"A person to forget needs at least {MIN_TRAINED_PHOTOS} usable photos "
            f"(2 to train on, 1 query, 1 in the gallery); too few: {', '.join(short)}."
        )


def _require_people(
    faces: FaceDataset, counts: np.ndarray, n_trained: int, n_unseen: int, n_forget: int, stay: int, minimum: int
) -> None:
    if n_trained <= stay:
        raise CourseError(
            f"Too few people in '{faces.name}': {int((counts >= minimum).sum())} of {len(faces.identities)} have "
            f"{minimum} photos or more, {n_unseen} stay unseen, {n_trained} are left to train on, but {stay + 1} are "
            "needed (six people with eight photos each do): add people, or photos of those there are."
        )
    if n_forget > n_trained - stay:
        raise CourseError(
            f"Asked to forget {n_forget} of {n_trained} trained people, but {stay} must stay ({MIN_RETAINED} retained"
            f"{', 1 dev-forget' if stay > MIN_RETAINED else ''}): at most {n_trained - stay} can be forgotten."
        )


def _trained_and_unseen(counts: np.ndarray, minimum: int, unseen_fraction: float) -> tuple[list[int], list[int]]:
    """People with few photos are unseen; others join them, in a fixed order, until their share is large enough."""
    trained = np.flatnonzero(counts >= minimum).tolist()
    unseen = np.flatnonzero((counts >= 2) & (counts < minimum)).tolist()
    wanted = math.ceil(unseen_fraction * (len(trained) + len(unseen)))
    joining = set(_shuffled(trained, UNSEEN_SEED)[: max(0, wanted - len(unseen))])
    return [label for label in trained if label not in joining], sorted([*unseen, *joining])


def _photo_notes(
    faces: FaceDataset, counts: np.ndarray, minimum: int, named: list[int], unseen: list[int]
) -> list[str]:
    few = int(((counts >= 2) & (counts < minimum)).sum())
    joined, single, none = len(unseen) - few, int((counts == 1).sum()), int((counts == 0).sum())
    moved = [faces.identities[label] for label in named if label in unseen]
    notes = []
    if few:
        notes.append(f"{few} people have fewer than {minimum} photos and are unseen: never trained on.")
    if joined:
        notes.append(f"{joined} people with enough photos were set aside as unseen.")
    if single:
        notes.append(f"{single} people have a single photo and only distract in the gallery.")
    if none:
        notes.append(f"{none} people have no usable photo and take no part.")
    if moved:
        notes.append(f"Named to be forgotten, so trained instead of unseen: {', '.join(moved)}.")
    return notes


def _shuffled(labels: Sequence[int], seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(np.asarray(labels, dtype=np.int64)).tolist()


def _deal_photos(faces: FaceDataset, counts: np.ndarray, trained: list[int], held_out: str) -> tuple[np.ndarray, ...]:
    """Deal each person's photos, in an order that depends on that person's name alone, into three sorted parts."""
    by_person = np.split(np.argsort(np.asarray(faces.labels), kind="stable"), np.cumsum(counts)[:-1])
    trained_set, dealt = set(trained), ([], [], [])
    for label, photos in enumerate(by_person):
        rng = np.random.default_rng([PHOTO_SEED, zlib.crc32(faces.identities[label].encode())])
        photos = rng.permutation(photos)
        n_train, n_query = part_sizes(len(photos), label in trained_set, held_out)
        chosen = np.split(photos, [n_train, n_train + n_query])
        if held_out == "half" and len(photos) > 1:
            chosen[1] = chosen[2] = photos[n_train:]
        for part, some in zip(dealt, chosen, strict=True):
            part.append(some)
    return tuple(np.sort(np.concatenate(part)).astype(np.int64) for part in dealt)


def part_sizes(n_photos: int, is_trained: bool, held_out: str = "fifth") -> tuple[int, int]:
    """Return how many of a person's n photos are train and query photos; the rest are gallery photos: a trained person
    holds out a fifth, at least 4 where possible; an unseen person's photos are halved; a single photo is gallery.
    With `held_out` half a trained person holds out half, an unseen one all, and the queries are in the gallery, too."""
    if held_out == "half":
        n_train = n_photos - n_photos // 2 if is_trained else 0
        return n_train, n_photos - n_train if n_photos > 1 else 0
    if not is_trained:
        return 0, n_photos // 2
    kept_back = min(max(round(0.2 * n_photos), 4), n_photos - 2)
    return n_photos - kept_back, kept_back // 2


def _require_disjoint(groups: dict[str, Sequence[int]], what: str) -> None:
    for name, members in groups.items():
        if len(set(np.asarray(members).tolist())) < len(members):
            raise CourseError(f"The {what} are not sound: '{name}' holds an entry twice.")
    for (name_a, a), (name_b, b) in combinations(groups.items(), 2):
        if np.intersect1d(np.asarray(a), np.asarray(b)).size:
            raise CourseError(f"The {what} are not disjoint: '{name_a}' and '{name_b}' overlap.")
