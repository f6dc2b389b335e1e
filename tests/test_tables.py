"""Tables line up whatever is written in them."""

import pytest

from utils.tables import columns, text_table


@pytest.mark.parametrize(
    ("text", "wide"), [("Ada", 3), ("黄宏", 4), ("한", 2), ("e\u0301", 1), ("😀", 2), ("می\u200cخواهم", 7), ("", 0)]
)
def test_columns_by_hand(text, wide):
    assert columns(text) == wide


def test_columns_line_up_whatever_the_names():
    names = ("who", "黄宏", "Zoe\u0308", "😀", "two\nlines", "\u202eada\x1b[2J")
    lines = text_table([[name, "1"] for name in names]).splitlines()
    assert len(lines) == len(names) and {columns(line) for line in lines} == {12}
    assert lines[2] == "Zoë        1" and "\u202e" not in lines[5] and "\x1b" not in lines[5]


def test_a_markdown_cell_stays_one_cell():
    table = text_table([["who", "mAP"], ["a|b\nc", "1"]], markdown=True)
    assert table == "| who | mAP |\n| --- | --- |\n| a\\|b c | 1 |"
