"""The runner and the site, on small notebooks made here."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from utils.publishing import course
from utils.settings import REPO_ROOT, CourseError
from utils.tables import Table

site = pytest.importorskip("utils.publishing.site", reason="latex2mathml is installed by make")

PARAMETERS = 'profile: str = "quick"  # quick or full\nseed: int = 0  # random seed\nrate: float = 0.5\nnames = ["a"]'
OPENING = """# 00 · A *small* lesson

[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/x)

This comes first. How is $x_i$ found in a `gallery`? Then more.

$$\\frac{1}{n}\\sum_i z_i$$

See [the next](01_b.ipynb#here) and [the module](../utils/course.py)."""
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def write(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook: an opening, the parameters cell, and the code cells given."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.cells = [nbformat.v4.new_markdown_cell(OPENING), tagged, *map(nbformat.v4.new_code_cell, cells)]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / name)
    return folder / name


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for cell in cells for o in cell.get("outputs", []))


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "notebooks", tmp_path / "build"


# ---- choosing ------------------------------------------------------------------------------------------------------


def test_notebooks_come_in_order_and_by_number(places):
    folder, _ = places
    for name in ("02_c.ipynb", "00_a.ipynb", "scratch.ipynb"):
        write(folder, name)
    assert [path.name for path in course.find_notebooks(folder)] == ["00_a.ipynb", "02_c.ipynb"]
    assert [path.name for path in course.find_notebooks(folder, "02")] == ["02_c.ipynb"]
    with pytest.raises(CourseError, match="no notebook '07'.*00, 02"):
        course.find_notebooks(folder, "02,07")
    with pytest.raises(CourseError, match="No notebooks named like"):
        course.find_notebooks(folder / "nowhere")


def test_parameters_go_where_they_are_declared(places):
    first = write(places[0], "00_a.ipynb")
    second = write(places[0], "01_b.ipynb", parameters="seed: int = 0\nn_forget: int = 10")
    chosen = course.choose_parameters([first, second], "full", [("seed", "3"), ("n_forget", "10")])
    assert chosen == {first: {"profile": "full", "seed": 3}, second: {"seed": 3}}  # a default is not repeated
    with pytest.raises(CourseError, match="parameter 'sed'. Nearest: seed. Known: n_forget, names, profile"):
        course.choose_parameters([first, second], "quick", [("sed", "3")])


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("seed", "7", 7), ("rate", "2", 2.0), ("profile", "3", "3"), ("names", "['x', 'y']", ["x", "y"])],
)
def test_parameters_are_read_as_their_declared_type(places, name, text, value):
    declared = course.parameters_of(write(places[0], "00_a.ipynb"))
    result = course.parameter_value(name, text, declared[name])
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(("name", "text"), [("seed", "x"), ("seed", "1.5"), ("rate", "fast"), ("names", "3")])
def test_parameters_of_the_wrong_type_are_refused(places, name, text):
    declared = course.parameters_of(write(places[0], "00_a.ipynb"))
    with pytest.raises(CourseError, match=f"Parameter '{name}' wants .*not '{text}'"):
        course.parameter_value(name, text, declared[name])


# ---- running -------------------------------------------------------------------------------------------------------


def test_a_run_is_resumed_and_repeated_only_when_an_input_changes(places, capsys):
    folder, build = places
    write(folder, "00_a.ipynb", "open('../count.txt', 'a').write('x')", "print('seed', seed)")
    write(folder, "01_b.ipynb", "from pathlib import Path\nPath('../build/results.txt').write_text('r')")

    def runs() -> int:
        return len((folder.parent / "count.txt").read_text(encoding="utf-8"))

    course.run_course(folder, build)
    course.run_course(folder, build)
    assert runs() == 1
    course.run_course(folder, build, only="00", parameters=[("seed", "5")])
    assert runs() == 2 and "seed 5" in printed(build / "notebooks/00_a.ipynb")
    entry = course.read_state(build)["01_b"]
    assert entry["made"] == ["results.txt"]
    task = course.Task(folder / "01_b.ipynb", {}, entry["key"])
    assert course.is_done(task, course.read_state(build), build)
    (build / "results.txt").unlink()
    assert not course.is_done(task, course.read_state(build), build)
    (build / "notebooks/state.json").write_text("{ half", encoding="utf-8")
    assert course.read_state(build) == {}


