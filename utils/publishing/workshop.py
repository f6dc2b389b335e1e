"""Build one folder for a USB stick: the course, its pages, all wheels for computers like this one, and an installer."""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..settings import BUILD_DIR, REPO_ROOT, CourseError, command, resolved, sha256_of, writable_folder
from .course import find_notebooks, make_site, read, shown
from .site import page, question_of, title_of

FOLDERS = ("notebooks", "utils", "tests", "docs", "data/models", "data/results", "data/figures")
FILES = ("README.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff", "environment.yml", "requirements.txt")
FILES += ("constraints.txt", "pyproject.toml", "Makefile", "data/README.md")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.partial", "*.failed.ipynb", ".*")
SUMS, MARK, MADE_BY = "SHA256SUMS", "room.json", "python -m utils.workshop"
ROOM = {
    "made_by": MADE_BY,
    "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
    "system": platform.system(),
    "machine": platform.machine(),
}
WANTED = f"Python {ROOM['python']} on {ROOM['system']} {ROOM['machine']}"

START_HERE = f"""Face identity unlearning: a notebook course
===========================================

1. Copy this whole folder to the computer's own disk (not into a long path: C:\\course is good).
2. Install, without a network; it needs {WANTED} and about 7 GB:   python3 install.py
3. Start JupyterLab in the browser:   python3 start.py
   Begin with notebooks/00_start_here.ipynb.
   (Windows: py in place of python3.)

Only reading? Open site/index.html: every lesson with its results, no installation.
One page to print and hand out: guide.html.
Is the copy whole?   python3 install.py --verify   (or: sha256sum -c SHA256SUMS)
"""
PYTHON_OF_VENV = """import os, subprocess, sys
from pathlib import Path

folder = Path(__file__).resolve().parent
python = folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
"""
START = f"""{PYTHON_OF_VENV}
sys.exit(subprocess.run([python, "-m", "jupyterlab", "--LabApp.default_url=/lab/tree/notebooks", *sys.argv[1:]],
                        cwd=folder).returncode if python.exists() else "Install first: python3 install.py")
"""
INSTALL = f'''"""Check every file, build .venv from wheels/ without a network, try it once; --verify only checks."""
import hashlib, json, platform
{PYTHON_OF_VENV}

def run(failed, *command):
    if subprocess.run([str(part) for part in command], cwd=folder).returncode:
        sys.exit(failed)

def digest(path):
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()

if set(sys.argv[1:]) - {{"--verify"}}:
    sys.exit(f"Unknown option {{sys.argv[1]}}; there is --verify, or none.")
room, here = json.loads((folder / "{MARK}").read_text()), "%d.%d" % sys.version_info[:2]
found = {{"python": here, "system": platform.system(), "machine": platform.machine()}}
if not sys.argv[1:] and any(room[key] != found[key] for key in found):
    sys.exit(f"The wheels in this folder are for {WANTED}; this is Python {{here}} on {{platform.system()}} "
             f"{{platform.machine()}}.")
print("Checking the files (a minute for a slow stick) ...", flush=True)
lines = [line.split("  ", 1) for line in (folder / "{SUMS}").read_text(encoding="utf-8").splitlines()]
bad = [name for known, name in lines if not (folder / name).is_file() or digest(folder / name) != known]
if bad:
    sys.exit(f"Damaged or missing: {{', '.join(bad[:5])}}{{', ...' * (len(bad) > 5)}}. Copy the folder again.")
print("All files are as they were built.", flush=True)
if not sys.argv[1:]:
    stamp = folder / ".venv" / ".installed"  # what make looks for: written last
    stamp.unlink(missing_ok=True)
    if not python.exists():
        run("No virtual environment could be made (Debian: install python3-venv).", sys.executable, "-m", "venv",
            folder / ".venv")
    run("The installation did not finish (see above; is the disk full?); run the same command again.", python, "-m",
        "pip", "--isolated", "--disable-pip-version-check", "install", "-q", "--no-index", "--find-links",
        folder / "wheels", "-r", folder / "requirements.txt", "-c", folder / "constraints.txt")
    run("The packages are installed but do not work together (see above).", python, "-m", "utils.course", "--check")
    stamp.touch()
    print("Done. Start with: python3 start.py (Windows: py start.py)")
'''


