"""Build one folder to hand out on a USB stick: the course, its pages, and all wheels, to install with no network.

python -m utils.workshop                                              # for a room like this machine
python -m utils.workshop --platform windows macos --python-version 3.12
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ..settings import BUILD_DIR, REPO_ROOT, CourseError, printable_output, sha256_of
from ..wheels import SYSTEMS, THIS_PYTHON, Room, collect_wheels, make_room, this_system
from .course import find_notebooks, make_site, read, shown
from .site import page, question_of, title_of

FOLDERS = ("notebooks", "utils", "tests", "docs", "data/models", "data/results", "data/figures")
FILES = (
    "README.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "CITATION.cff",
    "environment.yml",
    "requirements.txt",
    "constraints.txt",
    "pyproject.toml",
    "Makefile",
    "data/README.md",
)
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.partial", "*.failed.ipynb", ".*")
MARK = "room.json"  # by this file a folder is known as one that this module built

START_HERE = """Face identity unlearning: a notebook course
===========================================

1. Copy this whole folder to the computer's own disk (not into a long path: C:\\course is good).
2. Install, without a network; it needs {wanted} and about 7 GB:
     Linux, macOS:   sh install.sh
     Windows:        install.bat
3. Start JupyterLab in the browser:
     Linux, macOS:   sh start.sh
     Windows:        start.bat
   Begin with notebooks/00_start_here.ipynb.

Only reading? Open site/index.html: every lesson with its results, no installation.
One page to print and hand out: guide.html.
Is the copy whole?  python install.py --verify   (or: sha256sum -c SHA256SUMS)
"""
INSTALL_SH = """#!/bin/sh
# Finds a Python that fits and hands over to install.py.
cd "$(dirname "$0")" || exit 1
for python in {names} python3 python; do
  "$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] not in "{versions}".split())' 2>/dev/null &&
    exec "$python" install.py "$@"
done
echo "No Python {wanted} was found: install one, then run this again." >&2
exit 1
"""
START_SH = """#!/bin/sh
cd "$(dirname "$0")" && exec .venv/bin/python -m jupyterlab --LabApp.default_url=/lab/tree/notebooks "$@"
"""
INSTALL_BAT = """@echo off
cd /d "%~dp0"
{tries}
python install.py %*
pause
"""
START_BAT = """@echo off
cd /d "%~dp0"
.venv\\Scripts\\python.exe -m jupyterlab --LabApp.default_url=/lab/tree/notebooks %*
pause
"""
GUIDE_STYLE = """<style>
@page{size:A4;margin:11mm}
@media print{body{max-width:none;padding:0;font-size:9pt;line-height:1.25}h1{font-size:14pt;margin:0 0 1mm}
 h2{font-size:10.5pt;margin:2mm 0 1mm}p,ol{margin:1mm 0}table{margin:1mm 0;font-size:8.5pt}th,td{padding:.4mm 2mm}}
</style>"""
GUIDE = """{style}<h1>Face identity unlearning: the page to keep beside you</h1>
<p>A face model places photos on a sphere. One person's photos lie close together, so a search finds them.
Can a model be made to lose a person? You will try, and then you will try to find them again.</p>
<h2>Start</h2>
<ol>
<li>Copy the folder to your own disk.</li>
<li>Install: <code>sh install.sh</code> (Linux, macOS) or <code>install.bat</code> (Windows). Needs {wanted}.</li>
<li>Start: <code>sh start.sh</code> or <code>start.bat</code>. JupyterLab opens in the browser.</li>
<li>Run a cell with <kbd>Shift</kbd>+<kbd>Enter</kbd>. Before you run it, say what you expect.</li>
</ol>
<p>Nothing you do here leaves your computer. The faces are drawn by a program and belong to nobody.</p>
<h2>The lessons</h2>
<table>{rows}</table>
<h2>When it goes wrong</h2>
<table>
<tr><td>A name is not defined</td><td>Cells ran out of order: menu Kernel, Restart, then run from the top.</td></tr>
<tr><td>It takes very long</td><td>Is another notebook still running? Menu Kernel, Shut Down All Kernels.</td></tr>
<tr><td>Your numbers differ a little</td><td>That is normal: processors round differently.</td></tr>
<tr><td>A file is damaged</td><td><code>python install.py --verify</code> names it. Copy the folder again.</td></tr>
<tr><td>Nothing installs</td><td>Read along in <code>site/index.html</code>, and sit beside somebody.</td></tr>
</table>
"""


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty neighbour of `folder` that replaces it on success and disappears on failure; raises CourseError.

    A folder that is there already is replaced only if this module built it.
    """
    if folder.exists() and not (folder / MARK).is_file() and any(folder.iterdir()):
        raise CourseError(f"{shown(folder)} holds something else; name another folder with --out.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial") as name:
        fresh = Path(name) / "new"
        fresh.mkdir()
        yield fresh
        if folder.exists():
            folder.rename(Path(name) / "old")
        fresh.rename(folder)


