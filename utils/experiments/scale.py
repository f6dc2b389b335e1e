"""What is measured once for notebook 12 and stored: photos a second, large galleries, the database; their tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F

from ..models.backbones import make_backbone
from ..models.checkpoints import TrainConfig
from ..models.embedding import embed
from ..models.trunks import points_of
from ..retrieval import drawn, lingering
from ..retrieval.shards import top_k
from ..settings import REPO_ROOT, atomic_path, command, one_of, resolve_device
from ..tables import text_table
from ..unlearning.registry import METHODS
from .benchmark import read_results

STORED_SCALE = REPO_ROOT / "data" / "results" / "scale.json"
PEERS = REPO_ROOT / "data" / "results" / "peers.json"
RUNS = REPO_ROOT / "data" / "results" / "synthetic_quick.json"
VGGFACE2_PHOTOS, VGGFACE2_PEOPLE, FORGOTTEN = 3_141_890, 8_631, 10  # its training part (Cao et al. 2018)
MEASURED = drawn.Spread(within=0.78, between=0.16)  # near what notebook 12 measures on the embedded model's photos


# ------------------------------------------------------------------------------------------------------------ measuring


def machine() -> dict:
    """Return what a timing depends on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return versions | {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}


def photos_a_second(backbone: str, device: str, photos: int, batch: int) -> dict:
    """Return photos a second of random photos embedded, and of a training step (forward, backward, AdamW). Nb 12."""
    place, model = resolve_device(device), make_backbone(backbone).to(resolve_device(device))
    faces = torch.randint(0, 256, (photos, 3, model.card.crop_size, model.card.crop_size), dtype=torch.uint8)
    embed(model, faces[:batch], batch_size=batch)
    start = time.perf_counter()
    embed(model, faces, batch_size=batch)
    seconds = {"embed": time.perf_counter() - start}
    model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    start = time.perf_counter()
    for looks in faces.split(batch):
        with torch.autocast(place.type, enabled=place.type == "cuda"):
            points = F.normalize(points_of(model, looks.to(place)))
        optimiser.zero_grad()
        (points @ points.T).mean().backward()
        optimiser.step()
        points[0, 0].item()  # a GPU is waited for
    seconds["train"] = time.perf_counter() - start
    speeds = {name: photos / taken for name, taken in seconds.items()}
    return {"backbone": backbone, "device": place.type, "threads": torch.get_num_threads(), "batch": batch} | speeds


def gallery_rows(n: int, kinds: Sequence[str] = tuple(drawn.INDEXES)) -> list[dict]:
    """Return recall, milliseconds and megabytes of each kind of index over n drawn faces. Introduced in notebook 12."""
    rows, queries = drawn.drawn_embeddings(n, MEASURED)
    truth, found = top_k(rows, queries, 10)[1], []
    for kind in kinds:
        index, seconds = drawn.build_index(rows, kind)
        about = {"vectors": n, "build_s": seconds, "megabytes": drawn.index_megabytes(index)}
        found += [about | row for row in drawn.measure_index(index, kind, queries, truth)]
        del index
    return found


def database_row(n: int) -> dict:
    """Return what LanceDB finds among n drawn faces, in which time, and in how many files a deleted one lingers."""
    rows, queries = drawn.drawn_embeddings(n, MEASURED)
    truth = top_k(rows, queries, 10)[1]
    with tempfile.TemporaryDirectory() as folder:
        table = lingering.database_of(Path(folder), rows)
        start = time.perf_counter()
        found = lingering.search_database(table, queries, 10)
        row = {"vectors": n, "ms": 1e3 * (time.perf_counter() - start) / len(queries)}
        row |= {"same_ids": float(np.mean((found == truth).all(axis=1)))}
        table.delete("id = 7")
        row["files_after_delete"] = len(lingering.files_with(Path(folder), rows[7]))
        lingering.compact_database(table)
        row["files_after_optimize"] = len(lingering.files_with(Path(folder), rows[7]))
        lingering.rewrite_database(Path(folder), table)
        row["files_after_rewrite"] = len(lingering.files_with(Path(folder), rows[7]))
    return row


# --------------------------------------------------------------------------------------------------------------- tables


