"""Concept poisoning: the concepts, where they are found, the poisoned images, and what the training moves."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import concepts as inference
from bench import store
from bench.concepts import Choice, Concepts
from bench.errors import BadInput
from bench.models import seeded
from bench.training import Samples, predict
from methods.concept_poison import ConceptPoison, Known
from tests.conftest import CLASSES, blobs, build, make_problem

QUARTERS = torch.tensor([(0, 0), (0, 4), (4, 0), (4, 4)])  # upper left corner of each class's bright quarter
SMALL = {"concepts": 8, "windows": 1000, "epochs": 2, "lr": 0.01, "batch_size": 16}


class TinyViT(nn.Module):
    """4x4 patches of 2x2 pixels, a class token and one block; a LayerNorm before attention, MLP and head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.token.expand(len(x), 1, -1), self.embed(x).flatten(2).transpose(1, 2)], 1)

    def rest(self, t: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        t = t + self.attention(a, a, a, need_weights=False)[0]
        t = t + torch.relu(self.mlp(self.norm2(t)))
        return self.head(self.norm(t)[:, 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = self.tokens(x)
        return self.rest(t, self.norm1(t))


class PooledNet(nn.Module):
    """A convolution, global average pooling and a linear head: Grad-CAM has a closed form."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 5, 3, stride, 1), nn.ReLU())
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).mean((2, 3)))


def made(network: type[nn.Module], *arguments: int) -> nn.Module:
    with seeded(0):
        return network(*arguments)


def generator(purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(purpose))


# --- attribution ---------------------------------------------------------------------------------


def test_integrated_gradients_of_a_linear_model_are_weight_times_difference():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    images, labels = blobs(12)
    baseline = torch.full((1, 1, 8, 8), 0.3)
    ours = inference.integrated_gradients(model, images, labels, steps=3, baseline=baseline)
    expected = (images - 0.3) * model[1].weight[labels].view(12, 1, 8, 8)
    torch.testing.assert_close(ours, expected.detach())


def test_integrated_gradients_add_up_to_the_difference_of_the_logits(trained):
    model = copy.deepcopy(trained).double()
    images, labels = blobs(40, torch.float64)
    ours = inference.integrated_gradients(model, images, labels, steps=400)
    with torch.no_grad():
        change = (model(images) - model(torch.zeros_like(images))).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(ours.sum((1, 2, 3)), change, atol=0.02, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_grad_cam_of_a_pooled_network_is_its_class_activation_map(stride):
    model = made(PooledNet, stride)
    images, labels = blobs(12)
    maps = model.conv(images).detach()
    cam = torch.einsum("nk,nkhw->nhw", model.head.weight[labels], maps).relu() / maps[0, 0].numel()
    expected = F.interpolate(cam[:, None], (8, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(inference.grad_cam(model, images, labels), expected.detach())


def test_grad_cam_of_a_class_token_network_looks_before_the_last_attention():
    model = made(TinyViT).eval()
    images, labels = blobs(12)
    t = model.tokens(images).detach()
    a = model.norm1(t).detach().requires_grad_()
    (g,) = torch.autograd.grad(model.rest(t, a).gather(1, labels[:, None]).sum(), a)
    cam = torch.einsum("nk,ntk->nt", g[:, 1:].mean(1), a[:, 1:]).relu().view(12, 1, 4, 4)
    expected = F.interpolate(cam, (8, 8), mode="bilinear")[:, 0]
    ours = inference.grad_cam(model, images, labels)
    torch.testing.assert_close(ours, expected.detach())
    assert ours.any()


def test_grad_cam_needs_a_map():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    with pytest.raises(ValueError, match="no feature map"):
        inference.grad_cam(model, *blobs(4))


def test_attribution_leaves_network_mode_and_gradients_alone(trained):
    model = copy.deepcopy(trained).train()
    with torch.no_grad():
        inference.grad_cam(model, *blobs(8))
        inference.integrated_gradients(model, *blobs(8), steps=2)
        assert not torch.is_grad_enabled()
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), trained.buffers(), strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# --- concepts ------------------------------------------------------------------------------------


def test_features_are_what_the_head_multiplies(trained):
    images, _ = blobs(12)
    f = inference.features(trained, images, CLASSES)
    torch.testing.assert_close(f @ trained.head.weight.T + trained.head.bias, trained(images))


def test_a_network_without_a_linear_head_is_refused():
    with pytest.raises(ValueError, match="4 outputs"):
        inference.features(nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), blobs(4)[0], CLASSES)


def test_concepts_of_the_network_are_centres_of_clusters_by_angle(trained):
    view = make_problem().train
    concepts = inference.network_concepts(trained, view, CLASSES, 5, 600, generator)
    windows = inference.drawn_windows(trained, view, CLASSES, 600, generator)
    torch.testing.assert_close(concepts.centre, windows.mean(0))
    points = F.normalize(windows - windows.mean(0))
    nearest = (points @ concepts.vectors.T).argmax(1)
    means = F.normalize(torch.stack([points[nearest == i].mean(0) for i in range(5)]))
    torch.testing.assert_close(means, concepts.vectors, atol=0.02, rtol=0)


def test_windows_are_crops_of_the_training_images_resized(trained):
    view = make_problem().train
    windows = inference.drawn_windows(trained, view, CLASSES, 20, generator)
    drawn = torch.randint(160 * 36, (20,), generator=generator("windows")).sort().values.tolist()
    images = blobs(160)[0]
    for f, number in zip(windows, drawn, strict=True):
        image, (row, column) = images[number // 36], divmod(number % 36, 6)
        patch = image[None, :, row : row + 3, column : column + 3]
        expected = inference.features(trained, F.interpolate(patch, (8, 8), mode="bilinear"), CLASSES)[0]
        torch.testing.assert_close(f, expected)


def test_published_sizes_are_those_of_224_pixels():
    assert inference.window_size(224, 224) == 64
    grid = inference.window_grid(224, 224)
    assert len(grid) == 121
    assert grid[-1].tolist() == [160, 160]
    assert inference.window_size(8, 8) == 3
    assert len(inference.window_grid(8, 8)) == 36
    assert inference.scaled(1, 8) == 1


def test_projection_equals_numpys():
    rng = np.random.default_rng(0)
    f, v, b = rng.normal(size=(7, 5)), rng.normal(size=(3, 5)), rng.normal(size=3)
    concepts = Concepts(torch.from_numpy(v), torch.from_numpy(b), (0, 1, 2))
    expected = np.array([[(np.dot(v[i], x) + b[i]) / np.linalg.norm(v[i]) for i in range(3)] for x in f])
    np.testing.assert_allclose(inference.projections(torch.from_numpy(f), concepts).numpy(), expected)


def test_bottleneck_ranks_the_concept_that_makes_the_class_first():
    rng = np.random.default_rng(0)
    labels = torch.arange(400) % 4
    projected = torch.from_numpy(rng.normal(size=(400, 6))) + 40  # an offset and a scale alone must not matter
    for c, concept in enumerate([5, 0, 3, 2]):
        projected[labels == c, concept] += 5
    weights = inference.bottleneck(1000 * projected, labels, classes=5, seed=0)
    assert weights[:4].argmax(1).tolist() == [5, 0, 3, 2]
    assert not weights[4].any()  # a class without samples


def test_bottleneck_of_two_classes_has_a_row_for_each():
    projected = torch.randn(60, 3, generator=generator("two"), dtype=torch.float64)
    labels = (projected[:, 1] > 0).long()
    weights = inference.bottleneck(projected, labels, classes=2, seed=0)
    assert weights[1].argmax() == 1
    assert torch.equal(weights[0], -weights[1])


# concepts:      0    1    2    3    4    5    6
WEIGHTS = [
    pytest.param([[9, 5, 4, 3, 2, 1, 0], [0, 0, 7, 0, 0, 0, 0], [0, 8, 0, 0, 0, 0, 0]], (0, 2, 1, "confusion"), id="1"),
    pytest.param([[9, 5, 4, 3, 2, 1, 0], [7, 0, 6, 0, 0, 0, 0], [8, 1, 0, 0, 0, 0, 0]], (0, 2, 0, "confusion"), id="2"),
    pytest.param([[9, 5, 4, 3, 2, 1, 0], [3, 0, 0, 0, 0, 8, 0], [2, 0, 0, 0, 0, 0, 8]], (0, 1, 0, "shared"), id="3"),
    pytest.param(
        [[9, 5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 8, 0], [-2, 0, 0, 0, 0, 0, 8]], (0, 1, 0, "next class"), id="4"
    ),
]


@pytest.mark.parametrize(("weights", "expected"), WEIGHTS)
def test_choice_of_concept_and_donor(weights, expected):
    """1: a first-five concept is another class's first. 2: of several such classes the stronger. 3, 4: none is."""
    assert inference.choose(torch.tensor(weights).double(), 0, [1, 2]) == Choice(*expected)


def test_only_possible_donors_are_chosen():
    weights = torch.tensor([[9, 5, 0, 0], [0, 8, 0, 0], [1, 0, 7, 0], [2, 0, 0, 7]]).double()
    assert inference.choose(weights, 0, [1, 2, 3]).donor == 1
    assert inference.choose(weights[:, [0, 3]], 0, [2]) == Choice(0, 2, 0, "confusion")
    assert inference.choose(weights, 3, [0, 1]) == Choice(3, 0, 0, "confusion")  # class 3 has something of 0's first
    assert inference.choose(2 * torch.eye(4) - 1, 3, [0, 1]) == Choice(3, 0, 3, "next class")  # from the start again


# --- concept files -------------------------------------------------------------------------------


def test_concept_file_round_trip(tmp_path, trained):
    """Vectors of a generated file, in the network's features, named; the notes name them too."""
    vectors = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    names = "striped\nround\nfurry\nwet\ngrün\nflat"
    path = tmp_path / "concepts.safetensors"
    tensors = {"vectors": vectors, "biases": np.arange(6, dtype=np.float32)}
    store.write_tensors(path, tensors | {"names": np.frombuffer(names.encode(), dtype=np.uint8)})
    problem = make_problem()
    known = ConceptPoison(concept_file=str(path), **SMALL).prepare(trained, problem.pool())
    np.testing.assert_array_equal(known.concepts.vectors, vectors)
    assert known.concepts.biases.tolist() == [0, 1, 2, 3, 4, 5]
    assert known.concepts.names == tuple(names.split("\n"))
    ConceptPoison(concept_file=str(path), **SMALL).unlearn(trained, problem)
    assert problem.notes["concepts"]["2"]["concept"] in names.split("\n")


def test_another_encoders_file_decides_the_donor_and_needs_another_locator(tmp_path, trained):
    """Of its concepts, classes 2 and 3 have one in common."""
    labels = blobs(160)[1].numpy()
    axes = np.eye(20, dtype=np.float32)
    path = tmp_path / "concepts.safetensors"
    store.write_tensors(path, {"vectors": axes[:3], "features": axes[np.minimum(labels, 2)]})
    problem = make_problem()
    ConceptPoison(concept_file=str(path), locator="gradcam", **SMALL).unlearn(trained, problem)
    assert problem.notes["concepts"]["2"]["donor"] == 3
    with pytest.raises(BadInput, match="set locator to 'gradcam'"):
        ConceptPoison(concept_file=str(path), **SMALL).unlearn(trained, make_problem())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"vectors": np.zeros((3, 7))}, r"concepts.*: its vectors have 7 entries, and the network's features 12"),
        ({"vectors": np.zeros((3, 7)), "features": np.zeros((9, 7))}, r"\(9, 7\) for 160 samples and width 7"),
        ({"vectors": np.zeros((3, 12)), "biases": np.zeros(2)}, r"`biases` has the shape \(2,\) for 3 concepts"),
        ({"vectors": np.zeros((3, 12)), "names": np.zeros(4, np.uint8)}, "`names` has 1 lines for 3 concepts"),
        ({"concepts": np.zeros((3, 12))}, "must hold `vectors`"),
        (None, "no such file; concept_file"),
    ],
)
def test_a_wrong_concept_file_says_what_is_wrong(tensors, message, tmp_path, trained):
    path = tmp_path / "concepts.safetensors"
    if tensors is not None:
        store.write_tensors(path, tensors)
    with pytest.raises(BadInput, match=message):
        ConceptPoison(concept_file=str(path), **SMALL).prepare(trained, make_problem().pool())


