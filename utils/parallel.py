"""The same function for many tasks, one after the other or in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from .settings import CourseError


def finished(function: Callable, tasks: Sequence[tuple], jobs: int = 1) -> Iterator[object]:
    """Yield function(*task) for every task, as each is done; with several jobs, that many processes share the work.

    One process per core, with one thread each, is faster than one process with many threads; function and tasks must
    then be of a kind that can be sent to another process. Raises CourseError for less than one job. Notebook 09.
    """
    if jobs < 1:
        raise CourseError(f"--jobs must be at least 1, not {jobs}.")
    if jobs == 1 or len(tasks) < 2:
        yield from (function(*task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(jobs, len(tasks)), mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for future in as_completed([pool.submit(function, *task) for task in tasks]):
            yield future.result()
