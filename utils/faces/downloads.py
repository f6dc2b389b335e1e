"""From web addresses to one verified file, with pooch: mirrors in order, never half a file in place."""

from __future__ import annotations

import errno
import functools
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from ..settings import CourseError, atomic_path, progress_bar, regular_target

ATTEMPTS = 5  # in a row without a new byte, before an address is given up
OFFLINE_ATTEMPTS = 2  # if the address never answered
PAUSE = 1.0  # seconds before the second attempt; doubled each time
LONGEST_PAUSE = 60.0  # seconds, also when a server asks for more
SILENCE = 30.0  # seconds without a byte after which a connection counts as broken
BLOCK = 1 << 14  # a block that breaks off is lost
RESERVE = 100 << 20  # bytes that must stay free on the disk
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "face-identity-unlearning course"}


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


class _Broken(requests.ConnectionError):
    """The transfer stopped, but trying again may help; the text says how it ended."""


def fetch(remote: RemoteFile, folder: Path, *, progress: bool = True) -> Path:
    """Return the path of a verified copy in `folder`, downloading it if it is not there or not whole; without a known
    checksum the first download is trusted and its sha256 required ever after; raises DownloadError with the place
    for a copy fetched by hand when every address fails. Introduced in notebook 01."""
    target = regular_target(Path(folder) / remote.name)
    record = target.with_name(f"{target.name}.sha256")
    noted = record.read_text(encoding="utf-8").split() if record.is_file() else []
    expected = remote.checksum or (f"sha256:{noted[0]}" if noted else None)
    failures = [f"the copy that lies there {fault}"] if (fault := _fault(target, remote.size, expected)) else []
    if failures or not target.is_file():
        require_room(target.parent, remote.size or 0, remote.moved_by)
        for url in remote.urls:
            if fault := _bring(url, remote, expected, target, progress):
                failures.append(f"{urlsplit(url).netloc} {fault}")
            else:
                break
        else:
            size = f"{remote.size:,} bytes" if remote.size else "size not known here"
            raise DownloadError(
                f"Could not download {remote.name}: {'; '.join(failures)}. Fetch it by hand, for example from "
                f"{remote.urls[0]}, and place it at '{target}' ({size}, {expected or 'checksum not known here'}), then "
                "run this again."
            )
    if not expected:
        digest = pooch.file_hash(str(target))
        with atomic_path(record) as fresh:
            fresh.write_text(f"{digest}  {remote.name}\n", encoding="utf-8")
        print(f"{remote.name}: no checksum to compare with; trusted, and its sha256 {digest} is required from now on.")
    return target


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
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def _fault(path: Path, size: int | None, expected: str | None) -> str:
    """Return in words why a file that is there is not the expected one, or an empty string."""
    if path.is_file() and size and path.stat().st_size != size:
        return f"has {path.stat().st_size:,} bytes instead of {size:,}"
    found = checksum_of(path, expected.split(":")[0]) if expected and path.is_file() else expected
    return "" if found == expected else f"has {found} instead of {expected}"


def _bring(url: str, remote: RemoteFile, expected: str | None, target: Path, progress: bool) -> str:
    """Bring one address's file into place, or return in words why it could not, and leave nothing known to be wrong."""
    partial = target.with_name(f".{target.name}.partial")
    if not expected:
        partial.unlink(missing_ok=True)  # an old start can only be continued if a checksum tells whether it fitted
    again = partial.exists()  # that start may be another file's: then once more from nothing
    if progress:
        print(f"Downloading {remote.name} from {urlsplit(url).netloc}.")
    receive = functools.partial(_receive, remote=remote, partial=partial, known=bool(expected), progress=progress)
    pooch.get_logger().setLevel("WARNING")
    try:  # beside the target, so that what lies there stays until a better copy is whole
        whole = pooch.retrieve(url, expected, f".{target.name}.whole", target.parent, downloader=receive)
        Path(whole).replace(target)
    except _Refused as refused:
        return str(refused)
    except CourseError:
        raise
    except ValueError as error:  # pooch's word on the checksum, of which the first sentence is about the file
        return _bring(url, remote, expected, target, progress) if again else str(error).split(". ")[0]
    except OSError as error:
        partial.unlink(missing_ok=True)
        reason = "no room was left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise CourseError(f"Could not write '{target}': {reason}; nothing was kept.") from error
    finally:
        if not expected:
            partial.unlink(missing_ok=True)
    return ""


