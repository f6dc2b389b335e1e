"""How well models find drawn people whom none of them ever met, in colour and in grey, on far more searches than the
course's one data set has: python -m tests.bench_colour MODEL.safetensors ... --worlds 10"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from utils.faces.datasets import load_faces
from utils.faces.splits import make_splits
from utils.models import embed, greyscale
from utils.models.backbones import make_backbone
from utils.retrieval import retrieval_scores
from utils.tables import text_table

WAYS = {"colour in colour": (0, 0), "grey in grey": (1, 1), "grey in colour": (1, 0)}


def searches(model: torch.nn.Module, world: int) -> tuple[list[float], int]:
    """Return R@1 in one drawn world, for each way of searching, and how many searches it rests on."""
    faces = load_faces("synthetic", seed=world)
    grey = dataclasses.replace(faces, pixels=greyscale(torch.as_tensor(faces.pixels)))
    splits = make_splits(faces)
    ids = {"query_ids": splits.query, "gallery_ids": splits.gallery}
    labels = [faces.labels[photos] for photos in ids.values()]
    queries, galleries = ([embed(model, shown, photos) for shown in (faces, grey)] for photos in ids.values())
    found = [retrieval_scores(queries[q], labels[0], galleries[g], labels[1], **ids).r1 for q, g in WAYS.values()]
    return found, len(splits.query)


def main() -> None:
    """Print each model's R@1 and how many searches it rests on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--worlds", type=int, default=10, help="drawn data sets of 180 people each, seed 1 and on")
    options = parser.parse_args()
    rows = [["model", *WAYS, "searches"]]
    for path in options.models:
        model = make_backbone("mini").eval()
        weights = {name[6:]: value for name, value in load_file(path).items() if name.startswith("model.")}
        model.load_state_dict(weights)
        found, counts = zip(*(searches(model, world) for world in range(1, options.worlds + 1)), strict=True)
        means = np.average(found, axis=0, weights=counts)
        rows.append([path.name, *(f"{mean:.2%}" for mean in means), f"{sum(counts):,}"])
    print(text_table(rows))


if __name__ == "__main__":
    main()
