"""Teachers: what each one says, what the student learns from it, and what known slips would do."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from one_step import (
    after_steps,
    assert_same_step,
    cosine_rates,
    cosines_of,
    input_of,
    ordinary_loss,
    twin,
    vector,
    watch_batches,
)

from utils.faces.splits import make_splits
from utils.models.embedding import embed
from utils.settings import CourseError
from utils.unlearning.loop import make_batch, unlearn
from utils.unlearning.losses import Teacher, teacher_divergence
from utils.unlearning.methods.ascent import forget_names
from utils.unlearning.methods.teachers import (
    gumbel_noise,
    lotus_temperature,
    masked_names,
    name_accuracy,
    scrub_turns,
    untrained_backbone,
)
from utils.unlearning.registry import METHODS, make_config

SCALE = 16.0


def slow_softmax(row) -> list[float]:
    top = max(row)
    parts = [math.exp(value - top) for value in row]
    return [part / sum(parts) for part in parts]


def slow_divergence(teacher: list[list[float]], student: list[list[float]]) -> float:
    """KL(teacher || student) of lists of probabilities: summed over identities, averaged over photos."""
    total = 0.0
    for t_row, s_row in zip(teacher, student, strict=True):
        total += sum(t * (math.log(t) - math.log(s)) for t, s in zip(t_row, s_row, strict=True) if t > 0)
    return total / len(teacher)


def slow_logits(model, head, splits, photos, scale: float = SCALE) -> list[list[float]]:
    """Scaled cosines to every prototype, photo by photo, in double precision."""
    prototypes = head.weight.detach().double().numpy()
    rows = []
    for photo in photos:
        with torch.no_grad():
            point = model(model.preprocess(splits.faces.images(np.array([photo]))))[0].double().numpy()
        rows.append([scale * p @ point / (np.linalg.norm(p) * np.linalg.norm(point)) for p in prototypes])
    return rows


def first_batch(task, n: int = 6):
    return make_batch(task, 0, task.forget_photos[:n], task.retain_train_photos[:n], False)


def run(name, recogniser, splits, **config):
    return unlearn(name, recogniser.model, recogniser.head, splits, device="cpu", progress=False, **config)


def first_losses(task, name, **config) -> tuple[dict, object]:
    """The history entry of a method's first step, and the photos of that step."""
    seen = []
    images = type(task.splits.faces).images

    def watched(faces, indices):
        seen.append(np.asarray(indices))
        return images(faces, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(task.splits.faces), "images", watched)
        METHODS[name].run(task, make_config(name, {"steps": 1, "forget_scale": SCALE} | config))
    return task.history[0], seen


def split_sides(task, photos) -> tuple[np.ndarray, np.ndarray]:
    forget = np.isin(photos, task.forget_photos)
    return photos[forget], photos[~forget]


# ---------------------------------------------------------------------------------------------------- the teacher


def test_a_teacher_looks_once_at_each_photo_and_counts_it(task):
    teacher = Teacher.of(task)
    first = teacher.points(task.forget_photos[[0, 1, 1]])
    assert task.images_processed == 2
    teacher.points(task.forget_photos[:3])
    assert task.images_processed == 3
    alone = embed(task.model, task.splits.faces, task.forget_photos[[0, 1, 1]])
    torch.testing.assert_close(first, alone, atol=1e-6, rtol=0)


def test_a_teacher_stays_what_it_was_when_student_and_head_move(task):
    teacher = Teacher.of(task)
    before = teacher.logits(task.retain_train_photos[:4], SCALE).clone()
    fresh = Teacher.of(task)
    with torch.no_grad():
        for parameter in (*task.model.parameters(), *task.head.parameters()):
            parameter.add_(torch.randn(parameter.shape))
    torch.testing.assert_close(fresh.logits(task.retain_train_photos[:4], SCALE), before)
    assert not any(p.requires_grad for p in (*teacher.model.parameters(), *teacher.head.parameters()))


