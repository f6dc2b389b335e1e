"""Run the course: every notebook in order, taken up again where it stopped, then one table and an HTML site.

python -m utils.course                       # the quick profile, as `make run` does
python -m utils.course --only 02,03 -p seed 1
python -m utils.course --in-place            # store fresh outputs in notebooks/, as `make notebooks` does
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import platform
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbclient
import nbformat
import papermill
import torch
from nbclient.exceptions import CellControlSignal, DeadKernelError

from ..experiments.benchmark import read_results, results_table
from ..experiments.runner import finished
from ..faces.datasets import load_faces
from ..settings import (
    BUILD_DIR,
    PROFILES,
    REPO_ROOT,
    CourseError,
    atomic_path,
    check_environment,
    printable_output,
    progress_bar,
    regular_target,
    resolved,
    sha256_of,
    suggest,
)
from ..tables import Table
from .places import apart, clean, has_mark, shown
from .site import build_site, is_ours, picture_of, running_seconds, tags_of, tidy

NOTEBOOK_DIR = REPO_ROOT / "notebooks"
README_PICTURE = REPO_ROOT / "data" / "figures" / "before_after.png"  # the cover of the first notebook
# what a notebook's result depends on beside itself
INPUTS = ("utils/**/*.py", "data/*.json", "data/results/*.json", "data/models/*")
CELL_TIMEOUT = {"quick": 1800, "full": 12 * 3600}  # seconds
QUIET_KERNEL = ["--IPKernelApp.log_level=50"]
FAILURES = (papermill.PapermillExecutionError, CellControlSignal, DeadKernelError)


@dataclass(frozen=True)
class Task:
    """One notebook to execute: its file, the parameters that differ from its defaults, and the hash of all inputs."""

    path: Path
    parameters: dict
    key: str

    @property
    def name(self) -> str:
        """The notebook's name without folder and ending."""
        return self.path.stem


def find_notebooks(folder: Path = NOTEBOOK_DIR, only: str | None = None) -> list[Path]:
    """Return the notebooks NN_*.ipynb in order, or those whose numbers are named in `only` ('02,03'); CourseError."""
    found = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise CourseError(f"No notebooks named like 00_title.ipynb in {folder}.")
    if not only:
        return found
    numbers = [number.strip() for number in only.split(",") if number.strip()]
    known = [path.name[:2] for path in found]
    for number in numbers:
        if number not in known:
            raise CourseError(f"There is no notebook '{number}'; --only takes numbers such as {', '.join(known)}.")
    return [path for path in found if path.name[:2] in numbers]


def parameters_of(path: Path) -> dict[str, dict]:
    """Return what a notebook's `parameters` cell declares: name -> default, type and help as papermill reads them."""
    return papermill.inspect_notebook(literally(path))


def literally(path: Path) -> str:
    """Return a path for papermill, which reads braces in one as the name of a parameter."""
    return str(path).replace("{", "{{").replace("}", "}}")


def choose_parameters(paths: Sequence[Path], profile: str, given: Sequence[tuple[str, str]] = ()) -> dict[Path, dict]:
    """Give each notebook those of the (name, text) pairs that it declares; CourseError for a name none declares."""
    declared = {path: parameters_of(path) for path in paths}
    known = sorted({name for names in declared.values() for name in names})
    for name, _ in given:
        if name not in known:
            among = ", ".join(known) or "none"
            raise CourseError(f"No chosen notebook has a parameter '{name}'.{suggest(name, known)} Known: {among}.")
    chosen: dict[Path, dict] = {}
    for path, names in declared.items():
        values = {name: parameter_value(name, text, names[name]) for name, text in given if name in names}
        if "profile" in names:
            values.setdefault("profile", profile)
        defaults = {name: repr(literal(names[name]["default"])) for name in values}
        chosen[path] = {name: value for name, value in values.items() if repr(value) != defaults[name]}
    return chosen


def parameter_value(name: str, text: str, declared: dict) -> object:
    """Read the text of `-p name text` as the type the notebook declares (or its default has); CourseError otherwise."""
    default, value = literal(declared["default"]), literal(text)
    annotated = re.findall(r"\w+", declared["inferred_type_name"])
    kinds = set(annotated) if annotated and annotated != ["None"] else {type(default).__name__}
    if type(value).__name__ in kinds - {"str"} or kinds == {"NoneType"}:
        return value
    if "float" in kinds and type(value) is int:
        return float(value)
    if "str" in kinds:
        return value if isinstance(value, str) else text
    wanted = " or ".join(sorted(kinds))
    raise CourseError(f"Parameter '{name}' wants {wanted} (default {declared['default']}), not '{text}'.")


