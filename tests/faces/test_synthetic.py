"""The embedded faces: same seed, same pixels; balanced; hard for pixels; safe to cache; kind about bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.faces.synthetic import dataset as synthetic
from utils.faces.synthetic.dataset import identity_names, pixel_r1, synthetic_faces
from utils.faces.synthetic.latents import ATTRIBUTES, NUISANCE, neutral_nuisance, sample_identities, sample_nuisance
from utils.faces.synthetic.renderer import render
from utils.settings import REPO_ROOT, CourseError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's cache apart."""
    monkeypatch.setenv("FACE_COURSE_CACHE", str(tmp_path))
    return tmp_path / "synthetic"


def draw(*args, **kwargs) -> tuple[torch.Tensor, np.ndarray, tuple[str, ...]]:
    return synthetic_faces(*args, progress=False, **{"cached": False, **kwargs})


def bare(latents: torch.Tensor) -> torch.Tensor:
    """Return the same people without hair, beard and glasses."""
    shaved = latents.clone()
    for name in ("hair_amount", "glasses", "beard", "goatee", "moustache", "mole"):
        shaved[:, [t.name for t in ATTRIBUTES].index(name)] = 0
    return shaved


def test_shapes_types_and_order() -> None:
    photos, labels, names = draw(3, 2, 4, 2)
    assert photos.shape == (16, 3, 64, 64) and photos.dtype == torch.uint8
    assert labels.dtype == np.int64 and labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2 + [4] * 2
    assert len(names) == 5


def test_same_seed_same_pixels_and_another_seed_other_pixels() -> None:
    first, again, other = draw(2, 1, 3, 2)[0], draw(2, 1, 3, 2)[0], draw(2, 1, 3, 2, seed=1)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("size", [64, 65])
def test_fewer_people_or_photos_are_the_same_pixels(size: int) -> None:
    photos, labels, _ = draw(4, 2, 21, 5, size)
    fewer, fewer_labels, _ = draw(2, 0, 3, 1, size)
    kept = np.concatenate([np.flatnonzero(labels == i)[:3] for i in range(2)])
    assert torch.equal(fewer, photos[kept]) and (labels[kept] == fewer_labels).all()
    one = render(sample_identities(5)[4:], sample_nuisance(4, 1, first=2), size)
    assert torch.equal(one[0], photos[np.flatnonzero(labels == 4)[2]])


def test_size_160_shows_the_same_picture_as_64() -> None:
    small, large = draw(3, 0, 3, 1, 64)[0].float(), draw(3, 0, 3, 1, 160)[0].float()
    assert large.shape == (9, 3, 160, 160)
    shrunk = torch.nn.functional.interpolate(large, size=64, mode="area")
    assert (shrunk - small).abs().mean() < 8


def test_photos_of_one_person_differ_and_so_do_people() -> None:
    photos = draw(2, 0, 6, 1)[0].float()
    apart = torch.cdist(photos.flatten(1), photos.flatten(1)) + 1e6 * torch.eye(12)
    assert apart.min() / (3 * 64 * 64) ** 0.5 > 15
    calm = render(sample_identities(20), neutral_nuisance(20)).float().flatten(1)
    assert (torch.cdist(calm, calm) + 1e6 * torch.eye(20)).min() / (3 * 64 * 64) ** 0.5 > 8


def test_skin_tones_are_balanced() -> None:
    latents = sample_identities(180)
    tone = latents[:, [t.name for t in ATTRIBUTES].index("skin_tone")]
    counts = torch.histc(tone, 6, 0, 1)
    assert counts.min() >= 20 and counts.max() <= 40
    forehead = render(bare(latents), neutral_nuisance(180))[:, :, 14:18, 28:36].float().mean(dim=(1, 2, 3))
    assert forehead.min() < 90 and forehead.max() > 190 and forehead.std() > 30


