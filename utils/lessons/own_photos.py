"""A few people's own photos, held in memory only: read, put into a gallery, forgotten, and nothing left behind."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..faces.alignment import Aligner
from ..faces.crops import read_or_reason
from ..faces.datasets import FaceDataset, index_folder_of
from ..faces.identities import resolve_identity
from ..faces.listing import Photo, Skipped
from ..faces.splits import Splits, part_sizes
from ..models.checkpoints import Recogniser
from ..models.dlib_weights import dlib_at_hand
from ..models.embedding import embed
from ..models.heads import CosineHead
from ..retrieval.evaluation import Evaluation
from ..retrieval.scores import retrieval_scores
from ..settings import CourseError, suggest

FEWEST = 3  # one photo to learn from, one to search with, one to be found


@dataclass(frozen=True, eq=False)
class OwnPhotos:
    """Face crops (n, 3, S, S) uint8 of a few people by name, and what could not be used. Introduced in notebook 11.

    `crowds` holds every face (left to right) of photos that show several; `taken` are the labels of people of the data
    set who play the part of your photos when there are no photos.
    """

    people: tuple[str, ...]
    crops: Tensor
    labels: np.ndarray
    photos: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    crowds: dict[str, Tensor] = field(default_factory=dict)
    taken: tuple[int, ...] = ()
    name: ClassVar[str] = "the album"

    @property
    def identities(self) -> tuple[str, ...]:
        """The people, under the name by which a data set has them."""
        return self.people

    def report(self) -> str:
        """Return who has how many photos, and per unused photo the reason."""
        counts = [f"{name}: {(self.labels == i).sum()} photos" for i, name in enumerate(self.people)]
        counts += [f"not used: {entry.photo} ({entry.reason})" for entry in self.skipped]
        return "\n".join(counts + [f"several faces: {photo} ({len(f)} found)" for photo, f in self.crowds.items()])


def parse_choices(text: str) -> dict[str, int]:
    """Turn 'party.jpg=2,beach.jpg=1' into the number, from the left, of the face meant in each group photo."""
    choices = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = part.rpartition("=")
        if not (equals and name.strip() and number.strip().isdecimal() and int(number) > 0):
            raise CourseError(f"A choice is written like 'party.jpg=2', the face counted from the left, not '{part}'.")
        choices[name.strip()] = int(number)
    return choices


def chosen_photos(choices: Mapping[str, int], photos: Sequence[Photo]) -> dict[str, int]:
    """Return the choices by the photo's whole name; raises CourseError where none or several photos could be meant."""
    found = {}
    for wanted, number in choices.items():
        fits = [photo.name for photo in photos if photo.name == wanted] or [
            photo.name for photo in photos if Path(photo.name).name == wanted
        ]
        if len(fits) > 1:
            raise CourseError(f"Several photos are called '{wanted}': write which of them, {' or '.join(fits)}.")
        if not fits:
            raise CourseError(f"No photo is called '{wanted}'.{suggest(wanted, [photo.name for photo in photos])}")
        if fits[0] in found:
            raise CourseError(f"There are two choices for '{fits[0]}'; give one.")
        found[fits[0]] = number
    return found


def read_own_photos(folder: str | Path, image_size: int, choices: Mapping[str, int] | None = None) -> OwnPhotos:
    """Read a folder with one sub-folder per person into memory: upright, detected, aligned; nothing is written.

    Of several faces the one nearest to the photo's centre is taken, unless `choices` names another by 'person/file' (or
    a file name that only one photo has) and number from the left. Raises CourseError for a choice that fits no photo,
    several, or one without that face, and if nobody is left. Introduced in notebook 11.
    """
    album, aligner = index_folder_of(folder).people, Aligner(image_size)
    choices = chosen_photos(choices or {}, [photo for _, files in album for photo in files])
    people, crops, labels, photos, skipped, crowds = [], [], [], [], [], {}
    for person, files in album:
        label = len(people)
        for photo in files:
            image = read_or_reason(photo)
            faces = [] if isinstance(image, str) else aligner.every_face(image)
            number = choices.get(photo.name)
            if number is not None and number > len(faces):
                told = f"shows {len(faces)} faces" if faces else image if isinstance(image, str) else "no face found"
                raise CourseError(f"'{photo.name}': {told}, so there is no face number {number}.")
            if not faces:
                skipped.append(Skipped(photo.name, image if isinstance(image, str) else "no face found"))
                continue
            shown = torch.from_numpy(np.stack([face.crop for face in faces])).permute(0, 3, 1, 2).contiguous()
            if len(faces) > 1:
                crowds[photo.name] = shown
            centre = np.array(image.size) / 2
            near = [np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - centre) for face in faces]
            crops.append(shown[int(np.argmin(near)) if number is None else number - 1])
            labels.append(label)
            photos.append(photo.name)
        if labels and labels[-1] == label:
            people.append(person)
    if not crops:
        reasons = "; ".join(f"{entry.photo}: {entry.reason}" for entry in skipped[:3])
        raise CourseError(f"No face could be used in '{Path(folder).name}' ({reasons}).")
    return OwnPhotos(tuple(people), torch.stack(crops), np.array(labels), tuple(photos), tuple(skipped), crowds)


