"""From any photo to an upright face crop: read with Pillow, find with MTCNN, turn by five landmarks."""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..settings import CourseError, resolve_device

RECIPE = 1  # raise it whenever a change here alters crops: cached crops of another recipe are not used
MAX_SIDE = 2048  # larger photos are reduced on reading: no crop needs more detail, and memory stays bounded
DETECTION_SIDE = 320  # faces are searched in a copy of at most this many pixels per side
SMALLEST_SIDE = 20  # MTCNN cannot search an image smaller than its first window
FACE_SHARES = (0.24, 0.07)  # smallest face looked for, as a share of the longest side; the second only if none is found
BATCH = 12  # photos searched together: what the networks make of more no longer fits into a processor's cache
BACKDROP = (127, 127, 127)  # behind transparent pixels, and beyond the photo's edge

# Eyes, nose and mouth corners in a unit square: the common 112-pixel layout, which margin then pulls to the middle.
LANDMARK_TEMPLATE = np.array([[0.342, 0.462], [0.657, 0.460], [0.500, 0.640], [0.371, 0.825], [0.631, 0.823]])


NO_MEMORY = re.compile(r"out of memory|not enough memory|allocate memory|alloc_cpu|bad.?alloc|paging file", re.I)
NO_DEVICE = re.compile(r"cuda|cudnn|cublas|\bmps\b|\bhip\b|driver", re.I)


def out_of_memory(error: BaseException) -> bool:
    """True for every way in which Python, Pillow and torch say that the memory ran out."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | OSError) and NO_MEMORY.search(str(error)) is not None


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Turn exhausted memory, which is no photo's fault, into a CourseError."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not out_of_memory(error):
            raise
        raise CourseError(
            "The memory ran out while photos were read: close other programs, choose a smaller image_size or fewer "
            "people (max_identities), and open the data set again; it goes on where it stopped, and no photo is blamed."
        ) from error


@functools.cache
def register_heif() -> bool:
    """Let Pillow read HEIC photos where pillow-heif is installed, once; return whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """An upright crop, uint8 (S, S, 3), with the box (x0, y0, x1, y1) and the five landmarks (5, 2) in pixels of the
    photo, the detector's confidence in [0, 1], and how many faces the photo showed. Introduced in notebook 01."""

    crop: np.ndarray
    box: np.ndarray
    landmarks: np.ndarray
    confidence: float
    n_faces: int


@dataclass(frozen=True)
class Refused:
    """A photo that gave no face, and why."""

    reason: str


