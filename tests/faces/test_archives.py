"""Unpacking strangers' archives: what is refused leaves nothing behind, what is accepted arrives whole."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from utils.faces import archives
from utils.faces.archives import Limits, is_archive, unpack
from utils.settings import CourseError

ROOMY = Limits(files=100, n_bytes=10_000_000)


def tar_of(path: Path, *entries: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                file.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1])
            file.addfile(info, io.BytesIO(entry[1]))
    return path


def zip_of(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def refused(archive: Path, why: str, limits: Limits = ROOMY) -> None:
    """The archive is refused with the reason, and nothing but itself lies in its folder and the one above."""
    before = set(archive.parent.parent.rglob("*"))
    with pytest.raises(CourseError, match=why):
        unpack(archive, archive.parent / "out", limits, progress=False)
    assert set(archive.parent.parent.rglob("*")) == before


@pytest.fixture
def box(tmp_path) -> Path:
    (tmp_path / "box").mkdir()
    return tmp_path / "box"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_of_every_compression_arrive_whole(box, mode):
    folder = special("lfw/", tarfile.DIRTYPE)
    path = tar_of(box / "a.bin", folder, ("lfw/Ada/Ada_0001.jpg", b"one"), ("./lfw/Bob/Bob_0001.jpg", b""), mode=mode)
    out = unpack(path, box / "out", ROOMY, progress=False)
    files = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert files == {"lfw/Ada/Ada_0001.jpg": b"one", "lfw/Bob/Bob_0001.jpg": b""}
    assert is_archive(path) and sorted(p.name for p in box.iterdir()) == ["a.bin", "out"]


def test_zips_arrive_whole_without_the_finders_shadow_files(box):
    path = zip_of(box / "a.zip", ("img/1.jpg", b"one"), ("img/empty/", b""), ("__MACOSX/img/._1.jpg", b"x"))
    out = unpack(path, box / "out", ROOMY, progress=False)
    assert (out / "img/1.jpg").read_bytes() == b"one" and (out / "img/empty").is_dir()
    assert not (out / "__MACOSX").exists() and is_archive(path)


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "a\\..\\out.txt", "C:/out.txt"])
def test_names_that_lead_outside_are_refused(box, name):
    refused(tar_of(box / "a.tgz", ("fine.txt", b"x"), (name, b"evil")), "leads outside its folder")
    with zipfile.ZipFile(box / "a.zip", "w") as file:
        info = zipfile.ZipInfo("x")
        info.filename = name
        file.writestr(info, b"evil")
    refused(box / "a.zip", "leads outside its folder")


@pytest.mark.parametrize(
    "entry",
    [
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("link", tarfile.SYMTYPE, "inside.txt"),
        special("hard", tarfile.LNKTYPE, "../../secret"),
        special("pipe", tarfile.FIFOTYPE),
        special("device", tarfile.CHRTYPE),
    ],
)
def test_links_and_devices_are_refused(box, entry):
    refused(tar_of(box / "a.tgz", ("inside.txt", b"x"), entry), "is a link or no plain file")


def test_links_and_secrets_in_zips_are_refused(box):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    refused(zip_of(box / "a.zip", (link, b"/etc/passwd")), "is a link or no plain file")
    path = zip_of(box / "b.zip", ("secret.txt", b"x"))
    content = bytearray(path.read_bytes())
    for signature, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flag] |= 1
    path.write_bytes(content)
    refused(path, "is a link or no plain file")


def test_more_than_the_limits_allow_is_refused_by_counting_not_by_believing(box):
    many = tar_of(box / "many.tgz", *((f"{k}.txt", b"x") for k in range(4)))
    refused(many, "more than 3 files", Limits(3, 1000))
    bomb = zip_of(box / "bomb.zip", ("zeros", bytes(5_000_000)))
    assert bomb.stat().st_size < 10_000
    refused(bomb, "unpacks to more than", Limits(3, 1_000_000))
    both = tar_of(box / "both.tgz", ("a", bytes(600)), ("b", bytes(600)))
    refused(both, "unpacks to more than", Limits(3, 1000))  # together, not one by one
    assert unpack(both, box / "out", Limits(2, 1200), progress=False).is_dir()


def test_the_same_name_twice_is_refused(box):
    refused(tar_of(box / "a.tgz", ("a.txt", b"one"), ("./a.txt", b"two")), "the same name twice")


@pytest.mark.parametrize("kind", ["tgz", "tar", "zip"])
def test_cut_off_archives_are_refused(box, kind):
    noise = bytes(range(256)) * 400
    path = box / f"a.{kind}"
    if kind == "zip":
        zip_of(path, ("a", noise), ("b", noise[::-1]))
    else:
        tar_of(path, ("a", noise), ("b", noise[::-1]), mode="w:gz" if kind == "tgz" else "w")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    refused(path, "damaged, cut off, or neither")


def test_what_is_no_archive_is_refused(box):
    (box / "page.tgz").write_text("<!doctype html><title>Sign in</title>")
    (box / "empty.zip").write_bytes(b"")
    for name in ("page.tgz", "empty.zip"):
        assert not is_archive(box / name)
        refused(box / name, "neither zip nor tar")


def test_an_interruption_leaves_nothing(box, monkeypatch):
    path = tar_of(box / "a.tgz", ("a", b"x"), ("b", b"y"))
    monkeypatch.setattr(archives, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        unpack(path, box / "out", ROOMY, progress=False)
    assert [file.name for file in box.iterdir()] == ["a.tgz"]


def test_a_full_disk_is_noticed_before_the_work(box, monkeypatch):
    path = tar_of(box / "a.tgz", ("a", b"x"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    refused(path, "GB free, but .* GB are needed")
