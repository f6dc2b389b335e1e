"""Where files may be written: links, devices, folders and full disks."""

import ast
import errno
import importlib
import io
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from utils import settings
from utils.publishing.course import apart, find_notebooks, read
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


def test_a_command_prints_on_a_narrow_stream_and_says_one_sentence(monkeypatch):
    narrow, told = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", narrow)
    monkeypatch.setattr(sys, "stderr", told)

    @settings.command
    def main(arguments):
        print("forget \u2193 \u9ec4")
        raise CourseError("No \u2193.")

    assert main([]) == 2
    for stream, text in ((narrow, "forget \\u2193 \\u9ec4"), (told, "error: No \\u2193.")):
        stream.flush()
        assert stream.buffer.getvalue().decode("ascii").strip() == text


def test_a_reader_who_leaves_early_is_no_error():
    """As in `| head`: what is still to be written goes nowhere, and the exit code says that all went well."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "from utils.settings import command; import sys; sys.exit(command(lambda arguments: print('a line'))())"
    run = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (run.returncode, run.stderr) == (0, b"")


@pytest.mark.parametrize(
    "name",
    "benchmark audit.__main__ sweep ablation sequence verdicts leaderboard training finetuning synthetic".split(),
)
def test_every_command_is_one(name):
    assert hasattr(importlib.import_module(f"utils.{name}").main, "__wrapped__")


def test_a_cache_that_is_a_file_or_below_one_is_one_sentence(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("FACE_COURSE_CACHE", str(file))
    with pytest.raises(CourseError, match="is no folder"):
        settings.cache_dir()
    with pytest.raises(CourseError, match="cannot be written"), settings.atomic_path(file / "below" / "x.json"):
        pass


def test_a_cache_of_nobody_is_one_sentence(monkeypatch):
    monkeypatch.setenv("FACE_COURSE_CACHE", "~nobodyatall/cache")
    with pytest.raises(CourseError, match="cannot be used .*set FACE_COURSE_CACHE"):
        settings.cache_dir()


def bare_texts(source: str) -> list[str]:
    """The calls that read or write text, or a program's words, in whatever encoding the machine happens to have."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        modes = [*call.args[1:2], *(given[key] for key in ("mode",) if key in given)]
        binary = any("b" in ast.unparse(mode) for mode in modes)
        program = name in ("run", "Popen", "check_output") and ("text" in given or "universal_newlines" in given)
        text = name in ("read_text", "write_text") or (
            name == "open" and isinstance(call.func, ast.Name) and not binary
        )
        found += [ast.unparse(call)] * ((text or program) and "encoding" not in given)
    return found


def test_text_is_read_and_written_as_utf8_everywhere():
    assert len(bare_texts("open(p)\np.read_text()\np.write_text('x')\nrun(c, text=True)\nopen(p, 'w')")) == 5
    assert bare_texts("open(p, 'rb')\nopen(p, mode='wb')\nopen(p, encoding='utf-8')\nImage.open(p)") == []
    for path in (settings.REPO_ROOT / "utils").rglob("*.py"):
        assert bare_texts(path.read_text(encoding="utf-8")) == [], path.name
    for path in find_notebooks(settings.REPO_ROOT / "notebooks" / "solutions"):
        cells = (cell.source for cell in read(path).cells if cell.cell_type == "code")
        code = "\n".join(re.sub(r"^(\s*)[%!].*$", r"\1pass", cell, flags=re.MULTILINE) for cell in cells)
        assert bare_texts(code) == [], path.name


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_one_seed_sets_every_generator_and_another_seed_sets_all_of_them_otherwise():
    rounds = {}
    for name, seed in (("first", 3), ("other", 4), ("again", np.int64(3))):
        settings.seed_everything(seed)
        rounds[name] = draws()
    assert rounds["first"] == rounds["again"]
    assert all(mine != other for mine, other in zip(rounds["first"], rounds["other"], strict=True))
    made = settings.make_settings("full", 3, "cpu")
    assert draws() == rounds["first"] and (made.profile, made.seed, made.device.type) == ("full", 3, "cpu")
    assert not made.quick and settings.make_settings().quick and settings.make_settings().seed == 0


def test_the_largest_seed_is_the_largest_that_numpy_takes():
    assert settings.as_seed(2**32 - 1) == 2**32 - 1
    np.random.seed(2**32 - 1)
    for seed in (2**32, -1, 0.5, True, "1"):
        with pytest.raises(CourseError, match="The seed is"):
            settings.seed_everything(seed)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_a_place_that_takes_no_more_is_one_sentence_and_the_old_file_stays(number, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(CourseError, match=f"could not be written .{os.strerror(number)}"), atomic_path(path) as place:
        place.write_text("ne", encoding="utf-8")
        raise OSError(number, os.strerror(number))
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]
