"""The glossary has thirty terms, in order, and every term is linked from the notebook that uses it first."""

from __future__ import annotations

import re

from utils.publishing.course import find_notebooks, read
from utils.settings import REPO_ROOT

TEXT = (REPO_ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
TERMS = re.findall(r'^<a id="([\w-]+)"></a>\*\*(.+?)\.\*\* .+\.$', TEXT, re.MULTILINE)


def links() -> dict[str, str]:
    """The number of the notebook that links to each anchor, the last one winning."""
    found = {}
    for path in find_notebooks():
        prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        for anchor in re.findall(r"\]\(\.\./docs/glossary\.md#([\w-]+)\)", prose):
            assert anchor not in found, f"'{anchor}' is linked twice: link its first use only"
            found[anchor] = path.name[:2]
    return found


def test_thirty_terms_in_the_order_of_the_alphabet():
    names = [name for _, name in TERMS]
    assert len(TERMS) == 30 == TEXT.count("<a id=") and names == sorted(names, key=str.casefold)


def test_every_term_is_linked_once_and_every_link_arrives():
    assert set(links()) == {anchor for anchor, _ in TERMS}
