"""Verdicts: the most that came back per attacker, and a committed file that holds every method."""

from __future__ import annotations

import json

import numpy as np
import pytest

from utils.audit.case import ATTACKS
from utils.experiments.audit_summary import audit_summary, came_back, main, read_audits, stored_audit, verdict
from utils.unlearning import RECOMMENDED
from utils.unlearning.registry import METHODS


def row(attack: str, attacker: str, recovered: float | None, score: float = 0.1, metric: str = "mAP") -> dict:
    return {"attack": attack, "title": attack, "attacker": attacker, "recovered": recovered, "score": score} | {
        "metric": metric
    }


ROWS = [
    row("search", "photos", 0.2),
    row("views", "photos", 0.3),
    row("pairs", "photos", 0.9, 0.05, "AUC"),
    row("taken_off", "weights", None),
    row("pruned_10", "weights", 0.6) | {"worst": {"person": "Ada", "score": 0.5, "recovered": 0.7}},
    row("averaged", "old model", 0.8),
]


def test_a_verdict_is_the_most_that_came_back_and_no_winner_holds_the_old_model():
    found = verdict(ROWS)
    assert (found["photos"], found["weights"], found["names"], found["old model"]) == (0.3, 0.6, None, 0.8)
    assert found["winner"] == "pruned_10" and verdict(ROWS[:1] + ROWS[3:4])["winner"] == "search"
    assert (found["worst"]["weights"], found["worst"]["photos"]) == (0.7, None)
    assert verdict([row("search", "photos", 0.0)])["winner"] == "none"


def test_raw_scores_are_the_highest_where_the_target_is_not_chance():
    told = [
        row("layers", "weights", 0.0, 0.84) | {"stated_target": "retrained"},
        row("int4", "weights", None, 0.3) | {"stated_target": "retrained"},
        row("int8", "weights", 0.9, 0.95) | {"stated_target": "chance"},
        row("relearn", "weights", 0.2, 0.9, "mean mAP") | {"stated_target": "retrained"},
        row("probe_5", "names", 0.1, 0.4, "top-1") | {"stated_target": "unseen"},
        row("template", "names", 0.7, 0.6) | {"stated_target": "chance"},
    ]
    assert verdict(told)["raw"] == {"names": 0.4, "weights": 0.84} and verdict([])["raw"]["names"] is None


def test_what_is_no_search_has_a_table_of_its_own():
    rows = [
        *ROWS,
        row("pairs_train", "photos", 0.9, 0.95, "AUC"),
        row("trait_leakage", "photos", 0.9, 0.25, "matched") | {"stated_target": "strangers", "target": 0.2},
        row("adversarial_query", "weights", 0.95, 0.125, "gain") | {"stated_target": "zero", "target": 0.0},
        row("collateral", "photos", None, 0.5) | {"stated_target": "original", "target": 0.75},
    ]
    assert verdict(rows) == verdict(ROWS)
    runs = [{"method": "esc", "seed": seed, "audit": audit} for seed, audit in ((0, rows), (1, ROWS[2:3]))]
    assert audit_summary(runs, traces=True).rows[1][1:] == ["0.05", "–", "25.0 (20.0)", "0.12", "50.0 (75.0)"]


def test_the_pairs_of_old_photos_are_never_told_as_those_of_new_ones():
    runs = [{"method": "esc", "seed": 0, "audit": [row("pairs_train", "photos", 0.9, 0.95, "AUC")]}]
    assert audit_summary(runs, traces=True).rows[1][1:] == ["–"] * 5


def test_the_table_has_a_line_per_method_names_the_worst_person_and_the_winner_in_markdown():
    runs = [{"method": name, "seed": 0, "audit": ROWS} for name in ("esc", "original")]
    lines = audit_summary(runs).splitlines()
    assert lines[1].startswith("Original model") and "30.0" in lines[1] and "60.0 (70)" in lines[1] and "–" in lines[1]
    assert "| pruned_10 |" in audit_summary(runs, markdown=True)


def test_rows_of_attacks_that_were_defined_otherwise_are_not_measured(tmp_path):
    """As before this round: half-way back counted among the weights', and another head was asked."""
    entries = [row("search", "photos", 0.2), row("averaged", "weights", 0.9), row("head_rows", "weights", 1.0)]
    entries = [entry | {"stated_target": "chance"} for entry in entries] + [{"attack": "gone", "score": 0.3}]
    old = {"method": "esc", "seed": 0, "attacks": ["search"], "audit": entries}
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"schema": 2, "runs": [old, {"method": "ssd", "attacks": [], "error": "no"}]}))
    first, second = read_audits(path)
    assert [entry["attack"] for entry in first["audit"]] == ["search"] and "audit" not in second
    assert audit_summary([first]).rows[1][1:7] == ["20.0", "–", "–", "–", "–", "–"]


def test_every_method_was_audited_with_the_same_attacks():
    runs = read_audits()
    assert {"original", "retrain", RECOMMENDED, "esc", "block_list"} < {run["method"] for run in runs} <= set(METHODS)
    measured = [entry["attack"] for entry in runs[0]["audit"]]
    assert measured == [name for name in ATTACKS if name in measured] and "search" in measured
    for run in runs:
        assert [entry["attack"] for entry in run["audit"]] == measured == run["attacks"]
    assert len({(run["method"], run["seed"]) for run in runs}) == len(runs), "one run per method and seed"


def test_a_results_row_meets_the_stored_audit_of_the_same_model_and_of_no_other():
    model = {"method": "esc", "seed": 1, "forget_ids": ["A"], "config": {"k": 1}, "train": {"epochs": 1}}
    unknown = row("taken_off", "weights", None) | {"target": None, "original": 0.9}
    runs = [model | {"seed": 0, "audit": ROWS}, model | {"error": "no"}, model | {"audit": [unknown]}]
    (found,) = stored_audit(model | {"forget": {"map": 0.1}}, runs)
    assert np.isnan(found["recovered"]) and np.isnan(found["target"]) and found["original"] == 0.9
    assert unknown["target"] is None, "the stored row stays"
    for other in ({"seed": 2}, {"config": {"k": 2}}, {"forget_ids": ["B"]}, {"train": {}}):
        assert stored_audit(model | other, runs) == []


def test_what_came_back_is_the_mean_over_seeds_of_the_most_and_unknown_where_nothing_was_measured():
    runs = [{"method": "esc", "seed": seed, "audit": audit} for seed, audit in ((0, ROWS), (1, ROWS[:1]))]
    ((title, shares),) = came_back([*runs, {"method": "esc", "seed": 2, "error": "It diverged."}]).items()
    assert title == "Erasing a subspace (ESC) (diverged: seed 2)" and list(came_back(runs)) == [METHODS["esc"].title]
    assert shares["photos"] == pytest.approx((0.3 + 0.2) / 2) and shares["weights"] == 0.6 and np.isnan(shares["names"])


def test_a_missing_file_is_one_sentence(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "none.json")]) == 2
    assert "There are no results at" in capsys.readouterr().err
