"""Verdicts: the most that came back per attacker, and a committed file that holds every method."""

from __future__ import annotations

from utils.audit.case import ATTACKS
from utils.experiments.audit_summary import audit_summary, main, read_audits, verdict
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
    row("averaged", "weights", 0.8),
]


def test_a_verdict_is_the_most_that_came_back_and_pairs_stand_alone():
    found = verdict(ROWS)
    assert (found["photos"], found["weights"], found["names"], found["pairs"]) == (0.3, 0.8, None, 0.05)
    assert found["winner"] == "averaged" and verdict(ROWS[:1] + ROWS[3:4])["winner"] == "search"
    assert verdict([row("search", "photos", 0.0)])["winner"] == "none"


def test_the_pairs_of_old_photos_are_never_told_as_those_of_new_ones():
    old = row("pairs_train", "photos", 0.9, 0.95, "AUC")
    assert verdict([old])["pairs"] is None and verdict([old, *ROWS])["pairs"] == 0.05


def test_the_table_has_a_line_per_method_and_names_the_winner_in_markdown():
    runs = [{"method": name, "seed": 0, "audit": ROWS} for name in ("esc", "original")]
    lines = audit_summary(runs).splitlines()
    assert lines[1].startswith("Original model") and "30.0" in lines[1] and "0.05" in lines[1] and "–" in lines[1]
    assert "| averaged |" in audit_summary(runs, markdown=True)


def test_every_method_was_audited_with_every_attack():
    runs = read_audits()
    assert sorted(run["method"] for run in runs) == sorted(METHODS)
    for run in runs:
        assert [entry["attack"] for entry in run["audit"]] == list(ATTACKS)


def test_a_missing_file_is_one_sentence(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "none.json")]) == 2
    assert "There are no results at" in capsys.readouterr().err
