"""Tables: aligned text where they are printed, HTML where a notebook or a page shows them, Markdown in documents."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

JOINERS = "\u200c\u200d"  # without a width of their own, but emoji and Persian names need them


def one_line(text: str) -> str:
    """Return text on one line, composed, without the characters that steer a terminal or turn its direction."""
    line = " ".join(unicodedata.normalize("NFC", str(text)).splitlines()).replace("\t", " ")
    return "".join(c for c in line if c in JOINERS or unicodedata.category(c) not in ("Cc", "Cf"))


def columns(text: str) -> int:
    """Return how many columns a terminal gives to a line: two to a Chinese character, none to an accent."""
    silent = sum(c in JOINERS or unicodedata.category(c) in ("Mn", "Me") for c in text)
    return len(text) - silent + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


class Table(str):
    """Rows of cells, the header first, as columns of equal width; a notebook shows them as an HTML table."""

    rows: list[list[str]]
    notes: list[str]

    def __new__(cls, rows: Iterable[Sequence[object]] = (), notes: Iterable[str] = ()) -> Table:
        """Line the columns up, the notes below; cells that are not text are written as `str` writes them."""
        rows = [[one_line(cell) for cell in row] for row in rows]
        widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
        padded = [[cell + " " * (w - columns(cell)) for cell, w in zip(row, widths, strict=True)] for row in rows]
        lines = ["  ".join(row).rstrip() for row in padded]
        notes = list(notes)
        wrapped = (textwrap.fill(note, 120, subsequent_indent="  ", break_long_words=False) for note in notes)
        table = super().__new__(cls, "\n".join([*lines, *wrapped]))
        table.rows, table.notes = rows, notes
        return table

    def _repr_html_(self) -> str:
        """Return the same cells as an HTML table, a line for each row."""
        kinds = ["th", *["td"] * len(self.rows)]
        head, *body = (
            "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in row) + "</tr>"
            for kind, row in zip(kinds, self.rows, strict=False)
        )
        notes = [f"<p><small>{escape(note)}</small></p>" for note in self.notes]
        return "\n".join(["<table><thead>", head, "</thead><tbody>", *body, "</tbody></table>", *notes])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Write the text as it is where there is no HTML, not in quotes as other text."""
        printer.text(str(self))


def text_table(rows: Iterable[Sequence[object]], markdown: bool = False, notes: Iterable[str] = ()) -> str:
    """Return rows of cells, the header first, and notes below, as a `Table` or as Markdown. Notebook 05."""
    if not markdown:
        return Table(rows, notes)
    head, *body = ([one_line(cell).replace("|", r"\|") for cell in row] for row in rows)
    lines = "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])
    return "\n\n".join([lines, *notes])
