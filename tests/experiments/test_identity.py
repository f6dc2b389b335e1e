"""What makes a run another run: nothing else is done again, nothing of another run is reused or averaged with it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.experiments import ablation, audits, benchmark, sequence, sweep
from utils.experiments import plan as plan_room
from utils.experiments.audit_summary import audit_store
from utils.experiments.benchmark import run_identity, run_plans
from utils.experiments.plan import (
    FLAGS,
    TUNING,
    USUAL,
    Plan,
    method_options,
    open_splits,
    plan_parser,
    plans_of,
    prepared,
)
from utils.experiments.results import ResultStore, full_config
from utils.experiments.tables import by_setting, grouped
from utils.faces.datasets import FaceDataset
from utils.faces.splits import make_splits
from utils.faces.synthetic.dataset import fingerprint_of
from utils.models import checkpoints
from utils.models.checkpoints import TrainConfig, training_of
from utils.settings import CourseError
from utils.unlearning import registry
from utils.unlearning.registry import METHODS, make_config


def noise(name: str, root: object, size: int, people: int, seed: int = 0) -> FaceDataset:
    """Faces that only a hash can tell apart: their pixels come from the folder they lie in, or from a seed."""
    draw = torch.Generator().manual_seed(len(str(root or "")) + 1000 * seed)
    labels, names = np.repeat(np.arange(people), 6), tuple(f"P{i:02d}" for i in range(people))
    return FaceDataset(
        name=name,
        pixels=torch.randint(0, 256, (people * 6, 3, size, size), generator=draw).to(torch.uint8),
        labels=labels,
        identities=names,
        photo_names=tuple(f"{names[label]}/{i}" for i, label in enumerate(labels)),
        image_size=size,
        source="noise",
        licence="MIT",
        trained_min_photos=6,
    )


@pytest.fixture
def world(monkeypatch) -> SimpleNamespace:
    """Data sets of noise and models that are only asked for; `unlearned` notes how each method was called."""
    seen = SimpleNamespace(opened=[], models=[], unlearned=[], evaluated=[])

    def load(name, root, *, image_size, max_identities, seed, **_):
        seen.opened.append((name, root, image_size, max_identities, seed))
        return noise(name, root, image_size, max_identities or 16, seed)

    def model(splits, **choice):
        seen.models.append((splits, choice))
        return SimpleNamespace(model=f"model {len(seen.models)}", head="head", seconds=0.0)

    def unlearn(name, model, head, splits, **options):
        seen.unlearned.append(SimpleNamespace(name=name, model=model, head=head, splits=splits, options=options))
        heads = {"head": f"{name}'s head", "trained_head": f"{name}'s head"}
        return SimpleNamespace(model=f"{name} of {model}", seconds=1.0, images_processed=1, **heads)

    def evaluate(model, splits, head=None, **_):
        if head is not None:  # else it is the original, for the order that it had
            seen.evaluated.append((model, splits, head))
        return SimpleNamespace(model=model, scores=lambda: {"forget": {"r1": 0.5, "map": 0.5}})

    def order_kept(before, now):
        assert now.model.endswith(f" of {before.model}")
        return 0.9

    monkeypatch.setattr(benchmark, "order_kept", order_kept)
    monkeypatch.setattr(plan_room, "load_faces", load)
    monkeypatch.setattr(plan_room, "load_or_train", model)
    monkeypatch.setattr(benchmark, "unlearn", unlearn)
    monkeypatch.setattr(benchmark, "evaluate", evaluate)
    monkeypatch.setattr(benchmark, "map_by_person", lambda evaluation: {})
    return seen


CPU = torch.device("cpu")
PLAN = Plan(methods=("dispersion",), forget=2, image_size=16, device="cpu")
# one other value for each field of a plan; the last three make no other run of those that are asked for twice
CHANGES = {
    "dataset": {"dataset": "folder"},
    "root": {"root": "elsewhere"},
    "backbone": {"backbone": "facenet"},
    "pretrained": {"pretrained": "none"},
    "train_epochs": {"train_epochs": 3},
    "weights_seed": {"weights_seed": 1},
    "forget": {"forget": 3},
    "forget_ids": {"forget": None, "forget_ids": "P03,P05"},
    "seed": {"seed": 1},
    "dev": {"dev": True},
    "half_unseen": {"half_unseen": True},
    "profile": {"profile": "full"},
    "image_size": {"image_size": 24},
    "held_out": {"held_out": "half"},
    "max_identities": {"max_identities": 14},
    "faces_seed": {"faces_seed": 1},
    "options": {"options": (("dispersion", "steps", 7),)},
}
SAME = {"device": {"device": "auto"}, "methods": {"methods": ("dispersion", "esc")}, "seeds": {"seeds": 2}}


def runs(seen: SimpleNamespace, name: str = "dispersion") -> list[SimpleNamespace]:
    return [run for run in seen.unlearned if run.name == name]


def test_every_field_of_a_plan_is_in_these_lists():
    assert {*CHANGES, *SAME} == {field.name for field in dataclasses.fields(Plan)}


@pytest.mark.parametrize("field", CHANGES)
def test_a_plan_that_differs_in_one_field_is_run_again(field, world, tmp_path):
    other = replace(PLAN, **CHANGES[field])
    for plan in (PLAN, other, PLAN, other):
        results = run_plans([plan], tmp_path / "r.json", progress=False)
    assert len(runs(world)) == 2 and len(runs(world, "original")) >= 1 + (field not in ("options",))
    assert len(json.loads((tmp_path / "r.json").read_text())["runs"]) == len(world.unlearned)
    assert {run["method"] for run in results["runs"]} >= {"original", "dispersion"}


@pytest.mark.parametrize("field", SAME)
def test_a_plan_that_asks_for_more_or_elsewhere_does_not_repeat_what_is_at_hand(field, world, tmp_path):
    for plan in (PLAN, replace(PLAN, **SAME[field])):
        run_plans([plan], tmp_path / "r.json", progress=False)
    assert len(runs(world)) == (2 if field == "seeds" else 1)


def test_the_same_photos_in_another_folder_are_the_same_run(world, tmp_path):
    for root in ("here", "four"):  # as long, so the fake world draws the same pixels
        run_plans([replace(PLAN, root=root)], tmp_path / "r.json", progress=False)
    assert len(runs(world)) == 1


IDENTITY = {
    "dataset", "fingerprint", "image_size", "n_identities", "n_forget", "forget_ids", "asked", "backbone", "pretrained",
    "train", "method", "seed", "profile", "dev", "half_unseen", "config", "held_out",
}  # fmt: skip


def test_the_identity_of_a_run_says_what_was_asked_for(world):
    options = (("dispersion", "steps", 7), ("esc", "directions", 3))
    asked = {"backbone": "facenet", "pretrained": "none", "train_epochs": 3, "dev": True, "profile": "full"}
    plan = replace(PLAN, dataset="folder", root="here", max_identities=14, options=options, **asked)
    splits = open_splits(plan, 5, {}, False)
    names = [splits.faces.identities[i] for i in splits.forget]
    assert run_identity(plan, splits, "dispersion", 5) == {
        "dataset": "folder",
        "fingerprint": noise("folder", "here", 16, 14).fingerprint,
        "image_size": 16,
        "n_identities": 14,
        "held_out": "fifth",
        "n_forget": len(names),
        "forget_ids": names,
        "asked": False,
        "backbone": "facenet",
        "pretrained": "none",
        "train": training_of(TrainConfig(epochs=3)),
        "method": "dispersion",
        "seed": 5,
        "profile": "full",
        "dev": True,
        "half_unseen": False,
        "config": asdict(METHODS["dispersion"].config()) | METHODS["dispersion"].full | {"steps": 7},
    }
    named = replace(PLAN, forget=None, forget_ids="P03", profile="quick")
    found = run_identity(named, open_splits(named, 0, {}, False), "retrain", 0)
    assert (found["asked"], found["forget_ids"], found["dev"]) == (True, ["P03"], False)
    assert found["config"] == asdict(TrainConfig()) and found["train"] == training_of(TrainConfig())
    elsewhere = run_identity(
        replace(named, backbone="dlib", pretrained="dlib", train_epochs=9), open_splits(named, 0, {}, False), "esc", 0
    )
    assert elsewhere["train"] == {"loss": "cosface", "scale": 32.0, "margin": 0.5}, "only the head is made here"


def other(value: object) -> object:
    """Another value of the same kind."""
    if isinstance(value, dict):
        return value | {key: other(item) for key, item in list(value.items())[:1]} if value else {"x": 1}
    if isinstance(value, list):
        return [*value, value[-1]]
    return not value if isinstance(value, bool) else value + ("x" if isinstance(value, str) else 1)


def spoil(path, part: str, field: str) -> None:
    """Change one field of every stored row: it is another run's from now on."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for row in content[part]:
        row[field] = other(row[field])
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("field", sorted(IDENTITY - {"method"}))
def test_a_stored_run_with_one_other_field_is_not_reused(field, world, tmp_path):
    out = tmp_path / "r.json"
    first = run_plans([PLAN], out, progress=False)["runs"]
    count = len(world.unlearned)
    spoil(out, "runs", field)
    again = run_plans([PLAN], out, progress=False)["runs"]
    assert len(world.unlearned) == 2 * count and [run[field] for run in again] == [run[field] for run in first]
    assert len(ResultStore(out).rows()) == 2 * count, "the other's rows stay"
    run_plans([PLAN], out, progress=False)
    assert len(world.unlearned) == 2 * count


