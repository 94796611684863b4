"""Downloads, against a server on the loopback device."""

import errno
import gzip
import hashlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bench import download, store
from bench.download import File
from bench.errors import BadInput
from tests.loopback import Loopback, serving

CONTENT = np.random.default_rng(0).bytes(5 * download.CHUNK + 123)
HALF = len(CONTENT) // 2


@pytest.fixture
def server(monkeypatch) -> Iterator[Loopback]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as loopback:
        yield loopback


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def file(*urls: str, name: str = "set/a.bin", content: bytes = CONTENT, **more: str) -> File:
    return File(name, md5(content), urls, **more)


def fetch(folder: Path, *files: File, **options: float) -> None:
    download.fetch("a-set", files, folder, **{"stall": 5.0, "pause": 0.01} | options)


def refusal(folder: Path, *files: File, **options: float) -> str:
    with pytest.raises(BadInput) as caught:
        fetch(folder, *files, **options)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


def test_a_complete_download_has_the_bytes_and_leaves_nothing_else(server, tmp_path):
    fetch(tmp_path, file(server.serve("a", CONTENT)))
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["set/a.bin"]
    assert server.requests == [("/a", None)]


def test_a_file_that_is_there_is_checked_and_never_asked_for(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    fetch(tmp_path, file(server.serve("a", CONTENT), name="a.bin"))
    assert server.requests == []
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_without_write_permission_serves_when_all_is_there(tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    tmp_path.chmod(0o500)
    try:
        fetch(tmp_path, file(name="a.bin"))
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("content", [CONTENT[:-1], b"", bytes(len(CONTENT))], ids=["truncated", "empty", "other"])
def test_wrong_files_that_are_there_are_all_named_and_none_is_replaced(server, tmp_path, content):
    files = [file(server.serve(n, CONTENT), name=n) for n in ("a", "b", "c", "d")]
    for name, there in (("a", CONTENT), ("b", content), ("c", content)):
        (tmp_path / name).write_bytes(there)
    message = refusal(tmp_path, *files)
    for name in ("b", "c"):
        assert f"{tmp_path / name}: MD5 {md5(content)} ({len(content):,} bytes), expected {md5(CONTENT)}" in message
        assert (tmp_path / name).read_bytes() == content
    assert f"{tmp_path / 'a'}:" not in message
    assert "delete what is wrong and run again" in message
    assert server.requests == []


def test_an_archive_that_was_packed_again_is_known_by_what_it_holds(tmp_path):
    published = File("a.gz", md5(b"the publisher's packing"), (), unpacked=md5(CONTENT))
    for packed in (gzip.compress(CONTENT, 1), gzip.compress(CONTENT, 9, mtime=5)):
        (tmp_path / "a.gz").write_bytes(packed)
        fetch(tmp_path, published)
    for packed in (gzip.compress(CONTENT[1:]), gzip.compress(CONTENT)[:-20], b"no archive", b""):
        (tmp_path / "a.gz").write_bytes(packed)
        assert f"a.gz: MD5 {md5(packed)}" in refusal(tmp_path, published)


def test_a_download_that_breaks_off_goes_on_from_there(server, tmp_path):
    fetch(tmp_path, file(server.serve("a", CONTENT, "truncated", "truncated")))
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT
    starts = [int(wanted[6:-1]) if wanted else 0 for _, wanted in server.requests]
    assert starts[0] == 0 < starts[1] <= HALF < starts[2]


def test_what_has_come_is_kept_for_the_next_run(server, tmp_path):
    wanted = file(server.serve("a", CONTENT, "truncated", "truncated"))
    message = refusal(tmp_path, wanted, attempts=2)
    assert f"{server.url}/a broke off" in message
    assert names(tmp_path) == ["set/a.bin.part"]
    had = (tmp_path / "set/a.bin.part").stat().st_size
    fetch(tmp_path, wanted)
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT
    assert server.requests[-1] == ("/a", f"bytes={had}-")


@pytest.mark.parametrize("fault", ["wrong", "shorter"])
def test_wrong_bytes_are_thrown_away_and_named(server, tmp_path, fault):
    message = refusal(tmp_path, file(server.serve("a", CONTENT, fault, fault)))
    sent = bytes(255 - b for b in CONTENT) if fault == "wrong" else CONTENT[:HALF]
    assert (
        f"{server.url}/a gave a wrong file: MD5 {md5(sent)} ({len(sent):,} bytes), expected {md5(CONTENT)}" in message
    )
    assert names(tmp_path) == []
    assert len(server.requests) == 1, "the same address would give the same again"


def test_the_next_address_is_tried(server, tmp_path):
    first, second = server.serve("a", CONTENT, "wrong"), server.serve("b", CONTENT)
    fetch(tmp_path, file(f"{server.url}/none", first, second))
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/none", "/a", "/b"]


def test_404_is_told_with_what_to_put_where(server, tmp_path):
    url = f"{server.url}/none"
    message = refusal(tmp_path, file(url))
    assert f"{url} answered 404 Not Found" in message
    assert f"{tmp_path} (or name another folder in LETHE_DATA)" in message
    assert f"set/a.bin, MD5 {md5(CONTENT)}, from {url}" in message
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    fetch(tmp_path, file(server.serve("a", CONTENT, 503, 429)))
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["stalled", "silent"])
def test_a_stalled_download_is_given_up_and_resumed(server, tmp_path, fault):
    fetch(tmp_path, file(server.serve("a", CONTENT, fault)), stall=0.3)
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT
    assert len(server.requests) == 2
    assert (server.requests[1][1] is None) == (fault == "silent")


def test_a_server_that_only_stalls_is_named(server, tmp_path):
    url = server.serve("a", CONTENT, *["stalled"] * 2)
    assert f"{url} stalled: nothing came for 0.2 seconds" in refusal(tmp_path, file(url), stall=0.2, attempts=2)


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    fetch(tmp_path, file(server.serve("a", CONTENT, "truncated", "no ranges")))
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize("part", [bytes(100), bytes(len(CONTENT)), bytes(len(CONTENT) + 1)], ids=len)
def test_a_damaged_part_costs_a_fresh_start(server, tmp_path, part):
    (tmp_path / "a.bin.part").write_bytes(part)
    fetch(tmp_path, file(server.serve("a", CONTENT), name="a.bin"))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests == [("/a", f"bytes={len(part)}-"), ("/a", None)]


def test_a_part_that_is_the_whole_becomes_the_file(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    fetch(tmp_path, file(server.serve("a", CONTENT), name="a.bin"))
    assert names(tmp_path) == ["a.bin"]


def no_name(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("reason", ["refused", "no name"])
def test_offline_one_message_lists_all_that_is_missing(tmp_path, monkeypatch, reason):
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as closed:  # bound, not listening
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        if reason == "no name":
            monkeypatch.setattr(socket, "getaddrinfo", no_name)
            host = "data.example"
        (tmp_path / "there").write_bytes(CONTENT)
        files = [file(f"http://{host}/{n}", f"http://{host}/mirror/{n}", name=n) for n in ("there", "a", "b")]
        message = refusal(tmp_path, *files, pause=60)
    for name in ("a", "b"):
        assert f"{name}, MD5 {md5(CONTENT)}, from http://{host}/{name} or http://{host}/mirror/{name}" in message
    assert "there," not in message
    assert f"http://{host}/a cannot be reached: " in message
    assert {"refused": "Connection refused", "no name": "Failed to resolve"}[reason] in message
    assert names(tmp_path) == ["there"]


def test_two_processes_download_a_file_once(server, tmp_path):
    wanted = file(server.serve("a", CONTENT))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(fetch, tmp_path, wanted) for _ in range(4)]:
            done.result()
    assert server.requests == [("/a", None)]


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    message = refusal(tmp_path / "file/folder", file(server.serve("a", CONTENT)))
    assert str(tmp_path / "file") in message
    assert "name another folder in LETHE_DATA" in message


def test_a_full_disk_is_told_as_one(server, tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = refusal(tmp_path, file(server.serve("a", CONTENT)))
    assert f"{tmp_path}: No space left on device" in message
    assert not (tmp_path / "set/a.bin").exists()


def test_the_folder_is_lethe_data_or_in_the_cache(monkeypatch):
    monkeypatch.setenv("LETHE_DATA", "~/sets")
    assert store.data_folder() == Path.home() / "sets"
    monkeypatch.delenv("LETHE_DATA")
    assert store.data_folder() == Path.home() / ".cache/lethe"