def _receive(url: str, whole: str, _, *, remote: RemoteFile, partial: Path, known: bool, progress: bool) -> None:
    """Download for pooch, whose own way is one attempt from the first byte: files of gigabytes are continued instead,
    with pauses between attempts that bring nothing new, and judged by size and kind while they arrive."""
    failed, answered, tag, furthest = 0, False, None, _size(partial)
    with progress_bar(desc=remote.name, total=remote.size, enabled=progress) as bar:
        bar.unit, bar.unit_scale = "B", True
        while True:
            headers, pause, at_hand = dict(HEADERS), 0.0, _size(partial)
            if at_hand and (known or tag):  # without either, the rest may be another file's
                headers |= {"Range": f"bytes={at_hand}-"} | ({"If-Range": tag} if tag else {})
            try:
                with requests.get(url, headers=headers, stream=True, timeout=SILENCE) as response:
                    asked = response.headers.get("Retry-After", "")
                    answered, pause = True, float(asked) if asked.isdigit() else 0.0
                    tag = tag or response.headers.get("ETag") or response.headers.get("Last-Modified")
                    _append(response, remote, partial, known, bar)
                partial.replace(whole)
                return
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                failed = 0 if _size(partial) > furthest else failed + 1
                furthest = max(furthest, _size(partial))
                if failed >= (ATTEMPTS if answered else OFFLINE_ATTEMPTS):
                    how = f"{'broke off' if answered else 'cannot be reached'} ({type(error).__name__})"
                    how = str(error) if isinstance(error, _Broken) else how
                    raise _Refused(f"{how} ({failed} attempts)") from error
                time.sleep(min(max(pause, PAUSE * 2 ** max(failed - 1, 0)), LONGEST_PAUSE))
            except requests.TooManyRedirects as error:
                raise _Refused("redirects in a circle") from error
            except requests.RequestException as error:
                raise _Refused(f"gave no usable answer ({error})") from error


def _append(response: requests.Response, remote: RemoteFile, partial: Path, known: bool, bar) -> None:
    """Write one answer's bytes behind those at hand (or instead of them, if the server starts anew)."""
    status, offset = f"answered {response.status_code} {response.reason}", _size(partial)
    if offset and response.status_code in (206, 416):
        if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            partial.unlink()
            raise _Broken(f"could not continue at byte {offset:,}")
    elif response.status_code != 200:
        raise _Broken(status) if response.status_code in TRY_AGAIN else _Refused(status)
    else:
        offset = 0
    length = "" if "Content-Encoding" in response.headers else response.headers.get("Content-Length", "")
    total = offset + int(length) if length.isdigit() else None
    if not known and urlsplit((response.history or [response])[0].url).scheme != urlsplit(response.url).scheme:
        raise _Refused("redirects to another protocol, and no checksum is known to judge the file by")
    if "html" in response.headers.get("Content-Type", ""):
        raise _Refused("sent a web page instead of the file")
    if remote.size and total not in (None, remote.size):
        raise _Refused(f"offers {total:,} bytes instead of {remote.size:,}")
    limit = remote.size or total
    require_room(partial.parent, (limit or 0) - offset, remote.moved_by)
    bar.total, bar.n, wrong = limit, offset, ""
    with open(partial, "ab" if offset else "wb") as file:
        for block in response.iter_content(BLOCK):
            if file.tell() == 0 and block.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
                wrong = "sent a web page instead of the file"
            elif limit is not None and file.tell() + len(block) > limit:
                wrong = f"sent more than {limit:,} bytes"
            if wrong:
                break
            file.write(block)
            bar.update(len(block))
    if wrong:
        partial.unlink()
        raise _Refused(wrong)
    if limit is not None and _size(partial) < limit:
        raise _Broken(f"stopped after {_size(partial):,} of {limit:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
