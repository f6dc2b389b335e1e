"""Which person is meant: a name is text, a label is written '#7' or given as a whole number, and nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from ..settings import CourseError, plain, suggest
from .lists import name_key


class Named(Protocol):
    """Faces with names: what a request needs to know of a data set."""

    name: str
    identities: tuple[str, ...]


def resolve_identities(faces: Named, wanted: Sequence[str | int] | str | int | None) -> list[int]:
    """Turn a request into distinct labels in the order given: None asks for nobody by name, text is a name and nothing
    else ('Ada,Grace' two names), a label is written '#7' or given as a whole number; raises CourseError for an empty
    request, for what is neither, and with the nearest names for a person who is not there."""
    if wanted is None:
        return []
    if isinstance(wanted, str):
        known = {name_key(name) for name in faces.identities}
        wanted = [wanted] if name_key(wanted) in known else wanted.split(",")
    elif not isinstance(wanted, Iterable) or isinstance(wanted, bytes) or getattr(wanted, "ndim", 1) == 0:
        wanted = [wanted]
    items = [item for item in wanted if not (isinstance(item, str) and not item.strip())]
    if not items:
        raise CourseError("The request names nobody: name the people to forget, or leave it out to have them drawn.")
    return list(dict.fromkeys(resolve_identity(faces, item) for item in items))


def resolve_identity(faces: Named, item: str | int) -> int:
    """Return one person's label, from a name or a label; what reads as both, of two people, is refused, not guessed."""
    names = {name_key(name): k for k, name in enumerate(faces.identities)} if isinstance(item, str) else {}
    numbered = re.fullmatch(r"#(\d+)", item.strip()) if isinstance(item, str) else None
    label = int(numbered[1]) if numbered else None
    if isinstance(item, str) and name_key(item) in names:
        if label is not None and label < len(faces.identities) and label != names[name_key(item)]:
            raise CourseError(f"'{item}' is a person's name and the label of {faces.identities[label]}: rename one.")
        return names[name_key(item)]
    if isinstance(item, str) and label is None:
        number = item.strip()
        is_label = number.isdecimal() and int(number) < len(faces.identities)
        hint = f" The person with the label {number} is '#{number}'." if is_label else ""
        raise CourseError(f"No identity '{item}' in '{faces.name}'.{suggest(item, faces.identities)}{hint}")
    if label is None:
        item = plain(item)
        if isinstance(item, bool) or not isinstance(item, int):
            raise CourseError(f"{item!r} names nobody: give a name as text, or a label as a whole number.")
        label = item
    if not 0 <= label < len(faces.identities):
        raise CourseError(
            f"No identity number {label} in '{faces.name}'; the numbers run from 0 to {len(faces.identities) - 1}."
        )
    return label
