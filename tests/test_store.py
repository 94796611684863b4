import errno
import os
import shutil
import struct
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import torch

from bench import store
from bench.errors import BadInput


def test_tensors_have_no_metadata_and_do_not_depend_on_the_order_of_names(tmp_path):
    a, b = np.arange(6.0).reshape(2, 3), np.arange(4)
    store.write_tensors(tmp_path / "x", {"a": a, "b": b})
    store.write_tensors(tmp_path / "y", {"b": b, "a": a})
    raw = (tmp_path / "x").read_bytes()
    assert raw == (tmp_path / "y").read_bytes()
    header = raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]]
    assert b"__metadata__" not in header
    np.testing.assert_array_equal(store.read_tensors(tmp_path / "x")["a"], a)


def test_views_that_are_not_contiguous_are_written_right(tmp_path):
    a = np.arange(12.0).reshape(3, 4).T
    store.write_tensors(tmp_path / "x", {"a": a})
    np.testing.assert_array_equal(store.read_tensors(tmp_path / "x")["a"], a)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "file.json"
    store.write_text(path, "old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(BadInput, match=r"file\.json: cannot be written: No space left"):
        store.write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.json"]


def test_stopped_midway_leaves_nothing(tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        store.write_text(tmp_path / "file", "text")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        store.write_json(tmp_path / "x.json", {"value": float("nan")})


@pytest.mark.parametrize("reader", [store.read_tensors, store.map_tensors, store.read_json])
def test_missing_and_damaged_files_are_named_with_the_remedy(tmp_path, reader):
    with pytest.raises(BadInput, match=r"gone: no such file.*dvc repro"):
        reader(tmp_path / "gone")
    (tmp_path / "bad").write_bytes(b"{ not json, nor safetensors")
    with pytest.raises(BadInput, match=r"bad: damaged.*dvc repro"):
        reader(tmp_path / "bad")


TENSORS = {
    "z_images": np.random.default_rng(0).integers(0, 256, (7, 3, 5, 5), dtype=np.uint8),
    "b_labels": np.arange(7) - 3,
    "a_labels": np.arange(2),
    "mean": np.array([0.1, 0.2, 0.3], np.float32),
    "a_images": np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3),
}
LAYOUT = {
    name: ({"uint8": "U8", "int64": "I64", "float32": "F32"}[value.dtype.name], value.shape)
    for name, value in TENSORS.items()
}


def write_in_pieces(path: Path, layout: store.Layout = LAYOUT, step: int = 2) -> None:
    """Pieces of all tensors in turn, the last tensors first."""
    with store.writing_tensors(path, layout) as append:
        for start in range(0, 8, step):
            for name in reversed(TENSORS):
                append(name, TENSORS[name][start : start + step])


@pytest.mark.parametrize("step", [1, 3, 8])
def test_a_file_written_in_pieces_is_the_one_that_safetensors_writes(tmp_path, step):
    write_in_pieces(tmp_path / "x", step=step)
    assert (tmp_path / "x").read_bytes() == safetensors.numpy.save(TENSORS)


@pytest.mark.parametrize(
    ("name", "entry", "words"),
    [
        ("mean", ("F32", (4,)), "not whole: mean"),
        ("mean", ("F32", (2,)), "mean: float32 .1,. does not go into float32 .2,."),
        ("mean", ("I64", (3,)), "mean: float32 .2,. does not go into int64 .3,."),
        ("z_images", ("U8", (7, 3, 5, 1)), "z_images: uint8 .2, 3, 5, 5. does not go into uint8 .7, 3, 5, 1."),
    ],
)
def test_pieces_that_do_not_make_up_the_tensors_leave_no_file(tmp_path, name, entry, words):
    with pytest.raises(ValueError, match=words):
        write_in_pieces(tmp_path / "x", LAYOUT | {name: entry})
    assert os.listdir(tmp_path) == []


def test_a_disk_without_the_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with pytest.raises(BadInput, match=r"x: takes 60\.0 GB, and the disk has 1\.0 GB left"):
        write_in_pieces(tmp_path / "x", {"images": ("U8", (6 * 10**4, 10**3, 10**3))})
    assert os.listdir(tmp_path) == []


def test_mapped_tensors_are_the_ones_written_and_the_file_stays_as_it_is(tmp_path):
    store.write_tensors(tmp_path / "x", TENSORS)
    before = (tmp_path / "x").read_bytes()
    mapped = store.map_tensors(tmp_path / "x")
    assert mapped.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert mapped[name].dtype == value.dtype
        np.testing.assert_array_equal(mapped[name], value)
    with warnings.catch_warnings(action="error"):  # torch warns of arrays that cannot be written
        torch.from_numpy(mapped["z_images"]).zero_()
    assert (mapped["z_images"] == 0).all()
    assert (tmp_path / "x").read_bytes() == before


def test_mapped_tensors_cannot_be_written_where_memory_for_that_is_refused(tmp_path, monkeypatch):
    """As for a file larger than the machine's memory."""
    store.write_tensors(tmp_path / "x", TENSORS)
    memmap = np.memmap

    def refusing(path: Path, dtype: type, mode: str) -> np.memmap:
        if mode == "c":
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return memmap(path, dtype, mode)

    monkeypatch.setattr(np, "memmap", refusing)
    mapped = store.map_tensors(tmp_path / "x")
    assert not mapped["z_images"].flags.writeable
    np.testing.assert_array_equal(mapped["z_images"], TENSORS["z_images"])


@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: raw[:50], lambda raw: b""]
)
def test_a_file_of_another_length_is_not_mapped(tmp_path, change):
    (tmp_path / "x").write_bytes(change(safetensors.numpy.save(TENSORS)))
    with pytest.raises(BadInput, match=r"x: damaged.*dvc repro"):
        store.map_tensors(tmp_path / "x")
