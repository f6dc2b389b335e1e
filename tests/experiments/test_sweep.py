"""The sweep: the same budget for every method, the rule, resuming; and defaults that are what it chose."""

from __future__ import annotations

import dataclasses
import json

import pytest

from utils.experiments import sweep
from utils.experiments.ablation import ABLATION_FILE
from utils.experiments.plan import STORED, TUNING, USUAL
from utils.experiments.runner import outcome_of
from utils.experiments.sweep import (
    DRAWS,
    OTHERS_FILE,
    REAL_FILE,
    TRIALS,
    choose,
    main,
    read_sweep,
    run_sweep,
    trials_of,
    tuned_methods,
)
from utils.experiments.tables import grouped
from utils.faces.splits import make_splits
from utils.faces.synthetic.dataset import fingerprint_of
from utils.settings import CourseError
from utils.unlearning.registry import METHODS, StepConfig, by_kind, make_config


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
def test_the_defaults_are_what_the_committed_sweeps_chose(name):
    """On drawn and on real faces together; the best few of the first sweep and today's setting went into the second."""
    drawn, real = read_sweep(OTHERS_FILE), read_sweep(REAL_FILE)
    assert sweep.settings_for_all(name, drawn, real) == sweep.in_force(name)
    tried = [[row["options"] for row in found["trials"] if row["method"] == name] for found in (drawn, real)]
    assert set(map(json.dumps, tried[0])) == set(map(json.dumps, trials_of(name)))
    best = [options for _, options in sweep.ranked(name, drawn)[:3]]
    assert all(options in tried[1] for options in (*best, sweep.in_force(name)))
    assert {row["dataset"] for row in drawn["trials"]} == {"synthetic"}
    assert {(row["dataset"], row["backbone"]) for row in real["trials"]} == {("lfw", "dlib")}


def test_the_committed_choices_follow_the_rule():
    committed = read_sweep(OTHERS_FILE)
    start = [row for row in committed["trials"] if row["method"] == "original"]
    seeds = list(range(DRAWS))
    assert [row["seed"] for row in start] == seeds
    for name, chosen in committed["chosen"].items():
        settings = [group for group, _ in grouped(row for row in committed["trials"] if row["method"] == name)]
        assert all([row["seed"] for row in group] == seeds for group in settings)
        assert choose(settings, start)[0]["options"] == chosen


def test_nobody_whose_scores_decide_a_setting_is_reported():
    """Neither those forgotten nor those who must not suffer: the faces are others, and so is the model."""
    for path in (OTHERS_FILE, ABLATION_FILE):
        rows = json.loads(path.read_text(encoding="utf-8"))["trials"]
        assert {row["fingerprint"] for row in rows} == {fingerprint_of(TUNING.faces_seed)}
    for name in ("synthetic_quick", "synthetic_sizes", "synthetic_second_network", "budgets", "sequence", "audit"):
        reported = json.loads((STORED / f"{name}.json").read_text(encoding="utf-8"))["runs"]
        assert {row["fingerprint"] for row in reported} == {fingerprint_of(USUAL.faces_seed)}


