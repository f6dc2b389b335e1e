"""What README, documents and notebooks show of results, minutes and address, written into them by one command."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import nbformat
from matplotlib import rc_context
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import settings
from ..experiments.audit_summary import read_audits, verdict
from ..experiments.benchmark import read_results
from ..experiments.plan import STORED
from ..experiments.results import full_config
from ..experiments.sequence import read_sequence
from ..experiments.tables import percent, remark, score_cells, with_remarks
from ..experiments.worlds import REAL, RESULTS, SECOND, done, mean_scores, never_failed, runs_by_method
from ..lessons.figures.base import compact_png
from ..lessons.figures.fronts import front_figure
from ..lessons.figures.palette import STYLE
from ..lessons.figures.photos import run_searches, six_answers
from ..lessons.session import open_session
from ..settings import BUILD_DIR, REPO_ROOT, CourseError, atomic_path, command
from ..tables import text_table
from ..unlearning.registry import METHODS, RECOMMENDED
from .course import NOTEBOOK_DIR, find_notebooks, read, read_state, save, setup_of
from .site import MINUTES, MINUTES_FILE, minutes_text, question_of, running_seconds
from .solutions import SOLUTIONS, exercise_version

PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md")
BADGE = re.compile(r"^\[!\[Open in Colab].*$", re.MULTILINE)
CLONE = re.compile(r"!git clone .*")
BLOCK = re.compile(r"(<!-- results: python -m (utils\.\w+) (.*?) -->\n)(.*?)(<!-- /results -->)", re.DOTALL)
FRONT_PICTURE = REPO_ROOT / "data" / "figures" / "front.png"
SIX_PICTURE = REPO_ROOT / "data" / "figures" / "six_answers.png"
ANSWERING = {
    "relabelled": "random_labels",
    "retrained": "retrain",
    "dispersed": RECOMMENDED,
    "block list": "block_list",
}
RELABELLING = ("random_labels", "random_labels_resampled", "salun", "salun_fixed")
PAPER = ("dispersion_uniform_alone", "dispersion_hard_alone")  # the paper's own setting: forget photos and no others
COMPARED = (("forget", "r1", "R@1", "↓"), ("forget", "map", "mAP", "↓"), ("unseen", "map", "mAP", "↑"))
BUDGETS = (0, 1_000, 6_500, 10_000)  # images; where one row of the table of budgets ends and the next begins


# ---------------------------------------------------------------------------------------------------------- minutes


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


def minutes() -> dict[Path, str]:
    """Return what each notebook's minutes are, by its file."""
    seconds = running_seconds()
    return {path: minutes_text(read(path), seconds.get(path.stem)) for path in find_notebooks()}


def contents() -> str:
    """Return a line per notebook: its number, name, question and minutes."""
    lines = []
    for path, said in minutes().items():
        name, question = path.stem[3:].replace("_", " ").capitalize(), question_of(read(path), path.stem)
        lines.append(f"- {path.stem[:2]} [{name}](notebooks/{path.name}): {question} *({said})*")
    return "\n".join(lines)


def timetable() -> str:
    """Return a Markdown table of the notebooks and their minutes, for a page in docs/."""
    rows = [[f"[{path.stem[:2]}](../notebooks/{path.name})", said] for path, said in minutes().items()]
    return text_table([["notebook", "minutes of one reader"], *rows], markdown=True)


# -------------------------------------------------------------------------------------------------------- notebooks


def colab(place: str) -> str:
    """Return where Colab opens a notebook of the course, named as seen from the repository's root."""
    return f"https://colab.research.google.com/github/{settings.REPOSITORY}/blob/main/{place}"


def links() -> str:
    """Return where the course can be opened, and that its repository is not published while it is not."""
    first = f"notebooks/{find_notebooks()[0].name}"
    line = f"[Open in Colab]({colab(first)}) · [read the stored notebooks]({first}) · the web site: `make run`"
    if settings.PUBLISHED:
        return line
    return f"**The repository is not published yet:** the Colab links will not work until it is.\n\n{line}"