def test_skin_is_skin_coloured() -> None:
    latents = sample_identities(60)
    photos = render(bare(latents), neutral_nuisance(60)).float()
    red, green, blue = photos[:, :, 38:40, 22:26].mean(dim=(2, 3)).T
    assert (red > green).all() and (green > blue).float().mean() > 0.9


def test_latents_stay_in_range_depend_on_the_index_alone_and_morph() -> None:
    latents = sample_identities(40, seed=3)
    assert latents.shape == (40, len(ATTRIBUTES)) and latents.isfinite().all()
    assert torch.equal(latents[:7], sample_identities(7, seed=3))
    steps = torch.linspace(0, 1, 5)[:, None]
    row = render(torch.lerp(latents[:1], latents[1:2], steps), neutral_nuisance(5)).float().flatten(1)
    jumps = (row[1:] - row[:-1]).norm(dim=1)
    assert jumps.max() < (row[-1] - row[0]).norm()


def test_every_factor_of_a_photo_changes_it() -> None:
    who = sample_identities(40)
    wearer = who[who[:, [t.name for t in ATTRIBUTES].index("glasses")] > 0][:1]
    needs = {name: ("occluder", 1.0) for name in [f.name for f in NUISANCE] if name.startswith("object_")}
    needs |= {name: ("back_x", 0.0) for name in ("back_y", "back_size")}
    needs |= {"back_angle": ("back_change", 1.0), "grain": ("noise", 0.04), "blink": ("blur", 0.0)}
    columns = [f.name for f in NUISANCE]
    for j, factor in enumerate(NUISANCE):
        both = neutral_nuisance(2)
        if factor.name in needs:
            other, value = needs[factor.name]
            both[:, columns.index(other)] = value
        both[:, j] = torch.tensor([factor.low, factor.high * 0.9])
        low, high = render(wearer.expand(2, -1), both)
        assert not torch.equal(low, high), factor.name


def test_nuisance_stays_in_its_range() -> None:
    drawn = sample_nuisance(0, 200)
    low, high = (torch.tensor(v) for v in zip(*((f.low, f.high) for f in NUISANCE), strict=True))
    assert (drawn >= low - 1e-4).all() and (drawn <= high + 1e-4).all()


def test_render_leaves_its_input_alone() -> None:
    latents, nuisance = sample_identities(2), sample_nuisance(0, 2)
    before = latents.clone(), nuisance.clone()
    render(latents, nuisance)
    assert torch.equal(before[0], latents) and torch.equal(before[1], nuisance)


def test_render_creates_everything_on_the_device_of_its_input() -> None:
    latents, nuisance = sample_identities(20), torch.cat([sample_nuisance(i, 1) for i in range(20)])
    photos = render(latents, nuisance)
    with torch.device("meta"):  # a constant without an explicit device would land here and not mix with the rest
        assert torch.equal(render(latents, nuisance), photos)


def test_names_are_unique_and_stable() -> None:
    names = identity_names(2000)
    assert len(set(names)) == 2000 and all(name.isascii() for name in names)
    assert identity_names(5) == names[:5]


def test_pixel_r1_on_a_case_done_by_hand() -> None:
    photos = torch.tensor([0, 1, 10, 12, 13]).to(torch.uint8).reshape(5, 1, 1, 1)
    labels = np.array([0, 0, 0, 1, 1])
    everything = np.arange(5)  # photo 2 (10) is nearest to photo 3 (12), another person; the others are right
    assert pixel_r1(photos, labels, everything, everything) == pytest.approx(4 / 5)
    assert pixel_r1(photos, labels, np.array([2]), np.array([0, 1])) == 1  # query first: 10 finds 1, the same person
    assert pixel_r1(photos, labels, np.array([2, 3, 4]), np.array([0, 1])) == pytest.approx(1 / 3)


def test_raw_pixels_do_not_recognise_people() -> None:
    photos, labels, _ = draw(60, 0, 6, 1)
    everything = np.arange(len(labels))
    assert pixel_r1(photos, labels, everything, everything) < 0.12


