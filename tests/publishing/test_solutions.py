"""One source: exercise notebooks are what their solutions give, and every answer in a solution is exact."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

from utils.publishing import solutions
from utils.publishing.course import NOTEBOOK_DIR, Task, read, run_notebook
from utils.publishing.site import body_of
from utils.settings import CourseError

NOTEBOOKS = sorted((NOTEBOOK_DIR / solutions.SOLUTIONS).glob("*.ipynb"))
LIGHT = [path for path in NOTEBOOKS if path.name[:2] in ("02", "03")]  # seconds each; the others take minutes
VERDICT = re.compile(r"^([✓≈✗…]) [^:\n]+: (exact|close|wrong|not attempted yet)", re.MULTILINE)


# ---- the course's own notebooks ------------------------------------------------------------------------------------


def test_every_exercise_notebook_is_what_its_solution_gives():
    assert solutions.faults() == []


# What an exercise uses of the notebook around it, besides imports and functions: small values of the same kind.
AROUND = {
    "00": {
        "splits": SimpleNamespace(photos=lambda pool, part: range(50), forget=range(10), gallery=range(800)),
        "scores": {"original": {"chance": {"r1": 5 / 800}, "unseen": {"map": 0.8}}, "after": {"unseen": {"map": 0.6}}},
    },
    "01": {"a": 1.1 * np.exp(0.4j)},
    "02": {"labels": np.array([3, 5, 3]), "people": [3], "emb": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])},
    "11": {
        "mine": {"gallery": range(2)},
        "splits": SimpleNamespace(gallery=range(400)),
        "ranks": {"a": (1, 30.0), "b": (1, 4.0)},
    },
    "03": {"relevant": np.array([True, False, True, False]), "gallery": range(4)},
}


def exercises() -> list:
    """Each exercise with the cells before it, as its solution notebook has them."""
    found = []
    for path in NOTEBOOKS:
        cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
        number = (i for i, cell in enumerate(cells) if solutions.MARK.search(cell.source))
        found += [pytest.param(path.name[:2], cells[: i + 1], id=cells[i].id) for i in number]
    return found


def surroundings(before: list, source: str) -> dict:
    """What the cells before an exercise import, and those of their functions that it calls."""
    namespace, used = {}, {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    for cell in before:
        if "setup" not in cell.metadata.get("tags", []):
            for node in ast.parse(cell.source).body:
                wanted = isinstance(node, ast.FunctionDef) and node.name in used
                if wanted or isinstance(node, ast.Import | ast.ImportFrom):
                    exec(compile(ast.Module([node], []), cell.id, "exec"), namespace)
    return namespace


def verdicts(source: str, number: str, before: list, capsys) -> list[str]:
    """Run an exercise's code in small surroundings and return what its checkers said."""
    exec(compile(source, number, "exec"), surroundings(before, source) | AROUND.get(number, {}))
    return [verdict for _, verdict in VERDICT.findall(capsys.readouterr().out)]


@pytest.mark.parametrize(("number", "cells"), exercises())
def test_an_answer_is_exact_and_a_missing_one_breaks_nothing(number: str, cells: list, capsys):
    *before, cell = cells
    shown, _ = solutions.take_answer(cell.source, cell.id)
    assert verdicts(cell.source, number, before, capsys) == ["exact"]
    assert verdicts(shown, number, before, capsys) == ["not attempted yet"]


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_a_light_solution_notebook_runs_whole_and_every_answer_is_exact(path: Path, tmp_path: Path):
    run_notebook(Task(path, {}, ""), tmp_path, timeout=600)
    answered = [cell for cell in read(tmp_path / "notebooks" / path.name).cells if solutions.MARK.search(cell.source)]
    assert len(answered) >= 2
    assert [VERDICT.findall(cell.outputs[0].text) for cell in answered] == [[("✓", "exact")]] * len(answered)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_answer_is_written_once(path: Path):
    assert not any("<summary>Solution" in cell.source for cell in read(path).cells), "folds are derived"


# ---- the command ---------------------------------------------------------------------------------------------------

