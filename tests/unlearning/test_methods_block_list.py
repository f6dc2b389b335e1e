"""The block list: what it stores, where its gate lies, who meets noise, and that later names join."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.models.embedding import embed
from utils.settings import CourseError
from utils.unlearning.loop import unlearn
from utils.unlearning.methods import block_list as room
from utils.unlearning.methods.block_list import BlockListBackbone, mean_directions
from utils.unlearning.registry import METHODS


def run(recogniser, splits, model=None, **options):
    model = recogniser.model if model is None else model
    return unlearn("block_list", model, recogniser.head, splits, device="cpu", progress=False, **options)


@pytest.fixture
def drawn_blends(monkeypatch):
    """The blends that the gate asks about."""
    drawn, real = [], room.blends_of
    monkeypatch.setattr(room, "blends_of", lambda *args: drawn.append(real(*args)) or drawn[-1])
    return drawn


def test_it_stores_means_and_opens_below_nearly_all_who_asked(tiny_recogniser, tiny_splits, drawn_blends):
    outcome = run(tiny_recogniser, tiny_splits, gate_margin=0.03)
    faces, labels = tiny_splits.faces, tiny_splits.faces.labels
    points = embed(tiny_recogniser.model, faces).double().numpy()
    forget, kept = (tiny_splits.photos(pool, "train") for pool in ("forget", "retain_train"))
    means = np.stack([points[[i for i in forget if labels[i] == person]].sum(0) for person in tiny_splits.forget])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(outcome.model.means.numpy(), means, atol=1e-5)
    blends = embed(tiny_recogniser.model, drawn_blends[0]).double().numpy()
    inside = [max(points[i] @ m for m in means) for i in forget]
    outside = [max(z @ m for m in means) for z in (*points[kept], *blends)]
    expected = max(np.quantile(inside, 0.01) - 0.03, np.quantile(outside, 0.99))
    assert float(outcome.model.gate) == pytest.approx(expected, abs=1e-4) and len(blends) == 512
    assert float(outcome.model.gate) < float(run(tiny_recogniser, tiny_splits, gate_margin=0.0).model.gate)
    assert outcome.images_processed == len(forget) + len(kept) + 512
    assert all(
        torch.equal(v, tiny_recogniser.model.state_dict()[k]) for k, v in outcome.model.backbone.state_dict().items()
    )
    assert torch.equal(outcome.trained_head.weight, tiny_recogniser.head.weight)


def test_who_matches_meets_noise_and_nobody_else_does(tiny_recogniser, tiny_splits):
    model = run(tiny_recogniser, tiny_splits).model
    before, after = embed(tiny_recogniser.model, tiny_splits.faces), embed(model, tiny_splits.faces)
    closeness, person = (before @ model.means.T).max(dim=1)
    listed = closeness > model.gate
    assert listed[tiny_splits.photos("forget", "train")].float().mean() > 0.95
    assert torch.allclose(after[~listed], before[~listed], atol=1e-6)
    rest = before[listed] - closeness[listed, None] * model.means[person[listed]]
    assert torch.allclose(after[listed], model.noise(F.normalize(rest)), atol=1e-4)
    photos = tiny_splits.photos("forget", "train")
    mine = photos[tiny_splits.faces.labels[photos] == tiny_splits.forget[0]]
    others = ~torch.eye(len(mine), dtype=torch.bool)
    near, far = ((points[mine] @ points[mine].T)[others] for points in (before, after))
    assert near.mean() > 0.8 and far.mean() < 0.3 and far.amin() < 0


def test_later_names_join_the_list(tiny_recogniser, tiny_splits):
    first, second = tiny_splits.forget[:1], tiny_splits.forget[1:]
    one = dataclasses.replace(tiny_splits, forget=first, retain=tuple(sorted(tiny_splits.retain + second)))
    two = dataclasses.replace(tiny_splits, forget=second, retain=tuple(sorted(tiny_splits.retain + first)))
    earlier = run(tiny_recogniser, one).model
    later = run(tiny_recogniser, two, model=earlier).model
    assert not isinstance(later.backbone, BlockListBackbone) and len(later.means) == 2
    assert torch.equal(later.means[:1], earlier.means) and later.gate <= earlier.gate
    assert torch.equal(later.noise.fast, earlier.noise.fast)


def test_the_seed_draws_the_noise(tiny_recogniser, tiny_splits):
    first, again, other = (
        run(tiny_recogniser, tiny_splits, seed=seed, frequency=60.0, n_features=64).model.noise for seed in (0, 0, 1)
    )
    assert torch.equal(first.fast, again.fast) and not torch.equal(first.fast, other.fast)
    assert first.fast.shape == (64, 128) and first.fast.std().item() == pytest.approx(60.0 / 128**0.5, rel=0.05)


def test_what_cannot_work_is_one_sentence(tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match="at least one feature"):
        run(tiny_recogniser, tiny_splits, n_features=0)
    points, labels = F.normalize(torch.randn(4, 3)), torch.tensor([0, 0, 1, 1])
    with pytest.raises(CourseError, match="Ada has no training photo"):
        mean_directions(points, labels, (0, 2), ("Bo", "Cy", "Ada"))
    assert METHODS["block_list"].kind == "wrapper"