def stamped(notebook: nbformat.NotebookNode, place: str) -> nbformat.NotebookNode:
    """Return a notebook whose badge, minutes and set-up cell are today's; CourseError if it lacks the place for one."""
    new, name = nbformat.from_dict(notebook), Path(place).name
    seconds = running_seconds().get(Path(place).stem)
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab(place)})"
    told = f"Minutes: {minutes_text(exercise_version(new), seconds)}"
    clone = f"!git clone -q --depth 1 https://github.com/{settings.REPOSITORY} course"
    fixed = ((new.cells[0], BADGE, badge), (new.cells[0], MINUTES, told), (setup_of(new, name), CLONE, clone))
    for cell, pattern, text in fixed:
        cell.source, found = pattern.subn(lambda _, text=text: text, cell.source)
        if found != 1:
            raise CourseError(f"{name} has {found} lines like '{text}' in cell {cell.id}; it needs one.")
    return new


def write_notebooks() -> list[Path]:
    """Write the address and the minutes into all notebooks, outputs kept, and return those that changed."""
    changed = []
    for path in [*find_notebooks(), *find_notebooks(NOTEBOOK_DIR / SOLUTIONS)]:
        old = read(path)
        if (new := stamped(old, path.relative_to(REPO_ROOT).as_posix())) != old:
            save(new, path)
            changed.append(path)
    return changed


# ---------------------------------------------------------------------------------------------------------- results


def mean_map(runs: Sequence[Mapping], pool: str) -> float:
    """Return a pool's mAP, the mean over runs."""
    return fmean(run[pool]["map"] for run in runs)


def lowest(path: Path, names: Iterable[str]) -> str:
    """Return the one of these methods that has the lowest forget mAP, of those that had a result with every seed."""
    runs = never_failed(path)
    return min((name for name in names if name in runs), key=lambda name: mean_map(runs[name], "forget"))


def forget_queries(runs: Sequence[Mapping]) -> list[int]:
    """Return how many held-out photos of forgotten people each run searched for."""
    return [run["n_queries"]["forget"] for run in runs]


def queries(path: Path = REAL) -> str:
    """Return how many searches for forgotten people a file's runs rest on, seed by seed."""
    runs = done(runs_by_method(path)["original"])
    told = [f"{count} at seed {run['seed']}" for run, count in zip(runs, forget_queries(runs), strict=True)]
    return f"Searches for a forgotten person: {', '.join(told)}."


def summary(drawn: Path = RESULTS, real: Path = REAL) -> str:
    """Return the five rows of the first page as Markdown, on drawn and on real faces: two yardsticks, and what changes
    weights: the best of two families, and what the course recommends."""
    worlds = {"drawn": runs_by_method(drawn), "real": runs_by_method(real)}
    chosen = {
        "original": "",
        "retrain": "",
        lowest(drawn, RELABELLING): "best relabelling: ",
        lowest(drawn, PAPER): "the paper's own setting: ",
        RECOMMENDED: "recommended: ",
    }
    header = ["forget R@1 ↓", "forget mAP ↓", "unseen mAP ↑"]
    rows, remarks = [["method", *(f"{name}, {world}" for world in worlds for name in header)]], []
    for name, role in chosen.items():
        groups = [runs.get(name, []) for runs in worlds.values()]
        cells = [cell for runs in groups for cell in score_cells(runs, [(p, s) for p, s, *_ in COMPARED])]
        rows.append([role + METHODS[name].title, *cells])
        remarks.append(remark([run for runs in groups for run in runs]))
    asked = " and ".join(f"{sum(forget_queries(done(runs['original'])))} on {name}" for name, runs in worlds.items())
    return text_table(
        with_remarks(rows, remarks),
        True,
        [f"Searches for a forgotten person, on which the forget scores rest: {asked} faces."],
    )


