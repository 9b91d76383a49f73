import hashlib
import http.server
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from miniature_librispeech import pack_part, write_librispeech

from espnet_kd.corpora import librispeech
from espnet_kd.corpora.librispeech import MD5, find_parts, read_md5sums
from espnet_kd.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_librispeech(tmp_path / "corpora" / "LibriSpeech", {"dev-clean": 4, "dev-other": 2})


@pytest.fixture
def archives(tmp_path: Path, root: Path) -> Path:
    """A directory with dev-clean.tar.gz, dev-other.tar.gz and md5sum.txt."""
    directory = tmp_path / "archives"
    packed = [pack_part(root, part, directory) for part in ("dev-clean", "dev-other")]
    lines = (f"{hashlib.md5(p.read_bytes()).hexdigest()}  {p.name}\n" for p in packed)
    (directory / "md5sum.txt").write_text("".join(lines))
    return directory


@pytest.fixture
def mirror(archives: Path) -> Iterator[str]:
    """The address of a server that has the archives."""
    handler = partial(QuietHandler, directory=str(archives))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("up", [0, 1])
def test_the_directory_itself_or_the_one_above(tmp_path: Path, root: Path, up: int) -> None:
    source = root.parent if up else root
    assert find_parts(str(source), [], tmp_path) == {
        "dev-clean": root / "dev-clean",
        "dev-other": root / "dev-other",
    }
    assert find_parts(str(source), ["dev-other"], tmp_path) == {"dev-other": root / "dev-other"}


def test_another_tree_is_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UserError, match="is not LibriSpeech: there is no dev-clean or other part in it"):
        find_parts(str(root / "dev-clean"), [], tmp_path)
    with pytest.raises(UserError, match="nowhere is not a directory, a file or a URL"):
        find_parts("nowhere", [], tmp_path)


def test_an_archive_is_unpacked_once(tmp_path: Path, archives: Path, capsys: pytest.CaptureFixture) -> None:
    def found() -> Path:
        return find_parts(str(archives / "dev-clean.tar.gz"), [], tmp_path / "dl")["dev-clean"]

    inode = found().stat().st_ino
    assert found().is_relative_to(tmp_path / "dl") and found().stat().st_ino == inode
    assert "which is not the published one" in capsys.readouterr().err


def test_a_directory_of_archives(tmp_path: Path, archives: Path) -> None:
    command = [str(archives), str(tmp_path / "data"), "--downloads", str(tmp_path / "dl")]
    librispeech.main([*command, "--parts", "dev-other"])
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["dev_other"]
    assert [p.name[:9] for p in (tmp_path / "dl").iterdir()] == ["dev-other"]
    librispeech.main(command)
    assert {p.name for p in (tmp_path / "data").iterdir()} == {"dev_clean", "dev_other", "dev"}


def test_a_mirror_is_asked_once(tmp_path: Path, archives: Path, mirror: str) -> None:
    command = [mirror, str(tmp_path / "data"), "--parts", "dev", "--downloads", str(tmp_path / "dl")]
    command += ["--md5sums", str(archives / "md5sum.txt")]
    librispeech.main(command)
    assert {p.name for p in (tmp_path / "data").iterdir()} == {"dev_clean", "dev_other", "dev"}
    for file in [*archives.glob("*.tar.gz"), *(tmp_path / "dl").glob("*.tar.gz")]:
        file.unlink()  # what is unpacked is enough
    librispeech.main(command)


def test_a_mirrors_archive_must_be_the_published_one(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(UserError, match=f"has MD5 [0-9a-f]*, not {MD5['dev-clean']}"):
        find_parts(mirror, ["dev-clean"], tmp_path / "dl")
    assert not list((tmp_path / "dl").iterdir())


def test_a_mirror_without_the_part(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(UserError, match="test-clean.tar.gz: the server answers 404"):
        find_parts(mirror, ["test-clean"], tmp_path / "dl")
    with pytest.raises(UserError, match="has no checksum of test-clean.tar.gz"):
        find_parts(mirror, ["test-clean"], tmp_path / "dl", {"dev-clean": "0" * 32})


def test_a_damaged_archive_leaves_nothing(tmp_path: Path, archives: Path) -> None:
    archive = archives / "dev-clean.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(UserError, match="dev-clean.tar.gz is damaged or not an archive"):
        find_parts(str(archive), [], tmp_path / "dl")
    assert not list((tmp_path / "dl").iterdir())


@pytest.mark.parametrize("name", ["../evil.flac", "LibriSpeech/../../evil.flac", "{root}/evil.flac"])
def test_an_archive_cannot_write_outside(tmp_path: Path, root: Path, name: str) -> None:
    archive = tmp_path / "dev-clean.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root, "LibriSpeech")
        tar.addfile(tarfile.TarInfo(name.format(root=tmp_path)), io.BytesIO())
    with pytest.raises(UserError, match="leads outside the archive: nothing was unpacked"):
        find_parts(str(archive), [], tmp_path / "dl")
    assert not list((tmp_path / "dl").iterdir()) and not list(tmp_path.rglob("evil.flac"))


def test_an_archive_of_something_else(tmp_path: Path, root: Path) -> None:
    shutil.rmtree(root / "dev-clean")
    shutil.rmtree(root / "dev-other")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as tar:
        tar.add(root, "LibriSpeech")
    with pytest.raises(UserError, match="other.tar.gz is not LibriSpeech"):
        find_parts(str(tmp_path / "other.tar.gz"), [], tmp_path / "dl")


@pytest.mark.parametrize("line", ["0123  dev-clean.tar.gz", "g" * 32 + "  a.tar.gz", "0" * 32])
def test_a_malformed_list_of_checksums(tmp_path: Path, line: str) -> None:
    (tmp_path / "sums").write_text(f"{'0' * 32} *dev-clean.tar.gz\n{line}\n")
    with pytest.raises(UserError, match="sums:2: expected `<MD5>  <file>`"):
        read_md5sums(tmp_path / "sums")
    with pytest.raises(UserError, match="none does not exist"):
        read_md5sums(tmp_path / "none")


def test_a_list_of_checksums(tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(f"{'AB' * 16} *dev-clean.tar.gz\n{'0' * 32}  md5sum.txt\n")
    assert read_md5sums(tmp_path / "sums") == {"dev-clean": "ab" * 16, "md5sum.txt": "0" * 32}
