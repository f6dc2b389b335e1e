"""facenet-pytorch's published weights: where they lie, whether they are whole, and whom they were trained on."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch

from ..faces.downloads import RemoteFile, checksum_of, fetch
from ..faces.lists import meta_row, read_lines, read_meta, without_quotes
from ..settings import CourseError, cache_dir, one_of

RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9"
# the same bytes under another name, at a fixed revision
MIRROR = "https://huggingface.co/py-feat/facenet/resolve/8dd79278b755ee24ee9922619122df8a2b80b787"


@dataclass(frozen=True)
class Weights:
    """One published model: its weight file and the number of people it was trained on."""

    remote: RemoteFile
    n_classes: int


# The VGGFace2 file's size and hash are those of its copy on the Hugging Face hub, and several projects pin the same
# value. For the CASIA file no hash was found: there only the tensors inside can be checked.
FACENET_WEIGHTS = {
    "vggface2": Weights(
        RemoteFile(
            "20180402-114759-vggface2.pt",
            (f"{RELEASE}/20180402-114759-vggface2.pt", f"{MIRROR}/facenet_20180402_114759_vggface2.pth"),
            111_898_327,
            "sha256:281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
            moved_by="TORCH_HOME",
        ),
        8631,
    ),
    "casia-webface": Weights(
        RemoteFile(
            "20180408-102900-casia-webface.pt", (f"{RELEASE}/20180408-102900-casia-webface.pt",), moved_by="TORCH_HOME"
        ),
        10575,
    ),
}


# ------------------------------------------------------------------------------------------------------ weight files


def facenet_weights_path(pretrained: str) -> Path:
    """Return the file in which facenet-pytorch looks for its weights (TORCH_HOME or XDG_CACHE_HOME move it)."""
    from facenet_pytorch.models.inception_resnet_v1 import get_torch_home

    return Path(get_torch_home()) / "checkpoints" / FACENET_WEIGHTS[pretrained].remote.name


def fetch_facenet_weights(pretrained: str, *, progress: bool = True) -> Path:
    """Return the path of a whole weight file, fetched anew where it is absent or broken; raises CourseError.

    The message names file, folder and address, so that a room without a network can be served by hand.
    """
    weights, path = FACENET_WEIGHTS[pretrained], facenet_weights_path(pretrained)
    known = weights.remote.checksum is not None
    if known and path.is_file() and checksum_of(path) == weights.remote.checksum:
        return path  # also from a folder that cannot be written
    if not known and path.is_file() and tensor_fault(path, weights.n_classes):
        path.replace(path.with_name(f"{path.name}.refused"))
    try:
        fetch(weights.remote, path.parent, progress=progress)
    except CourseError as error:
        raise CourseError(f"No '{pretrained}' weights (pretrained 'none' needs no file): {error}") from error
    if fault := tensor_fault(path, weights.n_classes):
        raise CourseError(f"{path} {fault}: it is not the '{pretrained}' file; put the right one in its place.")
    return path


def tensor_fault(path: Path, n_classes: int) -> str:
    """Say what is wrong with the tensors in a weight file (its last layer must fit `n_classes`), or nothing."""
    try:
        shape = tuple(torch.load(path, map_location="cpu", weights_only=True)["logits.weight"].shape)
    except (RuntimeError, UnpicklingError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"is broken, or holds no such weights ({path.stat().st_size:,} bytes)"
    return "" if shape == (n_classes, 512) else f"has a last layer of shape {shape} instead of {(n_classes, 512)}"


# ------------------------------------------------------------------------------------------------------- label lists

LABEL_LISTS = "VGGFace2's identity_meta.csv, or a text file with one name per line in the order of the classes"


@dataclass(frozen=True)
class TrainingPeople:
    """Whom a published model was trained on: names in the order of its classes, class ids where they are known."""

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()

    def class_of(self, person: str) -> int | None:
        """Return the class of a person named as in any data set ('Ada_Lovelace', 'n000123'), or None if not met."""
        return self._classes.get(plain_name(person))

    @functools.cached_property
    def _classes(self) -> dict[str, int]:
        found = {plain_name(name): k for k, name in enumerate(self.names)}
        return found | {class_id: k for k, class_id in enumerate(self.ids)}


def plain_name(name: str) -> str:
    """Return a name without case, accents, quotes, dots and underscores, so that two data sets' spellings meet."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    letters = "".join(character for character in decomposed if not unicodedata.combining(character))
    return " ".join(re.sub(r"[\W_]+", " ", letters).split())


def label_list_path(pretrained: str) -> Path:
    """Return where a model's list of training people is looked for: none is published with the weights."""
    return cache_dir() / "labels" / f"{pretrained}.csv"


def read_training_people(path: str | Path, pretrained: str = "vggface2") -> TrainingPeople:
    """Read a label list: VGGFace2's identity_meta.csv (rows marked 1 were trained on), or plain text, a name a line.

    Raises CourseError unless it lists as many people as the model has classes. Introduced in notebook 01.
    """
    path, wanted = Path(path), FACENET_WEIGHTS[one_of(pretrained, FACENET_WEIGHTS, "pretrained weights")].n_classes
    lines = read_lines(path)
    if any(map(meta_row, lines)):
        trained = [(class_id, name) for class_id, name, flag in sorted(read_meta(path, LABEL_LISTS)) if flag == "1"]
        people = TrainingPeople(tuple(name for _, name in trained), tuple(class_id for class_id, _ in trained))
    else:
        people = TrainingPeople(tuple(filter(None, map(without_quotes, lines))))
    if len(people.names) != wanted:
        raise CourseError(
            f"{path} lists {len(people.names):,} people, but the '{pretrained}' model has {wanted:,} classes; "
            f"wanted is {LABEL_LISTS}."
        )
    return people


def who_was_trained_on(names: Sequence[str], pretrained: str, path: str | Path | None = None) -> str:
    """Say in one sentence which of some people a published model was trained on, or that it cannot be known here.

    Introduced in notebook 01.
    """
    path = Path(path) if path else label_list_path(pretrained)
    n_classes = FACENET_WEIGHTS[one_of(pretrained, FACENET_WEIGHTS, "pretrained weights")].n_classes
    if not path.is_file():
        return (
            f"Whether these {len(names)} people are among the {n_classes:,} that '{pretrained}' was trained on is "
            f"unknown: there is no label list at {path} (wanted: {LABEL_LISTS})."
        )
    people = read_training_people(path, pretrained)
    met = [name for name in names if people.class_of(name) is not None]
    listed = f": {', '.join(met[:10])}{', ...' if len(met) > 10 else ''}" if met else ""
    return f"{len(met)} of these {len(names)} people share a name with one '{pretrained}' was trained on{listed}."
