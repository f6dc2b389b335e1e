"""Dispersion beside blends: blends, shifted photos, what may move, and what the loss is made of."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from one_step import (
    after_steps,
    assert_same_step,
    cosine_rates,
    input_of,
    moved_from,
    point_of,
    slow_dispersion,
    twin,
    vector,
)

from utils.models.embedding import embed
from utils.retrieval.verification import compactness
from utils.settings import CourseError
from utils.unlearning.dispersion import dispersion_loss
from utils.unlearning.loop import unlearn
from utils.unlearning.methods import blends
from utils.unlearning.methods.blends import BlendsConfig, blend, blends_of, last_weights, some_shifted
from utils.unlearning.registry import METHODS, make_config

PULL = 1.5  # how much harder anchors pull than set
SMALL = {"steps": 12, "photos_per_identity": 6, "retain_per_step": 16, "blends_per_step": 16}


def run(recogniser, splits, name="dispersion_blends", **options):
    return unlearn(name, recogniser.model, recogniser.head, splits, device="cpu", progress=False, **options)


class Steps:
    """What a run looked at in every step: photos, who was blended and how, which faces it scattered."""

    def __init__(self, monkeypatch):
        self.photos, self.blends, self.pairs, self.shifted, self.held = [], [], [], [], []

        def watch(name, note):
            real = getattr(blends, name)

            def watched(*args):
                result = real(*args)
                note(args, result)
                return result

            monkeypatch.setattr(blends, name, watched)

        monkeypatch.setattr(blends, "anchor_pull", lambda task, photos: self.held.append(photos) or PULL)
        watch("sort_batch", lambda args, result: self.photos.append((args[2], args[3])))
        watch("blend", lambda args, result: self.blends.append(result))
        watch("blends_of", lambda args, result: self.pairs.append((args[1], args[2])))
        watch("some_shifted", lambda args, result: self.shifted.append((args[1], result)))

    def terms(self, task, original, config, step: int) -> dict[str, torch.Tensor]:
        """The three terms of one step's loss, photo by photo."""
        (forget, retained), (share, faces) = self.photos[step], self.shifted[step]
        assert share == config.shifted
        people = task.splits.faces.labels[forget].tolist()
        points = [point_of(task.model, (face[None].float() - 127.5) / 128) for face in faces]
        terms = {"dispersion": slow_dispersion("lse", points, people, config.beta)}
        if len(retained):
            images = [input_of(task, i) for i in retained.tolist()]
            terms["retain"] = config.retain_weight * PULL * moved_from(original, task.model, images)
        images = [(face[None].float() - 127.5) / 128 for face in self.blends[step]]
        terms["blends"] = config.blend_weight * PULL * moved_from(original, task.model, images)
        return terms


@pytest.mark.parametrize(("name", "retain"), [("dispersion_blends", 6), ("dispersion_forget_only", 0)])
def test_two_steps_equal_the_slow_reference(name, retain, task, monkeypatch):
    """Two, because in the first one everybody who stays lies where the original puts them, and nothing pulls."""
    seen, reference, before, rate = Steps(monkeypatch), twin(task), vector(task.model.parameters()), 2e-3
    options = {"steps": 2, "photos_per_identity": 3, "retain_per_step": retain, "blends_per_step": 5, "beta": 4.0}
    weights = {"learning_rate": rate, "last_layers": 0, "blend_weight": 2.0, "shifted": 0.3}
    weights |= {"retain_weight": 2.5} if retain else {}
    config = make_config(name, options | weights)
    METHODS[name].run(task, config)
    original, told = copy.deepcopy(reference.model), []

    def loss_of(step):
        return lambda task: told.append(seen.terms(task, original, config, step)) or sum(told[-1].values())

    expected = after_steps(reference, [loss_of(0), loss_of(1)], cosine_rates(rate, 2))
    for entry, terms in zip(task.history, told, strict=True):
        for term, value in terms.items():
            assert entry[term] == pytest.approx(value.item(), rel=2e-2, abs=1e-4)
    assert told[1]["blends"] > 0.02 and (not retain or told[1]["retain"] > 0.02), "the second step pulls back"
    assert_same_step(expected, task.model.parameters(), before, rate, share=0.9)
    pool = task.retain_train_photos if name == "dispersion_blends" else task.forget_photos
    assert [(photos.tolist(), count) for photos, count in seen.pairs] == 2 * [(pool.tolist(), 5)]
    assert [photos.tolist() for photos in seen.held] == [pool.tolist()], "its strangers are those of the blends"


