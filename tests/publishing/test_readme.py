"""The README is one page, and what commands write into documents and notebooks is up to date."""

from __future__ import annotations

import json
import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from utils import settings
from utils.experiments.results import full_config
from utils.experiments.worlds import runs_by_method
from utils.publishing import overview, site
from utils.publishing.course import NOTEBOOK_DIR, find_notebooks, read, write_state
from utils.settings import REPO_ROOT, CourseError
from utils.unlearning.registry import METHODS

README = REPO_ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""


def links() -> list[str]:
    """The link targets of the README, without those to the web and within the page."""
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", TEXT) + re.findall(r"(?:src|href)=\"([^\"]+)\"", TEXT)
    return [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


def test_there_is_a_readme():
    assert README.exists(), "README.md is missing"


def test_the_readme_is_one_page():
    assert len(TEXT.split()) <= 1200
    assert sum(line.startswith("|") for line in TEXT.splitlines()) <= 20


def test_the_list_names_the_notebooks_on_disk():
    on_disk = {f"notebooks/{path.name}" for path in (REPO_ROOT / "notebooks").glob("*.ipynb")}
    assert {target for target in links() if target.endswith(".ipynb")} == on_disk
    assert sum(bool(re.match(r"- \d\d \[", line)) for line in TEXT.splitlines()) == len(on_disk) == 13


def test_three_commands_are_enough_to_begin():
    assert {"run", "test", "lab"} <= set(re.findall(r"^make ([a-z]+)", TEXT, re.MULTILINE))


def test_the_picture_is_the_cover_of_notebook_00():
    from utils.publishing.course import README_PICTURE
    from utils.publishing.site import picture_of

    assert README_PICTURE.relative_to(REPO_ROOT).as_posix() in links()
    assert README_PICTURE.read_bytes() == picture_of(read(next(NOTEBOOK_DIR.glob("00_*.ipynb"))))


@pytest.mark.parametrize("path", overview.pages(), ids=lambda path: path.name)
def test_what_commands_write_is_up_to_date(path):
    assert overview.refreshed(path.read_text(encoding="utf-8")) == path.read_text(encoding="utf-8")


def test_every_results_file_has_its_table():
    text = (REPO_ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert len(overview.BLOCK.findall(text)) == 21 == text.count("<!-- /results -->")
    assert text.count("| --- |\n") == 22  # an audit has two
    assert [kind for _, _, kind, _, _ in overview.BLOCK.findall(TEXT)] == ["--links", "--contents", "--summary"]


def test_a_block_is_written_anew_and_the_rest_is_left():
    text = "before\n<!-- results: python -m utils.overview --budgets -->\nSTALE\n<!-- /results -->\nafter | table\n"
    new = overview.refreshed(text)
    assert "STALE" not in new and new.startswith("before\n") and new.endswith("<!-- /results -->\nafter | table\n")
    assert overview.refreshed(new) == new


def test_a_command_that_fails_is_one_sentence():
    with pytest.raises(CourseError, match="utils.experiments.audit_summary --out nowhere.json failed"):
        overview.output_of("utils.experiments.audit_summary", "--out nowhere.json")


def test_the_picture_shows_the_points_of_the_results():
    assert overview.points_drawn() == overview.front_points()
    assert overview.FRONT_PICTURE.stat().st_size < 200_000
    assert overview.FRONT_PICTURE.relative_to(REPO_ROOT).as_posix() in links()


def test_queries_are_those_of_the_results():
    runs = runs_by_method()["original"]
    assert overview.forget_queries(runs) == [50] * len(runs)  # five held-out photos of each of ten people


def test_compactness_is_of_all_pairs_and_of_the_nearest_beside_it():
    runs = runs_by_method()["dispersion_blends"]
    cells = next(line for line in overview.compact().splitlines() if "beside blends" in line).split(" | ")[:7]
    means = [sum(run[pool][score] for run in runs) / len(runs) for pool in ("forget", "retain", "unseen")
             for score in ("mean_cosine", "nearest_cosine")]  # fmt: skip
    assert [float(cell.strip(" |")) for cell in cells[1:]] == [round(mean, 2) for mean in means]
    assert means[0] < means[1] < means[3], "a mean hides who is near"


def test_two_networks_and_the_spread_over_both(tmp_path):
    def stored(name, shares):
        scores = [{pool: {"r1": x, "map": x} for pool in ("forget", "retain", "unseen")} for x in shares]
        runs = [{"dataset": "synthetic", "method": "esc", "seed": i, "n_forget": 10} | x for i, x in enumerate(scores)]
        (tmp_path / name).write_text(json.dumps({"schema": 2, "runs": runs}))
        return tmp_path / name

    table = overview.networks(stored("one.json", [0.1, 0.2]), stored("other.json", [0.4, 0.5]))
    head, _, esc = (line.strip("| ").split(" | ") for line in table.splitlines())
    assert esc[:1] + esc[2:] == ["wrapper", *["15.0 ± 5.0", "45.0 ± 5.0", "30.0 ± 20.0"] * 3]
    assert [head[k] for k in (2, 4, 10)] == ["forget R@1 ↓, first", "forget R@1 ↓, both", "unseen mAP ↑, both"]


def test_what_diverged_is_marked_in_every_table_and_in_no_figure(tmp_path):
    """One method lost a seed, one all of them: the first is a mean with a mark, the second a row of dashes."""

    def rows(name, x, lost):
        known = {"r1": x, "map": x, "mean_cosine": x, "nearest_cosine": x}
        scores = {pool: known for pool in ("forget", "retain", "unseen")}
        kept = [
            scores | {"images_processed": 100, "n_queries": {"forget": 5}},
            {"error": "The run diverged at step 3."},
        ]
        head = {"dataset": "synthetic", "method": name, "n_forget": 10}
        return [head | {"seed": seed} | kept[seed in lost] for seed in range(2)]

    told = rows("original", 0.9, []) + rows("retrain", 0.8, []) + rows("random_labels", 0.4, [])
    told += rows("dispersion_uniform_alone", 0.7, []) + rows("dispersion_hard_alone", 0.1, [0, 1])
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"schema": 2, "runs": told + rows("dispersion_blends", 0.3, [1])}))
    tables = overview.summary(path, path), overview.networks(path, path), overview.compact(path), overview.budgets(path)
    for table in tables:
        line = next(line for line in table.splitlines() if "beside blends" in line and "diverged" in line)
        assert "diverged: seed 1" in line
    alone = [
        line for table in tables[1:] for line in table.splitlines() if METHODS["dispersion_hard_alone"].title in line
    ]
    assert len(alone) == 3 and all("diverged" in line for line in alone)
    assert "the paper's own setting: " + METHODS["dispersion_uniform_alone"].title in tables[0]
    assert not {"dispersion_blends", "dispersion_hard_alone"} & overview.front_points(path).keys()


