"""Two processes take the step that one takes, if dispersion sees all pairs; torchrun's own start, on CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from utils.settings import REPO_ROOT
from utils.unlearning import processes

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("ranks") / "found.json"
    command = [*TORCHRUN, "-m", "utils.unlearning.processes", "--steps", "3", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=REPO_ROOT, env=environment, check=True, capture_output=True, timeout=300)
    return json.loads(out.read_text())


@pytest.mark.parametrize("way", ["gathered", "person on one rank"])
def test_two_ranks_take_the_step_that_one_process_takes(way, found):
    assert (found["ranks"], found["device"]) == (2, "cpu")
    assert found["ways"][way]["gradient"] < 1e-5 and found["ways"][way]["weights"] < 1e-6


def test_pairs_between_ranks_are_missed_where_nothing_is_gathered(found):
    assert found["ways"]["local"]["gradient"] > 0.01
    assert found["ways"]["local"]["weights"] > 100 * found["ways"]["gathered"]["weights"]


def test_the_one_process_step_is_the_loss_by_hand():
    torch.set_num_threads(1)
    model, forget, people, retained = processes.small_step()
    targets = torch.nn.functional.normalize(torch.ones(len(retained), model.embedding_dim), dim=1)
    with torch.no_grad():
        loss = float(processes.whole_loss(model, forget, people, retained, targets))
        z, r = (torch.nn.functional.normalize(model(model.preprocess(x))).double() for x in (forget, retained))
    spread = []
    for person in range(4):
        mine = z[people == person]
        pairs = [float(mine[i] @ mine[j]) for i in range(6) for j in range(6) if i != j]
        spread.append(float(torch.tensor([10 * c for c in pairs]).exp().mean().log()) / 10)
    held = sum(1 - float(a @ b) for a, b in zip(r, targets.double(), strict=True)) / len(r)
    assert loss == pytest.approx(sum(spread) / 4 + 3 * held, abs=1e-4)


def test_without_torchrun_one_sentence_says_how_to_start_it(monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    assert processes.main([]) == 2
    assert "torchrun --nproc-per-node 2" in capsys.readouterr().err
