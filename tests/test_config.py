"""Bad input: each mistake gets its key, what is allowed, exit status 1 and no traceback."""

import sys

import pytest

from bench.__main__ import main
from bench.config import Benchmark, Recipe, load
from bench.errors import BadInput
from bench.requests import kinds, row_kinds, rows

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

RANDOM = "random: {kind: random, fraction: 0.1}"
POISON = "    corruption: {{kind: badnets, size: 3, {}}}"
MISTAKES = {
    "method": ("  salun: {", "  salum: {", ["methods", "unknown method 'salum'", "did you mean 'salun'?"]),
    "dataset": ("dataset: digits", "dataset: digit", ["benchmarks.digits-resnet.dataset", "did you mean 'digits'?"]),
    "architecture": ("resnet-small", "resnet", ["benchmarks.digits-resnet.architecture", "timm/NAME"]),
    "size of one that has its own": (
        "dataset: digits",
        "dataset: {name: digits, size: 8}",
        ["benchmarks.digits-resnet.dataset.size: is wanted for a data set of image files, and for no other"],
    ),
    "no size": ("dataset: digits", "dataset: imagefolder", ["benchmarks.digits-resnet.dataset.size: is wanted"]),
    "key of a data set": (
        "dataset: digits",
        "dataset: {name: digits, train_image: 9}",
        ["benchmarks.digits-resnet.dataset.train_image: unknown key", "did you mean 'train_images'?"],
    ),
    "pretrained by nothing": (
        "architecture: resnet-small",
        "architecture: {name: timm/resnet18, pretrained: {on: imagenet}}",
        ["benchmarks.digits-resnet.architecture.pretrained: give either `tag` or `file`"],
    ),
    "file without its checksum": (
        "architecture: resnet-small",
        "architecture: {name: timm/resnet18, pretrained: {on: imagenet, file: x.safetensors}}",
        ["architecture.pretrained: a file needs its `sha256`"],
    ),
    "checksum": (
        "architecture: resnet-small",
        "architecture: {name: timm/resnet18, pretrained: {on: imagenet, tag: a1, sha256: abc}}",
        ["architecture.pretrained.sha256: the first 8 to 64 hexadecimal digits"],
    ),
    "milestone after the end": (
        "lr: 1e-1}",
        "lr: 1e-1, schedule: multistep, milestones: [1]}",
        ["training: milestone 1 is not before the last of 1 epochs"],
    ),
    "warm-up to the end": ("lr: 1e-1}", "lr: 1e-1, warmup: 1}", ["training: a warm-up of 1 of 1 epochs"]),
    "weights of nothing known": (
        "architecture: resnet-small",
        "architecture: {name: timm/resnet18, pretrained: {on: imagenet-1k, tag: a1, sha256: abcdef01}}",
        ["architecture.pretrained.on: unknown dataset 'imagenet-1k'; did you mean 'imagenet'?; 'other' if it is none"],
    ),
    "mean alone": (
        "architecture: resnet-small",
        "architecture: {name: timm/resnet18, pretrained: {on: other, tag: a1, mean: [0.5]}}",
        ["architecture.pretrained: `mean` and `std` go together"],
    ),
    "milestones": ("lr: 1e-1}", "lr: 1e-1, milestones: [2]}", ["training", "`schedule: multistep` go together"]),
    "no milestones": ("lr: 1e-1}", "lr: 1e-1, schedule: multistep}", ["training: milestones and"]),
    "two warm-ups": ("lr: 1e-1}", "lr: 1e-1, schedule: one-cycle, warmup: 1}", ["training: one-cycle has a warm-up"]),
    "retrain left out": ("    seeds:", "    skip: {retrain: slow}\n    seeds:", ["skip: retrain cannot be left out"]),
    "unknown method left out": ("    seeds:", "    skip: {salum: x}\n    seeds:", ["skip", "did you mean 'salun'?"]),
    "hyperparameter": ("salun: {lr: 0.1", "salun: {learning_rate: 0.1", ["methods.salun.learning_rate", "epochs"]),
    "near hyperparameter": ("salun: {lr: 0.1", "salun: {mask_shar: 0.1", ["did you mean 'mask_share'?"]),
    "its value": ("salun: {lr: 0.1", "salun: {lr: -1", ["methods.salun.lr", "greater than 0", "-1"]),
    "override": ("{lr: 0.2}", "{epochs: 0}", ["methods.salun.benchmarks.digits-resnet.epochs"]),
    "override's benchmark": ("{digits-resnet: {lr", "{digits: {lr", ["methods.salun.benchmarks", "'digits-resnet'"]),
    "class": ("targets: [0, 3]", "targets: [0, 10]", ["requests", "class 10", "0 to 9"]),
    "repeated class": ("targets: [0, 3]", "targets: [3, 3]", ["targets", "duplicates: 3"]),
    "fraction of one": ("fraction: 0.1", "fraction: 1.0", ["requests.random", "fraction", "less than 1"]),
    "fraction of none": ("fraction: 0.1", "fraction: 0", ["requests.random", "fraction", "greater than 0"]),
    "request": (
        "kind: random",
        "kind: some",
        ["requests.random.kind", "unknown kind 'some'", "class, classes, confusion, entangled"],
    ),
    "request of no kind": ("kind: random, ", "", ["requests.random.kind: field required", "random, memorized"]),
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
    "two lists of a name": (
        RANDOM,
        "many: {kind: classes, targets: [[1, 2], [2, 1]]}",
        ["many.targets", "duplicates: (1, 2)"],
    ),
    "class of a list": (RANDOM, "many: {kind: classes, targets: [[1], [1, 10]]}", ["many.targets: class 10", "0 to 9"]),
    "level": (
        RANDOM,
        "m: {kind: memorized, level: hard, size: 3}",
        ["requests.m.level: unknown level 'hard'", "high, low, medium, mixed"],
    ),
    "near level": (RANDOM, "m: {kind: entangled, level: mix, size: 3}", ["requests.m.level", "did you mean 'mixed'?"]),
    "score": (
        RANDOM,
        "m: {kind: memorized, level: low, size: 3, score: entropy}",
        ["requests.m.score: unknown score 'entropy'", "confidence, curvature, holdout, memorization"],
    ),
    "size": (RANDOM, "m: {kind: memorized, level: low, size: 0}", ["requests.m.size", "greater than or equal to 1"]),
    "memorized without scores": (
        RANDOM,
        "m: {kind: memorized, level: low, size: 3}",
        ["requests: m.kind: memorized needs the benchmark's `memorization: {models: ...}`"],
    ),
    "entangled without scores": (
        RANDOM,
        "s: {kind: sequential, steps: [{kind: entangled, level: low, size: 3}]}",
        ["requests: s.steps.0.kind: entangled needs the benchmark's `memorization"],
    ),
    "subclass of none": (
        RANDOM,
        "part: {kind: subclass, targets: [1]}",
        ["requests: part.kind: digits has no subclasses", "digits-parity"],
    ),
    "class of the parities": (
        "dataset: digits",
        "dataset: digits-parity",
        ["requests: class.targets: class 3 is not in digits-parity, whose classes are 0 to 1"],
    ),
    "class of a step": (
        RANDOM,
        "s: {kind: sequential, steps: [{kind: class, targets: [1]}, {kind: class, targets: [12]}]}",
        ["requests: s.steps.1.targets: class 12 is not in digits, whose classes are 0 to 9"],
    ),
    "key of a step": (
        RANDOM,
        "s: {kind: sequential, steps: [{kind: class, targets: [1], target: 2}]}",
        ["requests.s.steps.0.target: unknown key 'target'", "did you mean 'targets'?"],
    ),
    "sequence in a sequence": (
        RANDOM,
        "s: {kind: sequential, steps: [{kind: sequential, steps: []}]}",
        [
            "requests.s.steps.0.kind: unknown kind 'sequential'",
            "class, classes, confusion, entangled, memorized, poison, random, subclass",
        ],
    ),
    "key of a sequence": (
        RANDOM,
        "s: {kind: sequential, steps: [{kind: class, targets: [1]}], step: 2}",
        ["requests.s.step: unknown key 'step'", "did you mean 'steps'?"],
    ),
    "key of the models": (
        "    seeds",
        "    memorization: {models: 2, model: 1}\n    seeds",
        ["memorization.model: unknown key", "did you mean 'models'?"],
    ),
    "poison of nothing": (
        RANDOM,
        "p: {kind: poison, discovered: 0.5}",
        ["requests: p.kind: poison needs the benchmark's `corruption: {kind: badnets or blended or label-noise, ...}`"],
    ),
    "confusion of a poison": (
        RANDOM,
        f"p: {{kind: confusion}}\n{POISON.format('target: 1')}",
        ["requests: p.kind: confusion needs the benchmark's `corruption: {kind: confusion, ...}`"],
    ),
    "discovered": (RANDOM, "p: {kind: poison, discovered: 1.1}", ["requests.p.discovered", "less than or equal to 1"]),
    "target of a poison": (
        "    seeds:",
        f"{POISON.format('target: 10')}\n    seeds:",
        ["benchmarks.digits-resnet.corruption: class 10 is not in digits, whose classes are 0 to 9"],
    ),
    "key of a corruption": (
        "    seeds:",
        f"{POISON.format('target: 1, patches: 2')}\n    seeds:",
        ["benchmarks.digits-resnet.corruption.patches: unknown key", "did you mean 'patch'?"],
    ),
    "corruption": (
        "    seeds:",
        "    corruption: {kind: badnet, size: 3}\n    seeds:",
        ["benchmarks.digits-resnet.corruption.kind: unknown kind 'badnet'; did you mean 'badnets'?"],
    ),
    "confused with itself": (
        "    seeds:",
        "    corruption: {kind: confusion, size: 4, classes: [3, 3]}\n    seeds:",
        ["benchmarks.digits-resnet.corruption.classes: duplicates: 3"],
    ),
    "odd number of the confused": (
        "    seeds:",
        "    corruption: {kind: confusion, size: 5, classes: [3, 8]}\n    seeds:",
        ["benchmarks.digits-resnet.corruption.size", "multiple of 2"],
    ),
    "no steps": (RANDOM, "s: {kind: sequential, steps: []}", ["requests.s.steps", "at least 1"]),
    "models": (
        "    seeds",
        "    memorization: {models: 1}\n    seeds",
        ["memorization.models", "greater than or equal to 2"],
    ),
    "recipe of the models": (
        "    seeds",
        "    memorization: {models: 2, training: {epoch: 1, batch_size: 2, lr: 1}}\n    seeds",
        ["memorization.training.epoch", "did you mean 'epochs'?"],
    ),
    "file of a variant": (
        "  kodge: {}",
        "  salun-slow: {method: salum, lr: 0.1}",
        ["methods.salun-slow.method: unknown method 'salum'", "did you mean 'salun'?", "methods/<name>.py"],
    ),
    "variant of no file": ("  kodge: {}", "  salun-slow: {lr: 0.1}", ["methods: unknown", "`method: <name>`"]),
    "hyperparameter of a variant": (
        "  kodge: {}",
        "  salun-slow: {method: salun, lr: 0}",
        ["methods.salun-slow.lr", "greater than 0"],
    ),
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


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["train"], "audit.json"),
        (["unlearn", "kodge"], "samples.safetensors"),
        (["attack", "kodge"], "method.json"),
    ],
)
def test_stage_without_its_inputs_names_the_file_and_the_remedy(folder, capsys, command, file):
    write(folder, GOOD)
    assert main([command[0], "digits-resnet", *command[1:]]) == 1
    message = capsys.readouterr().err
    assert f"{file}: no such file" in message
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


