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
    version = ""  # the ETag, which If-Range must repeat, or else all is sent
    more: dict[str, str] = {}  # headers instead of the right ones
    leads_to = ""
    data = DATA

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.versions: list[str | None] = []
        self.handle_error = lambda *_: None  # a client that has enough goes away
        self.url = f"http://127.0.0.1:{self.server_address[1]}/an4.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        expected = self.headers["Range"]
        self.server.asked.append(expected)
        self.server.versions.append(self.headers["If-Range"])
        start = int(expected[6:-1]) if expected and self.server.ranges else 0
        if self.headers["If-Range"] not in (None, self.server.version):
            start = 0
        if self.server.leads_to:
            self.send_response(302)
            self.send_header("Location", self.server.leads_to)
            self.end_headers()
        elif self.path != "/an4.tar.gz":
            self.send_error(404)
        elif start >= len(DATA):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(DATA)}")
            self.end_headers()
        else:
            self.send_data(start)

    def send_data(self, start: int) -> None:
        data, more = self.server.data, self.server.more
        self.send_response(206 if start else 200)
        if start:
            right = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send_header("Content-Range", more.get("Content-Range", right))
        if self.server.with_length:
            self.send_header("Content-Length", more.get("Content-Length", str(len(data) - start)))
        if self.server.version:
            self.send_header("ETag", self.server.version)
        self.end_headers()
        broken = self.server.limits > 0
        self.server.limits -= broken
        self.wfile.write(data[start : start + self.server.limit] if broken else data[start:])
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


def test_a_later_call_resumes_where_the_first_one_failed(server: Server, tmp_path: Path) -> None:
    server.limit, server.limits = 1000, module.ATTEMPTS
    with pytest.raises(UserError, match="closed early; 3000 bytes are kept: repeat the command"):
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


def test_an_md5_is_accepted_as_checksum(server: Server, tmp_path: Path) -> None:
    md5 = hashlib.md5(DATA).hexdigest()
    assert download(server.url, tmp_path, md5).read_bytes() == DATA
    with pytest.raises(UserError, match=f"has MD5 {md5}, not {'0' * 32}"):
        download(server.url, tmp_path, "0" * 32)


def test_an_unknown_address(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the server answers 404 Not Found: correct the address"):
        download(server.url.replace("an4", "an5"), tmp_path)


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused; repeat the command"):
        download("http://127.0.0.1:9/a.tgz", tmp_path, pause=0)


def interrupted(server: Server, directory: Path) -> None:
    """Fetch 3000 bytes of version "1", without a checksum."""
    server.version, server.limit, server.limits = '"1"', 1000, module.ATTEMPTS
    with pytest.raises(UserError, match="3000 bytes are kept: repeat the command"):
        download(server.url, directory, pause=0)
    assert server.versions == [None, '"1"', '"1"']


def test_the_same_version_is_resumed_without_a_checksum(server: Server, tmp_path: Path) -> None:
    interrupted(server, tmp_path)
    assert download(server.url, tmp_path).read_bytes() == DATA
    assert server.asked[-1] == "bytes=3000-"
    assert [p.name for p in tmp_path.iterdir()] == ["an4.tar.gz"]


@pytest.mark.parametrize("heeds", [True, False])
def test_another_version_is_fetched_anew(server: Server, tmp_path: Path, heeds: bool) -> None:
    interrupted(server, tmp_path)
    server.version, server.data = '"2"', DATA[::-1]
    if not heeds:  # a server that sends the range although the version is another
        server.version = '"1"'
        (tmp_path / "an4.tar.gz.version").write_text('"0"')
        server.more = {"Content-Range": f"bytes 3000-{len(DATA) - 1}/{len(DATA)}"}
    assert download(server.url, tmp_path, pause=0).read_bytes() == DATA[::-1]


@pytest.mark.parametrize("found", ["bytes 0-99/100", "bytes 3000-", "3000", "bytes 3001-9999/10000"])
def test_another_range_than_was_asked_for_is_not_appended(server: Server, tmp_path: Path, found: str) -> None:
    interrupted(server, tmp_path)
    server.more = {"Content-Range": found}
    assert download(server.url, tmp_path, pause=0).read_bytes() == DATA


def test_without_version_and_checksum_all_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.limit, server.limits = 1000, 1
    assert download(server.url, tmp_path, pause=0).read_bytes() == DATA
    assert server.asked == [None, None]


@pytest.mark.parametrize("length", ["-1", "12x", "1_000", "9" * 5000, "١٢"])
def test_an_invalid_content_length_is_refused(server: Server, tmp_path: Path, length: str) -> None:
    server.more = {"Content-Length": length.encode().decode("latin-1")}
    with pytest.raises(UserError, match="the server gives the invalid length '.*: use another address") as e:
        download(server.url, tmp_path, pause=0)
    assert len(str(e.value)) < 200


def test_a_file_that_is_too_large(server: Server, tmp_path: Path) -> None:
    for with_length in (True, False):
        server.with_length = with_length
        with pytest.raises(UserError, match="has more than 0 GB: download it yourself"):
            download(server.url, tmp_path, largest=100_000)
        assert not list(tmp_path.iterdir())
    server.with_length, server.more = True, {"Content-Length": "9" * 18}
    with pytest.raises(UserError, match=r"has 9{18} bytes, but .* has only \d+ free"):
        download(server.url, tmp_path, largest=10**18)


@pytest.mark.parametrize("elsewhere", ["file:///etc/passwd", "ftp://host/a.tgz", "data:,x", "http://[1/a.tgz"])
def test_only_http_is_followed(server: Server, tmp_path: Path, elsewhere: str) -> None:
    server.leads_to = elsewhere
    with pytest.raises(UserError, match="redirects to|not allowed|cannot be read") as e:
        download(server.url, tmp_path, pause=0)
    assert server.asked == [None] and "\n" not in str(e.value)
    server.leads_to = server.url  # in a circle
    with pytest.raises(UserError, match="the server answers 302 .* infinite loop"):
        download(server.url, tmp_path, pause=0)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a.tgz", "https://host/", "https:///a.tgz"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="only http:// and https://"):
        download(url, tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/a.tgz", "http://host:port/a.tgz", "http://host/a b.tgz", "http://host/ä.tgz",
        "http://host/\na.tgz", "http://host/a/%2e%2e", "http://host/%00a.tgz", "http://host/.part",
        f"http://host/{'a' * 300}",
    ],
)  # fmt: skip
def test_invalid_addresses_are_refused_in_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="is not an address|cannot be the name of a file") as e:
        download(url, tmp_path, pause=0)
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())
