"""Bad input: each mistake gets its key, what is allowed, exit status 1 and no traceback."""

import sys

import pytest

from bench.__main__ import main
from bench.config import Benchmark, Recipe, load
from bench.errors import BadInput

GOOD = """
run: [digits-resnet]
benchmarks:
  digits-resnet:
    dataset: digits
    validation: 0.1
    architecture: resnet-small
    training: {epochs: 1, batch_size: 64, lr: 1e-1}
    requests:
      class: {kind: class, targets: [0, 3]}
      random: {kind: random, fraction: 0.1}
    seeds: [0, 1]
methods:
  original: {}
  retrain:
  salun: {lr: 0.1, benchmarks: {digits-resnet: {lr: 0.2}}}
  kodge: {}
"""

MISTAKES = {
    "method": ("  salun: {", "  salum: {", ["methods", "unknown method 'salum'", "did you mean 'salun'?"]),
    "dataset": ("dataset: digits", "dataset: digit", ["benchmarks.digits-resnet.dataset", "did you mean 'digits'?"]),
    "architecture": ("resnet-small", "resnet", ["benchmarks.digits-resnet.architecture", "'resnet-small'"]),
    "hyperparameter": ("salun: {lr: 0.1", "salun: {learning_rate: 0.1", ["methods.salun.learning_rate", "epochs"]),
    "near hyperparameter": ("salun: {lr: 0.1", "salun: {mask_shar: 0.1", ["did you mean 'mask_share'?"]),
    "its value": ("salun: {lr: 0.1", "salun: {lr: -1", ["methods.salun.lr", "greater than 0", "-1"]),
    "override": ("{lr: 0.2}", "{epochs: 0}", ["methods.salun.benchmarks.digits-resnet.epochs"]),
    "override's benchmark": ("{digits-resnet: {lr", "{digits: {lr", ["methods.salun.benchmarks", "'digits-resnet'"]),
    "class": ("targets: [0, 3]", "targets: [0, 10]", ["requests", "class 10", "0 to 9"]),
    "repeated class": ("targets: [0, 3]", "targets: [3, 3]", ["targets", "duplicates: 3"]),
    "fraction of one": ("fraction: 0.1", "fraction: 1.0", ["requests.random", "fraction", "less than 1"]),
    "fraction of none": ("fraction: 0.1", "fraction: 0", ["requests.random", "fraction", "greater than 0"]),
    "request": ("kind: random", "kind: some", ["requests.random", "'class', 'random'"]),
    "seeds": ("seeds: [0, 1]", "seeds: [1, 1]", ["benchmarks.digits-resnet.seeds", "duplicates: 1"]),
    "no seeds": ("seeds: [0, 1]", "seeds: []", ["benchmarks.digits-resnet.seeds", "at least 1"]),
    "recipe's key": (
        "epochs: 1, ",
        "epoch: 1, ",
        ["training.epoch", "did you mean 'epochs'?", "training.epochs: field required"],
    ),
    "benchmark": ("run: [digits-resnet]", "run: [digits-renset]", ["run", "did you mean 'digits-resnet'?"]),
    "top key": ("run:", "runs:", ["runs", "did you mean 'run'?"]),
    "not a name": ("run: [digits-resnet]", "run: [{s: 1}]", ["run.0", "valid string"]),
    "number for a name": ("methods:\n", "methods:\n  1: {}\n", ["methods.1"]),
    "nesterov": ("lr: 1e-1}", "lr: 1e-1, nesterov: true, momentum: 0}", ["training", "nesterov needs a momentum"]),
    "two targets of a name": ("      random: {", "      class-3: {", ["requests", "two targets are called 'class-3'"]),
    "no retrain": ("  retrain:\n", "", ["methods", "'retrain' is missing"]),
    "not YAML": ("seeds: [0, 1]", "seeds: [0, 1", ["params.yaml", "not valid YAML"]),
    "twice": ("  kodge: {}", "  kodge: {}\n  kodge: {}", ["not valid YAML", "kodge"]),
    "not a mapping": (GOOD, "- 1\n", ["must be a mapping"]),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, text):
    (folder / "params.yaml").write_text(text)


