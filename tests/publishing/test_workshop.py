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
    """A folder with wheels: one requirement, and what it needs, in two versions."""
    folder = tmp_path / "source"
    make_wheel(folder, "toplevel", "1.0", "middle>=1")
    make_wheel(folder, "middle", "1.5")
    make_wheel(folder, "middle", "2.0")
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


@pytest.fixture
def quick(root, tmp_path, monkeypatch):
    """Build without pip and without pages, which the tests above try."""
    monkeypatch.setattr(workshop, "make_site", lambda *_: None)
    monkeypatch.setattr(workshop, "collect_wheels", lambda folder, *_: folder.mkdir())
    return lambda out=tmp_path / "out": workshop.build_workshop(out, [], root)


def names(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] + " " + path.name.split("-")[1] for path in folder.glob("*.whl"))


def test_the_folder_holds_the_course_and_installs_without_an_index(root, source, tmp_path):
    out = workshop.build_workshop(tmp_path / "out", [*LOCAL, str(source)], root)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"START_HERE.txt", "guide.html", "site/index.html", "install.py", "start.py", "data/README.md"} <= files
    assert not any("cache" in name for name in files)
    assert names(out / "wheels") == ["middle 1.5", "toplevel 1.0"]
    summed = re.findall(r"^[0-9a-f]{64}  (.+)$", (out / "SHA256SUMS").read_text(), re.MULTILINE)
    assert set(summed) == files - {"SHA256SUMS"}
    assert "Does it work?" in (out / "guide.html").read_text(encoding="utf-8")
    done = subprocess.run([sys.executable, "install.py"], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0 and "checked" in done.stdout, done.stdout + done.stderr
    assert (out / ".venv/.installed").exists()
    (out / "utils/course.py").write_text("changed")
    damaged = subprocess.run([sys.executable, "install.py", "--verify"], cwd=out, capture_output=True, text=True)
    assert damaged.returncode == 1 and "Damaged or missing: utils/course.py." in damaged.stderr


def test_another_computer_is_one_sentence_and_gets_nothing(quick, monkeypatch):
    monkeypatch.setitem(workshop.ROOM, "system", "Amiga")
    out = quick()
    done = subprocess.run([sys.executable, "install.py"], cwd=out, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("The wheels in this folder are for Python ")
    start = subprocess.run([sys.executable, "start.py"], cwd=out, capture_output=True, text=True)
    assert start.returncode == 1 and "Install first" in start.stderr and not (out / ".venv").exists()


def test_nothing_half_built_is_left(root, source, tmp_path):
    place, options = tmp_path / "place", [*LOCAL, str(source)]
    workshop.build_workshop(place / "out", options, root)
    before = (place / "out/SHA256SUMS").read_text()
    (root / "requirements.txt").write_text("absent\n")
    with pytest.raises(CourseError, match="No wheel of absent"):
        workshop.build_workshop(place / "out", options, root)
    assert [path.name for path in place.iterdir()] == ["out"]
    assert (place / "out/SHA256SUMS").read_text() == before


def test_an_untouched_folder_is_replaced_and_a_link_is_followed(quick, root, tmp_path):
    out = quick()
    (tmp_path / "link").symlink_to(out)
    (root / "data/README.md").write_text("newer")
    assert quick(tmp_path / "link") == out
    assert (tmp_path / "link").is_symlink() and (out / "data/README.md").read_text() == "newer"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda out: (out / "wheels/thesis.txt").write_text("mine"), "'wheels/thesis.txt', which was added or changed"),
        (lambda out: (out / "data/README.md").write_text("my notes"), "'data/README.md', which was added or changed"),
        (lambda out: (out / "photos").symlink_to(out.parent), "'photos', which was added or changed"),
        (lambda out: (out / "room.json").write_text("{}"), "holds something else"),
        (lambda out: (out / "room.json").unlink(), "holds something else"),
    ],
)
def test_what_somebody_added_or_changed_is_not_destroyed(quick, tmp_path, monkeypatch, spoil, why):
    out = quick()
    spoil(out)
    before = {path: path.lstat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(workshop, "collect_wheels", lambda *_: pytest.fail("told only after the work"))
    with pytest.raises(CourseError, match=why):
        quick()
    assert {path: path.lstat().st_mtime_ns for path in out.rglob("*")} == before


def test_what_was_added_while_wheels_were_collected_is_not_destroyed(quick, monkeypatch):
    out = quick()
    monkeypatch.setattr(workshop, "collect_wheels", lambda *_: (out / "note.txt").write_text("mine"))
    with pytest.raises(CourseError, match="note.txt"):
        quick()
    assert (out / "note.txt").read_text() == "mine"


def test_places_are_checked_before_the_work(root, tmp_path, monkeypatch):
    monkeypatch.setattr(workshop, "collect_wheels", lambda *_: pytest.fail("told only after the work"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "sums").mkdir()  # somebody else's checksums do not make it ours
    (tmp_path / "sums/SHA256SUMS").write_text("")
    for out, why in (
        (tmp_path / "file", "holds something else"),
        (tmp_path / "sums", "holds something else"),
        (tmp_path / "file/below", "cannot be written"),
        (root / "notebooks/out", "a folder that is copied"),
        (Path("/dev/null"), "holds something else"),
        (Path("/proc"), "is a whole disk|cannot be written"),
    ):
        with pytest.raises(CourseError, match=why):
            workshop.build_workshop(out, [], root)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_command_line_builds_and_says_what_it_no_longer_does(root, source, tmp_path, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(workshop, "build_workshop", lambda out, options: built.append(options) or source)
    assert workshop.main(["--out", str(tmp_path / "o"), "--from", str(source), "--extra-index-url", "file:///x"]) == 0
    assert built == [["--no-index", "--find-links", str(source), "--extra-index-url", "file:///x"]]
    assert workshop.main(["--from", str(tmp_path / "absent")]) == 2
    for option in ("--platform", "--python-version"):
        with pytest.raises(SystemExit):
            workshop.main([option, "windows"])
        assert "docs/teaching.md has pip's commands for others" in capsys.readouterr().err


# ---- the set-up cell -----------------------------------------------------------------------------------------------


def test_every_notebook_has_the_same_set_up_cell():
    folders = (REPO_ROOT / "notebooks", REPO_ROOT / "notebooks/solutions")
    paths = [path for folder in folders for path in folder.glob("[0-9][0-9]_*.ipynb")]
    assert len({course.setup_of(course.read(path), path.name).source for path in paths}) == 1, "run --sync-setup"


def test_the_set_up_cell_pins_no_torch_and_changes_nothing_installed():
    source = course.setup_of(course.read(course.find_notebooks()[0]), "00").source
    pinned = re.findall(r"[\w-]+==[\d.]+", source)
    assert "%pip install -q --no-deps" in source and pinned == ["facenet-pytorch==2.5.3"]
