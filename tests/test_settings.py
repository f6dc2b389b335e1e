"""Where files may be written: links, devices, folders and full disks."""

import errno
import os

import pytest

from utils.course import apart
from utils.settings import CourseError, atomic_path, cache_dir, writable_file


def test_a_link_stays_and_its_file_is_updated(tmp_path):
    shared, link = tmp_path / "shared.json", tmp_path / "link.json"
    shared.write_text("old", encoding="utf-8")
    shared.chmod(0o664)
    link.symlink_to(shared)
    with atomic_path(link) as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert link.is_symlink() and shared.read_text(encoding="utf-8") == "new"
    assert shared.stat().st_mode & 0o777 == 0o664


def test_only_regular_files_are_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (os.devnull, tmp_path, tmp_path / "pipe"):
        with pytest.raises(CourseError, match="not a regular file"):
            writable_file(place)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(CourseError, match="could not be written"), atomic_path(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FACE_COURSE_CACHE", "~/cache")
    assert cache_dir() == tmp_path / "cache" and writable_file("~/a.json") == tmp_path / "a.json"


def test_build_is_kept_apart_from_the_sources(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for build in (tmp_path, folder, folder / "x"):
        with pytest.raises(CourseError, match="would write over"):
            apart(build, folder)
    assert apart(tmp_path / "build", folder) == tmp_path / "build"