def check_place(out: Path, root: Path = REPO_ROOT) -> None:
    """Raise CourseError unless `out` can be made, or holds nothing but the unchanged files of an earlier building."""
    writable_folder(out.parent)
    if any(root / name in (out, *out.parents) for name in FOLDERS):
        raise CourseError(f"{shown(out)} lies in a folder that is copied; name another with --out.")
    if out.is_mount():  # a stick's own root cannot be replaced
        raise CourseError(f"{shown(out)} is a whole disk; name a folder on it with --out.")
    try:
        found = sorted(path for path in out.rglob("*") if path.is_symlink() or not path.is_dir())
        if not found and (out.is_dir() or not out.exists()):
            return
        ours = json.loads((out / MARK).read_text(encoding="utf-8"))["made_by"] == MADE_BY
        lines = (out / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, LookupError, TypeError):
        ours, lines = False, []
    if not ours:
        raise CourseError(f"{shown(out)} holds something else; name another folder with --out.")
    known = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    for path in found:
        name = path.relative_to(out).as_posix()
        if name != SUMS and (path.is_symlink() or name not in known or sha256_of(path) != known[name]):
            raise CourseError(f"{shown(out)} holds '{name}', which was added or changed; move it, or use --out.")


def collect_wheels(folder: Path, root: Path, options: Sequence[str]) -> None:
    """Let pip put the wheels of the tested set into a folder; `options` go to pip; raises CourseError."""
    print(f"Collecting the wheels for {WANTED} ...", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "-q", "--only-binary=:all:"]
    files = ["-d", str(folder), "-r", str(root / "requirements.txt"), "-c", str(root / "constraints.txt")]
    done = subprocess.run([*pip, *files, *options], stderr=subprocess.PIPE, encoding="utf-8")
    # with a pin that no wheel meets, pip speaks of a conflict between the request and the constraint
    if missing := re.search(r"(?:No matching distribution found for|Cannot install) (\S+)", done.stderr):
        raise CourseError(f"No wheel of {missing[1]}, in its tested version, for {WANTED} was found; name an index.")
    if done.returncode:
        raise CourseError(f"pip could not collect the wheels: {(done.stderr.strip() or 'no message').splitlines()[-1]}")


def write_start(target: Path) -> None:
    """Write what a person sees first, the installer, and last of all SHA256SUMS in the form `sha256sum -c` reads."""
    opened = [(read(path), path.stem) for path in find_notebooks(target / "notebooks")]
    cells = ((title_of(*notebook), question_of(*notebook)) for notebook in opened)
    rows = "\n".join(f"<tr><td>{escape(title)}</td><td>{escape(question)}</td></tr>" for title, question in cells)
    guide = (REPO_ROOT / "docs" / "guide.html").read_text(encoding="utf-8")
    guide = guide.replace("<!-- lessons -->", rows).replace("<!-- wanted -->", WANTED)
    texts = {"guide.html": page("The page to keep beside you", guide), "START_HERE.txt": START_HERE}
    texts |= {"install.py": INSTALL, "start.py": START, MARK: json.dumps(ROOM)}
    for name, text in texts.items():
        (target / name).write_text(text, encoding="utf-8")
    files = sorted(path for path in target.rglob("*") if path.is_file())
    lines = [f"{sha256_of(path)}  {path.relative_to(target).as_posix()}\n" for path in files]
    (target / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def build_workshop(out: Path, options: Sequence[str] = (), root: Path = REPO_ROOT) -> Path:
    """Build the folder, whole or not at all, and return it; an earlier one is replaced if nobody touched it."""
    out = resolved(out)
    check_place(out, root)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".partial") as name:
        target = Path(name) / "new"
        target.mkdir()
        for folder in FOLDERS:
            if (root / folder).is_dir():
                shutil.copytree(root / folder, target / folder, ignore=LEFT_OUT)
        for file in filter(lambda file: (root / file).is_file(), FILES):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / file, target / file)
        collect_wheels(target / "wheels", root, options)
        make_site(target / "notebooks", target)
        write_start(target)
        check_place(out, root)  # again: collecting took minutes
        if out.exists():
            out.rename(Path(name) / "old")
        target.rename(out)
    return out


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog=MADE_BY, description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=BUILD_DIR / "workshop", help="the folder to build (default: build/workshop)")
    add("--extra-index-url", metavar="URL", help="one more index for pip, such as one with the CPU builds of torch")
    add("--from", dest="source", type=Path, metavar="FOLDER", help="take the wheels from this folder; ask no index")
    add("--platform", "--python-version", nargs="+", dest="other", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.other:
        parser.error("The folder is for computers like this one; docs/teaching.md has pip's commands for others.")
    if arguments.source and not arguments.source.is_dir():
        raise CourseError(f"--from names {arguments.source}, which is no folder.")
    options = ["--no-index", "--find-links", str(arguments.source.resolve())] if arguments.source else []
    options += ["--extra-index-url", arguments.extra_index_url] if arguments.extra_index_url else []
    out = build_workshop(arguments.out, options)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"Ready: {shown(out)}, {size / 1e9:.1f} GB. Copy the whole folder to the stick.")
