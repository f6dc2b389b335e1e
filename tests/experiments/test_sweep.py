"""The sweep: the same budget for every method, the rule, resuming; and defaults that are what it chose."""

from __future__ import annotations

import dataclasses
import json

import pytest

from utils.experiments import sweep
from utils.experiments.runner import outcome_of
from utils.experiments.sweep import SWEEP_FILE, TRIALS, choose, main, read_sweep, run_sweep, trials_of, tuned_methods
from utils.faces.splits import make_splits
from utils.models.checkpoints import TrainConfig, training_of
from utils.settings import CourseError
from utils.unlearning.registry import METHODS, StepConfig, make_config


def trial(method="finetune", forget=0.5, retain=0.9, unseen=0.8, **options) -> dict:
    scores = {"forget": forget, "retain": retain, "unseen": unseen}
    pools = {pool: {"map": value, "r1": value} for pool, value in scores.items()}
    return {"method": method, "options": options} | pools


# ------------------------------------------------------------------------------------------------------ the budget


def test_every_method_but_the_references_is_tuned():
    assert set(METHODS) - set(tuned_methods()) == {"original", "retrain"}


@pytest.mark.parametrize("name", tuned_methods())
def test_the_budget_is_the_same_and_the_defaults_are_among_the_trials(name):
    trials = trials_of(name)
    assert len(trials) == TRIALS == len({json.dumps(options) for options in trials})
    defaults = dataclasses.asdict(METHODS[name].config())
    assert {key: defaults[key] for key in METHODS[name].grid} in trials
    for options in trials:
        make_config(name, options)


@pytest.mark.parametrize("name", tuned_methods())
def test_the_defaults_are_what_the_committed_sweep_chose(name):
    committed = read_sweep(SWEEP_FILE)
    defaults = dataclasses.asdict(METHODS[name].config())
    assert committed["chosen"][name] == {key: defaults[key] for key in METHODS[name].grid}
    tried = [row["options"] for row in committed["trials"] if row["method"] == name]
    assert sorted(tried, key=json.dumps) == sorted(trials_of(name), key=json.dumps)


def test_the_committed_choices_follow_the_rule():
    committed = read_sweep(SWEEP_FILE)
    start = next(row for row in committed["trials"] if row["method"] == "original")
    for name in tuned_methods():
        mine = [row for row in committed["trials"] if row["method"] == name]
        assert choose(mine, start)["options"] == committed["chosen"][name]


# -------------------------------------------------------------------------------------------------------- the rule


def test_the_lowest_forget_score_within_the_limits_wins():
    start = trial("original", forget=1.0, retain=0.95, unseen=0.85)
    dear = trial(forget=0.0, retain=0.5, a=1)
    cheap = trial(forget=0.3, retain=0.91, unseen=0.76, a=2)
    idle = trial(forget=0.9, retain=0.95, unseen=0.85, a=3)
    assert choose([dear, cheap, idle], start) is cheap
    assert choose([dear, idle], start) is idle


@pytest.mark.parametrize(("pool", "limit"), [("retain", 0.05), ("unseen", 0.10)])
def test_the_limits_are_what_the_rule_says(pool, limit):
    """Just within either limit a trial may win, just beyond it may not, whatever the other pool does."""
    start, dull = trial(forget=1.0, retain=0.9, unseen=0.9), trial(forget=0.8, retain=0.9, unseen=0.9)
    within, beyond = (
        trial(forget=0.1, **{"retain": 0.9, "unseen": 0.9, pool: 0.9 - limit + step}) for step in (0.002, -0.002)
    )
    assert choose([dull, within], start) is within and choose([dull, beyond], start) is dull
    assert f"{'at most ' if pool == 'retain' else 'people at most '}{100 * limit:.0f}" in sweep.RULE


def test_if_all_cost_too_much_the_cheapest_wins():
    start = trial("original", forget=1.0, retain=0.95, unseen=0.85)
    worse, bad = trial(forget=0.0, retain=0.2), trial(forget=0.5, retain=0.6)
    assert choose([worse, bad], start) is bad


def test_failed_trials_are_never_chosen():
    start, good = trial("original"), trial(forget=0.9)
    failed = {"method": "finetune", "options": {}, "error": "The run diverged at step 1."}
    assert choose([failed, good], start) is good
    with pytest.raises(CourseError, match="Every trial of 'finetune' failed: The run diverged"):
        choose([failed], start)


# -------------------------------------------------------------------------------------------------------- the runs


@pytest.fixture
def fake_runs(monkeypatch):
    """Replace unlearning by a table: the learning rate is the forget score."""
    calls = []

    def run(name, options, *_):
        calls.append((name, options))
        return trial(name, forget=options.get("learning_rate", 1.0), **options) | {"images_processed": 1}

    monkeypatch.setattr(sweep, "run_trial", run)
    monkeypatch.setattr(sweep, "about_trial", lambda *_: {"forget_ids": ["Eero", "Mara"], "n_forget": 2})
    monkeypatch.setattr(sweep, "dev_world", lambda world: None)
    return calls


