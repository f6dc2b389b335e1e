"""Embedded faces: portraits of people who do not exist, drawn from numbers.

A lesson on privacy should not need anybody's photograph. These people are vectors: nobody was photographed, nobody's
licence or consent is in question, nothing has to be downloaded, and 'forgetting' one of them can be checked against
the exact recipe that made them.

latents.py says which numbers make a person and a photo and draws them, canvas.py, features.py
and renderer.py turn them into pixels, and here they become a data set with names, kept in a cache.
`python -m utils.synthetic --out sheet.png` draws a contact sheet.
"""

from __future__ import annotations

import argparse
import hashlib
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...settings import (
    CourseError,
    as_seed,
    atomic_path,
    cache_dir,
    command,
    progress_bar,
    whole_number,
    writable_folder,
)
from .latents import ATTRIBUTES, NUISANCE, Factor, neutral_nuisance, sample_identities, sample_nuisance
from .renderer import check_size, render

__all__ = [
    "NUISANCE",
    "ATTRIBUTES",
    "VERSION",
    "Factor",
    "attributes_of",
    "contact_sheet",
    "identity_names",
    "neutral_nuisance",
    "pixel_r1",
    "render",
    "sample_identities",
    "sample_nuisance",
    "synthetic_faces",
]

VERSION = "4"  # changes when the same numbers give other pixels
RECIPE = ("latents.py", "canvas.py", "features.py", "renderer.py", "dataset.py")  # the sources that decide the pixels
N_TRAINED, N_UNSEEN, PHOTOS_TRAINED, PHOTOS_UNSEEN = 120, 60, 50, 20  # the data set that the notebooks use

FIRST_NAMES = (
    "Ada Amara Anik Arlo Asha Bea Bilal Bram Ceri Chidi Chiara Dalia Davi Dina Ebo Edda Eero Elif Emre Enzo Esme Fadi "
    "Femi Finn Freya Gael Gita Hana Hugo Ibra Ida Imani Indra Ines Ivo Jaya Jin Joni Juno Kaia Kofi Kira Lalo Leda "
    "Liv Luca Maia Malik Mara Mei Milo Mina Nadia Nao Nia Niko Noor Oda Olu Omar Orla Otis Pia Priya Quim Rafa Rana "
    "Remy Rhea Rumi Sami Sana Senna Silas Sora Suri Tala Tariq Tess Tomo Uma Uri Vera Vito Wanda Wren Xenia Yara "
    "Yael Yuki Zara Zeno"
).split()


def identity_names(n: int, seed: int = 0) -> tuple[str, ...]:
    """Return n invented names, unique and easy to say, such as 'Amara 007'. Introduced in notebook 02."""
    order = np.random.default_rng([seed, 2]).permutation(len(FIRST_NAMES))
    return tuple(f"{FIRST_NAMES[order[i % len(order)]]} {i:03d}" for i in range(n))


# ---------------------------------------------------------------------------------------------------------------------
# The data set
# ---------------------------------------------------------------------------------------------------------------------
def synthetic_faces(
    n_trained: int = N_TRAINED,
    n_unseen: int = N_UNSEEN,
    photos_trained: int = PHOTOS_TRAINED,
    photos_unseen: int = PHOTOS_UNSEEN,
    image_size: int = 64,
    seed: int = 0,
    progress: bool = True,
    cached: bool = True,
) -> tuple[Tensor, np.ndarray, tuple[str, ...]]:
    """Return the embedded faces: uint8 photos (N, 3, S, S), int64 labels (N,) sorted, and the identities' names.

    Identities 0..n_trained-1 have `photos_trained` photos, the others `photos_unseen`; photo k of identity i depends
    on (seed, i, k, image_size) alone. Cached on disk; raises CourseError for impossible numbers. Introduced in
    notebook 02.
    """
    n_trained, n_unseen = whole_number(n_trained, "n_trained"), whole_number(n_unseen, "n_unseen")
    photos_trained = whole_number(photos_trained, "photos_trained", 1)
    photos_unseen = whole_number(photos_unseen, "photos_unseen", 1)
    seed, image_size = as_seed(seed), check_size(image_size)
    if n_trained + n_unseen == 0:
        raise CourseError("n_trained and n_unseen are both 0; ask for at least one person.")
    counts = [photos_trained] * n_trained + [photos_unseen] * n_unseen
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    path = _cache_path(n_trained, n_unseen, photos_trained, photos_unseen, image_size, seed)
    photos = _read_cache(path, (len(labels), 3, image_size, image_size)) if cached else None
    if photos is None:
        if cached:
            writable_folder(path.parent)  # before the work, not after it
        photos = _render_all(counts, image_size, seed, progress)
        if cached:
            _write_cache(path, photos)
    return photos, labels, identity_names(len(counts), seed)


def fingerprint_of(seed: int | str) -> str:
    """Return by what the drawn faces of a seed are known."""
    return f"renderer {VERSION}, seed {seed}"


def attributes_of(identities: tuple[str, ...], fingerprint: str) -> Tensor | None:
    """Return the latent attributes (people, len(ATTRIBUTES)) float32 of drawn faces, None for any others. Notebook 10.

    `fingerprint` is the data set's: that of drawn faces names their seed.
    """
    kind, _, seed = fingerprint.partition(fingerprint_of(""))
    if kind or not seed or identities != identity_names(len(identities), int(seed)):
        return None
    return sample_identities(len(identities), int(seed))


