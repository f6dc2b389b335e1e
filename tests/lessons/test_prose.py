"""A share or a decimal in a text cell stands in the same notebook's code or outputs, so that no digit drifts unseen."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from utils.publishing.course import find_notebooks, read
from utils.settings import REPO_ROOT

NOTEBOOKS = find_notebooks(REPO_ROOT / "notebooks")
LEFT_OUT = r"```.*?```|`[^`]*`|\$[^$]*\$|\]\([^)]*\)|<[^>]*>|https?://\S+|arXiv[ \d.]+|^\*\*References?\..*"
NUMBER = re.compile(r"(?<![\w.,])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\w,.]*\d)")
MEASURED = re.compile(NUMBER.pattern + r"(?=\s*(?:%|per cent|percent))|(?<![\w.,])-?\d+\.\d+(?![\w.]*\d)")
# what nobody measures here: the size of a data set, an invented case
STATED = {
    "01": {"3.3"},
    "03": {"40"},
    "10": {"1.5"},
    "12": {"0.9", "0.5", "0.7", "0.6"},
}


def values(text: str) -> set[float]:
    return {float(found.replace(",", "")) for found in NUMBER.findall(text)}


def said_by(notebook) -> set[float]:
    """Every number in a notebook's code and in what it printed or showed; a share counts as percent, too."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = cell.get("outputs", [])
            texts += [cell.source, *(out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs)]
    numbers = values("\n".join(texts))
    return numbers | {100 * number for number in numbers if 0 <= number <= 1}


def stands(number: str, numbers: set[float]) -> bool:
    """Whether a number is one of the others, rounded to as many places as it is written with."""
    places = len(number.partition(".")[2])
    return any(abs(float(number.replace(",", "")) - other) <= 0.501 * 10**-places for other in numbers)


def drifting(notebook, stated: set[str] = frozenset()) -> list[str]:
    """The measured-looking numbers in a notebook's prose that its code and outputs do not hold."""
    numbers, faults = said_by(notebook), []
    for cell in notebook.cells[1:]:  # the first holds versions and minutes, which a command writes
        if cell.cell_type == "markdown":
            text = re.sub(LEFT_OUT, "", cell.source, flags=re.DOTALL | re.MULTILINE)
            found = [number for number in MEASURED.findall(text) if number not in stated]
            faults += [f"{cell.id}: {number}" for number in found if not stands(number, numbers)]
    return faults


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_number_in_prose_has_left_its_outputs(path: Path):
    assert drifting(read(path), STATED.get(path.name[:2], set())) == []


def test_a_number_that_drifted_is_seen():
    new = nbformat.v4
    code = new.new_code_cell("share = 0.25", outputs=[new.new_output("stream", text="R@1 99.44%, loss 1,200\n")])

    def says(text: str) -> list[str]:
        cells = [new.new_markdown_cell("# opening, torch 2.14"), code, new.new_markdown_cell(text)]
        return [fault.partition(": ")[2] for fault in drifting(new.new_notebook(cells=cells), {"3.3"})]

    assert (
        says("They reach 99.4 %, a quarter is 25 %; 3.3 million of `0.777` and $0.777$, arXiv 2302.09880, 7 people.")
        == []
    )
    assert says("They reach 98.7 %, at a cosine of 0.2444, and 26 % remain.") == ["98.7", "0.2444", "26"]
