"""One store for all results files, what each row says of its data and people, and which rows may be averaged."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from .settings import REPO_ROOT, CourseError, atomic_path, writable_file
from .tables import text_table

if TYPE_CHECKING:
    from .splits import Splits

SCHEMA = 2
READABLE = (1, 2)
# what trials of schema 1, which name no data, were measured on
OLD = {"dataset": "synthetic", "fingerprint": "renderer 4, seed 0", "image_size": 64, "n_identities": 180}
PATIENCE = 60  # seconds to wait for another process that is writing the same file: it holds the lock for milliseconds
# what two runs must share to be told apart by their seed alone: anything else is another setting
SETTING = (
    "dataset", "fingerprint", "image_size", "n_identities", "n_forget", "dev", "backbone", "pretrained", "train",
    "profile", "config", "group", "label", "options", "sizes", "attacks",
)  # fmt: skip
NAMES, NAMES_A_SEED = 12, 4  # how many people a line names


@dataclass(frozen=True)
class ResultStore:
    """The rows of one results file, under the name `part`; several processes may add to it at once. Notebook 09."""

    path: Path
    part: str = "runs"
    command: str = "python -m utils.benchmark"

    def checked(self) -> ResultStore:
        """Return the store at the file its links lead to; raises CourseError, before any work, if nothing can go there
        or if what is there is no results file."""
        store = ResultStore(writable_file(self.path), self.part, self.command)
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
        known = isinstance(content, dict) and content.get("schema") in READABLE
        if not (known and all(isinstance(content.get(part, []), list) for part in (self.part, "failed"))):
            known = False
        if not known or self.part not in content:
            raise CourseError(f"{self.path} is not a results file of schema {SCHEMA} with {self.part}; move it away.")
        return content

    def rows(self, part: str = "") -> list[dict]:
        """Return the rows, or those of another part; none where there is no file yet or an empty one."""
        there = Path(self.path).exists() and Path(self.path).stat().st_size
        return self.read().get(part or self.part, []) if there else []

    def add(self, row: dict, key: Mapping, finish: Callable[[list[dict]], dict] | None = None) -> None:
        """Put a row in the place of those that agree with `key`, among what others have written by now.

        A row with a "failure" goes to the part "failed", and takes no result away; it leaves when a result comes.
        `finish` turns the rows into the file's content, for files that hold more than rows.
        """
        path = Path(self.path)
        try:
            with locked(path):
                failed = [old for old in self.rows("failed") if not is_row(old, key)]
                if "failure" in row:
                    failed, rows = [*failed, without_nan(row)], self.rows()
                else:
                    rows = [*(old for old in self.rows() if not is_row(old, key)), without_nan(row)]
                content = finish(rows) if finish else {"schema": SCHEMA, self.part: rows}
                write_results(path, content | ({"failed": failed} if failed else {}))
        except (Timeout, OSError) as error:
            raise CourseError(
                f"{path} could not be written ({error}); choose another place, or end what holds it."
            ) from error


@contextlib.contextmanager
def locked(path: Path):
    """Hold the lock beside a file and take it away at the end; who waited for it makes a new one (filelock looks)."""
    lock = path.with_name(f".{path.name}.lock")
    with FileLock(lock, timeout=PATIENCE):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file
                lock.unlink()


def is_row(row: Mapping, key: Mapping) -> bool:
    """Say whether a stored row is the one that `key` names."""
    return key.items() <= complete(row).items()


def complete(row: Mapping) -> dict:
    """Return a row with the fields that schema 1 left out."""
    return {**OLD, "n_forget": sum(row.get("sizes", [10])), **row}


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


# --------------------------------------------------------------------------------------- what every row says of itself


def about(name: str, splits: Splits, root: str = "", asked: bool = False) -> dict:
    """Return what every results row says: which kind of method, on which faces, and who was forgotten.

    `asked`: these people were named, not drawn by the seed. Introduced in notebook 09.
    """
    from .unlearning import METHODS  # here: to read results takes no methods

    faces = splits.faces
    return {
        "kind": METHODS[name].kind,
        "dataset": faces.name,
        "dataset_name": Path(root).expanduser().resolve().name if root else faces.name,
        "fingerprint": faces.fingerprint,
        "data_hash": faces.fingerprint,
        "image_size": faces.image_size,
        "n_photos": len(faces),
        "n_identities": splits.n_identities,
        "n_queries": {pool: len(splits.photos(pool, "query")) for pool in ("forget", "retain", "unseen")},
        "n_forget": len(splits.forget),
        "forget_ids": [faces.identities[label] for label in splits.forget],
        "asked": asked,
        "git": git_state(),
    }


@functools.cache
def git_state() -> str:
    """Return the commit of the course, marked -dirty where files differ from it."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=REPO_ROOT, capture_output=True, text=True, check=False
        )
        return said.stdout.strip() or "unknown"
    except OSError:  # no git here
        return "unknown"


