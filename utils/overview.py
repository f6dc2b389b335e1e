"""What README and the documents show of the results, written into them by one command: `python -m utils.overview`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import nbformat
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import settings
from .benchmark import Plan, open_splits, read_results
from .course import find_notebooks, read, read_state
from .figures import CHANCE, FORGET, INK, ORIGINAL, RETRAIN, UNSEEN
from .results import by_setting, percent
from .settings import BUILD_DIR, REPO_ROOT, CourseError, atomic_path, command
from .site import plain, question_of, tags_of
from .tables import text_table
from .unlearning import METHODS

PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md")
BLOCK = re.compile(r"(<!-- results: python -m (utils\.\w+) (.*?) -->\n)(.*?)(<!-- /results -->)", re.DOTALL)
RESULTS = REPO_ROOT / "data" / "results" / "synthetic_quick.json"
FRONT_PICTURE = REPO_ROOT / "data" / "figures" / "front.png"
# Beside the documents and not in data/: a new measurement must not make `make run` run every notebook again.
MINUTES_FILE = REPO_ROOT / "docs" / "minutes.json"
WORDS_A_MINUTE, SECONDS_A_LINE = 200, 5
REFERENCES = {"original": ("s", ORIGINAL), "retrain": ("D", RETRAIN)}
RELABELLING = ("random_labels", "random_labels_resampled", "salun")
PAPER = ("dispersion_uniform", "dispersion_hard")  # the two losses that the paper's abstract names, as we read it
RECOMMENDED = "gather_scatter"
BUDGETS = (0, 1_000, 6_500, 10_000)  # images; where one row of the table of budgets ends and the next begins


# ---------------------------------------------------------------------------------------------------------- minutes


def reading_minutes(notebook: nbformat.NotebookNode) -> float:
    """Return words / 200 + lines of code x 5 seconds, in minutes; the folded set-up cell is left out."""
    prose = [plain(re.sub(r"<[^>]+>", " ", cell.source)) for cell in notebook.cells if cell.cell_type == "markdown"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and "setup" not in tags_of(cell)]
    lines = sum(bool(line.strip()) for cell in code for line in cell.source.splitlines())
    return sum(len(text.split()) for text in prose) / WORDS_A_MINUTE + lines * SECONDS_A_LINE / 60


def running_seconds(path: Path = MINUTES_FILE) -> dict[str, float]:
    """Return the seconds each notebook took in the run that was stored, by name; empty if none was measured."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))["seconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} is not a record of minutes; delete it and run --minutes again.") from error


def measure(build: Path = BUILD_DIR, path: Path = MINUTES_FILE) -> dict[str, float]:
    """Store the seconds that the latest quick run of every notebook took in `build`; CourseError if one did not run."""
    state = read_state(build)
    ran = {name: record["seconds"] for name, record in state.items() if not record.get("parameters")}
    missing = [notebook.stem for notebook in find_notebooks() if notebook.stem not in ran]
    if missing:
        raise CourseError(f"Not run with its defaults in {build}: {', '.join(missing)}; 'make run' does that.")
    seconds = {notebook.stem: ran[notebook.stem] for notebook in find_notebooks()}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"schema": 1, "seconds": seconds}, indent=1) + "\n", encoding="utf-8")
    return seconds


def minutes_text(notebook: nbformat.NotebookNode, seconds: float | None) -> str:
    """Return a notebook's minutes: those of reading, and those of running if they were measured."""
    run = "not measured here" if seconds is None else f"{max(1, round(seconds / 60))}"
    return f"reading {max(1, round(reading_minutes(notebook)))}, running {run}"


def contents(folder: Path | None = None) -> str:
    """Return a line per notebook: its number, name, question and minutes."""
    seconds, lines = running_seconds(), []
    for path in find_notebooks(folder) if folder else find_notebooks():
        notebook, name = read(path), path.stem[3:].replace("_", " ").capitalize()
        minutes = minutes_text(notebook, seconds.get(path.stem))
        lines.append(
            f"- {path.stem[:2]} [{name}](notebooks/{path.name}): {question_of(notebook, path.stem)} *({minutes})*"
        )
    return "\n".join(lines)


def links() -> str:
    """Return where the course can be opened, and that its repository is not published while it is not."""
    first = find_notebooks()[0].name
    colab = f"https://colab.research.google.com/github/{settings.REPOSITORY}/blob/main/notebooks/{first}"
    line = f"[Open in Colab]({colab}) · [read the stored notebooks](notebooks/{first}) · the web site: `make run`"
    if settings.PUBLISHED:
        return line
    return f"**The repository is not published yet:** the Colab links will not work until it is.\n\n{line}"


# ---------------------------------------------------------------------------------------------------------- results


