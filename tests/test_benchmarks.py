"""The measuring scripts run anywhere, with next to no work; what they measure then says nothing."""

import importlib
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Runs a script, and returns the table that it wrote."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def run(script: str, *arguments: str, name: str) -> dict:
        monkeypatch.setattr(sys, "argv", [script, *arguments, "--smoke", str(tmp_path)])
        importlib.import_module(script).main()
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["rows"]
        assert all(len(row) == len(found["columns"]) for row in found["rows"])
        lines = (tmp_path / f"{name}.md").read_text().splitlines()
        assert [line for line in lines if line.startswith("| ")][2:] == [f"| {' | '.join(r)} |" for r in found["rows"]]
        return found

    folder = Path.cwd()
    yield run
    os.chdir(folder)
    torch.set_deterministic_debug_mode("default")


def column(table: dict, name: str) -> list[str]:
    return [row[table["columns"].index(name)] for row in table["rows"]]


def test_training_speed(table):
    found = table("training_speed", name="training_speed")
    assert column(found, "precision") == ["float32", "bf16"]
    assert all(math.isfinite(float(rate.replace(",", ""))) for rate in column(found, "images a second"))


def test_scaling(table, monkeypatch):
    monkeypatch.setenv("LETHE_WORKERS", "2")  # restored afterwards
    found = table("scaling", name="scaling")
    assert column(found, "what")[:3] == ["1 workers, 2 trainings", "2 workers, 2 trainings", "128 images, one epoch"]


@pytest.mark.parametrize("piece", ["throughput", "stacking"])
def test_rates(piece, table):
    found = table("gpu", piece, name=f"gpu_{piece}")
    rates = column(found, next(name for name in found["columns"] if name.startswith("images a second")))
    assert all(math.isfinite(float(rate.replace(",", ""))) for rate in rates)


def test_determinism_is_checked_in_another_process(table):
    found = table("gpu", "determinism", name="gpu_determinism")
    assert column(found, "another process alike") == column(found, "launched as replayed") == ["yes"]


def test_accuracy(table):
    found = table("gpu", "accuracy", name="gpu_accuracy")
    assert 0 < float(column(found, "test accuracy")[0].strip("%")) < 100


def test_methods_go_on_with_what_is_missing(table, tmp_path):
    table("gpu", "methods", "--work", str(tmp_path), "--methods", "retrain", name="gpu_methods")
    kept = json.loads((tmp_path / "seconds.json").read_text())
    found = table("gpu", "methods", "--work", str(tmp_path), "--methods", "retrain", "head_mask", name="gpu_methods")
    assert json.loads((tmp_path / "seconds.json").read_text())["retrain"] == kept["retrain"]
    assert column(found, "method") == ["retrain", "retrain", "head_mask"]
    assert column(found, "of retraining")[:2] == ["100%", "100%"]
    assert column(found, "failed") == ["", "", ""]


def test_the_floor_of_a_product_counts_its_operations_and_its_bytes(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    limits = importlib.import_module("limits")
    work = limits.Work(limits.Limits(product=1e3, copy=1e6))
    a, b = torch.zeros(2, 3), torch.zeros(3, 5)
    with work:
        (a @ b).t()[0].add_(1)
    assert work.operations == 2 * 2 * 3 * 5
    assert work.bytes == 4 * (6 + 15 + 10) + 4 * (2 + 2)
    assert work.seconds == pytest.approx(60 / 1e3 + 4 * 4 / 1e6)