@pytest.mark.parametrize("name", ["dispersion_blends", "dispersion_forget_only"])
def test_the_seed_draws_photos_blends_and_shifts(name, tiny_recogniser, tiny_splits, monkeypatch):
    seen = Steps(monkeypatch)
    options = SMALL | {"steps": 1} | ({"retain_per_step": 0} if name.endswith("only") else {})
    for seed in (0, 0, 1):
        unlearn(
            name, tiny_recogniser.model, tiny_recogniser.head, tiny_splits,
            seed=seed, device="cpu", progress=False, **options,
        )  # fmt: skip
    photos = [forget.tolist() for forget, _ in seen.photos]
    assert photos[0] == photos[1] != photos[2]
    for first, again, other in (seen.blends, [faces for _, faces in seen.shifted]):
        assert torch.equal(first, again) and not torch.equal(first, other)


def test_shares_of_a_blend_fill_their_range(task, monkeypatch):
    asked = []
    monkeypatch.setattr(blends, "blend", lambda first, second, shares: asked.append(shares) or first)
    blends_of(task, task.retain_train_photos, 500)
    assert 0.3 <= asked[0].min() < 0.31 and 0.69 < asked[0].max() <= 0.7


def test_a_blend_is_the_weighted_mean_of_two_faces():
    first, second = torch.full((2, 3, 4, 4), 200, dtype=torch.uint8), torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    mixed = blend(first, second, torch.tensor([0.25, 1.0]))
    assert mixed.dtype == torch.uint8 and (mixed[0] == 125).all() and (mixed[1] == 200).all()
    assert (first == 200).all() and (second == 100).all()


def test_strangers_blend_two_different_people(task, monkeypatch):
    pairs, faces = [], task.splits.faces
    images = type(faces).images
    monkeypatch.setattr(type(faces), "images", lambda self, photos: pairs.append(photos) or images(self, photos))
    blends = blends_of(task, task.retain_train_photos, 40)
    first, second = (faces.labels[photos] for photos in pairs)
    assert blends.shape[0] == 40 and blends.dtype == torch.uint8
    assert (first != second).all() and set(first) | set(second) <= set(task.splits.retain_train)


def test_blends_are_of_two_people_even_where_nearly_all_photos_show_one(task, monkeypatch):
    """A second face drawn anew is the first person's again, most of the time."""
    pairs, faces = [], task.splits.faces
    images = type(faces).images
    monkeypatch.setattr(type(faces), "images", lambda self, photos: pairs.append(photos) or images(self, photos))
    photos, people = task.forget_photos, task.splits.faces.labels[task.forget_photos]
    one, other = photos[people == people[0]], photos[people != people[0]][:1]
    blends_of(task, np.concatenate([np.repeat(one, 4), other]), 40)
    first, second = (faces.labels[photos] for photos in pairs)
    assert len(first) == 40 and (first != second).all()


def test_one_person_alone_has_nobody_to_blend_with(task):
    labels = task.splits.faces.labels[task.forget_photos]
    alone = task.forget_photos[labels == labels[0]]
    assert len(blends_of(task, alone, 8)) == 0


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


@pytest.mark.parametrize("name", ["dispersion_blends", "dispersion_forget_only", "gather_scatter"])
def test_more_layers_than_may_move_are_refused(name, tiny_recogniser, tiny_splits, monkeypatch):
    few = {"retain_per_step": 0} if name.endswith("only") else {}
    model = copy.deepcopy(tiny_recogniser.model)  # it is left with layers that rest
    with pytest.raises(CourseError, match="last_layers is 6, but 5 layers of this network may move; 0 means all"):
        run(tiny_recogniser, tiny_splits, name, **SMALL | few | {"steps": 1, "last_layers": 6})
    assert len(last_weights(model, 5)) == len(last_weights(model, 0))
    monkeypatch.setattr(type(model), "card", replace(model.card, resting=4))
    with pytest.raises(CourseError, match="last_layers is 3, but 1 layers"):
        last_weights(model, 3)
    alone = list(map(id, last_weights(model, 1)))
    assert list(map(id, last_weights(model, 2))) == alone, "the usual two are one where there is one"


def test_the_first_step_adds_dispersion_and_nothing_else(tiny_recogniser, tiny_splits, monkeypatch):
    """Before the first step everybody who is to stay lies where the original puts them."""
    monkeypatch.setattr(blends, "paced", lambda task, config: config)
    first = run(tiny_recogniser, tiny_splits, **SMALL | {"steps": 1, "shifted": 0.0}).history[0]
    assert first["retain"] == pytest.approx(0.0, abs=1e-5) and first["blends"] == pytest.approx(0.0, abs=1e-5)
    forget = tiny_splits.photos("forget", "train")
    everything = run(tiny_recogniser, tiny_splits, **SMALL | {"steps": 1, "shifted": 0.0, "photos_per_identity": 99})
    labels = torch.from_numpy(tiny_splits.faces.labels[forget])
    points = F.normalize(embed(tiny_recogniser.model, tiny_splits.faces, forget))
    expected = dispersion_loss("lse", points, labels, beta=everything.config["beta"]).item()
    assert everything.history[0]["dispersion"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["dispersion_blends", "dispersion_forget_only"])