def literal(text: str) -> object:
    """Read text as a Python literal (true, false and none in any case), or return it unchanged."""
    words = {"true": True, "false": False, "none": None}
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return words.get(text.strip().lower(), text)


def code_hash(root: Path = REPO_ROOT) -> str:
    """Return a hash over the modules in utils/, the models and manifests in data/, and the versions."""
    digest = hashlib.sha256(f"{platform.python_version()} {torch.__version__}".encode())
    for path in sorted(path for pattern in INPUTS for path in root.glob(pattern) if path.is_file()):
        digest.update(f"{path.relative_to(root)}\0{sha256_of(path)}".encode())
    return digest.hexdigest()


def input_hash(path: Path, parameters: dict, code: str) -> str:
    """Return a hash over a notebook's cells (outputs left out), its parameters and the code it stands on."""
    cells = [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in read(path).cells]
    return hashlib.sha256(json.dumps([cells, parameters, code], sort_keys=True).encode()).hexdigest()


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook; CourseError if the file is not one."""
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, KeyError) as error:
        raise CourseError(f"{path.name} is not a valid notebook: {last_line(str(error))}.") from error


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook, whole or not at all."""
    with atomic_path(path) as temporary:
        nbformat.write(notebook, temporary)


def read_state(build: Path) -> dict:
    """Return what earlier runs finished: name -> key, seconds, files made; empty without a readable record."""
    try:
        found = json.loads((build / "notebooks" / "state.json").read_text(encoding="utf-8"))["notebooks"]
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_state(build: Path, state: dict) -> None:
    """Replace the record of finished notebooks."""
    with atomic_path(build / "notebooks" / "state.json") as temporary:
        temporary.write_text(json.dumps({"schema": 1, "notebooks": state}, indent=1), encoding="utf-8")


def is_done(task: Task, state: dict, build: Path) -> bool:
    """Say whether a notebook ran before on the same inputs and all it made is still there."""
    entry = state.get(task.name, {})
    made = [build / "notebooks" / f"{task.name}.ipynb", *(build / name for name in entry.get("made", []))]
    return entry.get("key") == task.key and all(path.exists() for path in made)


def stamps(build: Path) -> dict[str, int]:
    """Return the modification times of the result files in `build` (not of notebooks and pages)."""
    return {path.name: path.stat().st_mtime_ns for path in build.glob("*") if path.is_file()}


def places_of(task: Task, build: Path) -> tuple[Path, Path, Path]:
    """Return where a run's notebook, its half-run copy after a failure and the copy at work lie, links followed."""
    names = f"{task.name}.ipynb", f"{task.name}.failed.ipynb", f".{task.name}.partial.ipynb"
    return tuple(regular_target(build / "notebooks" / name) for name in names)


def refuse_foreign(tasks: Sequence[Task], build: Path) -> None:
    """Raise CourseError if a run or its pages would replace what the course did not write."""
    notebooks = [(path, "papermill") for task in tasks for path in places_of(task, build)[:2]]
    records = [*notebooks, (regular_target(build / "notebooks" / "state.json"), "notebooks")]
    pages = [regular_target(build / "site" / f"{name}.html") for name in ("index", *(task.name for task in tasks))]
    sources = {task.path.resolve() for task in tasks}
    foreign = [path for path, mark in records if path.exists() and (path in sources or not has_mark(path, mark))]
    foreign += [path for path in pages if path.exists() and not is_ours(path)]
    if foreign:
        raise CourseError(f"{foreign[0]} was not made by the course: move it away, or choose another folder (--build).")


def run_notebook(task: Task, build: Path, timeout: float, progress: bool = True) -> dict:
    """Execute one notebook into build/notebooks and return its record; CourseError names the cell that failed."""
    target, failed, partial = places_of(task, build)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    before, start = stamps(build), time.perf_counter()
    try:
        papermill.execute_notebook(
            literally(task.path),
            literally(partial),
            parameters=task.parameters,
            kernel_name="python3",
            cwd=str(task.path.parent),
            execution_timeout=timeout,
            progress_bar={"desc": "  cells", "leave": False, "dynamic_ncols": True} if progress else False,
            extra_arguments=QUIET_KERNEL,
        )
        partial.replace(target)
        failed.unlink(missing_ok=True)
    except FAILURES as error:
        partial.replace(failed)
        sentence = failure(task.path.name, read(failed), error)
        raise CourseError(f"{sentence} The half-run copy: {shown(failed)}.") from error
    finally:
        partial.unlink(missing_ok=True)
    made = [name for name, stamp in stamps(build).items() if before.get(name) != stamp]
    seconds = round(time.perf_counter() - start, 1)
    return {"key": task.key, "seconds": seconds, "made": made, "parameters": task.parameters}