def read_scale(path: Path = STORED_SCALE) -> dict:
    """Return what was measured, by part; empty without the file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def photos_processed(runs: Path = RUNS) -> dict[str, float]:
    """Return how many photos each method would process to forget ten people of full VGGFace2.

    A method of so many steps processes what it did in the stored runs; retraining, its epochs times everybody's
    photos. Introduced in notebook 12.
    """
    stored = [run for run in read_results(runs)["runs"] if run["n_forget"] == FORGOTTEN and "error" not in run]
    means = {name: [run["images_processed"] for run in stored if run["method"] == name] for name in METHODS}
    photos = {name: fmean(images) for name, images in means.items() if images and name != "original"}
    return photos | {"retrain": TrainConfig().epochs * VGGFACE2_PHOTOS * (1 - FORGOTTEN / VGGFACE2_PEOPLE)}


def price_rows(scale: dict, backbone: str = "facenet") -> list[list[str]]:
    """Return the price list: a method's photos and hours of training on CPU and GPU, and the gallery embedded anew.

    Every photo counts as one of a training step, which is too much for teachers' looks. Introduced in notebook 12.
    """
    speeds = {row["device"]: row for row in scale.get("speeds", ()) if row["backbone"] == backbone}

    def hours(photos: float, what: str, device: str) -> str:
        return f"{photos / speeds[device][what] / 3600:,.2f}" if device in speeds else "not run"

    rows = [["for ten people of VGGFace2", "photos processed", "CPU, hours", "GPU, hours"]]
    priced = {METHODS[name].title: (photos, "train") for name, photos in photos_processed().items()}
    priced["then: the gallery embedded anew"] = VGGFACE2_PHOTOS, "embed"
    for title, (photos, what) in sorted(priced.items(), key=lambda item: item[1]):
        rows.append([title, f"{photos:,.0f}", *(hours(photos, what, device) for device in ("cpu", "cuda"))])
    return rows


def speed_rows(scale: dict) -> list[list[str]]:
    """Return photos a second by network and device, and what was not run."""
    rows = [["network", "device", "threads", "batch", "embedded a second", "trained a second"]]
    for row in scale.get("speeds", ()):
        told = [str(row["threads"]), str(row["batch"]), f"{row['embed']:,.1f}", f"{row['train']:,.1f}"]
        rows.append([row["backbone"], row["device"], *told])
    if not any(row["device"] == "cuda" for row in scale.get("speeds", ())):
        rows.append(["facenet", "cuda", "", "256", "not run", "not run"])
    return rows


def index_rows(measured: Sequence[dict]) -> list[list[str]]:
    """Return the table of approximate search. Introduced in notebook 12."""
    head = [
        "vectors",
        "index",
        "effort",
        "recall@1",
        "recall@10",
        "right person",
        "median ms",
        "p99 ms",
        "MB",
        "built, s",
    ]
    shares, times = ("recall@1", "recall@10", "person@1"), ("median_ms", "p99_ms")
    return [head] + [
        [f"{row['vectors']:,}", row["index"], row["effort"], *(f"{100 * row[key]:.1f} %" for key in shares),
         *(f"{row[key]:.2f}" for key in times), f"{row['megabytes']:,.0f}", f"{row['build_s']:.0f}"]
        for row in measured
    ]  # fmt: skip


def database_rows(scale: dict) -> list[list[str]]:
    """Return the database's table: the same ids, and the files that hold a deleted vector after each step."""
    head = ["vectors", "same ten ids", "ms a query", "files with it: after delete", "after optimize", "after rewriting"]
    row = scale.get("database")
    steps = ("files_after_delete", "files_after_optimize", "files_after_rewrite")
    if not row:
        return [head, ["not run", *[""] * 5]]
    return [head, [f"{row['vectors']:,}", f"{row['same_ids']:.1%}", f"{row['ms']:.1f}", *(str(row[s]) for s in steps)]]


def peer_rows(path: Path = PEERS) -> list[list[str]]:
    """Return the course beside its peers, as tests/bench_retrieval.py stored them; above 1: in our favour."""
    rows = [
        ["task", "peer", "seconds here", "seconds there", "faster", "MB here", "MB there", "less memory", "agree to"]
    ]
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else ():
        here, there = row["course"], row.get("peer")
        if there is None:  # too much for a peer: the full matrix of 100,000 photos takes 37 GB
            alone = [row["task"], "–", f"{here['seconds']:.2f}", "–", "–", f"{here['peak_mb']:,.0f}", "–", "–", "–"]
            rows.append(alone)
            continue
        cells = [row["task"], row["name"], f"{here['seconds']:.2f}", f"{there['seconds']:.2f}"]
        cells += [f"{there['seconds'] / here['seconds']:.1f} ×", f"{here['peak_mb']:,.0f}", f"{there['peak_mb']:,.0f}"]
        rows.append([*cells, f"{there['peak_mb'] / here['peak_mb']:.1f} ×", f"{row['difference']:.0e}"])
    return rows


TABLES = {
    "prices": lambda: price_rows(read_scale()),
    "speeds": lambda: speed_rows(read_scale()),
    "indexes": lambda: index_rows(read_scale().get("indexes", ())),
    "database": lambda: database_rows(read_scale()),
    "peers": peer_rows,
}


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Measure a part and store it, or print a table of what is stored."""
    parser = argparse.ArgumentParser(prog="python -m utils.scale", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--speed", metavar="NETWORK,..", help="measure photos a second, such as mini,facenet")
    mode.add_argument("--gallery", type=int, metavar="N", help="measure each index over N drawn faces")
    mode.add_argument("--database", type=int, metavar="N", help="measure LanceDB over N drawn faces")
    mode.add_argument("--table", choices=TABLES, help="print a table of what is stored")
    parser.add_argument("--device", default="cpu", help="where photos a second are measured")
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--indexes", default=",".join(drawn.INDEXES), help="which kinds --gallery builds")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--out", type=Path, default=STORED_SCALE)
    args = parser.parse_args(arguments)
    if args.table:
        print(text_table(TABLES[args.table](), markdown=args.markdown))
        return 0
    stored = read_scale(args.out) or {"schema": 1}
    if args.speed:
        new = [photos_a_second(name, args.device, args.photos, args.batch) for name in args.speed.split(",")]
        old = [(row["backbone"], row["device"]) for row in new]
        kept = [row for row in stored.get("speeds", ()) if (row["backbone"], row["device"]) not in old]
        stored["speeds"] = kept + new
    elif args.gallery:
        kinds = [one_of(kind, drawn.INDEXES, "index") for kind in args.indexes.split(",")]
        kept = [
            r for r in stored.get("indexes", ()) if (r["vectors"], r["index"]) not in {(args.gallery, k) for k in kinds}
        ]
        stored["indexes"] = kept + gallery_rows(args.gallery, kinds)
    else:
        stored["database"] = database_row(args.database)
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps(stored | {"machine": machine()}, indent=1) + "\n", encoding="utf-8")
    return 0
