"""Lists of people and photos as text, however they were saved: any usual encoding, line end and separator, headings."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

from ..settings import CourseError

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
HEADINGS = 2  # lines ahead of the first row: a count, the columns' names, a spreadsheet's 'sep=;'
JOINERS = "\u200c\u200d"  # invisible, but they shape Persian and Indic letters
QUOTES = re.compile('["\u201c\u201d\u201e\u00ab\u00bb]')
SEPARATOR = r"\s*[,;\t]\s*"
# class id, name, number of photos, 1 if trained on, and perhaps the gender; a spreadsheet writes numbers as 1.0 too
META_ROW = re.compile(
    rf"\s*(n\d{{6}}){SEPARATOR}(.*?){SEPARATOR}\d+(?:\.0+)?{SEPARATOR}([01])(?:\.0+)?(?:\s*[,;\t]\s*[a-zA-Z]?\s*)*"
)


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a text file in UTF-8, UTF-16, UTF-32 or, failing these, Windows-1252; raises CourseError."""
    try:
        data = Path(path).read_bytes()
        text = data.decode(_encoding(data))
    except OSError as error:
        raise CourseError(
            f"The list '{path}' cannot be read ({error.strerror}); check the path and its rights."
        ) from error
    except UnicodeDecodeError as error:
        raise CourseError(f"The list '{path}' cannot be read ({error}); save it again as UTF-8 text.") from error
    if "\0" in text:
        raise CourseError(f"The list '{path}' cannot be read: it is no text; save it again as UTF-8 text.")
    return re.split(r"\r\n|\r|\n", text)


def _encoding(data: bytes) -> str:
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return encoding
    sample = data[:4096]
    if sample[1::2].count(0) > len(sample) / 5:  # Latin letters in UTF-16 have an empty byte each
        return "utf-16-le"
    if sample[::2].count(0) > len(sample) / 5:
        return "utf-16-be"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def without_quotes(text: str) -> str:
    """Return a cell of a table without quotes, blanks and empty cells behind it."""
    return QUOTES.sub("", text).strip().strip(",;\t").strip()


def clear_name(text: str) -> str:
    """Return a name without what nobody sees: one Unicode form, single blanks, no zero-width marks."""
    printable = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    composed = unicodedata.normalize("NFC", printable)
    seen = "".join(c for c in composed if c in JOINERS or c.isspace() or unicodedata.category(c) not in ("Cf", "Cc"))
    return unicodedata.normalize("NFC", " ".join(seen.split()).strip(JOINERS + " ")) or ascii(printable)[1:-1]


def name_key(text: str) -> str:
    """Return what two names that look the same have in common."""
    return clear_name(text).translate(dict.fromkeys(map(ord, JOINERS)))


def read_pairs(path: Path, what: str, layout: str) -> dict[str, str]:
    """Read a list with a photo and a number per line, perhaps under headings; raises CourseError for the first bad
    line."""
    pairs: dict[str, str] = {}
    headings = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = re.split(r"[\s,;]+", QUOTES.sub(" ", line).strip(" \t,;"))
        value = re.fullmatch(r"(\d+)(?:\.0+)?", fields[-1])
        if len(fields) == 2 and value and pairs.setdefault(fields[0], value[1]) == value[1]:
            continue
        if fields == [""]:
            continue
        told = f"Line {number} of '{path}' ('{line[:60]}')"
        if not pairs and len(headings) < HEADINGS and not re.search(r"\.(jpg|jpeg|png)\b", line, re.IGNORECASE):
            headings.append(f"{told} is not {what}")
            continue
        why = "contradicts an earlier line" if len(fields) == 2 and fields[0] in pairs else f"is not {what}"
        raise CourseError(f"{told} {why}; expected {layout}.")
    if not pairs:
        raise CourseError(
            f"{headings[0]}; expected {layout}." if headings else f"'{path}' is empty; expected {layout}."
        )
    return pairs


def meta_row(line: str) -> tuple[str, str, str] | None:
    """Return class id, name and flag of a line of VGGFace2's identity_meta.csv, also after a spreadsheet saved it."""
    match = META_ROW.fullmatch(QUOTES.sub("", line))
    if match is None:
        return None
    class_id, name, flag = match.groups()
    return class_id, clear_name(re.sub(r"\s*[;\t]\s*", ",", name)), flag


def read_meta(path: Path, layout: str) -> list[tuple[str, str, str]]:
    """Read identity_meta.csv as (class id, name, flag) per row; raises CourseError with the first malformed line."""
    rows, headings = [], 0
    for number, line in enumerate(read_lines(path), start=1):
        row = meta_row(line)
        if row:
            rows.append(row)
        elif without_quotes(line):
            headings += 1
            if rows or headings > HEADINGS or re.match(r"n\d", without_quotes(line)):
                raise CourseError(f"Line {number} of '{path}' ('{line[:60]}') is malformed; expected {layout}.")
    if not rows:
        raise CourseError(f"'{path}' lists nobody; expected {layout}.")
    return rows