def test_the_hash_covers_source_parameters_and_code_but_not_outputs(places):
    path = write(places[0], "00_a.ipynb", "print(1)")
    key = course.input_hash(path, {}, "code")
    assert course.input_hash(path, {"seed": 1}, "code") != key != course.input_hash(path, {}, "other code")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    nbformat.write(notebook, path)
    assert course.input_hash(path, {}, "code") == key
    notebook.cells[-1].source = "print(2)"
    nbformat.write(notebook, path)
    assert course.input_hash(path, {}, "code") != key


def test_the_code_hash_covers_modules_and_models(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "data/models").mkdir(parents=True)
    (tmp_path / "utils/a.py").write_text("x = 1", encoding="utf-8")
    hashes = {course.code_hash(tmp_path)}
    (tmp_path / "data/models/manifest.json").write_text("{}", encoding="utf-8")
    hashes.add(course.code_hash(tmp_path))
    (tmp_path / "utils/a.py").write_text("x = 2", encoding="utf-8")
    hashes.add(course.code_hash(tmp_path))
    assert len(hashes) == 3


def test_a_broken_notebook_fails_the_course(places, capsys):
    folder, build = places
    write(folder, "00_a.ipynb", "x = 1", "1 / 0", "x = 2")
    arguments = ["--notebooks", str(folder), "--build", str(build)]
    assert course.main([*arguments, "-p", "seed", "1"]) == 1
    said = capsys.readouterr().err
    assert "00_a.ipynb failed in cell 4: ZeroDivisionError: division by zero." in said  # counted as in the source
    assert str(build / "notebooks/00_a.failed.ipynb") in said
    assert not (build / "notebooks/00_a.ipynb").exists() and course.read_state(build) == {}
    assert [path.name for path in (build / "notebooks").glob("*.ipynb")] == ["00_a.failed.ipynb"]
    write(folder, "00_a.ipynb", "x = 1")
    assert course.main(arguments) == 0
    assert [path.name for path in (build / "notebooks").glob("*.ipynb")] == ["00_a.ipynb"]
    assert (build / "site/index.html").exists()


def test_a_cell_that_never_ends_fails_the_course(places):
    write(places[0], "00_a.ipynb", "import time\ntime.sleep(60)")
    with pytest.raises(CourseError, match="00_a.ipynb failed in cell 3: the cell ran longer than its time limit"):
        course.run_course(*places, timeout=1)


WAIT_FOR_A = """import os, time
while '00_a' not in open('../build/notebooks/state.json').read():
    time.sleep(0.1)
"""


def test_several_notebooks_run_at_a_time_with_a_thread_each(places):
    folder, build = places
    begins = "import os, time\nopen('../{}', 'w').close()\n"
    waits = begins + "while not os.path.exists('../{}'):\n    time.sleep(0.1)"
    write(folder, "00_a.ipynb", waits.format("a", "b"), "print('threads', os.environ['OMP_NUM_THREADS'])")
    write(folder, "01_b.ipynb", waits.format("b", "a"))  # each ends only if the other has begun
    assert sorted(course.run_course(folder, build, jobs=2, timeout=60)) == ["00_a", "01_b"]
    assert "threads 1" in printed(build / "notebooks/00_a.ipynb")
    assert sorted(course.read_state(build)) == ["00_a", "01_b"]
    write(folder, "00_a.ipynb", "1 / 0")
    with pytest.raises(CourseError, match="00_a.ipynb failed in cell 3: ZeroDivisionError"):
        course.run_course(folder, build, jobs=2)
    assert list(course.read_state(build)) == ["01_b"]


