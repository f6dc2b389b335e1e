"""What is kept of resting layers: the same numbers as without, in embedding and in every method, and nothing stale."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.audit.case import look
from utils.experiments.entry import without_held_out
from utils.models import dlib as room
from utils.models import trunks
from utils.models.backbones import make_backbone
from utils.models.checkpoints import Recogniser
from utils.models.embedding import embed
from utils.models.heads import head_from_centroids
from utils.models.trunks import Looks, keep_outputs, kept_outputs, lent_outputs, trunk_path
from utils.settings import CourseError, cache_dir
from utils.unlearning.loop import unlearn
from utils.unlearning.registry import METHODS, Method, StepConfig

CAPS = {
    "steps": 2, "noise_steps": 1, "noise_batches": 1, "blends_per_step": 4, "retain_per_step": 6, "check_every": 0,
    "max_photos": 20, "learning_rate": 1e-4,
}  # fmt: skip
SAME = [name for name in METHODS if name not in ("retrain", "original", "dispersion_blends", "gather_scatter")]
SAME = [name for name in SAME if not getattr(METHODS[name].config(), "augment", False)]
SAME.remove("dispersion_forget_only")  # as the two above: it blends activations, not pixels


@pytest.fixture
def small(monkeypatch, own_cache, tiny_splits) -> Recogniser:
    """A small network of dlib's plan with random weights, and a head at the people's centroids."""
    monkeypatch.setattr(room, "GROUPS", ((4, 1), (6, 1), (8, 1), (10, 1), (10, 1)))
    torch.manual_seed(0)
    model = make_backbone("dlib").eval()
    rows = torch.from_numpy(tiny_splits.class_of(tiny_splits.faces.labels[tiny_splits.train]))
    head = head_from_centroids("cosface", embed(model, tiny_splits.faces, tiny_splits.train), rows, 8)
    return Recogniser(model, head, "made here")


def options_for(name: str) -> dict:
    known = {field.name for field in dataclasses.fields(METHODS[name].config)}
    retained = getattr(METHODS[name].config(), "retain_per_step", 0)
    return {k: v for k, v in CAPS.items() if k in known and (k != "retain_per_step" or retained)}


def run(name: str, start: Recogniser, splits, **options):
    chosen = options_for(name) | options
    return unlearn(name, start.model, start.head, splits, device="cpu", progress=False, **chosen)


def test_kept_outputs_are_the_trunks_photo_by_photo(small, tiny_faces):
    model = small.model
    assert kept_outputs(model, tiny_faces) is None
    keep_outputs(model, tiny_faces)
    kept = kept_outputs(model, tiny_faces)
    for i in (0, 7, len(tiny_faces) - 1):
        with torch.no_grad():
            one = model.trunk(model.preprocess(tiny_faces.images([i])))[0]
        assert torch.allclose(torch.from_numpy(np.array(kept[i])), one, atol=1e-6)
    assert len(kept) == len(tiny_faces)


def test_embedding_from_kept_outputs_is_embedding_and_runs_no_resting_layer(small, tiny_faces, monkeypatch):
    model, photos = small.model, np.array([5, 3, 60])
    direct = embed(model, tiny_faces, photos)
    keep_outputs(model, tiny_faces)
    assert torch.allclose(embed(model, tiny_faces, photos, whole=True), direct, atol=1e-7)
    monkeypatch.setattr(type(model), "trunk", lambda self, x: pytest.fail("the resting layers ran"))
    assert torch.allclose(embed(model, tiny_faces, photos), direct, atol=1e-5)
    keep_outputs(model, tiny_faces)  # a second time: there is nothing to do


def test_other_weights_photos_crops_or_a_damaged_file_find_nothing(small, tiny_faces):
    model = small.model
    keep_outputs(model, tiny_faces)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.groups[1][0].conv2.bias[0] += 1e-3
    later = copy.deepcopy(model)
    with torch.no_grad():
        later.groups[3][0].conv2.bias[0] += 1.0
    pixels = tiny_faces.pixels.clone()
    pixels[9, 0, 30, 30] ^= 1
    assert kept_outputs(moved, tiny_faces) is None and kept_outputs(later, tiny_faces) is not None
    assert kept_outputs(model, dataclasses.replace(tiny_faces, pixels=pixels)) is None
    shifted = copy.deepcopy(model)
    shifted.card = dataclasses.replace(model.card, window=(0.1, 0.1, 0.8))
    assert kept_outputs(shifted, tiny_faces) is None
    path = trunk_path(model, tiny_faces)
    path.write_bytes(path.read_bytes()[:100])
    assert kept_outputs(model, tiny_faces) is None
    keep_outputs(model, tiny_faces)
    assert kept_outputs(model, tiny_faces) is not None


def test_what_is_kept_is_lent_to_the_same_photos_with_some_in_grey_and_goes_again(small, tiny_splits):
    faces, blind = tiny_splits.faces, without_held_out(tiny_splits).faces
    with lent_outputs(small.model, faces, blind, tiny_splits.train):
        assert kept_outputs(small.model, blind) is None, "nothing is kept that could be lent"
    keep_outputs(small.model, faces)
    hidden = np.setdiff1d(np.arange(len(faces)), tiny_splits.train)
    with pytest.raises(KeyError), lent_outputs(small.model, faces, blind, tiny_splits.train):
        lent = torch.from_numpy(np.array(kept_outputs(small.model, blind)))
        for photos in (tiny_splits.train[:3], hidden[:3], hidden[-2:]):
            with torch.no_grad():
                direct = small.model.trunk(small.model.preprocess(blind.images(photos)))
            assert torch.allclose(lent[torch.from_numpy(photos)], direct, atol=1e-5)
        raise KeyError("a method that fails")
    assert kept_outputs(small.model, blind) is None and kept_outputs(small.model, faces) is not None


def test_of_a_large_data_set_and_of_a_network_that_moves_as_a_whole_nothing_is_kept(small, tiny_faces, monkeypatch):
    monkeypatch.setattr(trunks, "MOST", 1000)
    keep_outputs(small.model, tiny_faces)
    keep_outputs(make_backbone("mini").eval(), tiny_faces)
    assert not (cache_dir() / "trunks").exists()


@pytest.mark.parametrize("name", SAME)
def test_a_method_gives_the_same_with_and_without_what_is_kept(name, small, tiny_splits):
    at_rest = [weight.clone() for weight in small.model.at_rest()]
    plain = run(name, small, tiny_splits)
    keep_outputs(small.model, tiny_splits.faces)
    kept = run(name, small, tiny_splits)
    for a, b in zip(plain.model.state_dict().values(), kept.model.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)
    for outcome in (plain, kept):
        inner = getattr(outcome.model, "backbone", outcome.model)
        assert all(torch.equal(a, b) for a, b in zip(at_rest, inner.at_rest(), strict=True))


@pytest.mark.parametrize("name", ["dispersion_blends", "dispersion_forget_only", "gather_scatter", "finetune"])
def test_blends_and_augmented_photos_leave_the_resting_layers_alone(name, small, tiny_splits, monkeypatch):
    keep_outputs(small.model, tiny_splits.faces)
    ran, trunk = [], room.DlibBackbone.trunk
    monkeypatch.setattr(room.DlibBackbone, "trunk", lambda self, x: ran.append(len(x)) or trunk(self, x))
    first = run(name, small, tiny_splits)
    views = trunks.VIEWS * len(tiny_splits.train)
    assert 0 < sum(ran) <= views  # a view of a photo is made once at most
    again = run(name, small, tiny_splits)
    pairs = zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_photo_has_a_few_augmented_looks(small, tiny_faces, monkeypatch):
    keep_outputs(small.model, tiny_faces)
    looks = Looks(small.model, tiny_faces, torch.Generator().manual_seed(0), torch.device("cpu"))
    photos = np.array([4, 4, 11])
    seen = {4: set(), 11: set()}
    for _ in range(40):
        for photo, look_ in zip(photos.tolist(), looks.augmented(photos), strict=True):
            seen[photo].add(look_.numpy().tobytes())
    assert [len(found) for found in seen.values()] == [trunks.VIEWS] * 2 and len(looks.views) == 2 * trunks.VIEWS
    monkeypatch.setattr(trunks, "MOST_VIEWS", 2)
    looks.augmented(np.array([20]))
    assert not looks.views


def test_without_resting_layers_looks_are_faces(task):
    photos = np.array([3, 1])
    assert task.looks.kept is None and torch.equal(task.looks.of(photos), task.splits.faces.images(photos))


def test_a_method_that_moves_what_should_rest_is_refused(small, tiny_splits, monkeypatch):
    def push(task, config):
        with torch.no_grad():
            task.model.stem[0].weight.mul_(1.1)

    monkeypatch.setitem(METHODS, "push", Method("push", push, StepConfig, "Push", (), "", ""))
    keep_outputs(small.model, tiny_splits.faces)
    with pytest.raises(CourseError, match="'push' moved layers that were to rest"):
        run("push", small, tiny_splits)


def test_an_audit_hears_every_part_though_outputs_are_kept(small, tiny_faces):
    photos = np.array([2, 30])
    before = look(small.model, tiny_faces, photos)
    keep_outputs(small.model, tiny_faces)
    after = look(small.model, tiny_faces, photos)
    assert list(before) == list(after) == [*list(small.model.layers())[:-1], "embedding", "length"]
    assert all(torch.allclose(before[part], F.normalize(after[part]) if part == "embedding" else after[part], atol=1e-5)
               for part in before)  # fmt: skip
