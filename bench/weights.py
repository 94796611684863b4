"""Pretrained weights: a local file or a published one, each read only after its SHA-256 matched.

Published files are downloaded into `weights` in the data folder (`bench/download.py`); one that is there is
never downloaded again. torchvision states the first digits of the SHA-256 in a file's name. timm states none,
so params.yaml has to.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.config import Network
from bench.download import File, fetch
from bench.errors import BadInput
from bench.layers import head
from bench.models import Shape, timm_network
from bench.store import VARIABLE, data_folder

KEY = "architecture.pretrained"


def load(model: nn.Module, network: Network, shape: Shape, classes: int) -> nn.Module:
    """The freshly built network with its pretrained weights, if params.yaml names some.

    A head of another number of classes stays as it was initialised; everything else must fit. What timm names by
    a tag is read by timm, which adapts it to images of another size or with other channels.

    Args:
        shape, classes: what the network was built for.

    Raises:
        BadInput: the file is missing and cannot be downloaded, is not the one that params.yaml or its publisher
            states, or does not fit the network.
    """
    pretrained, (library, _, name) = network.pretrained, network.name.rpartition("/")
    if pretrained is None:
        return model
    tag = pretrained.tag or ""
    if pretrained.file is not None:
        path = data_folder() / pretrained.file.expanduser()
        if not path.is_file():
            raise BadInput(f"{KEY}.file: {path}: no such file; a relative one lies in the folder that {VARIABLE} names")
    elif library == "torchvision":
        path = downloaded(torchvision_file(name, tag))
    elif library == "timm":
        path = downloaded(timm_file(name, tag, pretrained.sha256))
    else:
        raise BadInput(f"{KEY}.tag: {network.name} has no published weights; give a `file`")
    check(path, pretrained.sha256 or "")
    tensors = read_by_timm(path, name, tag, shape) if library == "timm" and tag else read(path)
    return fill(model, tensors, classes, f"{path}: does not fit the architecture '{network.name}'")


def check(path: Path, sha256: str) -> None:
    """See to it that a file's SHA-256 begins with these digits; else `BadInput`."""
    with path.open("rb") as raw:
        found = hashlib.file_digest(raw, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise BadInput(
            f"{path}: SHA-256 {found} ({path.stat().st_size:,} bytes), expected {sha256}: damaged, or another file; "
            f"nothing of it was read. Delete or replace it, or correct {KEY}.sha256"
        )


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checked file, safetensors or a state dict of torch's, by name, on the CPU."""
    from timm.models import load_state_dict  # reads both

    try:
        tensors = load_state_dict(str(path))
    except Exception as error:  # of either format's reader
        advice = "make it with safetensors.torch.save_file of the network's state_dict()"
        raise BadInput(f"{path}: cannot be read as weights: {_reason(error)}; {advice}") from error
    if others := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise BadInput(f"{path}: holds more than tensors: {', '.join(others)}; save the network's state_dict() alone")
    return tensors


def read_by_timm(path: Path, name: str, tag: str, shape: Shape) -> dict[str, Tensor]:
    """The tensors of timm's network `name` with the weights `tag` from a checked file, for images of this shape."""
    classes = timm_states(name, tag, "num_classes")
    options: dict[str, Any] = {
        "pretrained_cfg": tag,
        "pretrained_cfg_overlay": {"file": str(path), "custom_load": False},  # a state dict, no archive of JAX's
    }
    try:
        return timm_network(name, shape, classes, pretrained=True, **options).state_dict()
    except Exception as error:  # of timm, of either format's reader
        raise BadInput(f"{path}: timm cannot load it into '{name}': {_reason(error)}") from error


def fill(model: nn.Module, tensors: dict[str, Tensor], classes: int, wrong: str) -> nn.Module:
    """Copy the tensors into the network; its head keeps its own where there are none of its size.

    Raises:
        BadInput: `wrong`, and the tensors that are missing, left over, or of another shape.
    """
    kept = head_tensors(model, classes)
    if any(name not in tensors or tensors[name].shape != value.shape for name, value in kept.items()):
        tensors = tensors | kept
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise BadInput(f"{wrong}: {error}") from None
    return model


def head_tensors(model: nn.Module, classes: int) -> dict[str, Tensor]:
    """Weight and bias of the head by name; nothing where a network has no head of its own or several."""
    try:
        layer = head(model, classes)
    except ValueError:
        return {}
    parameters = {id(p) for p in layer.parameters()}
    return {name: p.detach() for name, p in model.named_parameters() if id(p) in parameters}


def normalisation(network: Network) -> tuple[list[float], list[float]] | None:
    """Mean and std per channel, on the scale [0, 1], with which the pretrained weights' images were normalised.

    Those that torchvision or timm state of their weights, or that params.yaml states of a file's; None where there
    are none, and the data set's own are taken.
    """
    pretrained, (library, _, name) = network.pretrained, network.name.rpartition("/")
    if pretrained is None:
        return None
    if pretrained.mean is not None and pretrained.std is not None:
        return list(pretrained.mean), list(pretrained.std)
    if pretrained.tag is None:
        return None
    if library == "timm":
        mean, std = (timm_states(name, pretrained.tag, key) for key in ("mean", "std"))
        return list(mean), list(std)
    from torchvision.models import get_model_weights

    preset = get_model_weights(name)[pretrained.tag].transforms()
    return list(preset.mean), list(preset.std)


def torchvision_file(name: str, tag: str) -> File:
    """The weights of a network that torchvision calls `tag`."""
    from torchvision.models import get_model_weights

    urls = {weights.name: weights.url for weights in get_model_weights(name)}  # without DEFAULT, which may change
    _known(tag, urls, f"torchvision/{name}")
    file = urls[tag].rpartition("/")[2]
    return File(file, "", (urls[tag],), sha256=Path(file).stem.rpartition("-")[2])


def timm_file(name: str, tag: str, sha256: str | None) -> File:
    """The weights of a network that timm calls `tag`, on the Hugging Face hub if timm has them there."""
    import timm
    from huggingface_hub import hf_hub_url

    _known(tag, [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")], f"timm/{name}")
    hub = timm_states(name, tag, "hf_hub_id")
    url = hf_hub_url(hub, "model.safetensors") if hub else timm_states(name, tag, "url")
    if sha256 is None:
        raise BadInput(f"{KEY}.sha256: missing; timm states no checksum, so give that of {url}")
    return File(f"{name}.{tag}{Path(url).suffix}", "", (url,), sha256=sha256)


def timm_states(name: str, tag: str, key: str) -> Any:
    """What timm's registry says of its weights `name.tag`."""
    import timm

    return timm.get_pretrained_cfg_value(f"{name}.{tag}", key)


def _known(tag: str, tags: Iterable[str], architecture: str) -> None:
    if tag not in tags:
        raise BadInput(f"{KEY}.tag: {architecture} has no weights '{tag}'; there are: {', '.join(tags) or 'none'}")


def downloaded(file: File) -> Path:
    """Where the published file lies, downloaded if it was not there; `BadInput` as `bench.download.fetch` has it."""
    folder = data_folder() / "weights"
    fetch("pretrained weights", [file], folder)
    return folder / file.name


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
