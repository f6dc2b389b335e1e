"""Runs side by side: whatever happens to one of them, the others are stored; nobody is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from utils.experiments.results import ResultStore
from utils.experiments.runner import refuse, run_missing
from utils.settings import REPO_ROOT, CourseError

FACES = {"seed": 0, "dataset": "x", "n_forget": 1}  # what tells a benchmark's row
SCRIPT = """
import os, sys, time
from pathlib import Path
from joblib.externals.loky.backend.context import set_start_method
from utils.experiments.results import ResultStore
from utils.experiments.runner import refuse, run_missing
from utils.settings import CourseError, command

def work(name, seed):
    if name == "dies":
        os._exit(3)
    if name == "raises":
        raise RuntimeError("a bug")
    if name == "diverges":
        raise CourseError("The run diverged at step 1.")
    if name == "sleeps":
        Path("asleep").touch()
        time.sleep(600)
    return {"score": seed}

@command
def main(arguments=None):
    names = sys.argv[2].split(",")
    faces = {"dataset": "x", "n_forget": 1}
    wanted = [((name, seed), {"method": name, "seed": seed} | faces) for seed, name in enumerate(names)]
    store = ResultStore(Path(sys.argv[1]))
    failed = run_missing(work, wanted, store, describe=lambda *_: {"pid": os.getpid()}, jobs=2, progress=False)[1]
    refuse(failed)

set_start_method("fork")  # fresh interpreters, which test_benchmark starts, would import torch for seconds
sys.exit(main())
"""


def start(tmp_path, names: str) -> subprocess.Popen:
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-W", "ignore:`fork`:UserWarning", "script.py", "r.json", names]
    environment = os.environ | {"PYTHONPATH": str(REPO_ROOT)}
    return subprocess.Popen(command, start_new_session=True, env=environment, **options)


def processes_of(session: int) -> list[int]:
    """Return the processes of a session: it keeps its number when parents die."""
    listed = subprocess.run(["ps", "-eo", "pid,sid,stat"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()[1:]]
    return [int(pid) for pid, sid, state in rows if int(sid) == session and not state.startswith("Z")]


def until(condition, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def test_what_dies_raises_or_diverges_is_named_and_the_others_are_done(tmp_path):
    running = start(tmp_path, "fine,dies,raises,fine,diverges,fine")
    said, _ = running.communicate(timeout=120)
    assert running.returncode == 2 and "Traceback" not in said
    assert (
        "dies, seed 1, 1 people: its worker process died" in said
        and "raises, seed 2, 1 people: RuntimeError: a bug" in said
    )
    content = json.loads((tmp_path / "r.json").read_text())
    assert {row["seed"] for row in content["runs"] if "score" in row} == {0, 3, 5}
    (lost,) = (row for row in content["runs"] if "error" in row)
    assert lost["error"] == "The run diverged at step 1." and lost["pid"] == running.pid
    assert {row["method"] for row in content["failed"]} == {"dies", "raises"}


@pytest.mark.parametrize("how", ["group", "killed"])
def test_an_interrupted_batch_keeps_what_is_done_and_leaves_nobody(tmp_path, how):
    running, out = start(tmp_path, "fine,sleeps,sleeps,sleeps"), tmp_path / "r.json"
    assert until(lambda: out.exists() and len(ResultStore(out).rows()) == 1)
    assert len(processes_of(running.pid)) > 2
    (os.kill if how == "killed" else os.killpg)(running.pid, signal.SIGKILL if how == "killed" else signal.SIGINT)
    said, _ = running.communicate(timeout=240)  # on a busy machine workers start slowly
    assert running.returncode == (-signal.SIGKILL if how == "killed" else 130)
    assert how == "killed" or said.strip() == "Stopped."
    assert until(lambda: not processes_of(running.pid))
    assert [row["score"] for row in ResultStore(out).rows()] == [0]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".lock"] == []


def test_a_worker_that_was_never_given_a_task_ends_with_its_parent_too(tmp_path):
    running = start(tmp_path, "sleeps")  # one task for two workers
    assert until(lambda: (tmp_path / "asleep").exists()) and len(processes_of(running.pid)) > 2
    os.kill(running.pid, signal.SIGKILL)
    running.communicate(timeout=30)
    assert until(lambda: not processes_of(running.pid))


def test_one_at_a_time_is_the_same(tmp_path):
    trouble = {"diverges": CourseError("The run diverged."), "raises": KeyError("x"), "fine": None}

    def work(name):
        if trouble[name]:
            raise trouble[name]
        return {"score": 1}

    store, wanted = ResultStore(tmp_path / "r.json"), [((name,), {"method": name} | FACES) for name in trouble]
    rows, failed = run_missing(work, wanted, store, describe=lambda _: {"forget_ids": ["Ann"]}, progress=False)
    assert [row["method"] for row in rows] == ["diverges", "fine"]
    assert all(row["forget_ids"] == ["Ann"] for row in (*rows, *failed, *store.rows("failed")))
    with pytest.raises(CourseError, match="1 of the runs failed, .* raises, seed 0, 1 people: KeyError: 'x'"):
        refuse(failed)
    trouble["raises"] = trouble["diverges"] = None  # the one is tried again, the other is a result
    again, failed = run_missing(work, wanted, store, describe=lambda _: {}, progress=False)
    assert [row.get("score") for row in again] == [None, 1, 1] and not failed and not store.rows("failed")


def test_trouble_of_the_machine_is_no_result(tmp_path):
    def work(name):
        try:
            raise OSError("disk full")
        except OSError as error:
            raise CourseError("The model could not be written.") from error

    store = ResultStore(tmp_path / "r.json")
    rows, failed = run_missing(work, [(("a",), {"method": "a"} | FACES)], store, describe=lambda _: {}, progress=False)
    assert not rows and failed[0]["failure"] == "The model could not be written." and len(store.rows("failed")) == 1
    with pytest.raises(CourseError, match="at least 1"):
        run_missing(work, [], store, describe=lambda _: {}, jobs=0)


def test_a_library_that_wants_to_exit_ends_its_own_run_only_and_twice_the_same_run_is_one(tmp_path):
    def work(name):
        return sys.exit(3) if name == "exits" else {"score": 1}

    keys = {name: {"method": name} | FACES for name in ("exits", "works")}
    wanted = [((name,), keys[name]) for name in ("exits", "works", "works")]
    how = {"describe": lambda *_: {}, "progress": False}
    rows, failed = run_missing(work, wanted, ResultStore(tmp_path / "r.json"), **how)
    assert [row["method"] for row in rows] == ["works"] and [row["failure"] for row in failed] == ["SystemExit: 3"]
