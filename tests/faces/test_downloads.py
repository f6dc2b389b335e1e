"""Downloads against a server that misbehaves in every way the web knows: the file is right, or nothing is kept."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from utils.faces import downloads
from utils.faces.downloads import RemoteFile, checksum_of, fetch, require_room
from utils.settings import CourseError

BODY = bytes(range(256)) * 1200  # 307,200 bytes, more than one block
SHA = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
LIE = f"sha256:{'0' * 64}"
PAGE = b"<!DOCTYPE html><html><body>Too many users</body></html>"


class Server:
    """A local web server: `answers[path]` is a function that serves a request; every request is remembered."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable] = {}
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append((self.path, self.headers.get("Range")))
                self.close_connection = True
                outer.answers[self.path](self)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def ranges(self, path: str) -> list[str | None]:
        return [asked for where, asked in self.requests if where == path]


def answer(handler, status: int = 200, body: bytes = b"", length: int | None = -1, **headers: str) -> None:
    """Send a status, headers and a body; `length` announces another length, None announces none."""
    handler.send_response(status)
    handler.send_header("Connection", "close")
    if length is not None:
        handler.send_header("Content-Length", str(len(body) if length == -1 else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def offset_of(handler) -> int:
    return int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))


def good(handler, body: bytes = BODY, **headers: str) -> None:
    """A well-behaved server that can continue anywhere."""
    start = offset_of(handler)
    if start:
        headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    answer(handler, 206 if start else 200, body[start:], **headers)


def breaking_off(piece: int) -> Callable:
    """A server that sends `piece` bytes per connection and hangs up, but can continue."""

    def serve(handler) -> None:
        start = offset_of(handler)
        headers = {"Content_Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"} if start else {}
        answer(handler, 206 if start else 200, BODY[start : start + piece], len(BODY) - start, **headers)

    return serve


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


def ask(server: Server, folder: Path, *paths: str, size: int | None = len(BODY), checksum: str | None = SHA) -> Path:
    urls = tuple(server.url(path) for path in paths or ("/file",))
    return fetch(RemoteFile("file.bin", urls, size, checksum), folder, progress=False)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Good servers --------------------------------------------------------------------------------------------------------


def test_a_file_arrives_once_and_is_verified_ever_after(server, tmp_path):
    server.answers["/file"] = good
    path = ask(server, tmp_path / "new" / "folder")
    assert path.read_bytes() == BODY and left_in(path.parent) == ["file.bin"]
    assert ask(server, path.parent) == path and len(server.requests) == 1
    path.write_bytes(BODY[:-1] + b"?")  # rot on the disk
    assert ask(server, path.parent).read_bytes() == BODY and len(server.requests) == 2


def test_an_md5_will_do_where_nobody_published_better(server, tmp_path):
    server.answers["/file"] = good
    assert ask(server, tmp_path, checksum=f"md5:{hashlib.md5(BODY).hexdigest()}").read_bytes() == BODY
    with pytest.raises(CourseError, match="md5:"):
        ask(server, tmp_path, checksum=f"md5:{'0' * 32}")


def test_redirects_are_followed_and_circles_are_not(server, tmp_path):
    server.answers["/file"] = good
    server.answers["/old"] = lambda handler: answer(handler, 302, Location="/file")
    server.answers["/circle"] = lambda handler: answer(handler, 301, Location="/circle")
    assert ask(server, tmp_path, "/old").read_bytes() == BODY
    with pytest.raises(CourseError, match="redirects in a circle"):
        ask(server, tmp_path / "b", "/circle")


def test_a_slow_server_is_waited_for(server, tmp_path):
    def drip(handler) -> None:
        answer(handler, 200, b"", len(BODY))
        for start in range(0, len(BODY), 60_000):
            time.sleep(0.02)
            handler.wfile.write(BODY[start : start + 60_000])
            handler.wfile.flush()

    server.answers["/file"] = drip
    assert ask(server, tmp_path).read_bytes() == BODY and len(server.requests) == 1