def _render_all(counts: list[int], image_size: int, seed: int, progress: bool) -> Tensor:
    """Draw counts[i] photos of every identity i."""
    latents = sample_identities(len(counts), seed)
    photos = torch.empty((sum(counts), 3, image_size, image_size), dtype=torch.uint8)
    start = 0
    with progress_bar(desc="drawing faces", total=len(photos), enabled=progress) as bar:
        for i, count in enumerate(counts):
            conditions = sample_nuisance(i, count, seed)
            photos[start : start + count] = render(latents[i].expand(count, -1), conditions, image_size)
            start += count
            bar.update(count)
    return photos


def _cache_path(*arguments: int) -> Path:
    """Return a file name that changes with the arguments, the recipe's version and its very sources."""
    key = hashlib.sha256(repr((VERSION, arguments)).encode())
    for name in RECIPE:
        key.update(Path(__file__).with_name(name).read_bytes())
    return cache_dir() / "synthetic" / f"faces-{key.hexdigest()[:20]}.npz"


def _read_cache(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Return the cached photos, or None if there are none or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:  # the archive's checksum is verified while reading
            photos = file["photos"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    return torch.from_numpy(photos) if photos.shape == shape and photos.dtype == np.uint8 else None


def _write_cache(path: Path, photos: Tensor) -> None:
    """Write the photos so that a reader sees all of them or none."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, photos=photos.numpy())


# ---------------------------------------------------------------------------------------------------------------------
# Looking at it
# ---------------------------------------------------------------------------------------------------------------------
def contact_sheet(photos: Tensor, columns: int) -> np.ndarray:
    """Lay uint8 photos (N, 3, S, S) out in full rows of `columns`; returns uint8 (height, width, 3)."""
    rows = len(photos) // columns
    size = photos.shape[-1]
    grid = photos[: rows * columns].reshape(rows, columns, 3, size, size)
    return grid.permute(0, 3, 1, 4, 2).reshape(rows * size, columns * size, 3).numpy()


def pixel_r1(photos: Tensor, labels: np.ndarray, query: np.ndarray, gallery: np.ndarray) -> float:
    """Return R@1 of raw pixels: the share of queries whose nearest other gallery photo shows the same person.

    `photos` are uint8 (N, 3, S, S), `labels` (N,); `query` and `gallery` are photo indices and may overlap.
    """
    flat = photos.flatten(1).float()
    distances = torch.cdist(flat[query], flat[gallery])
    distances[torch.from_numpy(query[:, None] == gallery[None, :])] = torch.inf  # a photo does not find itself
    nearest = gallery[distances.argmin(dim=1).numpy()]
    return float((labels[nearest] == labels[query]).mean())


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------
def _bench(seed: int, size: int) -> str:
    """Measure photos per second and the recall of raw pixels on the default protocol."""
    start = time.perf_counter()
    photos, labels, _ = synthetic_faces(image_size=size, seed=seed, cached=False)
    rate = len(photos) / (time.perf_counter() - start)
    order = np.concatenate([np.arange(n) for n in np.bincount(labels)])
    unseen = np.flatnonzero(labels >= N_TRAINED)
    held_out = np.flatnonzero((labels < N_TRAINED) & (order >= 0.8 * PHOTOS_TRAINED))
    lines = [f"{rate:.0f} photos per second at {size}x{size} with {torch.get_num_threads()} thread(s)"]
    for name, some in (("held-out", held_out), ("unseen", unseen), ("both", np.concatenate([held_out, unseen]))):
        lines.append(f"pixel R@1, {name} photos, leave one out: {pixel_r1(photos, labels, some, some):.1%}")
    everything = pixel_r1(photos, labels, held_out, np.arange(len(labels)))
    return "\n".join([*lines, f"pixel R@1, held-out photos against all others: {everything:.1%}"])


def _write_sheet(out: Path, people: int, photos_each: int, size: int, seed: int) -> None:
    """Write a PNG with one row of photos per person."""
    from PIL import Image

    photos, _, _ = synthetic_faces(people, 0, photos_each, 1, size, seed, cached=False)
    with atomic_path(out) as temporary:
        Image.fromarray(contact_sheet(photos, photos_each)).save(temporary, format="PNG")


@command
def main(arguments: list[str] | None = None) -> None:
    """Write a contact sheet of synthetic people, or measure speed and difficulty."""
    parser = argparse.ArgumentParser(prog="python -m utils.synthetic", description=main.__doc__)
    parser.add_argument("--out", type=Path, help="PNG file for the contact sheet")
    parser.add_argument("--identities", type=int, default=6, help="rows of the sheet")
    parser.add_argument("--photos", type=int, default=8, help="columns of the sheet")
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other people")
    parser.add_argument("--bench", action="store_true", help="print photos per second and the R@1 of raw pixels")
    options = parser.parse_args(arguments)
    if options.bench:
        print(_bench(options.seed, options.size))
    if options.out:
        _write_sheet(options.out, options.identities, options.photos, options.size, options.seed)
