"""Pretrained weights: the stated file or none; nothing of it read before its checksum matched."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import download, models, store, weights
from bench.config import Network, Pretrained
from bench.download import File
from bench.errors import BadInput
from bench.models import Shape
from bench.stages import setting
from tests.loopback import Loopback, serving

GREY, COLOUR = (1, 8, 8), (3, 32, 32)
TORCHVISION = "torchvision/shufflenet_v2_x0_5"
TIMM, TAG = "timm/test_vit", "r160_in1k"  # a small ViT, published for 160 pixels and 1,000 classes


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LETHE_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as loopback:
        yield loopback


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def saved(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write the tensors in the format of the file's name; its SHA-256."""
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return sha256(path.read_bytes())


def load(architecture: str, shape: Shape, classes: int = 10, seed: int = 1, **pretrained: Any) -> nn.Module:
    network = Network(name=architecture, pretrained=Pretrained(on="imagenet", **pretrained))
    return weights.load(models.build(architecture, shape, classes, seed), network, shape, classes)


def same(a: dict[str, Tensor], b: dict[str, Tensor], but: str = "nothing") -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a if not name.startswith(but))


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
@pytest.mark.parametrize("digits", [8, 64])
def test_a_local_file_is_what_the_network_becomes(folder, name, digits):
    donor = models.build("resnet-small", GREY, 10, 0).state_dict()
    digest = saved(folder / name, donor)
    for file in (name, folder / name):  # relative to the data folder, or absolute
        assert same(load("resnet-small", GREY, file=file, sha256=digest[:digits]).state_dict(), donor)


def test_without_pretrained_weights_the_network_stays_as_it_was_initialised():
    fresh = models.build("resnet-small", GREY, 10, 1)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    assert same(weights.load(fresh, Network(name="resnet-small"), GREY, 10).state_dict(), before)


def test_a_head_of_other_classes_or_none_is_left_as_initialised(folder):
    fresh = models.build("resnet-small", GREY, 10, 1).state_dict()
    donor = models.build("resnet-small", GREY, 7, 0).state_dict()
    headless = {name: value for name, value in donor.items() if not name.startswith("head")}
    for tensors in (donor, headless):
        digest = saved(folder / "net.safetensors", tensors)
        result = load("resnet-small", GREY, file="net.safetensors", sha256=digest).state_dict()
        assert same(result, donor | {n: v for n, v in fresh.items() if n.startswith("head")})


def test_old_files_know_nothing_of_counted_batches(folder):
    """torchvision's of 2017 hold no `num_batches_tracked`."""
    donor = models.build("resnet-small", GREY, 10, 0).state_dict()
    digest = saved(folder / "net.pth", {n: v for n, v in donor.items() if "num_batches" not in n})
    assert same(load("resnet-small", GREY, file="net.pth", sha256=digest).state_dict(), donor)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
def test_another_checksum_is_refused_before_anything_is_read(folder, name, monkeypatch):
    digest = saved(folder / name, models.build("resnet-small", GREY, 10, 0).state_dict())
    monkeypatch.setattr("timm.models.load_state_dict", lambda path: pytest.fail("read"))
    with pytest.raises(BadInput) as refusal:
        load("resnet-small", GREY, file=name, sha256="0123456789")
    for part in (str(folder / name), digest, "expected 0123456789", "architecture.pretrained.sha256"):
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("stages.0.conv1.weight"), "Missing key.*stages.0.conv1.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "Unexpected key.*extra"),
        (lambda t: t.update({"stages.1.bn1.bias": torch.zeros(5)}), "size mismatch for stages.1.bn1.bias"),
    ],
)
def test_weights_of_another_architecture_are_refused_by_their_tensors(folder, change, named):
    tensors = models.build("resnet-small", GREY, 10, 0).state_dict()
    change(tensors)
    digest = saved(folder / "net.safetensors", tensors)
    with pytest.raises(BadInput, match=rf"(?s)net.safetensors: does not fit the architecture 'resnet-small'.*{named}"):
        load("resnet-small", GREY, file="net.safetensors", sha256=digest)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
def test_a_file_that_is_none_of_weights_is_named(folder, name):
    (folder / name).write_bytes(b"no weights at all")
    with pytest.raises(BadInput, match=f"{name}: cannot be read as weights"):
        load("resnet-small", GREY, file=name, sha256=sha256(b"no weights at all"))


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_code_in_a_file_is_not_run(folder, tmp_path):
    torch.save({"head.weight": Payload(tmp_path / "ran")}, folder / "net.pth")
    with pytest.raises(BadInput, match=r"net.pth: cannot be read as weights.*safetensors"):
        load("resnet-small", GREY, file="net.pth", sha256=sha256((folder / "net.pth").read_bytes()))
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_holds_more_than_tensors_is_refused(folder):
    torch.save({"epoch": 3, "optimizer": {}}, folder / "net.pth")
    with pytest.raises(BadInput, match="more than tensors: epoch, optimizer"):
        load("resnet-small", GREY, file="net.pth", sha256=sha256((folder / "net.pth").read_bytes()))


