"""Dispersion among strangers: blends, shifted photos, what may move, and what the loss is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.dispersion import dispersion_loss
from utils.retrieval import compactness
from utils.settings import CourseError
from utils.training import embed
from utils.unlearning import METHODS, unlearn
from utils.unlearning.strangers import blend, last_weights, some_shifted, strangers_of

SMALL = {"steps": 12, "photos_per_identity": 6, "retain_per_step": 16, "strangers_per_step": 16}


def run(recogniser, splits, name="dispersion_strangers", **options):
    return unlearn(name, recogniser.model, recogniser.head, splits, device="cpu", progress=False, **options)


def test_a_blend_is_the_weighted_mean_of_two_faces():
    first, second = torch.full((2, 3, 4, 4), 200, dtype=torch.uint8), torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    mixed = blend(first, second, torch.tensor([0.25, 1.0]))
    assert mixed.dtype == torch.uint8 and (mixed[0] == 125).all() and (mixed[1] == 200).all()
    assert (first == 200).all() and (second == 100).all()


def test_strangers_blend_two_different_people(task, monkeypatch):
    pairs, faces = [], task.splits.faces
    images = type(faces).images
    monkeypatch.setattr(type(faces), "images", lambda self, photos: pairs.append(photos) or images(self, photos))
    strangers = strangers_of(task, task.kept_photos, 40)
    first, second = (faces.labels[photos] for photos in pairs)
    assert strangers.shape[0] == 40 and strangers.dtype == torch.uint8
    assert (first != second).all() and set(first) | set(second) <= set(task.splits.kept)


def test_one_person_alone_has_nobody_to_blend_with(task):
    labels = task.splits.faces.labels[task.forget_photos]
    alone = task.forget_photos[labels == labels[0]]
    assert len(strangers_of(task, alone, 8)) == 0


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (1.0, 40, 40), (0.5, 8, 32)])
def test_a_share_of_the_photos_is_shifted(share, low, high):
    faces = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shifted = some_shifted(faces, share, torch.Generator().manual_seed(1))
    assert low <= (shifted != faces).flatten(1).any(1).sum() <= high


def test_only_the_last_parts_move(tiny_recogniser, tiny_splits):
    before = {name: value.clone() for name, value in tiny_recogniser.model.state_dict().items()}
    after = run(tiny_recogniser, tiny_splits, **SMALL | {"steps": 2}).model.state_dict()
    changed = {name.split(".")[0] + "." + name.split(".")[1] for name in before if (before[name] != after[name]).any()}
    assert changed == {"stages.2", "embedding.1", "embedding.2"}
    assert len(last_weights(tiny_recogniser.model, 0)) == len(list(tiny_recogniser.model.parameters()))


def test_the_first_step_adds_dispersion_and_nothing_else(tiny_recogniser, tiny_splits):
    """Before the first step everybody who is to stay lies where the original puts them."""
    first = run(tiny_recogniser, tiny_splits, **SMALL | {"steps": 1, "shifted": 0.0}).history[0]
    assert first["retain"] == pytest.approx(0.0, abs=1e-5) and first["strangers"] == pytest.approx(0.0, abs=1e-5)
    forget = tiny_splits.photos("forget", "train")
    everything = run(tiny_recogniser, tiny_splits, **SMALL | {"steps": 1, "shifted": 0.0, "photos_per_identity": 99})
    labels = torch.from_numpy(tiny_splits.faces.labels[forget])
    points = F.normalize(embed(tiny_recogniser.model, tiny_splits.faces, forget))
    expected = dispersion_loss("lse", points, labels, beta=everything.config["beta"]).item()
    assert everything.history[0]["dispersion"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["dispersion_strangers", "dispersion_forget_only"])
def test_the_forgotten_disperse_and_the_others_stay(name, tiny_recogniser, tiny_splits):
    options = SMALL | ({"retain_per_step": 0} if name.endswith("only") else {})
    outcome = run(tiny_recogniser, tiny_splits, name, **options)
    forget, kept = (tiny_splits.photos(pool, "train") for pool in ("forget", "kept"))
    old, new = (embed(model, tiny_splits.faces) for model in (tiny_recogniser.model, outcome.model))
    labels = tiny_splits.faces.labels[forget]
    assert compactness(new[forget], labels).mean_cosine < compactness(old[forget], labels).mean_cosine - 0.1
    if name == "dispersion_strangers":  # without retained photos others may drift with the forgotten
        moved = 1 - (old * new).sum(1)
        assert moved[forget].mean() > 1.5 * moved[kept].mean()


def test_every_photo_it_looks_at_is_counted(tiny_recogniser, tiny_splits):
    outcome = run(tiny_recogniser, tiny_splits, **SMALL | {"steps": 3})
    forget = 3 * 6 * len(tiny_splits.forget)
    retained = 3 * 16
    looked_up = outcome.images_processed - forget - retained - 2 * 3 * 16
    assert 0 < looked_up <= retained  # the teacher sees each retained photo once


def test_the_forget_only_method_sees_no_retained_photo(tiny_recogniser, tiny_splits, monkeypatch):
    seen, faces = [], tiny_splits.faces
    images = type(faces).images
    monkeypatch.setattr(type(faces), "images", lambda self, photos: seen.append(photos) or images(self, photos))
    run(tiny_recogniser, tiny_splits, "dispersion_forget_only", **SMALL | {"steps": 2, "retain_per_step": 0})
    assert set(faces.labels[np.concatenate(seen)]) <= set(tiny_splits.forget)


def test_impossible_settings_are_one_sentence(tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match="share of the photos"):
        run(tiny_recogniser, tiny_splits, shifted=1.5)
    with pytest.raises(CourseError, match="needs retained photos"):
        run(tiny_recogniser, tiny_splits, retain_per_step=0)
    with pytest.raises(CourseError, match="looks at forget photos only"):
        run(tiny_recogniser, tiny_splits, "dispersion_forget_only", retain_per_step=4)


def test_both_are_registered_with_their_data():
    assert METHODS["dispersion_strangers"].needs == ("forget", "kept")
    assert METHODS["dispersion_forget_only"].needs == ("forget",)
