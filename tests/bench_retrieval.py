"""Time and peak memory of retrieval_scores beside pytorch-metric-learning's AccuracyCalculator(k=None), each in a process of its own (on a busy machine compare cpu_seconds): python -m tests.bench_retrieval."""  # noqa: E501

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

CONTENDERS = ("course", "accuracy_calculator")


def self_gallery(n: int, dim: int, per_identity: int, noise: float):
    """Return n unit rows around n / per_identity random centres, and their labels; more noise, harder search."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) // per_identity
    centres = torch.randn(int(labels.max()) + 1, dim, generator=generator)
    rows = centres[labels] + noise * torch.randn(n, dim, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1), labels


def score_course(rows, labels) -> dict[str, float]:
    """Score every photo against all others with this repository's code."""
    import numpy as np

    from utils.retrieval.scores import retrieval_scores

    ids = np.arange(len(rows))
    scores = retrieval_scores(rows, labels, rows, labels, query_ids=ids, gallery_ids=ids)
    return {"map": scores.map, "r1": scores.r1}


def score_accuracy_calculator(rows, labels) -> dict[str, float]:
    """Score every photo against all others with pytorch-metric-learning, over the full ranking."""
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    include = ("mean_average_precision", "precision_at_1")
    scores = AccuracyCalculator(include=include, k=None, device=torch.device("cpu")).get_accuracy(rows, labels)
    return {"map": scores["mean_average_precision"], "r1": scores["precision_at_1"]}


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one contender in this process; seconds are for scoring alone, peak_mb is the whole process."""
    import resource

    import torch

    torch.set_num_threads(options.threads)
    rows, labels = self_gallery(options.n, options.dim, options.per_identity, options.noise)
    score = {"course": score_course, "accuracy_calculator": score_accuracy_calculator}[name]
    score(rows[: 2 * options.per_identity], labels[: 2 * options.per_identity])  # imports and first-call set-up
    start, cpu_start = time.perf_counter(), time.process_time()
    scores = score(rows, labels)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return scores | {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak}


def measure_in_subprocess(name: str, arguments: list[str], threads: int) -> dict[str, float]:
    """Run one contender in a fresh process, so that neither pays for the other's memory."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "tests.bench_retrieval", *arguments, "--only", name]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench_retrieval", description=__doc__)
    parser.add_argument("--n", type=int, default=10_000, help="photos, each a query against all others")
    parser.add_argument("--dim", type=int, default=512, help="embedding size")
    parser.add_argument("--per-identity", type=int, default=20, help="photos per person")
    parser.add_argument("--noise", type=float, default=3.0, help="spread of a person's photos (large: chance level)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads for both")
    parser.add_argument("--only", choices=CONTENDERS, help="run one in this process and print JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Print both contenders side by side; exit 1 if their scores differ by more than 1e-6."""
    options = parse(arguments)
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return 0
    ours, theirs = (measure_in_subprocess(name, arguments, options.threads) for name in CONTENDERS)
    print(f"{options.n} x {options.dim}, {options.per_identity} photos per person, {options.threads} threads")
    print(f"{'':12}{'course':>14}{'AccuracyCalc.':>16}{'ratio':>8}")
    for key, digits in (("seconds", 2), ("cpu_seconds", 2), ("peak_mb", 0)):
        ratio = theirs[key] / ours[key]
        print(f"{key:12}{ours[key]:14.{digits}f}{theirs[key]:16.{digits}f}{ratio:8.1f}")
    for key in ("map", "r1"):
        print(f"{key:12}{ours[key]:14.8f}{theirs[key]:16.8f}{abs(ours[key] - theirs[key]):8.0e}")
    return int(max(abs(ours[key] - theirs[key]) for key in ("map", "r1")) > 1e-6)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
