"""Where the parts of LibriSpeech come from: a tree, archives, or a server."""

from collections.abc import Collection, Mapping
from pathlib import Path

from espnet_kd.corpora.archive import extract
from espnet_kd.corpora.download import download, file_md5
from espnet_kd.corpora.tally import warn
from espnet_kd.errors import UserError
from espnet_kd.files import read_lines

OPENSLR = "https://www.openslr.org/resources/12"
TOP = "LibriSpeech"
SUFFIX = ".tar.gz"
# MD5 of <part>.tar.gz, from the publisher's md5sum.txt in the same place
MD5 = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}


def locate(
    source: str, wanted: Collection[str], downloads: Path, md5: Mapping[str, str] = MD5
) -> dict[str, Path]:
    """The directory of every part that is wanted, or without a wish of every part that there is.

    Args:
        source: the directory LibriSpeech, the one above it, one that has ``<part>.tar.gz``,
            such an archive, or the address of a directory on a server that has them.
        wanted: names of parts.
        downloads: where archives are kept and unpacked, by their checksum, so once and never stale.
        md5: checksum of each part's archive; one that is downloaded must have it.

    Raises:
        UserError: nothing of LibriSpeech is there, or a part that is wanted is not.
    """
    if "://" in source:
        return {part: _fetch(source, part, downloads, md5) for part in MD5 if not wanted or part in wanted}
    path = Path(source)
    if path.is_dir():
        found = parts_in(path)
        for part in MD5:
            archive = path / f"{part}{SUFFIX}"
            if part not in found and (not wanted or part in wanted) and archive.is_file():
                found |= parts_in(_unpack(archive, downloads, md5))
    elif path.is_file():
        found = parts_in(_unpack(path, downloads, md5))
    else:
        raise UserError(f"{source} is neither a directory nor a file nor a URL")
    if not found:
        raise UserError(
            f"{source} is not LibriSpeech: there is no dev-clean or other part in it, nor in {source}/{TOP}"
        )
    if missing := [part for part in MD5 if part in wanted and part not in found]:
        raise UserError(
            f"{source} has {' '.join(found)}, but not {' '.join(missing)}: get them from {OPENSLR}"
        )
    return {part: found[part] for part in MD5 if part in found and (not wanted or part in wanted)}


def parts_in(directory: Path) -> dict[str, Path]:
    """Parts in the directory LibriSpeech or in one above it."""
    return {
        part: root / part for root in (directory / TOP, directory) for part in MD5 if (root / part).is_dir()
    }


def read_md5sums(path: Path) -> dict[str, str]:
    """Checksums by part from lines ``<MD5>  <part>.tar.gz``, as ``md5sum`` writes them.

    Raises:
        UserError: the file cannot be read or has another line.
    """
    md5: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        digits, _, name = line.partition(" ")
        if len(digits) != 32 or not set(digits.lower()) <= set("0123456789abcdef") or not name.strip():
            raise UserError(f"{path}:{number}: expected `<MD5>  <file>`, not {line!r}")
        md5[name.strip().removeprefix("*").removesuffix(SUFFIX)] = digits.lower()
    return md5


def _fetch(url: str, part: str, downloads: Path, md5: Mapping[str, str]) -> Path:
    if part not in md5:
        raise UserError(f"the checksums that were given have none for {part}{SUFFIX}: add it")
    directory = _unpacked(downloads, part, md5[part])
    if not directory.is_dir():
        extract(download(f"{url.rstrip('/')}/{part}{SUFFIX}", downloads, md5[part]), directory)
    found = parts_in(directory)
    if part not in found:
        raise UserError(f"{url.rstrip('/')}/{part}{SUFFIX} has no {TOP}/{part} in it: give another address")
    return found[part]


def _unpack(archive: Path, downloads: Path, md5: Mapping[str, str]) -> Path:
    part = archive.name.removesuffix(SUFFIX)
    found = file_md5(archive)
    if found != md5.get(part):
        warn(f"{archive} has MD5 {found}, which is not the published one")
    directory = _unpacked(downloads, part, found)
    if not directory.is_dir():
        print(f"unpacking {archive} as {directory}", flush=True)
        extract(archive, directory)
    return directory


def _unpacked(downloads: Path, name: str, md5: str) -> Path:
    return downloads / f"{name}-{md5[:12]}"