# --------------------------------------------------------------------------------- the seed, the profile, the settings


def test_what_a_row_says_is_what_the_method_was_called_with(world, tmp_path):
    options = (("dispersion", "learning_rate", 0.5), ("esc", "directions", 3), ("retrain", "batch_size", 9))
    plan = replace(
        PLAN, methods=("dispersion", "esc"), options=options, profile="full", seed=4, seeds=3, train_epochs=2
    )
    rows = run_plans([plan], tmp_path / "r.json", progress=False)["runs"]
    assert [(run.name, run.options["seed"]) for run in world.unlearned] == [
        (name, seed) for seed in (4, 5, 6) for name in ("original", "retrain", "dispersion", "esc")
    ]
    for row, run in zip(rows, world.unlearned, strict=True):
        settings = {key: value for key, value in run.options.items() if key not in ("seed", "device", "progress")}
        assert (row["method"], row["seed"]) == (run.name, run.options["seed"])
        assert row["config"] == asdict(registry.make_config(run.name, settings))
        assert row["forget_ids"] == [run.splits.faces.identities[i] for i in run.splits.forget]
        assert run.splits.seed == row["seed"] and str(run.options["device"]) == "cpu"
        expected = {
            "original": {},
            "retrain": {**asdict(TrainConfig()), "epochs": 2, "batch_size": 9},
            "dispersion": METHODS["dispersion"].full | {"learning_rate": 0.5},
            "esc": METHODS["esc"].full | {"directions": 3},
        }
        assert settings == expected[run.name]
    for (model, splits, head), run in zip(world.evaluated, world.unlearned, strict=True):
        assert (model, head) == (f"{run.name} of {run.model}", f"{run.name}'s head") and splits is run.splits


