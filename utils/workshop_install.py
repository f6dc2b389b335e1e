"""Install the course from a workshop folder, without a network: checks every file, builds .venv, tries it once.

python install.py            # check the files, then install
python install.py --verify   # only check the files against SHA256SUMS

`make workshop` copies this file into the folder it builds; it needs nothing but Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SUMS = "SHA256SUMS"
PLATFORMS = {"linux": "Linux", "windows": "Windows", "macos": "Darwin"}  # room.json's word -> platform.system()


def check_python() -> None:
    """Stop with one sentence if the folder holds no wheels for this Python or this system."""
    room = json.loads((FOLDER / "room.json").read_text(encoding="utf-8"))
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    systems = [PLATFORMS[name.split("-")[0]] for name in room["platforms"]]
    if here not in room["pythons"] or platform.system() not in systems:
        wanted = f"Python {' or '.join(room['pythons'])} on {' or '.join(room['platforms'])}"
        sys.exit(f"The wheels in this folder are for {wanted}; this is Python {here} on {platform.system()}.")


def digest(path: Path) -> str:
    """Return the sha256 of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def faulty_files() -> list[str]:
    """Return the files that are missing or differ from what SHA256SUMS says."""
    lines = (FOLDER / SUMS).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("  ", 1) for line in lines if line]
    return [name for expected, name in pairs if not (FOLDER / name).is_file() or digest(FOLDER / name) != expected]


def verify() -> None:
    """Check all files; stop and name the damaged ones."""
    print("Checking the files (a minute for a slow stick) ...", flush=True)
    faulty = faulty_files()
    if faulty:
        shown = ", ".join(faulty[:5]) + (f" and {len(faulty) - 5} more" if len(faulty) > 5 else "")
        sys.exit(f"Damaged or missing: {shown}. Copy the folder again.")
    print("All files are as they were built.", flush=True)


def python_of(venv: Path) -> Path:
    """Return the Python inside a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(command: list, failed: str) -> None:
    """Run a command in the folder; stop with a sentence if it fails."""
    if subprocess.run([str(part) for part in command], cwd=FOLDER).returncode:
        sys.exit(failed)


def install() -> None:
    """Build .venv from the folder's wheels alone and try it; the stamp that `make` looks for is written last."""
    venv = FOLDER / ".venv"
    python, stamp = python_of(venv), venv / ".installed"
    print("Installing without a network (a few minutes) ...", flush=True)
    stamp.unlink(missing_ok=True)
    if not python.exists():
        run(
            [sys.executable, "-m", "venv", venv], "No virtual environment could be made (Debian: install python3-venv)."
        )
    pip = [python, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "-q", "--no-index"]
    wheels = ["--find-links", FOLDER / "wheels", "-r", FOLDER / "requirements.txt", "-c", FOLDER / "constraints.txt"]
    run([*pip, *wheels], "The installation did not finish (see above; is the disk full?); run the same command again.")
    run([python, "-m", "utils.course", "--check"], "The packages are installed but do not work together (see above).")
    stamp.touch()
    print(f"Done. Start with: {'start.bat' if os.name == 'nt' else 'sh start.sh'}")


def main() -> None:
    """Read the command line and do it."""
    unknown = set(sys.argv[1:]) - {"--verify"}
    if unknown:
        sys.exit(f"Unknown option {sorted(unknown)[0]}; there is --verify, or none.")
    if "--verify" in sys.argv:
        return verify()
    check_python()
    verify()
    install()


if __name__ == "__main__":
    main()