def networks(first: Path = RESULTS, second: Path = SECOND) -> str:
    """Return as Markdown what methods do to two pretrained networks, and to both: ± is half the range, over three
    forget sets for one network, and over forget sets and networks for both."""
    one, other = runs_by_method(first), runs_by_method(second)
    columns = {f"{pool} {word} {arrow}": (pool, score) for pool, score, word, arrow in COMPARED}
    rows = [["class", "method", *(f"{name}, {which}" for name in columns for which in ("first", "second", "both"))]]
    remarks = []
    for name in (name for name in one if name in other):
        groups = one[name], other[name], [*one[name], *other[name]]
        shares = [cell for column in columns.values() for runs in groups for cell in score_cells(runs, [column])]
        rows.append([METHODS[name].kind, METHODS[name].title, *shares])
        remarks.append(remark(groups[-1]))
    return text_table(with_remarks(rows, remarks), markdown=True)


def budgets(path: Path = RESULTS) -> str:
    """Return as Markdown how many images the methods looked at, in few rows from the smallest budget to the largest."""
    known = runs_by_method(path)
    images = {name: fmean(run["images_processed"] for run in done(runs)) for name, runs in known.items() if done(runs)}
    failed = {name: remark(runs) for name, runs in known.items() if remark(runs)}
    rows = [["images", "methods"]]
    for low, high in zip(BUDGETS, (*BUDGETS[1:], float("inf")), strict=True):
        inside = sorted((count, name) for name, count in images.items() if low < count <= high)
        if inside:
            said = ", ".join(f"{METHODS[name].title} ({count:,.0f})" for count, name in inside)
            limits = f"more than {low:,}" if high == float("inf") else f"{low + 1:,} to {high:,}"
            rows.append([limits, said])
    if failed:
        rows.append(["no result", ", ".join(f"{METHODS[name].title} ({note})" for name, note in failed.items())])
    return text_table(rows, markdown=True)


def compact(path: Path = RESULTS) -> str:
    """Return as Markdown how close one person's held-out photos lie, before and after the methods that disperse: the
    compactness that arXiv 2512.13317 scores, read as the mean cosine of all pairs, beside that of nearest ones; and how
    much of the order of retained people's answers stays."""
    runs = runs_by_method(path)
    shown = ["original", "retrain", *(name for name in runs if name.startswith("dispersion"))]
    scores = {"mean_cosine": "all pairs", "nearest_cosine": "nearest"}
    columns = [(pool, score) for pool in ("forget", "retain", "unseen") for score in scores]
    titles = [f"{pool}, {scores[score]}" for pool, score in columns]
    rows, remarks = [["method", *titles, "retain, order kept"]], []
    for name in shown:
        means = mean_scores(runs[name])
        order = [run["order_kept"] for run in done(runs[name]) if run.get("order_kept") is not None]
        known = [means.get(pool, {}).get(score) for pool, score in columns] + [fmean(order) if order else None]
        rows.append([METHODS[name].title, *("–" if mean is None else f"{mean:.2f}" for mean in known)])
        remarks.append(remark(runs[name]))
    return text_table(with_remarks(rows, remarks), markdown=True)


