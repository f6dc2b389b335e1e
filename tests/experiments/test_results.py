"""One store for all results: rows of several writers are merged, and a file that is not ours is left alone."""

from __future__ import annotations

import json
import math
import multiprocessing

import pytest
from filelock import FileLock, Timeout

from utils.experiments import sequence
from utils.experiments.benchmark import results_table
from utils.experiments.results import FIELDS, ResultStore, full_config, is_row, locked
from utils.experiments.tables import by_setting, forgotten, grouped, names_of
from utils.settings import REPO_ROOT, CourseError

FACES = {"dataset": "drawn", "n_forget": 1}  # what tells a benchmark's row


def write_rows(out, name):
    for seed in range(15):
        row = {"method": name, "seed": seed} | FACES
        ResultStore(out).add(row, row)


def test_two_processes_that_write_at_once_lose_no_row(tmp_path):
    out = tmp_path / "r.json"
    writers = [multiprocessing.Process(target=write_rows, args=(out, name)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    rows = {(row["method"], row["seed"]) for row in ResultStore(out).rows()}
    assert rows == {(name, seed) for name in ("one", "two") for seed in range(15)}


def test_a_row_takes_the_place_of_the_one_with_its_key(tmp_path):
    store = ResultStore(tmp_path / "new" / "r.json").checked()
    for score in (1.0, math.nan):
        store.add({"method": "a", "seed": 0, "score": score} | FACES, {"method": "a", "seed": 0})
    store.add({"method": "a", "seed": 1, "score": 2.0} | FACES, {"method": "a", "seed": 1})
    assert [(row["seed"], row["score"]) for row in store.rows()] == [(0, None), (1, 2.0)]


def test_a_link_stays_a_link_and_its_file_gets_the_rows(tmp_path):
    shared, link = tmp_path / "shared.json", tmp_path / "link.json"
    shared.touch()
    link.symlink_to(shared)
    row = {"method": "a", "seed": 0} | FACES
    ResultStore(link).checked().add(row, row)
    assert link.is_symlink() and ResultStore(shared).rows() == [row]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', '{"schema": 9, "runs": []}'])
def test_what_is_no_results_file_is_refused_before_the_work_and_left_alone(tmp_path, text):
    out = tmp_path / "r.json"
    out.write_text(text)
    with pytest.raises(CourseError, match="is not a results file"):
        ResultStore(out).checked()
    with pytest.raises(CourseError, match="not a regular file"):
        ResultStore(tmp_path).checked()
    assert out.read_text() == text


def test_requests_of_other_methods_stay_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sequence, "about_requests", lambda *_: {})
    monkeypatch.setattr(sequence, "first_model", lambda *_: None)
    monkeypatch.setattr(sequence, "run_requests", lambda *task: sequence.key_of(*task) | {"after": []})
    out = tmp_path / "sequence.json"
    sequence.run_sequence(["esc"], out, seeds=1, progress=False)
    found = sequence.run_sequence(["original", "dispersion"], out, seeds=1, fresh=True, progress=False)
    assert [row["method"] for row in found] == ["original", "dispersion"]
    assert [row["method"] for row in sequence.read_sequence(out)] == ["esc", "original", "dispersion"]


def test_no_lock_stays_beside_the_file_and_links_share_one(tmp_path):
    shared, link = tmp_path / "shared" / "r.json", tmp_path / "link.json"
    shared.parent.mkdir()
    shared.touch()
    link.symlink_to(shared)
    with locked(ResultStore(link).checked().path):
        assert [path.name for path in shared.parent.iterdir()] == [".r.json.lock", "r.json"]
        with pytest.raises(Timeout):
            FileLock(shared.parent / ".r.json.lock", timeout=0).acquire()
    ResultStore(link).checked().add({"method": "a", "seed": 0} | FACES, {"seed": 0})
    assert [path.name for path in shared.parent.iterdir()] == ["r.json"] and [*tmp_path.iterdir()] == [
        shared.parent,
        link,
    ]


def test_a_failure_takes_no_result_away_and_leaves_when_one_comes(tmp_path):
    store, key = ResultStore(tmp_path / "r.json"), {"method": "a", "seed": 0} | FACES
    store.add(key | {"score": 1}, key)
    store.add(key | {"failure": "KeyError: x"}, key)
    store.add(key | {"failure": "KeyError: y"}, key)
    assert store.rows() == [key | {"score": 1}] and store.rows("failed") == [key | {"failure": "KeyError: y"}]
    store.add(key | {"score": 2}, key)
    assert store.rows() == [key | {"score": 2}] and "failed" not in store.read()


STORED_RUNS = [  # other files hold measurements of another kind
    path
    for path in sorted((REPO_ROOT / "data" / "results").glob("*.json"))
    if {"runs", "trials"} & json.loads(path.read_text(encoding="utf-8")).keys()
]


def command_of(path):
    name = path.stem.removesuffix("_lfw").removesuffix("_others")
    return name if name in FIELDS else "benchmark"


def store_of(name, path):
    return ResultStore(path, "trials" if name in ("sweep", "ablation") else "runs", name)


@pytest.mark.parametrize("name", FIELDS)
def test_another_commands_file_is_refused_and_left_alone(name, tmp_path):
    """Neither a row of an audit nor a trial of a sweep is a benchmark's result, in any direction."""
    for path in STORED_RUNS:
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        if name != command_of(path):
            with pytest.raises(CourseError, match="move it away|name another file"):
                store_of(name, copy).checked()
        assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "rows", ["[1]", '["x"]', "[{}]", '[{"method": 1}]', '[{"method": "esc", "seed": 0, "sizes": null}]']
)
def test_rows_of_no_command_are_one_sentence(rows, tmp_path):
    path = tmp_path / "r.json"
    for part in ("runs", "failed"):
        path.write_text(f'{{"schema": 2, "runs": [], "{part}": {rows}}}', encoding="utf-8")
        with pytest.raises(CourseError, match="holds rows that python -m utils.benchmark does not write"):
            ResultStore(path).checked()
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(CourseError, match="not a results file"):
        ResultStore(path).checked()


