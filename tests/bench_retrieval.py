"""Time and peak memory of retrieval_scores beside pytorch-metric-learning's AccuracyCalculator(k=None), each in a process of its own (on a busy machine compare cpu_seconds): python -m tests.bench_retrieval."""  # noqa: E501

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

CONTENDERS = ("course", "accuracy_calculator")
# What --peers compares: the task, the peer, how many photos, and who stands for the course.
PEERS = (
    ("R@1 and mAP, 10,000 × 512", "accuracy_calculator", 10_000, "course"),
    ("R@1 and mAP, 1,000 × 512", "torchmetrics", 1_000, "course"),
    ("R@1 and mAP, 1,000 × 512", "ranx", 1_000, "course"),
    ("facenet, 96 photos embedded", "embed_facenet_pytorch", 96, "embed_course"),
)


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


def score_torchmetrics(rows, labels) -> dict[str, float]:
    """Score every photo against all others with torchmetrics, which wants one flat list of pairs, scores above 0."""
    import torch
    from torchmetrics.retrieval import RetrievalMAP, RetrievalPrecision

    n, others = len(rows), ~torch.eye(len(rows), dtype=torch.bool)
    pairs = (1 + rows @ rows.T)[others], (labels[:, None] == labels)[others]
    queries = torch.arange(n).repeat_interleave(n - 1)
    scores = [metric(*pairs, indexes=queries) for metric in (RetrievalMAP(), RetrievalPrecision(top_k=1))]
    return {"map": float(scores[0]), "r1": float(scores[1])}


def score_ranx(rows, labels) -> dict[str, float]:
    """Score every photo against all others with ranx, which wants a dictionary of every query's ranking."""
    from ranx import Qrels, Run, evaluate

    cosines, people = (rows @ rows.T).tolist(), labels.tolist()
    places = range(len(people))
    run = {f"q{i}": {f"d{j}": cosines[i][j] for j in places if j != i} for i in places}
    relevant = {f"q{i}": {f"d{j}": 1 for j in places if j != i and people[j] == people[i]} for i in places}
    found = evaluate(Qrels(relevant), Run(run), ["map", "precision@1"])
    return {"map": float(found["map"]), "r1": float(found["precision@1"])}


def embed_course(photos):
    """Embed uint8 photos with the course's facenet and its embed."""
    import torch

    from utils.models import embed
    from utils.models.backbones import make_backbone

    torch.manual_seed(0)
    return embed(make_backbone("facenet"), photos, batch_size=32)


def embed_facenet_pytorch(photos):
    """Embed the same photos with the loop that facenet-pytorch's own example has."""
    import torch
    from facenet_pytorch import InceptionResnetV1, fixed_image_standardization

    torch.manual_seed(0)
    network = InceptionResnetV1(pretrained=None).eval()
    with torch.no_grad():
        return torch.cat([network(fixed_image_standardization(batch.float())) for batch in photos.split(32)])


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one contender in this process; seconds are for scoring alone, peak_mb is the whole process."""
    import resource

    import torch

    torch.set_num_threads(options.threads)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    if name.startswith("embed"):
        photos = torch.randint(0, 256, (options.n, 3, 160, 160), dtype=torch.uint8)
        run = {"embed_course": embed_course, "embed_facenet_pytorch": embed_facenet_pytorch}[name]
        run(photos[:2])
        start = time.perf_counter()
        found = {"map": float(run(photos).abs().sum()), "r1": 0.0, "seconds": time.perf_counter() - start}
        return found | {"cpu_seconds": 0.0, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    rows, labels = self_gallery(options.n, options.dim, options.per_identity, options.noise)
    score = {
        "course": score_course,
        "accuracy_calculator": score_accuracy_calculator,
        "torchmetrics": score_torchmetrics,
        "ranx": score_ranx,
    }[name]
    score(rows[: 2 * options.per_identity], labels[: 2 * options.per_identity])  # imports and first-call set-up
    start, cpu_start = time.perf_counter(), time.process_time()
    scores = score(rows, labels)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
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
    parser.add_argument("--only", help="run one in this process and print JSON")
    parser.add_argument("--peers", action="store_true", help="measure all of PEERS and store data/results/peers.json")
    parser.add_argument("--alone", action="store_true", help="add the course alone at --n photos to that file")
    return parser.parse_args(arguments)


def measure_peers(threads: int) -> list[dict]:
    """Return a row per peer, the course's measurement beside it; who is not installed is left out and named."""
    rows = []
    for task, name, n, ours in PEERS:
        size = ["--n", str(n), "--threads", str(threads)]
        try:
            here, there = (measure_in_subprocess(who, size, threads) for who in (ours, name))
        except subprocess.CalledProcessError as error:
            print(f"{name} was not measured: {error.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        gap = abs(here["map"] / there["map"] - 1) if n != 10_000 else abs(here["map"] - there["map"])
        kept = [{"seconds": one["seconds"], "peak_mb": one["peak_mb"]} for one in (here, there)]
        rows.append({"task": task, "name": name, "course": kept[0], "peer": kept[1], "difference": gap})
        print(rows[-1], flush=True)
    return rows


def store_peers(options: argparse.Namespace) -> None:
    """Write data/results/peers.json: all peers in one run, or what it holds with the course alone at one more size."""
    from utils.experiments.scale import PEERS as STORED
    from utils.experiments.scale import machine
    from utils.settings import atomic_path

    if options.alone:
        found, task = json.loads(STORED.read_text(encoding="utf-8")), f"R@1 and mAP, {options.n:,} × 512"
        here = measure_in_subprocess("course", ["--n", str(options.n)], options.threads)
        mine = {"task": task, "course": {"seconds": here["seconds"], "peak_mb": here["peak_mb"]}}
        found["rows"] = [row for row in found["rows"] if row["task"] != task] + [mine]
    else:
        found = {"schema": 1, "threads": options.threads, "machine": machine(), "rows": measure_peers(options.threads)}
    with atomic_path(STORED) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Print both contenders side by side; exit 1 if their scores differ by more than 1e-6."""
    options = parse(arguments)
    if options.peers or options.alone:
        store_peers(options)
        return 0
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
