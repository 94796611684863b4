"""How one training step runs: its precision, its optimizer and rate, and on a GPU its compiled and recorded form.

Every loss runs eagerly. The plain one, `CrossEntropy`, may be compiled where the recipe says so, and on a GPU its steps
on full batches are recorded once a training as a CUDA graph and replayed: the kernels of eager mode, and so its bits,
without the time to launch them. A recording is used only after its first replay left the same bits as an eager step.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import Precision, Recipe

Step = TypeVar("Step")  # what the loss reads in one step: a batch, or several
ACCELERATOR = "cuda"  # on which the plain loss is compiled and recorded
WARM_UP = 3  # eager steps before recording, in which libraries choose kernels and the optimizer makes its state
WORTH_RECORDING = 30  # steps


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of a batch."""

    label_smoothing: float = 0.0

    def __call__(self, model: Callable[[Tensor], Tensor], batch: Any) -> Tensor:
        return F.cross_entropy(model(batch.images), batch.labels, label_smoothing=self.label_smoothing)


@contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """How a GPU multiplies float32 matrices inside: as IEEE 754 has it for 'float32', else in TF32.

    TF32 rounds factors to 10 bits of mantissa and adds in float32. A CPU has none and is left as it is.
    """
    if device.type != "cuda":
        yield
        return
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    matrices.allow_tf32 = convolutions.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        matrices.allow_tf32, convolutions.allow_tf32 = before


class _Rate(torch.optim.Optimizer):
    """What torch's schedulers set the rate of."""

    def step(self, closure: Any = None) -> Any:
        return None


def learning_rates(recipe: Recipe, steps: int) -> Iterator[float]:
    """The learning rate of each of so many steps, as torch's schedulers have it."""
    optimizer = _Rate([nn.Parameter(torch.zeros(()))], {"lr": recipe.lr})
    schedule = _schedule(optimizer, recipe, steps)
    optimizer.step()  # a scheduler warns if none came before
    while True:
        yield optimizer.param_groups[0]["lr"]
        if schedule is not None:
            schedule.step()


def _schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """What sets the learning rate after each of all steps; None where it stays."""
    from torch.optim import lr_scheduler

    an_epoch = steps // recipe.epochs
    warm = min(recipe.warmup * an_epoch, steps - 1)
    after: lr_scheduler.LRScheduler
    match recipe.schedule:
        case "one-cycle":
            return lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=steps + 1, cycle_momentum=False)
        case "cosine":
            after = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - warm)
        case "multistep":
            after = lr_scheduler.MultiStepLR(optimizer, [m * an_epoch - warm for m in recipe.milestones], recipe.gamma)
        case "constant":
            if not warm:
                return None
            after = lr_scheduler.ConstantLR(optimizer, factor=1)
    if not warm:
        return after
    rising = lr_scheduler.LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)
    return lr_scheduler.SequentialLR(optimizer, [rising, after], [warm])


def spare_the_compiler() -> None:
    """For this process: optimizers do not import torch.compile just to hide from it.

    That takes a processor 1.3 s, more than a small training. What is preset here torch would find out by that import:
    how these functions are called; none of them is compiled.
    """
    for function in (torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.zero_grad):
        plain = inspect.unwrap(function)
        plain.__dict__.setdefault("__dynamo_disable", plain)


@torch.no_grad()
def advance(optimizer: torch.optim.Optimizer) -> None:
    """The optimizer's step, without what torch wraps around it for torch.compile and for hooks on optimizers."""
    inspect.unwrap(type(optimizer).step)(optimizer)


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    # A recording reads the rate where it lies on the GPU; what is not recorded reads it there too, for the same bits.
    rate: Any = torch.tensor(recipe.lr, device=device) if device.type == ACCELERATOR else recipe.lr
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(
                parameters,
                lr=rate,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
                nesterov=recipe.nesterov,
                fused=all(p.is_floating_point() for p in parameters),
            )
        case "adam" | "adamw":
            kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
            return kind(parameters, lr=rate, weight_decay=recipe.weight_decay, fused=True)