def test_a_length_that_nobody_announced_is_no_obstacle(server, tmp_path):
    server.answers["/file"] = lambda handler: answer(handler, 200, BODY, None)
    assert ask(server, tmp_path, size=None).read_bytes() == BODY


# Broken transfers ----------------------------------------------------------------------------------------------------


def test_a_transfer_that_breaks_off_is_continued(server, tmp_path):
    server.answers["/file"] = breaking_off(
        40_000
    )  # of which two blocks of 16,384 arrive: more connections than ATTEMPTS
    assert ask(server, tmp_path).read_bytes() == BODY
    asked = server.ranges("/file")
    assert asked[0] is None and all(asked[1:]) and len(asked) == 10
    assert left_in(tmp_path) == ["file.bin"]


def test_a_server_that_cannot_continue_starts_anew_and_is_given_up_at_last(server, tmp_path):
    tries = []

    def whole_the_third_time(handler) -> None:
        tries.append(1)
        answer(handler, 200, BODY if len(tries) == 3 else BODY[:1000], len(BODY))

    server.answers["/file"] = whole_the_third_time
    assert ask(server, tmp_path).read_bytes() == BODY
    server.answers["/never"] = lambda handler: answer(handler, 200, BODY[:1000], len(BODY))
    with pytest.raises(CourseError, match=r"broke off .*5 attempts"):
        ask(server, tmp_path / "b", "/never")