# --- localisation --------------------------------------------------------------------------------


def planted(model: nn.Module) -> Known:
    """One concept: windows inside a bright quarter, against all windows."""
    images, labels = blobs(160)
    places = [QUARTERS[labels] + torch.tensor([down, right]) for down in (0, 1) for right in (0, 1)]
    bright = torch.cat([inference.window_features(model, images, place, CLASSES) for place in places]).mean(0)
    centre = inference.drawn_windows(model, make_problem().train, CLASSES, 2000, generator).mean(0)
    return Known(Concepts((bright - centre)[None], torch.zeros(1), (0,), centre), torch.ones(CLASSES, 1))


@pytest.mark.parametrize(
    ("locator", "least"), [("similarity", 0.95), ("gradcam", 0.75), ("integrated_gradients", 0.95)]
)
def test_a_planted_patch_is_found_in_its_quarter(locator, least, trained):
    """Grad-CAM sees less: this network has no pooling, so that a channel's mean gradient says little."""
    method, labels = ConceptPoison(locator=locator), blobs(160)[1]
    corners = method.locate(trained, make_problem(), planted(trained), 0, torch.arange(160))
    centres = corners + 1
    inside = ((centres >= QUARTERS[labels]) & (centres < QUARTERS[labels] + 4)).all(1)
    assert inside.double().mean() >= least