# ------------------------------------------------------------------------------------------- which rows belong together


def by_setting(runs: Iterable[Mapping], apart: Sequence[str] = ()) -> dict[str, list[dict]]:
    """Return runs that differ by their seed alone, under "method" or, where a method has several, "method (epochs 8)".

    Fields in `apart` may differ within a group. Introduced in notebook 09.
    """
    groups = grouped(runs, apart=apart)
    return {f"{group[0]['method']} ({note})" if note else group[0]["method"]: group for group, note in groups}


def grouped(
    runs: Iterable[Mapping], shown: Sequence[str] = (), apart: Sequence[str] = ()
) -> list[tuple[list[dict], str]]:
    """Return groups of runs that differ by their seed alone, each with a note on what sets it apart.

    The note tells a group from others of its method that agree in the `shown` fields; `apart` may differ inside one.
    """
    runs = list(runs)
    settings = [setting_of(run, apart) for run in runs]
    draws = [
        json.dumps([run["method"], setting, run.get("seed"), run.get("n_forget")], sort_keys=True)
        for run, setting in zip(runs, settings, strict=True)
    ]
    people: dict[str, set] = {}
    for run, draw in zip(runs, draws, strict=True):
        people.setdefault(draw, set()).add(str(run.get("forget_ids")))
    groups: dict[str, list[dict]] = {}
    seen: dict[str, dict] = {}
    for run, setting, draw in zip(runs, settings, draws, strict=True):
        if len(people[draw]) > 1:  # one seed draws one set of people: these were asked for by name
            setting = setting | {"people": run.get("forget_ids")}
        key = json.dumps([run["method"], setting], sort_keys=True)
        groups.setdefault(key, []).append(run)
        seen[key] = setting | {"method": run["method"], "dataset_name": run.get("dataset_name")}
    return [(group, difference(seen[key], seen.values(), shown)) for key, group in groups.items()]


def setting_of(run: Mapping, apart: Sequence[str] = ()) -> dict:
    """Return a run's whole setting as a flat dict: two runs that agree in it may be averaged."""
    found = {"people": run.get("forget_ids") if run.get("asked") else None}
    for field, value in ((field, complete(run).get(field)) for field in SETTING):
        nested = isinstance(value, Mapping)
        parts = {f"{field}.{key}": item for key, item in value.items()} if nested else {field: value}
        found |= parts if field not in apart else {}
    return found


def difference(mine: dict, settings: Iterable[dict], shown: Sequence[str] = ()) -> str:
    """Return in what a setting differs from the others of its method that agree in the shown fields: 'epochs 8'."""
    rivals = [other for other in settings if all(other.get(field) == mine.get(field) for field in ("method", *shown))]
    fields = [field for field in mine if any(other.get(field) != mine[field] for other in rivals)]
    parts = [(field.split(".")[-1].replace("_", " "), mine[field]) for field in fields if mine[field] is not None]
    return ", ".join(dict.fromkeys(f"{name} {written(value)}" for name, value in parts))


def written(value: object) -> str:
    """Return a setting's value in few characters."""
    if isinstance(value, list | tuple):
        return names_of(value, 3)
    return f"{value:g}" if isinstance(value, float) else str(value)[:24]


# ---------------------------------------------------------------------------------------------------- under every table