def test_what_was_wanted_stands_beside_what_is_reached(monkeypatch):
    """Every number from its own file, what is missed marked, on the right side of each limit."""

    def run(forget, others, **more):
        scores = {"forget": forget, "retain": others, "unseen": others}
        return {pool: {"r1": x, "map": x} for pool, x in scores.items()} | {"method": overview.RECOMMENDED} | more

    drawn = {
        "original": [run(0.97, 0.88)] * 2,
        "retrain": [run(0.9, 0.9, images_processed=1000)],
        overview.RECOMMENDED: [run(0.04, 0.99, images_processed=240), run(0.04, 0.97, images_processed=280)],
    }
    real = {
        "original": [run(0.9, 0.9, seed=0), run(0.9, 0.9, seed=1), run(0.9, 0.9, seed=2)],
        overview.RECOMMENDED: [
            run(0.1, 0.85, seed=0),
            {"method": overview.RECOMMENDED, "seed": 1, "error": "diverged at step 3"},
            run(0.2, 0.91, seed=2),
        ],
    }
    sizes = [
        run(0.3, 0.8, n_forget=40),
        run(0.0, 0.1, n_forget=1),
        run(0.99, 0.5, n_forget=40) | {"method": "original"},
    ]
    usual = full_config(overview.RECOMMENDED)
    other = [run(x, 0.6, train={"epochs": epochs}) | usual for x, epochs in ((0.1, 8), (0.9, 1))]
    other += [run(0.8, 0.2, train={"epochs": 8}) | {"config": usual["config"] | {"steps": 20}}]
    other += [run(0.5, 0.6, train={"epochs": 8}) | {"method": "original", "config": {}}]
    stored = {"synthetic_sizes": sizes, "synthetic_facenet": other}
    later = [{"groups": [0.9], "unseen": 0.9}, {"groups": [0.03, 0.5], "unseen": 0.7}]
    town = {"original": [run(0.8, 0.9, seed=k) for k in (0, 1)], overview.RECOMMENDED: [run(0.2, 0.8, seed=1)]}
    files = {overview.RESULTS: drawn, overview.REAL: real, overview.STORED / "synthetic_other_town.json": town}
    monkeypatch.setattr(overview, "runs_by_method", files.get)
    monkeypatch.setattr(overview, "read_results", lambda path: {"runs": stored[path.stem]})
    monkeypatch.setattr(overview, "read_sequence", lambda: [{"method": overview.RECOMMENDED, "after": later}])
    audited = [run(0, 0, audit=x) | {"method": name} for name, x in ((overview.RECOMMENDED, 0.2), ("esc", 1))]
    audited += [run(0, 0, audit=0.3) | {"method": "retrain"}]
    monkeypatch.setattr(overview, "read_audits", lambda: audited)
    monkeypatch.setattr(overview, "verdict", lambda audit: {"weights": audit, "raw": {"weights": 2 * audit}})
    lines = [line.strip("|").split("|") for line in overview.aims().splitlines()[2:]]
    reached, before = ([line[place].strip() for line in lines] for place in (4, 3))
    assert before[:8] == ["97.0 ± 0.0", "97.0 ± 0.0", "88.0 ± 0.0", "88.0 ± 0.0", "", "", "", "99.0"]
    assert before[8:] == ["50.0", "90.0", "90.0", "90.0 ± 0.0", "90.0 ± 0.0", *[""] * 5]
    assert reached[:7] == ["4.0 ± 0.0", "4.0 ± 0.0", "98.0 ± 1.0", "98.0 ± 1.0", "26.0 ± 2.0", "20.0", "40.0"]
    assert reached[7:11] == ["30.0", "80.0", "3.0", "70.0"] and lines[6][2].strip() == "≤ 60.0"
    assert reached[11:] == ["15.0 ± 5.0", "15.0 ± 5.0", "2.0 ± 3.0", "20.0", "0.0", "25.0", "10.0"]
    said = [line[-1].strip() for line in lines]
    assert [place for place, word in enumerate(said) if word == "missed"] == [1, 2, 4, 5, 7, 10, 16, 17]
    assert said[11:14] == ["diverged: seed 1", "missed, diverged: seed 1", "diverged: seed 1"]