def recogniser_for(backbone: str, album: str, dataset: str) -> str:
    """Return the backbone as asked for; 'auto' is dlib's where its weights are and real faces are searched, else mini.

    Introduced in notebook 11.
    """
    if backbone != "auto":
        return backbone
    return "dlib" if (album or dataset != "synthetic") and dlib_at_hand() else "mini"


def drawn_own_photos(splits: Splits, people: int = 5, photos: int = 12) -> OwnPhotos:
    """Return some never-trained people of the data set in the place of your photos, the first of them as you.

    Introduced in notebook 11.
    """
    faces, held_out = splits.faces, np.concatenate([splits.query, np.setdiff1d(splits.gallery, splits.query)])
    if len(splits.unseen) < people:
        raise CourseError(f"The data set has {len(splits.unseen)} people nobody trained on; {people} are needed.")
    chosen = splits.unseen[:people]
    rows = [held_out[faces.labels[held_out] == person][:photos] for person in chosen]
    labels = np.concatenate([[i] * len(r) for i, r in enumerate(rows)]).astype(np.int64)
    indices = np.concatenate(rows)
    names = tuple(faces.photo_names[i] for i in indices)
    people_names = ("you", *(faces.identities[person] for person in chosen[1:]))
    return OwnPhotos(people_names, faces.images(indices), labels, names, taken=tuple(chosen))


def my_parts(n: int) -> tuple[int, int]:
    """Return how many of n own photos are to learn from and to search with; the rest is enrolled. Notebook 11."""
    if n < FEWEST:
        raise CourseError(f"You need at least {FEWEST} usable photos of yourself, and there are {n}.")
    return (n - 2, 1) if n < 6 else part_sizes(n, True)