def test_name_accuracy_counts_nearest_prototypes(task):
    logits = slow_logits(task.model, task.head, task.splits, task.forget_photos)
    rows = task.splits.class_of(task.splits.faces.labels[task.forget_photos])
    assert name_accuracy(task, task.forget_photos) == pytest.approx(np.mean(np.argmax(logits, axis=1) == rows))
    assert task.images_processed == len(task.forget_photos)


def test_a_student_equal_to_its_teacher_diverges_by_nothing(task):
    # Fails if only one of the two has the margin.
    teacher, batch = Teacher.of(task), first_batch(task)
    for points, photos in ((batch.forget, batch.forget_photos), (batch.retain, batch.retain_photos)):
        loss = teacher_divergence(teacher.names(photos, SCALE), task.head(points, scale=SCALE))
        assert loss.item() == pytest.approx(0.0, abs=1e-5)
    with_margin = task.head(batch.retain, batch.retain_rows, scale=SCALE)
    assert teacher_divergence(teacher.names(batch.retain_photos, SCALE), with_margin) > 1e-3


def test_divergence_averaged_over_identities_too_is_c_times_smaller():
    generator = torch.Generator().manual_seed(0)
    teacher, logits = torch.randn(5, 7, generator=generator).softmax(1), torch.randn(5, 7, generator=generator)
    right = teacher_divergence(teacher, logits)
    slow = slow_divergence(teacher.tolist(), [slow_softmax(row) for row in logits.tolist()])
    assert right.item() == pytest.approx(slow, rel=1e-5)
    with pytest.warns(UserWarning, match="batchmean"):
        slip = F.kl_div(logits.log_softmax(1), teacher, reduction="mean")
    assert slip.item() == pytest.approx(right.item() / 7, rel=1e-5)


# ---------------------------------------------------------------------------------------------------- bad teacher


def test_the_untrained_backbone_knows_nobody_and_follows_the_seed(task):
    state = torch.random.get_rng_state()
    bad, again = untrained_backbone(task), untrained_backbone(task)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(bad.parameters(), again.parameters(), strict=True))
    task.seed = 1
    assert not torch.equal(next(bad.parameters()), next(untrained_backbone(task).parameters()))
    means = []
    for model in (bad, task.model):
        points = embed(model, task.splits.faces, task.splits.train)
        means.append((points @ points.T).mean().item())
    assert means[0] > means[1] + 0.3, "a random network puts all faces close together"


def test_bad_teacher_losses_agree_with_a_slow_computation(task):
    original = copy.deepcopy(task.model)
    entry, seen = first_losses(task, "bad_teacher", retain_per_step=6, retain_weight=2.0, photos_per_identity=3)
    forget, retain = split_sides(task, seen[0])
    assert len(forget) == 6 and len(retain) == 6
    names = {}
    for who, model, photos in (
        ("bad", untrained_backbone(task).eval(), forget),
        ("student", original, forget),
    ):
        names[who] = [slow_softmax(row) for row in slow_logits(model, task.head, task.splits, photos)]
    assert entry["forget"] == pytest.approx(slow_divergence(names["bad"], names["student"]), rel=1e-3)
    assert entry["retain"] == pytest.approx(0.0, abs=1e-5)


def test_bad_teacher_brings_the_student_nearer_to_the_bad_one(task):
    bad = Teacher.of(task, untrained_backbone(task))
    photos = task.forget_photos

    def distance():
        points = embed(task.model, task.splits.faces, photos)
        return teacher_divergence(bad.names(photos, SCALE), task.head(points, scale=SCALE)).item()

    before = distance()
    METHODS["bad_teacher"].run(task, make_config("bad_teacher", {"steps": 15, "retain_per_step": 10}))
    assert distance() < 0.7 * before


# ---------------------------------------------------------------------------------------------------------- SCRUB


def test_scrub_takes_turns_and_ends_with_min_steps():
    config = make_config("scrub", {"steps": 8, "max_share": 0.5})
    turns = [scrub_turns(config, step) for step in range(8)]
    minimise, maximise = (False, True), (True, False)
    assert turns == [minimise, maximise, minimise, maximise] + [minimise] * 4
    assert maximise not in [scrub_turns(make_config("scrub", {"max_share": 0.0}), step) for step in range(80)]


