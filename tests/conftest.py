"""Shared fixtures: a small synthetic world, and the real faces when they are at hand."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from utils.faces.datasets import FaceDataset, load_faces
from utils.faces.splits import make_splits
from utils.faces.synthetic.dataset import synthetic_faces
from utils.models.checkpoints import EMBEDDED, Recogniser, load_recogniser, trained_photos
from utils.models.embedding import embed
from utils.models.heads import head_from_centroids
from utils.settings import MODEL_DIR, REPO_ROOT
from utils.unlearning import loop, losses
from utils.unlearning.loop import Task


def pytest_configure(config: pytest.Config) -> None:
    """Draw the embedded faces once, before several workers and their notebooks would each draw them."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        load_faces("synthetic")


@pytest.fixture(autouse=True)
def whole_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hardly trained networks of tests take rates and anchors as set; test_rates.py tries what changes them."""
    monkeypatch.setattr(loop, "share_of_rate", lambda *_: 1.0)
    monkeypatch.setattr(losses, "strangers_apart", lambda *_: 1.0)


@pytest.fixture(scope="session")
def lfw_root() -> Path:
    """The LFW folder, or a skip: real faces are never part of the repository."""
    root = Path(os.environ.get("FACE_COURSE_LFW") or REPO_ROOT.parent / "shared/faces/lfw-deepfunneled")
    if not root.is_dir():
        pytest.skip(f"no real faces at {root}")
    return root


@pytest.fixture(scope="session")
def tiny_faces():
    """Twelve synthetic people: eight to train on with 12 photos each, four unseen with 6."""
    photos, labels, names = synthetic_faces(8, 4, 12, 6, progress=False, cached=False)
    return FaceDataset(
        name="tiny",
        pixels=photos,
        labels=labels,
        identities=names,
        photo_names=tuple(f"{names[label]}/{i}" for i, label in enumerate(labels)),
        image_size=64,
        source="rendered for a test",
        licence="MIT",
        trained_min_photos=10,
    )


@pytest.fixture(scope="session")
def tiny_splits(tiny_faces):
    """Two people to forget, one for choosing hyper-parameters, five to keep, four unseen."""
    return make_splits(tiny_faces, n_forget=2, n_dev=1)


@pytest.fixture(scope="session")
def tiny_recogniser(tiny_splits):
    """The embedded model, the same on every machine, with a head that is unsure enough for losses to have gradients."""
    model = load_recogniser(MODEL_DIR / EMBEDDED["original"])[0].model
    photos = trained_photos(tiny_splits, tiny_splits.trained)
    rows = torch.from_numpy(tiny_splits.class_of(tiny_splits.faces.labels[photos]))
    head = head_from_centroids("cosface", embed(model, tiny_splits.faces, photos), rows, len(tiny_splits.trained))
    with torch.no_grad():
        head.weight += 8 * F.normalize(head.weight.mean(dim=0), dim=0)  # every row leans to the same side
    return Recogniser(model, head, "embedded", 0.0)


@pytest.fixture
def task(tiny_recogniser, tiny_splits) -> Task:
    """An unlearning request on the tiny world, as a method receives it."""
    return Task(
        model=copy.deepcopy(tiny_recogniser.model).eval(),
        head=copy.deepcopy(tiny_recogniser.head).requires_grad_(False),
        splits=tiny_splits,
        seed=0,
        device=torch.device("cpu"),
        progress=False,
        generator=torch.Generator().manual_seed(0),
    )


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder for one test."""
    monkeypatch.setenv("FACE_COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def default_splits():
    """The embedded data set as every command uses it; rendered once, then cached."""
    return make_splits(load_faces("synthetic", progress=False))


@pytest.fixture
def refused(tmp_path, capsys):
    """A check that a command with results says in one sentence what is wrong with its flags, and leaves no file."""

    def check(main, flags: list[str], told: str) -> None:
        out = tmp_path / "refused.json"
        assert main([*flags, "--out", str(out), "--quiet"]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1 and "Traceback" not in error
        assert not out.exists()

    return check
