"""The frame and the first methods: inputs untouched, losses as written, refusals in one sentence."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.models.backbones import AddOn
from utils.models.checkpoints import TrainConfig
from utils.models.embedding import embed
from utils.models.heads import CosFace, head_from_centroids
from utils.settings import CourseError
from utils.unlearning.loop import EarlyStopping, forget_batches, make_batch, retain_batches, run_steps, unlearn
from utils.unlearning.losses import Teacher, distillation
from utils.unlearning.methods.labels import draw_wrong_labels
from utils.unlearning.registry import METHODS, LogitConfig, StepConfig, make_config, profile_options

STEPWISE = [name for name, entry in METHODS.items() if issubclass(entry.config, StepConfig)]


def run(name, recogniser, splits, **config):
    if name in STEPWISE:
        config = {"steps": 3, "check_every": 0} | config
    return unlearn(name, recogniser.model, recogniser.head, splits, device="cpu", progress=False, **config)


def state(module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


# ------------------------------------------------------------------------------------------------------ the frame


def network(model):
    """The network itself, without what a method may have put behind it."""
    return model.backbone if isinstance(model, AddOn) else model


@pytest.mark.parametrize("name", STEPWISE)
def test_inputs_are_never_mutated_and_the_model_moves(name, tiny_recogniser, tiny_splits):
    model, head = state(tiny_recogniser.model), state(tiny_recogniser.head)
    labels = tiny_splits.faces.labels.copy()
    outcome = run(name, tiny_recogniser, tiny_splits)
    assert same(model, tiny_recogniser.model.state_dict()) and same(head, tiny_recogniser.head.state_dict())
    assert np.array_equal(labels, tiny_splits.faces.labels)
    assert outcome.model is not tiny_recogniser.model and not same(model, network(outcome.model).state_dict())
    paced = name in ("dispersion_blends", "dispersion_forget_only")  # few photos a person: more steps
    assert len(outcome.history) == 3 + paced and outcome.seconds > 0 and outcome.images_processed > 0
    assert is_of_its_kind(name, outcome.model, tiny_recogniser.model)


def is_of_its_kind(name, model, old) -> bool:
    """Say whether a method is called a wrapper if, and only if, it added a part to the network."""
    return (METHODS[name].kind == "wrapper") == (model.state_dict().keys() != old.state_dict().keys())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in (*STEPWISE, "retrain")])
def test_what_adds_a_part_to_the_network_is_called_a_wrapper(name, tiny_recogniser, tiny_splits):
    options = {"epochs": 1} if "epochs" in METHODS[name].config.__dataclass_fields__ else {}
    outcome = run(name, tiny_recogniser, tiny_splits, **options)
    assert is_of_its_kind(name, outcome.model, tiny_recogniser.model)


def test_yardsticks_are_called_references():
    found = [name for name, entry in METHODS.items() if entry.kind == "reference"]
    assert found == ["original", "retrain", "finetune"]
    assert {entry.kind for entry in METHODS.values()} == {"weights", "wrapper", "reference"}


@pytest.mark.parametrize("name", [n for n in STEPWISE if getattr(METHODS[n].config(), "trainable", "") != "both"])
def test_batchnorm_statistics_and_head_stay_frozen(name, tiny_recogniser, tiny_splits):
    before = {k: v.clone() for k, v in tiny_recogniser.model.named_buffers()}
    outcome = run(name, tiny_recogniser, tiny_splits)
    assert same(before, dict(network(outcome.model).named_buffers()))
    rows = tiny_splits.class_of(tiny_splits.retain_train)  # gather and scatter writes over the rows of the forgotten
    assert torch.equal(tiny_recogniser.head.weight[rows], outcome.trained_head.weight[rows])


def test_every_method_clears_the_heads_rows_of_the_forgotten(tiny_recogniser, tiny_splits):
    """The rows are portraits: what is shipped holds the mean of the others' in their place, and the rest as it was."""
    gone, kept = (tiny_splits.class_of(people) for people in (tiny_splits.forget, tiny_splits.retain_train))
    for name in (name for name in METHODS if name not in ("original", "retrain")):
        short = {"epochs": 1} if "epochs" in METHODS[name].config.__dataclass_fields__ else {}
        outcome = run(name, tiny_recogniser, tiny_splits, **short)
        shipped, left = outcome.head.weight.detach(), outcome.trained_head.weight.detach()
        units = [row / row.norm() for row in left[kept]]
        mean = sum(units) / len(units)
        assert torch.equal(shipped[kept], left[kept]) and not torch.allclose(shipped[gone], left[gone]), name
        assert torch.allclose(shipped[gone], (mean / mean.norm()).expand(len(gone), -1), atol=1e-6), name
    for name, options in (("original", {}), ("retrain", {"epochs": 1})):
        outcome = run(name, tiny_recogniser, tiny_splits, **options)
        assert outcome.head is outcome.trained_head


