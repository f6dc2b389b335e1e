"""The toy world, for tests that follow every method step by step."""

from __future__ import annotations

import pytest
from toy import Toy, make_toy_world

from utils.models import backbones


@pytest.fixture(scope="session")
def toy_world(tiny_faces):
    """The tiny people at 16 pixels, a toy network and a head that is unsure."""
    return make_toy_world(tiny_faces)


@pytest.fixture
def toys_only(monkeypatch):
    """Let every network that a method builds be a toy."""
    monkeypatch.setitem(backbones.KINDS, "mini", Toy)
