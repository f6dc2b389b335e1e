"""Derive the exercise notebooks from the solution notebooks, which are their one source.

python -m utils.solutions          # write notebooks/NN_*.ipynb from notebooks/solutions/NN_*.ipynb
python -m utils.solutions --check  # write nothing; fail if a notebook is not what its solution gives

In a solution notebook an answer stands between two comments, and the cell right after it begins with its explanation:

    def recall_at_k(relevant, k):
        # solution
        return float(any(relevant[:k]))
        # exercise: return None  # your code

    **Solution.** One hit is enough; more do not count.

The exercise notebook shows the text behind `# exercise:` in place of both comments and the answer, and folds the answer
and its explanation away. Everything else is the same in both, but for paths: a solution lies one folder deeper.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..settings import CourseError, command
from .course import NOTEBOOK_DIR, find_notebooks, read, save
from .site import tags_of, tidy

SOLUTIONS = "solutions"  # the folder inside notebooks/
TAG = "exercise"
ANSWER = re.compile(r"^([ \t]*)# solution\n(.*?)^\1# exercise: ([^\n]+)$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^[ \t]*#[ \t]*(?:solution[ \t]*$|exercise:)", re.MULTILINE | re.IGNORECASE)
EXPLANATION = re.compile(r"\*\*Solution\.\*\* (.+?)(?:\n\n|\Z)", re.DOTALL)
FOLDED = "<details><summary>Solution</summary>\n\n```python\n{answer}\n```\n\n{explanation}\n</details>"


def exercise_version(solution: NotebookNode) -> NotebookNode:
    """Return the exercise notebook of a solution notebook, without outputs; CourseError names the cell at fault."""
    notebook, answer = without_outputs(solution), ""
    for number, cell in enumerate(notebook.cells, 1):
        where = f"cell {number} ({cell.id})"
        if cell.cell_type == "code":
            require_explanation(not answer, where)
            cell.source, answer = take_answer(cell.source, where)
            if answer:
                cell.metadata["tags"] = sorted({*tags_of(cell), TAG})
        else:
            cell.source = fold_answer(one_folder_up(cell.source), answer, where)
            answer = ""
    require_explanation(not answer, "the last cell")
    return notebook


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    """Return a tidy copy of a notebook without outputs and execution counts."""
    clean = tidy(notebook)
    for cell in clean.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return clean


def take_answer(source: str, where: str) -> tuple[str, str]:
    """Return the code with placeholders for its answers, and the answers ('' if there are none); CourseError."""
    answers = [textwrap.dedent(found[2]).strip("\n") for found in ANSWER.finditer(source)]
    shown = ANSWER.sub(r"\1\3", source)
    if MARK.search("\n".join([shown, *answers])) or not all(answers):
        raise CourseError(
            f"In {where} the comments '# solution' and '# exercise: ...' do not pair up: every answer stands between "
            "one of each, equally far indented."
        )
    return shown, "\n".join(answers)


def fold_answer(text: str, answer: str, where: str) -> str:
    """Return Markdown in which the explanation at its start has become a fold with the answer in it; CourseError."""
    explained = EXPLANATION.match(text)
    require_explanation(bool(explained) == bool(answer), where)
    if not explained:
        return text
    folded = FOLDED.format(answer=answer, explanation=explained[1])
    rest = text[explained.end() :]
    return f"{folded}\n\n{rest}" if rest else folded


def require_explanation(holds: bool, where: str) -> None:
    """Raise CourseError unless an explanation and an answer come together."""
    if not holds:
        raise CourseError(
            f"In {where}: a text cell that begins with '**Solution.**' and a sentence must follow every answer, "
            "and stand nowhere else."
        )


def one_folder_up(text: str) -> str:
    """Return Markdown of notebooks/solutions/ with its links and Colab badge as notebooks/ needs them."""
    return text.replace("](../../", "](../").replace(f"/notebooks/{SOLUTIONS}/", "/notebooks/")


def has_run(notebook: NotebookNode) -> bool:
    """Say whether a notebook stores an output or an execution count."""
    return any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def with_outputs_of(notebook: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """Return a copy of a notebook in which code cells that are stored unchanged have their outputs and counts."""
    copied = nbformat.from_dict(notebook)
    ran = {cell.id: cell for cell in stored.cells if cell.cell_type == "code"}
    for cell in copied.cells:
        old = ran.get(cell.id)
        if cell.cell_type == "code" and old is not None and old.source == cell.source:
            cell.outputs, cell.execution_count = old.outputs, old.execution_count
    return copied


def differing_cells(notebook: NotebookNode, stored: NotebookNode) -> list[str]:
    """Name the cells in which two notebooks differ, outputs aside: 'cell 22 (03-22)'."""
    pairs = itertools.zip_longest(without_outputs(notebook).cells, without_outputs(stored).cells)
    numbered = enumerate(pairs, 1)
    return [f"cell {number} ({(found or wanted).id})" for number, (wanted, found) in numbered if wanted != found]


def derive(path: Path) -> NotebookNode:
    """Read a solution notebook and return its exercise version; CourseError begins with the file's name."""
    try:
        return exercise_version(read(path))
    except CourseError as error:
        raise CourseError(f"{SOLUTIONS}/{path.name}: {error}") from error


def faults(folder: Path = NOTEBOOK_DIR) -> list[str]:
    """Return one sentence for every exercise notebook that is not what its solution gives; CourseError."""
    solutions = {path.name: path for path in find_notebooks(folder / SOLUTIONS)}
    exercises = {path.name: path for path in find_notebooks(folder)}
    found = []
    for name in sorted({*solutions, *exercises}):
        if name not in solutions:
            found.append(f"{name} has no solution notebook: write {SOLUTIONS}/{name} and derive it from there.")
        elif name not in exercises:
            found.append(f"{SOLUTIONS}/{name} has no exercise notebook: run python -m utils.solutions.")
        elif cells := differing_cells(derive(solutions[name]), read(exercises[name])):
            found.append(
                f"{name} is not what its solution gives: {cells[0]} differs. Make the change in {SOLUTIONS}/{name}, "
                "then run python -m utils.solutions and make notebooks."
            )
        if name in solutions and has_run(read(solutions[name])):
            found.append(f"{SOLUTIONS}/{name} stores outputs: run python -m utils.solutions, which takes them out.")
    return found


def write_all(folder: Path = NOTEBOOK_DIR) -> list[str]:
    """Write the exercise notebooks, outputs of unchanged cells kept, and return what changed; CourseError."""
    told = []
    for path in find_notebooks(folder / SOLUTIONS):
        exercise, target = derive(path), folder / path.name
        stored = read(target) if target.exists() else nbformat.v4.new_notebook()
        if cells := differing_cells(exercise, stored):
            save(with_outputs_of(exercise, stored), target)
            told.append(f"{path.name}: {len(cells)} cell(s) written, the first is {cells[0]}")
        if has_run(read(path)):
            save(without_outputs(read(path)), path)
            told.append(f"{SOLUTIONS}/{path.name}: outputs taken out")
    return told


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 only if all notebooks are what their solutions give."""
    parser = argparse.ArgumentParser(prog="python -m utils.solutions", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a notebook differs")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOK_DIR, help="folder of the notebooks")
    arguments = parser.parse_args(argv)
    if not arguments.check:
        print("\n".join(write_all(arguments.notebooks)) or "Nothing to write: every notebook is up to date.")
    if found := faults(arguments.notebooks):
        print("\n".join(found), file=sys.stderr)
    return 1 if found else 0
