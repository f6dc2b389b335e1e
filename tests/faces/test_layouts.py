"""Every data set in its official layout, made here from generated faces: opened whole, refused in one sentence."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.faces import downloads, listing, sources
from utils.faces.datasets import INDEXES, FaceDataset, LoadOptions, load_faces
from utils.faces.lists import clear_name, name_key
from utils.settings import CourseError


@pytest.fixture(scope="session")
def face(tiny_faces):
    """Write the k-th generated face to a file."""

    def write(k: int, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny_faces.images([k])[0].permute(1, 2, 0).numpy()).save(path, quality=90)

    return write


@pytest.fixture
def open_set(tmp_path):
    """Open a data set without alignment and with a cache of its own."""

    def opener(name: str, root: Path | None = None, **options) -> FaceDataset:
        defaults = {"align": False, "cache": tmp_path / "cache", "progress": False}
        return load_faces(name, root, **(defaults | options))

    return opener


@pytest.fixture
def lfw(tmp_path, face) -> Path:
    for i, person in enumerate(("Ada_Lovelace", "Alan_Turing")):
        for k in (1, 2):
            face(12 * i + k, tmp_path / "lfw_funneled" / person / f"{person}_{k:04d}.jpg")
    (tmp_path / "lfw_funneled" / "pairs.txt").write_text("10 300\n")
    return tmp_path / "lfw_funneled"


CELEBA_ROWS = (("000001.jpg", 2880, 0), ("000002.jpg", 311, 2), ("000003.jpg", 2880, 0), ("000004.jpg", 311, 2))


@pytest.fixture
def celeba(tmp_path, face) -> Path:
    root = tmp_path / "celeba"
    for k, (file, _, _) in enumerate(CELEBA_ROWS):
        face(k, root / "img_align_celeba" / file)
    (root / "identity_CelebA.txt").write_text("".join(f"{file} {person}\n" for file, person, _ in CELEBA_ROWS))
    (root / "list_eval_partition.txt").write_text("".join(f"{file} {part}\n" for file, _, part in CELEBA_ROWS))
    return root


@pytest.fixture
def vggface2(tmp_path, face) -> Path:
    root = tmp_path / "VGG-Face2"
    for i, folder in enumerate(("test/n000001", "train/n000002", "train/n000003")):
        for k in (1, 2):
            face(12 * i + k, root / folder / f"{k:04d}_01.jpg")
    (root / "identity_meta.csv").write_text(
        "Class_ID, Name, Sample_Num, Flag, Gender\n"
        'n000001, "14th_Dalai_Lama", 424, 0, m,\n'
        'n000002, "A_Fine_Frenzy", 315, 1, f,\n'
        'n000003, "A._A._Gill,_Jr.", 205, 1, m\n'
    )
    return root


def olivetti_matrix() -> np.ndarray:
    """A stand-in for the original file's matrix, (4096, 400): photo k is a ramp across the columns, brighter with k."""
    ramp = np.tile(np.arange(64), (64, 1))
    photos = np.stack([ramp + k // 4 + (ramp > 40 + k % 4) for k in range(400)]).astype(np.uint8)
    return photos.transpose(0, 2, 1).reshape(400, 4096).T  # the original stores columns first


def photos(faces: FaceDataset) -> dict[str, str]:
    """Person by photo name."""
    return {name: faces.identities[label] for name, label in zip(faces.photo_names, faces.labels, strict=True)}


def tar(path: Path, *folders: Path) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for folder in folders:
            file.add(folder, folder.name)
    return path


def folders_in(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []


# LFW -----------------------------------------------------------------------------------------------------------------


def test_lfw_opens_from_its_folder_or_its_archive(tmp_path, lfw, open_set):
    straight = open_set("lfw", lfw)
    assert straight.identities == ("Ada_Lovelace", "Alan_Turing") and len(straight) == 4
    archive = tar(tmp_path / "downloads.tgz", lfw)
    (tmp_path / "hand").mkdir()
    shutil.copy(archive, tmp_path / "hand" / "lfw-funneled.tgz")
    for root, told in ((archive, "Unpacked from your downloads.tgz"), (tmp_path / "hand", "your lfw-funneled.tgz")):
        faces = open_set("lfw", root)
        assert photos(faces) == photos(straight) and told in faces.source
        assert faces.images(range(4)).equal(straight.images(range(4)))
    assert archive.is_file()  # what people placed themselves stays
    again = open_set("lfw", archive)
    assert photos(again) == photos(straight) and len(folders_in(tmp_path / "cache" / "faces" / "lfw")) == 2


def test_another_archive_is_told_the_layout_and_leaves_nothing(tmp_path, vggface2, open_set):
    archive = tar(tmp_path / "surprise.tgz", vggface2 / "train")
    for name, layout in (("lfw", "Ada_Lovelace_0001.jpg"), ("celeba", "identity_CelebA.txt")):
        with pytest.raises(CourseError, match=f"surprise.tgz' is another archive than that of '{name}'.*{layout}"):
            open_set(name, archive)
    (tmp_path / "notes.txt").write_text("no archive")
    with pytest.raises(CourseError, match="neither a zip nor a tar archive; expected"):
        open_set("lfw", tmp_path / "notes.txt")
    assert not list((tmp_path / "cache" / "faces").rglob("*.jpg"))
    assert folders_in(tmp_path / "cache" / "faces" / "lfw") == folders_in(tmp_path / "cache" / "faces" / "celeba") == []


# CelebA --------------------------------------------------------------------------------------------------------------


def test_celeba_opens_with_its_official_numbers(celeba, open_set):
    faces = open_set("celeba", celeba)
    assert faces.identities == ("celeb-311", "celeb-2880")  # by number, not by spelling
    assert photos(faces) == {f"celeb-{person}/{file}": f"celeb-{person}" for file, person, _ in CELEBA_ROWS}
    assert faces.skipped == () and "celeba" in faces.source and faces.trained_min_photos == 10
    with Image.open(celeba / "img_align_celeba" / "000002.jpg") as image:
        stored = np.asarray(image).astype(int)
    first = faces.images(np.flatnonzero(np.array(faces.photo_names) == "celeb-311/000002.jpg"))[0].permute(1, 2, 0)
    assert np.abs(first.numpy().astype(int) - stored).mean() < 1


def test_celeba_opens_as_it_is_downloaded(celeba, open_set, tmp_path):
    """Folders Anno, Eval and Img, the photos still zipped."""
    straight = open_set("celeba", celeba)
    official = tmp_path / "CelebA"
    for file, folder in (("identity_CelebA.txt", "Anno"), ("list_eval_partition.txt", "Eval")):
        (official / folder).mkdir(parents=True)
        shutil.copy(celeba / file, official / folder)
    (official / "Img").mkdir()
    with pytest.raises(CourseError, match="no folder img_align_celeba in .*expected"):
        open_set("celeba", official)
    with zipfile.ZipFile(official / "Img" / "img_align_celeba.zip", "w") as file:
        for photo in sorted((celeba / "img_align_celeba").iterdir()):
            file.write(photo, f"img_align_celeba/{photo.name}")
    for _ in range(2):
        assert photos(open_set("celeba", official)) == photos(straight)
    with zipfile.ZipFile(official / "Img" / "img_align_celeba.zip", "w") as file:
        file.writestr("elsewhere/1.jpg", b"x")
    with pytest.raises(CourseError, match="another archive than CelebA's"):
        open_set("celeba", official)


def test_celeba_nested_in_a_folder_of_the_same_name_opens(celeba, open_set):
    (celeba / "img_align_celeba").rename(celeba / "inner")
    (celeba / "img_align_celeba").mkdir()
    (celeba / "inner").rename(celeba / "img_align_celeba" / "img_align_celeba")
    assert len(open_set("celeba", celeba)) == 4


def test_the_official_parts_of_celeba(celeba, open_set):
    assert open_set("celeba", celeba, part="train").identities == ("celeb-2880",)
    assert open_set("celeba", celeba, part="test").identities == ("celeb-311",)
    with pytest.raises(CourseError, match="Unknown part 'dev'; choose one of: train, valid, test"):
        open_set("celeba", celeba, part="dev")
    with pytest.raises(CourseError, match="'lfw' has no official parts"):
        open_set("lfw", celeba, part="train")
    (celeba / "list_eval_partition.txt").unlink()
    assert len(open_set("celeba", celeba)) == 4  # needed only to choose a part
    with pytest.raises(CourseError, match="no list_eval_partition.txt in .*expected"):
        open_set("celeba", celeba, part="train")


def test_celeba_without_its_identity_file_or_at_the_wrong_level(celeba, open_set):
    with pytest.raises(CourseError, match=f"one level too deep: try '{celeba}'; expected"):
        open_set("celeba", celeba / "img_align_celeba")
    with pytest.raises(CourseError, match=f"one level too high: try '{celeba}'; expected"):
        open_set("celeba", celeba.parent)
    (celeba / "identity_CelebA.txt").unlink()
    with pytest.raises(CourseError, match="no identity_CelebA.txt in .*so nobody is named.*expected"):
        open_set("celeba", celeba)
    with pytest.raises(CourseError, match="There is no folder .*absent.*expected"):
        open_set("celeba", celeba / "absent")


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("identity_CelebA.txt", "000001.jpg\n", r"Line 1 of .*\('000001.jpg'\) is not a photo and a person's number"),
        ("identity_CelebA.txt", "000001.jpg 7\n000001.jpg 8\n", "Line 2 of .* contradicts an earlier line"),
        ("identity_CelebA.txt", "\n", "is empty"),
        ("identity_CelebA.txt", "<html>Too many users</html>\n", "Line 1 of .*is not a photo"),
        ("list_eval_partition.txt", "000001.jpg 0\n", r"does not fit .*3 photos .*first: 000002.jpg"),
        ("list_eval_partition.txt", "\n".join(f"{f} 3" for f, *_ in CELEBA_ROWS), r"does not fit .*4 photos"),
    ],
)
def test_celeba_lists_that_do_not_fit_are_refused(celeba, open_set, file, content, why):
    (celeba / file).write_text(content)
    with pytest.raises(CourseError, match=why) as caught:
        open_set("celeba", celeba)
    assert "expected 'root/img_align_celeba" in str(caught.value)


def test_a_listed_photo_that_is_absent_is_refused_and_an_unlisted_one_is_named(celeba, open_set, face):
    face(9, celeba / "img_align_celeba" / "000009.jpg")
    faces = open_set("celeba", celeba)
    assert [(entry.photo, entry.reason) for entry in faces.skipped] == [
        ("000009.jpg", "not listed in identity_CelebA.txt")
    ]
    (celeba / "img_align_celeba" / "000003.jpg").unlink()
    with pytest.raises(CourseError, match="1 of 4 photos that identity_CelebA.txt lists are not in .*000003.jpg"):
        open_set("celeba", celeba)


# VGGFace2 ------------------------------------------------------------------------------------------------------------


def test_vggface2_opens_with_its_official_names(vggface2, open_set):
    faces = open_set("vggface2", vggface2)
    assert faces.identities == ("A_Fine_Frenzy", "A._A._Gill,_Jr.", "14th_Dalai_Lama")
    assert photos(faces)["n000003/0002_01.jpg"] == "A._A._Gill,_Jr." and len(faces) == 6
    assert open_set("vggface2", vggface2, part="test").identities == ("14th_Dalai_Lama",)
    assert open_set("vggface2", vggface2, part="train").identities == ("A_Fine_Frenzy", "A._A._Gill,_Jr.")
    (vggface2 / "meta").mkdir()
    (vggface2 / "identity_meta.csv").rename(vggface2 / "meta" / "identity_meta.csv")
    shutil.rmtree(vggface2 / "train")
    (vggface2 / "test" / "notes").mkdir()
    faces = open_set("vggface2", vggface2)
    assert len(faces) == 2 and faces.skipped[0].photo == "test/notes"
    with pytest.raises(CourseError, match="no folder 'train' in .*expected"):
        open_set("vggface2", vggface2, part="train")


def test_vggface2_opens_from_its_archives(vggface2, open_set, tmp_path):
    straight = open_set("vggface2", vggface2)
    hand = tmp_path / "hand"
    hand.mkdir()
    for part in ("train", "test"):
        tar(hand / f"vggface2_{part}.tar.gz", vggface2 / part)
    with pytest.raises(CourseError, match="no identity_meta.csv in .*expected"):
        open_set("vggface2", hand)
    shutil.rmtree(tmp_path / "cache")
    shutil.copy(vggface2 / "identity_meta.csv", hand)
    assert photos(open_set("vggface2", hand)) == photos(straight)
    assert photos(open_set("vggface2", hand / "vggface2_test.tar.gz")) == {
        f"n000001/000{k}_01.jpg": "14th_Dalai_Lama" for k in (1, 2)
    }


def test_vggface2_at_the_wrong_level_or_without_its_names(vggface2, open_set):
    with pytest.raises(CourseError, match=f"one level too deep: try '{vggface2}'; expected"):
        open_set("vggface2", vggface2 / "train")
    with pytest.raises(CourseError, match=f"one level too high: try '{vggface2}'; expected"):
        open_set("vggface2", vggface2.parent)
    with pytest.raises(CourseError, match=f"two levels too deep: try '{vggface2}'; expected"):
        open_set("vggface2", vggface2 / "train" / "n000002")
    (vggface2.parent / "elsewhere" / "empty" / "within").mkdir(parents=True)
    with pytest.raises(CourseError, match="neither train nor test"):
        open_set("vggface2", vggface2.parent / "elsewhere" / "empty" / "within")
    (vggface2 / "identity_meta.csv").unlink()
    with pytest.raises(CourseError, match="no identity_meta.csv in .*expected"):
        open_set("vggface2", vggface2)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("424, 0", "424, 1", "puts n000001 into the other part"),
        ("n000003", "n000004", "does not list n000003"),
        ("315, 1, f,", "many", r"Line 3 of .* is malformed"),
    ],
)
def test_vggface2_lists_that_do_not_fit_are_refused(vggface2, open_set, old, new, why):
    meta = vggface2 / "identity_meta.csv"
    meta.write_text(meta.read_text().replace(old, new))
    with pytest.raises(CourseError, match=why) as caught:
        open_set("vggface2", vggface2)
    assert "expected 'root/train/n000002" in str(caught.value)


