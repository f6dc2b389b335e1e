"""The lists of mistakes are up to date, and the command that plants them tells the noticed from the unnoticed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutants import drawing, planting
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


def test_random_mistakes_can_be_planted_and_change_the_tree():
    drawn = drawing.draw(60, seed=3)
    assert drawn == drawing.draw(60, seed=3) != drawing.draw(60, seed=4)
    assert {mutant.file.split("/")[1] for mutant in drawn} == set(drawing.WINGS)
    for mutant in drawn:
        source = (REPO_ROOT / mutant.file).read_text(encoding="utf-8")
        assert ast.dump(ast.parse(mutant.planted(source))) != ast.dump(ast.parse(source)), mutant
        assert mutant.tests.startswith(f"tests/{mutant.file.split('/')[1]}/test_"), mutant


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a + b", {"(a - b)", "a", "b"}),
        ("a < b", {"(a <= b)"}),
        ("not a", {"a"}),
        ("f(a, b)", {"f(b, a)"}),
        ("max(a, b)", set()),
        ("f(k=a, m=b)", {"f(m=b)", "f(k=a)", "f(k=b, m=a)"}),
        ("f(desc=a)", set()),
        ("splits.forget", {"splits.retain", "splits.unseen", "splits.retain_train", "splits.trained"}),
        ("'r1'", {"'r5'", "'map'"}),
        ("3", {"4"}),
        ("0.5", {"1.0"}),
        ("True", {"False"}),
        ("a if b else c", {"(c if b else a)"}),
        ("x: int | None", set()),
    ],
)
def test_every_kind_of_mistake(line, expected):
    tree = ast.parse(line)
    drawn = [(node, text) for node in drawing.places(tree) for _, text in drawing.mistakes(node)]
    assert {drawing.in_lines(line, node, text)[1] for node, text in drawn} - {line} == expected