def test_cache_is_hit_and_a_damaged_one_is_written_again(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = draw(2, 1, 2, 1, 32, cached=True)[0]
    (path,) = own_cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "_render_all", lambda *_: pytest.fail("drawn again in spite of the cache"))
        assert torch.equal(draw(2, 1, 2, 1, 32, cached=True)[0], photos)
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]):
        path.write_bytes(damage)
        assert torch.equal(draw(2, 1, 2, 1, 32, cached=True)[0], photos)
        assert path.read_bytes() == whole and len(list(own_cache.iterdir())) == 1
    draw(2, 1, 2, 1, 33, cached=True)
    assert len(list(own_cache.iterdir())) == 2


def test_cache_follows_every_source_of_the_pixels(own_cache: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in synthetic.RECIPE:
        (folder / name).write_text("before")
    assert {"latents.py", "canvas.py", "features.py", "renderer.py", "dataset.py"} == set(synthetic.RECIPE)
    monkeypatch.setattr(synthetic, "__file__", str(folder / "dataset.py"))
    keys = {synthetic._cache_path(1, 2)}
    for name in synthetic.RECIPE:
        (folder / name).write_text("after")
        keys.add(synthetic._cache_path(1, 2))
    assert len(keys) == 1 + len(synthetic.RECIPE)


def test_imports_go_one_way() -> None:
    for module, banned in (("latents", "renderer dataset"), ("renderer", "dataset"), ("canvas", "features renderer")):
        source = (REPO_ROOT / f"utils/faces/synthetic/{module}.py").read_text(encoding="utf-8")
        assert not any(f"from .{name}" in source or f"import {name}" in source for name in banned.split())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"n_trained": -1}, "n_trained"),
        ({"n_unseen": 1.5}, "n_unseen"),
        ({"n_trained": 0, "n_unseen": 0}, "at least one person"),
        ({"photos_trained": 0}, "photos_trained"),
        ({"photos_unseen": -3}, "photos_unseen"),
        ({"image_size": 31}, "image_size"),
        ({"image_size": 513}, "image_size"),
        ({"image_size": True}, "image_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_explained(arguments: dict, word: str) -> None:
    with pytest.raises(CourseError, match=word):
        synthetic_faces(**arguments, progress=False)


def test_render_and_samplers_refuse_what_does_not_fit() -> None:
    with pytest.raises(CourseError, match="latents"):
        render(torch.zeros(2, 3), neutral_nuisance(2))
    with pytest.raises(CourseError, match="latents"):
        render(sample_identities(3), neutral_nuisance(2))
    with pytest.raises(CourseError, match="n is"):
        sample_identities(0)
    with pytest.raises(CourseError, match="photos is"):
        sample_nuisance(0, 0)
    with pytest.raises(CourseError, match="first is"):
        sample_nuisance(0, 1, first=-1)
    with pytest.raises(CourseError, match="n is"):
        neutral_nuisance(0)


def test_command_writes_a_contact_sheet(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    synthetic.main(["--out", str(out), "--identities", "2", "--photos", "3", "--size", "48"])
    assert Image.open(out).size == (3 * 48, 2 * 48)


def test_numbers_of_other_libraries_draw_the_same_faces():
    def draw(whole):
        arguments = [whole(n) for n in (2, 1, 1, 1, 32, 5)]
        return synthetic_faces(*arguments, progress=False, cached=False)[0]

    assert torch.equal(draw(np.int64), draw(int)) and torch.equal(draw(float), draw(int))


@pytest.mark.parametrize("seed", [-1, True, 1.5, None, 2**32])
def test_what_is_no_seed_is_one_sentence(seed):
    for ask in (lambda: synthetic_faces(seed=seed), lambda: sample_identities(1, seed)):
        with pytest.raises(CourseError, match="The seed is .*whole number"):
            ask()
