"""One store for every kind of results file: read, merged under a lock, resumed by key, written whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from .settings import CourseError, atomic_path, writable_file

PATIENCE = 60  # seconds to wait for another process that is writing the same file: it holds the lock for milliseconds


@dataclass(frozen=True)
class ResultStore:
    """The rows of one results file, under the name `part`; several processes may add to it at once. Notebook 09."""

    path: Path
    part: str = "runs"
    schema: int = 1
    command: str = "python -m utils.benchmark"

    def checked(self) -> ResultStore:
        """Return the store at the file its links lead to; raises CourseError, before any work, if nothing can go there
        or if what is there is no results file."""
        store = ResultStore(writable_file(self.path), self.part, self.schema, self.command)
        store.rows()
        return store

    def read(self) -> dict:
        """Return all that the file holds; raises CourseError if it is absent, damaged or of another schema."""
        try:
            content = json.loads(Path(self.path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CourseError(f"There are no results at {self.path}; run: {self.command} --out {self.path}.") from error
        except (OSError, ValueError) as error:
            raise CourseError(f"{self.path} is not a results file ({error}); move it away.") from error
        known = isinstance(content, dict) and content.get("schema") == self.schema
        if not (known and isinstance(content.get(self.part), list)):
            raise CourseError(f"{self.path} is not a results file of schema {self.schema}; move it away.")
        return content

    def rows(self) -> list[dict]:
        """Return the rows, none where there is no file yet or an empty one."""
        return self.read()[self.part] if Path(self.path).exists() and Path(self.path).stat().st_size else []

    def add(self, row: dict, key: Mapping, finish: Callable[[list[dict]], dict] | None = None) -> None:
        """Put a row in the place of those that agree with `key`, among what others have written by now.

        `finish` turns the rows into the file's content, for files that hold more than rows.
        """
        path = Path(self.path)
        try:
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=PATIENCE):
                rows = [old for old in self.rows() if not key.items() <= old.items()]
                rows.append(without_nan(row))
                write_results(path, finish(rows) if finish else {"schema": self.schema, self.part: rows})
        except (Timeout, OSError) as error:
            raise CourseError(
                f"{path} could not be written ({error}); choose another place, or end what holds it."
            ) from error


def write_results(path: Path, results: dict) -> None:
    """Write a results file in one piece; NaN, which JSON does not know, becomes null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(without_nan(results), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def without_nan(value: object) -> object:
    """Return a copy of nested dicts and lists in which NaN is None."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
