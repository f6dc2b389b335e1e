"""One door to every set of faces: `load_faces(name, root)` gives equal-sized crops, labels and an honest account."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..settings import CourseError, as_seed, cache_dir, one_of, whole_number, without_collector
from . import alignment, layouts, listing, sources
from .crops import AlignedFaceCache, LoadOptions, MappedPixels, Result, digest
from .identities import resolve_identity
from .listing import FaceIndex, Listing, People, Skipped, account

COPY = "the same photo as another of that person, used once"
TWO_PEOPLE = "the same photo lies under two people, used for both"


@dataclass(eq=False)
class FaceDataset(Dataset):
    """Face crops of one size with an identity label each; pixels may stay on disk until asked for. `labels` is int64
    (N,), `photo_names` are unique, `skipped` lists what was left out, `noted` what was kept with a remark and the
    copies of kept photos, `held_out` the usual share of a trained person's photos to search with. Notebook 01."""

    name: str
    pixels: torch.Tensor | MappedPixels  # anything with a shape that indexing turns into uint8 (n, 3, S, S)
    labels: np.ndarray
    identities: tuple[str, ...]
    photo_names: tuple[str, ...]
    image_size: int
    source: str
    licence: str
    trained_min_photos: int
    skipped: tuple[Skipped, ...] = ()
    noted: tuple[Skipped, ...] = ()
    held_out: str = "fifth"
    _known: str = field(default="", init=False, repr=False)  # never copied by `replace`: its faces may be others

    def __post_init__(self) -> None:
        shape = (len(self.labels), 3, self.image_size, self.image_size)
        if tuple(self.pixels.shape) != shape or len(self.photo_names) != len(self.labels):
            raise CourseError(
                f"'{self.name}' does not fit together: {len(self.labels)} labels, {len(self.photo_names)} photo names, "
                f"pixels of shape {tuple(self.pixels.shape)} instead of {shape}."
            )

    def known_as(self, fingerprint: str) -> FaceDataset:
        """Say which content this is, so that it need not be read to be told from others; returns itself."""
        self._known = fingerprint
        return self

    @property
    def fingerprint(self) -> str:
        """Of the content, part of a trained model's name: that of a known source, else a hash of faces and labels."""
        self._known = self._known or self._content()
        return self._known

    def _content(self) -> str:
        seen = hashlib.sha256(digest([self.identities, self.photo_names, np.asarray(self.labels).tolist()]).encode())
        for start in range(0, len(self), 1024):
            seen.update(self.images(np.arange(start, min(start + 1024, len(self)))).cpu().contiguous().numpy())
        return seen.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return one crop, uint8 (3, S, S), and its label."""
        return self.images([index])[0], int(self.labels[index])

    def images(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the crops of some photos as a new uint8 tensor (n, 3, S, S)."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64).reshape(-1)
        return torch.as_tensor(self.pixels[chosen])

    def photos_of(self, identity: int | str) -> np.ndarray:
        """Return the photo indices of one person, by label or by name; raises CourseError with the nearest names."""
        return np.flatnonzero(self.labels == resolve_identity(self, identity))

    def report(self, names: int = 3) -> str:
        """Return a short account: people and photos used, and per reason how many were skipped or noted, with the
        first few names."""
        line = f"{self.name}: {len(self)} photos of {len(self.identities)} people, {self.image_size} px crops."
        return "\n".join([line, *account(self.skipped, self.noted, names)])


def load_faces(
    name: str,
    root: str | Path | None = None,
    *,
    image_size: int = 64,
    align: bool | None = None,
    cache: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    seed: int = 0,
    max_identities: int | None = None,
    part: str | None = None,
) -> FaceDataset:
    """Open a data set by name: the first call finds (without root: downloads), aligns (unless `align=False`) and caches
    the faces, later calls only list files; broken, face-less and crowded photos are counted and listed;
    `max_identities` keeps the people with the most photos, `part` those of an official part ('train', 'valid', 'test');
    raises CourseError for wrong names and layouts. Introduced in notebook 01."""
    loader = DATASETS[one_of(name, DATASETS, "data set")]
    image_size, seed = whole_number(image_size, "image_size", 16, 1024), as_seed(seed)
    if max_identities is not None:
        max_identities = whole_number(max_identities, "max_identities", 1)
    folder, part = Path(cache) if cache else cache_dir(), _known_part(name, part)
    return loader(root or None, LoadOptions(image_size, align, folder, device, progress, seed, max_identities, part))


def _known_part(name: str, part: str | None) -> str | None:
    if part and name not in PARTS:
        raise CourseError(f"The data set '{name}' has no official parts: leave out part (it is '{part}').")
    return one_of(part, PARTS[name], "part") if part else None


# Loaders -------------------------------------------------------------------------------------------------------------


def load_synthetic(root: str | Path | None, options: LoadOptions) -> FaceDataset:
    """Wrap the embedded synthetic people: two thirds with 50 photos (to train on), one third with 20 (unseen)."""
    from .synthetic.dataset import fingerprint_of, synthetic_faces  # here, so that real faces open without the renderer

    if root is not None:
        raise CourseError(f"The synthetic faces are rendered, not read: leave out root (it is '{root}').")
    people = options.max_identities or 180
    trained = people - people // 3
    pixels, labels, identities = synthetic_faces(
        n_trained=trained,
        n_unseen=people - trained,
        image_size=options.image_size,
        seed=options.seed,
        progress=options.progress,
    )
    labels = np.asarray(labels, dtype=np.int64)
    return FaceDataset(
        name="synthetic",
        pixels=pixels,
        labels=labels,
        identities=tuple(identities),
        photo_names=tuple(_numbered_names(labels, identities)),
        image_size=options.image_size,
        source=f"Rendered by utils/faces/synthetic/dataset.py from seed {options.seed}: nobody's face.",
        licence="MIT, like this repository; no person is shown.",
        trained_min_photos=30,
    ).known_as(fingerprint_of(options.seed))


def index_folder_of(root: str | Path | None) -> FaceIndex:
    """List a directory with one folder per person, its photos in any format that Pillow opens, without opening one;
    raises CourseError. Notebook 11."""
    path = listing.existing_root(root, "folder", listing.LAYOUT)
    if not listing.has_people(path):
        raise CourseError(listing.why_no_people(path, listing.LAYOUT))
    source = f"Your own folder '{path.name}'."
    return _index("folder", path, listing.list_people(path), source, "As its owner decides; the crops stay here.")


def index_lfw(root: str | Path | None, options: LoadOptions) -> FaceIndex:
    """List Labeled Faces in the Wild; a root one level too high or too low is mended."""
    path, where = sources.open_source("lfw", root, options.cache, options.progress)
    source = "Labeled Faces in the Wild (Huang et al., 2007): photos of public figures from the news of 2002-2003."
    licence = "Published for research; the photos' rights stay with their owners: do not republish or sell."
    return _index("lfw", path, listing.list_people(path), f"{source} {where}", licence)


def index_celeba(root: str | Path | None, options: LoadOptions) -> FaceIndex:
    """List CelebA: its people have numbers, no names."""
    path, where = sources.open_source("celeba", root, options.cache, options.progress)
    images = sources.celeba_images(path, options.cache, options.progress)
    found = layouts.read_celeba(path, images, options.part)
    source = "CelebA (Liu et al., 2015): photos of celebrities from the web, with the official identity numbers."
    licence = "For non-commercial research only; no photo may be republished, sold or shown in a paper without need."
    return _index("celeba", path, found, f"{source} {where}", licence)


def index_vggface2(root: str | Path | None, options: LoadOptions) -> FaceIndex:
    """List VGGFace2, people under their official names, photos under their class ids."""
    if root is None and options.part == "train":
        told = "VGGFace2's training part (38 GB) is not downloaded: fetch it by hand and give root"
        raise CourseError(f"{told}; expected {listing.VGGFACE2_LAYOUT}.")
    path, where = sources.open_source("vggface2", root, options.cache, options.progress)
    found = layouts.read_vggface2(path, options.part)
    source = "VGGFace2 (Cao et al., 2018): photos from an image search for 9,131 names; withdrawn by its authors."
    licence = "Its mirror says CC BY-NC 4.0; the photos' rights stay with their owners, who were never asked."
    return _index("vggface2", path, found, f"{source} {where}", licence)


def index_olivetti(root: str | Path | None, options: LoadOptions) -> FaceIndex:
    """List the Olivetti faces: 40 volunteers, 10 grey photos of 64 x 64 pixels each, cut to the face already."""
    path, where = sources.open_source("olivetti", root, options.cache, options.progress)
    source = "Olivetti faces (AT&T Laboratories Cambridge, 1992-1994): volunteers, photographed in a laboratory."
    licence = "Free for research with acknowledgement of AT&T Laboratories Cambridge."
    return _index("olivetti", path, listing.list_people(path), f"{source} {where}", licence)


def _index(name: str, root: Path, found: Listing, source: str, licence: str) -> FaceIndex:
    empty = [Skipped(person, "the folder holds no photos") for person, photos in found.people if not photos]
    people = [entry for entry in found.people if entry[1]]
    return FaceIndex(name, root, people, source, licence, (*empty, *found.skipped), tuple(found.noted))


# Data sets of photos: listed here, in seconds at any size, and cut out by `_load_photos`.
INDEXES: dict[str, Callable[[str | Path | None, LoadOptions], FaceIndex]] = {
    "lfw": index_lfw,
    "celeba": index_celeba,
    "vggface2": index_vggface2,
    "olivetti": index_olivetti,
    "folder": lambda root, options: index_folder_of(root),
}
PARTS = {"celeba": tuple(layouts.CELEBA_PARTS), "vggface2": tuple(listing.VGGFACE2_PARTS)}


def _load_photos(name: str) -> Callable[[str | Path | None, LoadOptions], FaceDataset]:
    """Return a loader that lists a data set, keeps the chosen people, and cuts out and caches their photos alone."""

    def load(root: str | Path | None, options: LoadOptions) -> FaceDataset:
        if name == "olivetti":  # face crops already, too small for the detector
            options = replace(options, align=bool(options.align))
        with without_collector():
            index = INDEXES[name](root, options)
        if options.progress:
            print(index.report())
        return _crops_of(index, options)

    return load


# The one place to add a data set: its loader receives the root (or None) and the options of the call.
DATASETS: dict[str, Callable[[str | Path | None, LoadOptions], FaceDataset]] = {
    "synthetic": load_synthetic,
    **{name: _load_photos(name) for name in INDEXES},
}


def _numbered_names(labels: np.ndarray, identities: Sequence[str]) -> Iterator[str]:
    for label, group in groupby(labels.tolist()):
        yield from (f"{identities[label]}/{identities[label]}_{k:04d}" for k, _ in enumerate(group, start=1))


# From lists to crops -------------------------------------------------------------------------------------------------


def _crops_of(index: FaceIndex, options: LoadOptions) -> FaceDataset:
    people = _most_photographed(index.people, options.max_identities)
    photos = [photo for _, of_person in people for photo in of_person]
    store = AlignedFaceCache(index.name, index.root, photos, options)
    made = store.open()
    owner = [person for person, of_person in people for _ in of_person]
    kept, copies = _without_copies(made.results, owner)
    kept_people = {owner[k] for k in kept}
    identities = tuple(person for person, _ in people if person in kept_people)
    lost = [Skipped(person, "no usable photo left") for person, _ in people if person not in kept_people]
    skipped = [Skipped(result.name, result.remark) for result in made.results if result.row < 0]
    if not identities:
        reasons = Counter(entry.reason for entry in skipped).most_common(3)
        told = ", ".join(f"{count} x {reason}" for reason, count in reasons)
        hint = " Use align=False for photos that are face crops already." if store.align else ""
        raise CourseError(f"No usable photo in '{index.root}': {told}.{hint}")
    label = {person: k for k, person in enumerate(identities)}
    remarks = [Skipped(made.results[k].name, made.results[k].remark) for k in kept if made.results[k].remark]
    return FaceDataset(
        name=index.name,
        pixels=MappedPixels(made.pixels, [made.results[k].row for k in kept]),
        labels=np.array([label[owner[k]] for k in kept], dtype=np.int64),
        identities=identities,
        photo_names=tuple(made.results[k].name for k in kept),
        image_size=options.image_size,
        source=index.source,
        licence=index.licence,
        trained_min_photos=10,
        skipped=(*skipped, *lost, *index.skipped),
        noted=(*remarks, *copies, *index.noted),
        held_out="half" if index.name == "lfw" else "fifth",  # a fifth of its few photos would be few queries
    ).known_as(digest([alignment.RECIPE, store.align, [(owner[k], *made.results[k][:2]) for k in kept]]))


def _without_copies(results: Sequence[Result], owner: Sequence[str]) -> tuple[list[int], list[Skipped]]:
    """Return which photos are kept, one of each content per person (that of the shortest name), and what to say of
    the copies: left out if they are the same person's, kept but named if another's."""
    usable = [k for k, result in enumerate(results) if result.row >= 0]
    chosen: dict[tuple[str, str], int] = {}
    for k in sorted(usable, key=lambda k: (len(results[k].name), k)):
        chosen.setdefault((results[k].content, owner[k]), k)
    first: dict[str, int] = {}
    kept, said = [], []
    for k in usable:
        result, of_person = results[k], chosen[results[k].content, owner[k]]
        if of_person != k:
            said.append(Skipped(result.name, COPY, results[of_person].name))
            continue
        kept.append(k)
        elsewhere = first.setdefault(result.content, k)
        if elsewhere != k:
            said.append(Skipped(result.name, TWO_PEOPLE, results[elsewhere].name))
    return kept, said


def _most_photographed(people: People, most: int | None) -> People:
    if most is None or most >= len(people):
        return people
    kept = sorted(range(len(people)), key=lambda k: (-len(people[k][1]), k))[:most]
    return [people[k] for k in sorted(kept)]