def test_what_else_a_file_says_stays(tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"schema": 2, "runs": [], "notes": "mine"}', encoding="utf-8")
    ResultStore(path).add({"method": "a", "seed": 0} | FACES, {"seed": 0})
    assert ResultStore(path).read()["notes"] == "mine" and len(ResultStore(path).rows()) == 1


def test_a_trial_with_other_settings_is_another_trial():
    row = {"method": "dispersion", "options": {"learning_rate": 0.001}}
    assert is_row(row, row | full_config("dispersion", row["options"]))
    assert not is_row(row, row | {"config": full_config("dispersion", {**row["options"], "steps": 7})["config"]})


@pytest.mark.parametrize("path", STORED_RUNS, ids=lambda path: path.stem)
def test_files_of_schema_1_are_read_and_say_what_they_know(path):
    rows = store_of(command_of(path), path).rows()
    assert rows and grouped(rows) and forgotten(rows)
    assert all(is_row(row, {"fingerprint": row.get("fingerprint", "renderer 4, seed 0")}) for row in rows)
    assert not is_row({"method": "esc"}, {"method": "esc", "fingerprint": "renderer 5, seed 0"})


RUN = {
    "method": "esc", "seed": 0, "dataset": "folder", "dataset_name": "mine", "fingerprint": "a", "image_size": 64,
    "n_identities": 12, "n_forget": 2, "forget_ids": ["Ann", "Bo"], "dev": False, "backbone": "mini",
    "pretrained": "auto", "train": {"epochs": 8}, "profile": "quick", "config": {"steps": 50},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "mine", "other"),
    [
        ({"train": {"epochs": 32}}, "epochs 8", "epochs 32"),
        ({"profile": "full", "config": {"steps": 300}}, "profile quick, steps 50", "profile full, steps 300"),
        ({"fingerprint": "b", "dataset_name": "hers"}, "fingerprint a, dataset name mine", "dataset name hers"),
        ({"image_size": 80}, "image size 64", "image size 80"),
        ({"n_identities": 24}, "n identities 12", "n identities 24"),
        ({"asked": True}, "", "people Ann, Bo"),
        ({"seed": 0, "forget_ids": ["Cy", "Di"]}, "people Ann, Bo", "people Cy, Di"),
    ],
)
def test_runs_of_two_settings_are_never_averaged_and_the_difference_is_named(change, mine, other):
    runs = [RUN, {**RUN, "seed": 1, "forget_ids": ["Di", "Ed"]}, {**RUN, "seed": 1, **change}]
    groups = grouped(runs if "forget_ids" not in change else [runs[0], runs[2]])
    assert len(groups) == 2 and groups[0][0][0] is runs[0] and groups[1][0] == [runs[2]]
    assert groups[0][1] == mine and other in groups[1][1]
    assert len(by_setting(runs)) == 2 or "forget_ids" in change
    assert list(by_setting(runs[:2])) == ["esc"] and len(by_setting(runs[:2])["esc"]) == 2


