"""The set-up cell alone, in an empty folder where packages are missing, as on Colab: what it installs, what it finds.

The course is cloned from this repository instead of the web, and pip is a stand-in that writes down what it is asked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from utils.publishing.course import find_notebooks, read, setup_of
from utils.settings import REPO_ROOT

FIRST = find_notebooks()[0]
CELL = setup_of(read(FIRST), FIRST.name).source
ADDRESS = re.search(r"https://github\.com/[\w./-]+", CELL)[0]

PIP = """import json, os, sys
with open(os.environ["ASKED"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""
HIDE = """import importlib.util, os
look = importlib.util.find_spec
def find_spec(name, package=None):
    hidden = os.environ.get("HIDDEN", "").split()
    if name == "utils" and not os.environ["LINKED"]:
        return None
    return None if name in hidden and not os.path.exists(os.environ["ASKED"]) else look(name, package)
importlib.util.find_spec = find_spec
"""
AFTER = """
import json, sys, torch, utils
print(json.dumps({"utils": utils.__file__, "first": sys.path[0], "torch": torch.__version__}))
"""


@pytest.fixture
def room(tmp_path: Path):
    """Run the set-up cell with IPython in an empty folder; return what it printed last, and what pip was asked."""
    inside = tmp_path / "site"
    (inside / "pip").mkdir(parents=True)
    (inside / "pip" / "__init__.py").write_text("", encoding="utf-8")
    (inside / "pip" / "__main__.py").write_text(PIP, encoding="utf-8")
    (inside / "sitecustomize.py").write_text(HIDE, encoding="utf-8")
    asked = tmp_path / "asked"

    def run(hidden: str = "", cell: str = CELL, folder: Path | None = None, linked: Path | None = None) -> tuple:
        folder = folder or tmp_path / "content"
        folder.mkdir(exist_ok=True)
        script = tmp_path / "cell.ipy"
        script.write_text(cell + AFTER, encoding="utf-8")
        redirect = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{REPO_ROOT.as_uri()}.insteadOf"}
        env = os.environ | redirect | {"GIT_CONFIG_VALUE_0": ADDRESS, "PYTHONPATH": str(inside), "ASKED": str(asked)}
        env |= {"HIDDEN": hidden, "LINKED": "yes" if linked else ""}
        env["PYTHONPATH"] += f"{os.pathsep}{linked}" * bool(linked)
        env |= {"IPYTHONDIR": str(tmp_path / "ipython"), "FACE_COURSE_CACHE": str(tmp_path / "cache")}
        # from site-packages alone: an installed course must not be found by its development link
        command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", str(script)]
        result = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=300)
        return result, [
            json.loads(line) for line in asked.read_text(encoding="utf-8").splitlines()
        ] if asked.exists() else []

    return run


needs_git = pytest.mark.skipif(not (REPO_ROOT / ".git").exists(), reason="a copy without its history cannot be cloned")


@needs_git
def test_an_empty_machine_gets_the_course_and_only_what_is_missing_and_gets_it_once(room, tmp_path):
    result, asked = room(hidden="facenet_pytorch faiss")
    assert result.returncode == 0, result.stderr + result.stdout
    (line,) = asked
    assert line[0] == "install" and "--no-deps" in line
    wanted = [word for word in line[1:] if not word.startswith("-")]
    assert wanted == ["facenet-pytorch==2.5.3", "faiss-cpu"], "nothing else, and torch least of all"
    told = json.loads(result.stdout.splitlines()[-1])
    assert Path(told["utils"]).is_relative_to(tmp_path / "content" / "course")
    assert told["first"] == str(tmp_path / "content" / "course")
    mark = tmp_path / "content" / "course" / "mark"
    mark.write_text("still here", encoding="utf-8")
    again, asked = room(hidden="facenet_pytorch faiss")
    assert again.returncode == 0, again.stderr + again.stdout
    assert mark.exists() and asked == [line], "a second run clones and installs nothing"


def test_beside_the_course_nothing_is_fetched(room):
    result, asked = room(folder=REPO_ROOT / "notebooks")
    assert result.returncode == 0, result.stderr + result.stdout
    assert asked == [] and json.loads(result.stdout.splitlines()[-1])["first"] == str(REPO_ROOT)
    assert not (REPO_ROOT / "notebooks" / "course").exists()


def test_without_a_network_one_sentence_says_what_to_do(room):
    nowhere = CELL.replace(ADDRESS, "file:///nowhere/at/all")
    result, _ = room(cell=nowhere)
    assert result.returncode != 0 or "AssertionError" in result.stdout + result.stderr
    told = result.stdout + result.stderr
    assert "Missing: the course. Run make lab, or papermill with --cwd notebooks. On Colab" in told


def test_started_elsewhere_the_course_that_make_linked_is_found(room, tmp_path):
    result, asked = room(linked=REPO_ROOT, folder=tmp_path / "a {folder} 50% #1 黄")
    assert result.returncode == 0, result.stderr + result.stdout
    assert asked == [] and json.loads(result.stdout.splitlines()[-1])["first"] == str(REPO_ROOT)
    assert not (tmp_path / "a {folder} 50% #1 黄" / "course").exists()
