"""The README is one page; every link and command in it leads somewhere; what commands write is up to date."""

from __future__ import annotations

import importlib
import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from utils import overview, settings
from utils.course import find_notebooks, read, write_state
from utils.settings import REPO_ROOT, CourseError
from utils.unlearning import METHODS

README = REPO_ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
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


def test_the_readme_is_one_page():
    assert len(TEXT.split()) <= 1200
    assert sum(line.startswith("|") for line in TEXT.splitlines()) <= 20


def test_the_list_names_the_notebooks_on_disk():
    on_disk = {f"notebooks/{path.name}" for path in (REPO_ROOT / "notebooks").glob("*.ipynb")}
    assert {target for target in links() if target.endswith(".ipynb")} == on_disk
    assert sum(bool(re.match(r"- \d\d \[", line)) for line in TEXT.splitlines()) == len(on_disk) == 12


def test_make_targets_exist():
    makefile = (REPO_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    named = set(re.findall(r"(?:^|[`\s;&])make ([a-z]+)", commands(), re.MULTILINE))
    assert named <= targets
    assert {"run", "test", "lab"} <= named


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


@pytest.mark.parametrize("path", overview.pages(), ids=lambda path: path.name)
def test_what_commands_write_is_up_to_date(path):
    assert overview.refreshed(path.read_text(encoding="utf-8")) == path.read_text(encoding="utf-8")


def test_every_results_file_has_its_table():
    text = (REPO_ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert len(overview.BLOCK.findall(text)) == 7 == text.count("| --- |\n") == text.count("<!-- /results -->")
    assert [kind for _, _, kind, _, _ in overview.BLOCK.findall(TEXT)] == ["--links", "--contents", "--summary"]


def test_a_block_is_written_anew_and_the_rest_is_left():
    text = "before\n<!-- results: python -m utils.overview --budgets -->\nold\n<!-- /results -->\nafter | table\n"
    new = overview.refreshed(text)
    assert "old" not in new and new.startswith("before\n") and new.endswith("<!-- /results -->\nafter | table\n")
    assert overview.refreshed(new) == new


def test_a_command_that_fails_is_one_sentence():
    with pytest.raises(CourseError, match="utils.verdicts --out nowhere.json failed"):
        overview.output_of("utils.verdicts", "--out nowhere.json")


def test_the_picture_shows_the_points_of_the_results():
    assert overview.points_drawn() == overview.front_points()
    assert overview.FRONT_PICTURE.stat().st_size < 200_000
    assert overview.FRONT_PICTURE.relative_to(REPO_ROOT).as_posix() in links()


def test_the_front_is_what_no_other_beats():
    points = {"original": (99, 99), "a": (80, 5), "b": (85, 5), "c": (84, 9), "d": (90, 50), "retrain": (95, 1)}
    assert overview.front_of(points) == ["b", "d"]


def test_names_in_the_figure_stay_apart_and_inside():
    heights = [50.0, 50.0, 51.0, 100.0, 100.0, 0.0]
    placed = overview.spread(heights, 3, -1, 101)
    assert all(b - a >= 3 - 1e-9 for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False))
    assert min(placed) >= -1 and max(placed) <= 101 and placed[0] == 50 and placed[5] == 0


def test_queries_are_counted_in_the_faces_of_the_results():
    runs = overview.runs_by_method()["original"]
    assert overview.forget_queries(runs) == [50] * len(runs)  # five held-out photos of each of ten people
    with pytest.raises(CourseError, match="not those of the results"):
        overview.forget_queries([runs[0] | {"forget_ids": ["somebody"]}])


def test_every_method_has_its_budget_in_the_guide():
    assert "Gather and scatter (22,096)" in overview.budgets()
    text = overview.budgets()
    assert all(METHODS[name].title in text for name in overview.runs_by_method() if name != "original")


def test_reading_minutes_by_hand():
    cells = [new_markdown_cell("word " * 300 + "[two words](a/long/address.md)"), new_code_cell("a = 1\n\nb = 2")]
    setup = new_code_cell("x\n" * 50, metadata={"tags": ["setup"]})
    assert overview.reading_minutes(new_notebook(cells=[*cells, setup])) == pytest.approx(302 / 200 + 2 * 5 / 60)


def test_running_minutes_come_from_a_whole_default_run(tmp_path):
    names = [path.stem for path in find_notebooks()]
    state = {name: {"seconds": 90.0 + i, "parameters": {}} for i, name in enumerate(names)}
    write_state(tmp_path, state)
    stored = tmp_path / "minutes.json"
    assert overview.measure(tmp_path, stored) == overview.running_seconds(stored)
    assert overview.running_seconds(stored)[names[2]] == 92.0
    state[names[3]]["parameters"] = {"profile": "full"}
    write_state(tmp_path, state)
    with pytest.raises(CourseError, match=names[3]):
        overview.measure(tmp_path, stored)
    stored.write_text("[]", encoding="utf-8")
    with pytest.raises(CourseError, match="not a record of minutes"):
        overview.running_seconds(stored)
    assert overview.running_seconds(tmp_path / "none.json") == {}


def test_minutes_not_measured_are_called_so():
    notebook = new_notebook(cells=[new_markdown_cell("word " * 400)])
    assert overview.minutes_text(notebook, None) == "reading 2, running not measured here"
    assert overview.minutes_text(notebook, 130.0) == "reading 2, running 2"


def test_the_address_stands_in_one_place(monkeypatch):
    texts = {path: overview.BLOCK.sub("", path.read_text(encoding="utf-8")) for path in overview.pages()}
    texts |= {path: path.read_text(encoding="utf-8") for path in (REPO_ROOT / "utils").rglob("*.py")}
    assert [path.name for path, text in texts.items() if settings.REPOSITORY in text] == ["settings.py"]
    assert texts[REPO_ROOT / "utils" / "settings.py"].count(settings.REPOSITORY) == 1
    assert ("not published yet" in TEXT) == (not settings.PUBLISHED)
    monkeypatch.setattr(settings, "REPOSITORY", "somebody/elsewhere")
    monkeypatch.setattr(settings, "PUBLISHED", True)
    assert "github/somebody/elsewhere/blob" in overview.links() and "not published" not in overview.links()


def test_the_notebooks_name_the_same_address():
    pattern = r"github(?:\.com)?/([\w-]+/[\w-]+)(?=/blob/main/notebooks|[\\\s\"]|$)"
    for path in [*find_notebooks(), *find_notebooks(REPO_ROOT / "notebooks" / "solutions")]:
        named = re.findall(pattern, "\n".join(cell.source for cell in read(path).cells if cell.source), re.MULTILINE)
        assert set(named) == {settings.REPOSITORY}, path.name