def test_scrub_losses_agree_with_a_slow_computation(task):
    original, head = copy.deepcopy(task.model), task.head
    images, batches = type(task.splits.faces).images, []

    def watched(faces, indices):
        batches.append((np.asarray(indices), copy.deepcopy(task.model)))
        return images(faces, indices)

    options = {"steps": 2, "retain_per_step": 5, "gamma": 0.7, "alpha": 0.3, "max_share": 1.0, "rewind": False}
    options["forget_scale"] = SCALE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(task.splits.faces), "images", watched)
        METHODS["scrub"].run(task, make_config("scrub", options | {"learning_rate": 3e-3, "photos_per_identity": 2}))
    steps = [(p, m) for p, m in batches if not torch.equal(m.stages[0].conv1.weight, original.stages[0].conv1.weight)]
    retained, (forgotten, student) = batches[0][0], steps[0]
    assert set(forgotten) <= set(task.forget_photos) and not set(retained) & set(task.forget_photos)
    heat = (head.scale / SCALE) ** 2

    rows = task.splits.class_of(task.splits.faces.labels[retained])
    names = []
    for row, logits in zip(rows, slow_logits(original, head, task.splits, retained, head.scale), strict=True):
        logits[row] -= head.scale * head.margin
        names.append(-math.log(slow_softmax(logits)[row]))
    assert task.history[0]["retain"] == pytest.approx(0.7 * np.mean(names), rel=1e-3)
    assert task.history[0]["teacher"] == pytest.approx(0.0, abs=1e-4)

    p0, p = ([slow_softmax(r) for r in slow_logits(m, head, task.splits, forgotten)] for m in (original, student))
    assert task.history[1]["forget"] == pytest.approx(-heat * slow_divergence(p0, p), rel=1e-2, abs=1e-5)
    assert task.history[1]["forget"] < 0


def test_a_min_and_a_max_step_of_scrub_equal_the_slow_reference(task, monkeypatch):
    """The paper's two objectives in turn: gamma CE + alpha T^2 KL on retained photos down, T^2 KL on forget photos up;
    the authors take an epoch of each, max first, the course a step of each, min first."""
    photos, reference, before = watch_batches(monkeypatch), twin(task), vector(task.model.parameters())
    options = {"steps": 2, "retain_per_step": 5, "photos_per_identity": 2, "max_share": 1.0, "rewind": False}
    options |= {"gamma": 0.7, "alpha": 0.3, "forget_scale": SCALE, "learning_rate": 1e-3}
    METHODS["scrub"].run(task, make_config("scrub", options))
    (nobody, retained), (forgotten, none) = photos
    assert not len(nobody) and not len(none)
    original, heat = copy.deepcopy(reference.model), (task.head.scale / SCALE) ** 2

    def divergence(task, indices):
        total = 0.0
        for image in (input_of(task, i) for i in indices.tolist()):
            with torch.no_grad():
                taught = torch.log_softmax(SCALE * cosines_of(original, task.head.weight, image), dim=0)
            said = torch.log_softmax(SCALE * cosines_of(task.model, task.head.weight, image), dim=0)
            total = total + sum(p * (log_p - log_q) for p, log_p, log_q in zip(taught.exp(), taught, said, strict=True))
        return heat * total / len(indices)

    losses = [
        lambda task: 0.7 * ordinary_loss(task, retained) + 0.3 * divergence(task, retained),
        lambda task: -divergence(task, forgotten),
    ]
    assert task.history[0]["retain"] == pytest.approx(0.7 * ordinary_loss(reference, retained).item(), rel=1e-6)
    assert task.history[0]["teacher"] == pytest.approx(0.0, abs=1e-5)
    expected = after_steps(reference, losses, cosine_rates(1e-3, 2))
    assert_same_step(expected, task.model.parameters(), before, 1e-3, share=0.95)


