"""The course on real faces with a real recogniser: five notebooks on LFW with dlib's model, a table and a site."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..experiments.plan import Plan, prepared
from ..models.backbones import make_backbone
from ..settings import BUILD_PLACE, REPO_ROOT, CourseError, command, resolved
from .course import NOTEBOOK_DIR, make_site, results_text, run_course
from .places import shown

NOTEBOOKS = "03,05,08,09,10"
COMPARED = "random_labels,esc,dispersion,gather_scatter"  # in notebooks 08 to 10
WANTED = "make real LFW=/path/to/lfw-deepfunneled"


def faces_folder(root: str) -> Path:
    """Return the folder of LFW as a full path; raises CourseError if none is named or there."""
    if not root:
        raise CourseError(f"Say where the photos of LFW are: {WANTED}; data/README.md says where to get them.")
    folder = resolved(root)
    if not folder.is_dir():
        raise CourseError(f"There is no folder {folder}: name the one with LFW's people, {WANTED}.")
    return folder


def parameters(root: Path, build: Path, numbers: Sequence[str]) -> list[tuple[str, str]]:
    """Return the parameters of some notebooks: LFW, dlib's model, few methods, and the results of this very run."""
    chosen, results = {"dataset": "lfw", "root": str(root), "backbone": "dlib"}, build / "results.json"
    if {"08", "09", "10"} & set(numbers):
        chosen["methods"] = COMPARED
    if "09" in numbers and results.exists():
        chosen["results"] = str(results)
    return list(chosen.items())


def run_real(
    root: str, build: Path, *, only: str = NOTEBOOKS, profile: str = "quick", fresh: bool = False, jobs: int = 1
) -> Path:
    """Run notebooks on LFW with dlib's model, results and copies in `build`, and return the site's first page;
    CourseError where the photos or the recogniser are missing."""
    folder, build = faces_folder(root), resolved(build)
    make_backbone("dlib", "auto")  # one sentence at once where its file is missing
    # what takes longest is done before the first cell and kept: the crops, and what the resting layers make of them
    prepared(Plan(dataset="lfw", root=str(folder), backbone="dlib"), 0, {}, progress=True)
    os.environ[BUILD_PLACE] = str(build)  # the notebooks' kernels look there
    numbers = [number.strip() for number in only.split(",")]
    options = {"profile": profile, "fresh": fresh, "jobs": jobs}
    last = [number for number in numbers if number == "09"]  # it shows the others' results
    for some in ([number for number in numbers if number != "09"], last):
        if some:
            chosen = parameters(folder, build, some)
            run_course(NOTEBOOK_DIR, build, only=",".join(some), parameters=chosen, **options)
    return make_site(NOTEBOOK_DIR, build)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what is missing or went wrong."""
    parser = argparse.ArgumentParser(prog="python -m utils.real", description=__doc__)
    parser.add_argument("--root", default="", metavar="DIR", help="the folder of LFW's people")
    parser.add_argument("--build", type=Path, default=REPO_ROOT / "build" / "real", metavar="DIR", help="where it goes")
    parser.add_argument("--only", default=NOTEBOOKS, metavar="NN,NN", help=f"numbers of notebooks ({NOTEBOOKS})")
    parser.add_argument("--profile", default="quick", help="quick (default) or full")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="notebooks at a time, each with one thread")
    parser.add_argument("--fresh", action="store_true", help="run again what has not changed since its last run")
    args = parser.parse_args(arguments)
    options = {name: getattr(args, name) for name in ("only", "profile", "fresh", "jobs")}
    index = run_real(args.root, args.build, **options)
    print(f"\n{results_text(resolved(args.build))}\n\nSite: {shown(index)}")
    return 0
