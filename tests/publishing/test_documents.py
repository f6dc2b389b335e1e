"""What documents, notebooks and messages quote exists: commands, flags, make targets, links, anchors, files, tests."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import pkgutil
import re
from pathlib import Path

import pytest

from utils.experiments.plan import parse_options
from utils.publishing.course import find_notebooks, read
from utils.settings import REPO_ROOT
from utils.unlearning.registry import METHODS, make_config

MARKDOWN = [path for pattern in ("*.md", "docs/*.md", "data/*.md") for path in sorted(REPO_ROOT.glob(pattern))]
NOTEBOOKS = find_notebooks(REPO_ROOT / "notebooks" / "solutions")  # the exercise notebooks are derived from these
CODE = [REPO_ROOT / "Makefile", *sorted((REPO_ROOT / "utils").rglob("*.py"))]
# what the guide's example and its commands make, and what a reader makes
MADE = {"utils/unlearning/methods/places.py", "tests/unlearning/test_methods_places.py"}


def text_of(path: Path) -> str:
    """A file as text, continued lines joined; a notebook as the sources of its cells."""
    if path.suffix == ".ipynb":
        return "\n\n".join(cell.source for cell in read(path).cells)
    return path.read_text(encoding="utf-8").replace("\\\n", " ")


def name_of(path: Path) -> str:
    return path.relative_to(REPO_ROOT).as_posix()


TEXTS = {path: text_of(path) for path in [*MARKDOWN, *NOTEBOOKS]}
QUOTED = re.compile(r"-m (utils(?:\.\w+)+)([^\n`'\"|;&#]*)")
COMMANDS: dict[str, set[str]] = {}
for file in [*TEXTS, *CODE]:
    for module, rest in QUOTED.findall(TEXTS.get(file) or text_of(file)):
        COMMANDS.setdefault(module, set()).update(re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest.split(" -->")[0]))


@functools.cache
def flags(module: str) -> frozenset[str]:
    """The flags that a module's own help names."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as done:
        found = importlib.import_module(module)
        (found if hasattr(found, "main") else importlib.import_module(f"{module}.__main__")).main(["--help"])
    assert not done.value.code
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", printed.getvalue()))


@pytest.mark.parametrize("module", sorted(COMMANDS))
def test_every_command_that_is_quoted_knows_its_flags(module: str):
    assert COMMANDS[module] - flags(module) == set()


def test_commands_were_found():
    assert len(COMMANDS) >= 10 and "--forget-ids" in COMMANDS["utils.benchmark"]


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_every_make_target_that_is_quoted_exists(path: Path):
    spans = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", TEXTS[path], re.DOTALL))
    targets = set(re.search(r"^\.PHONY: (.*)$", text_of(REPO_ROOT / "Makefile"), re.MULTILINE)[1].split())
    assert set(re.findall(r"(?:^|[`;&])\s*make ([a-z]+)", spans, re.MULTILINE)) - targets == set()
    for target, arguments in re.findall(r"make ([a-z]+)[^\n`]*ARGS=\"([^\"]*)\"", spans):
        module = "utils.workshop" if target == "workshop" else "utils.course"
        assert set(re.findall(r"--[a-z-]+", arguments)) - flags(module) == set()


def anchors(path: Path) -> set[str]:
    """The anchors of a page: its headings as GitHub names them, and those written by hand."""
    text = text_of(path)
    headings = re.findall(r"^#+ +(.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"id=\"([^\"]+)\"", text))


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_every_link_leads_somewhere(path: Path):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", TEXTS[path], flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for link in links:
        place, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:|//|attachment:", link):
            continue
        target = path.parent / place if place else path
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such place on the page"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_every_file_and_test_that_is_named_exists(path: Path):
    named = re.findall(r"`((?:utils|tests|notebooks|docs|data/figures|data/results|data/models)/[\w./]*)", TEXTS[path])
    assert [name for name in named if name not in MADE and not (REPO_ROOT / name).exists()] == []
    for file, test in re.findall(r"(tests/\w+\.py)::(\w+)", TEXTS[path]):
        assert f"def {test}(" in text_of(REPO_ROOT / file), f"{file}::{test}"
    for name in re.findall(r"`(utils(?:\.\w+)+)`", TEXTS[path]):
        assert pkgutil.resolve_name(name), name


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_every_method_and_setting_in_a_command_exists(path: Path):
    commands = "\n".join(rest for _, rest in QUOTED.findall(TEXTS[path]))
    methods = {name for found in re.findall(r"--methods ([\w,]+)", commands) for name in found.split(",")}
    assert methods - {*METHODS, "all", "random_places"} == set()  # the last is the guide's example
    for option in re.findall(r"--set ([\w.]+=\w+)", commands):
        for method, key, _ in parse_options(option):  # one for each method where all are meant
            assert method == "random_places" or hasattr(make_config(method, {}), key), f"{method}.{key}"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_nobody_is_sent_to_the_first_page_for_tables_that_moved(path: Path):
    assert not re.search(r"README(?:'s|\.md)?(?:'s)? tables?|tables? (?:of|in) the README|the README's", TEXTS[path])


@pytest.mark.parametrize(
    "path", [*MARKDOWN, *NOTEBOOKS, *CODE, *sorted((REPO_ROOT / "tests").glob("*.py"))], ids=name_of
)
def test_no_code_stands_for_a_paper(path: Path):
    """A reader has no list that says what (M 10) without the blank is."""
    assert re.findall(r"\([A-Z]\d{1,2}[a-z]?\)", TEXTS.get(path) or text_of(path)) == []