def test_scrub_drives_forget_photos_from_their_teacher(task):
    teacher = Teacher.of(task)

    def distance(photos):
        points = embed(task.model, task.splits.faces, photos)
        return teacher_divergence(teacher.names(photos, SCALE), task.head(points, scale=SCALE)).item()

    options = {"steps": 20, "max_share": 1.0, "learning_rate": 2e-3, "retain_per_step": 16, "rewind": False}
    METHODS["scrub"].run(task, make_config("scrub", options))
    assert distance(task.forget_photos) > 2 * distance(task.retain_train_photos[:20])


@pytest.mark.parametrize("wanted, best", [(0.0, 0), (0.4, 2), (1.0, 4)])
def test_rewind_returns_the_weights_nearest_to_the_stated_error(wanted, best, task, monkeypatch):
    errors, passed = iter([0.1, 0.5, 0.5, 0.9, 0.9]), []

    def scripted(task, photos):
        assert set(photos) <= set(task.forget_photos)
        passed.append(copy.deepcopy(task.model.state_dict()))
        return 1.0 - next(errors)

    monkeypatch.setattr("utils.unlearning.methods.teachers.name_accuracy", scripted)
    options = {"steps": 9, "rewind_every": 2, "rewind_error": wanted, "retain_per_step": 8}
    METHODS["scrub"].run(task, make_config("scrub", options))
    noted = {entry["step"]: entry["name_error"] for entry in task.history if "name_error" in entry}
    assert noted == pytest.approx({1: 0.1, 3: 0.5, 5: 0.5, 7: 0.9, 8: 0.9})
    same = [all(torch.equal(state[k], v) for k, v in task.model.state_dict().items()) for state in passed]
    assert same == [number == best for number in range(5)]


def test_without_rewind_the_last_weights_are_kept(tiny_recogniser, tiny_splits):
    options = {"steps": 4, "retain_per_step": 8, "rewind_error": 0.0}
    kept = run("scrub", tiny_recogniser, tiny_splits, rewind=False, **options)
    assert not any("name_error" in entry for entry in kept.history)
    seen = run("scrub", tiny_recogniser, tiny_splits, rewind_every=2, **options)
    assert seen.images_processed == kept.images_processed + 2 * 2 * 4


@pytest.mark.parametrize(
    "config, told",
    [
        ({"max_share": 1.5}, "max_share is a share"),
        ({"rewind_error": 2.0}, "rewind_error is a share"),
        ({"rewind_every": 0}, "rewind_every must be at least 1"),
        ({"check_every": 5}, "rewind or stop early, not both"),
        ({"retain_per_step": 0}, "'scrub' needs retained photos"),
    ],
)
def test_scrub_refuses_what_cannot_work(config, told, tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match=told):
        run("scrub", tiny_recogniser, tiny_splits, **config)


def test_scrub_without_rewind_can_stop_early(tiny_recogniser, tiny_splits):
    outcome = run("scrub", tiny_recogniser, tiny_splits, rewind=False, check_every=2, steps=4, retain_per_step=8)
    assert any("dev_map" in entry for entry in outcome.history)


def test_an_optimiser_that_owns_another_model_changes_nothing(task):
    """The slip of a published SCRUB baseline: the loss is taken on a deep copy, the original is what moves."""
    teacher, student = Teacher.of(task), copy.deepcopy(task.model)
    photos = task.forget_photos[:6]
    faces = student.preprocess(task.splits.faces.images(photos))
    for owner, changed in ((task.model, False), (student, True)):
        before = [p.detach().clone() for p in owner.parameters()]
        optimiser = torch.optim.Adam(owner.parameters(), lr=1e-3)
        optimiser.zero_grad()
        loss = -teacher_divergence(teacher.names(photos, 4.0), task.head(student(faces), scale=SCALE))
        loss.backward()
        optimiser.step()
        assert changed != all(torch.equal(a, b) for a, b in zip(before, owner.parameters(), strict=True))


# ---------------------------------------------------------------------------------------------------------- LoTUS


