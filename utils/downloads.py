"""From web addresses to one verified file: mirrors in order, resumed where it broke off, never half a file in place."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import NewConnectionError

from utils.settings import CourseError, progress_bar

ATTEMPTS = 5  # in a row without a new byte, before an address is given up
OFFLINE_ATTEMPTS = 2  # if there is no such host, or nobody listens there
PAUSE = 1.0  # seconds before the second attempt; doubled each time
LONGEST_PAUSE = 60.0  # seconds, also when a server asks for more
SILENCE = 30.0  # seconds without a byte after which a connection counts as broken
BLOCK = 1 << 14  # a block that breaks off is lost
RESERVE = 100 << 20  # bytes that must stay free on the disk
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web: the name it gets here, its addresses in order of preference, its size in bytes and its
    checksum as 'sha256:...' or 'md5:...'; size and checksum are None where they are not known; `moved_by` is the
    environment variable that moves the folder it goes to."""

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    checksum: str | None = None
    moved_by: str = "FACE_COURSE_CACHE"


class DownloadError(CourseError):
    """No address gave the file."""


class _Refused(Exception):
    """One address did not give the file; the text says why."""


class _Interrupted(Exception):
    """The transfer stopped, but trying again may help; `pause` is what the server asked for, in seconds."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class _Unreachable(_Interrupted):
    """No connection at all: most likely this machine is offline, and waiting will not help."""


def fetch(remote: RemoteFile, folder: Path, *, progress: bool = True) -> Path:
    """Return the path of a verified copy in `folder`, downloading it if it is not there or not whole; without a known
    checksum the first download is trusted and its sha256 required ever after; raises DownloadError with the place
    for a copy fetched by hand when every address fails. Introduced in notebook 01."""
    target = Path(folder) / remote.name
    expected = remote.checksum or _remembered(target)
    unfit = _misfit(target, remote.size, expected) if target.is_file() else "absent"
    if not unfit:
        return _remember(target, remote, expected)
    require_room(target.parent, remote.size or 0, remote.moved_by)
    failures = [] if unfit == "absent" else [f"the copy that lies there {unfit}"]
    for url in remote.urls:
        host = urlsplit(url).netloc
        try:
            _download(url, host, remote, expected, target, progress)
        except _Refused as refused:
            failures.append(f"{host} {refused}")
            continue
        return _remember(target, remote, expected)
    size = f"{remote.size:,} bytes" if remote.size else "size not known here"
    raise DownloadError(
        f"Could not download {remote.name}: {'; '.join(failures)}. Fetch it by hand, for example from "
        f"{remote.urls[0]}, and place it at '{target}' ({size}, {expected or 'checksum not known here'}), then run "
        "this again."
    )


def require_room(folder: Path, n_bytes: int, moved_by: str = "FACE_COURSE_CACHE") -> None:
    """Make the folder if need be; raises CourseError if it cannot be written or `n_bytes` do not fit there."""
    mend = f"choose another place with the environment variable {moved_by}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise CourseError(f"Cannot write into '{folder}' ({error.strerror}); {mend}.") from error
    if free < n_bytes + RESERVE:
        needed, there = (n_bytes + RESERVE) / 1e9, free / 1e9
        raise CourseError(f"'{folder}' has {there:.1f} GB free, but {needed:.1f} GB are needed; make room or {mend}.")


def checksum_of(path: Path, algorithm: str = "sha256") -> str:
    """Return a file's checksum as 'algorithm:hexadecimal'."""
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _download(url: str, host: str, remote: RemoteFile, expected: str | None, target: Path, progress: bool) -> None:
    """Bring one address's file into place, or raise _Refused and leave nothing that is known to be wrong."""
    partial = target.with_name(f".{target.name}.partial")
    if not expected:
        partial.unlink(missing_ok=True)  # an old start can only be continued if a checksum tells whether it fitted
    continued = partial.exists()
    if progress:
        print(f"Downloading {remote.name} from {host}.")
    try:
        _receive(url, remote, expected, partial, progress)
        unfit = _misfit(partial, remote.size, expected)
        if unfit and continued:  # the old start may have been another file's: once more from nothing
            partial.unlink()
            _receive(url, remote, expected, partial, progress)
            unfit = _misfit(partial, remote.size, expected)
        if unfit:
            partial.unlink()
            raise _Refused(f"sent a file that {unfit}")
        partial.chmod(0o644)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no room was left" if full else error.strerror
        raise CourseError(f"Could not write '{target}': {reason}; nothing was kept.") from error
    finally:
        if not expected:
            partial.unlink(missing_ok=True)


def _receive(url: str, remote: RemoteFile, expected: str | None, partial: Path, progress: bool) -> None:
    """Append to `partial` until the file is whole, with pauses between attempts that bring nothing new."""
    start = furthest = _size(partial)
    failed, validator = 0, None
    with progress_bar(desc=remote.name, total=remote.size, enabled=progress) as bar:
        bar.unit, bar.unit_scale = "B", True
        while True:
            try:
                with _connect(url, _size(partial), validator) as response:
                    validator = validator or _validator(response)
                    return _append(response, remote, expected, partial, bar)
            except _Interrupted as interrupted:
                failed = 0 if _size(partial) > furthest else failed + 1
                furthest = max(furthest, _size(partial))
                offline = isinstance(interrupted, _Unreachable) and furthest == start
                if failed >= (OFFLINE_ATTEMPTS if offline else ATTEMPTS):
                    raise _Refused(f"{interrupted} ({failed} attempts)") from interrupted
                time.sleep(min(max(interrupted.pause, PAUSE * 2 ** max(failed - 1, 0)), LONGEST_PAUSE))


