"""Tables: aligned text where they are printed, HTML where a notebook or a page shows them, Markdown in documents."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


class Table(str):
    """Rows of cells, the header first, as columns of equal width; a notebook shows them as an HTML table."""

    rows: list[list[str]]
    notes: list[str]

    def __new__(cls, rows: Iterable[Sequence[object]] = (), notes: Iterable[str] = ()) -> Table:
        """Line the columns up, the notes below; cells that are not text are written as `str` writes them."""
        rows = [[str(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
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
    """Return rows of cells, the header first, and notes below, as a `Table` or as Markdown. Introduced in notebook 05."""
    if not markdown:
        return Table(rows, notes)
    head, *body = rows
    lines = "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])
    return "\n\n".join([lines, *notes])