def aims() -> str:
    """Return as Markdown what was wanted of the recommended method before it was looked for, and what it reaches."""
    drawn, real = runs_by_method(RESULTS), runs_by_method(REAL)
    old, mine, real_old, real_mine = (runs[name] for runs in (drawn, real) for name in ("original", RECOMMENDED))
    sizes, networks = (read_results(STORED / f"synthetic_{name}.json")["runs"] for name in ("sizes", "facenet"))
    old_forty, forty = (
        [run for run in sizes if (run["method"], run["n_forget"]) == (name, 40)] for name in ("original", RECOMMENDED)
    )
    trained = [run for run in networks if run["train"]["epochs"] > 1]
    other = {run["method"]: run for run in trained if run["config"] == full_config(run["method"])["config"]}
    asked = [run for run in read_sequence() if run["method"] == RECOMMENDED]
    requests = [run["after"] for run in done(asked)]
    audits = done(read_audits())
    shipped, raw_old, raw = (
        [found if holder == "weights" else found["weights"] for run in audits if run["method"] == name
         for found in [verdict(run["audit"])[holder]]]
        for name, holder in ((RECOMMENDED, "weights"), ("retrain", "raw"), (RECOMMENDED, "raw"))
    )  # fmt: skip
    price = [run["images_processed"] for run in done(mine)]
    again = fmean(run["images_processed"] for run in done(drawn["retrain"]))
    at_first = {run["seed"]: run["unseen"]["map"] for run in done(real_old)}
    lost = [at_first[run["seed"]] - run["unseen"]["map"] for run in done(real_mine)]
    before, after = ([other[name][pool][score] for pool, score in (("forget", "map"), ("unseen", "r1"))] for name in
                     ("original", RECOMMENDED))  # fmt: skip

    def both(runs: Sequence[Sequence[Mapping]], pool: str, score: str = "map") -> list[list[float]]:
        return [[run[pool][score] for run in done(some)] for some in runs]

    def first(place: int) -> list[float]:
        return [after[place]["groups"][0] for after in requests]

    town = runs_by_method(STORED / "synthetic_other_town.json")
    strange = {run["seed"]: run for run in done(town["original"])}
    there = [(strange[run["seed"]], run) for run in done(town[RECOMMENDED])]
    ten, many, faces = (old, mine), (old_forty, forty), (real_old, real_mine)
    unseen = [[after[place]["unseen"] for after in requests] for place in (0, -1)]
    wanted = [
        ("ten of 120 drawn people", "forget R@1", "≤ 5", *both(ten, "forget", "r1")),
        ("", "forget mAP", "≤ 2.5", *both(ten, "forget")),
        ("", "retain mAP", "≥ 98.5", *both(ten, "retain")),
        ("", "unseen mAP", "≥ 84.5", *both(ten, "unseen")),
        ("", "images, of retraining's", "≤ 25", [], [images / again for images in price]),
        ("", "back to who holds the weights", "≤ 15", [], shipped),
        ("", "best layer's raw mAP, at most the retrained model's", f"≤ {100 * fmean(raw_old):.1f}", [], raw),
        ("forty of 120", "forget mAP", "≤ 5", *both(many, "forget")),
        ("", "unseen mAP", "≥ 76", *both(many, "unseen")),
        ("five, five and five", "first group's mAP", "≤ 4", first(0), first(-1)),
        ("", "unseen mAP", "≥ 82", *unseen),
        ("ten real people", "forget R@1", "≤ 15", *both(faces, "forget", "r1")),
        ("", "forget mAP", "≤ 4", *both(faces, "forget")),
        ("", "unseen mAP lost", "≤ 3", [], lost),
        ("facenet's network", "forget mAP, of the original's", "≤ 20", [], [after[0] / before[0]]),
        ("", "unseen R@1 lost", "≤ 3", [], [before[1] - after[1]]),
        ("ten of forty in another town", "forget mAP, of the original's", "≤ 20", [],
         [new["forget"]["map"] / was["forget"]["map"] for was, new in there]),
        ("", "unseen R@1 lost", "≤ 3", [], [was["unseen"]["r1"] - new["unseen"]["r1"] for was, new in there]),
    ]  # fmt: skip
    whose = [who for who, *_ in wanted if who]
    failed = dict(zip(whose, map(remark, (mine, forty, asked, real_mine, [], town[RECOMMENDED])), strict=True))
    rows, note = [["who is forgotten", "score", "wanted", "original", "reached", ""]], ""
    for who, score, aim, start, found in wanted:
        mean, limit = round(100 * fmean(found), 4) if found else math.nan, float(aim[2:])
        met = mean <= limit if aim.startswith("≤") else mean >= limit
        note = failed.get(who, note)
        said = ", ".join(filter(None, ["" if met else "missed", note]))
        rows.append([who, score, aim, percent(start) if start else "", percent(found), said])
    return text_table(rows, markdown=True)