def test_a_missing_file_is_named(folder):
    with pytest.raises(
        BadInput, match=r"architecture.pretrained.file: .*data/net.safetensors: no such file.*LETHE_DATA"
    ):
        load("resnet-small", GREY, file="net.safetensors", sha256="0" * 8)


def test_own_networks_have_no_tags(folder):
    with pytest.raises(BadInput, match=r"architecture.pretrained.tag: resnet-small has no published weights"):
        load("resnet-small", GREY, tag="IMAGENET1K_V1")


@pytest.fixture
def published(server, monkeypatch, tmp_path) -> SimpleNamespace:
    """Weights V1 as torchvision publishes them: the file's name tells how their SHA-256 begins."""
    donor = models.build(TORCHVISION, COLOUR, 10, 0).state_dict()
    digest = saved(tmp_path / "source.pth", donor)
    content, name = (tmp_path / "source.pth").read_bytes(), f"net-{digest[:8]}.pth"

    def serve(*faults: str | int) -> None:
        server.serve(name, content, *faults)

    entry = SimpleNamespace(name="V1", url=f"{server.url}/{name}")
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda network: [entry])
    serve()
    return SimpleNamespace(donor=donor, sha256=digest, name=name, content=content, url=entry.url, serve=serve)


def test_torchvisions_weights_are_downloaded_once(folder, server, published):
    for _ in range(2):
        assert same(load(TORCHVISION, COLOUR, tag="V1").state_dict(), published.donor)
    assert len(server.requests) == 1
    assert (folder / "weights" / published.name).read_bytes() == published.content


@pytest.mark.parametrize("fault", ["truncated", 500])
def test_what_broke_off_is_asked_for_again(folder, published, fault, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    published.serve(fault)
    assert same(load(TORCHVISION, COLOUR, tag="V1").state_dict(), published.donor)


@pytest.mark.parametrize("fault", ["wrong", "shorter", 404])
def test_what_did_not_come_as_published_is_no_file(folder, published, fault):
    published.serve(fault)
    with pytest.raises(BadInput) as refusal:
        load(TORCHVISION, COLOUR, tag="V1")
    for part in (published.name, published.url, str(folder / "weights"), "LETHE_DATA", published.sha256[:8]):
        assert part in str(refusal.value)
    assert not (folder / "weights" / published.name).exists()
    assert same(load(TORCHVISION, COLOUR, tag="V1").state_dict(), published.donor)  # at the next try


def test_offline_a_file_put_by_hand_will_do(folder, server, published, monkeypatch):
    entry = SimpleNamespace(name="V1", url=f"http://127.0.0.1:9/{published.name}")
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda network: [entry])
    with pytest.raises(BadInput, match=r"(?s)could not be downloaded:.*http://127\.0\.0\.1:9/"):
        load(TORCHVISION, COLOUR, tag="V1")
    (folder / "weights" / published.name).write_bytes(published.content)
    assert same(load(TORCHVISION, COLOUR, tag="V1").state_dict(), published.donor)
    assert not server.requests


def test_another_file_of_that_name_is_refused_and_stays(folder, server, published):
    (folder / "weights").mkdir()
    there = folder / "weights" / published.name
    there.write_bytes(b"other")
    with pytest.raises(BadInput, match=rf"{published.name}: SHA-256 {sha256(b'other')} .*expected"):
        load(TORCHVISION, COLOUR, tag="V1")
    assert there.read_bytes() == b"other"
    assert not server.requests


def test_a_stated_checksum_holds_for_a_tag_too(folder, published):
    load(TORCHVISION, COLOUR, tag="V1", sha256=published.sha256)
    with pytest.raises(BadInput, match="expected 00000000"):
        load(TORCHVISION, COLOUR, tag="V1", sha256="0" * 8)


def test_unknown_tags_are_answered_with_those_there_are(folder):
    with pytest.raises(BadInput, match=r"torchvision/vgg11_bn has no weights 'V7'; there are: IMAGENET1K_V1"):
        weights.torchvision_file("vgg11_bn", "V7")
    with pytest.raises(BadInput, match=rf"timm/test_vit has no weights 'V7'; there are: .*{TAG}"):
        weights.timm_file("test_vit", "V7", "0" * 8)