def test_good_parameters_pass(folder, capsys):
    write(folder, GOOD)
    assert main(["check"]) == 0
    assert "1 of 1 benchmarks" in capsys.readouterr().out


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named(folder, capsys, mistake):
    old, new, expected = MISTAKES[mistake]
    assert old in GOOD
    write(folder, GOOD.replace(old, new, 1))
    assert main(["check"]) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for words in ["params.yaml", *expected]:
        assert words in message


def test_all_mistakes_are_told_at_once(folder, capsys):
    text = GOOD
    for mistake in ("dataset", "seeds", "fraction of one", "override's benchmark"):
        old, new, _ = MISTAKES[mistake]
        text = text.replace(old, new, 1)
    write(folder, text)
    assert main(["check"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 4


def test_all_mistakes_in_hyperparameters_are_told_at_once(folder, capsys):
    write(
        folder, GOOD.replace("salun: {lr: 0.1", "salun: {lr: 0, epoch: 3").replace("kodge: {}", "kodge: {samples: 0}")
    )
    assert main(["check"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 3


def test_missing_file_says_where_to_go(folder, capsys):
    assert main(["check"]) == 1
    assert "root of the project" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["data", "nope"], ["train", "nope"], ["unlearn", "digits-resnet", "nope"]])
def test_unknown_names_on_the_command_line(folder, capsys, command):
    write(folder, GOOD)
    assert main(command) == 1
    assert "unknown" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train"], ["unlearn", "kodge"], ["attack", "kodge"]])
def test_stage_without_its_inputs_names_the_file_and_the_remedy(folder, capsys, command):
    write(folder, GOOD)
    assert main([command[0], "digits-resnet", *command[1:]]) == 1
    message = capsys.readouterr().err
    assert "samples.safetensors: no such file" in message
    assert "dvc repro" in message


def test_workers_must_be_positive(folder, capsys, monkeypatch):
    monkeypatch.setenv("LETHE_WORKERS", "1")  # restored afterwards
    write(folder, GOOD)
    main(["data", "digits-resnet"])
    assert main(["--workers", "0", "train", "digits-resnet"]) == 1
    assert "whole number from 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("validation: 0.1", "validation: 0.001", "validation: 0.001 does not split"),
        ("validation: 0.1", "validation: 0.999", "validation: 0.999 does not split"),
    ],
)
def test_a_validation_share_that_cannot_be_stratified(folder, capsys, old, new, words):
    write(folder, GOOD.replace(old, new))
    assert main(["data", "digits-resnet"]) == 1
    assert words in capsys.readouterr().err


def test_parameters_that_are_a_folder(folder, capsys):
    (folder / "params.yaml").mkdir()
    assert main(["check"]) == 1
    assert "params.yaml: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_package", "cannot be imported: ModuleNotFoundError"),
        ("x = 1", "must define one subclass of Method, and defines 0"),
        ("from methods.base import Method\nclass A(Method):\n    def unlearn(self, m, p): ...", "must state its card"),
    ],
)
def test_a_method_file_that_is_none(tmp_path, monkeypatch, text, words):
    import methods

    (tmp_path / "odd.py").write_text(text)
    monkeypatch.setattr(methods, "__path__", [str(tmp_path)])
    monkeypatch.setattr(methods, "method_files", lambda: ["odd"])
    monkeypatch.delitem(sys.modules, "methods.odd", raising=False)
    with pytest.raises(BadInput, match=words):
        methods.find("odd")


def test_overrides_win_on_their_benchmark_alone(folder):
    write(folder, GOOD)
    params = load()
    assert params.hyperparameters("salun", "digits-resnet") == {"lr": 0.2}
    assert params.hyperparameters("salun", "another") == {"lr": 0.1}
    assert params.hyperparameters("retrain", "digits-resnet") == {}


def test_numbers_are_read_as_dvc_reads_them(folder):
    write(folder, GOOD)
    assert load().benchmark("digits-resnet").training.lr == 0.1  # written 1e-1


def test_unknown_benchmark_raises(folder):
    write(folder, GOOD)
    with pytest.raises(BadInput, match="digits-resnet"):
        load().benchmark("digits-renset")


def test_the_shipped_parameters_are_good():
    params = load()
    assert params.run == ["digits-resnet"]
    assert isinstance(params.benchmark("digits-resnet"), Benchmark)
    assert isinstance(params.benchmark("digits-resnet").training, Recipe)