def test_who_was_forgotten_is_one_line_per_way_of_choosing():
    drawn = [RUN, {**RUN, "seed": 1, "forget_ids": ["Di", "Ed"]}, {**RUN, "method": "original"}]
    assert forgotten(drawn) == ["Forgotten (mine, 2), drawn by seed: seed 0: Ann, Bo; seed 1: Di, Ed."]
    assert forgotten([{**RUN, "asked": True}]) == ["Forgotten (mine, 2), asked for by name: Ann, Bo."]
    many = list(map(str, range(40)))
    assert names_of(many).endswith("9, 10 and 29 more") and names_of(many[:12]).endswith("10, 11")


def test_a_table_shows_what_diverged_what_failed_and_who(tmp_path):
    pool = {"r1": 0.5, "map": 0.25}
    good = RUN | {"forget": pool, "retain": pool, "unseen": pool, "seconds": 1, "images_processed": 9}
    lost = {**RUN, "method": "gradient_ascent", "error": "The run diverged at step 3."}
    crash = {**RUN, "method": "scrub", "failure": "KeyError: x"}
    for narrow in (False, True):
        table = results_table({"runs": [good, lost], "failed": [crash]}, narrow=narrow).splitlines()
        row = next(line for line in table if "ascent" in line)
        assert row.endswith("diverged") and row.count("–") == (7 if narrow else 9)
        assert "No result: gradient_ascent, seed 0, 2 people: The run diverged at step 3." in table
        assert "Failed, and will be tried again: scrub, seed 0, 2 people: KeyError: x" in table
        assert "Forgotten (mine, 2), drawn by seed: seed 0: Ann, Bo." in table
    epochs = results_table({"runs": [good, {**good, "train": {"epochs": 32}}]}).splitlines()
    assert epochs[1].endswith("epochs 8") and epochs[2].endswith("epochs 32")


def test_a_table_prints_as_text_and_shows_as_html():
    from IPython.core.formatters import DisplayFormatter

    from utils.tables import Table, text_table

    table = text_table([["method", "score ↓"], ["a & b", 12], ["longer name", "1.0 ± 0.5"]])
    assert table == "method       score ↓\na & b        12\nlonger name  1.0 ± 0.5" == str(table)
    shown, _ = DisplayFormatter().format(table)
    assert shown["text/plain"] == str(table)
    assert shown["text/html"] == (
        "<table><thead>\n<tr><th>method</th><th>score ↓</th></tr>\n</thead><tbody>\n"
        "<tr><td>a &amp; b</td><td>12</td></tr>\n<tr><td>longer name</td><td>1.0 ± 0.5</td></tr>\n</tbody></table>"
    )
    assert Table() == "" and not Table()
    assert text_table([["a"], ["1"]], markdown=True) == "| a |\n| --- |\n| 1 |"
