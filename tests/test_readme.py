"""Every link, badge and command of the README leads somewhere."""

from __future__ import annotations

import importlib
import re

import pytest

from utils.settings import REPO_ROOT

README = REPO_ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
BADGE = r"https://colab\.research\.google\.com/github/([^/]+/[^/]+)/blob/([^/]+)/([^)\s\"]+)"
MODULES = sorted(set(re.findall(r"python3? -m (utils[\w.]*)", TEXT)))


def links() -> list[str]:
    """The link targets of the README, without those to the web and within the page."""
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", TEXT) + re.findall(r"(?:src|href)=\"([^\"]+)\"", TEXT)
    return [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


def commands() -> str:
    """What stands in code blocks and code spans, continued lines joined."""
    return "\n".join(re.findall(r"```.*?```|`[^`]+`", TEXT, re.DOTALL)).replace("\\\n", " ")


def test_there_is_a_readme():
    assert README.exists(), "README.md is missing"


def test_relative_links_exist():
    assert [target for target in links() if not (REPO_ROOT / target).exists()] == []


def test_colab_badges_point_at_notebooks():
    badges = re.findall(BADGE, TEXT)
    assert [path for _, _, path in badges if not (REPO_ROOT / path).exists()] == []
    assert len({(repository, branch) for repository, branch, _ in badges}) <= 1, "badges disagree about the repository"


def test_the_table_lists_the_notebooks_on_disk():
    on_disk = {f"notebooks/{path.name}" for path in (REPO_ROOT / "notebooks").glob("*.ipynb")}
    assert {target for target in links() if target.endswith(".ipynb")} == on_disk
    assert {path for _, _, path in re.findall(BADGE, TEXT)} == on_disk


def test_make_targets_exist():
    makefile = (REPO_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    named = set(re.findall(r"(?:^|[`\s;&])make ([a-z]+)", commands(), re.MULTILINE))
    assert named <= targets
    assert not TEXT or {"run", "test"} <= named


@pytest.mark.parametrize("module", MODULES)
def test_modules_run_and_know_the_flags_named(module: str, capsys):
    with pytest.raises(SystemExit) as done:
        importlib.import_module(module).main(["--help"])
    printed = capsys.readouterr().out
    assert not done.value.code
    for command in re.findall(rf"-m {re.escape(module)}( [^\n`]*)", commands()):
        unknown = [flag for flag in re.findall(r"\s(--[a-z-]+)", command) if flag not in printed]
        assert not unknown, f"python -m {module} knows no {unknown}"


def test_the_picture_is_the_cover_of_notebook_00():
    from utils.course import NOTEBOOK_DIR, README_PICTURE, read
    from utils.site import picture_of

    assert README_PICTURE.relative_to(REPO_ROOT).as_posix() in links()
    assert README_PICTURE.read_bytes() == picture_of(read(next(NOTEBOOK_DIR.glob("00_*.ipynb"))))


def test_the_results_table_is_what_its_command_writes(capsys, monkeypatch):
    monkeypatch.chdir(REPO_ROOT)

    block = r"<!-- results: python -m (utils\.\w+) (.*?) -->\n(.*?)<!-- /results -->"
    blocks = re.findall(block, TEXT, re.DOTALL)
    assert len(blocks) == 7
    for module, command, written in blocks:
        assert importlib.import_module(module).main(command.split()) == 0
        assert written.strip() == capsys.readouterr().out.strip() and "| --- |" in written