def passed(model: nn.Module, samples: int) -> None:
    """Tell the hooks that count a network's samples of so many that went forward and backward without calling it."""
    hooks = [hook for hook in model._forward_hooks.values() if getattr(hook, "counts_samples", False)]
    if samples and hooks:
        output = torch.empty(samples, 1, device="meta", requires_grad=True)
        for hook in hooks:
            cast(Callable[..., None], hook)(model, (), output)
        output.backward(torch.empty_like(output))


def _only_counted(model: nn.Module) -> bool:
    """Whether the network's hooks are such alone: others would miss that it is not called."""
    hooks = [hook for m in model.modules() for hook in m._forward_hooks.values()]
    others = [m for m in model.modules() if m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks]
    return not others and len(hooks) == sum(hasattr(h, "counts_samples") for h in model._forward_hooks.values())


def _forward(model: nn.Module, images: Tensor) -> Tensor:
    return cast(Tensor, model.forward(images))


@cache
def _compiled() -> Callable[[nn.Module, Tensor], Tensor]:
    """`_forward`, compiled once a process for each architecture and shape of batch, whatever the weights.

    What does not compile raises: eager steps in its place would leave other bits on one machine than on another, or
    after many shapes.
    """
    import torch._dynamo.config as limits

    limits.recompile_limit, limits.fail_on_recompile_limit_hit = 64, True
    return torch.compile(_forward, dynamic=False)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Where recorded trainings run: a recording needs a stream of its own, and memory is kept by stream."""
    return torch.cuda.Stream(device)


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """Work on the stream of recorded trainings, after what came before and before what comes next."""
    if device.type != "cuda":
        yield
        return
    stream, current = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        stream.synchronize()  # a recording's memory may go only when no replay runs any more


def record(work: Callable[[], None]) -> Callable[[], None]:
    """What does the work again, on the same memory: a CUDA graph. The work itself is not done."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        work()
    return graph.replay