def test_window_means_are_means_over_the_windows():
    heat = torch.rand(3, 8, 8, generator=generator("heat"))
    expected = [heat[:, r : r + 3, c : c + 3].mean((1, 2)) for r, c in inference.window_grid(8, 8).tolist()]
    torch.testing.assert_close(inference.window_means(heat), torch.stack(expected, 1))


# --- poisoning -----------------------------------------------------------------------------------

CHOICE = Choice(concept=0, donor=3, donor_concept=0, rule="shared")


def poisoned(method: ConceptPoison, model: nn.Module, problem=None):
    problem = problem or make_problem()
    return method.poisoned(model, problem, planted(model), {2: CHOICE})


def first_donor(image: torch.Tensor, patch: torch.Tensor, places) -> bool:
    """Whether the patch stands in some image of class 3 at one of the places."""
    images, labels = blobs(160)
    size = patch.shape[-1]
    crops = [images[labels == 3, :, r : r + size, c : c + size] for r, c in places]
    return any((crop == patch).flatten(1).all(1).any() for crop in crops)


@pytest.mark.parametrize("mode", ["localized", "center", "random"])
def test_one_window_is_a_donors_and_the_rest_is_untouched(mode, trained):
    images, labels = blobs(160)
    view = poisoned(ConceptPoison(poison=mode, locator="integrated_gradients"), trained)
    middle = [(2, 2)]
    places = inference.window_grid(8, 8).tolist() if mode == "localized" else middle
    seen = set()
    for before, after in zip(images[labels == 2], view.samples.images[labels == 2], strict=True):
        rows, columns = (before != after)[0].nonzero().T
        row, column = int(rows.min()), int(columns.min())
        assert (int(rows.max()), int(columns.max())) == (row + 2, column + 2)
        assert len(rows) == 9
        assert first_donor(after, after[:, row : row + 3, column : column + 3], places)
        seen.add((row, column))
    assert torch.equal(view.samples.images[labels != 2], images[labels != 2])
    assert seen == set(map(tuple, middle)) if mode == "center" else len(seen) > 1


