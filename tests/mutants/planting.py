"""Plant one mistake at a time in a copy of the repository, and see whether the tests notice."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed

from utils.settings import REPO_ROOT, CourseError, cache_dir, progress_bar

PATIENCE = 90.0  # seconds beyond 4 times those of the unharmed tests: later it is taken for an endless loop
LISTS = Path(__file__).parent
LEFT = shutil.ignore_patterns(".git", ".venv", "build", "cache", "downloads", "__pycache__", "*.egg-info")
KILLED, SURVIVED, ENDLESS, SICK = "killed", "SURVIVED", "RAN OUT OF TIME", "TESTS FAIL WITHOUT IT"


@dataclass(frozen=True)
class Mutant:
    """A mistake: `new` instead of the one `old` in `file`; one of `tests` (paths between blanks) must fail with it."""

    file: str
    old: str
    new: str
    tests: str
    why: str

    def planted(self, source: str) -> str:
        """Return the source with the mistake; raises CourseError unless `old` occurs exactly once."""
        if source.count(self.old) != 1:
            raise CourseError(
                f"{self.file} has {self.old!r} {source.count(self.old)} times; bring its list up to date."
            )
        return source.replace(self.old, self.new)


def read_lists(names: Iterable[str] = ()) -> list[Mutant]:
    """Return the mutants of tests/mutants/<name>.toml, of every list by default; raises CourseError for others."""
    known = {path.stem: path for path in sorted(LISTS.glob("*.toml"))}
    if unknown := sorted(set(names) - known.keys()):
        raise CourseError(f"There is no list {', '.join(unknown)}; choose from {', '.join(known)}.")
    tables = (tomllib.loads(known[name].read_text(encoding="utf-8")) for name in names or known)
    return [Mutant(**table) for content in tables for table in content["mutant"]]


class Copy:
    """A copy of the repository in a folder; all its runs begin with the same cache."""

    def __init__(self, folder: Path) -> None:
        self.root, self.drawn = folder / "course", folder / "drawn"
        shutil.copytree(REPO_ROOT, self.root, ignore=LEFT)
        self.drawn.mkdir(exist_ok=True)
        if (cache_dir() / "synthetic").is_dir():
            shutil.copytree(cache_dir() / "synthetic", self.drawn / "synthetic")
        imported = self.run("-c", "import utils; print(utils.__file__)")[1].strip()
        if Path(imported).resolve() != (self.root / "utils/__init__.py").resolve():
            raise CourseError(f"The copy in {self.root} imports {imported} instead of its own utils.")

    def run(self, *arguments: str, seconds: float | None = None) -> tuple[int | None, str]:
        """Run Python in the copy; returns its exit status, None if `seconds` did not suffice, and its output."""
        cache = self.root / "data/cache"
        shutil.rmtree(cache, ignore_errors=True)  # what a mistake left there is not the next one's
        shutil.copytree(self.drawn, cache, copy_function=os.link)  # the course replaces files whole
        # Compiled files are dated in seconds: a mistake of the same length could be taken for the line before it.
        own = {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        own |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # those for notebooks and workers take longer than many a test
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.root,
            env=os.environ | own | {"FACE_COURSE_CACHE": str(cache), "FACE_COURSE_LFW": str(cache / "none")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output = process.communicate(timeout=seconds)[0]
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with whatever workers the tests started
                process.communicate()

    def test(self, tests: str, seconds: float | None = None) -> tuple[int | None, str]:
        """Run the tests up to the first failure; returns pytest's exit status and the line that names the failure."""
        status, output = self.run(
            "-m", "pytest", "-p", "no:cacheprovider", "-x", "--tb=no", *tests.split(), seconds=seconds
        )
        named = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return status, named[-1] if named else ""

    def trial(self, mutant: Mutant, seconds: float) -> tuple[str, str]:
        """Plant a mistake, run its tests and take it out again; returns what became of it and the failure's line."""
        path = self.root / mutant.file
        source = path.read_text(encoding="utf-8")
        path.write_text(mutant.planted(source), encoding="utf-8")
        try:
            status, line = self.test(mutant.tests, seconds)
        finally:
            path.write_text(source, encoding="utf-8")
        return {0: SURVIVED, None: ENDLESS}.get(status, KILLED), line


def plant(mutants: list[Mutant], jobs: int = 1) -> Iterator[tuple[Mutant, str, str]]:
    """Yield every mutant with what became of it and the failure's line, as they are done, from `jobs` copies at a time.

    Tests that fail without any mistake show nothing. A run that takes much longer than that of the unharmed tests is
    stopped; only a reader can tell whether it was an endless loop.
    """
    free: queue.Queue[Copy] = queue.Queue()

    def lent(work, *arguments):
        copy = free.get()
        try:
            return work(copy, *arguments)
        finally:
            free.put(copy)

    def unharmed(copy: Copy, tests: str) -> tuple[str, float | None, str]:
        start = time.monotonic()
        status, line = copy.test(tests)
        return tests, None if status else 4 * (time.monotonic() - start) + PATIENCE, line

    def trial(copy: Copy, mutant: Mutant) -> tuple[Mutant, str, str]:
        seconds, line = limits[frozenset(mutant.tests.split())]
        return (mutant, SICK, line) if seconds is None else (mutant, *copy.trial(mutant, seconds))

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for number in range(jobs):
            (Path(folder) / str(number)).mkdir()
            free.put(Copy(Path(folder) / str(number)))
        pool = Parallel(n_jobs=jobs, prefer="threads", return_as="generator_unordered")
        sets = {frozenset(mutant.tests.split()): mutant.tests for mutant in mutants}
        with progress_bar(desc="without mistakes", total=len(sets)) as bar:
            limits = {}
            for tests, seconds, line in pool(delayed(lent)(unharmed, tests) for tests in sets.values()):
                limits[frozenset(tests.split())] = seconds, line
                bar.update()
        yield from pool(delayed(lent)(trial, mutant) for mutant in mutants)