def test_two_people_of_one_name_stay_two(vggface2, open_set):
    meta = vggface2 / "identity_meta.csv"
    meta.write_text(meta.read_text().replace("A._A._Gill,_Jr.", "A_Fine_Frenzy"))
    assert open_set("vggface2", vggface2, part="train").identities == (
        "A_Fine_Frenzy (n000002)",
        "A_Fine_Frenzy (n000003)",
    )


def test_classes_of_one_name_are_named(vggface2, open_set):
    meta = vggface2 / "identity_meta.csv"
    meta.write_text(meta.read_text().replace("A._A._Gill,_Jr.", "A_Fine_Frenzy\u200b"))
    faces = open_set("vggface2", vggface2, part="train")
    assert faces.identities == ("A_Fine_Frenzy (n000002)", "A_Fine_Frenzy (n000003)")
    assert faces.noted[0].photo == "n000002 and n000003" and faces.noted[0].other == "A_Fine_Frenzy"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_lists_saved_by_a_spreadsheet_open_the_same_people(vggface2, celeba, open_set, encoding):
    plain = open_set("vggface2", vggface2).identities, open_set("celeba", celeba).identities
    meta = vggface2 / "identity_meta.csv"
    rows = [re.split(", ", line.strip(","), maxsplit=4) for line in meta.read_text().splitlines()]
    text = io.StringIO()
    csv.writer(text, delimiter=";").writerows([[row[0], *(" " + cell for cell in row[1:])] for row in rows])
    meta.write_bytes(text.getvalue().encode(encoding))
    for name, heading in (("identity_CelebA", "image_id;identity"), ("list_eval_partition", "4\r\nimage_id;partition")):
        lines = [line.replace(" ", ";") for line in (celeba / f"{name}.txt").read_text().splitlines()]
        (celeba / f"{name}.txt").unlink()
        (celeba / f"{name}.csv").write_bytes("\r\n".join([heading, *lines]).encode(encoding))
    assert (open_set("vggface2", vggface2).identities, open_set("celeba", celeba).identities) == plain
    assert open_set("celeba", celeba, part="test").identities == ("celeb-311",)