def test_every_seed_forgets_people_of_its_own_and_the_original_and_the_dev_people_stay_the_same(world, tmp_path):
    plan = replace(PLAN, methods=("original",), seeds=4, forget=3)
    run_plans([plan], tmp_path / "r.json", progress=False)
    splits = [run.splits for run in runs(world, "original")]
    assert len({one.forget for one in splits}) == 4
    for same in ("trained", "dev_forget", "unseen", "distractors"):
        assert len({getattr(one, same) for one in splits}) == 1
    for part in ("train", "query", "gallery"):
        assert all(np.array_equal(getattr(splits[0], part), getattr(one, part)) for one in splits)
    for seed, one in enumerate(splits):
        alone = make_splits(one.faces, n_forget=3, seed=seed)
        assert (one.seed, one.forget, one.dev_forget) == (seed, alone.forget, alone.dev_forget)


def test_a_dev_plan_forgets_the_dev_people_and_keeps_the_others(world, tmp_path):
    run_plans([replace(PLAN, methods=("original", "dispersion"), dev=True)], tmp_path / "r.json", progress=False)
    usual = make_splits(noise("synthetic", None, 16, 16), n_forget=2)
    for run in world.unlearned:
        assert run.splits.forget == usual.dev_forget and run.splits.dev_forget == usual.forget
    assert usual.dev_forget and usual.dev_forget != usual.forget


def test_a_number_a_name_and_nothing_each_decide_who_is_forgotten(world):
    def people(**changes: object) -> tuple[int, ...]:
        return open_splits(replace(PLAN, **changes), 1, {}, False).forget

    assert people(forget=None, forget_ids="P03, P05") == (3, 5)
    assert len(people(forget=1)) == 1 and len(people(forget=4)) == 4
    assert people(forget=None) == make_splits(noise("synthetic", None, 16, 16), seed=1).forget


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_a_profile_sets_what_the_method_says_and_the_last_word_is_the_users(name, profile):
    plan = replace(PLAN, profile=profile, train_epochs=5)
    full = METHODS[name].full if profile == "full" else {}
    expected = asdict(TrainConfig()) | {"epochs": 5} if name == "retrain" else full
    assert method_options(plan, name) == expected
    for key in expected:
        changed = method_options(replace(plan, options=((name, key, "mine"), ("other", key, "no"))), name)
        assert changed == expected | {key: "mine"}


def test_the_full_profile_is_a_longer_one():
    longer = [name for name, entry in METHODS.items() if entry.full.get("steps", 0) > getattr(entry.config, "steps", 0)]
    assert len(longer) > 10
    for name in longer:
        assert registry.make_config(name, registry.profile_options(name, "full")).steps == METHODS[name].full["steps"]
        assert registry.profile_options(name, "quick") == {}


# ---------------------------------------------------------------------------- what a process keeps open from run to run


@pytest.mark.parametrize("field", CHANGES)
def test_a_plan_that_differs_gets_a_data_set_and_a_model_of_its_own(field, world):
    """Several plans share a process, as `--forget 1,5,10` does: none is given the other's faces or model."""
    opened: dict = {}
    changed = replace(PLAN, **CHANGES[field])
    seed = 1 if field == "seed" else 0
    prepared(PLAN, 0, opened, False)
    splits, _ = prepared(changed, seed, opened, False)
    alone = open_splits(changed, seed, {}, False)
    assert splits.faces.fingerprint == alone.faces.fingerprint and splits.forget == alone.forget
    assert (splits.faces.name, splits.faces.image_size) == (alone.faces.name, alone.faces.image_size)
    size = {"image_size": 24}.get(field, 16)
    people = 14 if field == "max_identities" else None
    wanted = (changed.dataset, changed.root or None, size, people, changed.faces_seed)
    assert world.opened[-1] == wanted
    if field != "options":
        assert len(world.models) == 2 and world.models[-1][0] is splits
        assert world.models[-1][1] == {
            "backbone": changed.backbone, "pretrained": changed.pretrained, "device": "cpu", "progress": False,
            "config": TrainConfig(
                **{"train_epochs": {"epochs": 3}, "weights_seed": {"weights_seed": 1}}.get(field, {})
            ),
        }  # fmt: skip


