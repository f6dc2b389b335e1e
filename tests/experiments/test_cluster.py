"""Runs go to the workers of a Dask cluster where joblib is told so; skipped where Dask is not installed."""

from __future__ import annotations

import os

import pytest
from joblib import parallel_config

from utils.experiments import runner

distributed = pytest.importorskip("distributed")


def who(number: int) -> dict:
    if number == 2:
        raise RuntimeError("no luck")
    return {"number": number, "worker": os.getpid()}


def test_runs_go_to_the_workers_of_the_cluster():
    assert not runner.on_cluster()
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        workers = set(client.run(os.getpid).values())
        with parallel_config(backend="dask"):
            assert runner.on_cluster()
            outcomes = dict(runner.finished(who, [(n,) for n in range(6)], jobs=2))
    assert outcomes.pop(2) == {"failure": "RuntimeError: no luck"}
    assert {n: outcome["number"] for n, outcome in outcomes.items()} == {0: 0, 1: 1, 3: 3, 4: 4, 5: 5}
    assert {outcome["worker"] for outcome in outcomes.values()} <= workers and os.getpid() not in workers
