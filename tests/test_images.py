"""ImageNet and other folders of images, in generated folders of the same layout."""

import io
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from bench import images
from bench.datasets import Split
from bench.sources import SOURCES, NoFolder
from tests.pictures import decoded, encoded, pixels, refusal, same, write_folder


@pytest.fixture
def imagenet(tmp_path, monkeypatch) -> dict[str, bytes]:
    """ImageNet's layout with an image per class, which is all that `SOURCES` then expects."""
    rng = np.random.default_rng(0)
    one = encoded(rng.integers(0, 256, (3, 30, 40), dtype=np.uint8))
    wnids = [f"n{k:08}" for k in range(0, 3000, 3)]
    files = {f"train/{w}/{w}_7.JPEG": one for w in wnids}
    files |= {f"val/{w}/ILSVRC2012_val_{k:08}.JPEG": one for k, w in enumerate(wnids)}
    for k, name in enumerate(rng.permutation(sorted(files))[:8]):
        pixels = rng.integers(0, 256, (1 if k == 0 else 3, *rng.integers(25, 60, 2)), dtype=np.uint8)
        files[name] = encoded(pixels)
    source = SOURCES["imagenet"]
    monkeypatch.setitem(SOURCES, "imagenet", replace(source, read=partial(source.read, counts=(1000, 1000))))
    return files


def usual_view(content: bytes, size: int) -> np.ndarray:
    view = transforms.Compose([transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)])
    return np.asarray(view(Image.open(io.BytesIO(content)).convert("RGB"))).transpose(2, 0, 1)


@pytest.mark.parametrize("named", ["by argument", "by variable"])
def test_imagenet_is_cut_as_usual_and_numbered_by_wnid(imagenet, tmp_path, monkeypatch, named):
    write_folder(tmp_path, imagenet)
    (tmp_path / "train/n00000000/.DS_Store").write_bytes(b"hidden")
    monkeypatch.setenv("LETHE_IMAGENET", str(tmp_path if named == "by variable" else tmp_path / "elsewhere"))
    loaded = SOURCES["imagenet"].load(tmp_path if named == "by argument" else None, size=28, jobs=2)
    for part, folder in zip(loaded, ("train", "val"), strict=True):
        contents = [imagenet[name] for name in sorted(imagenet) if name.startswith(folder)]
        same(part, Split(np.stack([usual_view(c, 28) for c in contents]), np.arange(1000)))


def test_imagenet_that_is_incomplete_is_told_before_anything_is_decoded(imagenet, tmp_path, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(images, "decoded", never)
    write_folder(tmp_path, imagenet)
    lost = next(iter(imagenet))
    (tmp_path / "train/n00000003/another.JPEG").write_bytes(imagenet[lost])
    message = refusal("imagenet", tmp_path, size=8)
    assert f"{tmp_path / 'train'}: 1,001 images; 1,000 are expected" in message
    (tmp_path / lost).unlink()
    assert "valid file for the classes n00000000" in refusal("imagenet", tmp_path, size=8)
    (tmp_path / lost).parent.rmdir()
    message = refusal("imagenet", tmp_path, size=8)
    assert f"{tmp_path / 'train'}: has no class n00000000, which {tmp_path / 'val'} has" in message
    (tmp_path / "val/n00000000/ILSVRC2012_val_00000000.JPEG").unlink()
    (tmp_path / "val/n00000000").rmdir()
    message = refusal("imagenet", tmp_path, size=8)
    assert f"{tmp_path}: 999 classes; 1,000 are expected" in message


def test_imagenet_is_not_downloaded_and_says_what_to_do(monkeypatch):
    monkeypatch.delenv("LETHE_IMAGENET", raising=False)
    message = refusal("imagenet", None, size=224)
    assert "its licence forbids a download" in message
    assert "LETHE_IMAGENET" in message
    assert "ILSVRC2012_img_val.tar (MD5 29b22e2961454d5413ddabcf34fc5622)" in message


def test_a_folder_that_is_not_there_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("LETHE_IMAGENET", str(tmp_path / "gone"))
    for name, folder, words in (
        ("imagenet", None, f"{tmp_path / 'gone'}: no such folder"),
        ("imagefolder", tmp_path / "far", f"{tmp_path / 'far'}: no such folder"),
        ("imagefolder", None, "imagefolder needs the folder of its images"),
    ):
        with pytest.raises(NoFolder, match=words):
            SOURCES[name].load(folder, size=8)


def test_a_folder_without_parts_is_named(tmp_path):
    message = refusal("imagenet", tmp_path, size=8)
    assert f"{tmp_path / 'train'}: No such file or directory; it must hold a folder of images per class" in message
    write_folder(tmp_path, {"train/a/1.png": encoded(np.zeros((3, 8, 8), np.uint8), "PNG"), "val/1.JPEG": b""})
    assert f"{tmp_path / 'val'}: Couldn't find any class folder" in refusal("imagefolder", tmp_path, size=8)


def some_images(channels: int, shape: tuple[int, int] = (9, 9)) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    names = [f"{part}/{c}/{k}.png" for part in ("train", "test") for c in ("cat", "dog") for k in range(3)]
    return {n: encoded(rng.integers(0, 256, (channels, *shape), dtype=np.uint8), "PNG") for n in names}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("test", ["test", "val"])
def test_images_of_the_asked_size_keep_their_pixels_and_grey_one_channel(tmp_path, channels, test):
    files = some_images(channels)
    write_folder(tmp_path, files)
    (tmp_path / "test").rename(tmp_path / test)
    for part, folder in zip(SOURCES["imagefolder"].load(tmp_path, size=9), ("train", "test"), strict=True):
        contents = [files[name] for name in sorted(files) if name.startswith(folder)]
        expected = np.stack([decoded(c, "L" if channels == 1 else "RGB") for c in contents])
        same(part, Split(expected, np.array([0, 0, 0, 1, 1, 1])))


def test_images_of_another_size_are_scaled_and_cut_in_the_middle(tmp_path):
    files = some_images(3, shape=(20, 31))
    write_folder(tmp_path, files)
    train, _ = SOURCES["imagefolder"].load(tmp_path, size=8)
    view = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])
    expected = np.asarray(view(Image.open(tmp_path / "train/cat/0.png")))
    np.testing.assert_array_equal(pixels(train)[0].transpose(1, 2, 0), expected)