def test_lotus_temperature_follows_the_unrounded_accuracy():
    assert lotus_temperature(32.0, 0.0) == 1.0
    assert lotus_temperature(2.0, 0.5) == pytest.approx(math.e)
    assert lotus_temperature(32.0, 0.004) > lotus_temperature(32.0, 0.0), "0.004 must not be rounded away"
    assert math.isfinite(lotus_temperature(1e6, 1.0))


def test_gumbel_noise_draws_names_as_often_as_the_softmax_says():
    logits = torch.tensor([[2.0, 1.0, 0.0]]).expand(20000, 3)
    noise = gumbel_noise(logits, torch.Generator().manual_seed(0))
    counts = torch.bincount((logits + noise).argmax(1), minlength=3) / len(logits)
    torch.testing.assert_close(counts, logits[0].softmax(0), atol=0.015, rtol=0)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)


def test_lotus_losses_agree_with_a_slow_computation(task):
    original, generator = copy.deepcopy(task.model), copy.deepcopy(task.generator)
    options = {"retain_per_step": 5, "photos_per_identity": 3, "sharpness": 1.5}
    entry, seen = first_losses(task, "lotus", **options)
    forget, retain = next(split_sides(task, p) for p in seen if len(p) == 11)
    accuracy = np.mean(
        np.argmax(slow_logits(original, task.head, task.splits, task.forget_photos), axis=1)
        == task.splits.class_of(task.splits.faces.labels[task.forget_photos])
    )
    # The run's generator deals forget photos, then retained ones, then the noise.
    torch.randperm(2, generator=generator)
    for person in dict.fromkeys(task.splits.faces.labels[forget]):
        torch.randperm(int((task.splits.faces.labels[task.forget_photos] == person).sum()), generator=generator)
    torch.randperm(len(task.retain_train_photos), generator=generator)
    classes = len(task.head.weight)
    noise = [-torch.empty(n, classes).exponential_(generator=generator).log() for n in (6, 5)]

    tau = math.exp(1.5 * accuracy)
    wanted = 0.0
    for logits, g in zip(slow_logits(original, task.head, task.splits, forget), noise[0].tolist(), strict=True):
        target = slow_softmax([(a + b) / tau for a, b in zip(logits, g, strict=True)])
        wanted -= sum(t * math.log(p) for t, p in zip(target, slow_softmax(logits), strict=True)) / 6
    assert entry["forget"] == pytest.approx(wanted, rel=1e-3)
    wanted = 0.0
    for logits, g in zip(slow_logits(original, task.head, task.splits, retain), noise[1].tolist(), strict=True):
        drawn = int(np.argmax(np.array(logits) + np.array(g)))
        wanted -= math.log(slow_softmax(logits)[drawn]) / 5
    assert entry["retain"] == pytest.approx(wanted, rel=1e-3, abs=1e-5)


def test_lotus_asks_for_the_accuracy_again_every_few_steps(tiny_recogniser, tiny_splits):
    options = {"steps": 6, "retain_per_step": 4, "photos_per_identity": 2}
    often = run("lotus", tiny_recogniser, tiny_splits, accuracy_every=2, **options)
    never = run("lotus", tiny_recogniser, tiny_splits, accuracy_every=6, **options)
    asked = often.images_processed - never.images_processed
    assert asked == 2 * len(tiny_splits.photos("forget", "train"))
    with pytest.raises(CourseError, match="accuracy_every"):
        run("lotus", tiny_recogniser, tiny_splits, accuracy_every=0)


def test_lotus_makes_the_model_unsure_of_the_forgotten(task):
    def surest(photos):
        points = embed(task.model, task.splits.faces, photos)
        return task.head(points, scale=SCALE).softmax(1).max(1).values.mean().item()

    before = surest(task.forget_photos)
    options = {"steps": 10, "retain_per_step": 10, "accuracy_every": 10}
    METHODS["lotus"].run(task, make_config("lotus", options))
    assert surest(task.forget_photos) < before - 0.1


# --------------------------------------------------------------------------------------------------------- DELETE