def failure(name: str, notebook: nbformat.NotebookNode, error: Exception) -> str:
    """Say in one sentence which cell of a notebook failed (counted from 1 as in the source) and how."""
    own = [
        cell for cell in notebook.cells if not {"injected-parameters", "papermill-error-cell-tag"} & {*tags_of(cell)}
    ]
    troubled = [number for number, cell in enumerate(own, 1) if stopped(cell)]
    where = f"in cell {troubled[0]}" if troubled else "before its first cell"
    if isinstance(error, DeadKernelError):
        reason = "the kernel died, most often for want of memory"
    elif isinstance(error, nbclient.exceptions.CellTimeoutError):
        reason = "the cell ran longer than its time limit (--timeout)"
    else:
        reason = last_line(str(error))
    return f"{name} failed {where}: {reason.rstrip('.')}."


def stopped(cell: nbformat.NotebookNode) -> bool:
    """Say whether execution ended in this cell: it raised an error or never came back."""
    raised = any(output.output_type == "error" for output in cell.get("outputs", []))
    return raised or cell.metadata.get("papermill", {}).get("status") in ("failed", "running")


def last_line(text: str) -> str:
    """Return the last line of a traceback that says something, without terminal colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    return next((line for line in reversed(lines) if line), "no message")


def run_course(
    folder: Path = NOTEBOOK_DIR,
    build: Path = BUILD_DIR,
    *,
    profile: str = "quick",
    only: str | None = None,
    parameters: Sequence[tuple[str, str]] = (),
    fresh: bool = False,
    timeout: float | None = None,
    jobs: int = 1,
) -> dict:
    """Execute the notebooks that have not run on these very inputs, `jobs` at a time, and return the record of all;
    CourseError for the first that fails: those beside it are given up."""
    build = apart(build, folder)
    paths = find_notebooks(folder, only)
    chosen, code = choose_parameters(paths, profile, parameters), code_hash()
    tasks = [Task(path, chosen[path], input_hash(path, chosen[path], code)) for path in paths]
    refuse_foreign(tasks, build)
    state = read_state(build)
    for leftover in (build / "notebooks").glob(".state.json.*.partial"):  # of a run that was killed
        leftover.unlink()
    due = [task for task in tasks if fresh or not is_done(task, state, build)]
    if jobs > 1:  # the longest start first, and no two of them draw the faces
        seconds = running_seconds()
        due.sort(key=lambda task: -seconds.get(task.name, 0))
        asking = [task for task in due if "dataset" in parameters_of(task.path)]
        if any(task.parameters.get("dataset", "synthetic") == "synthetic" for task in asking):
            load_faces("synthetic")
    with progress_bar(desc="course", total=len(tasks)) as bar:
        for task in tasks:
            if task in due:
                state.pop(task.name, None)
            else:
                bar.write(f"{task.name}: unchanged since its last run, not run again (--fresh does)", file=sys.stderr)
                bar.update()
        write_state(build, state)
        calls = [(task, build, timeout or CELL_TIMEOUT[profile], jobs == 1) for task in due]
        try:
            for number, record in finished(run_notebook, calls, jobs):
                if trouble := record.get("error") or record.get("failure"):
                    raise CourseError(trouble)
                state[due[number].name] = record
                write_state(build, state)
                bar.write(f"{due[number].name}: {record['seconds']:.0f} s", file=sys.stderr)
                bar.update()
        finally:
            for task in due:  # of a worker that was ended
                places_of(task, build)[2].unlink(missing_ok=True)
    return state


def refresh_in_place(folder: Path = NOTEBOOK_DIR, *, only: str | None = None, timeout: float | None = None) -> None:
    """Execute the notebooks with their defaults and store the outputs in them, less what varies from run to run."""
    paths = find_notebooks(folder, only)
    with progress_bar(desc="notebooks", total=len(paths)) as bar:
        for path in paths:
            bar.set_description(path.stem)
            notebook = tidy(read(path))
            client = nbclient.NotebookClient(
                notebook,
                timeout=timeout or CELL_TIMEOUT["quick"],
                kernel_name="python3",
                resources={"metadata": {"path": str(path.parent)}},
                record_timing=False,
                extra_arguments=QUIET_KERNEL,
            )
            try:
                client.execute()
            except (CellControlSignal, DeadKernelError) as error:
                sentence = failure(path.name, notebook, error)
                raise CourseError(f"{sentence} The stored notebook was left as it was.") from error
            save(tidy(notebook), path)
            if path.parent == NOTEBOOK_DIR and path.name.startswith("00_"):
                with atomic_path(README_PICTURE) as temporary:
                    temporary.write_bytes(picture_of(notebook))
            bar.update()


def setup_of(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Return a notebook's set-up cell, its first code cell, tagged 'setup'; CourseError without one."""
    first = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    if first is None or "setup" not in tags_of(first):
        raise CourseError(f"The first code cell of {name} is not tagged 'setup'.")
    return first