VARIANTS = """  salun-wide: {method: salun, mask_share: 0.9, benchmarks: {digits-resnet: {lr: 0.3}}}
  kodge: {}"""


def test_variants_run_the_file_that_they_name_with_hyperparameters_of_their_own(folder, capsys):
    write(folder, GOOD.replace("  kodge: {}", VARIANTS))
    assert main(["check"]) == 0
    assert "salun-wide" in capsys.readouterr().out
    params = load()
    assert {name: params.file(name) for name in params.methods} == {
        "original": "original",
        "retrain": "retrain",
        "salun": "salun",
        "salun-wide": "salun",
        "kodge": "kodge",
    }
    assert params.hyperparameters("salun-wide", "digits-resnet") == {"mask_share": 0.9, "lr": 0.3}
    assert params.hyperparameters("salun-wide", "another") == {"mask_share": 0.9}
    assert params.hyperparameters("salun", "digits-resnet") == {"lr": 0.2}


def test_a_section_that_is_wrong_is_not_called_missing_too(folder, capsys):
    text = GOOD.replace(RANDOM, "m: {kind: memorized, level: low, size: 3}")
    write(folder, text.replace("    seeds", "    memorization: {models: 1}\n    seeds"))
    assert main(["check"]) == 1
    message = capsys.readouterr().err
    assert "memorization.models" in message
    assert len(message.strip().splitlines()) == 1