def read_photo(path: Path) -> Image.Image:
    """Decode a photo completely and return it upright as RGB, at most MAX_SIDE pixels per side; whatever Pillow
    raises for broken bytes passes through. Introduced in notebook 01."""
    register_heif()
    with Image.open(path) as image:
        image.draft(None, (MAX_SIDE, MAX_SIDE))  # a large JPEG is decoded at a fraction of its size
        image.load()
        image = to_rgb(ImageOps.exif_transpose(image))
    image.thumbnail((MAX_SIDE, MAX_SIDE), reducing_gap=2.0)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Return any Pillow image (grey, 16-bit, float, palette, transparent, CMYK) as a new RGB image."""
    if image.mode.startswith(("I", "F")):
        return _deep_grey_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKDROP, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    # Pillow would clip everything brighter than 255; the value range tells which scale the file uses.
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    top = 1.0 if image.mode == "F" and values.max() <= 1 else 65535.0 if values.max() > 255 else 255.0
    if image.mode.startswith("I;16"):
        top = 65535.0
    grey = np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def centre_crop(image: Image.Image, image_size: int) -> np.ndarray:
    """Cut the largest central square and resize it, uint8 (S, S, 3): for photos that are face crops already."""
    return np.array(ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC))


def canonical_landmarks(image_size: int, margin: float) -> np.ndarray:
    """Return where eyes, nose and mouth corners belong in a crop, float (5, 2) pixels; `margin` is the extra
    surround as a share of the tight crop. Introduced in notebook 01."""
    centred = (LANDMARK_TEMPLATE - 0.5) / (1 + margin) + 0.5
    return (centred - [0.0, 0.02]) * image_size


def similarity_transform(source: np.ndarray, target: np.ndarray) -> tuple[complex, complex]:
    """Return (a, b) so that target ≈ a * source + b in least squares, points taken as complex numbers: |a| scales,
    the angle of a turns, b shifts, and mirroring is impossible. Introduced in notebook 01."""
    p, q = (points[:, 0] + 1j * points[:, 1] for points in (np.asarray(source, float), np.asarray(target, float)))
    spread = p - p.mean()
    a = np.vdot(spread, q - q.mean()) / np.vdot(spread, spread).real
    return complex(a), complex(q.mean() - a * p.mean())


def warp_face(image: Image.Image, landmarks: np.ndarray, image_size: int, margin: float) -> np.ndarray:
    """Turn, scale and cut an RGB photo so that its landmarks (5, 2) meet the canonical ones, uint8 (S, S, 3)."""
    a, b = similarity_transform(landmarks, canonical_landmarks(image_size, margin))
    shrink = max(1, math.floor(1 / abs(a) / 4))  # a face much larger than the crop: average blocks of pixels first
    if shrink > 1:
        image, a = image.reduce(shrink), a * shrink
    fine = max(1, math.ceil(1 / abs(a)))  # draw at the photo's own resolution, then average down: no aliasing
    inverse, shift = 1 / (a * fine), -b / a
    matrix = (inverse.real, -inverse.imag, shift.real, inverse.imag, inverse.real, shift.imag)
    side = (image_size * fine, image_size * fine)
    drawn = image.transform(side, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=BACKDROP)
    return np.array(drawn.reduce(fine) if fine > 1 else drawn)


class Aligner:
    """MTCNN and the landmark warp for one crop size; a photo with several faces gives the one nearest to its centre.
    Introduced in notebook 01."""

    def __init__(
        self, image_size: int = 64, margin: float = 0.2, device: str | torch.device = "cpu", min_confidence: float = 0.9
    ) -> None:
        from facenet_pytorch import MTCNN  # here, because it takes a second and only real photos need it

        self.image_size, self.margin, self.min_confidence = image_size, margin, min_confidence
        self.detector = MTCNN(select_largest=False, keep_all=True, device=resolve_device(device)).eval()
        for net in (self.detector.pnet, self.detector.rnet, self.detector.onet):
            net.to(memory_format=torch.channels_last)  # on a CPU it pools many times as fast so

    @enough_memory()
    def __call__(self, images: Sequence[Image.Image]) -> list[AlignedFace | Refused]:
        """Align RGB photos of any sizes, one answer per photo in the same order; equal sizes are searched together."""
        answers: list[AlignedFace | Refused | None] = [None] * len(images)
        copies = [_detection_copy(image) for image in images]
        for share in FACE_SHARES:
            waiting = [i for i, answer in enumerate(answers) if not isinstance(answer, AlignedFace)]
            for batch in _equal_sized_batches(copies, waiting):
                found = self._detect([copies[i] for i in batch], share)
                for i, faces in zip(batch, found, strict=True):
                    answers[i] = self._choose(images[i], copies[i], faces)
        return answers

    @enough_memory()
    def every_face(self, image: Image.Image) -> list[AlignedFace]:
        """Return all faces of one RGB photo, from left to right: for group photos. Introduced in notebook 11."""
        copy = _detection_copy(image)
        faces = boxes, scores, _ = self._detect([copy], FACE_SHARES[-1])[0]
        sure = np.flatnonzero(scores >= self.min_confidence)
        return [self._cut(image, copy, faces, i, len(sure)) for i in sure[np.argsort(boxes[sure, 0])]]

    def _detect(self, copies: list[Image.Image], share: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return boxes (k, 4), confidences (k,) and landmarks (k, 5, 2) per equal-sized image, k may be 0."""
        if min(copies[0].size) < SMALLEST_SIDE:
            return [_nothing() for _ in copies]
        # Only faces that fit into the shorter side can be found; MTCNN raises if no window fits.
        self.detector.min_face_size = min(max(SMALLEST_SIDE, share * max(copies[0].size)), min(copies[0].size))
        try:
            with quick_means():
                boxes, scores, points = self.detector.detect(plane_by_plane(copies), landmarks=True)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            # MTCNN fails on degenerate boxes at the image's edge; alone, only the guilty photo is lost, and less memory
            # is needed. What the machine lacks is nobody's fault and ends the run.
            if len(copies) > 1:
                return [self._detect([copy], share)[0] for copy in copies]
            if out_of_memory(error):
                raise
            if isinstance(error, RuntimeError) and NO_DEVICE.search(str(error)):
                why = str(error).splitlines()[0]
                raise CourseError(f"The detector cannot run on this device ({why}): choose device='cpu'.") from error
            return [_nothing()]
        return [
            _nothing() if b is None else tuple(np.asarray(array, dtype=np.float32) for array in (b, s, p))
            for b, s, p in zip(boxes, scores, points, strict=True)
        ]

    def _choose(self, image: Image.Image, copy: Image.Image, faces: tuple) -> AlignedFace | Refused:
        boxes, scores, points = faces
        if min(image.size) < SMALLEST_SIDE:
            return Refused(f"too small: {image.width} x {image.height} pixels")
        sure = np.flatnonzero(scores >= self.min_confidence)
        if not len(sure):
            return Refused("no face found")
        centres = (boxes[sure, :2] + boxes[sure, 2:]) / 2
        nearest = sure[np.argmin(np.linalg.norm(centres - np.array(copy.size) / 2, axis=1))]
        return self._cut(image, copy, faces, nearest, len(sure))

    def _cut(self, image: Image.Image, copy: Image.Image, faces: tuple, chosen: int, n_faces: int) -> AlignedFace:
        boxes, scores, points = faces
        scale = image.width / copy.width
        landmarks = points[chosen] * scale
        crop = warp_face(image, landmarks, self.image_size, self.margin)
        return AlignedFace(crop, boxes[chosen] * scale, landmarks, float(scores[chosen]), n_faces)


