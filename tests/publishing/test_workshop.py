"""The workshop folder: complete, checked, installs from its own wheels, never half-built. Wheels are made here."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

from utils.publishing import course, workshop
from utils.settings import REPO_ROOT, CourseError
from utils.wheels import THIS_PYTHON, Room, collect_wheels, make_room, this_system

LOCAL = ["--no-index", "--find-links"]


def make_wheel(folder: Path, name: str, version: str, *needs: str, tag: str = "py3-none-any") -> None:
    """Write a wheel that holds one empty module."""
    folder.mkdir(exist_ok=True)
    info, lines = f"{name}-{version}.dist-info", "".join(f"Requires-Dist: {need}\n" for need in needs)
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with wheels: one requirement, what it needs everywhere, and what it needs on Windows only."""
    folder = tmp_path / "source"
    make_wheel(folder, "toplevel", "1.0", "middle>=1", "only_windows; sys_platform == 'win32'")
    make_wheel(folder, "middle", "1.5")
    make_wheel(folder, "middle", "2.0")
    make_wheel(folder, "only_windows", "1.0")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository in small."""
    root = tmp_path / "root"
    for name, text in (
        ("utils/__init__.py", ""),
        ("utils/course.py", "print('checked')\n"),
        ("utils/__pycache__/old.pyc", ""),
        ("data/README.md", "data"),
        ("data/cache/face.png", ""),
        ("requirements.txt", "toplevel>=1  # all\n"),
        ("constraints.txt", "middle==1.5\n"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "notebooks").mkdir()
    opening = nbformat.v4.new_markdown_cell("# 00 · Hello\n\nDoes it work?")
    nbformat.write(nbformat.v4.new_notebook(cells=[opening]), root / "notebooks/00_hello.ipynb")
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] + " " + path.name.split("-")[1] for path in folder.glob("*.whl"))


@pytest.mark.parametrize(("system", "extra"), [("windows", ["only_windows 1.0"]), ("linux", []), ("macos", [])])
def test_the_room_decides_what_is_required(root, source, tmp_path, system, extra):
    files = root / "requirements.txt", root / "constraints.txt"
    collect_wheels(tmp_path / "wheels", Room(system, "3.12"), *files, [*LOCAL, str(source)])
    assert names(tmp_path / "wheels") == ["middle 1.5", *extra, "toplevel 1.0"]
    assert [path.name for path in (tmp_path / "wheels").glob(".*")] == []


def test_a_wheel_that_does_not_exist_is_one_sentence(root, source, tmp_path):
    make_wheel(source, "middle", "1.5", tag="py2-none-any")
    (source / "middle-1.5-py3-none-any.whl").unlink()
    files = root / "requirements.txt", root / "constraints.txt"
    with pytest.raises(
        CourseError,
        match=r"No wheel of middle\S* in its tested version, for Python 3.12 on macos was found; try another",
    ):
        collect_wheels(tmp_path / "wheels", Room("macos", "3.12"), *files, [*LOCAL, str(source)])


def test_rooms_are_checked():
    assert this_system() in ("linux", "linux-arm", "macos", "macos-intel", "windows")
    with pytest.raises(CourseError, match="Unknown platform 'amiga'"):
        make_room("amiga", "3.11")
    with pytest.raises(CourseError, match="Unknown Python version '3.9'"):
        make_room("linux", "3.9")


def test_the_folder_holds_the_course_and_installs_without_an_index(root, source, tmp_path):
    out = workshop.build_workshop(tmp_path / "out", [Room(this_system())], [*LOCAL, str(source)], root)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"START_HERE.txt", "guide.html", "site/index.html", "install.sh", "start.bat", "data/README.md"} <= files
    assert not any("cache" in name for name in files)
    summed = re.findall(r"^[0-9a-f]{64}  (.+)$", (out / "SHA256SUMS").read_text(), re.MULTILINE)
    assert set(summed) == files - {"SHA256SUMS"}
    assert "Does it work?" in (out / "guide.html").read_text(encoding="utf-8")
    done = subprocess.run([sys.executable, "install.py"], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0 and "checked" in done.stdout, done.stdout + done.stderr
    assert (out / ".venv/.installed").exists()
    (out / "utils/course.py").write_text("changed")
    damaged = subprocess.run([sys.executable, "install.py", "--verify"], cwd=out, capture_output=True, text=True)
    assert damaged.returncode == 1 and "Damaged or missing: utils/course.py." in damaged.stderr


def test_the_wrong_python_is_one_sentence(root, source, tmp_path):
    other = "3.13" if THIS_PYTHON != "3.13" else "3.12"
    out = workshop.build_workshop(tmp_path / "out", [Room(this_system(), other)], [*LOCAL, str(source)], root)
    done = subprocess.run([sys.executable, "install.py"], cwd=out, capture_output=True, text=True)
    assert done.returncode == 1 and f"are for Python {other} on" in done.stderr and not (out / ".venv").exists()


def test_nothing_half_built_is_left_and_nothing_foreign_replaced(root, source, tmp_path):
    place = tmp_path / "place"
    room, options = [Room(this_system())], [*LOCAL, str(source)]
    workshop.build_workshop(place / "out", room, options, root)
    (root / "requirements.txt").write_text("absent\n")
    before = (place / "out/SHA256SUMS").read_text()
    with pytest.raises(CourseError, match="No wheel of absent"):
        workshop.build_workshop(place / "out", room, options, root)
    assert [path.name for path in place.iterdir()] == ["out"]
    assert (place / "out/SHA256SUMS").read_text() == before
    (place / "mine").mkdir()
    (place / "mine/thesis.txt").write_text("x")
    with pytest.raises(CourseError, match="holds something else"):
        workshop.build_workshop(place / "mine", room, options, root)


# ---- the set-up cell -----------------------------------------------------------------------------------------------


def test_every_notebook_has_the_same_set_up_cell():
    folders = (REPO_ROOT / "notebooks", REPO_ROOT / "notebooks/solutions")
    paths = [path for folder in folders for path in folder.glob("[0-9][0-9]_*.ipynb")]
    assert len({course.setup_of(course.read(path), path.name).source for path in paths}) == 1, "run --sync-setup"


def test_the_set_up_cell_pins_no_torch_and_changes_nothing_installed():
    source = course.setup_of(course.read(course.find_notebooks()[0]), "00").source
    pinned = re.findall(r"[\w-]+==[\d.]+", source)
    assert "%pip install -q --no-deps" in source and pinned == ["facenet-pytorch==2.5.3"]