def runs_by_method(path: Path = RESULTS) -> dict[str, list[dict]]:
    """Return a file's runs by method, in the order of the tables, one for each seed; CourseError if a method was run in
    two settings, which nobody should average."""
    runs = [run for run in read_results(path)["runs"] if not run.get("dev") and "error" not in run]
    found = by_setting(sorted(runs, key=lambda run: run["seed"]))
    if mixed := [label for label, group in found.items() if label != group[0]["method"]]:
        raise CourseError(f"{path} holds several settings of one method: {', '.join(mixed[:4])}; keep one in it.")
    return {name: found[name] for name in METHODS if name in found}


def mean_map(runs: Sequence[Mapping], pool: str) -> float:
    """Return a pool's mAP, the mean over runs, in percent."""
    return 100 * fmean(run[pool]["map"] for run in runs)


def lowest(runs: Mapping[str, Sequence[Mapping]], names: Iterable[str]) -> str:
    """Return the one of these methods that has the lowest forget mAP."""
    return min((name for name in names if name in runs), key=lambda name: mean_map(runs[name], "forget"))


def forget_queries(runs: Sequence[Mapping]) -> list[int]:
    """Return how many held-out photos of forgotten people each run searched for, counted in the faces of its seed."""
    opened: dict = {}
    counts = []
    for run in runs:
        plan = Plan(dataset=run["dataset"], backbone=run["backbone"], forget=run["n_forget"])
        splits = open_splits(plan, run["seed"], opened, False)
        if [splits.faces.identities[i] for i in splits.forget] != run["forget_ids"]:
            raise CourseError("The faces of today are not those of the results; run the benchmark again.")
        counts.append(len(splits.photos("forget", "query")))
    return counts


def summary(path: Path = RESULTS) -> str:
    """Return the five rows of the first page as Markdown: two yardsticks, the best of two families, our own."""
    runs = runs_by_method(path)
    chosen = {
        "original": "",
        "retrain": "",
        lowest(runs, RELABELLING): "best relabelling: ",
        lowest(runs, PAPER): "the paper's idea: ",
        RECOMMENDED: "recommended: ",
    }
    rows = [["method", "queries", "forget R@1 ↓", "forget mAP ↓", "retain mAP ↑", "unseen mAP ↑"]]
    counts = forget_queries(runs["original"])
    for name, role in chosen.items():
        scores = [("forget", "r1"), ("forget", "map"), ("retain", "map"), ("unseen", "map")]
        cells = [percent([run[pool][score] for run in runs[name]]) for pool, score in scores]
        rows.append([role + METHODS[name].title, str(sum(counts[: len(runs[name])])), *cells])
    return text_table(rows, markdown=True)


def budgets(path: Path = RESULTS) -> str:
    """Return as Markdown how many images the methods looked at, in few rows from the smallest budget to the largest."""
    images = {name: fmean(run["images_processed"] for run in runs) for name, runs in runs_by_method(path).items()}
    rows = [["images", "methods"]]
    for low, high in zip(BUDGETS, (*BUDGETS[1:], float("inf")), strict=True):
        inside = sorted((count, name) for name, count in images.items() if low < count <= high)
        if inside:
            said = ", ".join(f"{METHODS[name].title} ({count:,.0f})" for count, name in inside)
            limits = f"more than {low:,}" if high == float("inf") else f"{low + 1:,} to {high:,}"
            rows.append([limits, said])
    return text_table(rows, markdown=True)


# ----------------------------------------------------------------------------------------------------------- figure


def front_points(path: Path = RESULTS) -> dict[str, tuple[float, float]]:
    """Return each method's (unseen mAP, forget mAP) in percent, the means over seeds."""
    runs = runs_by_method(path)
    return {name: tuple(round(mean_map(rows, pool), 2) for pool in ("unseen", "forget")) for name, rows in runs.items()}