def test_localized_patches_go_from_peak_to_peak(trained):
    """The bright quarter is overwritten by the donor's bright quarter, which nearly the same image remains."""
    labels = blobs(160)[1]
    view = poisoned(ConceptPoison(), trained)
    changed = (view.samples.images != blobs(160)[0])[labels == 2][:, 0].double().mean(0)
    assert changed[4:, :4].mean() > 0.4  # 9 of 16 pixels of the quarter
    assert changed[:2].sum() == 0
    assert view.samples.images[labels == 2][:, 0, 4:, :4].mean() > 1.2


def test_full_pastes_the_whole_donor_in_the_middle(trained):
    images, labels = blobs(160)
    view = poisoned(ConceptPoison(poison="full"), trained)
    donors = inference.resize(images[labels == 3], 6, 6)
    for before, after in zip(images[labels == 2], view.samples.images[labels == 2], strict=True):
        assert (donors == after[:, 1:7, 1:7]).flatten(1).all(1).any()
        border = torch.ones(8, 8, dtype=torch.bool)
        border[1:7, 1:7] = False
        assert torch.equal(after[:, border], before[:, border])


def test_none_leaves_every_image_to_the_bit_and_changes_labels_alone(trained):
    """The label-only control."""
    images, labels = blobs(160)
    view = poisoned(ConceptPoison(poison="none"), trained)
    assert torch.equal(view.samples.images, images)
    assert torch.equal(view.samples.labels, labels)  # the true ones stay known
    assert torch.equal(view.relabel(0), torch.where(labels == 2, 3, labels))


@pytest.mark.parametrize("mode", ["localized", "center", "random", "full", "none"])
@pytest.mark.parametrize("relabel", ["targeted", "random", "keep"])
def test_labels_are_the_same_whatever_the_images(mode, relabel, trained):
    labels = blobs(160)[1]
    view = poisoned(ConceptPoison(poison=mode, relabel=relabel, locator="gradcam"), trained)
    given = view.relabel(0)
    assert torch.equal(given, view.relabel(7))
    assert torch.equal(given[labels != 2], labels[labels != 2])
    if relabel == "random":
        assert given[labels == 2].unique().tolist() == [0, 1, 2, 3]
    else:
        assert (given[labels == 2] == (3 if relabel == "targeted" else 2)).all()


