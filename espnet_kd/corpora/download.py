"""Downloads that resume, and are whole under their final name."""

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import has_odd_characters

BLOCK = 1 << 16
ATTEMPTS = 3
TIMEOUT_SECONDS = 60
MD5_DIGITS = 32
LONGEST_NAME = 200  # bytes, of the 255 that a file's name may have
LARGEST = 100 << 30  # bytes; the largest archive of a corpus that is read here has 30 GB
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(?:\d{1,18}|\*)")


@dataclass(frozen=True)
class Part:
    """What has arrived of a file.

    Attributes:
        path: ``<name>.part``.
        version: file beside it with what the server calls the version, its ETag or the time of its change.
        checked: True if a checksum will tell a mixture of two versions.
        largest: bytes that the file may have.
    """

    path: Path
    version: Path
    checked: bool
    largest: int

    def size(self) -> int:
        """Bytes from where a download can go on; 0 if nothing says that the rest will be of one version."""
        known = self.path.exists() and (self.checked or self.version.exists())
        return self.path.stat().st_size if known else 0

    def remove(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)


def download(
    url: str, directory: str | Path, checksum: str | None = None, pause: float = 2.0, largest: int = LARGEST
) -> Path:
    """Fetch ``url`` into ``directory``; a file that is there already is not fetched again.

    What has arrived lies in ``<name>.part`` until all has, and a later call goes on from there if the server
    has the same version still.

    Args:
        url: http or https.
        checksum: that the file must have, hexadecimal; MD5 if it has 32 digits, otherwise SHA-256.
        pause: seconds before another attempt.
        largest: bytes that the file may have.

    Raises:
        UserError: the address is none, the server refuses or leads elsewhere than to http or https, the
            connection keeps breaking, the file is too large, or the checksum is another.
    """
    target = Path(directory) / _file_name(url)
    if target.exists():
        verify(target, checksum)
        return target
    part = Part(
        target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.version"),
        checksum is not None, largest,
    )  # fmt: skip
    _make_directory(target.parent)
    print(f"downloading {url} to {target}", flush=True)
    _fetch_all(url, part, pause)
    try:
        verify(part.path, checksum)
    except UserError:
        part.remove()  # a resumed mixture of two versions would never become right
        raise
    part.version.unlink(missing_ok=True)
    os.replace(part.path, target)
    return target


def _file_name(url: str) -> str:
    """The name of the file at an address."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is no number raises, too
    except ValueError as e:
        raise UserError(f"{url} is not an address: {e}") from None
    name = Path(urllib.parse.unquote(parts.path)).name
    if parts.scheme not in ("http", "https") or not host or not name:
        raise UserError(f"{url}: only http:// and https:// addresses of files can be downloaded")
    if has_odd_characters(url) or not url.isascii():
        raise UserError(f"{url} is not an address: write what is not ASCII, and spaces, as %20 and so on")
    if name.startswith(".") or has_odd_characters(name.replace(" ", "")) or len(name.encode()) > LONGEST_NAME:
        raise UserError(f"{url}: {name!r} cannot be a file's name: download it yourself and give its path")
    return name


def verify(path: Path, checksum: str | None) -> None:
    """Compare a file's checksum, MD5 if it has 32 digits, otherwise SHA-256; ``None`` accepts any.

    Raises:
        UserError: it differs.
    """
    if checksum is None:
        return
    name, digest = ("MD5", file_md5) if len(checksum) == MD5_DIGITS else ("SHA-256", file_sha256)
    if (found := digest(path)) != checksum.lower():
        raise UserError(
            f"{path} has {name} {found}, not {checksum}: fetch it anew or correct the checksum given"
        )


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return _digest(path, hashlib.sha256)


def file_md5(path: str | Path) -> str:
    """MD5 of a file, hexadecimal; some publishers give nothing better."""
    return _digest(path, partial(hashlib.md5, usedforsecurity=False))  # else a FIPS system refuses it


def _digest(path: str | Path, algorithm: Callable) -> str:
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, algorithm).hexdigest()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a server to http and https only; urllib's own would go to ftp, too."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise UserError(f"{req.full_url} leads to {newurl}: only http:// and https:// are followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """What opens http and https, and neither files nor ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler, _Redirects,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _fetch_all(url: str, part: Part, pause: float) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if _fetch(url, part):
                return
            reason = "the connection was closed early"
        except UserError:
            raise
        except urllib.error.HTTPError as e:
            reason = (str(e.reason).splitlines() or [""])[0]
            raise UserError(
                f"{url}: the server says {e.code} {reason}: give the path of the file instead"
            ) from None
        except (OSError, http.client.HTTPException) as e:
            reason = str(getattr(e, "reason", e)) or type(e).__name__
        except ValueError as e:  # where a server leads to what is no address
            raise UserError(f"{url}: the server's answer cannot be read: {e}") from None
        if attempt < ATTEMPTS:
            time.sleep(pause)
    kept = f"{part.size()} bytes are kept, the same command goes on from there"
    raise UserError(f"{url}: {reason}; {kept if part.size() else 'the same command begins anew'}")


