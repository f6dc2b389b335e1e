"""Requests one after the other: who asks when, whose photos are gone, resuming; and the committed file."""

from __future__ import annotations

import numpy as np
import pytest

from utils.experiments import sequence
from utils.experiments.sequence import SEQUENCE_FILE, main, read_sequence, requests_of, sequence_table
from utils.settings import CourseError


def test_everybody_asks_once_and_earlier_photos_are_gone(tiny_splits):
    sizes = (1,) * len(tiny_splits.forget)
    requests = requests_of(tiny_splits, sizes)
    labels = tiny_splits.faces.labels
    asked = [request.forget[0] for request in requests]
    assert sorted(asked) == sorted(tiny_splits.forget)
    for place, request in enumerate(requests):
        shown = set(labels[request.train])
        assert not shown & set(asked[:place]) and {asked[place], *asked[place + 1 :]} <= shown
        assert request.trained == tiny_splits.trained and np.array_equal(request.query, tiny_splits.query)
        assert set(labels[request.photos("retain_train", "train")]).isdisjoint(asked[: place + 1])


@pytest.mark.parametrize("sizes", [(1,), (0, 2), (5, 5, 5)])
def test_requests_must_add_up(tiny_splits, sizes):
    with pytest.raises(CourseError, match="do not add up"):
        requests_of(tiny_splits, sizes)


def fake(name: str, sizes: tuple, seed: int, *_: object) -> dict:
    after = [{"groups": [1.0 - 0.1 * place] * len(sizes), "retain": 0.9, "unseen": 0.8} for place in range(3)]
    return sequence.key_of(name, sizes, seed) | {"after": after}


def test_what_is_at_hand_is_not_repeated(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(sequence, "about_requests", lambda *_: {"forget_ids": [["Eero", "Mara"], ["Otis"]]})
    monkeypatch.setattr(sequence, "run_requests", lambda *task: ran.append(task) or fake(*task))
    monkeypatch.setattr(sequence, "first_model", lambda *_: None)
    out = tmp_path / "sequence.json"
    sequence.run_sequence(["esc"], out, sizes=(5, 5), seeds=1, progress=False)
    runs = sequence.run_sequence(["esc", "dispersion"], out, sizes=[5, 5], seeds=2, progress=False)
    assert len(ran) == 4 and [(run["method"], run["seed"]) for run in runs] == [
        ("esc", 0), ("esc", 1), ("dispersion", 0), ("dispersion", 1),
    ]  # fmt: skip
    table = sequence_table(runs)
    assert "80.0 ± 0.0" in table and "seed 0, 1: Eero, Mara | Otis." in table


def test_requests_of_other_sizes_are_other_lines():
    runs = [fake("esc", (5, 5), 0), fake("esc", (2, 3), 0)]
    lines = sequence_table(runs).splitlines()
    assert lines[1].endswith("n forget 10, sizes 5, 5") and lines[4].endswith("n forget 5, sizes 2, 3")


def test_a_run_names_who_asked_in_each_group(default_splits, monkeypatch):
    monkeypatch.setattr(sequence, "sequence_splits", lambda sizes, seed, world: default_splits)
    row = sequence.about_requests("esc", (4, 6), 0)
    assert [len(group) for group in row["forget_ids"]] == [4, 6] and row["kind"] == "wrapper"
    everybody = {default_splits.faces.identities[label] for label in default_splits.forget}
    assert {name for group in row["forget_ids"] for name in group} == everybody


def test_a_broken_file_or_method_is_one_sentence(tmp_path, capsys):
    with pytest.raises(CourseError, match="There are no results at"):
        read_sequence(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[]")
    assert main(["--table", "--out", str(tmp_path / "bad.json")]) == 2
    assert main(["--methods", "magic", "--out", str(tmp_path / "new.json")]) == 2
    assert "magic" in capsys.readouterr().err and not (tmp_path / "new.json").exists()


def test_the_committed_runs_are_complete():
    runs = read_sequence(SEQUENCE_FILE)
    assert {(run["method"], run["seed"]) for run in runs} == {(n, s) for n in sequence.COMPARED for s in range(3)}
    for run in runs:
        assert run["sizes"] == list(sequence.SIZES) and len(run["after"]) == len(sequence.SIZES) + 1
