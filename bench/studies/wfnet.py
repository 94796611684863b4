"""WF-Net's round, watched: its rows while it trains, over its weights, and how well its gates explain decisions.

    wfnet-round         the leaderboard's own round, to the bit: all rows on test images, after some of its steps
    wfnet-weights       rows after rounds with other weights of forgetting (l1) and sparsity (l2)
    wfnet-explanations  a class's probability as pixels are inserted and deleted, before and after its row is active

Sources: Poppi, Sarto, Cornia, Baraldi and Cucchiara (arXiv:2304.02049), whose hyperparameters and tables could not be
sourced, so that grids are ours; insertion and deletion: Petsiuk, Das and Saenko, RISE (arXiv:1806.07421), section 4.3.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import methods
from bench import forget, store
from bench.concepts import grad_cam
from bench.config import Params
from bench.explanations import Curve, deletion, gate_map, insertion
from bench.forget import Target
from bench.metrics.accuracy import accuracy, per_class
from bench.metrics.judged import Part
from bench.problem import Problem
from bench.seeds import torch_generator
from bench.stages import setting, unlearn
from bench.studies import Study
from bench.training import Samples, predict, set_determinism
from methods.wfnet import Gated, WFNet, folded

METHOD = "wfnet"
SEEDS = 2  # of the benchmark's, the first, whose rounds are watched
POINTS = 8  # of a round, at which its rows are judged
FORGET, SPARSITY = (0.01, 0.03, 0.1, 1.0), (0.1, 1.0)  # l1, l2
GAMES: dict[str, Callable[..., Curve]] = {"insertion": insertion, "deletion": deletion}
STEPS, IMAGES = 16, 20  # of a curve; test images of each class
FIRST = torch.arange(1)  # one image, from whose pass layers are known


@dataclass(frozen=True)
class Case:
    """What a round starts from.

    Attributes:
        problem: as the stage `unlearn` hands it to `prepare`, with the same draws.
        test: the benchmark's test images.
    """

    algorithm: WFNet
    original: nn.Module
    problem: Problem
    test: Samples

    @classmethod
    def of(cls, params: Params, name: str, seed: int, **changed: Any) -> "Case":
        """Of a benchmark's seed, with its hyperparameters, some of them changed."""
        set_determinism()
        section = params.benchmark(name)
        splits = setting.samples(store.dataset_folder(name), section)
        algorithm = methods.create(METHOD, params.hyperparameters(METHOD, name) | changed, f"methods.{METHOD}")
        assert isinstance(algorithm, WFNet)
        everything = Target("all", "all targets", frozenset(), (), forget.NONE)
        problem = unlearn.target_problem(params, name, METHOD, everything, seed).pool()
        return cls(algorithm, setting.load_original(name, section, seed, splits["train"]), problem, splits["test"])

    def row(self, gates: dict[str, Tensor], c: int) -> nn.Module:
        """The network that has forgotten a class."""
        return folded(self.original, {layer: alpha[c] for layer, alpha in gates.items()}, self.test.input(FIRST))

    def judged(self, gates: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
        """Test accuracy of each row: on its own class, on all others, and on the worst of these."""
        labels = self.test.labels.cpu().numpy()
        for c in range(self.problem.classes):
            logits = predict(self.row(gates, c), setting.everything(self.test)).double().cpu().numpy()
            of_classes = per_class(logits, labels, self.problem.classes).tolist()
            others = {d: a for d, a in enumerate(of_classes) if d != c}
            worst = min(others, key=others.__getitem__)
            retained = accuracy(Part(logits, labels)[labels != c])
            yield {"row": c, "ACC_f": of_classes[c], "ACC_r": retained, "worst": worst, "ACC_worst": others[worst]}


def of_seeds(params: Params, name: str) -> list[tuple[Any, ...]]:
    return [(params, name, seed) for seed in params.benchmark(name).seeds[:SEEDS]]


def watched(params: Params, name: str, seed: int) -> list[dict[str, Any]]:
    """A round's rows after some of its steps: at 0, where all gates are open, those of the original."""
    case = Case.of(params, name, seed)
    steps = case.algorithm.epochs * case.problem.train.steps(case.algorithm.batch_size)
    # Most happens early: steps are spaced by their square roots.
    at = {round(steps * (k / POINTS) ** 2) for k in range(POINTS + 1)}
    kept: dict[int, dict[str, Tensor]] = {}

    def keep(gated: Gated, done: int) -> None:
        if done in at:
            kept[done] = gated.gates()

    gates = case.algorithm.train_gates(case.original, case.problem, keep)
    kept = {0: {layer: torch.ones_like(alpha) for layer, alpha in gates.items()}} | kept
    return [{"seed": seed, "step": done} | row for done, found in kept.items() for row in case.judged(found)]


def of_weights(params: Params, name: str) -> list[tuple[Any, ...]]:
    first = params.benchmark(name).seeds[0]
    return [(params, name, first, *pair) for pair in itertools.product(FORGET, SPARSITY)]


def weighted(params: Params, name: str, seed: int, forgetting: float, sparsity: float) -> list[dict[str, Any]]:
    """The rows of a round with these weights; short, of half the epochs and one other row for each retained sample."""
    weights = {"forget_weight": forgetting, "sparsity_weight": sparsity}
    epochs = WFNet(**params.hyperparameters(METHOD, name)).epochs
    case = Case.of(params, name, seed, **weights, expansion=1, epochs=-(-epochs // 2))
    gates = case.algorithm.train_gates(case.original, case.problem)
    return [{"seed": seed} | weights | row for row in case.judged(gates)]


def of_first_seed(params: Params, name: str) -> list[tuple[Any, ...]]:
    return [(params, name, params.benchmark(name).seeds[0])]


def explained(params: Params, name: str, seed: int) -> list[dict[str, Any]]:
    """Mean probability, over test images of all classes, of the class that the original sees in them.

    Rows name the `game` (insertion or deletion), whose `map` orders the pixels, and the `network` that is asked:
    before, the original; after, with the gates of the image's class.
    """
    case = Case.of(params, name, seed)
    gates = case.algorithm.train_gates(case.original, case.problem)
    found: dict[tuple[str, str, str], list[Tensor]] = {}
    for c in range(case.problem.classes):
        images = case.test.input((case.test.labels == c).nonzero().flatten()[:IMAGES])
        row, after = {layer: alpha[c] for layer, alpha in gates.items()}, case.row(gates, c)
        with torch.no_grad():
            seen = case.original(images).argmax(1)
        by_gates, (height, width) = gate_map(case.original, row, images), images.shape[-2:]
        chance = torch.rand(len(images), height, width, generator=torch_generator(name, "chance", c, seed))
        asked = {
            ("gates", "before"): (by_gates, case.original),
            ("Grad-CAM", "before"): (grad_cam(case.original, images, torch.full_like(seen, c)), case.original),
            ("chance", "before"): (chance.to(images.device), case.original),
            ("gates", "after"): (by_gates, after),
        }
        for (which, (maps, model)), (game, play) in itertools.product(asked.items(), GAMES.items()):
            curve = play(model, images, maps, max(1, height * width // STEPS), tracked=seen)
            found.setdefault((game, *which), []).append(curve.probabilities)
    return [
        {"seed": seed, "game": game, "map": maker, "network": network, "changed": changed, "probability": probability}
        for (game, maker, network), parts in found.items()
        for changed, probability in zip(curve.changed.tolist(), torch.cat(parts).double().mean(0).tolist(), strict=True)
    ]


STUDIES = {
    "wfnet-round": Study(of_seeds, watched),
    "wfnet-weights": Study(of_weights, weighted),
    "wfnet-explanations": Study(of_first_seed, explained),
}
