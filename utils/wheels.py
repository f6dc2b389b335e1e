"""Collect the wheels a computer room needs: every requirement and what it requires, for the room's system and Python.

pip can fetch wheels for another system, but reads the conditions in their requirements ("only on Windows") as those of
the machine it runs on. So the requirements are followed here, wheel by wheel, with the room's own conditions.
"""

from __future__ import annotations

import email.parser
import os
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from .settings import CourseError, one_of

OLDER_GLIBC = ("manylinux2014", "manylinux2010", "manylinux1")


@dataclass(frozen=True)
class System:
    """One kind of computer: what pip calls its wheels, and what the conditions in requirements call it."""

    tags: tuple[str, ...]
    sys_platform: str
    platform_system: str
    platform_machine: str
    os_name: str = "posix"


def linux_tags(machine: str) -> tuple[str, ...]:
    """Return the wheel tags of a Linux with glibc 2.28 or newer (pip takes each glibc version by name)."""
    newer = tuple(f"manylinux_2_{minor}_{machine}" for minor in range(28, 4, -1))
    return (*newer, *(f"{name}_{machine}" for name in OLDER_GLIBC), f"linux_{machine}")


SYSTEMS = {
    "linux": System(linux_tags("x86_64"), "linux", "Linux", "x86_64"),
    "linux-arm": System(linux_tags("aarch64"), "linux", "Linux", "aarch64"),
    "macos": System(("macosx_14_0_arm64",), "darwin", "Darwin", "arm64"),
    "macos-intel": System(("macosx_14_0_x86_64",), "darwin", "Darwin", "x86_64"),
    "windows": System(("win_amd64",), "win32", "Windows", "AMD64", "nt"),
}
THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Room:
    """A room's computers: a name of SYSTEMS and a Python version such as '3.12'."""

    system: str
    python: str = THIS_PYTHON

    def __str__(self) -> str:
        """Say it as people do."""
        return f"Python {self.python} on {self.system}"

    @property
    def environment(self) -> dict[str, str]:
        """What the conditions in requirements are evaluated with."""
        system = SYSTEMS[self.system]
        return {
            **default_environment(),
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "sys_platform": system.sys_platform,
            "platform_system": system.platform_system,
            "platform_machine": system.platform_machine,
            "os_name": system.os_name,
        }

    @property
    def pip_options(self) -> list[str]:
        """What makes pip choose this room's wheels; nothing for a room like this machine, whose tags pip knows best."""
        if self == Room(this_system()):
            return []
        tags = [option for tag in SYSTEMS[self.system].tags for option in ("--platform", tag)]
        return [*tags, "--python-version", self.python, "--implementation", "cp"]


def this_system() -> str:
    """Return the name of this machine's system in SYSTEMS; CourseError for one the course has no name for."""
    machine = {"amd64": "x86_64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine().lower())
    names = {("Linux", "x86_64"): "linux", ("Linux", "arm64"): "linux-arm", ("Windows", "x86_64"): "windows"}
    names |= {("Darwin", "arm64"): "macos", ("Darwin", "x86_64"): "macos-intel"}
    found = names.get((platform.system(), machine))
    if found is None:
        raise CourseError(f"This machine ({platform.system()} {machine}) has no name here; give --platform.")
    return found


def make_room(system: str, python: str) -> Room:
    """Check a room's system and Python version; raises CourseError."""
    one_of(system, SYSTEMS, "platform")
    one_of(python, ("3.11", "3.12", "3.13"), "Python version")
    return Room(system, python)


def read_requirements(path: Path) -> list[Requirement]:
    """Return the lines of a requirements file, comments left out."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def needs_of(wheel: Path, extras: Iterable[str], environment: dict[str, str]) -> list[Requirement]:
    """Return what a wheel requires in an environment, with the given extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        headers = email.parser.HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    listed = [Requirement(text) for text in headers.get_all("Requires-Dist") or ()]
    wanted = [{**environment, "extra": extra} for extra in (*extras, "")]
    return [need for need in listed if need.marker is None or any(map(need.marker.evaluate, wanted))]


def wheel_of(requirement: Requirement, folder: Path) -> Path | None:
    """Return the newest wheel in a folder that satisfies a requirement, or None."""
    fitting = []
    for path in folder.glob("*.whl"):
        name, version, _, _ = parse_wheel_filename(path.name)
        if name == canonicalize_name(requirement.name) and requirement.specifier.contains(version, prereleases=True):
            fitting.append((version, path))
    return max(fitting)[1] if fitting else None


def collect_wheels(
    folder: Path, room: Room, requirements: Path, constraints: Path, options: Sequence[str] = ()
) -> None:
    """Put the wheels of a requirements file, and all they require, into a folder; CourseError where one is missing.

    `options` go to pip: `--index-url`, `--extra-index-url`, or `--no-index --find-links FOLDER`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".room.") as name:
        new, followed = Path(name), set()
        waiting = [need for need in read_requirements(requirements) if holds(need, room)]
        while waiting:
            download([need for need in waiting if wheel_of(need, new) is None], new, room, constraints, options)
            needs = []
            for need in waiting:
                wheel, extras = wheel_of(need, new), frozenset(need.extras)
                if (wheel, extras) not in followed:
                    followed.add((wheel, extras))
                    needs += needs_of(wheel, extras, room.environment)
            waiting = needs
        for wheel in new.glob("*.whl"):
            os.replace(wheel, folder / wheel.name)


def holds(requirement: Requirement, room: Room) -> bool:
    """Say whether a requirement's own condition is met in a room."""
    return requirement.marker is None or requirement.marker.evaluate(room.environment)


def download(
    requirements: Sequence[Requirement], folder: Path, room: Room, constraints: Path, options: Sequence[str]
) -> None:
    """Let pip fetch one wheel for each requirement, without what they require; raises CourseError."""
    texts = sorted({f"{need.name}{need.specifier}" for need in requirements})
    if not texts:
        return
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "-q", "--no-deps"]
    command += ["--only-binary=:all:", "-d", str(folder), "-c", str(constraints), *room.pip_options, *options, *texts]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return
    # with a pin that no wheel meets, pip speaks of a conflict between the request and the constraint
    missing = re.search(r"(?:No matching distribution found for|Cannot install) (\S+)", done.stderr)
    if missing:
        raise CourseError(
            f"No wheel of {missing[1]}, in its tested version, for {room} was found; try another "
            f"--platform or --python-version, or name an index that has it with --extra-index-url."
        )
    errors = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
    raise CourseError(f"pip could not collect the wheels for {room}: {errors[-1]}.")