def test_a_backbone_has_a_face_size_of_its_own_unless_one_is_given():
    sizes = [
        plan_room.face_size(Plan(backbone=name, image_size=size)) for name in ("mini", "facenet") for size in (0, 96)
    ]
    assert sizes == [64, 96, 160, 96]


def test_weights_from_elsewhere_have_no_retrained_reference():
    found = {
        (b, p): plan_room.references(Plan(backbone=b, pretrained=p))
        for b in ("mini", "facenet")
        for p in ("auto", "none")
    }
    both, one = ("original", "retrain"), ("original",)
    assert found == {
        ("mini", "auto"): both,
        ("mini", "none"): both,
        ("facenet", "auto"): one,
        ("facenet", "none"): both,
    }


ARGUMENTS = {
    "dataset": "folder", "root": "here", "backbone": "facenet", "pretrained": "none", "train_epochs": 3,
    "weights_seed": 5, "methods": "esc,salun", "seed": 2, "seeds": 3, "dev": True, "profile": "full", "device": "cpu",
    "image_size": 80, "max_identities": 9, "forget": 4, "forget_ids": "P01,P02", "faces_seed": 6,
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_flag_changes_its_own_field_alone(name):
    value = ARGUMENTS[name]
    words = [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    (plan,) = plans_of(plan_parser("x", "", FLAGS).parse_args(words))
    assert plan == replace(Plan(), **{name: ("esc", "salun") if name == "methods" else value})


def test_set_for_all_reaches_who_uses_it_and_nobody_else():
    def set_for(text):
        (plan,) = plans_of(plan_parser("x", "", FLAGS).parse_args(["--set", text]))
        return {method: (key, value) for method, key, value in plan.options}

    stepping = {name for name, entry in METHODS.items() if getattr(entry.config(), "steps", 0)}
    assert set_for("all.steps=7") == {name: ("steps", 7) for name in stepping} and "esc" not in stepping
    few = set_for("all.retain_per_step=8")
    assert "dispersion" in few and "dispersion_uniform_alone" not in few, "who sees no retained photo sees none"
    for name, (key, value) in few.items():
        make_config(name, {key: value})
    assert "random_labels" in set_for("all.augment=true"), "a switch that is off is used, too"
    with pytest.raises(CourseError, match="No method uses a setting 'stepz'. Nearest: steps"):
        set_for("all.stepz=7")


def test_what_comes_trained_has_no_seed_of_its_weights():
    check = plan_room.check_plan
    check(replace(PLAN, weights_seed=1))
    check(replace(PLAN, backbone="facenet", pretrained="none", weights_seed=1))
    with pytest.raises(CourseError, match="comes trained"):
        check(replace(PLAN, backbone="dlib", weights_seed=1))
    for name in ("seed", "weights_seed", "faces_seed"):
        with pytest.raises(CourseError, match="seed"):
            replace(PLAN, **{name: -1})
    check(replace(PLAN, faces_seed=1))
    with pytest.raises(CourseError, match="those of 'lfw' are photographed: leave it out"):
        check(replace(PLAN, dataset="lfw", faces_seed=1))


def test_set_may_be_said_several_times_for_several_methods():
    words = ["--set", "esc.directions=2", "--set", "dispersion.steps=3"]
    (plan,) = plans_of(plan_parser("x", "", FLAGS).parse_args(words))
    assert plan == replace(Plan(), options=(("esc", "directions", 2), ("dispersion", "steps", 3)))


# ------------------------------------------------------------------------------- trials, variants, requests and audits


@pytest.fixture
def trials(monkeypatch) -> list:
    """Trials of no length: each is noted."""
    ran, scores = [], {pool: {"r1": 0.5, "map": 0.5} for pool in ("forget", "retain", "unseen")}
    monkeypatch.setattr(sweep, "run_trial", lambda *task: ran.append(task) or dict(scores))
    monkeypatch.setattr(ablation, "run_variant", lambda *task: ran.append(task) or dict(scores))
    monkeypatch.setattr(sequence, "run_requests", lambda *task: ran.append(task) or {"after": []})
    for room, name in ((sweep, "about_trial"), (ablation, "about_variant"), (sequence, "about_requests")):
        monkeypatch.setattr(room, name, lambda *_: {"forget_ids": ["Ann"]})
    for room, name in ((sweep, "dev_world"), (ablation, "dev_world"), (sequence, "first_model")):
        monkeypatch.setattr(room, name, lambda *_: None)
    return ran


COMMANDS = {
    "sweep": ("trials", 9, lambda out, **how: sweep.run_sweep(["finetune"], out, draws=1, progress=False, **how)),
    "ablation": ("trials", 2, lambda out, **how: ablation.run_ablation(
        out, variants=ablation.VARIANTS[1:3], seeds=(0,), progress=False, **how)),
    "sequence": ("runs", 2, lambda out, **how: sequence.run_sequence(
        ["esc"], out, sizes=(3, 2), seeds=2, progress=False, **how)),
}  # fmt: skip
FIELDS = {
    "sweep": ("options", "seed", "fingerprint", "config"),
    "ablation": ("group", "label", "options", "seed", "fingerprint", "config"),
    "sequence": ("sizes", "seed", "fingerprint", "config"),
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in FIELDS for field in (*FIELDS[name], "method")])
def test_a_stored_trial_with_one_other_field_is_not_reused(name, field, trials, tmp_path):
    part, count, run = COMMANDS[name]
    out = tmp_path / f"{name}.json"
    run(out), run(out)
    assert len(trials) == count, "nothing was changed"
    rows = json.loads(out.read_text())[part]
    assert all({*FIELDS[name], "method"} <= row.keys() for row in rows)
    content = json.loads(out.read_text())
    for row in content[part]:
        if field == "seed":
            row[field] += 10
        elif field == "method":
            row[field] = "scrub"
        else:
            row[field] = other(row[field])
    out.write_text(json.dumps(content), encoding="utf-8")
    if field == "fingerprint" and name != "sequence":  # trials are compared with one another: one world a file
        with pytest.raises(CourseError, match="holds trials of another fingerprint"):
            run(out)
        return
    run(out)
    assert len(trials) == 2 * count and len(json.loads(out.read_text())[part]) == 2 * count


@pytest.mark.parametrize("name", COMMANDS)
def test_a_stored_trial_says_the_settings_that_its_method_ran_with(name, trials, tmp_path):
    part, _, run = COMMANDS[name]
    run(tmp_path / "r.json")
    for row in json.loads((tmp_path / "r.json").read_text())[part]:
        defaults = asdict(METHODS[row["method"]].config())
        assert row["config"] == defaults | row.get("options", {}), "its own options over the method's defaults"


@pytest.mark.parametrize("name", COMMANDS)
def test_another_default_of_the_method_is_another_trial(name, trials, tmp_path, monkeypatch):
    part, count, run = COMMANDS[name]
    out = tmp_path / f"{name}.json"
    run(out)
    method = json.loads(out.read_text())[part][-1]["method"]
    entry = METHODS[method]
    field = next(f for f in dataclasses.fields(entry.config) if f.name not in entry.grid and type(f.default) is int)
    config = dataclasses.make_dataclass(
        "Changed", [(field.name, int, field.default + 1)], bases=(entry.config,), frozen=True
    )
    monkeypatch.setitem(METHODS, method, replace(entry, config=config))
    before = len(trials)
    run(out)
    assert len(trials) == before + sum(row["method"] == method for row in json.loads(out.read_text())[part][:count])


@pytest.mark.parametrize(
    "other", [{"fingerprint": "renderer 99, seed 0"}, {"train": training_of(TrainConfig(epochs=31))}], ids=str
)
@pytest.mark.parametrize("name", COMMANDS)
def test_other_faces_and_a_model_trained_otherwise_are_other_trials(name, other, trials, tmp_path, monkeypatch):
    part, count, run = COMMANDS[name]
    run(tmp_path / "r.json")
    real = sweep.started
    for room in (sweep, ablation, sequence):
        monkeypatch.setattr(room, "started", lambda world: real(world) | other)
    run(tmp_path / "r.json")
    assert len(trials) == 2 * count


def test_trials_tell_their_drawn_faces_and_how_their_model_was_trained(default_splits):
    faces = default_splits.faces
    wanted = {"dataset": "synthetic", "fingerprint": faces.fingerprint, "image_size": 64, "n_identities": 180}
    wanted |= {"backbone": "mini", "pretrained": "auto", "train": training_of(TrainConfig())}
    assert sweep.started(TUNING) == wanted | {"fingerprint": fingerprint_of(1)}
    assert sweep.started(Plan()) == ablation.started(Plan()) == sequence.started(Plan()) == wanted


WORLDS = {
    "dataset": {"dataset": "folder", "root": "there"},
    "backbone": {"backbone": "dlib"},
    "train_epochs": {"train_epochs": 3},
    "weights_seed": {"weights_seed": 2},
    "max_identities": {"max_identities": 14},
    "faces_seed": {"faces_seed": 3},
}


@pytest.mark.parametrize("field", WORLDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_other_faces_or_another_model_are_asked_for_and_kept_apart(name, field, trials, world, tmp_path):
    part, count, run = COMMANDS[name]
    sweep.started.cache_clear()
    run(tmp_path / "r.json")
    base = Plan() if name == "sequence" or field == "dataset" else TUNING
    plan, apart = (
        replace(base, **WORLDS[field]),
        field in ("dataset", "backbone", "max_identities", "faces_seed") and name != "sequence",
    )
    if apart:
        with pytest.raises(CourseError, match="holds trials of another .*; name another file"):
            run(tmp_path / "r.json", world=plan)
    run(tmp_path / ("other.json" if apart else "r.json"), world=plan)
    assert len(trials) == 2 * count and {task[-1] for task in trials[count:]} == {plan}
    run(tmp_path / ("other.json" if apart else "r.json"), world=plan)
    assert len(trials) == 2 * count, "what is at hand is not repeated"
    sweep.started.cache_clear()  # what the fake world says is no truth


def test_two_folders_are_two_worlds_and_so_are_two_networks_on_the_same_faces(trials, world, tmp_path):
    """They bear the same name, and only what is in them tells them apart."""
    folder = replace(Plan(), dataset="folder", root="there", backbone="facenet", pretrained="none")
    sweep.started.cache_clear()
    run = partial(sweep.run_sweep, ["finetune"], tmp_path / "s.json", draws=1, progress=False)
    run(world=folder)
    for other in ({"root": "elsewhere"}, {"pretrained": "vggface2"}, {"backbone": "mini"}):
        with pytest.raises(CourseError, match="holds trials of another (fingerprint|pretrained|image_size)"):
            run(world=replace(folder, **other))
    assert len(trials) == 9
    run(world=replace(folder, weights_seed=1))
    assert len(trials) == 18, "a network trained otherwise stands beside the first"
    sweep.started.cache_clear()


@pytest.mark.parametrize("main", [sweep.main, ablation.main, sequence.main])
def test_trials_and_requests_take_faces_and_model_from_the_command_line(main, monkeypatch, tmp_path, capsys):
    asked = []

    def stop(*_, world, **__):
        asked.append(world)
        raise CourseError("That is all.")

    for room, name in ((sweep, "run_sweep"), (ablation, "run_ablation"), (sequence, "run_sequence")):
        monkeypatch.setattr(room, name, stop)
    flags = "--dataset folder --root here --backbone facenet --pretrained none --train-epochs 3 --weights-seed 4"
    flags = [*flags.split(), "--max-identities", "9", "--device", "cpu", "--out", str(tmp_path / "r.json")]
    assert main(flags) == 2 and "That is all." in capsys.readouterr().err
    world = {"dataset": "folder", "root": "here", "backbone": "facenet", "pretrained": "none", "train_epochs": 3}
    assert asked == [Plan(**world, weights_seed=4, max_identities=9, device="cpu")]
    for drawn in ([], ["--faces-seed", "5"]):
        assert main([*drawn, "--out", str(tmp_path / "r.json")]) == 2 and "That is all." in capsys.readouterr().err
    own = USUAL if main is sequence.main else TUNING  # settings are not chosen on the faces of the tables
    assert asked[1:] == [own, Plan(faces_seed=5)]
    del asked[1:]
    if main is sequence.main:
        assert main(["--half-unseen", "--out", str(tmp_path / "r.json")]) == 2 and asked.pop() == Plan(half_unseen=True)
    assert main(["--backbone", "dlip", "--out", str(tmp_path / "r.json")]) == 2 and len(asked) == 1
    assert "dlip" in capsys.readouterr().err


def test_requests_that_search_for_half_of_the_unseen_people_are_other_requests(trials, tmp_path):
    out = tmp_path / "r.json"
    for half in (False, True, False, True):
        sequence.run_sequence(["esc"], out, sizes=(3, 2), seeds=1, world=Plan(half_unseen=half), progress=False)
    assert [task[-1].half_unseen for task in trials] == [False, True]
    assert [row["half_unseen"] for row in json.loads(out.read_text())["runs"]] == [False, True]


def test_a_model_trained_by_other_code_gives_other_runs(tiny_splits, monkeypatch):
    before = run_identity(Plan(), tiny_splits, "esc", 0)
    assert before["train"] == {"version": checkpoints.RECIPE_VERSION} | asdict(TrainConfig())
    monkeypatch.setattr(checkpoints, "RECIPE_VERSION", checkpoints.RECIPE_VERSION + 1)
    after = run_identity(Plan(), tiny_splits, "esc", 0)
    assert {key for key in before if before[key] != after[key]} == {"train"}


def test_every_variant_and_seed_of_the_ablation_is_asked_for_once(trials, tmp_path):
    ablation.run_ablation(tmp_path / "a.json", progress=False)
    assert trials == [(variant, seed, TUNING) for variant in ablation.VARIANTS for seed in ablation.SEEDS]
    assert len(set(ablation.SEEDS)) == len(ablation.SEEDS) > 1


def test_a_trial_and_a_variant_use_their_seed_and_their_settings(monkeypatch):
    seen, splits, start, on_cpu = [], object(), SimpleNamespace(model="model", head="head"), Plan(device="cpu")

    def unlearn(name, model, head, given, **options):
        seen.append((name, model, head, given is splits, options))
        heads = {"head": "shipped", "trained_head": "new head"}  # the second one tells whether names went
        return SimpleNamespace(model="new", seconds=1.23, images_processed=7, **heads)

    def evaluate(model, given, head, device):
        assert (model, given is splits, head, device) == ("new", True, "new head", CPU)
        pools = zip(("forget", "retain", "unseen"), (0.1, 0.2, 0.3), strict=True)
        return SimpleNamespace(scores=lambda: {pool: {"r1": x, "map": 2 * x, "accuracy": 3 * x} for pool, x in pools})

    monkeypatch.setattr(
        sweep, "dev_world", lambda world, seed: {on_cpu: (splits, start)}[world] if seed in (0, 5) else None
    )
    monkeypatch.setattr(sweep, "unlearn", unlearn)
    monkeypatch.setattr(sweep, "evaluate", evaluate)
    row = sweep.run_trial("finetune", {"learning_rate": 0.5}, 0, on_cpu)
    assert row == {"images_processed": 7, "seconds": 1.2} | {
        pool: pytest.approx({"r1": x, "map": 2 * x, "accuracy": 3 * x})
        for pool, x in (("forget", 0.1), ("retain", 0.2), ("unseen", 0.3))
    }
    ablation.run_variant(ablation.Variant("g", "l", "dispersion", {"kind": "uniform"}), 5, on_cpu)
    told = [(name, model, head, same, options) for name, model, head, same, options in seen]
    assert told == [
        ("finetune", "model", "head", True, {"seed": 0, "device": CPU, "progress": False, "learning_rate": 0.5}),
        ("dispersion", "model", "head", True, {"seed": 5, "device": CPU, "progress": False, "kind": "uniform"}),
    ]


def test_trials_forget_drawn_people_of_no_table_and_the_dev_people_of_all_other_faces(world, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    sweep.dev_world.cache_clear()
    try:
        found = [sweep.dev_world(TUNING, seed)[0] for seed in (0, 1)]
        folder = [sweep.dev_world(Plan(dataset="folder", root="here"), seed)[0] for seed in (0, 1)]
        reported, _ = sweep.dev_world(USUAL)
    finally:
        sweep.dev_world.cache_clear()
    assert [seed for *_, seed in world.opened] == [1, 1, 0, 0, 0]
    others = [make_splits(noise("synthetic", None, 64, 16, 1), seed=seed) for seed in (0, 1)]
    assert [splits.forget for splits in found] == [splits.forget for splits in others]
    assert found[0].forget != found[1].forget
    usual = make_splits(noise("synthetic", None, 64, 16), seed=0)
    assert reported.forget == usual.dev_forget and {splits.forget for splits in folder} == {usual.dev_forget}
    assert found[0].unseen == others[0].unseen
    for splits in (reported, *folder):  # half of the strangers have no say
        assert splits.unseen == usual.unseen[::2] and splits.distractors == usual.unseen[1::2]
        assert splits.gallery.tolist() == usual.gallery.tolist()


def test_half_of_the_strangers_decide_settings_and_the_other_half_is_reported(world):
    usual = make_splits(noise("synthetic", None, 64, 16), seed=0)
    reported, tuned = (open_splits(Plan(half_unseen=True, dev=dev), 0, {}, False) for dev in (False, True))
    assert reported.unseen == usual.unseen[1::2] and tuned.unseen == usual.unseen[::2] == reported.distractors
    assert reported.forget == usual.forget and tuned.forget == usual.dev_forget
    assert open_splits(Plan(), 0, {}, False).unseen == usual.unseen


def test_requests_are_answered_one_after_the_other_by_the_model_that_the_last_one_left(world, monkeypatch):
    """Each request has the seed of the run, its own people, and no photos of those who asked before."""
    monkeypatch.setattr(sequence, "unlearn", benchmark.unlearn)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    looked = []

    def evaluate(model, splits, head, device):
        looked.append((model, head, splits))
        people = {person: {"map": person / 100} for person in splits.forget}
        found = SimpleNamespace(per_identity=lambda: people, map=0.123456)
        return SimpleNamespace(retrieval=lambda pool: found)

    monkeypatch.setattr(sequence, "evaluate", evaluate)
    rows = {seed: sequence.run_requests("esc", (2, 1), seed, Plan(device="cpu"))["after"] for seed in (3, 4)}
    for seed, first in ((3, 0), (4, 2)):
        everybody = make_splits(noise("synthetic", None, 64, 16), n_forget=3, seed=seed)
        order = np.random.default_rng(seed).permutation(everybody.forget).tolist()
        one, two = world.unlearned[first : first + 2]
        assert (sorted(order[:2]), order[2:]) == (list(one.splits.forget), list(two.splits.forget))
        assert (one.options, two.options) == ({"seed": seed, "device": CPU, "progress": False},) * 2
        assert two.model == f"esc of {one.model}" and (one.head, two.head) == ("head", "esc's head")
        assert not set(order[:2]) & set(two.splits.faces.labels[two.splits.train])
        groups = [round(sum(order[:2]) / 200, 4), round(order[2] / 100, 4)]
        assert rows[seed] == [{"groups": groups, "retain": 0.1235, "unseen": 0.1235}] * 3
        models = [model for model, _, _ in looked[3 * (seed - 3) : 3 * (seed - 2)]]
        assert models == [one.model, f"esc of {one.model}", f"esc of esc of {one.model}"]
        assert all(splits.forget == everybody.forget for _, _, splits in looked[3 * (seed - 3) : 3 * (seed - 2)])
    elsewhere = Plan(dataset="folder", root="here", backbone="facenet", pretrained="none", train_epochs=3, device="cpu")
    sequence.run_requests("esc", (2, 1), 3, elsewhere)
    assert world.opened[-1][:2] == ("folder", "here") and world.unlearned[-1].splits.faces.name == "folder"
    asked = world.models[-1][1]
    assert (asked["backbone"], asked["pretrained"], asked["config"].epochs) == ("facenet", "none", 3)


@pytest.fixture
def audited(world, monkeypatch) -> list:
    """Audits of no length: each notes the case, the subject and the attacks."""
    seen: list = []

    class Case(SimpleNamespace):
        def on(self, subject):
            return SimpleNamespace(case=self, subject=subject)

    def case(splits, original, retrained, *, seed, device):
        reference = SimpleNamespace(model=original[0], head=original[1])
        other = retrained and SimpleNamespace(model=retrained[0], head=retrained[1])
        return Case(splits=splits, original=reference, retrained=other, seed=seed)

    monkeypatch.setattr(audits.summary, "make_case", case)
    monkeypatch.setattr(audits.summary, "audit", lambda on, attacks: seen.append((on, list(attacks))) or [])
    monkeypatch.setattr(
        audits, "Subject", lambda model, head, splits, device: SimpleNamespace(model=model, head=head, splits=splits)
    )
    return seen


@pytest.mark.parametrize("field", [name for name in CHANGES if name != "max_identities"])
def test_an_audit_of_another_plan_is_done_again(field, audited, tmp_path):
    changed = replace(PLAN, **CHANGES[field])
    for plan in (PLAN, changed, PLAN, changed):
        audits.run_audit(plan, tmp_path / "a.json", attacks=["search"], progress=False)
    assert len(audited) == 2 == len(audit_store(tmp_path / "a.json").rows())


@pytest.mark.parametrize("field", sorted(IDENTITY - {"method"}) + ["attacks"])
def test_a_stored_audit_with_one_other_field_is_not_reused(field, audited, tmp_path):
    out = tmp_path / "a.json"
    for _ in range(2):
        audits.run_audit(PLAN, out, attacks=["search", "pairs"], progress=False)
    assert len(audited) == 1
    spoil(out, "runs", field)
    audits.run_audit(PLAN, out, attacks=["search", "pairs"], progress=False)
    assert len(audited) == 2


def test_an_audit_compares_each_seed_with_its_own_references(audited, world, tmp_path):
    plan = replace(
        PLAN, methods=("original", "retrain", "dispersion"), seed=2, seeds=2, options=(("dispersion", "steps", 3),)
    )
    audits.run_audit(plan, tmp_path / "a.json", attacks=["search"], progress=False)
    assert [on.case.seed for on, _ in audited] == [2, 2, 2, 3, 3, 3]
    for on, attacks in audited:
        case, splits = on.case, make_splits(on.case.splits.faces, n_forget=2, seed=on.case.seed)
        assert attacks == ["search"] and case.splits.forget == splits.forget
        assert case.retrained.model == f"retrain of {case.original.model}"
    for first in (0, 3):
        subjects = [on.subject for on, _ in audited[first : first + 3]]
        case = audited[first][0].case
        assert subjects[0] is case.original and subjects[1] is case.retrained
        assert subjects[2].model == f"dispersion of {case.original.model}"
    assert [(run.options["seed"], run.options.get("steps")) for run in runs(world)] == [(2, 3), (3, 3)]


# --------------------------------------------------------------------------------------------- what may be averaged


ROW = {
    "method": "esc", "seed": 0, "dataset": "folder", "dataset_name": "mine", "fingerprint": "a", "image_size": 64,
    "n_identities": 12, "n_forget": 2, "forget_ids": ["Ann", "Bo"], "asked": False, "dev": False, "backbone": "mini",
    "pretrained": "auto", "train": {"epochs": 8}, "profile": "quick", "config": {"steps": 50}, "group": "g",
    "label": "l", "options": {"kind": "hard"}, "sizes": [5, 5], "attacks": ["search"],
}  # fmt: skip


@pytest.mark.parametrize("field", sorted({*ROW} - {"seed", "forget_ids", "dataset_name"}))
def test_two_seeds_that_differ_in_anything_else_are_two_lines(field):
    """Seed 1 has people of its own, as drawn; with one other field it is no second draw of the same setting."""
    second = ROW | {"seed": 1, "forget_ids": ["Cy", "Di"]}
    assert len(grouped([ROW, second])) == 1 == len(by_setting([ROW, second]))
    changed = second | {field: "scrub" if field == "method" else other(ROW[field])}
    assert [len(group) for group, _ in grouped([ROW, second, changed])] == [2, 1]


def test_a_field_may_differ_inside_a_group_only_if_that_is_asked_for():
    sizes = [ROW, ROW | {"n_forget": 5, "forget_ids": list("abcde")}]
    assert len(by_setting(sizes)) == 2 and [len(group) for group in by_setting(sizes, ("n_forget",)).values()] == [2]
    assert len(by_setting([ROW, ROW | {"image_size": 80}], ("n_forget",))) == 2


def test_settings_left_out_by_an_older_file_are_todays_defaults_with_its_options():
    row = {"method": "dispersion", "options": {"steps": 7}}
    expected = asdict(METHODS["dispersion"].config()) | {"steps": 7}
    assert full_config("dispersion", row["options"]) == {"config": expected}
    assert len(grouped([row, row | {"config": expected}])) == 1
