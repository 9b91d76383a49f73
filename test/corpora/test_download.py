import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet_kd.corpora import download as module
from espnet_kd.corpora.download import download
from espnet_kd.errors import UserError

DATA = bytes(range(256)) * 4000  # about 1 MB
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA as /an4.tar.gz; ``limit`` breaks the connection after so many bytes, ``limits`` times."""

    ranges = True
    limit = 0
    limits = 0
    with_length = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/an4.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        if self.path != "/an4.tar.gz":
            self.send_error(404)
        elif start >= len(DATA):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(DATA)}")
            self.end_headers()
        else:
            self.send_data(start)

    def send_data(self, start: int) -> None:
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        if self.server.with_length:
            self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        broken = self.server.limits > 0
        self.server.limits -= broken
        self.wfile.write(DATA[start : start + self.server.limit] if broken else DATA[start:])
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as s:
        thread = threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield s
        s.shutdown()
        thread.join()


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        path = download(server.url, tmp_path / "new", SHA256.upper())
        assert path == tmp_path / "new" / "an4.tar.gz"
        assert path.read_bytes() == DATA
    assert server.asked == [None]
    assert [p.name for p in path.parent.iterdir()] == ["an4.tar.gz"]


def test_without_content_length(server: Server, tmp_path: Path) -> None:
    server.with_length = False
    assert download(server.url, tmp_path).read_bytes() == DATA


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.limit, server.limits = 300_000, 2
    assert download(server.url, tmp_path, SHA256, pause=0).read_bytes() == DATA
    assert server.asked == [None, "bytes=300000-", "bytes=600000-"]


def test_a_later_call_goes_on_where_the_first_gave_up(server: Server, tmp_path: Path) -> None:
    server.limit, server.limits = 1000, module.ATTEMPTS
    with pytest.raises(UserError, match="closed early; 3000 bytes are kept, the same command goes on"):
        download(server.url, tmp_path, SHA256, pause=0)
    assert [p.name for p in tmp_path.iterdir()] == ["an4.tar.gz.part"]
    assert download(server.url, tmp_path, SHA256).read_bytes() == DATA
    assert server.asked[-1] == "bytes=3000-"
    assert [p.name for p in tmp_path.iterdir()] == ["an4.tar.gz"]


def test_a_server_that_ignores_range_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "an4.tar.gz.part").write_bytes(b"something old")
    assert download(server.url, tmp_path).read_bytes() == DATA


def test_a_part_that_was_complete_is_only_renamed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "an4.tar.gz.part").write_bytes(DATA)
    assert download(server.url, tmp_path, SHA256).read_bytes() == DATA


def test_a_part_that_is_too_long_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "an4.tar.gz.part").write_bytes(DATA + b"x")
    assert download(server.url, tmp_path, SHA256, pause=0).read_bytes() == DATA


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"has SHA-256 {SHA256}, not 1234"):
        download(server.url, tmp_path, "1234")
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_that_is_there_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(b"precious")
    with pytest.raises(UserError, match="a.tgz has SHA-256"):
        download("http://127.0.0.1:9/a.tgz", tmp_path, "1234")
    assert (tmp_path / "a.tgz").read_bytes() == b"precious"


def test_an_md5_is_a_checksum_as_well(server: Server, tmp_path: Path) -> None:
    md5 = hashlib.md5(DATA).hexdigest()
    assert download(server.url, tmp_path, md5).read_bytes() == DATA
    with pytest.raises(UserError, match=f"has MD5 {md5}, not {'0' * 32}"):
        download(server.url, tmp_path, "0" * 32)


def test_an_unknown_address(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the server says 404 Not Found: give the path"):
        download(server.url.replace("an4", "an5"), tmp_path)


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused; 0 bytes are kept"):
        download("http://127.0.0.1:9/a.tgz", tmp_path, pause=0)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a.tgz", "https://host/"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="only http:// and https://"):
        download(url, tmp_path)