def _detection_copy(image: Image.Image) -> Image.Image:
    if image.mode != "RGB":
        raise CourseError(f"The aligner needs RGB photos, but got mode '{image.mode}'; use read_photo or to_rgb first.")
    scale = DETECTION_SIDE / max(image.size)
    if scale >= 1:
        return image
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def plane_by_plane(images: Sequence[Image.Image]) -> torch.Tensor:
    """Return equal-sized RGB images as uint8 (B, H, W, 3), the colours in planes: boxes are cheap to cut out so."""
    stacked = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))).permute(0, 2, 3, 1)


@functools.lru_cache(4096)
def bin_means(n: int, bins: int) -> torch.Tensor:
    """Return the matrix (bins, n) that takes n numbers to their means over `bins` equal stretches, which may overlap by
    one number."""
    first, at = torch.arange(bins)[:, None], torch.arange(n)
    inside = (at >= first * n // bins) & (at < -(-(first + 1) * n // bins))
    return inside / inside.sum(dim=1, keepdim=True)


def shrink(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return what torch's interpolate(mode="area") returns, (B, C, *size), by two products: quicker for one image."""
    rows, columns = (bin_means(n, bins).to(images) for n, bins in zip(images.shape[-2:], size, strict=True))
    return rows @ images @ columns.T


@contextlib.contextmanager
def quick_means() -> Iterator[None]:
    """Let MTCNN shrink the windows it looks at, one by one and some thirty a photo, by `shrink` while this lasts."""
    from facenet_pytorch.models.utils import detect_face

    plain, detect_face.imresample = detect_face.imresample, shrink
    try:
        yield
    finally:
        detect_face.imresample = plain


def _equal_sized_batches(images: Sequence[Image.Image], indices: Sequence[int]) -> list[list[int]]:
    by_size: dict[tuple[int, int], list[int]] = {}
    for i in indices:
        by_size.setdefault(images[i].size, []).append(i)
    return [group[k : k + BATCH] for group in by_size.values() for k in range(0, len(group), BATCH)]


def _nothing() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32)
