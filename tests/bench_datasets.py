"""What a data set of CelebA's size costs, on a stand-in of as many photos: time and memory of listing it and of opening
its cached crops, and a full pass of decoding, alignment and embedding, extrapolated from a slice:
python -m tests.bench_datasets. Each part runs in a process of its own (on a busy machine read cpu_seconds)."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

PARTS = ("index", "reopen", "pass")
LINKS = 20_000  # names per file: file systems allow 65,000 or fewer
SIZE = (178, 218)  # of CelebA's aligned photos


def make_stand_in(root: Path, n_photos: int, per_person: int, faces: Path | None) -> None:
    """Write n photos in CelebA's layout, as hard links to a few files (copies where links are impossible)."""
    images = root / "img_align_celeba"
    images.mkdir(parents=True)
    photos = make_photos(root / "photos", faces)
    people, parts = [], []
    for k in range(n_photos):
        photo, file = photos[(k // LINKS * 8 + k % 8) % len(photos)], f"{k + 1:06d}.jpg"
        try:
            os.link(photo, images / file)
        except OSError:
            shutil.copy(photo, images / file)
        people.append(f"{file} {k % (n_photos // per_person or 1) + 1}\n")
        parts.append(f"{file} {0 if k < 0.8 * n_photos else 1 + k % 2}\n")
    (root / "identity_CelebA.txt").write_text("".join(people))
    (root / "list_eval_partition.txt").write_text("".join(parts))


def make_photos(folder: Path, faces: Path | None) -> list[Path]:
    """Write 128 photos of CelebA's size: of real faces from a folder of people, or rendered ones."""
    from PIL import Image, ImageOps

    from utils.faces.listing import list_people
    from utils.faces.synthetic.dataset import synthetic_faces

    folder.mkdir()
    if faces is not None:
        some = [photo.path for _, photos in list_people(faces).people for photo in photos[:2]][:128]
        images = [Image.open(path).convert("RGB") for path in some]
    else:
        pixels, _, _ = synthetic_faces(8, 1, 2, 1, image_size=128, progress=False)
        images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels]
    paths = [folder / f"{k:03d}.jpg" for k in range(128)]
    for k, path in enumerate(paths):
        ImageOps.fit(images[k % len(images)], SIZE).save(path, quality=90)
    return paths


def measure_index(root: Path, cache: Path, options: argparse.Namespace) -> dict:
    """List all people and photos."""
    from utils.faces.datasets import INDEXES, LoadOptions

    return {"photos": INDEXES["celeba"](root, LoadOptions(64, None, cache, "cpu", False, 0, None, None)).n_photos}


def measure_reopen(root: Path, cache: Path, options: argparse.Namespace) -> dict:
    """Open the data set when all its crops lie in the cache, and take a batch of 256 from all over it."""
    import numpy as np

    from utils.faces.datasets import load_faces

    faces = load_faces("celeba", root, cache=cache, progress=False)
    batch = faces.images(np.linspace(0, len(faces) - 1, 256).astype(int))
    return {"photos": len(faces), "batch": list(batch.shape)}


def measure_pass(root: Path, cache: Path, options: argparse.Namespace) -> dict:
    """Read, align and embed a slice, one step after the other, and say what the whole would take."""
    import torch

    from utils.faces.alignment import AlignedFace, Aligner, read_photo
    from utils.models.backbones import make_backbone
    from utils.models.embedding import embed

    torch.set_num_threads(options.threads)
    paths = sorted((root / "img_align_celeba").iterdir())[: options.slice]
    model = make_backbone(options.backbone).eval()
    aligner = Aligner({"mini": 64, "facenet": 160}[options.backbone])
    aligner([read_photo(paths[0])])  # first-call set-up
    seconds = dict.fromkeys(("decode", "align", "embed"), 0.0)
    found = 0
    for start in range(0, len(paths), 32):
        clock = time.process_time()
        images = [read_photo(path) for path in paths[start : start + 32]]
        seconds["decode"] += time.process_time() - clock
        clock = time.process_time()
        answers = aligner(images)
        seconds["align"] += time.process_time() - clock
        crops = [torch.from_numpy(face.crop).permute(2, 0, 1) for face in answers if isinstance(face, AlignedFace)]
        found += len(crops)
        clock = time.process_time()
        if crops:
            embed(model, torch.stack(crops))
        seconds["embed"] += time.process_time() - clock
    whole = {f"{step}_cpu_minutes": options.photos / len(paths) * spent / 60 for step, spent in seconds.items()}
    return {"photos": len(paths), "with_a_face": found, **whole, "whole_cpu_minutes": sum(whole.values())}


def fill_cache(root: Path, cache: Path) -> None:
    """Pretend that every photo was aligned: an index and a pixel file with a hole in place of the crops."""
    import numpy as np

    from utils.faces import alignment
    from utils.faces.crops import AlignedFaceCache, LoadOptions
    from utils.faces.datasets import INDEXES

    options = LoadOptions(64, None, cache, "cpu", False, 0, None)
    listed = INDEXES["celeba"](root, options)
    photos = [photo for _, of_person in listed.people for photo in of_person]
    store = AlignedFaceCache("celeba", listed.root, photos, options)
    store.folder.mkdir(parents=True)
    results = [[name, f"{k:032x}", k, "", stamp] for k, (name, *stamp) in enumerate(store.stamps)]
    index = {"recipe": alignment.RECIPE, "pixels": "pixels.npy", "rows": len(photos), "results": results}
    (store.folder / "index.json").write_text(json.dumps(index))
    np.lib.format.open_memmap(store.folder / "pixels.npy", "w+", np.uint8, (len(photos), 3, 64, 64))


class PeakMemory:
    """The most memory this process holds between entry and exit, in MB above that at entry: sampled, because the
    system's own peak includes the imports."""

    def __enter__(self) -> PeakMemory:
        self._process, self._stop = psutil.Process(), threading.Event()
        self._start = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        self.mb = (max(self._peak, self._process.memory_info().rss) - self._start) / 2**20


def measure(part: str, root: Path, cache: Path, options: argparse.Namespace) -> dict:
    """Run one part in this process; peak_mb is what it needed beyond the imported course."""
    import utils.faces.datasets  # noqa: F401

    start, cpu_start = time.perf_counter(), time.process_time()
    with PeakMemory() as memory:
        found = {"index": measure_index, "reopen": measure_reopen, "pass": measure_pass}[part](root, cache, options)
    times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
    return found | times | {"peak_mb": memory.mb}


def main() -> None:
    """Make the stand-in, run the parts one after the other, and print a line of numbers each."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--photos", type=int, default=202_599, help="CelebA has 202,599")
    add("--per-person", type=int, default=20)
    add("--slice", type=int, default=256, help="photos that are really decoded, aligned and embedded")
    add("--faces", type=Path, help="a folder of people (such as LFW's) whose photos fill the stand-in; else rendered")
    add("--backbone", choices=("mini", "facenet"), default="mini")
    add("--threads", type=int, default=1)
    add("--parts", nargs="+", choices=PARTS, default=PARTS)
    add("--only", choices=PARTS, help=argparse.SUPPRESS)
    add("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        cache = options.root / "cache"
        print(json.dumps(measure(options.only, options.root / "celeba", cache, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_stand_in(Path(folder) / "celeba", options.photos, options.per_person, options.faces)
        print(f"stand-in of {options.photos:,} photos made in {time.perf_counter() - start:.0f} s")
        if "reopen" in options.parts:
            fill_cache(Path(folder) / "celeba", Path(folder) / "cache")
        for part in options.parts:
            command = [sys.executable, "-m", "tests.bench_datasets", *sys.argv[1:], "--only", part, "--root", folder]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                sys.exit(result.stderr)
            found = json.loads(result.stdout.splitlines()[-1])
            told = (f"{k} {v:,.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
            print(f"{part}: " + ", ".join(told))


if __name__ == "__main__":
    main()