def test_what_lies_beside_vggface2s_photos_is_counted(vggface2, open_set, face):
    face(3, vggface2 / "train" / "stray.jpg")
    face(4, vggface2 / "train" / "n000002" / "more" / "x.jpg_large.jpg")
    (vggface2 / "train" / "n000002" / "readme.txt").write_text("hello")
    faces = open_set("vggface2", vggface2)
    assert photos(faces)["n000002/more/x.jpg_large.jpg"] == "A_Fine_Frenzy"
    assert {entry.photo: entry.reason for entry in faces.skipped} == {
        "train/stray.jpg": "lies beside the people's folders, in nobody's",
        "n000002/readme.txt": "not a photo",
    }


def test_a_root_two_levels_off_is_found_or_named(tmp_path, lfw, celeba, vggface2, open_set):
    home = tmp_path / "elsewhere" / "unpacked"
    home.mkdir(parents=True)
    shutil.move(lfw, home)
    faces = open_set("lfw", home.parent)
    assert len(faces) == 4 and "Found two levels from the root" in faces.source
    with pytest.raises(CourseError, match=f"two levels too high: try '{home / lfw.name}'"):
        open_set("folder", home.parent)
    for name, root in (("celeba", celeba), ("vggface2", vggface2)):
        home = tmp_path / f"{name} of mine" / "a"
        home.mkdir(parents=True)
        shutil.move(root, home / "b")
        with pytest.raises(CourseError, match=f"two levels too high: try '{home / 'b'}'"):
            open_set(name, home.parent)