def test_one_coloured_image_makes_three_channels(tmp_path):
    write_folder(tmp_path, some_images(1) | {"test/dog/2.png": encoded(np.full((3, 9, 9), 7, np.uint8), "PNG")})
    train, test = SOURCES["imagefolder"].load(tmp_path, size=9)
    assert train.shape == (6, 3, 9, 9)
    assert (pixels(train)[:, 0] == pixels(train)[:, 2]).all()
    assert (pixels(test)[5] == 7).all()


@pytest.mark.parametrize("jobs", [1, 3])
def test_all_files_that_are_no_images_are_counted_and_named(tmp_path, jobs):
    files = some_images(3)
    deep = io.BytesIO()
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(deep, "PNG")
    broken = {
        "train/cat/notes.txt": b"These are cats.",
        "train/cat/1.png": files["train/cat/1.png"][:150],
        "train/dog/0.png": b"",
        "train/dog/deep.png": deep.getvalue(),
    }
    write_folder(tmp_path, files | broken)
    message = refusal("imagefolder", tmp_path, size=9, jobs=jobs)
    assert "4 of 8 files are no whole images" in message
    lines = message.splitlines()[1:]
    assert [line.split(": ")[0].strip() for line in lines] == sorted(str(tmp_path / name) for name in broken)
    assert "more than 8 bits a channel" in lines[3]


def test_a_long_list_of_broken_files_is_cut_short(tmp_path):
    write_folder(tmp_path, some_images(1) | {f"train/cat/x{k}": b"" for k in range(25)})
    lines = refusal("imagefolder", tmp_path, size=9).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  and 15 more"


def test_threads_and_batches_leave_no_mark(tmp_path, monkeypatch):
    write_folder(tmp_path, some_images(3, shape=(20, 31)))
    names = sorted(str(p) for p in tmp_path.rglob("*.png"))
    results = []
    for jobs, batch in ((1, 64), (4, 1), (2, 5)):
        monkeypatch.setattr(images, "BATCH", batch)
        batches = list(images.decoded(names, (3, 8, 8), shorter=9, jobs=jobs))
        assert max(map(len, batches)) <= batch
        results.append(np.concatenate(batches))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_rows_are_read_in_the_order_asked_and_no_others(tmp_path):
    files = some_images(3)
    write_folder(tmp_path, files | {"train/dog/2.png": b"never read"})
    train, _ = SOURCES["imagefolder"].load(tmp_path, size=9)
    some = train[np.array([4, 0, 2])][np.array([2, 0])]
    expected = np.stack([decoded(files[f"train/{name}.png"]) for name in ("cat/2", "dog/1")])
    same(some, Split(expected, np.array([0, 1])))


def test_classes_that_only_one_part_has_are_named(tmp_path):
    files = some_images(3)
    write_folder(tmp_path, files | {"test/owl/0.png": files["test/cat/0.png"]})
    message = refusal("imagefolder", tmp_path, size=9)
    assert f"{tmp_path / 'train'}: has no class owl, which {tmp_path / 'test'} has" in message
    write_folder(tmp_path, {f"train/{c}/0.png": files["test/cat/0.png"] for c in ("owl", "yak")})
    assert f"{tmp_path / 'test'}: has no class yak, which" in refusal("imagefolder", tmp_path, size=9)
