"""One store for all results: rows of several writers are merged, and a file that is not ours is left alone."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from utils import sequence
from utils.results import ResultStore
from utils.settings import REPO_ROOT, CourseError

WRITER = """
import sys
from pathlib import Path
from utils.results import ResultStore
for seed in range(15):
    row = {"method": sys.argv[2], "seed": seed}
    ResultStore(Path(sys.argv[1])).add(row, row)
"""


def test_two_processes_that_write_at_once_lose_no_row(tmp_path):
    out = tmp_path / "r.json"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(out), name], cwd=REPO_ROOT) for name in ("one", "two")
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    rows = {(row["method"], row["seed"]) for row in ResultStore(out).rows()}
    assert rows == {(name, seed) for name in ("one", "two") for seed in range(15)}


def test_a_row_takes_the_place_of_the_one_with_its_key(tmp_path):
    store = ResultStore(tmp_path / "new" / "r.json").checked()
    for score in (1.0, math.nan):
        store.add({"method": "a", "seed": 0, "score": score}, {"method": "a", "seed": 0})
    store.add({"method": "a", "seed": 1, "score": 2.0}, {"method": "a", "seed": 1})
    assert [(row["seed"], row["score"]) for row in store.rows()] == [(0, None), (1, 2.0)]


def test_a_link_stays_a_link_and_its_file_gets_the_rows(tmp_path):
    shared, link = tmp_path / "shared.json", tmp_path / "link.json"
    shared.touch()
    link.symlink_to(shared)
    ResultStore(link).checked().add({"seed": 0}, {"seed": 0})
    assert link.is_symlink() and ResultStore(shared).rows() == [{"seed": 0}]


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
    monkeypatch.setattr(sequence, "run_requests", lambda *task: sequence.key_of(*task) | {"after": []})
    out = tmp_path / "sequence.json"
    sequence.run_sequence(["esc"], out, seeds=1, progress=False)
    found = sequence.run_sequence(["original", "dispersion"], out, seeds=1, fresh=True, progress=False)
    assert [row["method"] for row in found] == ["original", "dispersion"]
    assert [row["method"] for row in sequence.read_sequence(out)] == ["esc", "original", "dispersion"]


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