def test_a_name_is_what_one_sees_of_it():
    same = ("Zoë  M.", " Zoë M.\u200b", "Zoe\u0308\u00a0M.", "\ufeffZoë\tM. ")
    assert {clear_name(name) for name in same} == {"Zoë M."}
    assert clear_name("\u200b") == "\\u200b" and clear_name("A\udcff") == "A\\xff"
    assert clear_name("می\u200cخواهم") == "می\u200cخواهم" and name_key("می\u200cخواهم") == name_key("میخواهم")


# Olivetti ------------------------------------------------------------------------------------------------------------


def test_olivetti_opens_from_the_original_file_and_from_scikit_learns(tmp_path, open_set, monkeypatch):
    import joblib
    from scipy.io import savemat

    (tmp_path / "hand").mkdir()
    savemat(tmp_path / "hand" / "olivettifaces.mat", {"faces": olivetti_matrix()})
    faces = open_set("olivetti", tmp_path / "hand", align=None)
    assert len(faces) == 400 and len(faces.identities) == 40 and set(np.bincount(faces.labels)) == {10}
    assert faces.photo_names[10] == "s02/01.png" and faces.skipped == ()
    first = faces[0][0].numpy()
    assert (np.diff(first[0].astype(int), axis=1) >= 0).all() and first[0, 0, 0] < first[0, 0, 63]  # upright
    assert np.ptp(first, axis=1).max() == 0 and faces[399][0][0, 0, 63] == 255
    home = tmp_path / "cache" / "faces" / "olivetti"
    joblib.dump(olivetti_matrix().T.copy(), home / "olivetti_py3.pkz")  # as the fetcher leaves it
    fetched = open_set("olivetti", align=None)
    assert fetched.images(range(400)).equal(faces.images(range(400))) and "scikit-learn" in fetched.source
    assert open_set("olivetti", home / "sklearn").identities == faces.identities