@pytest.mark.parametrize("name", STEPWISE)
def test_same_seed_same_model(name, tiny_recogniser, tiny_splits):
    runs = [run(name, tiny_recogniser, tiny_splits) for _ in range(2)]
    assert same(runs[0].model.state_dict(), runs[1].model.state_dict())


def test_original_is_an_untouched_copy(tiny_recogniser, tiny_splits):
    outcome = run("original", tiny_recogniser, tiny_splits)
    assert same(state(tiny_recogniser.model), outcome.model.state_dict())
    assert outcome.images_processed == 0 and outcome.history == []


def test_retrain_never_sees_the_forget_set(own_cache, tiny_recogniser, tiny_splits):
    outcome = run("retrain", tiny_recogniser, tiny_splits, epochs=2, batch_size=16)
    assert outcome.trained_head.weight.shape[0] == len(tiny_splits.retain_train)
    assert outcome.images_processed == 2 * len(tiny_splits.photos("retain_train", "train"))
    again = run("retrain", tiny_recogniser, tiny_splits, epochs=2, batch_size=16)
    assert again.seconds == pytest.approx(outcome.seconds, abs=0.1)


def test_images_are_counted(tiny_recogniser, tiny_splits):
    outcome = run("gradient_ascent", tiny_recogniser, tiny_splits, steps=4, photos_per_identity=3)
    assert outcome.images_processed == 4 * 2 * 3
    outcome = run("dispersion", tiny_recogniser, tiny_splits, steps=4, photos_per_identity=3, retain_per_step=5)
    assert outcome.images_processed == 4 * (2 * 3 + 5) + 4 * 5  # the teacher sees each retained photo once


def test_methods_see_training_photos_only(task):
    seen = [next(forget_batches(task, StepConfig())) for _ in range(3)] + [next(retain_batches(task, 20))]
    assert set(np.concatenate(seen)) <= set(task.splits.train)


def test_forget_batches_hold_p_by_k_photos(task):
    batch = next(forget_batches(task, StepConfig(identities_per_step=2, photos_per_identity=3)))
    people, counts = np.unique(task.splits.faces.labels[batch], return_counts=True)
    assert set(people) == set(task.splits.forget) and counts.tolist() == [3, 3]
    assert len(set(batch.tolist())) == 6


