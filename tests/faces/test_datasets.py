"""Opening faces: every format and mode, every kind of broken file, caches that resume and never lie."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import sys
import types
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.faces import alignment, crops, listing
from utils.faces.crops import MappedPixels
from utils.faces.datasets import COPY, DATASETS, TWO_PEOPLE, FaceDataset, load_faces
from utils.faces.listing import Skipped
from utils.settings import CourseError


def drawing(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A picture that shows no face and differs for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def make_folder(root: Path, people: dict[str, int]) -> Path:
    for i, (person, count) in enumerate(people.items()):
        (root / person).mkdir(parents=True)
        for k in range(count):
            drawing(100 * i + k).save(root / person / f"photo {k}.png")
    return root


@pytest.fixture
def people(tmp_path) -> Path:
    return make_folder(tmp_path / "people", {"Ada": 3, "Bob": 2})


@pytest.fixture
def open_folder(tmp_path):
    """Open a folder without alignment and with a cache of its own."""

    def opener(root: Path, **options) -> FaceDataset:
        defaults = {"align": False, "cache": tmp_path / "cache", "progress": False}
        return load_faces("folder", root, **(defaults | options))

    return opener


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The names of the photos that were decoded, in order."""
    names, read = [], alignment.read_photo

    def counting(path):
        names.append(Path(path).name)
        return read(path)

    monkeypatch.setattr(alignment, "read_photo", counting)
    return names


# The shape of a data set ---------------------------------------------------------------------------------------------


def test_a_folder_becomes_crops_labels_and_names(people, open_folder):
    faces = open_folder(people, image_size=32)
    assert len(faces) == 5 and faces.identities == ("Ada", "Bob")
    assert faces.labels.tolist() == [0, 0, 0, 1, 1] and faces.labels.dtype == np.int64
    assert faces.photo_names[3] == "Bob/photo 0.png" and len(set(faces.photo_names)) == 5
    crop, label = faces[4]
    assert crop.shape == (3, 32, 32) and crop.dtype == torch.uint8 and label == 1
    expected = alignment.centre_crop(drawing(101), 32).transpose(2, 0, 1)
    assert np.array_equal(crop.numpy(), expected)
    assert faces.skipped == () and faces.noted == () and faces.trained_min_photos == 10
    assert "5 photos of 2 people" in faces.report()


def test_images_takes_lists_arrays_tensors_and_masks(people, open_folder):
    faces = open_folder(people)
    expected = torch.stack([faces[1][0], faces[4][0]])
    for indices in ([1, 4], np.array([1, 4]), torch.tensor([1, 4]), np.array([False, True, False, False, True])):
        assert torch.equal(faces.images(indices), expected)
    assert faces.images([]).shape == (0, 3, 64, 64)
    first = faces.images([0])
    first.zero_()
    assert faces.images([0]).any()  # a copy: the stored crop is untouched


def test_photos_of_a_person_by_label_or_name(people, open_folder):
    faces = open_folder(people)
    assert faces.photos_of("Bob").tolist() == faces.photos_of(1).tolist() == [3, 4]
    with pytest.raises(CourseError, match=r"No identity 'Boby' in 'folder'\. Nearest: Bob"):
        faces.photos_of("Boby")
    with pytest.raises(CourseError, match="from 0 to 1"):
        faces.photos_of(2)


def test_pixels_stay_on_disk_and_travel_to_workers_by_path(people, open_folder):
    faces = open_folder(people)
    assert isinstance(faces.pixels, MappedPixels)
    sent = pickle.dumps(faces)
    assert len(sent) < 4000  # five crops alone would be 61,440 bytes
    assert torch.equal(pickle.loads(sent)[2][0], faces[2][0])
    batch, labels = next(iter(torch.utils.data.DataLoader(faces, batch_size=5)))
    assert batch.shape == (5, 3, 64, 64) and labels.tolist() == [0, 0, 0, 1, 1]


def test_parts_that_do_not_fit_together_are_refused():
    with pytest.raises(CourseError, match="does not fit together"):
        FaceDataset("x", torch.zeros(2, 3, 8, 8), np.zeros(3, int), ("A",), ("a", "b", "c"), 8, "", "", 10)