def sync_setup(folder: Path = NOTEBOOK_DIR) -> list[str]:
    """Copy notebook 00's set-up cell into the others, exercises and solutions, outputs kept; name those it changed."""
    paths = [path for place in (folder, folder / "solutions") for path in sorted(place.glob("[0-9][0-9]_*.ipynb"))]
    source = setup_of(read(find_notebooks(folder)[0]), "the first notebook").source
    changed = []
    for path in paths:
        notebook = read(path)
        cell = setup_of(notebook, path.name)
        if cell.source != source:
            cell.source = source
            save(notebook, path)
            changed.append(shown(path))
    return changed


def results_text(build: Path = BUILD_DIR) -> Table:
    """Return the table of build/results.json (method, forget, retain, unseen, seconds), empty if there is none yet."""
    path = build / "results.json"
    return results_table(read_results(path)) if path.exists() else Table()


def make_site(folder: Path = NOTEBOOK_DIR, build: Path = BUILD_DIR, jobs: int = 1) -> Path:
    """Build the pages of all notebooks, from their latest run where there is one and as stored otherwise."""
    state = read_state(build)
    sources = {}
    for path in find_notebooks(folder):
        executed = build / "notebooks" / path.name
        sources[path.stem] = executed if path.stem in state and executed.exists() else path
    documents = sorted((folder.parent / "docs").glob("*.md"))
    return build_site(sources, build / "site", folder, results_text(build), documents, jobs)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m utils.course", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", choices=PROFILES, default="quick", help="quick (default) or full")
    parser.add_argument("--only", metavar="NN,NN", help="numbers of the notebooks to run, such as 02,03")
    given = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    said = "give a parameter to every notebook that declares it"
    parser.add_argument("-p", "--parameter", dest="parameters", **given, help=said)
    parser.add_argument("--fresh", action="store_true", help="run again what has not changed since its last run")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="time limit for one cell")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="notebooks at a time, each with one thread")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOK_DIR, help="folder of the notebooks")
    parser.add_argument("--build", type=Path, default=BUILD_DIR, help="folder for executed notebooks, results and site")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--in-place", action="store_true", help="run with the defaults, store the outputs in place")
    mode.add_argument("--site-only", action="store_true", help="run nothing, build the pages from what there is")
    mode.add_argument("--check", action="store_true", help="run nothing, check the environment and print its versions")
    mode.add_argument("--clean", action="store_true", help="run nothing, remove what earlier runs made in --build")
    mode.add_argument("--sync-setup", action="store_true", help="run nothing, copy notebook 00's set-up cell to all")
    return parser.parse_args(argv)


def perform(arguments: argparse.Namespace) -> None:
    """Do what the command line asks; CourseError."""
    folder, build = resolved(arguments.notebooks), arguments.build
    if arguments.check:
        print("\n".join(f"{name:16} {version}" for name, version in check_environment().items()))
        return
    if arguments.clean:
        print(f"Removed {len(clean(resolved(build)))} files that the course had made.")
        return
    if arguments.sync_setup:
        print("\n".join(sync_setup(folder)) or "All set-up cells are the same already.")
        return
    if arguments.in_place:
        if arguments.parameters or arguments.profile != "quick":
            raise CourseError("--in-place stores the notebooks as their defaults run them; leave out -p and --profile.")
        refresh_in_place(folder, only=arguments.only, timeout=arguments.timeout)
        return
    build = apart(build, folder)
    if not arguments.site_only:
        names = ("profile", "only", "parameters", "fresh", "timeout", "jobs")
        run_course(folder, build, **{name: getattr(arguments, name) for name in names})
    index = make_site(folder, build, arguments.jobs)
    table = results_text(build)
    print(f"\n{table}\n" if table else "", f"Site: {shown(index)}", sep="")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 only if every notebook ran."""
    printable_output()
    try:
        perform(parse_arguments(argv))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0
