"""The lists of mistakes are up to date, and the command that plants them tells the noticed from the unnoticed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutants import planting
from mutants.planting import LISTS, Mutant, read_lists

from utils.settings import REPO_ROOT, CourseError

NAMES = sorted(path.stem for path in LISTS.glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_listed_mistake_can_still_be_planted(name):
    for mutant in read_lists([name]):
        source = (REPO_ROOT / mutant.file).read_text(encoding="utf-8")
        harmed = ast.parse(mutant.planted(source))
        assert ast.dump(harmed) != ast.dump(ast.parse(source)), f"no mistake: {mutant}"
        assert mutant.why and mutant.tests.split(), mutant
        for named in mutant.tests.split():
            path, _, function = named.partition("::")
            assert (REPO_ROOT / path).exists(), mutant
            assert (
                f"def {function.partition('[')[0]}" in (REPO_ROOT / path).read_text(encoding="utf-8")
                if function
                else True
            )


def test_a_mistake_is_planted_in_one_place_only():
    mutant = Mutant("a.py", "x + 1", "x - 1", "tests", "another sign")
    assert mutant.planted("y = x + 1\n") == "y = x - 1\n"
    for source in ("y = x\n", "y = x + 1\nz = x + 1\n"):
        with pytest.raises(CourseError, match="bring its list up to date"):
            mutant.planted(source)
    with pytest.raises(CourseError, match="There is no list nonsense"):
        read_lists(["nonsense"])


def test_noticed_unnoticed_endless_and_sick(tmp_path: Path, monkeypatch):
    """A repository of one file: its test sees the sum and not the product; one mistake never ends."""
    course = tmp_path / "course"
    (course / "utils").mkdir(parents=True)
    (course / "utils/__init__.py").write_text("")
    sums = "def add(a, b):\n    return a + b\n\n\ndef times(a, b):\n    return a * b\n"
    (course / "utils/sums.py").write_text(sums)
    (course / "test_sums.py").write_text("from utils.sums import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n")
    (course / "test_sick.py").write_text("def test_sick():\n    assert False\n")
    monkeypatch.setattr(planting, "REPO_ROOT", course)
    changes = [
        ("a + b", "a - b", "test_sums.py", planting.KILLED),
        ("a * b", "a / b", "test_sums.py", planting.SURVIVED),
        ("a + b", "a / b", "test_sick.py", planting.SICK),
    ]
    mutants = [Mutant("utils/sums.py", old, new, tests, end) for old, new, tests, end in changes]
    assert [(mutant.why, end) for mutant, end, _ in planting.plant(mutants)] == [(end, end) for *_, end in changes]
    (tmp_path / "slow").mkdir()
    endless = Mutant("utils/sums.py", "    return a + b", "    while True: pass", "test_sums.py", "")
    assert planting.Copy(tmp_path / "slow").trial(endless, seconds=3) == (planting.ENDLESS, "")
    assert (course / "utils/sums.py").read_text() == (tmp_path / "slow/course/utils/sums.py").read_text() == sums