def copy_course(root: Path, target: Path) -> None:
    """Copy the course's own files: no caches, no photos, no hidden files."""
    for name in FOLDERS:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=LEFT_OUT)
    for name in FILES:
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def guide(folder: Path, wanted: str) -> str:
    """Return the one-page guide to print, with the notebooks of a folder in it."""
    rows = []
    for path in find_notebooks(folder):
        notebook = read(path)
        rows.append(
            f"<tr><td>{escape(title_of(notebook, path.stem))}</td>"
            f"<td>{escape(question_of(notebook, path.stem))}</td></tr>"
        )
    return page("The page to keep beside you", GUIDE.format(style=GUIDE_STYLE, wanted=wanted, rows="\n".join(rows)))


def write_start(target: Path, rooms: Sequence[Room]) -> None:
    """Write what a person sees first: START_HERE.txt, the guide, and the files that install and start the course."""
    pythons = list(dict.fromkeys(room.python for room in rooms))
    platforms = list(dict.fromkeys(room.system for room in rooms))
    wanted = f"Python {' or '.join(pythons)} on {' or '.join(platforms)}"
    names = {"names": " ".join(f"python{python}" for python in pythons), "versions": " ".join(pythons)}
    tries = "\n".join(
        f'py -{python} -c "" 2>nul && py -{python} install.py %* && pause && exit /b' for python in pythons
    )
    (target / MARK).write_text(json.dumps({"pythons": pythons, "platforms": platforms}) + "\n", encoding="utf-8")
    (target / "START_HERE.txt").write_text(START_HERE.format(wanted=wanted), encoding="utf-8", newline="\r\n")
    (target / "guide.html").write_text(guide(target / "notebooks", wanted), encoding="utf-8")
    (target / "install.sh").write_text(INSTALL_SH.format(wanted=" or ".join(pythons), **names), encoding="utf-8")
    (target / "start.sh").write_text(START_SH, encoding="utf-8")
    (target / "install.bat").write_text(INSTALL_BAT.format(tries=tries), encoding="utf-8", newline="\r\n")
    (target / "start.bat").write_text(START_BAT, encoding="utf-8", newline="\r\n")
    shutil.copy2(Path(__file__).with_name("workshop_install.py"), target / "install.py")


def write_checksums(target: Path) -> None:
    """Write SHA256SUMS over all files, in the form that `sha256sum -c` reads."""
    files = sorted(path for path in target.rglob("*") if path.is_file())
    lines = [f"{sha256_of(path)}  {path.relative_to(target).as_posix()}\n" for path in files]
    (target / "SHA256SUMS").write_text("".join(lines), encoding="utf-8", newline="\n")


def build_workshop(out: Path, rooms: Sequence[Room], options: Sequence[str] = (), root: Path = REPO_ROOT) -> Path:
    """Build the folder for the given rooms, whole or not at all, and return it; `options` go to pip. CourseError."""
    with atomic_folder(out) as target:
        copy_course(root, target)
        for room in rooms:
            print(f"Collecting the wheels for {room} ...", flush=True)
            collect_wheels(target / "wheels", room, root / "requirements.txt", root / "constraints.txt", options)
        make_site(target / "notebooks", target)
        write_start(target, rooms)
        write_checksums(target)
    return out


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m utils.workshop", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, default=BUILD_DIR / "workshop", help="the folder to build (default: build/workshop)")
    systems = ", ".join(SYSTEMS)
    add("--platform", nargs="+", metavar="NAME", help=f"the room's computers: {systems} (default: this machine)")
    add("--python-version", nargs="+", default=[THIS_PYTHON], metavar="X.Y", help=f"default: {THIS_PYTHON}")
    add(
        "--extra-index-url",
        metavar="URL",
        help="one more index for pip, such as one with CPU-only torch and torchvision",
    )
    add("--from", dest="source", type=Path, metavar="FOLDER", help="take the wheels from this folder; ask no index")
    return parser.parse_args(argv)


def pip_options(arguments: argparse.Namespace) -> list[str]:
    """Return what the command line has to say to pip; CourseError for a folder that is not there."""
    if arguments.source and not arguments.source.is_dir():
        raise CourseError(f"--from names {arguments.source}, which is no folder.")
    local = ["--no-index", "--find-links", str(arguments.source.resolve())] if arguments.source else []
    return local + (["--extra-index-url", arguments.extra_index_url] if arguments.extra_index_url else [])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = parse_arguments(argv)
    printable_output()
    try:
        systems = arguments.platform or [this_system()]
        rooms = [make_room(system, python) for system in systems for python in arguments.python_version]
        out = build_workshop(arguments.out.resolve(), rooms, pip_options(arguments))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; nothing half-built was left.", file=sys.stderr)
        return 130
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"Ready: {shown(out)}, {size / 1e9:.1f} GB. Copy the whole folder to the stick.")
    return 0
