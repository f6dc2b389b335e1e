"""A method from one file outside the repository: read, tried on a small world, and refused if it does not play fair."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

from ..faces.datasets import FaceDataset, load_faces
from ..faces.splits import PARTS, Splits, make_splits
from ..models.backbones import make_backbone
from ..models.embedding import embed
from ..models.heads import make_head
from ..settings import CourseError, seed_everything, sha256_of
from ..unlearning.loop import Unlearned, unlearn
from ..unlearning.registry import METHODS

TRIAL_PEOPLE, TRIAL_SHARE = 12, 3  # drawn people of the trial, and every how-manyth of their photos takes part
SHORT = {"steps": 2, "epochs": 1, "retain_per_step": 16, "batch_size": 32}


def entered(path: Path) -> str:
    """Import a method file and return the name that it registers; CourseError if that is not one new method."""
    if not (path := Path(path).expanduser()).is_file():
        raise CourseError(f"There is no method file {path}; docs/my_method.py is one to copy.")
    before = dict(METHODS)
    spec = importlib.util.spec_from_file_location(f"entered_{sha256_of(path)[:12]}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise CourseError(f"{path} cannot be imported ({type(error).__name__}: {error}).") from error
    finally:
        taken = [name for name, entry in before.items() if METHODS.get(name) is not entry]
        METHODS.update(before)
    if taken:
        raise CourseError(f"{path} takes the name of '{taken[0]}', which the course has: choose another.")
    new = [name for name in METHODS if name not in before]
    if len(new) != 1:
        raise CourseError(f"{path} registers {len(new)} methods, and one is wanted: put @method(...) over a function.")
    return new[0]


def without_held_out(splits: Splits) -> Splits:
    """Return what a method may see: training photos; all others are grey, and there are no queries and no gallery."""
    faces, nothing = splits.faces, np.empty(0, np.int64)
    pixels = faces.images(np.arange(len(faces)))
    pixels[np.setdiff1d(np.arange(len(faces)), splits.train)] = 127
    which = hashlib.sha256(splits.train.tobytes()).hexdigest()[:16]  # another draw hides other photos
    blind = dataclasses.replace(faces, pixels=pixels).known_as(f"{faces.fingerprint}, photos {which} alone")
    return dataclasses.replace(splits, faces=blind, query=nothing, gallery=nothing)


@functools.cache
def trial_world() -> Splits:
    """Return a few of the drawn people, two of them to forget."""
    faces = load_faces("synthetic", max_identities=TRIAL_PEOPLE, progress=False)
    some = np.arange(0, len(faces), TRIAL_SHARE)
    names = tuple(faces.photo_names[i] for i in some)
    few = {"pixels": faces.images(some), "labels": np.asarray(faces.labels)[some], "photo_names": names}
    return make_splits(
        FaceDataset(**few, identities=faces.identities, trained_min_photos=10, **about(faces)), n_forget=2
    )


def about(faces: FaceDataset) -> dict:
    """Return what a part of a data set says of itself."""
    return {"name": "trial", "image_size": faces.image_size, "source": faces.source, "licence": faces.licence}


def trial(name: str, splits: Splits) -> Unlearned:
    """Run two steps of a method on a random network; raises what the method raises."""
    seed_everything(0)
    model, head = make_backbone("mini").eval(), make_head("cosface", 128, len(splits.trained))
    config = METHODS[name].config
    known = {field.name: field.default for field in dataclasses.fields(config)}
    mine = [key for key in SHORT if known.get(key) and key not in getattr(config, "unused", ())]
    options = {key: min(known[key], SHORT[key]) for key in mine}
    return unlearn(name, model, head, splits, device="cpu", progress=False, **options)


def content(splits: Splits) -> str:
    """Return a hash of all that a method is given of the data."""
    parts = [splits.faces.pixels.numpy(), np.asarray(splits.faces.labels), *(getattr(splits, part) for part in PARTS)]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def check_entry(name: str) -> None:
    """Try a method on a small world; CourseError if it fails, changes its inputs, returns NaN, looks at held-out photos
    or says another kind of itself than it is."""
    splits = trial_world()
    before, size = content(splits), len(make_backbone("mini").state_dict())
    try:
        outcome = trial(name, splits)
    except CourseError:
        raise
    except Exception as error:
        raise CourseError(f"Method '{name}' fails on a small trial ({type(error).__name__}: {error}).") from error
    if content(splits) != before:
        trial_world.cache_clear()
        raise CourseError(f"Method '{name}' changes the photos or splits that it is given: work on copies.")
    points = embed(outcome.model, splits.faces, splits.train)
    if not torch.isfinite(points).all():
        raise CourseError(f"Method '{name}' returns a model whose embeddings are NaN or infinite: use milder settings.")
    adds = len(outcome.model.state_dict()) != size
    if adds != (METHODS[name].kind == "wrapper"):
        told = "adds a part to the network" if adds else "adds no part to the network"
        raise CourseError(f"Method '{name}' {told}: say kind='{'wrapper' if adds else 'weights'}'.")
    told = f"Method '{name}' gives another model without held-out photos: it looks at them, or draws without task.seed."
    try:
        blind = trial(name, without_held_out(splits))
    except Exception as error:
        raise CourseError(told) from error
    pairs = zip(outcome.model.state_dict().values(), blind.model.state_dict().values(), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        raise CourseError(told)
