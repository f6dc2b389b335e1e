"""Who is meant: text is a name, '#7' or a whole number is a label, and nothing is guessed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.faces.identities import resolve_identities, resolve_identity
from utils.settings import CourseError

PEOPLE = SimpleNamespace(name="people", identities=("7", "Ada", "Bob", "Zoë, Jr"))


@pytest.mark.parametrize(
    ("asked", "label"),
    [("7", 0), ("#2", 2), (" #2 ", 2), (2, 2), (np.int64(1), 1), (torch.tensor(3), 3), ("Ada", 1), (" Ada ", 1)],
)
def test_a_person_is_found_by_name_or_label(asked, label):
    assert resolve_identity(PEOPLE, asked) == label


@pytest.mark.parametrize("nobody", [True, np.True_, 7.0, 1.5, None, b"Ada", float("nan"), [1]])
def test_what_is_no_name_and_no_whole_number_is_refused(nobody):
    with pytest.raises(CourseError, match="names nobody"):
        resolve_identity(PEOPLE, nobody)


@pytest.mark.parametrize(
    ("asked", "told"),
    [("2", "label 2 is '#2'"), ("Adda", "Nearest: Ada"), (4, "0 to 3"), (-1, "0 to 3"), ("#4", "0 to 3")],
)
def test_who_is_not_there_is_one_sentence(asked, told):
    with pytest.raises(CourseError, match=told):
        resolve_identity(PEOPLE, asked)


def test_a_name_that_is_also_another_persons_label_is_refused():
    doubtful = SimpleNamespace(name="people", identities=("Ada", "#0"))
    with pytest.raises(CourseError, match="'#0' is a person's name and the label of Ada"):
        resolve_identity(doubtful, "#0")


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        (None, []),
        ("Ada,Bob", [1, 2]),
        ("Zoë, Jr", [3]),
        (["Bob", "#1", 2], [2, 1]),
        ("Ada,,", [1]),
        (np.array([2, 0]), [2, 0]),
        (2, [2]),
        (np.int64(2), [2]),
    ],
)
def test_a_request_is_a_list_of_distinct_labels(asked, labels):
    assert resolve_identities(PEOPLE, asked) == labels


@pytest.mark.parametrize("empty", ["", ",", " , ", [], (), [""]])
def test_an_empty_request_is_refused(empty):
    with pytest.raises(CourseError, match="names nobody"):
        resolve_identities(PEOPLE, empty)