def _connect(url: str, offset: int, validator: str | None) -> requests.Response:
    headers = {"Accept-Encoding": "identity", "User-Agent": "face-identity-unlearning course"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
    try:
        return requests.get(url, headers=headers, stream=True, timeout=SILENCE)
    except requests.TooManyRedirects as error:
        raise _Refused("redirects in a circle") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        if isinstance(getattr(error.args[0] if error.args else None, "reason", None), NewConnectionError):
            raise _Unreachable("cannot be reached (no such host, or nobody listens there)") from error
        raise _Interrupted(f"cannot be reached or fell silent ({type(error).__name__})") from error
    except requests.RequestException as error:
        raise _Refused(f"gave no usable answer ({type(error).__name__})") from error


def _append(response: requests.Response, remote: RemoteFile, expected: str | None, partial: Path, bar) -> None:
    """Write one answer's bytes behind those at hand (or instead of them, if the server starts anew)."""
    offset = _accepted_offset(response, partial)
    total = _announced(response, offset)
    if not expected and response.history and urlsplit(response.url).scheme != urlsplit(response.history[0].url).scheme:
        raise _Refused("redirects to another protocol, and no checksum is known to judge the file by")
    if "html" in response.headers.get("Content-Type", "") and not remote.name.endswith(".html"):
        raise _Refused("sent a web page instead of the file")
    if remote.size and total not in (None, remote.size):
        raise _Refused(f"offers {total:,} bytes instead of {remote.size:,}")
    limit = remote.size or total
    require_room(partial.parent, (limit or 0) - offset, remote.moved_by)
    bar.total, bar.n = limit, offset
    with open(partial, "ab" if offset else "wb") as file:
        for block in _blocks(response):
            page = file.tell() == 0 and block.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))
            if page or (limit is not None and file.tell() + len(block) > limit):
                partial.unlink()
                raise _Refused("sent a web page instead of the file" if page else f"sent more than {limit:,} bytes")
            file.write(block)
            bar.update(len(block))
    if limit is not None and _size(partial) < limit:
        raise _Interrupted(f"stopped after {_size(partial):,} of {limit:,} bytes")


def _accepted_offset(response: requests.Response, partial: Path) -> int:
    """Return where this answer's bytes belong: behind the partial file, or at 0; raise for any other status."""
    status, offset = response.status_code, _size(partial)
    if status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        return offset
    if status == 200:
        partial.unlink(missing_ok=True)
        return 0
    if status in (206, 416) and offset:  # another range than asked for, or nothing behind: start anew
        partial.unlink()
        raise _Interrupted(f"could not continue at byte {offset:,}")
    if status in TRY_AGAIN:
        asked = response.headers.get("Retry-After", "")
        raise _Interrupted(f"answered {status} {response.reason}", float(asked) if asked.isdigit() else 0.0)
    raise _Refused(f"answered {status} {response.reason}")


def _announced(response: requests.Response, offset: int) -> int | None:
    """Return the whole file's size according to the answer's headers, or None."""
    length = response.headers.get("Content-Length", "")
    plain = response.headers.get("Content-Encoding", "identity") == "identity"
    return offset + int(length) if plain and length.isdigit() else None


def _blocks(response: requests.Response):
    try:
        yield from response.iter_content(BLOCK)
    except (requests.RequestException, OSError) as error:
        raise _Interrupted(f"broke off ({type(error).__name__})") from error


def _validator(response: requests.Response) -> str | None:
    """Return what lets the server tell whether the file is still the same; weak tags do not promise equal bytes."""
    tag = response.headers.get("ETag", "")
    return response.headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag


def _misfit(path: Path, size: int | None, expected: str | None) -> str:
    """Return in words why a file is not the expected one, or an empty string."""
    if size and path.stat().st_size != size:
        return f"has {path.stat().st_size:,} bytes instead of {size:,}"
    found = checksum_of(path, expected.split(":")[0]) if expected else None
    return "" if found == expected else f"has {found} instead of {expected}"


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _remembered(target: Path) -> str | None:
    record = _record(target)
    return f"sha256:{record.read_text(encoding='utf-8').split()[0]}" if record.is_file() else None


def _remember(target: Path, remote: RemoteFile, expected: str | None) -> Path:
    """Note the sha256 of a file whose checksum nobody has published, so that a later copy must equal the first."""
    if not expected:
        digest = checksum_of(target).split(":")[1]
        _record(target).write_text(f"{digest}  {remote.name}\n", encoding="utf-8")
        print(f"{remote.name}: no checksum to compare with; trusted, and its sha256 {digest} is required from now on.")
    return target


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
