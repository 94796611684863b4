import errno
import os
import struct

import numpy as np
import pytest

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


@pytest.mark.parametrize("reader", [store.read_tensors, store.read_json])
def test_missing_and_damaged_files_are_named_with_the_remedy(tmp_path, reader):
    with pytest.raises(BadInput, match=r"gone: no such file.*dvc repro"):
        reader(tmp_path / "gone")
    (tmp_path / "bad").write_bytes(b"{ not json, nor safetensors")
    with pytest.raises(BadInput, match=r"bad: damaged.*dvc repro"):
        reader(tmp_path / "bad")
