"""Tables: aligned text where they are printed, HTML where a notebook or a page shows them, Markdown in documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


class Table(str):
    """Rows of cells, the header first, as columns of equal width; a notebook shows them as an HTML table."""

    rows: list[list[str]]

    def __new__(cls, rows: Iterable[Sequence[object]] = ()) -> Table:
        """Line the columns up; cells that are not text are written as `str` writes them."""
        rows = [[str(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
        table = super().__new__(cls, "\n".join(lines))
        table.rows = rows
        return table

    def _repr_html_(self) -> str:
        """Return the same cells as an HTML table, a line for each row."""
        kinds = ["th", *["td"] * len(self.rows)]
        head, *body = (
            "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in row) + "</tr>"
            for kind, row in zip(kinds, self.rows, strict=False)
        )
        return "\n".join(["<table><thead>", head, "</thead><tbody>", *body, "</tbody></table>"])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Write the text as it is where there is no HTML, not in quotes as other text."""
        printer.text(str(self))


def text_table(rows: Iterable[Sequence[object]], markdown: bool = False) -> str:
    """Return rows of cells, the header first, as a `Table` or as Markdown text. Introduced in notebook 05."""
    if not markdown:
        return Table(rows)
    head, *body = rows
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])
