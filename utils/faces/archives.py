"""Unpacking zip and tar archives from strangers: only plain files, only inside the target, and all or nothing."""

from __future__ import annotations

import contextlib
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ..settings import CourseError, progress_bar
from .downloads import require_room

BLOCK = 1 << 20
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)


@dataclass(frozen=True)
class Limits:
    """The most files, and bytes in all, that an archive may bring."""

    files: int
    n_bytes: int


@dataclass(frozen=True)
class _Member:
    name: str
    is_folder: bool
    is_plain: bool
    content: IO[bytes] | None


def unpack(archive: Path, target: Path, limits: Limits, *, progress: bool = True) -> Path:
    """Unpack a zip or (compressed) tar into the new folder `target`; raises CourseError, with nothing left behind, for
    links, devices, names that lead outside, double names, more than the limits allow, and damage.
    Introduced in notebook 01."""
    archive, target = Path(archive), Path(target)
    require_room(target.parent, min(archive.stat().st_size, limits.n_bytes))
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
    try:
        with progress_bar(desc=f"unpacking {archive.name}", enabled=progress) as bar:
            _write_all(archive, staging, limits, bar)
        staging.chmod(0o755)
        staging.replace(target)
    except DAMAGED as error:
        if isinstance(error, CourseError):
            raise
        raise CourseError(f"'{archive}' cannot be unpacked: {_reason(error)}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def is_archive(path: Path) -> bool:
    """True if a file's content, not its name, is that of a zip or a (compressed) tar."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04" or tarfile.is_tarfile(path)


def _write_all(archive: Path, folder: Path, limits: Limits, bar) -> None:
    room, count = limits.n_bytes, 0
    for member in _members(archive):
        path = folder / _safe_name(archive, member)
        if member.is_folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        count += 1
        if count > limits.files:
            raise CourseError(f"'{archive}' holds more than {limits.files:,} files, so it is not what was expected.")
        path.parent.mkdir(parents=True, exist_ok=True)
        room -= _write(member, path, archive, room, limits)
        bar.update()


def _write(member: _Member, path: Path, archive: Path, room: int, limits: Limits) -> int:
    """Copy one file and return its size; what the archive says about sizes is not believed, bytes are counted."""
    written = 0
    with contextlib.closing(member.content), open(path, "xb") as file:
        while block := member.content.read(BLOCK):
            written += len(block)
            if written > room:
                limit = f"{limits.n_bytes / 1e9:.1f} GB"
                raise CourseError(f"'{archive}' unpacks to more than {limit}, so it is not what was expected.")
            file.write(block)
    return written


def _safe_name(archive: Path, member: _Member) -> str:
    """Return a member's relative name if it is one; raise for every way out of the folder, on any system."""
    name = member.name
    parts = PurePosixPath(name).parts
    outside = name.startswith("/") or ".." in parts or "\\" in name or re.match(r"[A-Za-z]:", name) or "\0" in name
    if outside or not (member.is_folder or (member.is_plain and parts)):
        what = "leads outside its folder" if outside else "is a link or no plain file"
        raise CourseError(f"'{archive}' is refused: its entry '{name}' {what}; nothing was unpacked.")
    return str(PurePosixPath(*parts))


def _members(archive: Path) -> Iterator[_Member]:
    with open(archive, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    return _zip_members(archive) if zipped else _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG) and not info.flag_bits & 1  # the flag marks encryption
            if not info.filename.startswith("__MACOSX/"):
                yield _Member(info.filename, info.is_dir(), plain, file.open(info) if plain else None)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive, "r|*") as file:  # a stream: one pass, and nothing of it stays in memory
        for info in file:
            file.members = []
            content = file.extractfile(info) if info.isreg() else None
            yield _Member(info.name, info.isdir(), info.isreg(), content)


def _reason(error: Exception) -> str:
    if isinstance(error, FileExistsError):
        return "it holds the same name twice"
    if isinstance(error, OSError) and error.errno:
        return error.strerror
    return f"it is damaged, cut off, or neither zip nor tar ({type(error).__name__})"