def test_a_download_goes_on_in_the_next_session(server, tmp_path, monkeypatch):
    server.answers["/file"] = breaking_off(100_000)
    monkeypatch.setattr(time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ask(server, tmp_path)
    assert left_in(tmp_path) == [".file.bin.partial"]
    monkeypatch.undo()
    server.answers["/file"] = good
    assert ask(server, tmp_path).read_bytes() == BODY
    assert server.ranges("/file")[-1] == "bytes=98304-" and left_in(tmp_path) == ["file.bin"]


def test_a_start_of_another_file_is_thrown_away(server, tmp_path):
    server.answers["/file"] = good
    (tmp_path / ".file.bin.partial").write_bytes(b"?" * 5000)
    assert ask(server, tmp_path).read_bytes() == BODY
    assert server.ranges("/file") == ["bytes=5000-", None]
    (tmp_path / "file.bin").unlink()
    (tmp_path / ".file.bin.partial").write_bytes(BODY + b"and more")
    server.answers["/file"] = lambda h: answer(h, 416) if offset_of(h) >= len(BODY) else good(h)
    assert ask(server, tmp_path).read_bytes() == BODY


def test_a_file_that_changes_on_the_way_is_never_mixed(server, tmp_path):
    """Without a checksum only the server's tag tells: If-Range makes it send the new file from its start."""
    other = BODY[::-1]

    def changing(handler) -> None:
        if len(server.requests) == 1:
            return answer(handler, 200, BODY[:90_000], len(BODY), ETag='"one"')
        assert handler.headers["If-Range"] == '"one"'
        return answer(handler, 200, other, ETag='"two"')

    server.answers["/file"] = changing
    assert ask(server, tmp_path, checksum=None).read_bytes() == other


def test_without_a_checksum_and_a_tag_nothing_is_continued(server, tmp_path):
    other = BODY[::-1]
    first = lambda: len(server.requests) == 1  # noqa: E731
    server.answers["/file"] = lambda h: answer(h, 200, BODY[:90_000], len(BODY)) if first() else good(h, other)
    assert ask(server, tmp_path, checksum=None).read_bytes() == other
    assert server.ranges("/file") == [None, None]


def test_silence_counts_as_broken(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "SILENCE", 0.1)

    def silent_once(handler) -> None:
        if len(server.requests) > 1:
            return good(handler)
        answer(handler, 200, BODY[:1000], len(BODY))
        handler.wfile.flush()
        return time.sleep(0.4)

    server.answers["/file"] = silent_once
    assert ask(server, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(server, tmp_path, monkeypatch, status):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def busy(handler) -> None:
        if len(server.requests) <= 3:
            return answer(handler, status, b"later", **({"Retry_After": "7"} if len(server.requests) == 1 else {}))
        return good(handler)

    server.answers["/file"] = busy
    assert ask(server, tmp_path).read_bytes() == BODY
    assert pauses == [7, 0.002, 0.004]  # as asked, then doubling
    server.answers["/file"] = lambda handler: answer(handler, status, b"later", Retry_After="86400")
    with pytest.raises(CourseError, match=f"answered {status} .*5 attempts"):
        ask(server, tmp_path / "b")
    assert max(pauses) == downloads.LONGEST_PAUSE


# Lies ----------------------------------------------------------------------------------------------------------------


def test_a_lie_about_the_content_is_refused_with_both_hashes(server, tmp_path):
    server.answers["/file"] = good
    with pytest.raises(CourseError) as caught:
        ask(server, tmp_path, checksum=LIE)
    assert f"expected {LIE} but got {SHA.removeprefix('sha256:')}" in str(caught.value) and left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("serve", "why"),
    [
        (lambda h: answer(h, 200, BODY[:5000]), "offers 5,000 bytes instead of 307,200"),
        (lambda h: answer(h, 200, BODY + b"more"), "offers 307,204 bytes instead of 307,200"),
        (lambda h: answer(h, 200, BODY + b"more", None), "sent more than 307,200 bytes"),
        (lambda h: answer(h, 200, PAGE, Content_Type="text/html"), "web page instead of the file"),
        (lambda h: answer(h, 200, PAGE, None), "web page instead of the file"),
        (lambda h: answer(h, 404, PAGE), "answered 404"),
        (lambda h: answer(h, 403, b""), "answered 403"),
    ],
)
def test_what_is_not_the_file_is_refused_and_leaves_nothing(server, tmp_path, serve, why):
    server.answers["/file"] = serve
    with pytest.raises(CourseError, match=why):
        ask(server, tmp_path)
    assert left_in(tmp_path) == [] and len(server.requests) == 1


def test_a_short_body_without_a_length_is_asked_for_again(server, tmp_path):
    server.answers["/file"] = lambda handler: answer(handler, 200, BODY[:5000], None)
    with pytest.raises(CourseError, match=r"stopped after 5,000 of 307,200 bytes \(5 attempts\)"):
        ask(server, tmp_path)


def test_the_next_address_is_asked_and_what_failed_is_told(server, tmp_path):
    server.answers |= {"/gone": lambda h: answer(h, 404), "/page": lambda h: answer(h, 200, PAGE, None), "/file": good}
    assert ask(server, tmp_path, "/gone", "/page", "/file", size=None).read_bytes() == BODY
    with pytest.raises(CourseError) as caught:
        ask(server, tmp_path / "b", "/gone", "/page")
    told = str(caught.value)
    assert "answered 404" in told and "web page" in told and SHA in told and "307,200 bytes" in told
    assert str(tmp_path / "b" / "file.bin") in told and server.url("/gone") in told


def test_an_unreachable_server_is_told_with_the_place_for_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    closed = RemoteFile("file.bin", ("http://127.0.0.1:9/file",), None, SHA)
    with pytest.raises(CourseError, match=r"cannot be reached.*place it at '.*file\.bin'"):
        fetch(closed, tmp_path, progress=False)
    (tmp_path / "file.bin").write_bytes(BODY)  # placed by hand
    assert fetch(closed, tmp_path, progress=False).read_bytes() == BODY


def test_offline_it_is_told_within_seconds_and_names_the_variable_that_moves_the_folder(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for address in ("http://127.0.0.1:9/file", "http://nowhere.invalid/file"):
        pauses.clear()
        with pytest.raises(CourseError, match="cannot be reached"):
            fetch(RemoteFile("file.bin", (address,), None, SHA), tmp_path, progress=False)
        assert sum(pauses) <= 2
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CourseError, match="Cannot write into .*TORCH_HOME"):
        fetch(RemoteFile("a", ("http://127.0.0.1:9/a",), moved_by="TORCH_HOME"), tmp_path / "file", progress=False)


def test_without_a_published_checksum_the_first_file_is_the_measure(server, tmp_path, capsys):
    server.answers["/file"] = good
    path = ask(server, tmp_path, checksum=None)
    digest = SHA.removeprefix("sha256:")
    assert f"sha256 {digest} is required" in capsys.readouterr().out
    assert (tmp_path / "file.bin.sha256").read_text() == f"{digest}  file.bin\n"
    path.unlink()
    server.answers["/file"] = lambda handler: good(handler, BODY[::-1])
    with pytest.raises(CourseError, match=f"expected {SHA} but got "):
        ask(server, tmp_path, checksum=None)
    assert left_in(tmp_path) == ["file.bin.sha256"]


# The disk ------------------------------------------------------------------------------------------------------------


def test_no_room_is_said_before_anything_is_asked_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5000})())
    with pytest.raises(CourseError, match="0.0 GB free, but 0.1 GB are needed.*FACE_COURSE_CACHE"):
        ask(server, tmp_path)
    assert server.requests == []


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_asked_for(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CourseError, match="Cannot write into .*FACE_COURSE_CACHE"):
        ask(server, tmp_path / "file" / "folder")
    assert server.requests == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CourseError, match="Permission denied"):
        require_room(tmp_path, 0)


