"""Download files so that an interrupted download resumes and only a complete file has the final name."""

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
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
LONGEST_NAME = 200  # bytes; Linux allows 255, and suffixes are added
LARGEST = 100 << 30  # bytes; the largest archive of a supported corpus has 30 GB
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(?:\d{1,18}|\*)")


@dataclass(frozen=True)
class PartialFile:
    """The part of a file that has been downloaded.

    Attributes:
        path: ``<name>.part``.
        version: file beside it with the server's ETag or time of modification.
        checked: True if a checksum will detect a mixture of two versions.
        largest: bytes that the file may have.
    """

    path: Path
    version: Path
    checked: bool
    largest: int

    def size(self) -> int:
        """Return from which byte a download can resume; 0 if a mixture of two versions would go unnoticed."""
        known = self.path.exists() and (self.checked or self.version.exists())
        return self.path.stat().st_size if known else 0

    def remove(self) -> None:
        """Delete the part, so that the download starts from the beginning."""
        self.path.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)


def download(
    url: str, directory: str | Path, checksum: str | None = None, pause: float = 2.0, largest: int = LARGEST
) -> Path:
    """Download a file unless it is already there, and return its path.

    The data go to ``<name>.part`` first; a later call resumes there if the server still has the same version.

    Args:
        url: address that begins with http:// or https://.
        directory: where the file goes.
        checksum: expected checksum, hexadecimal; MD5 if it has 32 digits, otherwise SHA-256.
        pause: seconds between two attempts.
        largest: bytes that the file may have.

    Raises:
        UserError: the address is invalid, the server refuses or redirects to another protocol, the connection
            keeps breaking, or the file is too large or has another checksum.
    """
    target = Path(directory) / _file_name(url)
    if target.exists():
        verify(target, checksum)
        return target
    part = PartialFile(
        target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.version"),
        checksum is not None, largest,
    )  # fmt: skip
    _make_directory(target.parent)
    print(f"downloading {url} to {target}", flush=True)
    _fetch_all(url, part, pause)
    try:
        verify(part.path, checksum)
    except UserError:
        part.remove()  # a mixture of two versions would fail for ever
        raise
    part.version.unlink(missing_ok=True)
    os.replace(part.path, target)
    return target


def _file_name(url: str) -> str:
    """Return the file name in an address, and check both."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is not a number raises
    except ValueError as e:
        raise UserError(f"{url} is not an address: {e}") from None
    name = Path(urllib.parse.unquote(parts.path)).name
    if parts.scheme not in ("http", "https") or not host or not name:
        raise UserError(f"{url}: only http:// and https:// addresses of files can be downloaded")
    if has_odd_characters(url) or not url.isascii():
        raise UserError(f"{url} is not an address: write spaces and characters beyond ASCII as %20 and so on")
    if name.startswith(".") or has_odd_characters(name.replace(" ", "")) or len(name.encode()) > LONGEST_NAME:
        raise UserError(
            f"{url}: {name!r} cannot be the name of a file: download it yourself and give its path"
        )
    return name


def verify(path: Path, checksum: str | None) -> None:
    """Check the checksum of a file.

    Args:
        path: the file.
        checksum: MD5 if it has 32 digits, otherwise SHA-256; None accepts any file.

    Raises:
        UserError: the file has another checksum.
    """
    if checksum is None:
        return
    name, digest = ("MD5", file_md5) if len(checksum) == MD5_DIGITS else ("SHA-256", file_sha256)
    if (found := digest(path)) != checksum.lower():
        raise UserError(
            f"{path} has {name} {found}, not {checksum}: download it again or correct the checksum"
        )


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    return _digest(path, hashlib.sha256)


def file_md5(path: str | Path) -> str:
    """Return the MD5 of a file, hexadecimal, for publishers that give no better checksum."""
    return _digest(
        path, partial(hashlib.md5, usedforsecurity=False)
    )  # without this a FIPS system refuses MD5


def _digest(path: str | Path, algorithm: Any) -> str:
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, algorithm).hexdigest()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https only; urllib's own handler follows ftp, too."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise UserError(f"{req.full_url} redirects to {newurl}: only http:// and https:// are followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https, without file:// and ftp://."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler, _Redirects,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _fetch_all(url: str, part: PartialFile, pause: float) -> None:
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
                f"{url}: the server answers {e.code} {reason}: correct the address, or give the path of "
                "the file"
            ) from None
        except (OSError, http.client.HTTPException) as e:
            reason = str(getattr(e, "reason", e)) or type(e).__name__
        except ValueError as e:  # a redirect to an invalid address
            raise UserError(f"{url}: the server's answer cannot be read: {e}") from None
        if attempt < ATTEMPTS:
            time.sleep(pause)
    kept = f"{part.size()} bytes are kept: repeat the command to resume"
    raise UserError(f"{url}: {reason}; {kept if part.size() else 'repeat the command to try again'}")


def _fetch(url: str, part: PartialFile) -> bool:
    """Download over one connection; return True if the file is now complete."""
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
                    part.remove()  # another range than requested, or of another version
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
    """Return the version of the file in a form that the server accepts in If-Range; "" if it gives none."""
    tag = headers.get("ETag", "").strip()
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "").strip()
    return version if version.isprintable() and len(version) < 1000 else ""


def _receive(response: http.client.HTTPResponse, part: PartialFile, have: int, version: str) -> bool:
    """Write a response to the part from byte ``have`` on; return True if the file is complete."""
    length = (response.headers.get("Content-Length") or "").strip()
    if length and not re.fullmatch(r"[0-9]{1,18}", length):
        raise UserError(
            f"{response.url}: the server gives the invalid length {length[:40]!r}: use another address"
        )
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


def _check_room(url: str, part: PartialFile, total: int, have: int) -> None:
    if total > part.largest:
        part.remove()
        raise UserError(
            f"{url} has more than {part.largest / 1e9:.0f} GB: download it yourself and give its path"
        )
    free = shutil.disk_usage(part.path.parent).free
    if total - have > free:
        raise UserError(
            f"{url} has {total} bytes, but {part.path.parent} has only {free} free: free some space"
        )


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}") from None