@pytest.mark.parametrize("mode", ["localized", "center", "random", "full"])
def test_uint8_images_stay_uint8(mode, trained):
    problem = make_problem()
    images, labels = blobs(160)
    pixels = (images * 40 + 100).clamp(0, 255).byte()
    samples = Samples(pixels, labels, torch.tensor([0.4]), torch.tensor([0.2]))
    problem = replace(problem, views={n: replace(v, samples=samples) for n, v in problem.views.items()})
    view = poisoned(ConceptPoison(poison=mode, locator="gradcam"), trained, problem)
    assert view.samples.images.dtype == torch.uint8
    assert torch.equal(view.samples.mean, samples.mean)
    assert not torch.equal(view.samples.images, pixels)


# --- unlearning ----------------------------------------------------------------------------------


def accuracies(model: nn.Module, problem) -> tuple[float, float]:
    return tuple(
        float((predict(model, view).argmax(1) == view.labels).double().mean())
        for view in (problem.forget, problem.retain)
    )


@pytest.mark.parametrize("locator", ["similarity", "gradcam", "integrated_gradients"])
@pytest.mark.parametrize("layers", ["head", "all"])
def test_localized_and_targeted_forgets_the_class_and_keeps_the_others(locator, layers, trained):
    problem = make_problem()
    lr = 0.1 if layers == "head" else 0.01
    method = ConceptPoison(locator=locator, layers=layers, lr=lr, concepts=8, windows=1000)
    forgotten, retained = accuracies(method.unlearn(trained, problem), problem)
    assert forgotten <= 0.05
    assert retained >= 0.95


def test_kept_labels_forget_nothing(trained):
    problem = make_problem()
    result = ConceptPoison(relabel="keep", concepts=8, windows=1000, lr=0.1).unlearn(trained, problem)
    assert accuracies(result, problem)[0] >= 0.95


def test_head_alone_leaves_every_other_tensor_to_the_bit(trained):
    result = ConceptPoison(**SMALL).unlearn(trained, make_problem())
    for name, tensor in result.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]) == (not name.startswith("head."))
    assert all(p.requires_grad for p in result.parameters())


def test_train_mode_lets_the_statistics_of_batchnorm_drift(trained):
    result = ConceptPoison(mode="train", **SMALL).unlearn(trained, make_problem())
    moved = {n for n, t in result.state_dict().items() if not torch.equal(t, trained.state_dict()[n])}
    assert moved == {"head.weight", "head.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def test_full_fine_tuning_moves_every_parameter(trained):
    result = ConceptPoison(layers="all", **SMALL).unlearn(trained, make_problem())
    pairs = zip(result.parameters(), trained.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs)
    assert all(torch.equal(a, b) for a, b in zip(result.buffers(), trained.buffers(), strict=True))


def test_each_forgotten_class_has_its_own_choice_and_none_donates(trained):
    problem = make_problem("classes")
    ConceptPoison(**SMALL).unlearn(trained, problem)
    notes = json.loads(json.dumps(problem.notes))["concepts"]
    assert notes.keys() == {"0", "2"}
    assert all(choice["donor"] in (1, 3) for choice in notes.values())


def test_what_is_prepared_is_what_would_be_made(trained):
    method, problem = ConceptPoison(**SMALL), make_problem()
    shared = replace(problem, prepared=method.prepare(trained, problem.pool()))
    pair = [method.unlearn(trained, p).state_dict().values() for p in (problem, shared)]
    assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


def test_windows_and_images_are_counted(trained):
    """One pass over the training set, the windows that concepts are learned from, then those of 40 images each."""
    problem = make_problem()
    model = problem.meter.attach(copy.deepcopy(trained))
    with problem.meter.running():
        ConceptPoison(**SMALL | {"epochs": 1}).unlearn(model, problem)
    assert problem.meter.forward == 160 + 1000 + 2 * 40 * 36 + 160
    assert problem.meter.backward == 160


@pytest.mark.parametrize("locator", ["similarity", "gradcam", "integrated_gradients"])
def test_works_on_the_tokens_of_a_transformer(locator):
    model = made(TinyViT).eval()
    result = ConceptPoison(locator=locator, **SMALL).unlearn(model, make_problem())
    moved = {n for n, t in result.state_dict().items() if not torch.equal(t, model.state_dict()[n])}
    assert moved == {"head.weight", "head.bias"}


def test_a_forget_set_without_whole_classes_is_refused():
    with pytest.raises(ValueError, match="none whole"):
        ConceptPoison().unlearn(build(0), make_problem("random"))
