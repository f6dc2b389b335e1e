"""What alignment costs, and whether the crops stay: photos of a folder of people are aligned twice, by MTCNN called
plainly and as utils.faces.alignment calls it, batch by batch in turns, so that a busy machine is fair to both:
python -m tests.bench_alignment FOLDER --photos 500"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from utils.faces import alignment
from utils.faces.alignment import AlignedFace, Aligner, canonical_landmarks, read_photo, similarity_transform
from utils.faces.crops import READ
from utils.faces.listing import list_people


class PlainAligner(Aligner):
    """The same aligner with its networks and photos as facenet-pytorch leaves them, all that are read at a time."""

    def __init__(self, image_size: int) -> None:
        super().__init__(image_size)
        for net in (self.detector.pnet, self.detector.rnet, self.detector.onet):
            net.to(memory_format=torch.contiguous_format)

    def __call__(self, images: Sequence[Image.Image]) -> list:
        few, alignment.BATCH = alignment.BATCH, READ
        try:
            return super().__call__(images)
        finally:
            alignment.BATCH = few

    def _detect(self, copies: list[Image.Image], share: float) -> list[tuple]:
        quick = alignment.plane_by_plane, alignment.quick_means
        alignment.plane_by_plane, alignment.quick_means = lambda images: images, contextlib.nullcontext
        try:
            return super()._detect(copies, share)
        finally:
            alignment.plane_by_plane, alignment.quick_means = quick


def apart(one: object, other: object, home: np.ndarray) -> float:
    """Return how many pixels of the crop a landmark moved at most; infinity where only one found a face."""
    found = [isinstance(face, AlignedFace) for face in (one, other)]
    if not all(found):
        return float("inf") if any(found) else 0.0
    scale = abs(similarity_transform(one.landmarks, home)[0])
    return float(scale * np.linalg.norm(one.landmarks - other.landmarks, axis=1).max())


def main() -> None:
    """Align twice and print seconds, their ratio, and how far the crops lie apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--size", type=int, default=64, help="side of the crops")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    everybody = [photo.path for _, photos in list_people(options.folder).people for photo in photos]
    paths = [everybody[i] for i in np.linspace(0, len(everybody) - 1, options.photos).astype(int)]
    aligners = {"plain": PlainAligner(options.size), "here": Aligner(options.size)}
    answers: dict[str, list] = {name: [] for name in aligners}
    seconds = dict.fromkeys(aligners, 0.0)
    for start in range(0, len(paths), READ):
        photos = [read_photo(path) for path in paths[start : start + READ]]
        for name, aligner in list(aligners.items())[:: 1 if start // READ % 2 else -1]:
            if not start:
                aligner(photos[:2])  # first-call set-up
            clock = time.process_time()
            answers[name] += aligner(photos)
            seconds[name] += time.process_time() - clock
    home = canonical_landmarks(options.size, aligners["here"].margin)
    moved = np.array([apart(one, other, home) for one, other in zip(*answers.values(), strict=True)])
    lost = sum(not isinstance(face, AlignedFace) for face in answers["here"])
    each = ", ".join(f"{name} {1000 * spent / len(paths):.1f} ms" for name, spent in seconds.items())
    print(f"{len(paths)} photos, CPU time of one: {each}; {seconds['plain'] / seconds['here']:.2f} times as fast")
    print(
        f"landmarks within a pixel of the crop: {(moved <= 1).mean():.1%}, the furthest {moved.max():.2g}; lost {lost}"
    )


if __name__ == "__main__":
    main()