@pytest.mark.parametrize("given, drawn", [((), 1), ([("dataset", "lfw")], 0)])
def test_side_by_side_the_longest_start_first_and_the_faces_are_drawn_once_before(given, drawn, places, monkeypatch):
    folder, build = places
    for name in ("00_a", "01_b", "02_c"):
        write(folder, f"{name}.ipynb", parameters=PARAMETERS + '\ndataset: str = "synthetic"')
    write(folder, "03_d.ipynb")  # needs no faces
    events = []

    def finished(function, calls, jobs):
        events.extend(task.name for task, *_ in calls)
        yield from ((number, {"seconds": 1.0}) for number in range(len(calls)))

    monkeypatch.setattr(course, "running_seconds", lambda: {"00_a": 20.0, "01_b": 90.0, "03_d": 40.0})
    monkeypatch.setattr(course, "finished", finished)
    monkeypatch.setattr(course, "load_faces", lambda dataset: events.append(dataset))
    course.run_course(folder, build, parameters=given, jobs=2)
    assert events == ["synthetic"] * drawn + ["01_b", "03_d", "00_a", "02_c"]
    events.clear()
    course.run_course(folder, build, only="03", parameters=(), jobs=2, fresh=True)
    assert events == ["03_d"]
    events.clear()
    course.run_course(folder, build, jobs=1, fresh=True)  # one at a time: as they are read
    assert events == ["00_a", "01_b", "02_c", "03_d"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_run_leaves_nothing_half_written(jobs, places):
    folder, build = places
    write(folder, "00_a.ipynb", "x = 1")
    write(folder, "01_b.ipynb", WAIT_FOR_A + "open('../started', 'w').close()\ntime.sleep(60)")
    command = [sys.executable, "-m", "utils.course", "--notebooks", str(folder), "--build", str(build), "--jobs", jobs]
    # a shell that runs tests in the background makes them ignore Ctrl-C, and their children inherit that
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=REPO_ROOT, stderr=subprocess.PIPE, encoding="utf-8", preexec_fn=heed)
    deadline = time.monotonic() + 120
    while not (folder.parent / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Interrupted; the same command goes on from here." in said
    assert sorted(os.listdir(build / "notebooks")) == ["00_a.ipynb", "state.json"]
    assert list(course.read_state(build)) == ["00_a"]


# ---- in place ------------------------------------------------------------------------------------------------------

NOISY = """import sys
from tqdm.auto import tqdm
for _ in tqdm(range(2)):
    print('step')
print('noise', file=sys.stderr)"""


def test_notebooks_are_refreshed_reproducibly(places):
    path = write(places[0], "00_a.ipynb", NOISY, "print(seed)")
    ids = [cell.id for cell in nbformat.read(path, as_version=4).cells]
    course.refresh_in_place(places[0])
    once = path.read_bytes()
    course.refresh_in_place(places[0])
    notebook = nbformat.read(path, as_version=4)
    assert path.read_bytes() == once
    assert [cell.id for cell in notebook.cells] == ids
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3]
    assert [output.text for output in notebook.cells[2].outputs] == ["step\nstep\n"]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert "version" not in notebook.metadata.language_info


def test_a_failed_refresh_leaves_the_notebook_as_it_was(places, capsys):
    path = write(places[0], "00_a.ipynb", "1 / 0")
    before = path.read_bytes()
    assert course.main(["--in-place", "--notebooks", str(places[0])]) == 1
    assert "failed in cell 3: ZeroDivisionError" in capsys.readouterr().err
    assert path.read_bytes() == before and len(os.listdir(places[0])) == 1
    assert course.main(["--in-place", "-p", "seed", "1"]) == 1


