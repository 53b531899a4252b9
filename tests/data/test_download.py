"""Fetching over a real HTTP server on this machine, and unpacking what tries to get out."""

from __future__ import annotations

import hashlib
import io
import socket
import subprocess
import sys
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lightning_audio.data import download
from lightning_audio.data.download import fetch, unpack
from lightning_audio.errors import UserError

CONTENT = np.random.default_rng(0).bytes(1_000_003)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT and remembers for each answer its status and how many bytes of the body it sent."""

    knows_ranges = True
    says_length = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, int]] = []
        self.cuts: list[int] = []  # after how many bytes the next answers end

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/folder/sounds.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"] if self.server.knows_ranges else None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(CONTENT):
            self.server.answers.append((416, 0))
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if wanted else 200)
        if self.server.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body[: self.server.cuts.pop(0)] if self.server.cuts else body
        self.server.answers.append((206 if wanted else 200, len(sent)))
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_fetch_gives_the_file_its_name_and_takes_it_from_the_folder_the_second_time(
    server: Server, tmp_path: Path
) -> None:
    path = fetch(server.url, SHA256, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "sounds.zip"
    assert path.read_bytes() == CONTENT
    assert fetch(server.url, SHA256, path.parent) == path
    assert server.answers == [(200, len(CONTENT))]
    assert not list(path.parent.glob("*.part"))


def test_a_file_with_another_checksum_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"an older release")
    assert fetch(server.url, SHA256, tmp_path, name="data.zip").read_bytes() == CONTENT


def test_a_cut_transfer_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cuts = [400_000, 100_000]
    assert fetch(server.url, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.answers == [(200, 400_000), (206, 100_000), (206, 500_003)]


def test_what_an_earlier_run_received_is_not_transferred_again(server: Server, tmp_path: Path) -> None:
    server.cuts = [200_000] + [0] * (download.ATTEMPTS - 1)
    with pytest.raises(UserError, match="run the same command again"):
        fetch(server.url, SHA256, tmp_path)
    assert (tmp_path / "sounds.zip.part").stat().st_size == 200_000
    assert not (tmp_path / "sounds.zip").exists()
    server.answers.clear()
    assert fetch(server.url, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.answers == [(206, len(CONTENT) - 200_000)]


def test_a_server_that_ignores_ranges_makes_the_transfer_start_over(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.cuts = [400_000]
    assert fetch(server.url, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.answers == [(200, 400_000), (200, len(CONTENT))]


def test_a_cut_is_seen_by_the_expected_size_where_the_server_says_none(
    server: Server, tmp_path: Path
) -> None:
    server.says_length = False
    server.cuts = [400_000]
    assert fetch(server.url, SHA256, tmp_path, size=len(CONTENT)).read_bytes() == CONTENT
    assert server.answers == [(200, 400_000), (206, 600_003)]


def test_a_whole_part_is_used_without_the_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sounds.zip.part").write_bytes(CONTENT)
    assert fetch(server.url, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.answers == []


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sounds.zip.part").write_bytes(bytes(len(CONTENT) + 1))
    assert fetch(server.url, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.answers == [(416, 0), (200, len(CONTENT))]


def test_a_wrong_checksum_is_named_and_nothing_stays(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"SHA-256 {SHA256}, expected {'0' * 64}"):
        fetch(server.url, "0" * 64, tmp_path)
    assert not list(tmp_path.glob("sounds.zip*[!k]"))  # at most the lock


def test_two_threads_transfer_once(server: Server, tmp_path: Path) -> None:
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(server.url, SHA256, tmp_path))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / "sounds.zip"] * 2
    assert server.answers == [(200, len(CONTENT))]


def test_no_server_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        with pytest.raises(UserError, match="cannot be reached"):
            fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/a.zip", SHA256, tmp_path)


def test_an_error_of_the_server_is_one_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send_error(503))
    with pytest.raises(UserError, match="answered 503"):
        fetch(server.url, SHA256, tmp_path)


def test_a_full_disk_is_refused_before_the_transfer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil.disk_usage(tmp_path)._replace(free=999_999)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="1 MB free and 1 MB are needed"):
        fetch(server.url, SHA256, tmp_path)
    assert not (tmp_path / "sounds.zip.part").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be read or written"):
        fetch("http://127.0.0.1/a.zip", SHA256, tmp_path / "file" / "cache")


def make_zip(path: Path, names: list[str], kind: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind if name == names[-1] else 0) << 16
            archive.writestr(info, f"content of {name}")
    return path


def make_tar(path: Path, names: list[str], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            content = f"content of {name}".encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == names[-1] and kind != tarfile.REGTYPE:
                info.type, info.linkname, info.size = kind, "/etc/passwd", 0
            archive.addfile(info, io.BytesIO(content))
    return path


NAMES = ["release/audio/a.wav", "./release/audio/deep/b.wav", "release/meta/table.csv", "release/LICENSE"]


@pytest.mark.parametrize(("make", "suffix"), [(make_zip, "zip"), (make_tar, "tar.gz")])
def test_unpack_takes_the_members_and_cuts_the_leading_folder(
    make: Callable[..., Path], suffix: str, tmp_path: Path
) -> None:
    archive = make(tmp_path / f"release.{suffix}", NAMES)
    folder = unpack(archive, tmp_path / "data" / "Release", members=("audio", "LICENSE"), strip=1)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"audio/a.wav", "audio/deep/b.wav", "LICENSE"}
    assert (folder / "audio" / "a.wav").read_text() == "content of release/audio/a.wav"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["Release"]


def test_unpack_takes_everything_and_leaves_what_is_there(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "release.tar.gz", NAMES)
    (tmp_path / "data").mkdir()  # an empty folder is no obstacle
    folder = unpack(archive, tmp_path / "data")
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 4
    (folder / "release" / "LICENSE").write_text("changed")
    unpack(archive, folder)
    assert (folder / "release" / "LICENSE").read_text() == "changed"


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../x", "leads out"),
        ("release/../../x", "leads out"),
        ("..\\x", "leads out"),
        ("/tmp/x", "absolute"),
        ("C:/x", "absolute"),
    ],
)
def test_unpack_refuses_a_member_that_leads_out(
    make: Callable[..., Path], name: str, reason: str, tmp_path: Path
) -> None:
    archive = make(tmp_path / "archive", ["good.wav", name])
    with pytest.raises(UserError, match=reason) as refused:
        unpack(archive, tmp_path / "inner" / "release")
    assert repr(name) in str(refused.value)
    assert not [path for path in tmp_path.rglob("*") if path.name in ("x", "good.wav", "release")]


@pytest.mark.parametrize(
    ("make", "kind", "reason"),
    [
        (make_zip, 0o120777, "is a link"),
        (make_zip, 0o020666, "is a device"),
        (make_tar, tarfile.SYMTYPE, "is a link"),
        (make_tar, tarfile.LNKTYPE, "is a link"),
        (make_tar, tarfile.CHRTYPE, "is a device"),
        (make_tar, tarfile.FIFOTYPE, "is a device"),
    ],
)
def test_unpack_refuses_links_and_devices(
    make: Callable[..., Path], kind: int | bytes, reason: str, tmp_path: Path
) -> None:
    archive = make(tmp_path / "archive", ["good.wav", "bad"], kind)
    with pytest.raises(UserError, match=f"'bad' {reason}"):
        unpack(archive, tmp_path / "release")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["archive"]


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_unpack_refuses_a_damaged_archive(make: Callable[..., Path], tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", NAMES).read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="half is damaged"):
        unpack(tmp_path / "half", tmp_path / "release")
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_unpack_refuses_a_tar_whose_checksum_is_wrong(kind: str, tmp_path: Path) -> None:
    archive = tmp_path / f"release.tar.{kind}"
    with tarfile.open(archive, f"w:{kind}") as tar:  # type: ignore[call-overload]
        info = tarfile.TarInfo("a.wav")
        info.size = 50_000
        tar.addfile(info, io.BytesIO(CONTENT[:50_000]))
    whole = bytearray(archive.read_bytes())
    assert (unpack(archive, tmp_path / "whole") / "a.wav").read_bytes() == CONTENT[:50_000]
    # In gzip the last 8 bytes are CRC-32 and length; in bzip2 and xz checksums stand near the end too.
    whole[{"gz": -8, "bz2": -4, "xz": -24}[kind]] ^= 1
    archive.write_bytes(whole)
    with pytest.raises(UserError, match="is damaged"):
        unpack(archive, tmp_path / "release")
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tar, at: tar[:at], "empty header"),
        (lambda tar, at: tar[:at] + b"\1" + tar[at + 1 :], "bad checksum"),
        (lambda tar, at: tar[:at] + bytes(512) + tar[at + 512 :], "something follows its end"),
    ],
)
def test_a_tar_that_seems_to_end_before_its_last_member_is_refused(
    change: Callable[[bytes, int], bytes], reason: str, tmp_path: Path
) -> None:
    """Damage to the header of the second of two members, for which tarfile itself takes the first alone."""
    archive = tmp_path / "release.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("a.wav", "b.wav"):
            info = tarfile.TarInfo(name)
            info.size = 512
            tar.addfile(info, io.BytesIO(b"\1" * 512))
    archive.write_bytes(change(archive.read_bytes(), 1024))
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["a.wav"]
    with pytest.raises(UserError, match=rf"release\.tar is damaged \({reason}\): remove it"):
        unpack(archive, tmp_path / "release")
    assert not (tmp_path / "release").exists()


def twice(path: Path, names: list[str]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a second member of the same name
        return make_zip(path, names) if path.suffix == ".zip" else make_tar(path, names)


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize(
    "second", ["release/a.wav", "./release/a.wav", "Release/A.WAV", "release/\ufb01.wav"]
)
def test_unpack_refuses_a_second_member_of_a_name(second: str, suffix: str, tmp_path: Path) -> None:
    """Also where another file system would take both for one."""
    first = "release/FI.wav" if "\ufb01" in second else "release/a.wav"
    archive = twice(tmp_path / f"archive{suffix}", [first, "release/b.wav", second])
    with pytest.raises(UserError, match=r"'\S+' has the name of another one"):
        unpack(archive, tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_folders_that_are_named_twice_are_taken(tmp_path: Path) -> None:
    archive = twice(tmp_path / "archive.zip", ["release/", "release/a.wav", "release/", "Release/b.wav"])
    folder = unpack(archive, tmp_path / "data")
    assert sorted(path.name for path in folder.rglob("*.wav")) == ["a.wav", "b.wav"]


def bomb(path: Path, size: int) -> Path:
    """An archive of zeros, which compress a thousand times."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.wav", bytes(size))
        return path
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("a.wav")
        info.size = size
        tar.addfile(info, io.BytesIO(bytes(size)))
    return path


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_unpack_refuses_what_grows_far_beyond_its_archive(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ALWAYS_BYTES", 100_000)
    small = bomb(tmp_path / f"small{suffix}", 100_000)
    assert (unpack(small, tmp_path / "small") / "a.wav").stat().st_size == 100_000
    large = bomb(tmp_path / f"large{suffix}", 3_000_000)
    with pytest.raises(UserError, match="makes more than 100 times of what was packed"):
        unpack(large, tmp_path / "large")
    assert not [path for path in tmp_path.iterdir() if path.name in ("large", "large.unpacking")]


def test_unpack_refuses_a_member_that_lies_about_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says counts against the bound, so it must not give more than it says."""
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.wav", bytes(500_000))
    size = (500_000).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(UserError, match="is damaged"):
        unpack(archive, tmp_path / "release")
    member = download._Member("a.wav", "file", 10, lambda: io.BytesIO(bytes(500_000)), 0)
    with pytest.raises(zipfile.BadZipFile, match="longer than it says"):
        download._write(member, tmp_path / "a.wav")
    assert (tmp_path / "a.wav").stat().st_size <= 11


@pytest.mark.parametrize("name", ["a\nb.wav", "a\x1b[2J.wav", "a\x7f.wav"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_unpack_refuses_names_that_a_terminal_would_obey(
    make: Callable[..., Path], name: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="has control characters in its name") as refused:
        unpack(make(tmp_path / "archive", [name]), tmp_path / "release")
    assert name not in str(refused.value)


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    "name", ["../../canary", "../canary/x", "{folder}/canary", "//server/share/x", "C:x"]
)
def test_no_member_reaches_a_file_outside(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("alive")
    archive = make(tmp_path / "archive", ["a.wav", name.format(folder=tmp_path)])
    with pytest.raises(UserError, match="is not safe to unpack"):
        unpack(archive, tmp_path / "inner" / "release")
    assert (tmp_path / "canary").read_text() == "alive"
    assert list((tmp_path / "inner").iterdir()) == []


def test_unpack_refuses_an_archive_behind_a_password(tmp_path: Path) -> None:
    content = make_zip(tmp_path / "archive", ["a.wav"]).read_bytes()
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        flags = content.index(magic) + place
        content = content[:flags] + b"\x01" + content[flags + 1 :]
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged .*password"):
        unpack(tmp_path / "archive", tmp_path / "release")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "/etc/passwd", "data:,a"])
def test_only_the_web_is_fetched_from(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no address of a web server"):
        fetch(url, SHA256, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unpack_refuses_an_archive_without_the_members(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive", NAMES)
    with pytest.raises(UserError, match="holds none"):
        unpack(archive, tmp_path / "release", members=("audio",))  # not stripped
    assert not (tmp_path / "release").exists()


KILLED_AT_THE_SECOND_FILE = """
import os, sys
from pathlib import Path
from lightning_audio.data import download

write, written = download._write, []

def write_or_die(member, path):
    if written:
        os._exit(9)
    written.append(path)
    write(member, path)

download._write = write_or_die
download.unpack(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_unpack_leaves_no_folder_and_the_next_one_is_whole(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive.zip", NAMES)
    release = tmp_path / "release"
    command = [sys.executable, "-c", KILLED_AT_THE_SECOND_FILE, str(archive), str(release)]
    assert subprocess.run(command, check=False).returncode == 9
    assert not release.exists()
    assert (tmp_path / "release.unpacking" / NAMES[0]).is_file()
    unpack(archive, release)
    assert len([path for path in release.rglob("*") if path.is_file()]) == 4
    assert not (tmp_path / "release.unpacking").exists()


def test_a_release_is_fetched_once_and_leaves_what_else_is_there(server: Server, tmp_path: Path) -> None:
    root, cache = tmp_path / "data" / "Release", tmp_path / "cache"
    archive = make_tar(cache.parent / "release.tar.gz", NAMES)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    release = download.Release(server.url, digest, 1, "Release", "audio", "r.tar.gz", ("audio",), strip=1)
    cache.mkdir()
    archive.rename(cache / "r.tar.gz")
    root.mkdir(parents=True)
    (root / "notes.txt").touch()
    with pytest.raises(UserError, match="without its audio: move it away"):
        release.fetch(root, cache)
    (root / "notes.txt").unlink()
    release.fetch(root, cache)
    release.fetch(root, cache)
    assert release.find(root, cache) == root
    assert [path.name for path in root.iterdir()] == ["audio"]
    assert release.find(tmp_path / "elsewhere", cache) == tmp_path / "elsewhere"
    root.rename(cache / "Release")
    assert release.find(tmp_path / "elsewhere", cache) == cache / "Release"
    assert server.answers == []