def test_torchvision_states_the_checksums_of_all_its_classifiers():
    """And VGG-11-BN's is the one that Kodge names."""
    assert weights.torchvision_file("vgg11_bn", "IMAGENET1K_V1") == File(
        "vgg11_bn-6002323d.pth", "", ("https://download.pytorch.org/models/vgg11_bn-6002323d.pth",), sha256="6002323d"
    )
    for name in torchvision.models.list_models(module=torchvision.models):
        for entry in torchvision.models.get_model_weights(name):
            assert re.fullmatch("[0-9a-f]{8,}", weights.torchvision_file(name, entry.name).sha256)


def test_timm_states_no_checksum(folder):
    with pytest.raises(BadInput, match=rf"sha256: missing; .*timm/test_vit.{TAG}/resolve/main/model.safetensors"):
        load(TIMM, (3, 160, 160), tag=TAG)


@pytest.fixture
def hub(server, monkeypatch, tmp_path) -> SimpleNamespace:
    donor = models.build(TIMM, (3, 160, 160), 1000, 0).state_dict()
    digest = saved(tmp_path / "model.safetensors", donor)
    url = server.serve("model.safetensors", (tmp_path / "model.safetensors").read_bytes())
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda repository, file: url)
    return SimpleNamespace(donor=donor, sha256=digest)


def test_timms_weights_come_from_the_hub(folder, server, hub):
    for _ in range(2):
        assert same(load(TIMM, (3, 160, 160), 1000, tag=TAG, sha256=hub.sha256).state_dict(), hub.donor)
    assert len(server.requests) == 1
    assert (folder / "weights" / f"test_vit.{TAG}.safetensors").exists()


def test_timm_adapts_its_weights_to_other_images_and_heads(folder, hub):
    fresh = models.build(TIMM, (1, 96, 96), 10, 1).state_dict()
    result = load(TIMM, (1, 96, 96), 10, tag=TAG, sha256=hub.sha256[:8]).state_dict()
    stem = "patch_embed.proj.weight"
    changed = {name for name in result if result[name].shape != hub.donor[name].shape}
    assert changed == {stem, "pos_embed", "head.weight", "head.bias"}
    assert all(torch.equal(result[name], hub.donor[name]) for name in result.keys() - changed)
    torch.testing.assert_close(result[stem], hub.donor[stem].sum(1, keepdim=True))
    assert torch.equal(result["head.weight"], fresh["head.weight"])
    assert not torch.equal(result["pos_embed"], fresh["pos_embed"])


def test_timms_weights_of_another_checksum_are_refused(folder, hub):
    with pytest.raises(BadInput, match=f"{'0' * 8}"):
        load(TIMM, (3, 160, 160), tag=TAG, sha256="0" * 8)
    assert not list((folder / "weights").glob("*.safetensors"))


def test_images_are_normalised_as_those_that_the_weights_were_trained_on():
    """torchvision's weights of ImageNet and timm's of augreg state other values; a file's are in params.yaml."""

    def of(architecture: str, **pretrained: Any) -> Any:
        return weights.normalisation(Network(name=architecture, pretrained=Pretrained(on="imagenet", **pretrained)))

    imagenet = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    assert of("torchvision/vit_b_16", tag="IMAGENET1K_V1") == imagenet
    assert of("timm/vit_tiny_patch16_224", tag="augreg_in21k_ft_in1k") == ([0.5] * 3, [0.5] * 3)
    own = {"file": "net.safetensors", "sha256": "0" * 8}
    assert of("resnet-small", **own) is None
    assert of("resnet-small", **own, mean=[0.1], std=[0.2]) == ([0.1], [0.2])
    assert weights.normalisation(Network(name="resnet-small")) is None


def test_jobs_see_images_so_normalised(folder, tmp_path):
    data = tmp_path / "data set"
    one = {s: np.full((2, 3, 4, 4), 128, np.uint8) for s in store.SPLITS}
    tensors: dict[str, np.ndarray] = {f"{s}_images": images for s, images in one.items()}
    tensors |= {f"{s}_labels": np.arange(2) for s in one}
    tensors |= {"mean": np.full(3, 0.25, np.float32), "std": np.full(3, 0.5, np.float32)}
    store.write_tensors(data / "samples.safetensors", tensors)

    def train_samples(network: Network) -> Any:
        training = SimpleNamespace(precision="float32")
        benchmark: Any = SimpleNamespace(architecture=network, training=training, corruption=None)
        return setting.samples(data, benchmark)["train"]

    plain = train_samples(Network(name="torchvision/vgg11_bn")).input(torch.tensor([0]))
    assert plain.flatten()[0].item() == pytest.approx((128 / 255 - 0.25) / 0.5)
    tag = Pretrained(on="imagenet", tag="IMAGENET1K_V1")
    published = train_samples(Network(name="torchvision/vgg11_bn", pretrained=tag))
    found = published.input(torch.tensor([1]))[0, :, 0, 0].tolist()
    expected = zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    assert found == pytest.approx([(128 / 255 - mean) / std for mean, std in expected], rel=1e-5)
