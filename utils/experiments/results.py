"""One store for all results files, and what each row says of its data and people."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from ..faces.splits import Splits
from ..settings import REPO_ROOT, CourseError, atomic_path, resolved, writable_file
from ..unlearning.registry import METHODS, make_config

SCHEMA = 2
READABLE = (1, 2)

# what trials of schema 1, which name no data, were measured on
OLD = {"dataset": "synthetic", "fingerprint": "renderer 4, seed 0", "image_size": 64, "n_identities": 180}
OLD |= {"asked": False, "held_out": "fifth"}  # nobody was asked for by name, and queries lay outside the gallery
OLD |= {"backbone": "mini", "pretrained": "auto"}  # no other network was to be had for trials and requests
OLD |= {"seed": 0, "half_unseen": False}  # each setting was tried once, and all unseen people were searched for
PATIENCE = 60  # seconds to wait for another process that is writing the same file: it holds the lock for milliseconds
# by what fields the rows of each command are known, the most telling first
FIELDS: dict[str, dict[str, type]] = {
    "leaderboard": {"board": str},
    "audit": {"attacks": list},
    "ablation": {"group": str, "label": str, "options": dict},
    "sequence": {"sizes": list, "seed": int},
    "sweep": {"options": dict},
    "benchmark": {"dataset": str, "seed": int, "n_forget": int},
}


@dataclass(frozen=True)
class ResultStore:
    """The rows of one command's results file, under the name `part`; several processes may add to it. Notebook 09."""

    path: Path
    part: str = "runs"
    name: str = "benchmark"

    @property
    def command(self) -> str:
        """What makes these rows."""
        return f"python -m utils.{self.name}"

    def checked(self) -> ResultStore:
        """Return the store at the file its links lead to; raises CourseError, before any work, if nothing can go there
        or if what is there is no results file."""
        store = replace(self, path=writable_file(self.path))
        store.rows()
        return store

    def read(self) -> dict:
        """Return all that the file holds; raises CourseError if it is absent, damaged or of another schema."""
        try:
            content = json.loads(Path(self.path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CourseError(f"There are no results at {self.path}; run: {self.command} --out {self.path}.") from error
        except (OSError, ValueError, RecursionError) as error:
            raise CourseError(f"{self.path} is not a results file ({error}); move it away.") from error
        known = isinstance(content, dict) and content.get("schema") in READABLE and self.part in content
        if not (known and all(isinstance(content.get(part, []), list) for part in (self.part, "failed"))):
            raise CourseError(f"{self.path} is not a results file of schema {SCHEMA} with {self.part}; move it away.")
        if not all(fits(row, self.name) for row in (*content[self.part], *content.get("failed", []))):
            raise CourseError(f"{self.path} holds rows that {self.command} does not write; name another file (--out).")
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
                before = self.read() if path.exists() and path.stat().st_size else {}
                before.pop("failed", None)
                content = before | (finish(rows) if finish else {"schema": SCHEMA, self.part: rows})
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


def fits(row: object, name: str) -> bool:
    """Say whether something is a row that the command `utils.name` writes."""
    if not (isinstance(row, dict) and isinstance(row.get("method"), str)):
        return False
    found = next((kind for kind, fields in FIELDS.items() if fields.keys() <= row.keys()), None)
    return found == name and all(isinstance(row[field], kind) for field, kind in FIELDS[name].items())


def complete(row: Mapping) -> dict:
    """Return a row with the fields that schema 1 left out; its settings were today's defaults and the row's options."""
    config = {} if "config" in row or row["method"] not in METHODS else full_config(row["method"], row.get("options"))
    return {**OLD, "n_forget": sum(row.get("sizes", [10])), **config, **row}


def full_config(method: str, options: Mapping | None = None) -> dict:
    """Return all settings of a method, its own and those given, as a row's field: a run with others is another run."""
    return {"config": asdict(make_config(method, dict(options or {})))}


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
    faces = splits.faces
    return {
        "kind": METHODS[name].kind,
        "dataset": faces.name,
        "dataset_name": resolved(root).name if root else faces.name,
        "fingerprint": faces.fingerprint,
        "data_hash": faces.fingerprint,
        "image_size": faces.image_size,
        "n_photos": len(faces),
        "n_identities": splits.n_identities,
        "n_queries": {pool: len(splits.photos(pool, "query")) for pool in ("forget", "retain", "unseen")},
        "n_forget": len(splits.forget),
        "forget_ids": [faces.identities[label] for label in splits.forget],
        "asked": asked,
        "held_out": splits.held_out,
        "git": git_state(),
    }


@functools.cache
def git_state() -> str:
    """Return the commit of the course, marked -dirty where files differ from it."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        said = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, encoding="utf-8", check=False)
        return said.stdout.strip() or "unknown"
    except OSError:  # no git here
        return "unknown"