# ---- site ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pages(places) -> dict[str, str]:
    """The pages of two notebooks that hold stored outputs."""
    folder, build = places
    for name in ("00_a.ipynb", "01_b.ipynb"):
        path = write(folder, name, "cover", "last")
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells[2:]:
            cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": DOT, "text/plain": "<Figure>"})]
        link = '<link href="https://cdn.example/x.css"><script src="//cdn.example/x.js"></script>'
        notebook.cells[3].outputs.append(nbformat.v4.new_output("display_data", {"text/html": link}))
        nbformat.write(notebook, path)
    (build / "site").mkdir(parents=True)
    (build / "site/99_gone.html").write_text(site.page("Gone", "old"), encoding="utf-8")
    (build / "site/mine.html").write_text("mine", encoding="utf-8")
    (folder.parent / "docs").mkdir()
    words = "# Some words\n\n<a id='word'></a>**Word.** See [it](../notebooks/00_a.ipynb) and [data](../data/x.md)."
    (folder.parent / "docs/words.md").write_text(words, encoding="utf-8")
    course.make_site(folder, build)
    return {path.name: path.read_text(encoding="utf-8") for path in (build / "site").glob("*")}


def test_the_site_has_a_page_per_notebook_and_nothing_else(pages):
    assert sorted(pages) == ["00_a.html", "01_b.html", "index.html", "mine.html", "words.html"]
    assert pages.pop("mine.html") == "mine"  # only pages that the course wrote are removed
    for text in pages.values():
        assert '<meta name="viewport" content="width=device-width' in text and "max-width:100%" in text


def test_a_page_of_somebody_else_is_neither_overwritten_nor_removed(places):
    folder, build = places
    write(folder, "00_a.ipynb", "cover", "last")
    (build / "site").mkdir(parents=True)
    (build / "site/index.html").write_text("mine", encoding="utf-8")
    with pytest.raises(CourseError, match="index.html was not made by the course"):
        course.make_site(folder, build)
    assert (build / "site/index.html").read_text(encoding="utf-8") == "mine"


def test_documents_become_pages_that_notebooks_can_link_to(pages):
    assert '<a href="words.html">Some words</a>' in pages["index.html"]
    assert 'href="00_a.html"' in pages["words.html"] and "id='word'" in pages["words.html"].replace('"', "'")
    assert site.moved("../docs/words.md#word", Path("/c/notebooks"), Path("/c/build/site")) == "words.html#word"
    assert site.moved("../data/x.md", Path("/c/docs"), Path("/c/build/site")) == "../../data/x.md"
    deeper = site.moved("solutions/00_a.ipynb", Path("/c/notebooks"), Path("/c/site"))
    assert deeper == "../notebooks/solutions/00_a.ipynb"


def test_pages_load_nothing_from_elsewhere(pages):
    for text in pages.values():
        sources = re.findall(r"<(?:img|script|iframe|source|video)\b[^>]*\bsrc=\"([^\"]*)", text)
        sources += re.findall(r"<link\b[^>]*\bhref=\"([^\"]*)", text) + re.findall(r"url\(([^)]*)|@import", text)
        assert all(source.startswith("data:") for source in sources), sources
        assert "<script" not in text


def test_pages_show_formulas_as_mathml(pages):
    assert pages["00_a.html"].count("<math ") == 2 and "$" not in re.sub(r"<[^>]*>", "", pages["00_a.html"])
    assert "<mfrac>" in pages["00_a.html"]


def test_pages_link_to_their_neighbours(pages):
    first, second = pages["00_a.html"], pages["01_b.html"]
    assert 'rel="next" href="01_b.html"' in first and 'rel="prev"' not in first
    assert 'rel="prev" href="00_a.html"' in second and 'rel="next"' not in second
    assert 'href="01_b.html#here"' in first and 'href="../../utils/course.py"' in first


def test_the_first_page_is_a_contents_table(pages):
    index = pages["index.html"]
    assert index.count("<img") == 2 and index.count("running not measured here") == 2
    assert "00 · A small lesson" in index and "How is $x_i$ found in a gallery?" in index