class Engine(Generic[Step]):
    """Takes training steps on a network, in place.

    Args:
        model: the network whose weights change.
        loss, recipe: as `bench.training.train` has them.
        precision: 'bf16' runs the network, and what else of the loss allows it, in bfloat16 (torch's autocast);
            parameters, the optimizer, BatchNorm's statistics and the network's outputs are float32.
        steps: how many there will be; few are not worth recording.
        network: what the loss calls: by default the model; a wrapper of it that synchronises processes.
        steady: nothing but the engine gives the network's tensors other memory between steps.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Step], Tensor],
        recipe: Recipe,
        precision: Precision,
        steps: int,
        *,
        network: nn.Module | None = None,
        steady: bool = True,
    ) -> None:
        self.model, self.network, self.loss = model, network or model, loss
        self.full, self.low = recipe.batch_size, precision == "bf16"
        self.precision = precision
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.optimizer = _optimizer(self.parameters, recipe, self.device)
        plain = isinstance(loss, CrossEntropy) and network is None and self.device.type == ACCELERATOR
        plain = plain and _only_counted(model)
        self.compiles = plain and recipe.compile
        self.records = plain and steady and steps >= WORTH_RECORDING
        self.taken = 0  # steps on full batches
        self.replay: Callable[[], None] | None = None
        self.inputs: Any = None  # the batch that a replay reads

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around all steps."""
        hook = self.model.register_forward_hook(lambda module, inputs, output: output.float()) if self.low else None
        try:
            with products(self.precision, self.device), _beside(self.device) if self.records else nullcontext():
                yield
        finally:
            self.optimizer.zero_grad()
            self.replay = self.inputs = None
            if hook is not None:
                hook.remove()

    def step(self, batch: Step, rate: float) -> None:
        """One step of the optimizer at this learning rate."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if not (self.compiles or self.records) or len(cast(Any, batch).labels) < self.full:
            self._take(self.network, batch)
            return
        if self.replay is not None:
            self.inputs.images.copy_(cast(Any, batch).images)
            self.inputs.labels.copy_(cast(Any, batch).labels)
            self.replay()
        elif self.records and self.taken >= WARM_UP:
            self.records = self._has_room()
            self._record(batch) if self.records else self._take(self._outputs, batch)
        else:
            self._take(self._outputs, batch)
        self.taken += 1
        passed(self.model, self.full)

    def _take(self, network: Callable[[Tensor], Tensor], batch: Any) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16) if self.low else nullcontext():
            loss = self.loss(cast(nn.Module, network), batch)
        loss.backward()
        advance(self.optimizer)

    def _outputs(self, images: Tensor) -> Tensor:
        """What the network gives, without its own hooks."""
        outputs = _compiled()(self.model, images) if self.compiles else _forward(self.model, images)
        return outputs.float() if self.low else outputs

    def _has_room(self) -> bool:
        """A recording keeps a step's memory for itself; steps that need much of it are not bound by launching."""
        if self.device.type != "cuda":
            return True
        return torch.cuda.max_memory_allocated(self.device) < 0.4 * torch.cuda.mem_get_info(self.device)[1]

    def _record(self, batch: Any) -> None:
        """Record a step and take it; where the recording fails or leaves other bits, no step will be replayed."""
        self.inputs = batch._replace(images=batch.images.clone(), labels=batch.labels.clone())
        before, noise, why = self._copies(), noise_state(self.device), ""
        generator = torch.cuda.default_generators[self.device.index or 0] if self.device.type == "cuda" else None
        outside = None if generator is None else generator.clone_state()
        try:
            self._capturable(True)
            self.replay = record(lambda: self._take(self._outputs, self.inputs))
            self.replay()
        except RuntimeError as error:
            why = str(error)
            if generator is not None and outside is not None:
                generator.graphsafe_set_state(outside)  # a capture that failed would leave it within
        self._capturable(False)
        replayed = self._copies()
        with torch.no_grad():
            for tensor, value in zip(self._changing(), before, strict=True):
                tensor.copy_(value)
        set_noise_state(noise, self.device)
        self._take(self._outputs, batch)
        if not why and torch.are_deterministic_algorithms_enabled():  # else no two steps are the same
            same = all(map(torch.equal, replayed, self._changing()))
            why = "" if same else "a replayed step left other bits than an eager one"
        if why:
            warnings.warn(f"no CUDA graph, training goes on without it: {why}", stacklevel=1)
            self.records, self.replay = False, None

    def _capturable(self, now: bool) -> None:
        for group in self.optimizer.param_groups:
            if "capturable" in group:  # Adam wants to be told, and warns where it was told in vain
                group["capturable"] = now

    def _changing(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers(), *self._of_optimizer().values()]

    def _copies(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._changing()]

    def _of_optimizer(self) -> dict[str, Tensor]:
        """The optimizer's tensors by the number of the parameter and their name, 'optimizer.3.momentum_buffer'."""
        return {
            f"optimizer.{i}.{name}": value
            for i, parameter in enumerate(self.parameters)
            for name, value in self.optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }

    def tensors(self) -> dict[str, Tensor]:
        """All that steps change: the network's tensors, the optimizer's, the state of the random generators."""
        network = {f"network.{name}": value for name, value in self.model.state_dict().items()}
        return network | self._of_optimizer() | noise_state(self.device)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(tensors[f"network.{name}"].reshape(value.shape))  # a file has no scalars, but [1]
            for key in [key for key in tensors if key.startswith("optimizer.")]:
                _, i, name = key.split(".", 2)
                parameter, value = self.parameters[int(i)], tensors[key]
                like = parameter.detach() if value.shape == parameter.shape else value.reshape(()).to(self.device)
                kept = torch.empty_like(like, dtype=value.dtype)  # laid out as the parameter, if it has its shape
                self.optimizer.state[parameter][name] = kept.copy_(value.reshape(kept.shape))
        set_noise_state(tensors, self.device)


def noise_state(device: torch.device) -> dict[str, Tensor]:
    """Of the global generators that a network on this device draws from."""
    state = {"noise.cpu": torch.get_rng_state()}
    return state | ({"noise.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_noise_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["noise.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["noise.cuda"], device)
