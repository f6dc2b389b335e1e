"""Reading any photo, and turning a face upright: geometry by hand, detection on real faces where there are any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.bench_alignment import PlainAligner, apart
from utils.faces.alignment import (
    BACKDROP,
    AlignedFace,
    Aligner,
    Refused,
    canonical_landmarks,
    centre_crop,
    plane_by_plane,
    quick_means,
    read_photo,
    shrink,
    similarity_transform,
    to_rgb,
    warp_face,
)
from utils.settings import CourseError


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return Aligner(image_size=64)


@pytest.fixture(scope="module")
def portraits(lfw_root) -> list[Image.Image]:
    people = sorted(path for path in lfw_root.iterdir() if path.is_dir())[:12]
    return [read_photo(sorted(person.glob("*.jpg"))[0]) for person in people]


def apply(points: np.ndarray, a: complex, b: complex) -> np.ndarray:
    moved = a * (points[:, 0] + 1j * points[:, 1]) + b
    return np.stack([moved.real, moved.imag], axis=1)


def test_similarity_transform_recovers_a_known_turn_scale_and_shift():
    points = canonical_landmarks(64, 0.2)
    target = 3.0 * points @ np.array([[0.0, 1.0], [-1.0, 0.0]]) + [5.0, -7.0]  # a quarter turn
    a, b = similarity_transform(points, target)
    assert abs(a) == pytest.approx(3.0) and np.angle(a) == pytest.approx(np.pi / 2)
    np.testing.assert_allclose(apply(points, a, b), target, atol=1e-9)


def test_canonical_landmarks_scale_with_the_crop_and_shrink_with_the_margin():
    small, large = canonical_landmarks(64, 0.2), canonical_landmarks(160, 0.2)
    np.testing.assert_allclose(large, small * 2.5)
    eyes = canonical_landmarks(100, 0.2)[:2]
    assert 34 < eyes[0, 0] < 40 and 60 < eyes[1, 0] < 66 and np.all((40 < eyes[:, 1]) & (eyes[:, 1] < 47))
    assert np.ptp(canonical_landmarks(100, 0.5)[:2, 0]) < np.ptp(eyes[:, 0])


@pytest.mark.parametrize("scale", [0.7, 2.5, 11.0])
@pytest.mark.parametrize("degrees", [0, 30, -75])
def test_warp_brings_the_landmarks_home(scale, degrees):
    home = canonical_landmarks(64, 0.2)
    turn = scale * np.exp(1j * np.radians(degrees))
    landmarks = apply(home - 32, turn, 700 + 700j)
    photo = np.zeros((1400, 1400, 3), np.uint8)  # room enough for every turn
    left_eye = landmarks[0].astype(int)
    reach = max(1, int(2 * scale))
    photo[left_eye[1] - reach : left_eye[1] + reach + 1, left_eye[0] - reach : left_eye[0] + reach + 1] = 255
    crop = warp_face(Image.fromarray(photo), landmarks, 64, 0.2).astype(float)[:, :, 0]
    assert crop.shape == (64, 64)
    rows, columns = np.mgrid[:64, :64] + 0.5
    spot = [(columns * crop).sum() / crop.sum(), (rows * crop).sum() / crop.sum()]
    np.testing.assert_allclose(spot, home[0], atol=1.0)


def test_warp_averages_fine_detail_instead_of_sampling_it():
    checkers = ((np.indices((1200, 1200)) // 4).sum(axis=0) % 2 * 255).astype(np.uint8)
    landmarks = apply(canonical_landmarks(64, 0.2) - 32, 9 + 0j, 600 + 600j)
    crop = warp_face(Image.fromarray(checkers).convert("RGB"), landmarks, 64, 0.2)
    assert crop.std() < 12 and abs(crop.mean() - 127.5) < 3


def test_warp_fills_beyond_the_edge_with_the_backdrop():
    photo = Image.new("RGB", (64, 64), (255, 0, 0))
    crop = warp_face(photo, canonical_landmarks(64, 0.2) - 40, 64, 0.2)  # the face lies half outside, to the top left
    assert crop[5, 5].tolist() == list(BACKDROP) and crop[60, 60].tolist() == [255, 0, 0]


def gradient(mode: str) -> Image.Image:
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    if mode == "I;16":
        return Image.fromarray(ramp.astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(ramp.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(ramp.astype(np.float32) / 255)
    return Image.fromarray(ramp).convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"])
def test_every_mode_becomes_the_same_rgb_ramp(mode):
    image = gradient(mode)
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and rgb.size == (64, 48)
    values = np.asarray(rgb).astype(int)
    tolerance = 60 if mode == "P" else 4  # a palette with few greys
    assert np.abs(values - np.linspace(0, 255, 64)[None, :, None]).max() <= tolerance


def test_two_tones_become_black_and_white():
    assert set(np.unique(np.asarray(to_rgb(gradient("1"))))) == {0, 255}


def test_transparent_pixels_show_the_backdrop():
    layer = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    layer.paste((0, 255, 0, 255), (0, 0, 4, 8))
    rgb = np.asarray(to_rgb(layer))
    assert rgb[0, 0].tolist() == [0, 255, 0] and rgb[0, 7].tolist() == list(BACKDROP)
    palette = Image.new("P", (4, 4), 3)
    palette.info["transparency"] = 3
    assert np.asarray(to_rgb(palette))[0, 0].tolist() == list(BACKDROP)


def test_a_phone_photo_is_turned_upright(tmp_path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :20] = 255  # bright at the left of the sensor
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view: the left becomes the top
    Image.fromarray(pixels).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    upright = read_photo(tmp_path / "phone.jpg")
    assert upright.size == (40, 60)
    values = np.asarray(upright)
    assert values[5].mean() > 240 and values[55].mean() < 15


def test_a_huge_photo_is_reduced_on_reading(tmp_path):
    Image.new("RGB", (5000, 3000), (10, 200, 30)).save(tmp_path / "huge.jpg")
    Image.new("RGB", (3000, 500), (10, 200, 30)).save(tmp_path / "wide.png")
    assert max(read_photo(tmp_path / "huge.jpg").size) <= 2048
    assert read_photo(tmp_path / "wide.png").size == (2048, 341)


def test_centre_crop_takes_the_middle_square():
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[:, 25:75] = 200
    assert (centre_crop(Image.fromarray(pixels), 50) == 200).all()


def test_drawings_tiny_and_wide_images_are_refused_in_words(aligner):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (120, 90, 3), dtype=np.uint8))
    images = [noise, Image.new("RGB", (12, 12)), Image.new("RGB", (1, 1)), Image.new("RGB", (2000, 40))]
    answers = aligner(images)
    assert [type(answer) for answer in answers] == [Refused] * 4
    assert answers[0].reason == "no face found" and answers[1].reason == "too small: 12 x 12 pixels"
    assert aligner([]) == []


def test_the_aligner_asks_for_rgb(aligner):
    with pytest.raises(CourseError, match="mode 'L'"):
        aligner([Image.new("L", (100, 100))])


def test_real_faces_are_found_among_photos_of_any_size(aligner, portraits):
    mixed = [image.resize((180 + 37 * i, 180 + 37 * i)) for i, image in enumerate(portraits[:6])]
    mixed.insert(2, Image.new("RGB", (250, 250)))
    answers = aligner(mixed)
    assert isinstance(answers[2], Refused)
    faces = [answer for answer in answers if isinstance(answer, AlignedFace)]
    assert len(faces) >= 5
    for face in faces:
        assert face.crop.shape == (64, 64, 3) and face.crop.dtype == np.uint8
        assert face.confidence >= 0.9 and face.n_faces >= 1
        assert face.box.shape == (4,) and face.landmarks.shape == (5, 2)


def test_a_batch_answers_as_single_photos_do(aligner, portraits):
    together = aligner(portraits[:6])
    for image, face in zip(portraits[:6], together, strict=True):
        alone = aligner([image])[0]
        assert isinstance(face, AlignedFace) == isinstance(alone, AlignedFace)
        if isinstance(face, AlignedFace):
            np.testing.assert_allclose(alone.landmarks, face.landmarks, atol=0.5)


def test_a_tilted_face_gives_the_upright_crop(aligner, portraits):
    photo = portraits[0]
    upright, tilted = aligner([photo])[0], aligner([photo.rotate(20, Image.Resampling.BICUBIC)])[0]
    eyes = tilted.landmarks[1] - tilted.landmarks[0]
    assert np.degrees(np.arctan2(-eyes[1], eyes[0])) == pytest.approx(20, abs=8)
    middle = np.s_[16:48, 16:48]
    close = np.corrcoef(upright.crop[middle].ravel().astype(float), tilted.crop[middle].ravel().astype(float))[0, 1]
    assert close > 0.9


def test_of_several_faces_the_central_one_is_kept(aligner, portraits):
    face = portraits[0]
    row = Image.new("RGB", (750, 250))
    for k in range(3):
        row.paste(face, (250 * k, 0))
    answer = aligner([row.resize((1500, 500))])[0]
    assert answer.n_faces == 3
    assert 500 < answer.box[[0, 2]].mean() < 1000  # coordinates are those of the photo, not of the detector's copy


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory ran out"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            "memory ran out",
        ),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), r"cannot run .*launch failure\): choose device"),
    ],
)
def test_trouble_of_the_machine_is_no_face_less_photo(aligner, monkeypatch, error, told):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(aligner.detector, "detect", fails)
    for call in (
        lambda: aligner([Image.new("RGB", (90, 90))] * 2),
        lambda: aligner.every_face(Image.new("RGB", (90, 90))),
    ):
        with pytest.raises(CourseError, match=told):
            call()


def test_a_batch_too_large_for_the_memory_is_searched_one_by_one(aligner, monkeypatch):
    detect = aligner.detector.detect

    def small(images, landmarks):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return detect(images, landmarks=landmarks)

    monkeypatch.setattr(aligner.detector, "detect", small)
    assert [answer.reason for answer in aligner([Image.new("RGB", (90, 90))] * 2)] == ["no face found"] * 2


def test_one_photo_on_which_the_detector_fails_is_the_only_one_lost(aligner, portraits, monkeypatch):
    detect = aligner.detector.detect
    broken = np.asarray(portraits[1])

    def fails_on_one(images, landmarks):
        if any(np.array_equal(np.asarray(image), broken) for image in images):
            raise RuntimeError("torch.cat(): expected a non-empty list of Tensors")
        return detect(images, landmarks=landmarks)

    monkeypatch.setattr(aligner.detector, "detect", fails_on_one)
    answers = aligner(portraits[:3])
    assert isinstance(answers[1], Refused)
    assert isinstance(answers[0], AlignedFace) and isinstance(answers[2], AlignedFace)


def test_photos_laid_out_by_planes_show_the_same_pixels():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (7, 5, 3), dtype=np.uint8) for _ in range(3)]
    laid = plane_by_plane([Image.fromarray(array) for array in arrays])
    assert laid.dtype == torch.uint8 and np.array_equal(laid.numpy(), np.stack(arrays))
    assert laid.permute(0, 3, 1, 2).is_contiguous()


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 3, 57, 41), (24, 24)), ((2, 3, 12, 30), (48, 7)), ((1, 3, 5, 5), (5, 1))]
)
def test_windows_shrink_to_the_means_that_torch_takes(shape, size):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
    assert torch.allclose(shrink(images, size), F.interpolate(images, size, mode="area"), atol=1e-3)


def test_the_detectors_own_shrinking_is_put_back_after_an_error():
    from facenet_pytorch.models.utils import detect_face

    plain = detect_face.imresample
    with pytest.raises(RuntimeError, match="broken"), quick_means():
        assert detect_face.imresample is shrink
        raise RuntimeError("broken")
    assert detect_face.imresample is plain is not shrink


def test_the_detectors_own_shrinking_is_put_back(portraits, monkeypatch):
    from facenet_pytorch.models.utils import detect_face

    plain, aligner, seen = detect_face.imresample, Aligner(64), []
    detect = aligner.detector.detect

    def fails_once(images, landmarks):
        seen.append(detect_face.imresample)
        if len(seen) == 1:
            raise RuntimeError("torch.cat(): expected a non-empty list of Tensors")
        return detect(images, landmarks=landmarks)

    monkeypatch.setattr(aligner.detector, "detect", fails_once)
    assert isinstance(aligner(portraits[:2])[0], AlignedFace)
    assert set(seen) == {shrink} and detect_face.imresample is plain
    assert plain.__module__ == detect_face.__name__, "an earlier search left it changed"


def test_the_quick_detector_finds_what_the_plain_one_finds(portraits):
    plain, quick = PlainAligner(64)(portraits), Aligner(64)(portraits)
    home = canonical_landmarks(64, 0.2)
    assert max(apart(one, other, home) for one, other in zip(plain, quick, strict=True)) < 0.01