def _fetch(url: str, part: Part) -> bool:
    """One connection; returns whether the file is now complete."""
    have = part.size()
    headers = {"User-Agent": "espnet-kd", "Accept-Encoding": "identity"}
    before = part.version.read_text(encoding="latin-1") if part.version.exists() else ""
    if have:
        headers["Range"] = f"bytes={have}-"
        if before:
            headers["If-Range"] = before
    try:
        request = urllib.request.Request(url, headers=headers)
        with _opener().open(request, timeout=TIMEOUT_SECONDS) as r:
            version = _version(r.headers)
            if r.status == 206:
                found = CONTENT_RANGE.fullmatch(r.headers.get("Content-Range", "").strip())
                if not have or found is None or int(found[1]) != have or "" != before != version != "":
                    part.remove()  # another part than was asked for, or of another version
                    return False
            else:
                have = 0
                part.version.unlink(missing_ok=True)
            return _receive(r, part, have, version)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not have:
            raise
        if e.headers.get("Content-Range") == f"bytes */{have}":
            return True
        part.remove()
        return False


def _version(headers: Message) -> str:
    """What the server calls the version of the file, in a form that it takes back; "" if it does not say."""
    tag = headers.get("ETag", "").strip()
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "").strip()
    return version if version.isprintable() and len(version) < 1000 else ""


def _receive(response: http.client.HTTPResponse, part: Part, have: int, version: str) -> bool:
    """Append to the part from byte ``have`` on (a server may ignore Range: then from the start)."""
    length = (response.headers.get("Content-Length") or "").strip()
    if length and not re.fullmatch(r"[0-9]{1,18}", length):
        raise UserError(f"{response.url}: the server gives the length {length[:40]!r}: give another address")
    total = have + int(length) if length else None
    _check_room(response.url, part, total or 0, have)
    with part.path.open("r+b" if have else "wb") as f:
        if version and not have:
            part.version.write_text(version, encoding="latin-1")
        f.seek(have)
        while block := response.read(BLOCK):
            f.write(block)
            have += len(block)
            if have > part.largest:
                _check_room(response.url, part, have, have)
        f.truncate()
        f.flush()
        os.fsync(f.fileno())
    return total is None or have >= total


def _check_room(url: str, part: Part, total: int, have: int) -> None:
    if total > part.largest:
        part.remove()
        raise UserError(
            f"{url} has more than {part.largest / 1e9:.0f} GB: download it yourself and give its path"
        )
    free = shutil.disk_usage(part.path.parent).free
    if total - have > free:
        raise UserError(f"{url} has {total} bytes, and {part.path.parent} has room for {free}: make room")


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}") from None