def test_the_cover_is_the_tagged_picture_or_the_last():
    def figure(shade: int, *tags: str) -> nbformat.NotebookNode:
        import base64
        import io

        from PIL import Image

        buffer = io.BytesIO()
        Image.new("L", (4, 4), shade).save(buffer, "PNG")
        data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
        output = nbformat.v4.new_output("display_data", data)
        return nbformat.v4.new_code_cell("plot", outputs=[output], metadata={"tags": list(tags)})

    def cover(*cells: nbformat.NotebookNode) -> str:
        return site.cover_of(nbformat.v4.new_notebook(cells=list(cells)))

    assert cover(figure(1, "cover"), figure(2)) == cover(figure(1))
    assert cover(figure(1), figure(2)) == cover(figure(2)) != cover(figure(1))
    assert cover(nbformat.v4.new_code_cell("x")) == ""


def test_the_setup_is_folded_and_other_code_is_open(tmp_path):
    new = nbformat.v4
    cells = [new.new_code_cell("fetch()", metadata={"tags": ["setup"]}), new.new_code_cell("look()")]
    html = site.offline(site.body_of(new.new_notebook(cells=cells), tmp_path), tmp_path, tmp_path)
    (fold,) = re.findall(r"<details.*?</details>", html, re.DOTALL)
    assert "fetch" in fold and "look" not in fold and "look" in html and "<summary>Set-up" in fold


def test_a_wide_table_scrolls_alone_and_the_names_stay_in_sight(tmp_path):
    table = Table(
        [["data", "method", "mAP ↑", "winner"], ["lfw", "SCRUB", "99.0 ± 1.5", "2 photos"], ["", "–", "–", ""]]
    )
    html = site.offline(table._repr_html_(), tmp_path, tmp_path)
    assert html.startswith('<div class="scroll"><table>') and html.endswith("</table></div>")
    assert '<th class="name">method</th>' in html and '<td class="name">SCRUB</td>' in html
    assert '<th class="number">mAP ↑</th>' in html and "99.0 ±\N{NO-BREAK SPACE}1.5" in html
    assert '<td class="number">99.0' in html and '"number">2 photos' not in html and '"name">lfw' not in html
    without = site.offline(Table([["", "found"], ["mean", "7%"]])._repr_html_(), tmp_path, tmp_path)
    assert '<td class="name">mean</td><td class="number">7%</td>' in without


@pytest.mark.parametrize("text", ["9", "1.4", "12.5 ± 3.0", "22,096", "7%", "-0.2", "1e-05", "–", "12 (3)", "+0.1"])
def test_numbers_are_lined_up_at_the_right(text, tmp_path):
    assert f'<td class="number">{text[:2]}' in site.offline(
        Table([["a", "b"], ["x", text]])._repr_html_(), tmp_path, tmp_path
    )


@pytest.mark.parametrize("text", ["seen", "2 photos", "09 Benchmark", "a1", "", "3D"])
def test_words_are_not_lined_up_as_numbers(text, tmp_path):
    assert '"number"' not in site.offline(Table([["a", "b"], ["x", text]])._repr_html_(), tmp_path, tmp_path)


def test_a_formula_that_is_not_understood_stays_readable():
    assert site.mathml(r"\nosuchcommand{a}<b", "inline") == r"<code>\nosuchcommand{a}&lt;b</code>"
    assert site.mathml("", "inline") == "<code></code>"
    assert "<mtable" in site.mathml(r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "block")