def names_of(people: Sequence, most: int = NAMES) -> str:
    """Return names in a row, the first few and how many more if there are many."""
    shown = list(map(str, people if len(people) <= most else people[: most - 1]))
    return ", ".join(shown) + (f" and {len(people) - len(shown)} more" if len(people) > len(shown) else "")


def forgotten(runs: Iterable[Mapping]) -> list[str]:
    """Return who was forgotten in some runs: a line per data set, number of people and way of choosing. Notebook 09."""
    found: dict[tuple, dict[str, dict]] = {}
    for run in runs:
        people, where = run.get("forget_ids"), run.get("dataset_name") or run.get("dataset") or "synthetic"
        how = "names were not noted" if people is None else "asked for by name" if run.get("asked") else "drawn by seed"
        sets = found.setdefault((where, run.get("n_forget"), how), {})
        sets.setdefault(json.dumps(people), {})[run.get("seed", 0)] = None
    lines = []
    for (where, number, how), sets in found.items():
        most, told = NAMES if len(sets) == 1 else NAMES_A_SEED, []
        for people, seeds in sorted(sets.items(), key=lambda item: min(item[1])):
            drawn = f"seed {', '.join(map(str, sorted(seeds)))}: " if how == "drawn by seed" else ""
            told.append(drawn + people_text(json.loads(people) or [], most))
        named = "; ".join(filter(None, told))
        lines.append(f"Forgotten ({', '.join(map(str, filter(None, (where, number))))}), {how}{named and ': '}{named}.")
    return lines


def people_text(people: Sequence, most: int) -> str:
    """Return names, group by group where people asked in groups."""
    if people and isinstance(people[0], list | tuple):
        return " | ".join(names_of(group, most) for group in people)
    return names_of(people, most)


def told(row: Mapping) -> str:
    """Return which run gave no result, and why."""
    place = [f"seed {row['seed']}"] if "seed" in row else []
    place += [", ".join(f"{key} {written(value)}" for key, value in row.get("options", {}).items())]
    place += [f"{row['n_forget']} people"] if "n_forget" in row else []
    return f"{', '.join([row['method'], *filter(None, place)])}: {row.get('error') or row.get('failure')}"


def table_with_people(
    rows: Sequence[Sequence[str]], runs: Iterable[Mapping], markdown: bool = False, failed: Iterable[Mapping] = ()
) -> str:
    """Return a table of runs and, under it, who was forgotten and which runs gave no result. Notebook 05."""
    runs = list(runs)
    lines = [*forgotten(runs), *(f"No result: {told(run)}" for run in runs if "error" in run)]
    lines += [f"Failed, and will be tried again: {told(run)}" for run in failed]
    return text_table(rows, markdown, lines)


def score_cells(runs: Sequence[Mapping], columns: Iterable[tuple[str, str]]) -> list[str]:
    """Return the percentages of (pool, score) columns, the mean over those runs that have a result."""
    return [percent([run.get(pool, {}).get(score) for run in runs]) for pool, score in columns]


def remark(runs: Sequence[Mapping], note: str = "") -> str:
    """Return a group's note, and which of its seeds gave no result."""
    bad = [run for run in runs if "error" in run]
    what = "diverged" if all("diverged" in run["error"] for run in bad) else "no result"
    seeds = "" if len(bad) == len(runs) else f": seed {', '.join(str(run.get('seed', 0)) for run in bad)}"
    return ", ".join(filter(None, [note, f"{what}{seeds}" if bad else ""]))


def with_remarks(rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> list[list[str]]:
    """Return a table with a last column of remarks, if there is any."""
    return [[*row, note] for row, note in zip(rows, ["remark", *remarks], strict=True)] if any(remarks) else list(rows)


def percent(values: Sequence[float | None]) -> str:
    """Return fractions as 'mean' or 'mean ± half range' in percent; a dash where there is no known value."""
    values = [value for value in values if value is not None and not math.isnan(value)]
    if not values:
        return "–"
    spread = 50 * (max(values) - min(values))
    return f"{100 * fmean(values):.1f}" + (f" ± {spread:.1f}" if len(values) > 1 else "")