def test_olivetti_that_cannot_be_fetched_or_read(tmp_path, open_set, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("sklearn.datasets.fetch_olivetti_faces", offline)
    with pytest.raises(CourseError, match=r"could not fetch .*no network.*Place olivettifaces.mat.*expected"):
        open_set("olivetti")
    (tmp_path / "hand").mkdir()
    with pytest.raises(CourseError, match="no Olivetti faces in .*expected"):
        open_set("olivetti", tmp_path / "hand")
    for broken in ("olivettifaces.mat", "olivetti_py3.pkz"):
        (tmp_path / "hand" / broken).write_bytes(b"cut off")
        with pytest.raises(CourseError, match="does not hold the 400 Olivetti faces; expected"):
            open_set("olivetti", tmp_path / "hand" / broken)


# Parquet mirrors -----------------------------------------------------------------------------------------------------


@pytest.fixture
def write_parquet():
    """Write photos and labels as the mirrors store them; class names go beside the schema."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write(path: Path, files: list[Path], column: str, labels: list, names=None, paths=True) -> Path:
        images = [{"bytes": file.read_bytes(), "path": file.name if paths else None} for file in files]
        table = pa.table({"image": images, column: labels, "Smiling": [True] * len(files)})
        feature = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
        info = json.dumps({"info": {"features": {column: feature}}})
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table.replace_schema_metadata({"huggingface": info}), path, row_group_size=2)
        return path

    return write


@pytest.mark.parametrize("paths", [True, False])
def test_lfw_opens_from_its_parquet_mirror(lfw, open_set, write_parquet, tmp_path, paths):
    straight = open_set("lfw", lfw)
    files = sorted(lfw.rglob("*.jpg"))
    people = ["Ada_Lovelace", "Alan_Turing"]
    path = write_parquet(tmp_path / "lfw.parquet", files, "label", [0, 0, 1, 1], names=people, paths=paths)
    faces = open_set("lfw", path)
    assert photos(faces) == photos(straight) and faces.images(range(4)).equal(straight.images(range(4)))


def test_celeba_opens_from_its_parquet_mirror(celeba, open_set, write_parquet, tmp_path):
    straight = open_set("celeba", celeba)
    home = tmp_path / "hand"
    for part, number in (("train", 0), ("test", 2)):
        rows = [(celeba / "img_align_celeba" / file, person) for file, person, p in CELEBA_ROWS if p == number]
        write_parquet(home / f"{part}-00000-of-00001.parquet", [f for f, _ in rows], "celeb_id", [p for _, p in rows])
    faces = open_set("celeba", home)
    assert photos(faces) == photos(straight) and faces.images(range(4)).equal(straight.images(range(4)))
    assert open_set("celeba", home, part="test").identities == ("celeb-311",)


def test_a_parquet_file_that_is_another_one_or_broken_is_refused(celeba, open_set, write_parquet, tmp_path):
    file = celeba / "img_align_celeba" / "000001.jpg"
    clusters = write_parquet(tmp_path / "train-clusters.parquet", [file], "cluster", [1])
    with pytest.raises(CourseError, match=r"no columns image and celeb_id \(but image, cluster, Smiling\)"):
        open_set("celeba", clusters)
    nameless = write_parquet(tmp_path / "shard.parquet", [file], "celeb_id", [1])
    with pytest.raises(CourseError, match="does not begin with train, valid or test"):
        open_set("celeba", nameless)
    evil = write_parquet(tmp_path / "lfw.parquet", [file], "label", [0], names=["../../evil"])
    with pytest.raises(CourseError, match="or with the name '../../evil'"):
        open_set("lfw", evil)
    clusters.write_bytes(clusters.read_bytes()[:-40])
    with pytest.raises(CourseError, match="no readable parquet file"):
        open_set("celeba", clusters)
    assert not list((tmp_path / "cache" / "faces").rglob("*.*"))


def test_a_missing_package_is_named(open_set, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "lfw.parquet").write_bytes(b"PAR1")
    with pytest.raises(CourseError, match="'lfw.parquet' needs the package pyarrow"):
        open_set("lfw", tmp_path / "lfw.parquet")


# Downloads -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(monkeypatch, tmp_path):
    """Serve files from a folder in place of the web: requests for anything else fail as an offline machine does."""
    served = tmp_path / "web"
    served.mkdir()
    asked = []

    def receive(url, whole, _, *, remote, **options) -> None:
        asked.append(remote.name)
        if not (served / remote.name).is_file():
            raise downloads._Refused("cannot be reached")
        shutil.copy(served / remote.name, whole)

    monkeypatch.setattr(downloads, "_receive", receive)
    for name, known in sources.SOURCES.items():
        known = tuple(replace(s, files=tuple(replace(f, checksum=None) for f in s.files)) for s in known)
        monkeypatch.setitem(sources.SOURCES, name, known)
    return served, asked


def test_without_root_the_data_set_is_downloaded_once(web, lfw, open_set, tmp_path, capsys):
    served, asked = web
    tar(served / "lfw-funneled.tgz", lfw)
    faces = open_set("lfw", progress=True)
    assert "Downloaded from https://ndownloader.figshare.com" in faces.source and len(faces) == 4
    assert "Downloaded from https://ndownloader.figshare.com" in capsys.readouterr().out  # the source is told
    assert "Downloaded earlier from" in open_set("lfw").source and asked == ["lfw-funneled.tgz"]
    assert folders_in(tmp_path / "cache" / "faces" / "lfw") == ["funneled", "lfw-funneled.tgz.sha256"]


def test_the_next_source_is_used_when_one_fails(web, lfw, open_set, write_parquet):
    served, asked = web
    write_parquet(served / "lfw.parquet", sorted(lfw.rglob("*.jpg")), "label", [0, 0, 1, 1], ["Ada_L", "Alan_T"])
    faces = open_set("lfw")
    assert "huggingface.co/datasets/logasja/lfw" in faces.source and faces.identities == ("Ada_L", "Alan_T")
    assert asked == ["lfw-funneled.tgz", "lfw.parquet"]


def test_offline_the_place_for_a_copy_is_told_for_every_source(web, open_set, tmp_path):
    with pytest.raises(CourseError) as caught:
        open_set("lfw")
    home = tmp_path / "cache" / "faces" / "lfw"
    for part in (home / "lfw-funneled.tgz", home / "lfw.parquet", "Or give root; expected 'root/Ada_Lovelace"):
        assert str(part) in str(caught.value)
    assert folders_in(home) == []


def test_a_copy_placed_where_the_message_says_is_used_and_kept(web, lfw, open_set, tmp_path):
    home = tmp_path / "cache" / "faces" / "lfw"
    home.mkdir(parents=True)
    tar(home / "lfw-funneled.tgz", lfw)
    assert len(open_set("lfw")) == 4 and web[1] == [] and (home / "lfw-funneled.tgz").is_file()


def test_vggface2_is_downloaded_with_its_list_of_names(web, vggface2, open_set):
    served, _ = web
    tar(served / "vggface2_test.tar.gz", vggface2 / "test")
    shutil.copy(vggface2 / "identity_meta.csv", served)
    with pytest.raises(CourseError, match=r"training part \(38 GB\) is not downloaded.*expected"):
        open_set("vggface2", part="train")
    assert web[1] == []
    assert open_set("vggface2").identities == ("14th_Dalai_Lama",)


def test_celeba_goes_on_after_the_parts_that_arrived(web, celeba, open_set, write_parquet, tmp_path, monkeypatch):
    served, asked = web
    mirror = sources.SOURCES["celeba"][0]
    files = (mirror.files[5], mirror.files[6])  # the last of the test part, the first of the training part
    monkeypatch.setitem(sources.SOURCES, "celeba", (replace(mirror, files=files, n_bytes=1),))
    rows = {
        number: [(celeba / "img_align_celeba" / f, i) for f, i, p in CELEBA_ROWS if p == number] for number in (0, 2)
    }
    write_parquet(served / files[0].name, [f for f, _ in rows[2]], "celeb_id", [i for _, i in rows[2]])
    with pytest.raises(CourseError, match="Could not download train-00000-of-00019.parquet"):
        open_set("celeba")
    assert asked == ["test-00002-of-00003.parquet", "train-00000-of-00019.parquet"]
    write_parquet(served / files[1].name, [f for f, _ in rows[0]], "celeb_id", [i for _, i in rows[0]])
    assert photos(open_set("celeba")) == photos(open_set("celeba", celeba))
    assert asked[2:] == ["train-00000-of-00019.parquet"]
    assert not list((tmp_path / "cache" / "faces").rglob("*.parquet"))


def test_no_room_is_said_before_a_download(web, open_set, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**9})())
    with pytest.raises(CourseError, match="1.0 GB free, but 14.1 GB are needed"):
        open_set("celeba")
    assert web[1] == []


def test_no_room_is_said_before_photos_are_read(lfw, open_set, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    monkeypatch.setattr("utils.faces.alignment.read_photo", lambda _: pytest.fail("a photo was read"))
    with pytest.raises(CourseError, match="GB are needed"):
        open_set("lfw", lfw)


def test_another_archive_under_the_same_name_size_and_date_is_unpacked_anew(tmp_path, lfw, face, open_set):
    archive = tmp_path / "lfw.tgz"
    contents = []
    for k in (30, 60):
        face(k, lfw / "Ada_Lovelace" / "Ada_Lovelace_0001.jpg")
        archive.write_bytes(tar(tmp_path / "made.tgz", lfw).read_bytes().ljust(100_000, b"\0"))
        os.utime(archive, ns=(10**18, 10**18))
        faces = open_set("lfw", archive)
        contents.append((faces.fingerprint, faces[0][0]))
    assert contents[0][0] != contents[1][0] and not contents[0][1].equal(contents[1][1])


def test_every_source_says_where_it_comes_from_and_invents_no_checksum():
    for known in sources.SOURCES.values():
        for file in (file for source in known for file in source.files):
            assert all(url.startswith("https://") for url in file.urls)
            assert file.checksum is None or file.checksum.split(":")[0] in ("sha256", "md5")
    from sklearn.datasets import _lfw

    assert sources.SOURCES["lfw"][0].files[0].checksum == f"sha256:{_lfw.FUNNELED_ARCHIVE.checksum}"
    assert sources.SOURCES["lfw"][0].files[0].urls == (_lfw.FUNNELED_ARCHIVE.url,)


# The index -----------------------------------------------------------------------------------------------------------


def test_an_index_opens_no_photo(celeba, vggface2, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.faces.alignment.read_photo", lambda _: pytest.fail("a photo was read"))
    options = LoadOptions(64, None, tmp_path / "cache", "cpu", False, 0, None, None)
    index = INDEXES["celeba"](celeba, options)
    assert index.n_photos == 4 and [person for person, _ in index.people] == ["celeb-311", "celeb-2880"]
    assert "4 photos of 2 people (2 to 2 photos each, median 2)" in index.report()
    assert index.people[0][1][0].path == celeba / "img_align_celeba" / "000002.jpg"
    assert INDEXES["vggface2"](vggface2, replace(options, part="train")).n_photos == 4


def test_only_the_chosen_people_are_read(celeba, open_set, face, monkeypatch):
    from utils.faces import alignment

    face(5, celeba / "img_align_celeba" / "000005.jpg")
    for file, line in (("identity_CelebA.txt", "000005.jpg 311\n"), ("list_eval_partition.txt", "000005.jpg 2\n")):
        (celeba / file).write_text((celeba / file).read_text() + line)
    reads, read = [], alignment.read_photo
    monkeypatch.setattr(alignment, "read_photo", lambda path: (reads.append(path.name), read(path))[1])
    assert open_set("celeba", celeba, max_identities=1).identities == ("celeb-311",)
    assert reads == ["000002.jpg", "000004.jpg", "000005.jpg"]


def test_the_stand_in_of_the_benchmark_is_a_celeba(tmp_path, face, monkeypatch):
    import bench_datasets

    face(0, tmp_path / "one.jpg")
    monkeypatch.setattr(bench_datasets, "make_photos", lambda *_: [tmp_path / "one.jpg"] * 128)
    bench_datasets.make_stand_in(tmp_path / "celeba", 60, 20, None)
    bench_datasets.fill_cache(tmp_path / "celeba", tmp_path / "cache")
    assert bench_datasets.measure_index(tmp_path / "celeba", tmp_path / "cache", None) == {"photos": 60}
    reopened = bench_datasets.measure_reopen(tmp_path / "celeba", tmp_path / "cache", None)
    assert reopened == {"photos": 60, "batch": [256, 3, 64, 64]}


def test_a_link_to_a_folder_above_the_root_makes_nobody(tmp_path):
    root = tmp_path / "above" / "root"
    for person in (root / "Ada", tmp_path / "above" / "Elsewhere"):
        person.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(person / "a.png")
    (root / "up").symlink_to(root.parent)
    (root / "top").symlink_to(tmp_path)
    found = listing.list_people(root)
    assert [person for person, photos in found.people if photos] == ["Ada"]
    assert sum("listed already" in entry.reason for entry in found.skipped) == 2


@pytest.mark.parametrize("name", ["folder", "lfw", "celeba", "vggface2"])
def test_a_root_in_the_home_of_nobody_is_one_sentence(name):
    with pytest.raises(CourseError, match="is no place"):
        load_faces(name, "~nobodyatall/faces", progress=False)
