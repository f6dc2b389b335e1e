"""The house keeps its plan: wings know only those above them, no room is too long, and commands are thin doors."""

from __future__ import annotations

import ast
import graphlib

import pytest

from utils.settings import REPO_ROOT

HOUSE = REPO_ROOT / "utils"
ORDER = "settings tables faces models retrieval unlearning audit experiments lessons publishing".split()
ROOMS = {".".join(path.relative_to(REPO_ROOT).with_suffix("").parts): path for path in sorted(HOUSE.rglob("*.py"))}
DOORS = {name for name, path in ROOMS.items() if path.parent == HOUSE and path.stem not in ("__init__", *ORDER)}


def known_to(room: str) -> set[str]:
    """The rooms whose names another room imports."""
    found = set()
    for node in ast.walk(ast.parse(ROOMS[room].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("utils")):
            above = room.split(".")[: -node.level] if node.level else []
            place = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{place}.{alias.name}"
                found.add(
                    next(name for name in (inner, f"{inner}.__init__", place, f"{place}.__init__") if name in ROOMS)
                )
    return found - {room}


KNOWN = {room: known_to(room) for room in ROOMS}


def wing_of(room: str) -> int:
    return ORDER.index(room.split(".")[1])


@pytest.mark.parametrize("room", sorted(ROOMS.keys() - DOORS - {"utils.__init__"}))
def test_a_room_knows_only_its_own_wing_and_those_above(room: str):
    assert [other for other in KNOWN[room] if wing_of(other) > wing_of(room)] == []


def test_no_rooms_know_each_other_in_a_circle():
    rooms = {room: {other for other in known if not other.endswith("__init__")} for room, known in KNOWN.items()}
    assert len(list(graphlib.TopologicalSorter(rooms).static_order())) >= len(rooms)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_room_is_too_long_to_read(room: str):
    lines = ROOMS[room].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= (10 if room in DOORS else 450)


def test_every_wing_is_packed():
    import tomllib

    packed = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(packed) == sorted(room.removesuffix(".__init__") for room in ROOMS if room.endswith("__init__"))
