"""Tables as aligned text or Markdown."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

JOINERS = "\u200c\u200d"  # without a width of their own, but emoji and Persian names need them


def one_line(text: str) -> str:
    """Return text on one line, composed, without the characters that steer a terminal or turn its direction."""
    line = " ".join(unicodedata.normalize("NFC", str(text)).splitlines()).replace("\t", " ")
    return "".join(c for c in line if c in JOINERS or unicodedata.category(c) not in ("Cc", "Cf"))


def columns(text: str) -> int:
    """Return how many columns a terminal gives to a line: two to a Chinese character, none to an accent."""
    silent = sum(c in JOINERS or unicodedata.category(c) in ("Mn", "Me") for c in text)
    return len(text) - silent + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def text_table(rows: Sequence[Sequence[str]], markdown: bool = False) -> str:
    """Return rows of cells, the header first, as columns of equal width or as a Markdown table. Notebook 05."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    if markdown:
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    padded = [[cell + " " * (w - columns(cell)) for cell, w in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in padded)