def test_synthetic_faces_come_through_the_same_door(own_cache):
    faces = load_faces("synthetic", max_identities=3, progress=False)
    assert len(faces) == 2 * 50 + 20 and len(faces.identities) == 3
    assert faces.images([0, 119]).shape == (2, 3, 64, 64) and faces.trained_min_photos == 30
    assert faces.photo_names[50] == f"{faces.identities[1]}/{faces.identities[1]}_0001"
    assert len(set(faces.photo_names)) == 120
    assert not torch.equal(load_faces("synthetic", max_identities=3, progress=False, seed=1)[0][0], faces[0][0])


# Formats, modes and names --------------------------------------------------------------------------------------------


def test_every_format_and_mode_opens(tmp_path, open_folder):
    home = tmp_path / "people" / "Ada"
    home.mkdir(parents=True)
    picture = drawing(1)
    for suffix in ("jpg", "JPEG", "png", "bmp", "gif", "tif", "webp", "ppm", "tga"):
        picture.save(home / f"colour.{suffix}", quality=91 if suffix == "JPEG" else 90)
    for mode, suffix in (("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("LA", "png"), ("P", "png"), ("1", "png")):
        picture.convert(mode).save(home / f"{mode}.{suffix}")
    grey = np.asarray(picture.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(home / "deep.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(home / "float.tiff")
    picture.save(home / "no suffix", format="PNG", compress_level=1)
    drawing(2, (31, 400)).save(home / "tall.png")
    faces = open_folder(tmp_path / "people")
    assert faces.skipped == () and len(faces) == 19
    crop = dict(zip(faces.photo_names, faces.images(range(19)).float(), strict=True))
    for twin in ("colour.bmp", "colour.webp", "CMYK.jpg", "RGBA.png", "no suffix"):
        assert (crop[f"Ada/{twin}"] - crop["Ada/colour.png"]).abs().mean() < 8
    for twin in ("deep.png", "float.tiff", "LA.png"):
        assert (crop[f"Ada/{twin}"] - crop["Ada/L.jpg"]).abs().mean() < 4


def test_spaces_and_accents_compare_equal_however_they_are_stored(tmp_path, open_folder):
    decomposed = unicodedata.normalize("NFD", "Zoë Muñoz")
    root = make_folder(tmp_path / "my photos é", {decomposed: 2, "李 小龙": 1, "[odd] *name*": 1})
    faces = open_folder(root)
    assert set(faces.identities) == {"Zoë Muñoz", "李 小龙", "[odd] *name*"}
    assert len(faces.photos_of(decomposed)) == len(faces.photos_of("Zoë Muñoz")) == 2


def test_every_file_that_is_no_photo_is_counted_with_a_reason(people, open_folder):
    (people / "Ada" / ".hidden.png").write_bytes(b"x")
    (people / "Ada" / "notes.txt").write_text("met at the fair")
    (people / "Ada" / "README").write_text("no suffix, no picture")
    (people / "Ada" / "scan.pdf").write_bytes(b"%PDF-1.4")
    (people / ".git").mkdir()
    (people / "__MACOSX").mkdir()
    (people / "list.csv").write_text("a,b")
    (people / "Ada" / ".DS_Store").write_bytes(b"\0")
    (people / ".Eve" / "x").mkdir(parents=True)
    shutil.copy(people / "Ada" / "photo 0.png", people / ".Eve" / "x" / "photo.png")
    drawing(3).save(people / "stray.png")
    faces = open_folder(people)
    assert len(faces) == 5 and faces.identities == ("Ada", "Bob")
    system, hidden = "kept there by the system or a program, not a photo", "hidden, because a name begins with a dot"
    assert {entry.photo: entry.reason for entry in faces.skipped} == {
        "Ada/.hidden.png": hidden,
        "Ada/.DS_Store": system,
        "Ada/notes.txt": "not a photo",
        "Ada/README": "not a photo",
        "Ada/scan.pdf": "not a photo",
        ".git": system,
        "__MACOSX": system,
        ".Eve/x/photo.png": hidden,
        "list.csv": "not a photo",
        "stray.png": "lies beside the people's folders, in nobody's",
    }
    assert "skipped by person: Ada 5, .Eve 1" in faces.report()


def test_odd_names_and_inner_folders_are_photos_all_the_same(people, open_folder):
    home = people / "Ada"
    (home / "holiday" / "rome").mkdir(parents=True)
    for k, name in enumerate(("subject01.happy", "a.jpg_large", "b.jpg.1", "pic.jpeg?w=200", "holiday/rome/x.png")):
        drawing(900 + k).save(home / name, format="PNG")
    (home / "empty.jpg_large").write_bytes(b"")
    (home / "gone.png").symlink_to(home / "no such file")
    (home / "itself.png").symlink_to(home / "itself.png")
    (home / "holiday" / "back").symlink_to(home)
    (home / "everybody").symlink_to(people)
    os.mkfifo(home / "pipe.jpg")
    faces = open_folder(people)
    assert len(faces.photos_of("Ada")) == 8 and len(faces.photos_of("Bob")) == 2
    assert "Ada/holiday/rome/x.png" in faces.photo_names
    assert Skipped("Ada/holiday/rome/x.png", "lies in a folder within the person's folder") in faces.noted
    assert {entry.photo: entry.reason for entry in faces.skipped} == {
        "Ada/empty.jpg_large": "the file is empty",
        "Ada/gone.png": "a link that leads nowhere",
        "Ada/itself.png": "cannot be looked at: too many levels of symbolic links",
        "Ada/holiday/back": "a link to a folder that was listed already",
        "Ada/everybody": "a link to a folder that was listed already",
        "Ada/pipe.jpg": "neither a file nor a folder",
    }


def test_a_whole_disk_given_as_root_is_refused_soon(people, open_folder, monkeypatch):
    monkeypatch.setattr(listing, "MOST_STRANGERS", 20)
    for k in range(31):
        (people / "Ada" / f"{k}.txt").write_text("x")
        if k == 20:
            assert len(open_folder(people)) == 5  # three photos: up to thirty others are borne
    with pytest.raises(CourseError, match="'Ada' holds over 20 files that are no photos .*no folder of people"):
        open_folder(people)


def test_known_endings_are_not_opened_while_listing(people, monkeypatch):
    monkeypatch.setattr(listing, "_why_unopened", lambda path: pytest.fail(f"{path} was opened"))
    assert sum(len(photos) for _, photos in listing.list_people(people).people) == 5


def test_a_folder_that_cannot_be_read_is_named(people, open_folder, monkeypatch):
    scan = os.scandir

    def denied(path):
        if str(path).endswith("Bob"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    faces = open_folder(people)
    assert faces.identities == ("Ada",)
    assert Skipped("Bob", "a folder that cannot be read: permission denied") in faces.skipped


@pytest.mark.parametrize("twin", ["Zoë ", unicodedata.normalize("NFD", "Zoë"), "Zo\u200bë", "\ufeffZoë", "Zoë\u00a0"])
def test_folders_whose_names_look_alike_are_one_person(tmp_path, open_folder, twin):
    root = make_folder(tmp_path / "people", {"Zoë": 2, twin: 1, "Bob": 2})
    faces = open_folder(root)
    assert faces.identities == ("Bob", "Zoë") and faces.labels.tolist() == [0, 0, 1, 1, 1]
    assert len(set(faces.photo_names)) == 5 and len(faces.photos_of(twin)) == 3
    note = next(entry for entry in faces.noted if "taken for one person" in entry.reason)
    assert ascii(twin) in note.photo and ascii("Zoë") in note.photo


def test_names_that_differ_in_case_stay_apart_and_are_named(tmp_path, open_folder):
    faces = open_folder(make_folder(tmp_path / "people", {"Ada": 1, "ada": 1}))
    assert faces.identities == ("Ada", "ada")
    assert faces.noted[-1].photo == "'Ada' and 'ada'" and "different people" in faces.noted[-1].reason


def test_copies_are_one_photo_and_a_photo_of_two_people_is_named(people, open_folder):
    shutil.copy(people / "Ada" / "photo 0.png", people / "Ada" / "photo 0 (1).png")
    shutil.copy(people / "Ada" / "photo 1.png", people / "Bob" / "her.png")
    faces = open_folder(people)
    assert len(faces) == 6 and "Ada/photo 0.png" in faces.photo_names
    assert faces.noted == (
        Skipped("Ada/photo 0 (1).png", COPY, "Ada/photo 0.png"),
        Skipped("Bob/her.png", TWO_PEOPLE, "Ada/photo 1.png"),
    )
    assert f"noted 1: {COPY} (Ada/photo 0 (1).png = Ada/photo 0.png)" in faces.report()
    assert torch.equal(*(faces[faces.photo_names.index(name)][0] for name in ("Bob/her.png", "Ada/photo 1.png")))


# Identity by content -------------------------------------------------------------------------------------------------


def same_looks(folder: Path, size: int = 20_000) -> Path:
    """Give every photo of a folder the same size and date: names, sizes and dates tell nothing any more."""
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
        os.utime(path, ns=(10**18, 10**18))
    return folder


def test_two_folders_that_differ_in_content_only_share_nothing(tmp_path, open_folder):
    first = same_looks(make_folder(tmp_path / "one" / "people", {"Ada": 2, "Bob": 2}))
    second = same_looks(make_folder(tmp_path / "two" / "people", {"Zed": 0, "Ada": 2, "Bob": 2}))
    faces = [open_folder(root) for root in (first, second)]
    assert faces[0].photo_names == faces[1].photo_names
    assert faces[0].fingerprint != faces[1].fingerprint and not torch.equal(faces[0][0][0], faces[1][0][0])
    shutil.move(first, tmp_path / "away")
    shutil.move(second, first)  # other people in the place of the first
    moved = open_folder(first)
    assert moved.fingerprint == faces[1].fingerprint and torch.equal(moved[0][0], faces[1][0][0])


def test_a_photo_edited_in_place_is_noticed_though_size_and_date_are_as_before(people, open_folder):
    same_looks(people)
    before = open_folder(people)
    drawing(555).save(people / "Ada" / "photo 1.png")
    same_looks(people)
    after = open_folder(people)
    assert after.fingerprint != before.fingerprint
    assert np.array_equal(after[1][0].numpy(), alignment.centre_crop(drawing(555), 64).transpose(2, 0, 1))


def test_a_copied_or_touched_folder_is_the_same_data(people, open_folder, tmp_path, reads):
    before = open_folder(people)
    shutil.copytree(people, tmp_path / "elsewhere" / "copy")
    assert open_folder(tmp_path / "elsewhere" / "copy").fingerprint == before.fingerprint
    assert len(reads) == 10
    for path in people.rglob("*.png"):
        path.touch()
    (people / "Ada" / "photo 2.png").rename(people / "Ada" / "photo 3.png")
    again = open_folder(people)
    assert len(reads) == 10 and torch.equal(again.images(range(5)), before.images(range(5)))
    assert again.fingerprint != before.fingerprint and again.photo_names[2] == "Ada/photo 3.png"


def test_a_data_set_made_by_hand_is_known_by_its_faces():
    def made(value: int, name: str = "a") -> FaceDataset:
        pixels = torch.full((1, 3, 8, 8), value, dtype=torch.uint8)
        return FaceDataset("x", pixels, np.zeros(1, int), ("A",), (name,), 8, "", "", 10)

    assert made(1).fingerprint == made(1).fingerprint
    assert len({made(1).fingerprint, made(2).fingerprint, made(1, "b").fingerprint}) == 3


# Trouble of the machine ----------------------------------------------------------------------------------------------

TROUBLE = [
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EMFILE, "Too many open files"),
    InterruptedError(errno.EINTR, "Interrupted system call"),
]


@pytest.mark.parametrize("error", TROUBLE, ids=lambda error: error.strerror)
@pytest.mark.parametrize("place", ["utils.faces.alignment.read_photo", "utils.faces.crops.sha256_of"])
def test_what_the_machine_could_not_read_is_tried_again(people, open_folder, monkeypatch, error, place):
    module, name = place.rsplit(".", 1)
    real = getattr(sys.modules[module], name)

    def fails(path):
        if Path(path).name == "photo 1.png" and Path(path).parent.name == "Ada":
            raise error
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(place, fails)
        for _ in range(2):
            faces = open_folder(people)
            reason = f"not a readable image now: {error.strerror.lower()}"
            assert len(faces) == 4 and faces.skipped == (Skipped("Ada/photo 1.png", reason),)
    assert len(open_folder(people)) == 5 and open_folder(people).skipped == ()


NO_MEMORY = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError("out of memory error when reading image file"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_exhausted_memory_blames_no_photo(people, open_folder, monkeypatch, error):
    def fails(path):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(alignment, "read_photo", fails)
        with pytest.raises(CourseError, match="memory ran out .*max_identities.*no photo is blamed"):
            open_folder(people)
    assert len(open_folder(people)) == 5


def test_a_refusal_about_the_bytes_is_remembered(people, open_folder, reads):
    (people / "Ada" / "broken.jpg").write_text("no picture")
    for _ in range(2):
        assert len(open_folder(people)) == 5
    assert len(reads) == 6


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def test_a_heic_photo_under_another_name_is_named_and_read_once_that_is_possible(people, open_folder, monkeypatch):
    for name in ("phone.jpg", "phone.dat"):
        (people / "Ada" / name).write_bytes(HEIC + name.encode())
    (people / "Bob" / "web.jpg").write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(40))
    reasons = {entry.photo: entry.reason for entry in open_folder(people).skipped}
    assert all("a HEIC photo: run 'pip install pillow-heif'" in reasons[f"Ada/phone.{end}"] for end in ("jpg", "dat"))
    assert reasons["Bob/web.jpg"] == "not a readable image: broken or truncated"  # AVIF, which this Pillow knows
    read = alignment.read_photo
    monkeypatch.setattr(alignment, "read_photo", lambda path: drawing(8) if path.stem == "phone" else read(path))
    assert len(open_folder(people)) == 7  # as after an installation


def test_pillow_heif_is_registered_where_it_is_installed(monkeypatch):
    called = []
    package = types.SimpleNamespace(register_heif_opener=lambda: called.append(1))
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    alignment.register_heif.cache_clear()
    try:
        assert alignment.register_heif() and alignment.register_heif() and called == [1]
    finally:
        alignment.register_heif.cache_clear()


# Broken input --------------------------------------------------------------------------------------------------------


def test_broken_photos_are_skipped_counted_and_named(people, open_folder):
    home = people / "Ada"
    drawing(9, (400, 400)).save(home / "whole.jpg", quality=95)
    (home / "cut.jpg").write_bytes((home / "whole.jpg").read_bytes()[:9000])
    (home / "cut.png").write_bytes((home / "photo 0.png").read_bytes()[:-200])
    (home / "empty.jpg").write_bytes(b"")
    (home / "letter.jpg").write_text("Dear Ada, no picture today.")
    (home / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (people / "Eve").mkdir()
    (people / "Eve" / "only.jpg").write_text("nothing")
    (people / "Nobody").mkdir()
    faces = open_folder(people)
    assert len(faces) == 6 and faces.identities == ("Ada", "Bob")
    reasons = {entry.photo: entry.reason for entry in faces.skipped}
    assert reasons == {
        "Ada/cut.jpg": "not a readable image: broken or truncated",
        "Ada/cut.png": "not a readable image: broken or truncated",
        "Ada/empty.jpg": "not a readable image: the file is empty",
        "Ada/letter.jpg": "not a readable image: no known image format inside",
        "Ada/phone.heic": "not a readable image here: a HEIC photo: run 'pip install pillow-heif', or save it as JPEG",
        "Eve/only.jpg": "not a readable image: no known image format inside",
        "Eve": "no usable photo left",
        "Nobody": "the folder holds no photos",
    }
    assert "skipped 2: not a readable image: broken or truncated (Ada/cut.jpg, Ada/cut.png)" in faces.report()


def test_a_folder_with_nothing_usable_says_what_was_wrong(tmp_path, open_folder):
    (tmp_path / "people" / "Ada").mkdir(parents=True)
    (tmp_path / "people" / "Ada" / "a.jpg").write_bytes(b"")
    with pytest.raises(CourseError, match="No usable photo .* 1 x not a readable image: the file is empty"):
        open_folder(tmp_path / "people")


def test_drawings_are_reported_as_photos_without_a_face(people, open_folder):
    with pytest.raises(CourseError, match="5 x no face found.*align=False"):
        open_folder(people, align=True)


def test_wrong_names_folders_and_sizes_get_one_clear_sentence(tmp_path, people):
    with pytest.raises(
        CourseError,
        match="Unknown data set 'celebs'; choose one of: synthetic, lfw, celeba, vggface2",
    ):
        load_faces("celebs")
    with pytest.raises(CourseError, match="needs root.*one folder per person"):
        load_faces("folder", "")
    with pytest.raises(CourseError, match="There is no folder .*absent"):
        load_faces("folder", tmp_path / "absent")
    with pytest.raises(CourseError, match="is a file"):
        load_faces("folder", people / "Ada" / "photo 0.png")
    with pytest.raises(CourseError, match="holds photos directly"):
        load_faces("folder", people / "Ada")
    with pytest.raises(CourseError, match=f"one level too high: try '{people}'"):
        load_faces("folder", tmp_path)
    (tmp_path / "void").mkdir()
    with pytest.raises(CourseError, match="holds nothing; expected one folder per person"):
        load_faces("folder", tmp_path / "void")
    with pytest.raises(CourseError, match="image_size is 8"):
        load_faces("folder", people, image_size=8)
    with pytest.raises(CourseError, match="max_identities is 0"):
        load_faces("folder", people, max_identities=0)
    with pytest.raises(CourseError, match="rendered, not read"):
        load_faces("synthetic", people)


def test_max_identities_keeps_the_people_with_the_most_photos(tmp_path, open_folder):
    root = make_folder(tmp_path / "people", {"A": 1, "B": 3, "C": 2, "D": 2})
    assert open_folder(root, max_identities=2).identities == ("B", "C")
    assert open_folder(root, max_identities=9).identities == ("A", "B", "C", "D")


def test_a_new_data_set_needs_one_entry(monkeypatch, people):
    monkeypatch.setitem(DATASETS, "mine", lambda root, options: (root, options.image_size))
    assert load_faces("mine", people, image_size=32) == (people, 32)


# The cache -----------------------------------------------------------------------------------------------------------


def test_the_second_opening_decodes_nothing(people, open_folder, reads):
    first = open_folder(people)
    assert len(reads) == 5
    second = open_folder(people)
    assert len(reads) == 5 and torch.equal(first.images(range(5)), second.images(range(5)))
    open_folder(people, image_size=32)
    assert len(reads) == 10  # another size is another set of crops


def test_a_replaced_or_added_photo_is_noticed(people, open_folder, reads, tmp_path):
    open_folder(people)
    drawing(777).save(people / "Ada" / "photo 1.png")
    changed = open_folder(people)
    assert len(reads) == 6  # the others are known by their content
    assert np.array_equal(changed[1][0].numpy(), alignment.centre_crop(drawing(777), 64).transpose(2, 0, 1))
    drawing(778).save(people / "Bob" / "photo 9.png")
    assert len(open_folder(people)) == 6
    assert len(list((tmp_path / "cache").rglob("pixels-*.npy"))) == 1  # the older crops are gone


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, open_folder, monkeypatch):
    root = make_folder(tmp_path / "people", {"Ada": 5, "Bob": 5})
    monkeypatch.setattr(crops, "SHARD", 4)
    names, read = [], alignment.read_photo

    def interrupted(path):
        if len(names) == 6:
            raise KeyboardInterrupt
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(alignment, "read_photo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_folder(root)
    assert not list((tmp_path / "cache").rglob("index.json"))
    assert not list((tmp_path / "cache").rglob("*.partial"))
    again = []
    monkeypatch.setattr(alignment, "read_photo", lambda path: (again.append(path.name), read(path))[1])
    faces = open_folder(root)
    assert len(again) == 6  # the first shard of four was whole
    for k in range(10):
        expected = alignment.centre_crop(drawing(100 * (k // 5) + k % 5), 64).transpose(2, 0, 1)
        assert np.array_equal(faces[k][0].numpy(), expected)
    assert not list((tmp_path / "cache").rglob("shard-*"))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not a zip file"])
def test_a_half_written_shard_is_made_again(people, open_folder, reads, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch:  # stop before the shards are joined
        patch.setattr(crops.AlignedFaceCache, "_merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_folder(people)
    shard = next((tmp_path / "cache").rglob("shard-*.npz"))
    shard.write_bytes(damage(shard.read_bytes()))
    faces = open_folder(people)
    assert len(reads) == 10 and len(faces) == 5
    assert np.array_equal(faces[0][0].numpy(), alignment.centre_crop(drawing(0), 64).transpose(2, 0, 1))


@pytest.mark.parametrize("file", ["index.json", "pixels-*.npy"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", None])
def test_damaged_crops_are_made_again(people, open_folder, reads, tmp_path, file, damage):
    whole = open_folder(people).images(range(5))
    path = next((tmp_path / "cache").rglob(file))
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(open_folder(people).images(range(5)), whole)
    assert len(reads) == 10


# Real faces ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_lfw(tmp_path, lfw_root) -> Path:
    """Three people of LFW with three photos each, in the official layout."""
    home = tmp_path / "download" / "lfw"
    for person in sorted(path for path in lfw_root.iterdir() if len(list(path.glob("*.jpg"))) >= 3)[:3]:
        (home / person.name).mkdir(parents=True)
        for photo in sorted(person.glob("*.jpg"))[:3]:
            shutil.copy(photo, home / person.name / photo.name)
    return home


def test_lfw_is_aligned_once_and_everything_odd_is_listed(small_lfw, own_cache, monkeypatch):
    person = sorted(small_lfw.iterdir())[0]
    drawing(5, (250, 250)).save(person / f"{person.name}_0007.jpg")
    face = Image.open(person / f"{person.name}_0001.jpg")
    row = Image.new("RGB", (500, 250))
    row.paste(face, (0, 0))
    row.paste(face, (250, 0))
    row.save(person / f"{person.name}_0008.jpg")
    (person / f"{person.name}_0009.jpg").write_bytes((person / f"{person.name}_0001.jpg").read_bytes()[:5000])
    faces = load_faces("lfw", small_lfw, progress=False)
    assert faces.trained_min_photos == 10 and len(faces.identities) == 3
    skipped = {entry.photo.rsplit("_", 1)[1]: entry.reason for entry in faces.skipped}
    assert skipped["0007.jpg"] == "no face found"
    assert skipped["0009.jpg"] == "not a readable image: broken or truncated"
    crowded = Skipped(f"{person.name}/{person.name}_0008.jpg", "several faces: kept the central one")
    assert crowded in faces.noted and crowded.photo in faces.photo_names
    assert len(faces) + len(faces.skipped) == 12
    assert "noted" in faces.report() and "several faces" in faces.report()

    monkeypatch.setattr(alignment.Aligner, "__call__", lambda *_: pytest.fail("the detector ran a second time"))
    again = load_faces("lfw", small_lfw, progress=False)
    assert again.photo_names == faces.photo_names and again.noted == faces.noted and again.skipped == faces.skipped
    assert torch.equal(again.images([0, 1]), faces.images([0, 1]))


def lfw_of_drawings(home: Path) -> Path:
    for i, person in enumerate(("Ada_Lovelace", "Alan_Turing")):
        (home / person).mkdir(parents=True)
        for k in (1, 2):
            drawing(10 * i + k).save(home / person / f"{person}_{k:04d}.jpg")
    return home


def test_an_lfw_root_one_level_off_is_mended(tmp_path):
    home = lfw_of_drawings(tmp_path / "download" / "lfw")
    options = {"align": False, "progress": False, "cache": tmp_path / "cache"}
    straight = load_faces("lfw", home, **options)
    assert straight.identities == ("Ada_Lovelace", "Alan_Turing") and "one level" not in straight.source
    for root in (home.parent, home / "Alan_Turing"):
        faces = load_faces("lfw", root, **options)
        assert faces.photo_names == straight.photo_names and "one level" in faces.source


def test_a_folder_that_is_not_lfw_is_told_the_layout(tmp_path, people):
    with pytest.raises(CourseError, match="not named after their folders.*Ada_Lovelace_0001.jpg.*data set 'folder'"):
        load_faces("lfw", people)
    (tmp_path / "void").mkdir()
    with pytest.raises(CourseError, match="holds nothing; expected"):
        load_faces("lfw", tmp_path / "void")


def test_another_content_under_a_known_name_is_another_data_set(own_cache):
    drawn = load_faces("synthetic", image_size=32, max_identities=3, progress=False)
    assert drawn.fingerprint == "renderer 4, seed 0"
    labels, names = drawn.labels.copy(), drawn.photo_names
    labels[:2] = 1
    changes = (
        {"pixels": 255 - drawn.pixels},
        {"labels": labels},
        {"identities": drawn.identities[::-1]},
        {"photo_names": (names[1], names[0], *names[2:])},
    )
    found = {replace(drawn, **change).fingerprint for change in changes}
    assert len(found) == len(changes) and drawn.fingerprint not in found
