"""Downloads that resume, and are whole under their final name."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

from espnet_kd.errors import UserError

BLOCK = 1 << 16
ATTEMPTS = 3
TIMEOUT_SECONDS = 60
MD5_DIGITS = 32


def download(url: str, directory: str | Path, checksum: str | None = None, pause: float = 2.0) -> Path:
    """Fetch ``url`` into ``directory``; a file that is there already is not fetched again.

    What has arrived lies in ``<name>.part`` until all has, and a later call goes on from there.

    Args:
        url: http or https.
        checksum: that the file must have, hexadecimal; MD5 if it has 32 digits, otherwise SHA-256.
        pause: seconds before another attempt.

    Raises:
        UserError: the server refuses, the connection keeps breaking, or the checksum is another.
    """
    parts = urllib.parse.urlsplit(url)
    name = Path(urllib.parse.unquote(parts.path)).name
    if parts.scheme not in ("http", "https") or not name:
        raise UserError(f"{url}: only http:// and https:// addresses of files can be downloaded")
    target = Path(directory) / name
    if target.exists():
        verify(target, checksum)
        return target
    part = target.with_name(f"{name}.part")
    _make_directory(part.parent)
    print(f"downloading {url} to {target}", flush=True)
    _fetch_all(url, part, pause)
    try:
        verify(part, checksum)
    except UserError:
        part.unlink()  # a resumed mixture of two versions would never become right
        raise
    os.replace(part, target)
    return target


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


def _fetch_all(url: str, part: Path, pause: float) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if _fetch(url, part):
                return
            reason = "the connection was closed early"
        except urllib.error.HTTPError as e:
            raise UserError(
                f"{url}: the server says {e.code} {e.reason}: give the path of the file instead"
            ) from None
        except (OSError, http.client.HTTPException) as e:
            reason = str(getattr(e, "reason", e)) or type(e).__name__
        if attempt < ATTEMPTS:
            time.sleep(pause)
    size = part.stat().st_size if part.exists() else 0
    raise UserError(f"{url}: {reason}; {size} bytes are kept, the same command goes on from there")


def _fetch(url: str, part: Path) -> bool:
    """One connection; returns whether ``part`` is now complete."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "espnet-kd", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as r:
            resumed = r.status == 206 and r.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            return _receive(r, part, have if resumed else 0)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not have:
            raise
        if e.headers.get("Content-Range") == f"bytes */{have}":
            return True
        part.unlink()
        return False


def _receive(response: http.client.HTTPResponse, part: Path, have: int) -> bool:
    """Append to ``part`` from byte ``have`` on (a server may ignore Range: then from the start)."""
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    with part.open("r+b" if have else "wb") as f:
        f.seek(have)
        while block := response.read(BLOCK):
            f.write(block)
            have += len(block)
        f.flush()
        os.fsync(f.fileno())
    return total is None or have >= total


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}") from None