def test_the_forgotten_disperse_and_the_others_stay(name, tiny_recogniser, tiny_splits):
    options = SMALL | ({"retain_per_step": 0} if name.endswith("only") else {})
    outcome = run(tiny_recogniser, tiny_splits, name, **options)
    forget, kept = (tiny_splits.photos(pool, "train") for pool in ("forget", "retain_train"))
    old, new = (embed(model, tiny_splits.faces) for model in (tiny_recogniser.model, outcome.model))
    labels = tiny_splits.faces.labels[forget]
    assert compactness(new[forget], labels).mean_cosine < compactness(old[forget], labels).mean_cosine - 0.1
    if name == "dispersion_blends":  # without retained photos others may drift with the forgotten
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


def asked_by(*counts: int) -> SimpleNamespace:
    """Return a task of people to forget who have so many training photos."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return SimpleNamespace(
        splits=SimpleNamespace(faces=SimpleNamespace(labels=labels)), forget_photos=np.arange(len(labels))
    )


@pytest.mark.parametrize("counts", [[40] * 10, [41] * 10, [60, 40], [40]])
def test_who_has_forty_photos_is_forgotten_by_the_settings_as_they_are(counts):
    config = BlendsConfig()
    assert blends.paced(asked_by(*counts), config) == config


@pytest.mark.parametrize(
    ("counts", "half", "people"),
    [
        ([8] * 10, 4, 10),
        ([9] * 10, 4, 10),
        ([39] * 10, 19, 10),
        ([6], 3, 1),
        ([4, 4, 4, 30, 90], 2, 5),
        ([2], 2, 1),
    ],
)
def test_fewer_photos_are_half_of_them_a_step_and_more_steps(counts, half, people):
    config = BlendsConfig(steps=100, photos_per_identity=20, retain_per_step=32, blends_per_step=32)
    found = blends.paced(asked_by(*counts), config)
    a_step, usual = people * half + 32 + 2 * 32, people * 20 + 32 + 2 * 32
    assert found == replace(config, photos_per_identity=half, steps=round(100 * usual / a_step))
    assert found.steps * a_step == pytest.approx(100 * usual, abs=a_step / 2 + 1), "as many photos in all"


@pytest.mark.parametrize(
    ("people", "photos", "steps"),
    [(11, 40, 110), (25, 40, 250), (30, 40, 300), (40, 40, 300), (90, 40, 300), (40, 10, 608), (20, 8, 435)],
)
def test_more_people_than_a_step_shows_take_as_many_times_the_steps_but_no_more_than_thrice(people, photos, steps):
    """Of ten photos a step shows five of a person, of eight four: 296 photos and blends become 146 or 136."""
    found = blends.paced(asked_by(*[photos] * people), BlendsConfig())
    assert found == replace(BlendsConfig(), steps=steps, photos_per_identity=min(20, photos // 2))
    fewer = replace(BlendsConfig(), identities_per_step=5)
    assert blends.paced(asked_by(*[40] * 10), fewer) == replace(fewer, steps=200)


@pytest.mark.parametrize("name", ["dispersion_blends", "dispersion_forget_only"])
def test_a_run_takes_the_pace_that_suits_its_people(name, tiny_recogniser, tiny_splits):
    few = 0 if name.endswith("only") else 16
    options = SMALL | {"steps": 2, "retain_per_step": few, "photos_per_identity": 99}
    outcome = run(tiny_recogniser, tiny_splits, name, **options)
    labels = tiny_splits.faces.labels[tiny_splits.photos("forget", "train")]
    half, people = int(np.median(np.unique(labels, return_counts=True)[1])) // 2, len(tiny_splits.forget)
    wanted = round(2 * (people * 99 + few + 2 * 16) / (people * half + few + 2 * 16))
    assert len(outcome.history) == wanted > 2 and outcome.config["photos_per_identity"] == 99


def test_impossible_settings_are_one_sentence(tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match="share of the photos"):
        run(tiny_recogniser, tiny_splits, shifted=1.5)
    with pytest.raises(CourseError, match="needs retained photos"):
        run(tiny_recogniser, tiny_splits, retain_per_step=0)
    with pytest.raises(CourseError, match="looks at forget photos only"):
        run(tiny_recogniser, tiny_splits, "dispersion_forget_only", retain_per_step=4)


def test_both_are_registered_with_their_data():
    assert METHODS["dispersion_blends"].needs == ("forget", "retain_train")
    assert METHODS["dispersion_forget_only"].needs == ("forget",)
