"""Files of published data sets: checked where they lie, downloaded where they are missing.

A file that is there is never downloaded again, and a wrong one is never replaced. A download grows in
`NAME.part`, goes on from there after an interruption, and gets its name once its MD5 is the published one.
MD5 is what the publishers and torchvision state: it finds damage and wrong files.
"""

import gzip
import hashlib
import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from tqdm import tqdm

from bench.errors import BadInput
from bench.store import VARIABLE

CHUNK = 1 << 16
PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, *(s for s in HTTPStatus if s >= 500)}


@dataclass(frozen=True)
class File:
    """A published file: its path below the data folder, its checksum, and where it is, the best address first.

    The checksum is an MD5 or, without one, the first digits of a SHA-256. `unpacked` is the MD5 of what a `.gz`
    holds: one that was packed again holds the same.
    """

    name: str
    md5: str
    urls: tuple[str, ...]
    unpacked: str | None = None
    sha256: str = ""

    @property
    def checksum(self) -> str:
        return f"MD5 {self.md5}" if self.md5 else f"SHA-256 {self.sha256}"


class _Failure(Exception):
    """Why an address gave no file; `passing`: it may give one at another try."""

    def __init__(self, reason: str, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


def fetch(
    dataset: str, files: Sequence[File], folder: Path, *, stall: float = 30.0, attempts: int = 4, pause: float = 1.0
) -> None:
    """See to it that every file is in the folder and is the published one.

    An address is given up after `attempts` tries, between which a pause doubles from `pause` seconds, or at
    once where trying again is no use. `stall` is the number of seconds without a byte after which a
    connection is given up.

    Raises:
        BadInput: files that are there are wrong (all of them named), or one could not be downloaded (all
            missing ones listed with their checksums and addresses), or the folder cannot be written.
    """
    from filelock import FileLock

    try:
        if not _missing(dataset, files, folder):
            return
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # a second process waits, then finds the files there
            missing = _missing(dataset, files, folder)
            for done, file in enumerate(missing):
                if failures := _download(file, folder, stall, attempts, pause):
                    raise BadInput(_by_hand(dataset, missing[done:], folder, failures))
    except OSError as error:
        where = error.filename or folder
        raise BadInput(
            f"{dataset}: {where}: {error.strerror or error}; free or repair it, or name another folder in {VARIABLE}"
        ) from error


def _missing(dataset: str, files: Sequence[File], folder: Path) -> list[File]:
    """The files that are not there; `BadInput` if any that is there is wrong."""
    there = [file for file in files if (folder / file.name).exists()]
    wrong = [f"  {folder / file.name}: {fault}" for file in there if (fault := _fault(file, folder / file.name))]
    if wrong:
        advice = f"delete what is wrong and run again, or name another folder in {VARIABLE}"
        raise BadInput("\n".join([f"{dataset}: damaged, truncated or other files; {advice}:", *wrong]))
    return [file for file in files if file not in there]


def _fault(file: File, path: Path) -> str | None:
    """What is wrong with the bytes of a file; None if nothing is."""
    with path.open("rb") as raw:
        found = hashlib.file_digest(raw, _md5 if file.md5 else hashlib.sha256).hexdigest()
    if found.startswith(file.md5 or file.sha256):
        return None
    if file.unpacked is not None:
        try:
            with gzip.open(path) as content:
                if hashlib.file_digest(content, _md5).hexdigest() == file.unpacked:
                    return None
        except (gzip.BadGzipFile, EOFError, zlib.error):
            pass
    kind, expected = file.checksum.split()
    return f"{kind} {found} ({path.stat().st_size:,} bytes), expected {expected}"


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def _download(file: File, folder: Path, stall: float, attempts: int, pause: float) -> list[str]:
    """Download a file from the first address that gives it; if none does, why each did not."""
    target = folder / file.name
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in file.urls:
        for attempt in range(attempts):
            if attempt:
                time.sleep(pause * 2 ** (attempt - 1))
            resumed = part.exists()
            try:
                _receive(url, part, stall)
                if fault := _fault(file, part):
                    part.unlink()  # what was there before may be to blame, then a fresh start helps
                    raise _Failure(f"gave a wrong file: {fault}", passing=resumed)
                os.replace(part, target)
                return []
            except _Failure as failure:
                reason = failure
                if not failure.passing:
                    break
        failures.append(f"  {url} {reason}")
    return failures


def _receive(url: str, part: Path, stall: float) -> None:
    """Append to the part file what it lacks of the file at an address.

    Raises:
        _Failure: not all of it came.
    """
    import requests
    import urllib3

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=stall) as response:
            status = response.status_code
            if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return  # the part file is the whole, or too long: its checksum tells
            if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                raise _Failure(f"answered {status} {response.reason}", passing=status in PASSING)
            have = have if status == HTTPStatus.PARTIAL_CONTENT else 0  # a server without ranges sends it all
            length = response.headers.get("Content-Length", "")
            total = have + int(length) if length.isdecimal() else None
            size = f", {total:,} bytes" if total else ""
            print(f"downloading {url}{size}" + (f", from byte {have:,} on" if have else ""), flush=True)
            with (
                part.open("ab" if have else "wb") as out,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, leave=False, disable=None) as bar,
            ):
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    out.write(chunk)
                    bar.update(len(chunk))
                out.flush()
                os.fsync(out.fileno())
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        passing = not isinstance(error, requests.ConnectTimeout)
        raise _Failure(f"stalled: nothing came for {stall:g} seconds", passing) from error
    except requests.ConnectionError as error:
        cause = getattr(error.args[0], "reason", error) if error.args else error
        raise _Failure(f"cannot be reached: {cause}", passing=False) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Failure(f"broke off: {error}", passing=True) from error


def _by_hand(dataset: str, missing: Sequence[File], folder: Path, failures: Sequence[str]) -> str:
    """The message on files that could not be downloaded: what to put where."""
    return "\n".join(
        [
            f"{dataset}: {missing[0].name} could not be downloaded:",
            *failures,
            "Run again to go on from what has come. Without a network, put the missing files into",
            f"{folder} (or name another folder in {VARIABLE}):",
            *(f"  {file.name}, {file.checksum}, from {' or '.join(file.urls)}" for file in missing),
        ]
    )