def test_the_results_table_is_printed_when_there_are_results(places, capsys):
    benchmark = pytest.importorskip("utils.experiments.benchmark")
    folder, build = places
    write(folder, "00_a.ipynb")
    build.mkdir(parents=True)
    results = {"schema": 1, "environment": {}, "runs": []}
    (build / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert course.results_text(build) == benchmark.results_table(results)
    (build / "results.json").write_text("{ half", encoding="utf-8")
    with pytest.raises(CourseError, match="is not a results file"):
        course.results_text(build)


# ---- what is there already ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notebooks/00_a.ipynb", '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'),
        ("notebooks/00_a.failed.ipynb", "notes"),
        ("notebooks/state.json", "[1]"),
        ("site/00_a.html", "mine"),
        ("site/index.html", "mine"),
    ],
)
def test_a_file_of_somebody_else_is_refused_before_the_work(places, name, content):
    folder, build = places
    write(folder, "00_a.ipynb", "open('../ran', 'w').close()")
    mine = build / name
    mine.parent.mkdir(parents=True)
    mine.write_text(content, encoding="utf-8")
    with pytest.raises(CourseError, match=f"{mine.name} was not made by the course"):
        course.run_course(folder, build)
    assert mine.read_text(encoding="utf-8") == content and not (folder.parent / "ran").exists()


def test_a_link_to_the_source_or_to_a_notebook_elsewhere_is_refused(places):
    folder, build = places
    source = write(folder, "00_a.ipynb", "x = 1")
    ran = nbformat.read(source, as_version=4)
    ran.metadata.papermill = {}  # even if it once came out of a run
    nbformat.write(ran, source)
    elsewhere = write(folder.parent / "own", "mine.ipynb", "x = 2")
    (build / "notebooks").mkdir(parents=True)
    for linked in (source, elsewhere):
        before, link = linked.read_bytes(), build / "notebooks/00_a.ipynb"
        link.symlink_to(linked)
        with pytest.raises(CourseError, match="was not made by the course"):
            course.run_course(folder, build)
        assert link.is_symlink() and linked.read_bytes() == before
        link.unlink()


def test_the_courses_folder_may_have_any_name(tmp_path):
    home = tmp_path / "a {folder} 100% #1 黄 é$"
    write(home / "notebooks", "00_a.ipynb", "print('seed', seed)")
    course.run_course(home / "notebooks", home / "build {x}", parameters=[("seed", "3")])
    course.run_course(home / "notebooks", home / "build {x}", parameters=[("seed", "3")])  # its own files it replaces
    assert "seed 3" in printed(home / "build {x}/notebooks/00_a.ipynb")
    assert course.make_site(home / "notebooks", home / "build {x}").is_file()


def test_cleaning_removes_what_carries_the_courses_mark_and_nothing_else(places):
    _, build = places
    (build / "notebooks").mkdir(parents=True)
    (build / "site").mkdir()
    kept = {
        "notebooks/my_own.ipynb": '{"metadata": {}}',
        "notebooks/by_hand.ipynb": '{"metadata": {"papermill": {}}}',
        "site/mine.html": "mine",
        "results.json": "{}",
        "site/a.css": "",
    }
    made = {
        "notebooks/03_x.ipynb": '{"metadata": {"papermill": {}}}',
        "notebooks/state.json": '{"notebooks": {"03_x": {}}}',
        "site/03_x.html": site.page("x", "y"),
    }  # fmt: skip
    for name, text in {**kept, **made}.items():
        (build / name).write_text(text, encoding="utf-8")
    course.main(["--clean", "--build", str(build)])
    assert {path.relative_to(build).as_posix() for path in build.rglob("*") if path.is_file()} == set(kept)


@pytest.mark.parametrize("flags", [["--clean"], ["--site-only"], ["--only", "04"], ["--notebooks", "~nobody/x"]])
def test_a_home_of_nobody_is_one_sentence(flags, capsys):
    assert course.main([*flags, "--build", "~nobodyatall/x"]) == 1
    assert "is no place" in capsys.readouterr().err


@pytest.mark.parametrize("own", ["utils", "docs/x", "data", "tests", "notebooks/solutions"])
def test_no_run_lands_in_a_folder_of_the_course(own, capsys):
    assert course.main(["--site-only", "--build", str(REPO_ROOT / own)]) == 1
    assert "choose another folder" in capsys.readouterr().err