def test_retain_batches_show_every_kept_photo_once_a_round(task):
    kept = task.retain_train_photos
    stream = retain_batches(task, 10)
    seen = np.concatenate([next(stream) for _ in range(-(-len(kept) // 10))])[: len(kept)]
    assert sorted(seen.tolist()) == sorted(kept.tolist())


def test_unknown_names_keys_and_types_are_refused_with_the_valid_ones(tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match="dispersion"):
        run("dispersal", tiny_recogniser, tiny_splits)
    with pytest.raises(CourseError, match="learning_rate"):
        run("dispersion", tiny_recogniser, tiny_splits, lr=0.1)
    with pytest.raises(CourseError, match="type int"):
        run("dispersion", tiny_recogniser, tiny_splits, steps="many")
    with pytest.raises(CourseError, match="negative"):
        run("dispersion", tiny_recogniser, tiny_splits, steps=-1)
    with pytest.raises(CourseError, match="finite"):
        run("dispersion", tiny_recogniser, tiny_splits, learning_rate=float("nan"))


@pytest.mark.parametrize(
    "name, config, told",
    [
        ("dispersion", {"batchnorm": "melted"}, "frozen, train"),
        ("dispersion", {"photos_per_identity": 1}, "at least 2"),
        ("dispersion", {"beta": 0.0}, "beta must be above 0"),
        ("finetune", {"retain_per_step": 0}, "needs retained photos"),
        ("gradient_ascent", {"retain_per_step": 8}, "forget photos only"),
        ("retrain", {"loss": "softmax"}, "cosface, arcface"),
        ("retrain", {"epochs": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, config, told, tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match=told):
        run(name, tiny_recogniser, tiny_splits, **config)


def test_a_head_of_other_people_is_refused(tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match=r"\(3, 128\).*\(8, 128\)"):
        unlearn("random_labels", tiny_recogniser.model, CosFace(128, 3), tiny_splits, device="cpu", progress=False)


def test_random_labels_and_dispersion_work_without_retained_photos(tiny_recogniser, tiny_splits):
    for name in ("random_labels", "dispersion"):
        outcome = run(name, tiny_recogniser, tiny_splits, retain_per_step=0)
        assert "retain" not in outcome.history[0]


def test_integers_are_welcome_where_floats_are_meant():
    assert make_config("dispersion", {"beta": 5}).beta == 5.0


def test_a_method_without_its_data_names_what_is_missing(tiny_recogniser, tiny_splits):
    nobody = dataclasses.replace(tiny_splits, retain=(), dev_forget=(), train=tiny_splits.photos("forget", "train"))
    with pytest.raises(CourseError, match="'random_labels' needs training photos of retained people"):
        run("random_labels", tiny_recogniser, nobody)


def test_a_diverging_run_names_its_step_and_returns_nothing(task):
    def losses(batch):
        return {"forget": batch.forget.sum() * (float("nan") if len(task.history) == 2 else 1.0)}

    with pytest.raises(CourseError, match="diverged at step 3"):
        run_steps(task, StepConfig(steps=5), losses)


@pytest.mark.parametrize("name", STEPWISE)
def test_exploding_weights_stop_a_run_and_name_the_step(name, tiny_recogniser, tiny_splits):
    before = state(tiny_recogniser.model)
    with pytest.raises(CourseError, match="diverged at step [123] .*lower the learning rate"):
        run(name, tiny_recogniser, tiny_splits, learning_rate=1e6)
    assert same(before, tiny_recogniser.model.state_dict())


def test_an_infinite_gradient_stops_a_run(task):
    def losses(batch):
        return {"forget": ((batch.forget.sum() - batch.forget.sum().detach()) * 1e30) ** 0.5}  # 0, but infinitely steep

    with pytest.raises(CourseError, match="diverged at step 1 .gradient"):
        run_steps(task, StepConfig(steps=2), losses)


def test_a_result_that_is_not_finite_is_never_returned(monkeypatch, tiny_recogniser, tiny_splits):
    def spoil(task, config):
        next(task.model.parameters()).data[0] = float("nan")

    monkeypatch.setitem(METHODS, "original", dataclasses.replace(METHODS["original"], run=spoil))
    with pytest.raises(CourseError, match="'original' diverged: its weights are not finite"):
        run("original", tiny_recogniser, tiny_splits)


def test_the_diary_says_how_far_the_weights_moved(tiny_recogniser, tiny_splits):
    outcome = run("dispersion", tiny_recogniser, tiny_splits, steps=4)
    start = torch.cat([p.flatten() for p in tiny_recogniser.model.parameters()])
    end = torch.cat([p.flatten() for p in outcome.model.parameters()])
    assert outcome.history[-1]["moved"] == pytest.approx(((end - start).norm() / start.norm()).item(), rel=1e-3)
    assert [entry["step"] for entry in outcome.history] == [0, 1, 2, 3]


@pytest.mark.parametrize("policy", ["backbone", "both", "head"])
def test_the_config_says_what_moves(policy, task):
    before = state(task.model), state(task.head)
    config = LogitConfig(steps=2, trainable=policy)
    run_steps(task, config, lambda b: {"forget": -F.cross_entropy(task.head(b.forget, scale=16.0), b.forget_rows)})
    assert same(before[0], task.model.state_dict()) == (policy == "head")
    assert same(before[1], task.head.state_dict()) == (policy == "backbone")


def test_methods_that_take_turns_see_one_side_at_a_time(task):
    seen = []

    def losses(batch):
        seen.append((len(batch.forget), len(batch.retain)))
        return {"all": (batch.forget.sum() + batch.retain.sum()) * 0.01}

    config = StepConfig(steps=4, retain_per_step=6, photos_per_identity=3)
    run_steps(task, config, losses, sides=lambda step: (step % 2 == 0, step % 2 == 1))
    assert seen == [(6, 0), (0, 6)] * 2 and task.images_processed == 24


# ------------------------------------------------------------------------------------------------- early stopping


def stopping(**changes) -> StepConfig:
    return StepConfig(**{"steps": 40, "learning_rate": 3e-3, "check_every": 4, "max_dev_loss": 0.1} | changes)


def collapse_run(task, config):
    """Pull every forget photo to one point: the fastest way to lose everybody."""
    run_steps(task, config, lambda b: {"forget": -(b.forget.sum(dim=1) / 128**0.5).mean()})
    return task


def test_a_run_that_loses_the_dev_people_stops_and_goes_back(task):
    watch = EarlyStopping.begin(task, stopping())
    before = watch.score()
    collapse_run(task, stopping(learning_rate=1e-2))
    scores = [entry["dev_map"] for entry in task.history if "dev_map" in entry]
    assert scores[-1] < before - 0.1 and all(score >= before - 0.1 for score in scores[:-1])
    assert len(task.history) < 40, "the run did not stop early"
    assert watch.score() == pytest.approx(scores[-2] if len(scores) > 1 else before, abs=1e-6)


def test_the_last_step_is_checked_too(task):
    before = state(task.model)
    run_steps(task, stopping(steps=2, check_every=3, max_dev_loss=1.0), lambda b: {"forget": b.forget[:, 0].mean()})
    assert "dev_map" in task.history[-1] and not same(before, task.model.state_dict())


def test_without_checks_the_same_run_goes_on_to_the_end(task):
    assert len(collapse_run(task, stopping(check_every=0)).history) == 40


def test_early_stopping_looks_at_training_photos_of_people_who_stay(task):
    watch = EarlyStopping.begin(task, stopping())
    people = set(task.splits.faces.labels[watch.photos].tolist())
    assert set(watch.photos.tolist()) <= set(task.splits.train.tolist())
    assert not people & set(task.splits.forget) and set(task.splits.dev_forget) <= people
    assert set(task.splits.faces.labels[watch.queries].tolist()) == set(task.splits.dev_forget)


def test_early_stopping_without_dev_people_is_refused(task):
    task.splits = dataclasses.replace(task.splits, dev_forget=(), retain=task.splits.retain_train)
    with pytest.raises(CourseError, match="dev-forget people, and there are none"):
        EarlyStopping.begin(task, stopping())


def test_profiles_differ_only_in_known_settings():
    for name, entry in METHODS.items():
        assert profile_options(name, "quick") == {}
        known = {field.name for field in dataclasses.fields(entry.config)}
        assert set(profile_options(name, "full")) <= known
        make_config(name, profile_options(name, "full"))
    with pytest.raises(CourseError, match="quick, full"):
        profile_options("dispersion", "slow")


def test_every_method_says_where_it_comes_from_and_what_it_needs():
    for name, entry in METHODS.items():
        assert entry.title and entry.source and re.fullmatch(r"\d\d", entry.notebook), name
        assert f"notebook {entry.notebook}" in entry.run.__doc__.casefold(), name
        pools = {"forget", "retain_train"}
        assert set(entry.needs) <= pools and set(entry.optional) <= pools and set(entry.labels) <= pools, name
        assert entry.config.__doc__ and not entry.config.__doc__.startswith(entry.config.__name__ + "("), name


def test_no_option_has_the_name_of_an_argument():
    arguments = set(inspect.signature(unlearn).parameters) - {"config"}
    for name, entry in METHODS.items():
        assert not arguments & {field.name for field in dataclasses.fields(entry.config)}, name


def test_a_method_is_told_when_its_own_settings_withhold_the_data(tiny_recogniser, tiny_splits):
    for name, entry in METHODS.items():
        if "retain_train" in entry.needs and hasattr(entry.config(), "retain_per_step"):
            with pytest.raises(CourseError, match=f"'{name}' needs retained photos"):
                run(name, tiny_recogniser, tiny_splits, retain_per_step=0)
        if "retain_train" not in (*entry.needs, *entry.optional) and hasattr(entry.config(), "retain_per_step"):
            with pytest.raises(CourseError, match=f"'{name}' looks at forget photos only"):
                run(name, tiny_recogniser, tiny_splits, retain_per_step=8)


@pytest.mark.parametrize(
    "name", [name for name in METHODS if "retain_train" in METHODS[name].needs and name != "retrain"]
)
def test_a_method_that_needs_retained_photos_names_them(name, tiny_recogniser, tiny_splits):
    nobody = dataclasses.replace(tiny_splits, retain=(), dev_forget=(), train=tiny_splits.photos("forget", "train"))
    with pytest.raises(CourseError, match=f"'{name}' needs training photos of retained people"):
        run(name, tiny_recogniser, nobody)


# ---------------------------------------------------------------------------------------------------- the methods


def one_step_loss(task, name, losses, config):
    """Return the loss on one fixed batch before and after a few of the method's own steps."""
    photos = task.forget_photos[:8]
    before = losses(make_batch(task, 0, photos, task.retain_train_photos[:8], False))
    METHODS[name].run(task, make_config(name, config))
    after = losses(make_batch(task, 0, photos, task.retain_train_photos[:8], False))
    return before.item(), after.item()


def test_gradient_ascent_raises_the_cross_entropy_of_the_forget_photos(task):
    before, after = one_step_loss(
        task,
        "gradient_ascent",
        lambda b: F.cross_entropy(task.head(b.forget, scale=16.0), b.forget_rows),
        {"steps": 5, "learning_rate": 1e-3, "check_every": 0},
    )
    assert after > before + 0.05


def test_finetune_lowers_the_retained_loss_and_never_reads_a_forget_photo(task, monkeypatch):
    forbidden = set(task.splits.photos("forget", "train").tolist())
    images = type(task.splits.faces).images
    seen = []

    def watched(faces, indices):
        seen.extend(np.asarray(indices).tolist())
        return images(faces, indices)

    monkeypatch.setattr(type(task.splits.faces), "images", watched)
    METHODS["finetune"].run(task, make_config("finetune", {"steps": 12, "learning_rate": 1e-3}))
    assert seen and not forbidden & set(seen)
    assert task.history[-1]["retain"] < task.history[0]["retain"]


def test_wrong_labels_are_fixed_and_never_a_forget_identity(task):
    table = draw_wrong_labels(task)
    assert torch.equal(table, draw_wrong_labels(task))
    rows = table[torch.from_numpy(task.forget_photos)].tolist()
    assert set(rows) <= set(task.splits.class_of(task.splits.retain_train).tolist()) and len(set(rows)) > 1
    others = np.setdiff1d(np.arange(len(table)), task.forget_photos)
    assert (table[torch.from_numpy(others)] == -1).all()


def test_random_labels_learns_its_wrong_labels(task):
    wrong = draw_wrong_labels(task)
    before, after = one_step_loss(
        task,
        "random_labels",
        lambda b: F.cross_entropy(task.head(b.forget, scale=16.0), wrong[torch.from_numpy(b.forget_photos)]),
        {"steps": 20},
    )
    assert after < before


@pytest.mark.parametrize("name", ["dispersion", "dispersion_uniform", "dispersion_hard"])
def test_dispersion_spreads_the_forgotten_and_holds_the_others(name, tiny_recogniser, tiny_splits):
    outcome = run(name, tiny_recogniser, tiny_splits, steps=25, retain_per_step=32)
    forget, kept = (tiny_splits.photos(pool, "train") for pool in ("forget", "retain_train"))
    old, new = (embed(m, tiny_splits.faces) for m in (tiny_recogniser.model, outcome.model))
    moved = 1 - (old * new).sum(1)
    assert moved[forget].mean() > 2 * moved[kept].mean()
    assert outcome.history[-1]["mean_cosine"] < outcome.history[0]["mean_cosine"] - 0.2


def test_zero_steps_change_nothing(tiny_recogniser, tiny_splits):
    outcome = run("dispersion", tiny_recogniser, tiny_splits, steps=0)
    assert same(state(tiny_recogniser.model), outcome.model.state_dict())


def test_distillation_is_zero_at_the_start(task):
    batch = make_batch(task, 0, task.forget_photos[:2], task.retain_train_photos[:6], False)
    targets = Teacher.of(task).points(batch.retain_photos)
    assert distillation(batch, targets).item() == pytest.approx(0.0, abs=1e-5)


def test_a_teacher_looks_at_a_photo_once_and_never_changes(task):
    teacher, photos = Teacher.of(task), task.retain_train_photos[:6]
    before = teacher.points(photos)
    for weight in task.model.parameters():
        weight.data.zero_()
    assert torch.equal(teacher.points(photos[::-1].copy()), before.flip(0)) and task.images_processed == 6
    expected = embed(teacher.model, task.splits.faces, photos)
    assert torch.allclose(before, expected, atol=1e-6) and before.norm(dim=1).min() > 0.99


def test_retrain_options_are_the_training_recipe():
    assert make_config("retrain", {"epochs": 3}) == TrainConfig(epochs=3)


def test_numbers_of_other_libraries_become_pythons():
    given = {"steps": np.int64(3), "learning_rate": np.float32(0.5), "augment": np.bool_(True), "retain_per_step": 4.0}
    config = make_config("dispersion", given | {"check_every": torch.tensor(2)})
    values = config.steps, config.learning_rate, config.augment, config.retain_per_step, config.check_every
    assert values == (3, 0.5, True, 4, 2) and [type(v) for v in values] == [int, float, bool, int, int]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, None, "0", float("nan")])
def test_what_is_no_seed_is_one_sentence(seed, tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match="The seed is .*whole number from 0"):
        unlearn("original", tiny_recogniser.model, tiny_recogniser.head, tiny_splits, seed=seed)


def test_rows_of_a_head_in_another_order_are_noticed(tiny_recogniser, tiny_splits, recwarn):
    head = head_from_centroids(
        "cosface",
        embed(tiny_recogniser.model, tiny_splits.faces, tiny_splits.train),
        torch.from_numpy(tiny_splits.class_of(tiny_splits.faces.labels[tiny_splits.train])),
        len(tiny_splits.trained),
    )
    unlearn("original", tiny_recogniser.model, head, tiny_splits, device="cpu", progress=False)
    assert not recwarn.list
    head.weight.data = head.weight.data.roll(1, 0)
    with pytest.warns(UserWarning, match="no more than a guess"):
        unlearn("original", tiny_recogniser.model, head, tiny_splits, device="cpu", progress=False)


def test_wrapped_models_work_and_half_ones_are_one_sentence(tiny_recogniser, tiny_splits):
    wrapped = torch.nn.DataParallel(tiny_recogniser.model)
    outcome = unlearn("esc", wrapped, tiny_recogniser.head, tiny_splits, device="cpu", progress=False)
    assert network(outcome.model).name == "mini"
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        other = copy.deepcopy(tiny_recogniser.model).to(dtype)
        for call in (
            lambda: unlearn("esc", other, tiny_recogniser.head, tiny_splits),  # noqa: B023
            lambda: embed(other, tiny_splits.faces, [0]),  # noqa: B023
        ):
            with pytest.raises(CourseError, match=r"use \.float\(\)"):
                call()


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name, entry in METHODS.items() for option in getattr(entry.config, "unused", ())],
)
def test_an_option_that_changes_nothing_is_refused(name, option):
    value = getattr(METHODS[name].config(), option)
    make_config(name, {option: value})
    with pytest.raises(CourseError, match=f"'{option}' changes nothing in method '{name}'"):
        make_config(name, {option: not value if isinstance(value, bool) else value + 1})
