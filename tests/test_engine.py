"""What the GPU's ways of taking a step do, as far as a CPU can show it: here a recording does its work again."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import engine
from bench.config import Recipe
from bench.problem import Meter
from bench.training import Samples, View, cross_entropy, predict, shuffled, train
from tests.conftest import blobs, build

SGD = Recipe(epochs=2, batch_size=24, lr=0.05, nesterov=True, schedule="one-cycle")  # 160 samples: a last batch of 16
ADAM = Recipe(epochs=2, batch_size=24, lr=0.01, optimizer="adam", weight_decay=0, schedule="cosine")


def everything(precision="float32") -> View:
    return View(Samples(*blobs(160), precision=precision), torch.arange(160), shuffled(160, ("k",)), ("k",))


def state(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, state(a), state(b)))


@pytest.fixture
def recorded(monkeypatch) -> list[str]:
    """Trainings record on the CPU; the list grows by a line a recording and a replay."""
    done = []

    def record(work):
        done.append("recorded")
        (optimizer,) = (c.cell_contents.optimizer for c in work.__closure__ if hasattr(c.cell_contents, "optimizer"))
        rates = [group["lr"] for group in optimizer.param_groups]

        def replay():
            done.append("replayed")
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate  # a graph knows no other than the memory that it was recorded with
            work()

        return replay

    monkeypatch.setattr(engine, "ACCELERATOR", "cpu")
    monkeypatch.setattr(engine, "WORTH_RECORDING", 5)
    monkeypatch.setattr(engine, "record", record)
    torch.set_deterministic_debug_mode("error")
    yield done
    torch.set_deterministic_debug_mode("default")


@pytest.mark.parametrize("recipe", [SGD, ADAM])
@pytest.mark.parametrize("masked", [False, True])
def test_replayed_steps_leave_the_bits_of_eager_ones(recipe, masked, recorded, monkeypatch):
    start = build(0)
    mask = {name: torch.rand(p.shape) < 0.5 for name, p in start.named_parameters()} if masked else None
    replayed = train(start, everything(), cross_entropy, recipe, mask)
    # of 2 x 7 steps 12 are on full batches: three come before the recording, one replay is compared, then eight
    assert recorded == ["recorded"] + ["replayed"] * 9
    monkeypatch.setattr(engine, "WORTH_RECORDING", 1000)
    assert equal(replayed, train(start, everything(), cross_entropy, recipe, mask))
    assert len(recorded) == 10


def test_what_is_replayed_is_counted_as_if_it_were_not(recorded):
    meter = Meter()
    with meter.running():
        train(meter.attach(build(0)), everything(), cross_entropy, SGD)
    assert recorded
    assert meter.counts() == {"forward": 320, "backward": 320, "read": {}}


@pytest.mark.parametrize("fault", ["raises", "other bits"])
def test_a_recording_that_fails_is_not_used(fault, recorded, monkeypatch):
    start, recipe = build(0), SGD.model_copy(update={"batch_size": 32})
    with monkeypatch.context() as without:
        without.setattr(engine, "WORTH_RECORDING", 1000)
        expected = train(start, everything(), cross_entropy, recipe)

    def record(work):
        def replay():
            if fault == "raises":
                raise RuntimeError("operation not permitted when stream is capturing")
            work()
            work()

        return replay

    monkeypatch.setattr(engine, "record", record)
    with pytest.warns(UserWarning, match="no CUDA graph, training goes on without it"):
        found = train(start, everything(), cross_entropy, recipe)
    assert equal(found, expected)


def test_only_the_plain_loss_and_networks_that_nobody_watches_are_replayed(recorded):
    train(build(0), everything(), lambda model, batch: cross_entropy(model, batch), SGD)
    train(build(0), everything(), cross_entropy, SGD, after_step=lambda model, done: None)
    seen = []
    watched = build(0)
    watched.conv.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    train(watched, everything(), cross_entropy, SGD)
    assert not recorded
    assert sum(seen) == 320


def test_bfloat16_is_for_products_and_float32_for_the_rest():
    types: dict[str, set[torch.dtype]] = {}
    start = build(0)
    for name in ("conv", "hidden", "head"):

        def see(module, inputs, output, name=name):
            types.setdefault(name, set()).add(output.dtype)

        getattr(start, name).register_forward_hook(see)

    def loss(model: nn.Module, batch) -> torch.Tensor:
        types.setdefault("outputs", set()).add(model(batch.images).dtype)
        return cross_entropy(model, batch)

    trained = train(start, everything("bf16"), loss, SGD)
    assert types == {
        "conv": {torch.bfloat16},
        "hidden": {torch.bfloat16},
        "head": {torch.bfloat16},
        "outputs": {torch.float32},
    }
    assert {t.dtype for t in state(trained)} == {torch.float32, torch.int64}
    types.clear()
    assert predict(trained, everything("bf16")).dtype == torch.float32
    assert types["conv"] == {torch.float32}


def test_bfloat16_trains_about_as_float32_does_and_the_same_each_time():
    start = build(0)
    start.drop.p = 0.0
    low, again = (train(start, everything("bf16"), cross_entropy, SGD) for _ in range(2))
    assert equal(low, again)
    full = train(start, everything(), cross_entropy, SGD)
    assert not equal(low, full)
    for a, b in zip(state(low), state(full), strict=True):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0.05)
    labels = everything().labels
    right = [(predict(m, everything()).argmax(1) == labels).float().mean() for m in (low, full)]
    assert abs(right[0] - right[1]) < 0.03


COMPILED = SGD.model_copy(update={"compile": True})


def test_one_compilation_serves_all_networks_of_an_architecture(recorded, monkeypatch):
    from torch._dynamo.utils import counters

    compiled = torch.compile(engine._forward, dynamic=False, backend="aot_eager")
    monkeypatch.setattr(engine, "_compiled", lambda: compiled)
    before = counters["stats"]["unique_graphs"]
    for seed in range(3):
        start = build(seed)
        start.drop.p = 0.0
        found = train(start, everything(), cross_entropy, COMPILED)
        expected = train(start, everything(), cross_entropy, SGD)
        for a, b in zip(state(found), state(expected), strict=True):
            torch.testing.assert_close(a, b)
    assert counters["stats"]["unique_graphs"] - before == 1


def test_what_does_not_compile_is_an_error(recorded, monkeypatch):
    """Else results would depend on whether a machine has a compiler."""

    def broken(model, images):
        raise OSError("no compiler")

    monkeypatch.setattr(engine, "_compiled", lambda: broken)
    with pytest.raises(OSError, match="no compiler"):
        train(build(0), everything(), cross_entropy, COMPILED)


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True), ("bf16", True)])
def test_products_of_float32_on_a_gpu(precision, allowed):
    """TF32 only where it is asked for, and only inside."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    with engine.products(precision, torch.device("cuda")):
        assert [flag.allow_tf32 for flag in flags] == [allowed, allowed]
    assert [flag.allow_tf32 for flag in flags] == before
    with engine.products(precision, torch.device("cpu")):
        assert [flag.allow_tf32 for flag in flags] == before


def test_training_does_not_import_the_compiler():
    """It would take each worker process longer than a small training."""
    code = """
import sys, torch
from bench.config import Recipe
from bench.training import Samples, View, cross_entropy, predict, set_determinism, shuffled, train
set_determinism()
view = View(Samples(torch.randn(8, 3), torch.zeros(8).long()), torch.arange(8), shuffled(8, ("k",)), ("k",))
for optimizer in ("sgd", "adam", "adamw"):
    recipe = Recipe(epochs=2, batch_size=4, lr=0.1, optimizer=optimizer, schedule="one-cycle")
    predict(train(torch.nn.Linear(3, 2), view, cross_entropy, recipe), view)
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0