def joined(splits: Splits, album: OwnPhotos, me: str | int) -> Splits:
    """Return splits of the data set's people and your own, with `me` to be forgotten and friends as unseen people.

    Your photos are dealt into train, query and gallery in the splits' order of chance. Raises CourseError if `me` is
    not in the folder or has too few photos. Introduced in notebook 11.
    """
    mine = resolve_identity(album, me)
    faces, first, n = splits.faces, len(splits.faces.identities), len(splits.faces)
    names = [name if name not in faces.identities else f"{name} (album)" for name in album.people]
    together = FaceDataset(
        f"{faces.name} and an album",
        torch.cat([faces.images(np.arange(n)), album.crops]),
        np.concatenate([faces.labels, album.labels + first]),
        (*faces.identities, *names),
        (*faces.photo_names, *(f"album {i}" for i in range(len(album.photos)))),
        faces.image_size,
        faces.source,
        faces.licence,
        faces.trained_min_photos,
    )
    rng, train, query, gallery = np.random.default_rng(splits.seed), [], [], []
    for label in range(len(album.people)):
        photos = rng.permutation(n + np.flatnonzero(album.labels == label))
        n_train, n_query = my_parts(len(photos)) if label == mine else part_sizes(len(photos), False)
        for part, chosen in zip((train, query, gallery), np.split(photos, [n_train, n_train + n_query]), strict=True):
            part.append(chosen)
    friends = [first + i for i in range(len(album.people)) if i != mine]

    def part(old: np.ndarray, new: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([old[~np.isin(faces.labels[old], album.taken)], *new]).astype(np.int64)

    return replace(
        splits,
        faces=together,
        forget=(first + mine,),
        retain=tuple(sorted(splits.retain + splits.forget)),
        unseen=tuple(sorted([*(person for person in splits.unseen if person not in album.taken), *friends])),
        train=part(splits.train, train),
        query=part(splits.query, query),
        gallery=part(splits.gallery, gallery),
    )


def enrolled(recogniser: Recogniser, splits: Splits) -> CosineHead:
    """Return a copy of the head with one row more, your photos' mean direction: now the model knows your name.

    Introduced in notebook 11.
    """
    mean = embed(recogniser.model, splits.faces, splits.photos("forget", "train")).mean(dim=0)
    head = copy.deepcopy(recogniser.head)
    row = F.normalize(mean, dim=0).to(head.weight)
    head.weight = torch.nn.Parameter(torch.cat([head.weight.detach(), row[None]]))
    return head


def attempts(before: Evaluation, after: Evaluation, train_rows: tuple[Tensor, Tensor]) -> dict[str, tuple]:
    """Return, for each way to look for you, the mean rank of your first photo before and after, {way: (rank, rank)}.

    `train_rows` are your training photos as the old and as the new model place them. Introduced in notebook 11.
    """
    splits = before.splits
    query, gallery = splits.photos("forget", "query"), splits.gallery

    def rank(rows: Tensor, labels: np.ndarray, world: Evaluation) -> float:
        found = retrieval_scores(rows, labels, world.rows(gallery), world.labels(gallery))
        return float(np.mean(found.first_rank))

    def template(rows: Tensor) -> Tensor:
        return F.normalize(rows.mean(dim=0, keepdim=True))

    mine, me = before.labels(query), np.asarray(splits.forget)
    found = rank(before.rows(query), mine, before)
    old, new = (template(rows) for rows in train_rows)
    return {
        "a new photo": (found, rank(after.rows(query), mine, after)),
        "a template of several photos": (rank(old, me, before), rank(new, me, after)),
        "a new photo, the old gallery": (found, rank(after.rows(query), mine, before)),
        "an old template, the new gallery": (rank(old, me, before), rank(old, me, after)),
    }


# ------------------------------------------------------------------------------------------- nothing is left behind


WAYS_OUT = (
    *((socket.socket, name) for name in ("connect", "connect_ex", "sendto", "sendmsg")),
    *((socket, name) for name in ("create_connection", "getaddrinfo", "gethostbyname", "gethostbyname_ex")),
    *((socket, name) for name in ("gethostbyaddr", "getnameinfo")),
)


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Refuse to open a connection, to send to an address or to look up a name, and yield the list of what was tried.

    It covers Python code of this process that goes through `socket`, on every thread: requests, urllib, asyncio and
    libraries like them. It does not cover connections that are open already (Jupyter's own), functions of `socket` that
    somebody took before under a name of their own, other processes and shell lines, or compiled code that calls the
    system by itself. Introduced in notebook 11.
    """
    tried: list[str] = []

    def refusing(name: str, way: Callable) -> Callable:
        def refuse(*arguments: object, **more: object) -> object:
            given = [value for value in (*arguments, *more.values()) if not isinstance(value, socket.socket)]
            if name == "sendmsg" and len(given) < 4:  # no address: over a connection that is open already
                return way(*arguments, **more)
            tried.append(f"{name} {given[-1 if name.startswith('send') else 0]}")
            raise OSError("This notebook works without a network, and has cut it off.")

        return refuse

    with ExitStack() as stack:
        for owner, name in WAYS_OUT:
            stack.enter_context(patch.object(owner, name, refusing(name, getattr(owner, name))))
        yield tried


def files_in(*folders: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of the last change of every file in some folders, by path; .git and .venv are left out."""
    found = {}
    for folder in folders:
        for home, inner, files in os.walk(folder):
            inner[:] = [name for name in inner if name not in (".git", ".venv", "__pycache__", ".ipynb_checkpoints")]
            for name in files:
                try:
                    status = os.stat(os.path.join(home, name))
                except OSError:  # gone while we looked
                    continue
                found[os.path.join(home, name)] = (status.st_size, status.st_mtime_ns)
    return found


def changed_files(before: Mapping[str, tuple], after: Mapping[str, tuple]) -> list[str]:
    """Return the paths that are new or different in `after`. Introduced in notebook 11."""
    return sorted(path for path, stamp in after.items() if before.get(path) != stamp)
