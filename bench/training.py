"""The one training loop, and predictions.

view = View(samples, rows, order=shuffled(n, key), key=key)
model = train(model, view, cross_entropy, Recipe(epochs=3, batch_size=64, lr=0.1))
logits = predict(model, view)
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench import distributed
from bench.checkpoint import Checkpoint, fingerprint
from bench.config import Recipe
from bench.engine import CrossEntropy, Engine, Step, learning_rates, passed, spare_the_compiler
from bench.engine import products as products
from bench.models import seeded
from bench.seeds import derive
from bench.views import PADDING as PADDING
from bench.views import Batch as Batch
from bench.views import Feed as Feed
from bench.views import Order as Order
from bench.views import Paired as Paired
from bench.views import Samples as Samples
from bench.views import Sequence as Sequence
from bench.views import View as View
from bench.views import crop_and_flip as crop_and_flip
from bench.views import shuffled as shuffled

PREDICTION_BATCH = 500  # fixed: logits may differ in their last bit between batch sizes

Loss = Callable[[nn.Module, Step], Tensor]


cross_entropy: Loss[Batch] = CrossEntropy()  # mean over the batch


def classification(recipe: Recipe) -> Loss[Batch]:
    """Mean cross-entropy of the batch with the recipe's label smoothing: the loss of training from scratch."""
    return CrossEntropy(recipe.label_smoothing)