def test_every_method_has_its_budget_in_the_guide():
    assert "Gather and scatter (22,096)" in overview.budgets()
    text = overview.budgets()
    assert all(METHODS[name].title in text for name in runs_by_method() if name != "original")
    (claimed,) = re.findall(r"Keep to ([\d,]+) images", (REPO_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert f"to {claimed} |" in text, "the guide's number is where a row of the table ends"


def test_reading_minutes_by_hand():
    claim = "\n\nMinutes: reading 99, running 7 · easy"  # the claim itself is not read, what follows is
    cells = [
        new_markdown_cell("word " * 300 + "[two words](a/long/address.md)" + claim),
        new_code_cell("a = 1\n\nb = 2"),
    ]
    setup = new_code_cell("x\n" * 50, metadata={"tags": ["setup"]})
    assert site.reading_minutes(new_notebook(cells=[*cells, setup])) == pytest.approx(304 / 200 + 2 * 5 / 60)


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
    assert site.minutes_text(notebook, None) == "reading 2, running not measured here"
    assert site.minutes_text(notebook, 130.0) == "reading 2, running 2"


ALL = [*find_notebooks(), *find_notebooks(NOTEBOOK_DIR / "solutions")]


def words_of(path) -> str:
    """The Markdown of a document without what commands write, or of a notebook without its line of minutes."""
    if path.suffix == ".md":
        return overview.BLOCK.sub("", path.read_text(encoding="utf-8"))
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    return site.MINUTES.sub("", "\n".join(cells))


@pytest.mark.parametrize("path", [*overview.pages(), *ALL], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_notebooks_minutes_are_told_by_the_command_alone(path):
    claims = [line for line in words_of(path).splitlines() if re.search(r"\d+[ -]?min(ute)?s?\b", line)]
    assert [line for line in claims if not re.search("agenda|slot|mistake", line)] == []


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_notebooks_hold_todays_address_and_minutes(path):
    notebook, place = read(path), path.relative_to(REPO_ROOT).as_posix()
    assert overview.stamped(notebook, place) == notebook, "run python -m utils.overview --write"
    assert f"Minutes: {overview.minutes()[NOTEBOOK_DIR / path.name]} · " in notebook.cells[0].source


def test_every_list_of_minutes_says_the_same(tmp_path):
    from utils.publishing.course import make_site

    said = list(overview.minutes().values())
    assert len(said) == 13 and all(re.fullmatch(r"reading \d+, running \d+", text) for text in said)
    assert re.findall(r"\*\((.*)\)\*", overview.contents()) == said
    assert re.findall(r"\| (reading.*) \|", overview.timetable()) == said
    make_site(build=tmp_path)
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<td[^>]*>(reading [^<]*)</td>", index) == said


def test_a_slot_of_the_agendas_is_long_enough_for_a_whole_notebook():
    text = (REPO_ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    slots = re.findall(r"^\| (\d+) \| \[[^]]*\]\(../notebooks/([\w.]+)\) \|", text, re.MULTILINE)
    assert len(slots) >= 2  # those with sections named take a part only
    for slot, name in slots:
        needed = sum(map(int, re.findall(r"\d+", overview.minutes()[NOTEBOOK_DIR / name])))
        assert int(slot) >= needed, name


def test_the_address_stands_in_one_place(monkeypatch):
    """Everywhere else a command writes it, so another address leaves no trace of the old one."""
    old = settings.REPOSITORY
    names = ("**/*.py", "*.md", "docs/*.md", "data/*.md", "*.toml", "*.cff", "*.yml", "Makefile", ".github/**/*.yml")
    files = {path for name in names for path in REPO_ROOT.glob(name) if ".venv" not in path.parts}
    texts = {path: overview.BLOCK.sub("", path.read_text(encoding="utf-8")) for path in files}
    assert [path.name for path, text in texts.items() if old in text] == ["settings.py"]
    assert texts[REPO_ROOT / "utils" / "settings.py"].count(old) == 1
    assert ("not published yet" in TEXT) == (not settings.PUBLISHED)
    monkeypatch.setattr(settings, "REPOSITORY", "somebody/elsewhere")
    monkeypatch.setattr(settings, "PUBLISHED", True)
    assert "github/somebody/elsewhere/blob" in overview.links() and "not published" not in overview.links()
    for path in ALL:
        place = path.relative_to(REPO_ROOT).as_posix()
        moved = "\n".join(cell.source for cell in overview.stamped(read(path), place).cells)
        assert old not in moved and moved.count("somebody/elsewhere") == 2, path.name
        assert f"github/somebody/elsewhere/blob/main/{place})" in moved
        assert "https://github.com/somebody/elsewhere course\n" in moved  # where the cell looks for it afterwards


def test_a_notebook_without_a_place_for_the_minutes_is_one_sentence():
    notebook = read(ALL[0])
    notebook.cells[0].source = notebook.cells[0].source.replace("Minutes: ", "About ")
    with pytest.raises(CourseError, match=r"^00_start_here.ipynb has 0 lines like 'Minutes: .*' in cell 00-01"):
        overview.stamped(notebook, "notebooks/00_start_here.ipynb")
