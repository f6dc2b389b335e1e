"""The two stored tables: means over seeds, one setting a method, gaps where a world lacks a method."""

from __future__ import annotations

import json

import pytest

from utils.experiments.worlds import done, in_both_worlds, mean_scores, never_failed, runs_by_method
from utils.settings import CourseError


def stored(folder, name, runs):
    path = folder / name
    path.write_text(json.dumps({"schema": 2, "runs": runs}))
    return path


def run(method, seed, share, **more):
    scores = {"forget": {"map": share, "r1": 0.5, "note": None}, "retain": {"map": 1.0}, "unseen": {"map": share / 2}}
    return {"dataset": "synthetic", "method": method, "seed": seed, "n_forget": 10, **scores, **more}


def test_means_are_over_the_seeds_that_know_a_score():
    found = mean_scores([run("esc", 0, 0.2), run("esc", 1, 0.4)])
    assert found["forget"] == {"map": pytest.approx(0.3), "r1": 0.5}
    assert found["unseen"] == {"map": pytest.approx(0.15)}


def test_a_world_lacks_what_was_not_run_there(tmp_path):
    drawn = stored(tmp_path, "drawn.json", [run("esc", 0, 0.2), run("retrain", 0, 0.8), run("scrub", 0, 0.5)])
    real = stored(tmp_path, "real.json", [run("esc", 0, 0.4), run("esc", 1, 0.6)])
    both = in_both_worlds(["esc", "retrain"], {"drawn": drawn, "real": real})
    assert list(both["drawn"]) == ["esc", "retrain"] and list(both["real"]) == ["esc"]
    assert both["real"]["esc"]["forget"]["map"] == pytest.approx(0.5)


def test_what_diverged_and_trials_on_dev_people_are_not_averaged(tmp_path):
    """What diverged stays in the list, for tables to mark it; no figure shows the mean of what is left."""
    lost = {key: value for key, value in run("esc", 1, 0.9, error="diverged").items() if not isinstance(value, dict)}
    rows = [run("esc", 0, 0.2), lost, run("esc", 2, 0.9, dev=True), run("scrub", 0, 0.3)]
    path = stored(tmp_path, "r.json", rows)
    found = runs_by_method(path)
    assert [row["seed"] for row in found["esc"]] == [0, 1] and [row["seed"] for row in done(found["esc"])] == [0]
    assert mean_scores(found["esc"])["forget"]["map"] == 0.2 and not mean_scores([lost])
    assert list(never_failed(path)) == ["scrub"] == list(in_both_worlds(["esc", "scrub"], {"one": path})["one"])


def test_methods_come_class_by_class(tmp_path):
    rows = [run(name, 0, 0.2) for name in ("esc", "dispersion", "original", "esc_folded")]
    found = runs_by_method(stored(tmp_path, "r.json", rows))
    assert list(found) == ["original", "esc_folded", "dispersion", "esc"]


def test_two_settings_of_a_method_are_refused(tmp_path):
    rows = [run("esc", 0, 0.2, profile="quick"), run("esc", 1, 0.2, profile="full")]
    with pytest.raises(CourseError, match="several settings"):
        runs_by_method(stored(tmp_path, "r.json", rows))
