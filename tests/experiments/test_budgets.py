"""Budgets: which steps they mean, what is run once, what the table says of a run that diverged."""

from __future__ import annotations

import json

import pytest

from utils.experiments import budgets
from utils.experiments import plan as plan_room
from utils.experiments.budgets import BUDGET_FILE, BUDGETS, budget_curves, budget_plans, budget_table, main, steps_for
from utils.experiments.plan import Plan
from utils.experiments.results import full_config
from utils.unlearning.registry import METHODS


def row(method: str, steps: int, photos: int, forget: float, unseen: float) -> dict:
    scores = {"forget": {"map": forget}, "unseen": {"map": unseen}}
    return {"method": method, "seed": 0, "images_processed": photos} | full_config(method, {"steps": steps}) | scores


def test_steps_fit_a_budget_by_what_a_step_looks_at():
    assert [steps_for(budget, 50, 6_200) for budget in (2_000, 8_000, 33_000)] == [16, 65, 266]
    assert steps_for(33_000, 100, 32_800) == 100, "so near to its own settings that these are run"
    assert steps_for(37_000, 100, 32_800) == 113 and steps_for(2_000, 2, 50_000) == 1


def test_every_method_that_takes_steps_has_a_plan_for_each_budget():
    known = budgets.runs_by_default()
    assert {"random_labels", "dispersion_blends", "gather_scatter", "finetune"} < set(known)
    assert not {"original", "retrain", "esc", "esc_folded", "block_list", "ssd"} & set(known)
    found: dict[str, list[float]] = {}
    for plan in budget_plans(list(METHODS)):
        ((name, key, steps),) = plan.options
        assert (name,) == plan.methods and key == "steps"
        usual = known[name][-1]
        found.setdefault(name, []).append(steps / usual["config"]["steps"] * usual["images_processed"])
    assert set(found) == set(known)
    for name, photos in found.items():
        assert all(abs(n / budget - 1) < 0.2 for n, budget in zip(photos, BUDGETS, strict=True)), name


def test_a_budget_is_run_once_and_stored(tmp_path, tiny_faces, monkeypatch, own_cache):
    monkeypatch.setattr(plan_room, "load_faces", lambda *_, **__: tiny_faces)
    monkeypatch.setattr(budgets, "BUDGETS", (120, 360))
    known = [row("random_labels", 50, 6_000, 0.4, 0.8)]
    monkeypatch.setattr(budgets, "runs_by_default", lambda: {"random_labels": known})
    monkeypatch.setattr(budgets, "Plan", lambda **more: Plan(forget=2, train_epochs=1, device="cpu", **more))
    out = tmp_path / "b.json"
    assert main(["--methods", "random_labels,esc", "--out", str(out), "--quiet"]) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [(run["method"], run["config"]["steps"]) for run in runs] == [("random_labels", 1), ("random_labels", 3)]
    assert runs[1]["images_processed"] == 3 * runs[0]["images_processed"] and runs[0]["kind"] == "weights"
    monkeypatch.setattr(budgets, "fresh_run", lambda *_: pytest.fail("this run is at hand"))
    assert main(["--methods", "random_labels", "--out", str(out), "--quiet"]) == 0


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--methods", "esq"], "Unknown"),
        (["--methods", "esc,block_list"], "one price"),
        (["--jobs", "0"], "at least 1"),
        (["--table"], "run: python -m utils.budgets --out"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, told, refused):
    refused(main, arguments, told)


def test_the_table_has_a_row_a_method_a_column_a_budget_and_says_what_diverged():
    lost = [
        {
            key: value
            for key, value in row("gradient_ascent", steps, 0, 0, 0).items()
            if key in ("method", "seed", "config")
        }
        | {"error": "The run diverged at step 3."}
        for steps in (15, 60)
    ]
    runs = [
        row("random_labels", 65, 8_060, 0.4, 0.75),
        row("random_labels", 16, 1_984, 0.8, 0.81),
        *lost,
        row("scrub", 111, 3_000, 0.5, 0.7),  # made for 8,000 photos, stopped early
        row("gather_scatter", 119, 31_924, 0.01, 0.8),
    ]
    curves = budget_curves(runs)
    assert list(curves) == ["random_labels", "gradient_ascent", "scrub", "gather_scatter"]
    assert [list(curve) for curve in curves.values()] == [[2_000, 8_000], [2_000, 8_000], [8_000], [33_000]]
    lines = budget_table(runs, markdown=True).splitlines()[2:]
    assert "| 80.0 / 81.0 | 40.0 / 75.0 | – | 1,984, 8,060 |" in lines[0]
    assert "| – / – | – / – | – | – | diverged |" in lines[1]
    assert "| – | 50.0 / 70.0 | – | 3,000 |" in lines[2]
    assert "| wrapper |" in lines[3] and "| – | – | 1.0 / 80.0 | 31,924 |" in lines[3]


def test_the_stored_file_holds_every_budget_of_every_method_with_todays_settings():
    stored = {(run["method"], run["config"]["steps"]): run for run in budgets.read_results(BUDGET_FILE)["runs"]}
    for plan in budget_plans(list(METHODS)):
        ((name, _, steps),) = plan.options
        assert (name, steps) in stored, f"{name} with {steps} steps: run python -m utils.budgets --out {BUDGET_FILE}"
        assert stored[name, steps]["config"] == full_config(name, {"steps": steps})["config"]