def test_a_sweep_resumes_and_chooses(fake_runs, tmp_path):
    out = tmp_path / "sweep.json"
    result = run_sweep(["finetune"], out, progress=False)
    assert len(fake_runs) == 1 + TRIALS
    lowest = min(METHODS["finetune"].grid["learning_rate"])
    assert result["chosen"]["finetune"]["learning_rate"] == lowest and read_sweep(out) == result
    run_sweep(["finetune", "random_labels"], out, progress=False)
    assert len(fake_runs) == 1 + 2 * TRIALS


def test_fresh_tries_the_named_methods_again_and_others_stay(fake_runs, tmp_path):
    out = tmp_path / "sweep.json"
    run_sweep(["finetune", "random_labels"], out, progress=False)
    result = run_sweep(["finetune"], out, fresh=True, progress=False)
    assert len(fake_runs) == 2 + 3 * TRIALS
    assert set(result["chosen"]) == {"finetune", "random_labels"}


def test_every_committed_trial_counts_as_done(monkeypatch, tmp_path):
    monkeypatch.setattr(sweep, "run_trial", lambda name, *_: pytest.fail(f"{name} is tried again"))
    out, content = tmp_path / "sweep.json", json.loads(sweep.SWEEP_FILE.read_text(encoding="utf-8"))
    for trial in content["trials"]:  # made before grey photos: done but for the training of the original model
        trial["train"] = training_of(TrainConfig())
    out.write_text(json.dumps(content), encoding="utf-8")
    run_sweep([name for name in sweep.tuned_methods()], out, progress=False)
    assert json.loads(out.read_text(encoding="utf-8"))["trials"] == content["trials"]


def test_a_trial_forgets_dev_people_only(monkeypatch, tiny_splits, tiny_recogniser):
    asked = []
    monkeypatch.setattr(sweep, "dev_world", lambda *_: (tiny_splits.swap_dev(), tiny_recogniser))
    real = sweep.unlearn
    monkeypatch.setattr(sweep, "unlearn", lambda *a, **k: asked.append(a[3].forget) or real(*a, **k))
    row = sweep.run_trial("gradient_ascent", {"learning_rate": 1e-4, "steps": 2})
    assert asked == [tiny_splits.dev_forget] and 0 <= row["forget"]["map"] <= 1 and row["images_processed"] > 0
    row = outcome_of(sweep.run_trial, ("gradient_ascent", {"learning_rate": 1e4, "steps": 2}))
    assert "diverged at step" in row["error"] and "forget" not in row
    described = sweep.about_trial("gradient_ascent", {})
    assert described["forget_ids"] == [tiny_splits.faces.identities[i] for i in tiny_splits.dev_forget]


def test_the_dev_people_of_the_sweep_are_never_reported_ones(default_splits):
    others = [make_splits(default_splits.faces, seed=seed).forget for seed in range(3)]
    assert not any(set(default_splits.swap_dev().forget) & set(forget) for forget in others)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--methods", "original"], "method with a grid"),
        (["--methods", "retrain", "--fixed"], "method with a grid"),
        (["--jobs", "0"], "at least 1"),
        (["--table"], "no results at"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, told, refused):
    refused(main, arguments, told)


def test_the_table_marks_the_choice(fake_runs, tmp_path, capsys):
    assert main(["--methods", "finetune", "--out", str(tmp_path / "s.json"), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("*  ") for line in lines) == 1 and len(lines) == 1 + 1 + TRIALS + 2
    assert lines[-2] == "Forgotten (synthetic, 2), drawn by seed: seed 0: Eero, Mara."


def test_the_list_of_settings_that_nobody_swept_leaves_none_out(capsys):
    assert main(["--fixed", "--markdown"]) == 0
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]}
    assert set(lines) == {METHODS[name].title for name in tuned_methods()}
    for name in tuned_methods():
        _, swept, kept = lines[METHODS[name].title]
        assert swept == ", ".join(METHODS[name].grid)
        named = {part.split()[0] for part in kept.strip(" |").split(", ")} - {"nothing"}
        assert not named & set(METHODS[name].grid)
        mine = {field.name for field in dataclasses.fields(METHODS[name].config)} - set(METHODS[name].grid)
        usual = {field.name for field in dataclasses.fields(StepConfig)}
        assert named >= mine - usual - set(getattr(METHODS[name].config, "unused", ())), name
    assert "steps 100" in lines["Dispersion beside blends"][2] and "steps" not in lines["DELETE"][2]
    assert main(["--fixed", "--methods", "delete,scrub"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
