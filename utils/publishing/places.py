"""Where runs and pages go: apart from their sources, and never over what the course did not make."""

from __future__ import annotations

import json
from pathlib import Path

from ..settings import BUILD_DIR, REPO_ROOT, CourseError, resolved, writable_folder
from .site import is_ours

OWN = ("notebooks", "utils", "tests", "docs", "data")  # folders of the course itself


def shown(path: Path) -> str:
    """Return a path as a person in the repository would type it."""
    return str(path.relative_to(REPO_ROOT) if path.is_relative_to(REPO_ROOT) else path)


def apart(build: Path, folder: Path) -> Path:
    """Return the build folder, tried by writing; CourseError if the runs would land on or around their sources."""
    build, folder = resolved(build), resolved(folder)
    runs = (build / "notebooks").resolve()
    if own := next((name for name in OWN if build.is_relative_to(REPO_ROOT / name)), None):
        raise CourseError(f"--build {build} lies in the course's own folder {own}; choose another folder.")
    if build.is_relative_to(folder) or runs.is_relative_to(folder) or folder.is_relative_to(runs):
        raise CourseError(f"--build {build} would write over the notebooks in {folder}; choose another folder.")
    return writable_folder(build)


def has_mark(path: Path, mark: str) -> bool:
    """Say whether a JSON file has the key that the course's runs write: papermill's record, or the list of runs."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return mark in found or mark in found["metadata"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def clean(build: Path = BUILD_DIR) -> list[Path]:
    """Remove the runs that the record names and the pages with the course's mark, and nothing else; return which."""
    record = build / "notebooks" / "state.json"
    names = json.loads(record.read_text(encoding="utf-8"))["notebooks"] if has_mark(record, "notebooks") else {}
    runs = [record.with_name(f"{name}{ending}") for name in names for ending in (".ipynb", ".failed.ipynb")]
    runs = [path for path in runs if has_mark(path, "papermill")] + ([record] if names else [])
    made = [*runs, *(path for path in sorted((build / "site").glob("*.html")) if is_ours(path))]
    for path in made:
        path.unlink()
    for folder in (build / "notebooks", build / "site"):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
    return made