def test_delete_targets_agree_with_a_slow_computation(task):
    photos = task.forget_photos[:5]
    targets = masked_names(Teacher.of(task), photos, SCALE)
    struck = set(task.splits.class_of(task.splits.forget).tolist())
    for target, logits in zip(targets, slow_logits(task.model, task.head, task.splits, photos), strict=True):
        allowed = [k for k in range(len(logits)) if k not in struck]
        expected = slow_softmax([logits[k] for k in allowed])
        assert all(target[k] == 0 for k in struck) and len(struck) == 2
        assert target.sum().item() == pytest.approx(1.0, abs=1e-6)
        assert target[allowed].tolist() == pytest.approx(expected, rel=1e-4)


def test_delete_targets_are_the_authors_for_one_person_and_strike_more_for_several(task, tiny_faces):
    """The authors rule out the photo's own name alone (its logit becomes -1e10): the same for one forgotten person.

    For several, our target is theirs with the other forgotten names struck out and the rest dealt out anew."""
    for people in (1, 2):
        splits = make_splits(tiny_faces, n_forget=people, n_dev=1)
        asked = dataclasses.replace(task, splits=splits)
        photos, teacher = asked.forget_photos[::5], Teacher.of(asked)
        struck = splits.class_of(splits.forget).tolist()
        for target, cosines, own in zip(
            masked_names(teacher, photos, SCALE).tolist(),
            teacher.logits(photos, 1.0).tolist(),
            asked.head_rows(photos).tolist(),
            strict=True,
        ):
            authors = slow_softmax([-1e10 if k == own else SCALE * c for k, c in enumerate(cosines)])
            left = [0.0 if k in struck else share for k, share in enumerate(authors)]
            assert target == pytest.approx([share / sum(left) for share in left], abs=1e-6)
            assert (target == pytest.approx(authors, abs=1e-6)) is (people == 1)


def test_delete_is_satisfied_by_a_student_that_is_the_masked_teacher(task):
    teacher, photos = Teacher.of(task), task.forget_photos[:5]
    student = teacher.logits(photos, SCALE).index_fill(1, task.forget_columns, -1e9)
    assert teacher_divergence(masked_names(teacher, photos, SCALE), student).item() == pytest.approx(0.0, abs=1e-5)


def test_delete_loss_is_the_divergence_from_the_masked_teacher(task):
    original = copy.deepcopy(task.model)
    entry, seen = first_losses(task, "delete", photos_per_identity=3)
    logits = slow_logits(original, task.head, task.splits, seen[0])
    struck = set(task.splits.class_of(task.splits.forget).tolist())
    targets = [slow_softmax([-1e9 if k in struck else v for k, v in enumerate(row)]) for row in logits]
    expected = slow_divergence(targets, [slow_softmax(row) for row in logits])
    assert entry["forget"] == pytest.approx(expected, rel=1e-3)


def test_delete_takes_the_names_away_and_sees_forget_photos_only(task):
    before = name_accuracy(task, task.forget_photos)
    _, seen = first_losses(task, "delete", steps=25, learning_rate=2e-3)
    assert set(np.concatenate(seen)) <= set(task.forget_photos.tolist())
    assert name_accuracy(task, task.forget_photos) < before - 0.3


# ---------------------------------------------------------------------------- a slip in a published NegGrad baseline


def test_flipping_gradients_before_they_exist_is_descent(task):
    """The flip must come after backward: before it there is nothing to flip, so the step goes downhill."""
    batch_photos = task.forget_photos[:8], task.retain_train_photos[:2]

    def step(flip_first: bool) -> tuple[float, float]:
        model = copy.deepcopy(task.model)
        here = copy.copy(task)
        here.model = model
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-2)
        before = forget_names(here, make_batch(here, 0, *batch_photos, False), SCALE)

        def flip():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.neg_()

        optimiser.zero_grad()
        if flip_first:
            flip()
        before.backward()
        if not flip_first:
            flip()
        optimiser.step()
        return before.item(), forget_names(here, make_batch(here, 0, *batch_photos, False), SCALE).item()

    before, after = step(flip_first=False)
    assert after > before
    before, after = step(flip_first=True)
    assert after < before