def test_rows_are_the_mean_of_like_targets_and_keep_lists_and_steps_apart(folder):
    requests = """      class: {kind: class, targets: [0, 3]}
      many: {kind: classes, targets: [[0], [0, 3]]}
      random: {kind: random, fraction: 0.1}
      s: {kind: sequential, steps: [{kind: class, targets: [4, 1]}, {kind: random, fraction: 0.1}]}
"""
    first, last = GOOD.index("      class:"), GOOD.index("    seeds")
    write(folder, GOOD[:first] + requests + GOOD[last:])
    found = load().benchmark("digits-resnet").requests
    assert {name: rows(name, request) for name, request in found.items()} == {
        "class": {"class": ["class-0", "class-3"]},
        "many": {"many-0": ["many-0"], "many-0-3": ["many-0-3"]},
        "random": {"random": ["random"]},
        "s": {"s-1": ["s-1"], "s-2": ["s-2"], "s-3": ["s-3"]},
    }
    assert kinds(found["s"]) == {"class", "random"}
    assert row_kinds("s", found["s"]) == {"s-1": {"class"}, "s-2": {"class"}, "s-3": {"class", "random"}}
    assert row_kinds("class", found["class"]) == {"class": {"class"}}
    assert kinds(found["many"]) == {"classes"}