def train(
    model: nn.Module,
    data: Feed[Step],
    loss: Loss[Step],
    recipe: Recipe,
    mask: Mapping[str, Tensor] | None = None,
    *,
    mode: Literal["train", "eval"] = "train",
    after_step: Callable[[nn.Module, int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """Minimise the loss and return the trained copy, in eval mode; `model` is untouched.

    Args:
        model: the network to start from. Parameters that need no gradient stay as they are.
        data: its batches are the steps.
        loss: scalar to minimise, of the model and one step of the data.
        recipe: epochs, batch size, optimizer, learning rate, momentum, weight decay, schedule.
        mask: for each parameter's name a boolean tensor of its shape; where it is False the weight
            keeps its value to the bit, whatever momentum and weight decay would do.
        mode: 'eval' keeps BatchNorm's statistics as they are, and dropout off.
        after_step: called with the model and the number of steps done, under no_grad: a projection
            of the weights.
        checkpoint: where a long training of a view is kept from time to time, and from where it goes on to the same
            bytes if it was stopped. The loss, and `after_step`, must depend on their arguments alone.

    Draws made inside the network (dropout) come from the data's key, never from the global state. In processes of
    `bench.distributed.run`, each takes its share of every batch of a view; of other data each takes everything.
    """
    trained = copy.deepcopy(model).train(mode == "train").to(memory_format=torch.channels_last)
    named = [(name, p) for name, p in trained.named_parameters() if p.requires_grad]
    frozen = [(p.data, mask[name], p.detach().clone()) for name, p in named if mask is not None]
    view, network = data if isinstance(data, View) else None, None
    rank, processes = distributed.place() if view is not None else (0, 1)
    if view is None and checkpoint is not None:
        raise ValueError("checkpoints are for trainings of one view")
    if view is not None and processes > 1:
        data = view = view.shared(rank, processes)
        network = distributed.synchronised(trained)
    an_epoch = data.steps(recipe.batch_size)
    steps = recipe.epochs * an_epoch
    engine = Engine(trained, loss, recipe, data.precision, steps, network=network, steady=after_step is None)
    keeper = None
    if view is not None and checkpoint is not None:
        facts = [getattr(loss, "__qualname__", repr(loss)), recipe.model_dump(), mode]
        keeper = Keeper(checkpoint, engine, view, facts, [*model.state_dict().values(), *(mask or {}).values()])
    with seeded(derive(*data.key, "noise")), torch.enable_grad(), engine.running():
        done = resumed = keeper.resume() if keeper is not None else 0
        rates = islice(learning_rates(recipe, steps), done, None)
        for epoch in range(resumed // max(an_epoch, 1), recipe.epochs):
            if processes > 1:
                torch.manual_seed(derive(*data.key, "noise", epoch, rank))
            batches: Iterator[Any] = data.batches(recipe.batch_size, epoch)
            if view is not None and (skip := resumed - epoch * an_epoch) > 0:
                batches = view.batches(recipe.batch_size, epoch, skip)
            for batch in batches:
                engine.step(batch, next(rates))
                if view is not None and processes > 1:  # what counts samples is told of the others' shares
                    passed(trained, view.size(recipe.batch_size, done % an_epoch) - len(batch.labels))
                for weights, free, start in frozen:
                    torch.where(free, weights, start, out=weights)
                done += 1
                if after_step is not None:
                    with torch.no_grad():
                        after_step(trained, done)
                if keeper is not None:
                    keeper.step(done)
    if processes > 1:  # without its synchronised layers
        state, trained = trained.state_dict(), copy.deepcopy(model)
        trained.load_state_dict(state)
    if checkpoint is not None:
        checkpoint.remove()
    return trained.to(memory_format=torch.contiguous_format).eval()


class Keeper:
    """Writes a training's checkpoint when it is time, and goes on from one."""

    def __init__(
        self, checkpoint: Checkpoint, engine: Engine[Any], view: View, facts: list[Any], tensors: list[Tensor]
    ) -> None:
        self.checkpoint, self.engine, self.view = checkpoint, engine, view
        order, fixed = view.order, [t for t in (view.order.fixed,) if t is not None]
        facts = [*facts, torch.__version__, engine.device.type, checkpoint.of, view.key, view.share[1]]
        facts += [order.n, order.key, view.augmentation, view.precision]
        self.mark = fingerprint(facts, [*tensors, view.rows, *fixed])
        self.started, self.before = time.monotonic(), 0.0
        self.due = self.started + checkpoint.every

    def resume(self) -> int:
        """The number of steps done, and the engine's state after them."""
        tensors = self.checkpoint.load(self.mark)
        if self.view.share[1] > 1:  # until all have read it
            distributed.agreed(True, self.engine.device)
        if tensors is None:
            return 0
        done, self.before = int(tensors.pop("done")), float(tensors.pop("seconds"))
        self.checkpoint.earlier += self.before
        self.engine.restore(tensors)
        an_epoch = self.view.steps(self.engine.full)
        for epoch in range(-(-done // an_epoch)):  # what counts samples is told of the steps taken then
            for rows, _ in self.view.parts(self.engine.full, epoch)[: done - epoch * an_epoch]:
                self.view.on_read(rows)
                passed(self.engine.model, len(rows))
        return done

    def step(self, done: int) -> None:
        """After so many steps: write, if it is time."""
        several = self.view.share[1] > 1  # then all of them at once, between epochs, for which noise is drawn anew
        if several and done % self.view.steps(self.engine.full):
            return
        due = time.monotonic() >= self.due
        if distributed.agreed(due, self.engine.device) if several else due:
            if self.view.share[0] == 0:
                seconds = self.before + time.monotonic() - self.started
                state = {"done": torch.tensor(done), "seconds": torch.tensor(seconds, dtype=torch.float64)}
                self.checkpoint.save(self.mark, self.engine.tensors() | state)
            self.due = time.monotonic() + self.checkpoint.every


@torch.no_grad()
def predict(model: nn.Module, view: View) -> Tensor:
    """Logits of the view's samples in row order, [m, classes], in eval mode; the model's mode is kept.

    In float32, with products in TF32 on a GPU where the samples' precision is that or less.
    """
    was_training = model.training
    model.eval()
    try:
        with products(view.precision, view.rows.device):
            return torch.cat([model(batch.images) for batch in view.batches(PREDICTION_BATCH)])
    finally:
        model.train(was_training)


def accuracy_per_class(logits: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Correct predictions and samples for each class, both int64 [classes]."""
    correct = labels[logits.argmax(1) == labels]
    return torch.bincount(correct, minlength=classes), torch.bincount(labels, minlength=classes)


def device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_determinism() -> None:
    """One thread and deterministic kernels, so that a job's bytes don't depend on where it runs.

    Outside of `train` and `predict` a GPU's convolutions may use TF32 and matrix products may not, as is torch's
    default: methods solve equations with the latter.
    """
    torch.set_num_threads(1)
    spare_the_compiler()
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, without importing the compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    torch.backends.cuda.enable_mem_efficient_sdp(False)  # its backward pass is not deterministic