def front_of(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the methods that no other beats in both, from the best hidden up; the two yardsticks take no part."""
    front: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][1], -points[name][0])):
        if name not in REFERENCES and (not front or points[name][0] > points[front[-1]][0]):
            front.append(name)
    return front


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return heights moved as little as needed to lie `gap` apart between `low` and `high`, in their old order."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = dict.fromkeys(order, low)
    floor = low
    for i in order:
        placed[i] = floor = max(heights[i], floor)
        floor += gap
    roof = high
    for i in reversed(order):
        placed[i] = min(placed[i], roof)
        roof = placed[i] - gap
    return [placed[i] for i in range(len(heights))]


def front_figure(points: Mapping[str, tuple[float, float]]) -> Figure:
    """Show forget mAP against unseen mAP, a point per method and its name at the right; best is lower right."""
    fig = Figure(figsize=(5.2, 8.2), dpi=150)
    ax = fig.add_axes((0.125, 0.07, 0.43, 0.86))
    front = front_of(points)
    ax.plot(*zip(*(points[name] for name in front), strict=True), color=FORGET, linewidth=2, alpha=0.55, zorder=2)
    right = max(x for x, _ in points.values()) + 0.6
    ax.set(xlim=(min(x for x, _ in points.values()) - 0.6, right), ylim=(-2, 103))
    names = sorted(points, key=lambda name: (points[name][1], points[name][0]))
    heights = spread([points[name][1] for name in names], min(2.7, 104 / len(names)), -1.5, 102.5)
    for name, height in zip(names, heights, strict=True):
        x, y = points[name]
        marker, colour = REFERENCES.get(name, ("o", FORGET if name in front else CHANCE))
        ax.plot(x, y, marker, color=colour, markersize=7, markeredgecolor="white", markeredgewidth=0.7, zorder=3)
        line = dict(arrowstyle="-", color=colour, linewidth=0.6, alpha=0.7, shrinkA=2, shrinkB=0, relpos=(0, 0.5))
        label = dict(fontsize=9, va="center", color=INK if name not in REFERENCES else colour)
        text = ax.annotate(METHODS[name].title, (x, y), (right + 0.7, height), arrowprops=line, **label)
        text.set_fontweight("bold" if name in front or name in REFERENCES else "normal")
    ax.set_xlabel("unseen mAP, % (higher is better)", color=UNSEEN, fontsize=10)
    ax.set_ylabel("forget mAP, % (lower is better)", color=FORGET, fontsize=10)
    ax.tick_params(labelsize=9)
    ax.grid(True, color="#DDDDDD", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    fig.text(0.02, 0.972, "Hidden, and at what price for strangers?", fontsize=12, weight="bold", color=INK)
    fig.text(0.02, 0.95, "Orange: nothing else is better in both. Best is lower right.", fontsize=9, color=FORGET)
    return fig


def draw_front(path: Path = FRONT_PICTURE) -> None:
    """Write the picture of the first page; the points it shows go into the file, so that an old one is known."""
    points, full = front_points(), io.BytesIO()
    front_figure(points).savefig(full, format="png")
    shown = PngInfo()
    shown.add_text("points", json.dumps(points))
    small = Image.open(full).convert("RGB").quantize(64, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        small.save(temporary, format="png", optimize=True, pnginfo=shown)


def points_drawn(path: Path = FRONT_PICTURE) -> dict[str, tuple[float, float]]:
    """Return the points that the stored picture shows; empty without a picture."""
    if not path.is_file():
        return {}
    with Image.open(path) as picture:
        return {name: tuple(point) for name, point in json.loads(picture.text.get("points", "{}")).items()}


# ------------------------------------------------------------------------------------------------------------ pages


def pages(root: Path = REPO_ROOT) -> list[Path]:
    """Return the documents that hold what commands write."""
    return [path for pattern in PAGES for path in sorted(root.glob(pattern))]


def output_of(module: str, command: str) -> str:
    """Return what a module of the course prints for a command line, run at the repository's root; CourseError."""
    said, failed = io.StringIO(), io.StringIO()
    with contextlib.chdir(REPO_ROOT), contextlib.redirect_stdout(said), contextlib.redirect_stderr(failed):
        code = importlib.import_module(module).main(shlex.split(command))
    if code:
        raise CourseError(f"python -m {module} {command} failed: {failed.getvalue().strip()}")
    return said.getvalue().strip()


def refreshed(text: str) -> str:
    """Return a document with every block between its two comments written anew by the command in the first."""
    return BLOCK.sub(lambda found: f"{found[1]}{output_of(found[2], found[3])}\n{found[5]}", text)


def write_all() -> list[str]:
    """Write every block of every document anew, and the picture if its points moved; return what changed."""
    changed = []
    for path in pages():
        old = path.read_text(encoding="utf-8")
        new = refreshed(old)
        if new != old:
            with atomic_path(path) as temporary:
                temporary.write_text(new, encoding="utf-8")
            changed.append(str(path.relative_to(REPO_ROOT)))
    if points_drawn() != front_points():
        draw_front()
        changed.append(str(FRONT_PICTURE.relative_to(REPO_ROOT)))
    return changed


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m utils.overview", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    flag = {"action": "store_true"}
    mode.add_argument("--write", **flag, help="write every table and list of README, CONTRIBUTING and docs anew")
    mode.add_argument("--figure", **flag, help="draw the first page's figure")
    mode.add_argument("--minutes", **flag, help="store how long each notebook took in the latest 'make run'")
    mode.add_argument("--contents", **flag, help="print the list of notebooks with their minutes")
    mode.add_argument("--links", **flag, help="print where the course can be opened")
    mode.add_argument("--summary", **flag, help="print the first page's table")
    mode.add_argument("--budgets", **flag, help="print how many images the methods look at")
    parser.add_argument("--build", type=Path, default=BUILD_DIR, metavar="DIR", help="the run that --minutes reads")
    return parser


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong."""
    args = make_parser().parse_args(arguments)
    printed = {"contents": contents, "links": links, "summary": summary, "budgets": budgets}
    if args.write:
        print("\n".join(write_all()) or "Everything is up to date.")
    elif args.figure:
        draw_front()
    elif args.minutes:
        print("\n".join(f"{name}: {seconds:.0f} s" for name, seconds in measure(args.build).items()))
    print(*(function() for name, function in printed.items() if getattr(args, name)), sep="\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