def test_a_benchmark_takes_the_hyperparameters_of_the_one_that_it_names(folder):
    like = GOOD[GOOD.index("  digits-resnet:") : GOOD.index("methods:")].replace("digits-resnet", "other", 1)
    like = like.replace("    dataset:", "    hyperparameters: digits-resnet\n    dataset:", 1)
    own = "methods:\n  original: {}\n  retrain: {}\n  salun: {lr: 0.5, benchmarks: {digits-resnet: {lr: 0.25}}}\n"
    own += "  finetune: {benchmarks: {digits-resnet: {lr: 0.25}, other: {epochs: 2}}}\n"
    text = GOOD[: GOOD.index("methods:")] + like + own
    write(folder, text)
    params = load()
    assert params.hyperparameters("salun", "other") == {"lr": 0.25}
    assert params.hyperparameters("finetune", "other") == {"epochs": 2}
    write(folder, text.replace("hyperparameters: digits-resnet", "hyperparameters: digits-renset"))
    with pytest.raises(BadInput, match=r"benchmarks\.other\.hyperparameters: unknown benchmark 'digits-renset'"):
        load()


@pytest.mark.parametrize("name", ["prepared", "class-3"])
def test_a_request_may_not_take_a_folder_or_a_row_that_is_in_use(folder, name):
    write(folder, GOOD.replace("      random: {", f"      {name}: {{"))
    with pytest.raises(BadInput, match=f"two targets are called '{name}'"):
        load()


def test_numbers_are_read_as_dvc_reads_them(folder):
    write(folder, GOOD)
    assert load().benchmark("digits-resnet").training.lr == 0.1  # written 1e-1


def test_unknown_benchmark_raises(folder):
    write(folder, GOOD)
    with pytest.raises(BadInput, match="digits-resnet"):
        load().benchmark("digits-renset")


def test_the_shipped_parameters_are_good():
    params = load()
    assert "digits-resnet" in params.run
    assert isinstance(params.benchmark("digits-resnet"), Benchmark)
    assert isinstance(params.benchmark("digits-resnet").training, Recipe)


@pytest.mark.parametrize(
    ("dataset", "on", "oracle"),
    [
        ("cifar10", "imagenet", True),
        ("cifar10", "other", True),
        ("cifar10", "cifar10", False),
        ("cifar20", "cifar100", False),
        ("tiny-imagenet", "imagenet", False),
        ("digits-parity", "digits", False),
    ],
)
def test_weights_that_have_seen_the_images_leave_nothing_to_retrain_from(dataset, on, oracle):
    benchmark = Benchmark(
        dataset=dataset,
        validation=0.1,
        architecture={"name": "timm/resnet18", "pretrained": {"on": on, "tag": "a1_in1k", "sha256": "abcdef01"}},
        training={"epochs": 1, "batch_size": 2, "lr": 0.1},
        requests={"random": {"kind": "random", "fraction": 0.1}},
        seeds=[0],
    )
    assert benchmark.oracle == oracle
    assert bool(benchmark.left_out("retrain")) != oracle
    assert not benchmark.left_out("original")
