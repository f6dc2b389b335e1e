"""Runs that are not stored yet, one after the other or side by side in worker processes: each is stored as it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import torch
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend

from ..settings import CourseError, progress_bar
from .results import ResultStore, is_row, without_nan
from .tables import told

DIED = "its worker process died (killed, or out of memory)"


def run_missing(
    function: Callable[..., dict],
    wanted: Sequence[tuple[tuple, dict]],
    store: ResultStore,
    *,
    jobs: int = 1,
    fresh: bool = False,
    finish: Callable[[list[dict]], dict] | None = None,
    prepare: Callable[[list[tuple]], None] = lambda tasks: None,
    describe: Callable[..., dict],
    desc: str = "runs",
    progress: bool = True,
) -> tuple[list[dict], list[dict]]:
    """Do what `store` lacks of the wanted (arguments, key) pairs, store each as it ends, return rows and failures.

    A row is its key, what describe(*arguments) says of the data, and what function(*arguments) returns. A CourseError,
    as of a method that diverges, is a result: a row with "error". Any other exception or the death of a worker goes to
    the file's "failed", is tried again by the next call, and keeps no other run from being done. `prepare` first sees
    all missing arguments. Raises CourseError for less than one job. Introduced in notebook 09.
    """
    if jobs < 1:
        raise CourseError(f"--jobs must be at least 1, not {jobs}.")
    distinct = {json.dumps(key, sort_keys=True): (arguments, without_nan(key)) for arguments, key in wanted}
    wanted, failed = list(distinct.values()), []
    stored = [] if fresh else store.rows()
    missing = [(arguments, key) for arguments, key in wanted if not any(is_row(row, key) for row in stored)]
    tasks = [arguments for arguments, _ in missing]
    if tasks:
        prepare(tasks)
    if jobs > 1 and progress and tasks:
        print(f"{len(wanted) - len(tasks)} runs are at hand, {len(tasks)} to do, {jobs} at a time.", flush=True)
    bar = progress_bar(desc=desc, total=len(missing), enabled=progress and bool(missing))
    for number, outcome in finished(function, tasks, jobs):
        key = missing[number][1]
        row = key | describe(*tasks[number]) | outcome
        store.add(row, key, finish)
        failed += [row] if "failure" in outcome else []
        bar.set_postfix_str(key["method"])
        bar.update()
    bar.close()
    stored = store.rows()
    return [row for _, key in wanted for row in stored if is_row(row, key)], failed


def refuse(failed: Sequence[dict]) -> None:
    """Raise a CourseError that names every run that failed, if there is one."""
    if failed:
        named = "; ".join(map(told, failed))
        raise CourseError(f"{len(failed)} of the runs failed, and the same command tries them again: {named}")


def finished(function: Callable[..., dict], tasks: Sequence[tuple], jobs: int) -> Iterator[tuple[int, dict]]:
    """Yield each task's number and what became of it, as it ends.

    If a worker dies, those that were in work are run again one at a time, to see whose fault it was, and then the rest.
    """
    if jobs == 1:
        yield from ((number, outcome_of(function, task)) for number, task in enumerate(tasks))
        return
    left, suspects = dict(enumerate(tasks)), []
    while left:
        batch, given = [suspects.pop()] if suspects else list(left), []
        try:
            for number, outcome in side_by_side(function, ((number, left[number]) for number in batch), jobs, given):
                del left[number]
                yield number, outcome
        except BrokenProcessPool:
            suspects += [number for number in given if number in left]
            if len(batch) == 1:
                suspects.remove(batch[0])
                del left[batch[0]]
                yield batch[0], {"failure": DIED}


def side_by_side(function: Callable, tasks: Iterator[tuple[int, tuple]], jobs: int, given: list[int]) -> Iterator:
    """Start workers on numbered tasks and yield their outcomes as they come; `given` notes who was handed out."""
    warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)  # one that grew: replaced
    warnings.filterwarnings("ignore", r"\d+ tasks (which were still|have been)", UserWarning)  # Ctrl-C: said elsewhere

    def calls() -> Iterator:
        for number, task in tasks:
            given.append(number)
            yield delayed(in_worker)(function, number, task)

    # at their start: a parent may be killed before it has a task for each
    here = {"backend": "loky", "inner_max_num_threads": 1, "initializer": settle, "initargs": (os.getpid(),)}
    pool = Parallel(
        n_jobs=max(2, jobs),  # for one job joblib starts no process
        return_as="generator_unordered",
        batch_size=1,
        pre_dispatch=max(2, jobs),
        **({} if on_cluster() else here),
    )
    with deaf_to_interrupts():
        return pool(calls())


def on_cluster() -> bool:
    """Say whether joblib.parallel_config(backend="dask") is in force: then runs go to the workers of that cluster."""
    return "dask" in type(get_active_backend()[0]).__name__.casefold()


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Let processes started inside ignore Ctrl-C from their first moment on: it is their parent who ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)


def in_worker(function: Callable[..., dict], number: int, task: tuple) -> tuple[int, dict]:
    """Return a task's number and what became of it, in a worker process."""
    return number, outcome_of(function, task)


def settle(parent: int) -> None:
    """Give this worker process one thread, and end it soon after its parent, who may have been killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


def outcome_of(function: Callable[..., dict], task: tuple) -> dict:
    """Return function(*task), or one sentence: "error" is a result, "failure" is trouble of the code or the machine."""
    try:
        return function(*task)
    except CourseError as error:
        return {"failure" if isinstance(error.__cause__, OSError) else "error": str(error)}
    except (Exception, SystemExit) as error:
        return {"failure": f"{type(error).__name__}: {error}"}
