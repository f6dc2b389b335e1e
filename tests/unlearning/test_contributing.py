"""The guide keeps its word: its example registers, forgets, passes its own test and keeps the style."""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
import subprocess
import sys

import pytest

from utils.models.embedding import embed
from utils.settings import REPO_ROOT
from utils.unlearning.loop import unlearn
from utils.unlearning.registry import METHODS, make_config, profile_options

TEXT = (REPO_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
METHOD_CODE, TEST_CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
FILE, NAME = (
    re.search(r"`utils/unlearning/methods/(\w+)\.py`", TEXT)[1],
    re.search(r'@method\(\s*"(\w+)"', METHOD_CODE)[1],
)


@pytest.fixture
def example(tmp_path):
    """The guide's method, in the registry for one test, from a file that says it lies beside the others."""
    assert NAME not in METHODS, "the example is part of the course now: write about another one"
    path = tmp_path / f"{FILE}.py"
    path.write_text(METHOD_CODE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"utils.unlearning.methods.{FILE}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
        yield METHODS[NAME]
    finally:
        METHODS.pop(NAME, None)
        del sys.modules[spec.name]


def test_the_example_registers_as_the_guide_asks(example):
    defaults = make_config(NAME, {})
    assert example.title and example.source and "Introduced in notebook" in example.run.__doc__
    assert math.prod(map(len, example.grid.values())) == 8
    assert all(getattr(defaults, key) in values for key, values in example.grid.items())
    make_config(NAME, profile_options(NAME, "full"))


def test_the_example_changes_the_forget_points_and_nothing_it_was_given(example, tiny_recogniser, tiny_splits):
    model, head = tiny_recogniser.model, tiny_recogniser.head
    forget, kept = (tiny_splits.photos(pool, "train") for pool in ("forget", "retain_train"))
    before = embed(model, tiny_splits.faces, forget)
    outcome = unlearn(NAME, model, head, tiny_splits, device="cpu", progress=False, steps=3)
    moved = 1 - (before * embed(outcome.model, tiny_splits.faces, forget)).sum(dim=1)
    assert moved.mean() > 0.01
    assert embed(model, tiny_splits.faces, forget).equal(before)
    assert outcome.images_processed == len(kept) + 3 * (2 * 6 + outcome.config["retain_per_step"])


def test_the_examples_own_test_passes(example, tiny_recogniser, tiny_splits):
    fixtures = {"tiny_recogniser": tiny_recogniser, "tiny_splits": tiny_splits}
    namespace = {}
    exec(compile(TEST_CODE, "CONTRIBUTING.md", "exec"), namespace)
    tests = [function for name, function in namespace.items() if name.startswith("test_")]
    assert tests
    for function in tests:
        function(**{name: fixtures[name] for name in inspect.signature(function).parameters})


def test_the_example_is_gone_afterwards():
    assert NAME not in METHODS and f"utils.unlearning.methods.{FILE}" not in sys.modules


@pytest.mark.parametrize("command", [("check", "--select", "E,F,I,UP,B,W"), ("format", "--check")])
def test_the_examples_keep_the_style(command, tmp_path):
    folder = tmp_path / "utils"
    folder.mkdir()
    for name, code in (("method", METHOD_CODE), ("test", TEST_CODE)):
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    options = ["--no-cache", "--config", str(REPO_ROOT / "pyproject.toml"), str(folder)]
    done = subprocess.run([sys.executable, "-m", "ruff", *command, *options], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