def test_a_copy_that_is_there_needs_no_room(tmp_path, monkeypatch):
    (tmp_path / "file.bin").write_bytes(BODY)
    monkeypatch.setattr(downloads, "require_room", lambda *_: pytest.fail("room was asked for"))
    assert fetch(RemoteFile("file.bin", ("http://127.0.0.1:9/file",), len(BODY), SHA), tmp_path).read_bytes() == BODY


def test_a_disk_that_fills_up_on_the_way_keeps_nothing(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    server.answers["/file"] = good
    monkeypatch.setattr(downloads, "_append", full)
    with pytest.raises(CourseError, match="no room was left; nothing was kept"):
        ask(server, tmp_path)
    assert left_in(tmp_path) == []


def test_a_link_stays_a_link_and_what_is_no_file_is_refused_before_anything_is_asked_for(server, tmp_path):
    server.answers["/file"] = good
    (tmp_path / "shared").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here/file.bin").symlink_to(tmp_path / "shared/file.bin")
    ask(server, tmp_path / "here")
    assert (tmp_path / "here/file.bin").is_symlink() and (tmp_path / "shared/file.bin").read_bytes() == BODY
    (tmp_path / "b/file.bin").mkdir(parents=True)
    with pytest.raises(CourseError, match="not a regular file"):
        ask(server, tmp_path / "b")
    assert len(server.requests) == 1


def test_a_wrong_copy_stays_until_a_better_one_is_whole(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    (tmp_path / "file.bin").write_bytes(b"placed by hand")
    server.answers["/file"] = lambda handler: answer(handler, 404)
    with pytest.raises(CourseError, match="has 14 bytes instead of 307,200.*answered 404"):
        ask(server, tmp_path, checksum=None)
    assert (tmp_path / "file.bin").read_bytes() == b"placed by hand" and left_in(tmp_path) == ["file.bin"]
    server.answers["/file"] = good
    assert ask(server, tmp_path, checksum=None).read_bytes() == BODY


def test_checksums_name_their_algorithm(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    assert checksum_of(tmp_path / "a") == f"sha256:{hashlib.sha256(b'').hexdigest()}"
    assert checksum_of(tmp_path / "a", "md5") == "md5:d41d8cd98f00b204e9800998ecf8427e"