def test_the_table_of_settings_in_force_shows_both_worlds_and_what_breaks_a_limit(capsys):
    start, own = [trial("original", forget=1.0, retain=0.9, unseen=0.9)], sweep.in_force("esc")
    other = next(options for options in trials_of("esc") if options != own)
    dear = trial("esc", forget=0.1, unseen=0.78) | {"options": own}
    good = trial("esc", forget=0.2, unseen=0.87) | {"options": other}
    drawn, real = {"trials": [*start, dear, good]}, {"trials": [*start, good | {"options": own}]}
    line = sweep.in_force_table(drawn, real, ["esc"], markdown=True).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[4:8] == ["10.0", "12.0 *", "20.0", "3.0"] and cells[9:] == ["20.0", "3.0", "not tried", ""]
    assert "the same" in sweep.in_force_table({"trials": [*start, dear]}, real, ["esc"])
    lost = {"method": "esc", "options": own, "seed": 0, "error": "The run diverged at step 1."}
    assert "diverged" in sweep.in_force_table(drawn, {"trials": [*start, lost]}, ["esc"])
    with pytest.raises(CourseError, match="No setting of 'scrub' went well"):
        sweep.in_force_table(drawn, real, ["scrub"])
    assert main(["--in-force", "--methods", "esc,dispersion_blends"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["weights", "wrapper"] and METHODS["esc"].title in lines[2]


# -------------------------------------------------------------------------------------------------------- the rule


def test_the_lowest_forget_score_within_the_limits_wins():
    start = [trial("original", forget=1.0, retain=0.95, unseen=0.85)]
    dear = [trial(forget=0.0, retain=0.5, a=1)]
    cheap = [trial(forget=0.3, retain=0.91, unseen=0.76, a=2)]
    idle = [trial(forget=0.9, retain=0.95, unseen=0.85, a=3)]
    assert choose([dear, cheap, idle], start) is cheap
    assert choose([dear, idle], start) is idle


def test_a_setting_is_judged_by_its_mean_over_all_draws():
    start = [trial("original", forget=1.0, unseen=0.8), trial("original", forget=1.0, unseen=0.6)]
    steady = [trial(forget=0.3, unseen=0.8), trial(forget=0.3, unseen=0.6)]
    lucky = [trial(forget=0.1, unseen=0.8), trial(forget=0.6, unseen=0.6)]
    dear = [trial(forget=0.0, unseen=0.8), trial(forget=0.0, unseen=0.39)]
    evened = [trial(forget=0.2, unseen=0.88), trial(forget=0.2, unseen=0.33)]  # 19 points lost in all, 20 are allowed
    assert choose([lucky, steady], start) is steady
    assert choose([dear, lucky, steady], start) is steady
    assert choose([dear, evened, steady], start) is evened


@pytest.mark.parametrize(("pool", "limit"), [("retain", 0.05), ("unseen", 0.10)])
def test_the_limits_are_what_the_rule_says(pool, limit):
    """Just within either limit a setting may win, just beyond it may not, whatever the other pool does."""
    start, dull = [trial(forget=1.0, retain=0.9, unseen=0.9)], [trial(forget=0.8, retain=0.9, unseen=0.9)]
    within, beyond = (
        [trial(forget=0.1, **{"retain": 0.9, "unseen": 0.9, pool: 0.9 - limit + step})] for step in (0.002, -0.002)
    )
    assert choose([dull, within], start) is within and choose([dull, beyond], start) is dull
    assert f"{'at most ' if pool == 'retain' else 'people at most '}{100 * limit:.0f}" in sweep.RULE


def test_if_all_cost_too_much_the_cheapest_wins():
    start = [trial("original", forget=1.0, retain=0.95, unseen=0.85)]
    worse, bad = [trial(forget=0.0, retain=0.2)], [trial(forget=0.5, retain=0.6)]
    assert choose([worse, bad], start) is bad


def test_a_setting_that_failed_on_any_draw_is_never_chosen():
    start, good = [trial("original")] * 2, [trial(forget=0.9)] * 2
    lost = {"method": "finetune", "options": {}, "error": "The run diverged at step 1."}
    for failed in ([lost, lost], [trial(forget=0.0), lost]):
        assert choose([failed, good], start) is good
        with pytest.raises(CourseError, match="Every setting of 'finetune' failed: The run diverged"):
            choose([failed], start)


# --------------------------------------------------------------------------------------------------- on two worlds


def sweep_of(dataset: str, scores: dict[float, tuple[float, float]], draws: int = 1) -> dict:
    """Return a sweep of fine-tuning: for each learning rate what is left of forgotten and of unseen people."""
    rows = [trial("original", forget=1.0, retain=0.9, unseen=0.9)]
    rows += [trial(forget=f, retain=0.9, unseen=u, learning_rate=rate) for rate, (f, u) in scores.items()]
    return {"trials": [row | {"dataset": dataset, "seed": seed} for seed in range(draws) for row in rows]}


def rates_of(*sweeps: dict) -> list[float]:
    return [options["learning_rate"] for _, options in sweep.ranked("finetune", *sweeps)]


def test_settings_are_ranked_over_all_worlds_together():
    a, b, c, d, *_ = METHODS["finetune"].grid["learning_rate"]
    drawn = sweep_of("synthetic", {a: (0.1, 0.85), b: (0.3, 0.85), c: (0.2, 0.7), d: (0.0, 0.89)}, draws=2)
    real = sweep_of("lfw", {a: (0.6, 0.89), b: (0.2, 0.89), c: (0.0, 0.89)})
    assert rates_of(drawn, real) == [b, a, c], "d was not tried on real faces, c breaks a limit on drawn ones"
    assert rates_of(drawn) == [d, a, b, c]
    lost = {"method": "finetune", "options": {"learning_rate": b}, "seed": 1, "error": "The run diverged at step 1."}
    drawn["trials"] = [row for row in drawn["trials"] if (row["options"], row["seed"]) != (lost["options"], 1)] + [lost]
    assert rates_of(drawn, real) == [a, c]
    with pytest.raises(CourseError, match="No setting of 'scrub' went well in all of these sweeps"):
        sweep.ranked("scrub", drawn, real)


def test_retained_real_people_have_no_say():
    """They are in every table; of unseen ones a half is in none."""
    lost = [trial(retain=0.5, unseen=0.85)]
    for dataset, over in (("synthetic", 0.35), ("lfw", 0.0)):
        assert sweep.excess(lost, sweep_of(dataset, {})["trials"]) == pytest.approx(over)


def test_a_setting_in_force_stays_unless_another_is_better_than_luck():
    own, (a, *_) = METHODS["finetune"].config().learning_rate, METHODS["finetune"].grid["learning_rate"]
    assert a != own
    for left, unseen, stays in ((0.219, 0.85, True), (0.221, 0.85, False), (0.2, 0.781, True), (0.2, 0.779, False)):
        drawn = sweep_of("synthetic", {a: (0.2, 0.85), own: (left, unseen)})
        taken = sweep.settings_for_all("finetune", drawn, sweep_of("lfw", {a: (0.2, 0.85), own: (left, 0.85)}))
        assert (taken["learning_rate"] == own) == stays
        assert taken["learning_rate"] in (a, own)


def test_the_worst_world_decides_whether_limits_hold():
    start, cheap, dear = ([trial(unseen=u, retain=0.9)] for u in (0.9, 0.85, 0.7))
    assert sweep.cost((cheap, start), (dear, start))[0] == pytest.approx(0.1)
    assert sweep.cost((dear, start), (cheap, start))[0] == pytest.approx(0.1)
    assert sweep.cost(([trial(forget=0.2)], start), ([trial(forget=0.6)], start))[1] == pytest.approx(0.4)


def test_the_best_few_and_those_in_force_are_tried_elsewhere(monkeypatch):
    rates = METHODS["finetune"].grid["learning_rate"]
    scores = {rate: (0.1 * place, 0.9) for place, rate in enumerate(rates)}
    monkeypatch.setattr(sweep, "read_sweep", lambda path: sweep_of("synthetic", scores))
    assert sweep.settings_to_try("finetune") == trials_of("finetune")
    own = METHODS["finetune"].config().learning_rate
    tried = {options["learning_rate"] for options in sweep.settings_to_try("finetune", best=2)}
    assert tried == {*rates[:2], own}


# -------------------------------------------------------------------------------------------------------- the runs


@pytest.fixture
def fake_runs(monkeypatch):
    """Replace unlearning by a table: the learning rate is the forget score."""
    calls = []

    def run(name, options, seed, world):
        calls.append((name, options, seed))
        return trial(name, forget=options.get("learning_rate", 1.0), **options) | {"images_processed": 1}

    monkeypatch.setattr(sweep, "run_trial", run)
    monkeypatch.setattr(sweep, "about_trial", lambda *_: {"forget_ids": ["Eero", "Mara"], "n_forget": 2})
    monkeypatch.setattr(sweep, "dev_world", lambda *_: None)
    return calls


def test_a_sweep_resumes_and_chooses_when_all_draws_are_done(fake_runs, tmp_path):
    out = tmp_path / "sweep.json"
    result = run_sweep(["finetune"], out, draws=2, progress=False)
    assert len(fake_runs) == 2 * (1 + TRIALS)
    assert [seed for *_, seed in fake_runs] == [0] * (1 + TRIALS) + [1] * (1 + TRIALS)
    lowest = min(METHODS["finetune"].grid["learning_rate"])
    assert result["chosen"]["finetune"]["learning_rate"] == lowest and read_sweep(out) == result
    run_sweep(["finetune", "random_labels"], out, draws=2, progress=False)
    assert len(fake_runs) == 2 * (1 + 2 * TRIALS)
    run_sweep(["finetune"], out, draws=3, progress=False)
    assert len(fake_runs) == 2 * (1 + 2 * TRIALS) + 1 + TRIALS
    assert set(read_sweep(out)["chosen"]) == {"finetune"}  # the other method has not met the third draw


def test_fresh_tries_the_named_methods_again_and_others_stay(fake_runs, tmp_path):
    out = tmp_path / "sweep.json"
    run_sweep(["finetune", "random_labels"], out, draws=1, progress=False)
    result = run_sweep(["finetune"], out, draws=1, fresh=True, progress=False)
    assert len(fake_runs) == 2 + 3 * TRIALS
    assert set(result["chosen"]) == {"finetune", "random_labels"}


def test_every_committed_trial_counts_as_done(monkeypatch, tmp_path):
    monkeypatch.setattr(sweep, "run_trial", lambda name, *_: pytest.fail(f"{name} is tried again"))
    out, content = tmp_path / "sweep.json", json.loads(OTHERS_FILE.read_text(encoding="utf-8"))
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


def test_the_dev_people_are_never_reported_ones(default_splits):
    """Of faces that results are reported of, as real ones, the dev-forget people alone decide a setting."""
    others = [make_splits(default_splits.faces, seed=seed).forget for seed in range(3)]
    assert not any(set(default_splits.swap_dev().forget) & set(forget) for forget in others)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--methods", "original"], "method with a grid"),
        (["--methods", "retrain", "--fixed"], "method with a grid"),
        (["--jobs", "0"], "at least 1"),
        (["--draws", "0"], "draws"),
        (["--faces-seed", "-1"], "seed"),
        (["--dataset", "lfw", "--root", "here", "--faces-seed", "2"], "photographed: leave it out"),
        (["--table"], "no results at"),
        (["--in-force", "--out", "here.json"], "leave --out out"),
        (["--best", "-1"], "best"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, told, refused):
    refused(main, arguments, told)


def test_the_table_marks_the_choice(fake_runs, tmp_path, capsys):
    assert main(["--methods", "finetune", "--out", str(tmp_path / "s.json"), "--quiet", "--draws", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("*  ") for line in lines) == 1 and len(lines) == 1 + 1 + TRIALS + 2
    assert lines[-2] == "Forgotten (synthetic, 2), drawn by seed: seed 0, 1: Eero, Mara."


def test_the_list_of_settings_that_nobody_swept_leaves_none_out(capsys):
    assert main(["--fixed", "--markdown"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [kind for kind, *_ in rows] == [METHODS[name].kind for name in sorted(tuned_methods(), key=by_kind)]
    lines = {row[1]: row[1:] for row in rows}
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
