"""What a method is handed: the forget, retain and validation data, and all that it may draw from.

In the suite a stage makes the problem of a run; in a notebook `Problem.from_tensors` does.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from bench.checkpoint import Checkpoint
from bench.config import Recipe
from bench.flops import Pass, reported
from bench.seeds import Key, derive, torch_generator
from bench.training import Order, Samples, View, shuffled


def samples_in(output: Tensor) -> int:
    """Samples in a network's output [b, classes], and in one that torch.func.vmap holds for all samples at once."""
    outputs = output.shape[-1]
    while is_functorch_wrapped_tensor(output):
        output = get_unwrapped(output)
    return output.numel() // outputs


class Meter:
    """Counts, in samples, what a method reads and what passes forward and backward.

    Counting goes by hooks on the model, so it holds for whatever a method does, copies included, and
    ends when the meter closes. The counts depend on code and parameters
    alone, and on the machine only where a method's own steps do (where Kodge's search gives a candidate up).

    Attributes:
        forward, backward: samples that passed.
        passes: the same by the kind of pass, of which `bench.flops.of_pass` knows the FLOPs.
        beside: FLOPs of algebra beside the network's passes, of functions that are `bench.flops.counted`.
    """

    def __init__(self) -> None:
        self.forward = 0
        self.backward = 0
        self.passes: Counter[Pass] = Counter()
        self.beside = 0
        self.parameters: WeakKeyDictionary[nn.Module, list[nn.Parameter]] = WeakKeyDictionary()
        self.read: dict[str, Any] = defaultdict(int)
        self.open = False

    def attach(self, model: nn.Module) -> nn.Module:
        """Count this model's passes (and those of its copies) while the meter is open."""

        def passed(module: nn.Module, inputs: Any, output: Tensor) -> None:  # a closure: copied by reference
            if self.open:
                samples, shape = samples_in(output), tuple(inputs[0].shape[1:]) if inputs else ()
                self.forward += samples
                self.passes[Pass("forward", shape)] += samples
                if output.requires_grad:
                    trained = b"" if inputs and inputs[0].requires_grad else self._trained(module, output)
                    output.register_hook(partial(came_back, Pass("backward", shape, trained)))

        def came_back(kind: Pass, gradient: Tensor) -> None:
            samples = samples_in(gradient)
            self.backward += samples
            self.passes[kind] += samples

        passed.counts_samples = True  # type: ignore[attr-defined]  # `bench.engine` tells it what no call shows
        model.register_forward_hook(passed)
        return model

    def _trained(self, module: nn.Module, output: Tensor) -> bytes:
        """For each parameter 1 if it takes a gradient; b"" if none does."""
        if is_functorch_wrapped_tensor(output):  # torch.func has others in their place for this call
            parameters = list(module.parameters())
        elif (known := self.parameters.get(module)) is not None:  # listing them takes as long as a layer
            parameters = known
        else:
            parameters = self.parameters[module] = list(module.parameters())
        trained = bytes(p.requires_grad for p in parameters)
        return trained if any(trained) else b""

    def _spend(self, flops: int) -> None:
        self.beside += flops

    @contextmanager
    def running(self) -> Iterator["Meter"]:
        self.open = True
        try:
            with reported(self._spend):
                yield self
        finally:
            self.open = False

    def counts(self) -> dict[str, Any]:
        read = {name: int(count) for name, count in sorted(self.read.items()) if int(count)}
        return {"forward": self.forward, "backward": self.backward, "read": read}


class UndeclaredAccess(Exception):
    """A method read data that its card does not name."""