ANSWERED = '''def double(x):
    """Return twice x."""
    # solution
    total = x + x
    return total
    # exercise: return None  # your code


print(double(2))'''


def solution() -> nbformat.NotebookNode:
    """A small solution notebook: text, an exercise, its explanation, one more cell."""
    new = nbformat.v4
    text = (
        "See [data](../../data/README.md), [Colab](https://colab/blob/main/notebooks/solutions/00_a.ipynb), "
        "[next](01_b.ipynb)."
    )
    cells = [
        new.new_markdown_cell(text, id="text"),
        new.new_code_cell(ANSWERED, id="double"),
        new.new_markdown_cell("**Solution.** Adding is\ndoubling.\n\nGo on.", id="why"),
        new.new_code_cell("print(1)", id="more", metadata={"tags": ["cover"]}),
    ]
    return new.new_notebook(cells=cells)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one solution and the exercise notebook derived from it."""
    (tmp_path / solutions.SOLUTIONS).mkdir()
    nbformat.write(solution(), tmp_path / solutions.SOLUTIONS / "00_a.ipynb")
    solutions.write_all(tmp_path)
    return tmp_path


def edit(path: Path, cell: int, **values) -> None:
    notebook = read(path)
    notebook.cells[cell].update(values)
    nbformat.write(notebook, path)


def test_the_exercise_shows_a_placeholder_and_folds_the_answer():
    text, double, why, more = solutions.exercise_version(solution()).cells
    assert text.source == (
        "See [data](../data/README.md), [Colab](https://colab/blob/main/notebooks/00_a.ipynb), [next](01_b.ipynb)."
    )
    assert double.source == (
        'def double(x):\n    """Return twice x."""\n    return None  # your code\n\n\nprint(double(2))'
    )
    assert why.source == (
        "<details><summary>Solution</summary>\n\n```python\ntotal = x + x\nreturn total\n```\n\nAdding is\ndoubling.\n"
        "</details>\n\nGo on."
    )
    assert (double.metadata, more.metadata) == ({"tags": ["exercise"]}, {"tags": ["cover"]})


def test_deriving_changes_nothing_it_was_given_and_deriving_again_changes_nothing():
    given = solution()
    untouched = copy.deepcopy(given)
    once = solutions.exercise_version(given)
    assert given == untouched
    assert solutions.exercise_version(once) == once != given


def test_the_answer_is_inside_the_fold_on_the_course_s_pages(tmp_path: Path):
    html = body_of(solutions.exercise_version(solution()), tmp_path)
    fold = re.search(r"<details>(.*?)</details>(.*)", html, re.DOTALL)
    assert "doubling." in fold[1] and "total" in fold[1] and "Go on." in fold[2]


def test_several_answers_in_one_cell_are_folded_together():
    given = solution()
    given.cells[1].source = "# solution\na = 1\n# exercise: a = None\n# solution\nb = 2\n# exercise: b = None\nprint(a)"
    derived = solutions.exercise_version(given).cells
    assert derived[1].source == "a = None\nb = None\nprint(a)"
    assert "```python\na = 1\nb = 2\n```" in derived[2].source


@pytest.mark.parametrize(
    "source",
    [
        "# solution\na = 1",
        "a = 1\n# exercise: a = None",
        "# solution\na = 1\n# solution\nb = 2\n# exercise: a = None",
        "# solution\na = 1\n# exercise: a = None\n# exercise: b = None",
        "if True:\n    # solution\n    a = 1\n# exercise: a = None",
        "# solution\n# exercise: a = None",
        "# Solution\na = 1\n# exercise: a = None",
        "# solution\na = 1\n# exercise:",
    ],
)
def test_marks_that_do_not_pair_up_are_told_in_one_sentence(source: str):
    given = solution()
    given.cells[1].source = source
    with pytest.raises(CourseError, match=r"^In cell 2 \(double\) the comments .* do not pair up: [^\n]*\.$"):
        solutions.exercise_version(given)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda cells: cells[2].update(source="Go on."), "cell 3"),
        (lambda cells: cells[2].update(source="**Solution.**\n\nGo on."), "cell 3"),
        (lambda cells: cells[0].update(source="**Solution.** To what?"), "cell 1"),
        (lambda cells: cells.pop(2), "cell 3"),
        (lambda cells: cells.__delitem__(slice(2, 4)), "the last cell"),
    ],
)
def test_an_answer_wants_its_explanation_and_an_explanation_its_answer(change, where: str):
    given = solution()
    change(given.cells)
    with pytest.raises(CourseError, match=rf"^In {where}.*: a text cell that begins with '\*\*Solution\.\*\*'"):
        solutions.exercise_version(given)


def test_outputs_of_unchanged_cells_stay_and_those_of_changed_cells_go(folder: Path):
    printed = [nbformat.v4.new_output("stream", text="1\n")]
    for cell in (1, 3):
        edit(folder / "00_a.ipynb", cell, outputs=printed, execution_count=cell)
    assert solutions.write_all(folder) == []
    edit(folder / solutions.SOLUTIONS / "00_a.ipynb", 1, source=ANSWERED.replace("your code", "one line"))
    assert solutions.write_all(folder) == ["00_a.ipynb: 1 cell(s) written, the first is cell 2 (double)"]
    _, double, _, more = read(folder / "00_a.ipynb").cells
    assert "one line" in double.source
    assert (double.outputs, double.execution_count, more.outputs, more.execution_count) == ([], None, printed, 3)


def test_outputs_are_taken_out_of_a_solution_that_was_run(folder: Path):
    path = folder / solutions.SOLUTIONS / "00_a.ipynb"
    edit(path, 3, outputs=[nbformat.v4.new_output("stream", text="1\n")], execution_count=3)
    assert solutions.faults(folder) == [
        "solutions/00_a.ipynb stores outputs: run python -m utils.solutions, which takes them out."
    ]
    assert solutions.write_all(folder) == ["solutions/00_a.ipynb: outputs taken out"]
    assert solutions.faults(folder) == [] and read(path).cells == solution().cells


@pytest.mark.parametrize(
    ("name", "cell", "values", "named"),
    [
        ("00_a.ipynb", 3, {"source": "print(2)"}, r"cell 4 \(more\)"),
        ("00_a.ipynb", 2, {"source": "Go on."}, r"cell 3 \(why\)"),
        ("00_a.ipynb", 3, {"metadata": {}}, r"cell 4 \(more\)"),
        ("solutions/00_a.ipynb", 1, {"source": ANSWERED.replace("x + x", "2 * x")}, r"cell 3 \(why\)"),
        ("solutions/00_a.ipynb", 0, {"source": "Text."}, r"cell 1 \(text\)"),
    ],
)
def test_an_edit_on_either_side_is_seen(folder: Path, name: str, cell: int, values: dict, named: str, capsys):
    command = ["--check", "--notebooks", str(folder)]
    assert solutions.main(command) == 0
    edit(folder / name, cell, **values)
    stored = (folder / "00_a.ipynb").read_bytes()
    assert solutions.main(command) == 1
    assert re.match(rf"00_a\.ipynb is not what its solution gives: {named} differs\.", capsys.readouterr().err)
    assert (folder / "00_a.ipynb").read_bytes() == stored, "--check writes nothing"
    assert solutions.main(command[1:]) == 0
    assert solutions.main(command) == 0


def test_a_notebook_without_its_partner_is_seen(folder: Path):
    (folder / "00_a.ipynb").rename(folder / "01_b.ipynb")
    assert [fault.split(":")[0] for fault in solutions.faults(folder)] == [
        "solutions/00_a.ipynb has no exercise notebook",
        "01_b.ipynb has no solution notebook",
    ]


def test_a_fault_in_a_solution_is_told_with_its_file_and_nothing_is_written(folder: Path, capsys):
    edit(folder / solutions.SOLUTIONS / "00_a.ipynb", 1, source="# solution\na = 1")
    stored = (folder / "00_a.ipynb").read_bytes()
    assert solutions.main(["--notebooks", str(folder)]) == 2
    assert capsys.readouterr().err.startswith("error: solutions/00_a.ipynb: In cell 2 (double) the comments")
    assert (folder / "00_a.ipynb").read_bytes() == stored
