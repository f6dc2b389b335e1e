"""The gate every notebook passes: form, order, size, words, imports; and proof that the gate can close."""

from __future__ import annotations

import ast
import copy
import functools
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import notebook_cells  # noqa: F401 (it adds the checks)
import notebook_numbers
import papermill
import pytest
import small_world
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from utils.experiments import benchmark, sequence, sweep
from utils.models.backbones import make_backbone
from utils.models.checkpoints import EMBEDDED, load_recogniser
from utils.publishing import course
from utils.settings import MODEL_DIR, REPO_ROOT, CourseError
from utils.unlearning.registry import METHODS

NOTEBOOKS = sorted((REPO_ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES, MAX_CELL_LINES = 1_000_000, 40
MAX_OUTPUT_LINES = 45  # a table of all methods, and who was forgotten
CELLS, WORDS_PER_CODE_LINE = (20, 70), (3, 12)
BADGE = r"colab\.research\.google\.com/github/[^/]+/[^/]+/blob/[^/]+/(notebooks/[\w.-]+\.ipynb)"
MACHINE_PATH = r"(?<![\w.~])/(?:work|root|tmp|home|Users|content)/"


@functools.cache
def declared_packages() -> frozenset[str]:
    lines = (line.split("#")[0].strip() for line in (REPO_ROOT / "requirements.txt").read_text().splitlines())
    return frozenset(canonicalize_name(Requirement(line).name) for line in lines if line)


@functools.cache
def distributions() -> dict[str, list[str]]:
    return importlib.metadata.packages_distributions()


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def python_of(cell) -> str:
    """A cell's Python, its %magic and !shell lines left out."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)


def texts_of(cell) -> list[str]:
    """What a code cell printed or showed as text, one string per output."""
    outputs = cell.get("outputs", [])
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return shown + [output.get("data", {}).get("text/html", "") for output in outputs]


def form_faults(notebook) -> list[str]:
    """Faults of a notebook as a file: format, kernel, order of execution, outputs."""
    faults = []
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        faults.append(f"invalid format: {error.message}")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        faults.append("kernelspec is not python3")
    counts = [cell.execution_count for cell in code_cells(notebook) if cell.source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        faults.append(f"execution counts are not 1..n: {counts}")
    outputs = [output for cell in code_cells(notebook) for output in cell.get("outputs", [])]
    if any(output.output_type == "error" for output in outputs):
        faults.append("an error is stored")
    if any("image/svg+xml" in output.get("data", {}) for output in outputs):
        faults.append("an SVG is stored; use PNG")
    for cell in code_cells(notebook):
        if any(text.count("\n") > MAX_OUTPUT_LINES for text in texts_of(cell)):
            faults.append(f"an output is longer than {MAX_OUTPUT_LINES} lines")
        if any(re.search(MACHINE_PATH, text) for text in texts_of(cell)):
            faults.append("an output shows a path of one machine")
        if "NBVAL_CHECK_OUTPUT" in cell.source and not any(texts_of(cell)):
            faults.append("an NBVAL_CHECK_OUTPUT cell stores no output, so nothing is checked")
    return faults


def parameter_faults(notebook, path: Path) -> list[str]:
    """Faults of the parameters cell: exactly one, and papermill reads every assignment in it."""
    tagged = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        return [f"{len(tagged)} cells are tagged 'parameters' instead of one"]
    statements = ast.parse(tagged[0].source).body
    if not all(isinstance(statement, ast.Assign | ast.AnnAssign) for statement in statements):
        return ["the parameters cell holds more than assignments"]
    targets = [s.target if isinstance(s, ast.AnnAssign) else s.targets[0] for s in statements]
    unread = sorted({ast.unparse(target) for target in targets} - set(papermill.inspect_notebook(str(path))))
    why = "one per line; plain types, so no 'str | None'"
    return [f"papermill cannot read the parameters {unread} ({why})"] if unread else []


def teaching_faults(notebook, name: str) -> list[str]:
    """Faults of a notebook as a lesson: anatomy, length, words, imports."""
    faults, opening, text = [], notebook.cells[0].source, prose(notebook)
    if re.findall(BADGE, opening) != [f"notebooks/{name}"]:
        faults.append("the opening cell has no Colab badge with this notebook's path")
    if not course_question(notebook):
        faults.append("the opening cell asks no question")
    headings = " ".join(re.findall(r"^#+ (.+)$", text, re.MULTILINE)).casefold()
    faults += [f"no section '{word}'" for word in ("recap", "exercise") if word not in headings]
    if "you will learn" not in text.casefold():
        faults.append("nothing says 'You will learn'")
    if not CELLS[0] <= len(notebook.cells) <= CELLS[1]:
        faults.append(f"{len(notebook.cells)} cells, not {CELLS[0]} to {CELLS[1]}")
    if any(len(cell.source.splitlines()) > MAX_CELL_LINES for cell in notebook.cells):
        faults.append(f"a cell is longer than {MAX_CELL_LINES} lines")
    lines = sum(bool(line.strip()) for cell in code_cells(notebook) for line in cell.source.splitlines())
    ratio = len(text.split()) / max(lines, 1)
    if not WORDS_PER_CODE_LINE[0] <= ratio <= WORDS_PER_CODE_LINE[1]:
        faults.append(f"{ratio:.1f} words per line of code, not {WORDS_PER_CODE_LINE[0]} to {WORDS_PER_CODE_LINE[1]}")
    foreign = sorted({module for cell in code_cells(notebook) for module in imports_of(cell)} - {"utils"})
    foreign = [module for module in foreign if not is_declared(module)]
    if foreign:
        faults.append(f"imports what requirements.txt does not declare: {foreign}")
    return faults


def course_question(notebook) -> str:
    lines = [line for line in notebook.cells[0].source.splitlines() if not re.match(r"#|.*badge", line)]
    return next((line for line in lines if "?" in line), "")


def imports_of(cell) -> set[str]:
    """The top-level modules a cell imports."""
    nodes = list(ast.walk(ast.parse(python_of(cell))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


def is_declared(module: str) -> bool:
    owners = {canonicalize_name(name) for name in distributions().get(module, [])}
    return module in sys.stdlib_module_names or module in ("IPython", "google") or bool(owners & declared_packages())


def faults_of(path: Path) -> list[str]:
    """Every fault of a notebook file, as short sentences."""
    notebook = nbformat.read(path, as_version=4)
    faults = [f"{path.stat().st_size} bytes, more than {MAX_BYTES}"] * (path.stat().st_size > MAX_BYTES)
    return faults + form_faults(notebook) + parameter_faults(notebook, path) + teaching_faults(notebook, path.name)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path):
    assert faults_of(path) == []


def test_there_are_notebooks_and_their_names_are_in_order():
    assert NOTEBOOKS, "notebooks/ holds no notebook"
    assert [path for path in NOTEBOOKS if not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)] == []
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebook yet")
def test_a_notebook_takes_another_seed():
    """The parameter is known and has the right type; that notebooks run with it, test_course and nbval check."""
    assert course.choose_parameters(NOTEBOOKS[:1], "quick", [("seed", "1")]) == {NOTEBOOKS[0]: {"seed": 1}}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_unknown_parameters_are_refused(path: Path):
    with pytest.raises(CourseError, match="No chosen notebook has a parameter 'no_such_name'"):
        course.choose_parameters([path], "quick", [("no_such_name", "1")])


# ---- the gate can close --------------------------------------------------------------------------------------------


def lesson(name: str = "00_lesson.ipynb") -> nbformat.NotebookNode:
    """A small notebook without faults."""
    new, words = nbformat.v4, "A sentence of several plain words explains what the next line of code is about to show."
    badge = f"[![Open In Colab](b.svg)](https://colab.research.google.com/github/o/r/blob/main/notebooks/{name})"
    cells = [new.new_markdown_cell(f"# 00 · Lesson\n\n{badge}\n\nWhat is taught here? You will learn to count.")]
    cells.append(new.new_code_cell("seed: int = 0  # random seed", metadata={"tags": ["parameters"]}))
    for number in range(9):
        cells += [new.new_markdown_cell(words), new.new_code_cell(f"total = {number}\nprint(total)\ntotal += 1")]
    cells += [new.new_markdown_cell("## Exercises\n\nCount."), new.new_markdown_cell("## Recap\n\nWe counted.")]
    notebook = new.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for count, cell in enumerate(code_cells(notebook), 1):
        cell.execution_count = count
        if count > 1:
            cell.outputs = [nbformat.v4.new_output("stream", text=f"{count - 2}\n")]
    return notebook


def faults_after(change, folder: Path) -> list[str]:
    """The faults of the faultless lesson after one change."""
    notebook = copy.deepcopy(lesson())
    change(notebook)
    path = folder / "00_lesson.ipynb"
    nbformat.write(notebook, path)
    return faults_of(path)


def put(cell: int, **values):
    """A change that sets fields of one cell."""
    return lambda notebook: notebook.cells[cell].update(values)


def show(data_or_text):
    """A change that gives cell 3 one more output."""
    if isinstance(data_or_text, dict):
        output = nbformat.v4.new_output("display_data", data_or_text)
    else:
        output = nbformat.v4.new_output("stream", text=data_or_text)
    return lambda notebook: notebook.cells[3].outputs.append(output)


def test_the_faultless_lesson_passes(tmp_path: Path):
    assert faults_after(lambda notebook: None, tmp_path) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda nb: nb.metadata.kernelspec.update(name="myenv"), "kernelspec is not python3"),
        (put(3, execution_count=9), "execution counts are not 1..n"),
        (put(3, execution_count=None, outputs=[]), "execution counts are not 1..n"),
        (put(3, outputs=[nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]), "an error is stored"),
        (show({"image/svg+xml": "<svg/>"}), "an SVG is stored"),
        (show("line\n" * 46), "an output is longer than 45 lines"),
        (show("saved to " + "/".join(("", "home", "ada", "x.png")) + "\n"), "an output shows a path of one machine"),
        (put(3, source="# NBVAL_CHECK_OUTPUT\nx = 1", outputs=[]), "stores no output, so nothing is checked"),
        (lambda nb: nb.cells[1].metadata.pop("tags"), "0 cells are tagged 'parameters'"),
        (put(1, source="seed: int = 0\nroot: str | None = None"), r"cannot read the parameters \['root'\]"),
        (put(1, source="seed: int = 0\nprint(seed)"), "holds more than assignments"),
        (put(0, source="# Lesson\n\nWhat is taught here? You will learn."), "no Colab badge with this notebook's path"),
        (lambda nb: nb.cells[0].update(source=nb.cells[0].source.replace("?", ".")), "asks no question"),
        (lambda nb: nb.cells[0].update(source=nb.cells[0].source.replace("You will", "We")), "'You will learn'"),
        (put(-1, source="The end."), "no section 'recap'"),
        (put(-2, source="The end."), "no section 'exercise'"),
        (lambda nb: nb.cells.__delitem__(slice(6, 12)), "16 cells, not"),
        (put(3, source="x = 1\n" * 41), "a cell is longer than 40 lines"),
        (put(2, source="word " * 900), "words per line of code"),
        (put(3, source="import pandas"), r"does not declare: \['pandas'\]"),
        (show({"image/png": "A" * 1_100_000}), "bytes, more than"),
    ],
)
def test_every_fault_is_seen(change, fault: str, tmp_path: Path):
    assert any(re.search(fault, found) for found in faults_after(change, tmp_path))


def test_nbval_fails_a_broken_notebook_and_a_changed_output(tmp_path: Path):
    good, broken, changed = lesson(), lesson(), lesson()
    broken.cells[3].source = "1 / 0"
    changed.cells[3].source = "# NBVAL_CHECK_OUTPUT\nprint('not what is stored')"
    good.cells[3].source = "# NBVAL_CHECK_OUTPUT\nprint(0)"
    for name, notebook in (("good", good), ("broken", broken), ("changed", changed)):
        notebook.cells = notebook.cells[:4]
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    flags = ["-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "-rf", *flags, str(tmp_path)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "2 failed, 4 passed" in result.stdout
    assert re.findall(r"^FAILED \W*(\w+)\.ipynb", result.stdout, re.MULTILINE) == ["broken", "changed"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_picture_is_described_for_those_who_cannot_see_it(path: Path):
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    told = [
        output.metadata.get("image/png", {}).get("alt", "")
        for output in outputs
        if "image/png" in output.get("data", {})
    ]
    pages = "".join(output.data["text/html"] for output in outputs if "text/html" in output.get("data", {}))
    told += re.findall(r'<img[^>]*?alt="([^"]*)"', pages)
    assert told and all(len(text) >= 20 for text in told), [text for text in told if len(text) < 20]
    assert pages.count("<img") == len(re.findall(r"<img[^>]*?alt=", pages))


# ---- few people ----------------------------------------------------------------------------------------------------

SIZES = {"6x8": (6, 8), "12x12": (12, 12)}


@pytest.fixture(scope="session")
def small_folders(tmp_path_factory) -> Path:
    """A folder that holds one of each size, and a cache that the tests share."""
    place = tmp_path_factory.mktemp("small")
    for name, size in SIZES.items():
        small_world.draw_folder(place / name, *size)
    return place


@pytest.fixture
def in_a_hurry(small_folders, monkeypatch) -> Path:
    """Methods of a step or two, and results and crops beside the folders."""
    monkeypatch.setenv("FACE_COURSE_CACHE", str(small_folders / "cache"))
    small_world.hurry(monkeypatch, small_folders)
    return small_folders


def checked(number: str, read: bool = True, **parameters: object) -> dict:
    """Run a notebook and, if it is to be read, compare what its cells print and draw with what their data say."""
    reader = notebook_numbers.Reader()
    names = small_world.run_notebook(number, reader if read else None, device="cpu", **parameters)
    assert not reader.faults, "\n".join(reader.faults)
    return names


@pytest.mark.parametrize("number", ["00", "01", "02", "03", "05", "06", "07", "08", "09", "10"])
@pytest.mark.parametrize("size", SIZES)
def test_a_notebook_runs_on_a_folder_of_few_people_and_says_what_is_so(size: str, number: str, in_a_hurry, capsys):
    fewer = {"methods": "retrain,block_list"} if (size, number) == ("12x12", "10") else {}
    checked(number, size == "6x8", dataset="folder", root=str(in_a_hurry / size), **fewer)
    assert "✗" not in capsys.readouterr().out  # no right answer is called wrong


def test_notebook_04_takes_no_photos_and_says_what_is_so():
    checked("04")


def test_notebook_09_says_what_the_stored_runs_say(in_a_hurry):
    stored = benchmark.read_results(benchmark.STORED / "synthetic_quick.json")
    stored["runs"] = [run | {"dataset": "folder"} for run in stored["runs"]]
    (in_a_hurry / "stored.json").write_text(json.dumps(stored), encoding="utf-8")
    names = checked("09", dataset="folder", root=str(in_a_hurry / "6x8"), results=str(in_a_hurry / "stored.json"))
    assert len({run["seed"] for run in names["runs"]}) > 1


def test_notebook_12_says_what_is_so_in_a_small_gallery(in_a_hurry, capsys):
    checked("12", dataset="folder", root=str(in_a_hurry / "12x12"), n_forget=2, n_vectors=2000)
    assert "✗" not in capsys.readouterr().out


def test_every_check_of_a_cell_has_its_cell():
    ids = {cell.id for path in NOTEBOOKS for cell in code_cells(nbformat.read(path, as_version=4))}
    assert {*notebook_numbers.CHECKS, *notebook_numbers.LEFT_OUT} <= ids
    assert {name[:2] for name in notebook_numbers.CHECKS} == {path.name[:2] for path in NOTEBOOKS}


def test_notebook_09_makes_its_runs_where_none_are_stored(in_a_hurry, capsys):
    names = small_world.run_notebook("09", dataset="folder", root=str(in_a_hurry / "12x12"), n_forget=2, device="cpu")
    assert {run["n_forget"] for run in names["runs"]} == {2} and "made here, now" in capsys.readouterr().out


@pytest.mark.parametrize(("people", "photos"), [(2, 2), (3, 3), (1, 5)])
def test_a_folder_of_too_few_people_gets_one_sentence(people, photos, tmp_path, in_a_hurry):
    root = small_world.draw_folder(tmp_path / "few", people, photos)
    for number in ("02", "08", "09"):
        with pytest.raises(CourseError, match="six people with eight photos each do"):
            small_world.run_notebook(number, dataset="folder", root=str(root), device="cpu")


def test_more_people_to_forget_than_there_are_gets_one_sentence(in_a_hurry):
    with pytest.raises(CourseError, match="at most 1 can be forgotten"):
        small_world.run_notebook("05", dataset="folder", root=str(in_a_hurry / "6x8"), n_forget=50, device="cpu")


def test_notebook_11_wants_three_photos_of_yourself(tmp_path, monkeypatch):
    small_world.hurry(monkeypatch, tmp_path)
    monkeypatch.setattr("utils.settings.BUILD_DIR", tmp_path)
    album = small_world.draw_folder(tmp_path / "album", 3, 4)
    me = sorted(folder.name for folder in album.iterdir())[0]
    checked("11", album=str(album), me=me)
    for photo in sorted((album / me).iterdir())[1:]:
        photo.unlink()
    with pytest.raises(CourseError, match="You need at least 3 usable photos of yourself, and there are 1"):
        small_world.run_notebook("11", album=str(album), me=me, device="cpu")


@pytest.mark.parametrize("size", SIZES)
def test_every_method_runs_on_a_folder_of_few_people(size, in_a_hurry, tmp_path):
    flags = ["--methods", "all", "--train-epochs", "1", "--device", "cpu", "--quiet", "--out", str(tmp_path / "r.json")]
    assert benchmark.main(["--dataset", "folder", "--root", str(in_a_hurry / size), *flags]) == 0
    assert {run["method"] for run in benchmark.read_results(tmp_path / "r.json")["runs"]} == set(METHODS)


def test_trials_and_requests_run_on_a_folder_of_few_people(in_a_hurry, tmp_path, capsys):
    world = ["--dataset", "folder", "--root", str(in_a_hurry / "12x12"), "--train-epochs", "1", "--device", "cpu"]
    flags = [*world, "--quiet", "--out"]
    assert sequence.main([*flags, str(tmp_path / "q.json"), "--methods", "esc", "--sizes", "1,1", "--seeds", "1"]) == 0
    assert sweep.main([*flags, str(tmp_path / "s.json"), "--methods", "esc"]) == 0
    shown = capsys.readouterr().out
    assert "(12x12, 2)" in shown and shown.count("Forgotten (12x12") == 2
    rows = [*sequence.read_sequence(tmp_path / "q.json"), *sweep.read_sweep(tmp_path / "s.json")["trials"]]
    assert {row["dataset"] for row in rows} == {"folder"} and not any("error" in row for row in rows)
    assert sweep.main(["--methods", "esc", "--device", "cpu", "--out", str(tmp_path / "s.json")]) == 2
    assert "holds trials of another dataset (folder, not synthetic)" in capsys.readouterr().err


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name[:2])
def test_a_notebook_with_faces_takes_any_model_and_any_data_set(path):
    chosen = [("backbone", "dlib"), ("pretrained", "dlib"), ("dataset", "lfw"), ("root", "faces")]
    if path.name[:2] in ("04", "12"):  # no face is looked at there
        return
    assert course.choose_parameters([path], "quick", chosen) == {path: dict(chosen)}


@pytest.mark.parametrize("number", ["00", "01", "02", "03", "05", "06", "07", "08", "09", "10"])
def test_a_notebook_runs_with_a_model_that_was_trained_elsewhere(number, in_a_hurry, foreign_model, capsys):
    small_world.run_notebook(
        number, dataset="folder", root=str(in_a_hurry / "12x12"), backbone=foreign_model, device="cpu"
    )
    told = capsys.readouterr().out
    assert "believe your own figures" in told and "✗" not in told


@pytest.mark.parametrize("number", ["06", "08", "10"])
def test_a_notebook_names_and_leaves_out_what_a_scripted_network_does_not_show(
    number, in_a_hurry, scripted_model, capsys
):
    more = {"methods": "retrain,esc_folded,block_list"} if number == "10" else {}
    small_world.run_notebook(
        number, dataset="folder", root=str(in_a_hurry / "12x12"), backbone=scripted_model, device="cpu", **more
    )
    told, left_out = capsys.readouterr().out, {"10": "ESC, folded into the weights"}.get(number)
    assert "✗" not in told
    assert left_out is None or f"{left_out} is left out" in told


@pytest.fixture(scope="session")
def foreign_model(tmp_path_factory) -> str:
    """The embedded network's weights as somebody else's file, described beside it."""
    place = tmp_path_factory.mktemp("theirs") / "theirs.pth"
    torch.save(load_recogniser(MODEL_DIR / EMBEDDED["original"])[0].model.state_dict(), place)
    told = {"input_size": 64, "embedding_dim": 128, "architecture": "mini"}
    place.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
    return f"file:{place}"


@pytest.fixture(scope="session")
def scripted_model(tmp_path_factory, foreign_model) -> str:
    """The same network as TorchScript, which shows none of its modules."""
    model, place = make_backbone(foreign_model, "auto"), tmp_path_factory.mktemp("scripted") / "theirs.pt"
    torch.jit.trace(model, torch.zeros(2, 3, 64, 64), check_trace=False).save(str(place))
    place.with_suffix(".json").write_text('{"input_size": 64, "embedding_dim": 128}', encoding="utf-8")
    return f"file:{place}"