@dataclass(frozen=True)
class Problem:
    """One unlearning task: forget these samples, keep what the others taught.

    Attributes:
        views: 'forget', 'retain' and, if there is any, 'validation' data; use the properties. The
            problem that `prepare` is handed has 'train' in place of the first two.
        classes: how many outputs the network has.
        forgotten_classes: classes of which every training sample is to be forgotten; for `prepare`,
            all those that any target forgets.
        gone_classes: classes that earlier steps forgot whole: no data holds them, no label is drawn of them.
        recipe: how the original was trained; retraining follows it.
        build: seed -> a freshly initialised network; retraining needs it.
        key: what every draw of this run derives from.
        base_order: the order in which the original met the training samples.
        allowed: the data that the method's card names; reading other data raises UndeclaredAccess.
        notes: what a method wants recorded of its run (chosen hyperparameters), JSON values.
        artifacts: tensors that a method wants kept for analysis (WF-Net's gates); no metric reads them.
        scores: measures of each training sample by name, [n] (memorization and its proxies); use `score`.
        prepared: what the method's `prepare` returned for this seed; use `Method.shared`.
        checkpoint: where a training from scratch may keep its state, to go on from if the stage is stopped.
    """

    views: dict[str, View]
    classes: int
    forgotten_classes: tuple[int, ...]
    recipe: Recipe | None
    build: Callable[[int], nn.Module] | None
    key: Key
    base_order: Order
    allowed: frozenset[str] = frozenset({"forget", "retain", "validation", "scores"})
    meter: Meter = field(default_factory=Meter)
    notes: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Tensor] = field(default_factory=dict)
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    prepared: Any = None
    gone_classes: tuple[int, ...] = ()
    checkpoint: Checkpoint | None = None

    @property
    def train(self) -> View:
        """Forget and retain set together."""
        self._check("forget")
        self._check("retain")
        return self.views["train"] if "train" in self.views else self.forget | self.retain

    @property
    def forget(self) -> View:
        """The samples to be forgotten."""
        return self._view("forget")

    @property
    def retain(self) -> View:
        """The rest of the training set."""
        return self._view("retain")

    @property
    def validation(self) -> View:
        """Data held out of training, of all classes: hyperparameters are chosen on it."""
        return self._view("validation")

    def score(self, name: str) -> Tensor:
        """A measure of each training sample, [n].

        Raises:
            ValueError: the benchmark does not compute it.
        """
        self._check("scores")
        if name not in self.scores:
            raise ValueError(
                f"this problem has no scores '{name}'; state `memorization:` in the benchmark's section of "
                "params.yaml, or pass scores={...} to Problem.from_tensors"
            )
        return self.scores[name]

    def _check(self, name: str) -> None:
        if name not in self.allowed:
            raise UndeclaredAccess(f"the method reads {name} data, but its card's `reads` does not name it")

    def _view(self, name: str) -> View:
        self._check(name)
        if name not in self.views:
            raise ValueError(f"this problem has no {name} data; give it to Problem.from_tensors")
        return self.views[name]

    def only(self, reads: Iterable[str]) -> "Problem":
        """The same problem, with only the named data open to reading."""
        return replace(self, allowed=frozenset(reads))

    def pool(self) -> "Problem":
        """The problem of preparing for this one: all training data in one view, nothing yet to forget."""
        views = {"train": self.views["forget"] | self.views["retain"]}
        views |= {name: view for name, view in self.views.items() if name == "validation"}
        return replace(self, views=views, key=(*self.key, "shared"), prepared=None)

    def part(self, forget: Tensor, retain: Tensor, step: int) -> "Problem":
        """A step of this problem: forget some of its forget set while keeping all of `retain`.

        Args:
            forget, retain: positions in the training set, int64.
            step: number of the step; generators differ from those of other steps, the order of the
                samples is the whole problem's.
        """
        views = self.views | {
            "forget": self.views["forget"].select(forget),
            "retain": self.views["retain"].select(retain),
        }
        gone, kept = (torch.bincount(views[name].labels, minlength=self.classes) for name in ("forget", "retain"))
        whole = ((gone > 0) & (kept == 0)).nonzero().flatten().tolist()
        return replace(self, views=views, forgotten_classes=tuple(whole), key=(*self.key, "step", step), prepared=None)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for one purpose of this run."""
        return torch_generator(*self.key, purpose)

    def fresh_model(self) -> nn.Module:
        """A newly initialised network, every parameter and buffer drawn or set anew.

        Raises:
            ValueError: the problem does not know how to build one.
        """
        if self.build is None:
            raise ValueError("retraining needs a fresh network: pass build=lambda seed: ... to Problem.from_tensors")
        device = self.views["train" if "train" in self.views else "retain"].samples.labels.device
        return self.meter.attach(self.build(derive(*self.key, "initialisation")).to(device))

    @classmethod
    def from_tensors(
        cls,
        images: Tensor,
        labels: Tensor,
        forget: Tensor,
        *,
        validation: tuple[Tensor, Tensor] | None = None,
        classes: int | None = None,
        seed: int = 0,
        order: Tensor | None = None,
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        scores: Mapping[str, Tensor] | None = None,
    ) -> "Problem":
        """A problem from one's own tensors, on the device and in the dtype that they have.

        Args:
            images: the training set as the network takes it, floating point [n, ...]. The network
                must be of the same dtype.
            labels: int64 [n].
            forget: positions in the training set, int64 [f], or a boolean mask [n].
            validation: images and labels held out of training.
            classes: outputs of the network; by default the largest label plus one.
            seed: what every draw derives from.
            order: int64 [n], a permutation of the training set in which every epoch visits it (the
                samples of other sets are skipped); by default each epoch draws its own.
            recipe, build: for retraining: how to train, and seed -> a fresh network.
            scores: measures of each training sample, [n] by name: 'memorization', 'confidence'...

        Raises:
            ValueError: lengths disagree, a position is outside the training set or stands twice, or
                the forget set is empty or everything.
        """
        n = len(labels)
        rows = forget.nonzero().flatten() if forget.dtype == torch.bool else forget.long()
        if len(images) != n:
            raise ValueError(f"{len(images)} images and {n} labels")
        if forget.dtype == torch.bool and len(forget) != n:
            raise ValueError(f"the forget mask has {len(forget)} entries for {n} samples")
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < n):
            raise ValueError(f"forget positions must lie within 0 and {n - 1}")
        if len(rows.unique()) != len(rows):
            raise ValueError("a forget position stands twice")
        if not 0 < len(rows) < n:
            raise ValueError(f"the forget set has {len(rows)} of {n} samples; it must be neither empty nor everything")
        if order is not None and not torch.equal(order.sort().values.cpu(), torch.arange(n)):
            raise ValueError(f"order must be a permutation of 0 to {n - 1}")
        precision = recipe.precision if recipe is not None else "float32"
        return problem(
            Samples(images, labels.long(), precision=precision),
            rows,
            validation=None
            if validation is None
            else Samples(validation[0], validation[1].long(), precision=precision),
            classes=classes or int(labels.max()) + 1,
            key=("notebook", seed),
            base_order=Order(n, ("notebook", seed), order),
            order=Order(n, ("notebook", seed), order),
            recipe=recipe,
            build=build,
            scores=scores,
        )


def problem(
    samples: Samples,
    forget: Tensor,
    *,
    validation: Samples | None,
    classes: int,
    key: Key,
    base_order: Order,
    order: Order | None = None,
    recipe: Recipe | None = None,
    build: Callable[[int], nn.Module] | None = None,
    scores: Mapping[str, Tensor] | None = None,
    gone: Tensor | None = None,
) -> Problem:
    """The problem of forgetting some rows of the training samples.

    Args:
        gone: rows that are neither to be forgotten nor to be kept: forgotten before. Others as in
            `Problem` and `Problem.from_tensors`.
    """
    n, device = len(samples), samples.labels.device
    forgotten, present = (torch.zeros(n, dtype=torch.bool, device=device) for _ in range(2))
    forgotten[forget.to(device)] = True
    present[:] = True
    if gone is not None:
        present[gone.to(device)] = False
    order, augmentation = order or shuffled(n, key), recipe.augmentation if recipe is not None else "none"
    meter = Meter()

    def read_training(part: Tensor) -> None:
        if meter.open:  # sums stay on the device; a view may unite both sets
            gone = forgotten[part].sum()
            meter.read["forget"] += gone
            meter.read["retain"] += len(part) - gone

    def read_validation(part: Tensor) -> None:
        if meter.open:
            meter.read["validation"] += len(part)

    views = {
        name: View(samples, chosen.nonzero().flatten(), order, key, augmentation=augmentation, on_read=read_training)
        for name, chosen in (("forget", forgotten), ("retain", present & ~forgotten))
    }
    total = torch.bincount(samples.labels[present], minlength=classes)
    absent = (total == 0) & (torch.bincount(samples.labels, minlength=classes) > 0)
    if validation is not None:
        m, held_out = len(validation), (*key, "validation")
        kept = (~absent[validation.labels]).nonzero().flatten()
        views["validation"] = View(validation, kept, shuffled(m, held_out), held_out, on_read=read_validation)
    leaving = torch.bincount(samples.labels[forgotten], minlength=classes)
    whole = ((leaving == total) & (total > 0)).nonzero().flatten()
    return Problem(
        views,
        classes,
        tuple(whole.tolist()),
        recipe,
        build,
        key,
        base_order,
        meter=meter,
        scores=scores or {},
        gone_classes=tuple(absent.nonzero().flatten().tolist()),
    )