# ----------------------------------------------------------------------------------------------------------- figure


def front_points(path: Path = RESULTS) -> dict[str, tuple[float, float]]:
    """Return each method's (unseen mAP, forget mAP) as shares, the means over seeds."""
    runs = never_failed(path)
    return {name: tuple(round(mean_map(rows, pool), 4) for pool in ("unseen", "forget")) for name, rows in runs.items()}


def draw_front(path: Path = FRONT_PICTURE) -> None:
    """Write the picture of the first page; the points it shows go into the file, so that an old one is known."""
    points, shown = front_points(), PngInfo()
    shown.add_text("points", json.dumps(points))
    with rc_context(STYLE | {"savefig.dpi": 150}):
        png, _ = compact_png(front_figure(points, title="Hidden, and at what price for strangers?"))
    with atomic_path(path) as temporary, Image.open(io.BytesIO(png)) as picture:
        picture.save(temporary, format="png", optimize=True, pnginfo=shown)


def points_drawn(path: Path = FRONT_PICTURE) -> dict[str, tuple[float, float]]:
    """Return the points that the stored picture shows; empty without a picture."""
    if not path.is_file():
        return {}
    with Image.open(path) as picture:
        return {name: tuple(point) for name, point in json.loads(picture.text.get("points", "{}")).items()}


def draw_six(path: Path = SIX_PICTURE) -> None:
    """Write the picture of one query and whom six models answer with, on drawn faces; it takes a few minutes."""
    session = open_session()
    splits = session.splits
    photo = next(i for i in splits.photos("forget", "query").tolist() if splits.faces.labels[i] == session.example())
    models = {"before": session.recogniser.model}
    models |= {name: session.forget(method).outcome.model for name, method in ANSWERING.items()}
    found = {name: run_searches(model, splits, [photo], k=1)[0] for name, model in models.items()}
    with rc_context(STYLE | {"savefig.dpi": 110}):
        png, _ = compact_png(six_answers(found, "One query, and the first answer of each model"))
    with atomic_path(path) as temporary:
        temporary.write_bytes(png)


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
    """Write anew what notebooks and documents show, and the picture if its points moved; return what changed."""
    changed = write_notebooks()
    for path in pages():
        old = path.read_text(encoding="utf-8")
        new = refreshed(old)
        if new != old:
            with atomic_path(path) as temporary:
                temporary.write_text(new, encoding="utf-8")
            changed.append(path)
    if points_drawn() != front_points():
        draw_front()
        changed.append(FRONT_PICTURE)
    return [str(path.relative_to(REPO_ROOT)) for path in changed]


WORK = {
    "write": "write anew what documents and notebooks show",
    "figure": "draw the first page's figure",
    "six": "draw the opening of notebook 09: one query, and whom six models answer with",
    "minutes": "store how long each notebook took in the latest 'make run'",
}
PRINTED = {
    part.__name__: part for part in (contents, timetable, links, summary, networks, budgets, compact, queries, aims)
}


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m utils.overview", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    told = {name: part.__doc__.replace("Return", "print", 1).rstrip(".") for name, part in PRINTED.items()}
    for name, text in (WORK | told).items():
        mode.add_argument(f"--{name}", dest="mode", action="store_const", const=name, help=text)
    parser.add_argument("--build", type=Path, default=BUILD_DIR, metavar="DIR", help="the run that --minutes reads")
    args = parser.parse_args(arguments)
    if args.mode == "write":
        print("\n".join(write_all()) or "Everything is up to date.")
    elif args.mode == "figure":
        draw_front()
    elif args.mode == "six":
        draw_six()
    elif args.mode == "minutes":
        print("\n".join(f"{name}: {seconds:.0f} s" for name, seconds in measure(args.build).items()))
    else:
        print(PRINTED[args.mode]())
    return 0
