import numpy as np
import pytest
import torch
from PIL import Image

from openset.data import Adapter, load_images
from openset.data.builders.tiny_imagenet import crop, resize


@pytest.fixture
def source(tmp_path):
    """Five noisy 64×64 images in two subfolders, one of them grey."""
    folder = tmp_path / "train"
    generator = np.random.default_rng(0)
    for i in range(5):
        (folder / f"n{i % 2}").mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        (image.convert("L") if i == 4 else image).save(folder / f"n{i % 2}" / f"{i}.png")
    return folder


def pixels(file):
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)


def read(folder):
    """Images by their stored name."""
    images = load_images(str(folder), Adapter(size=(32, 32), channels=3))
    cells = images.pixels._cells(range(len(images)))
    return {cell["path"]: x for cell, x in zip(cells, images.images, strict=True)}


def test_crops_are_the_pixels_at_the_place_in_their_name(source, tmp_path):
    found = read(crop(source, tmp_path / "crop"))
    assert len(found) == 5
    places = set()
    for name, image in found.items():
        stem, top, left = name.removesuffix(".png").split("_")
        (file,) = source.rglob(f"{stem}.png")
        top, left = int(top), int(left)
        assert image.equal(pixels(file)[:, top : top + 32, left : left + 32])
        places.add((top, left))
    assert len(places) > 1


def test_resizing_with_antialiasing_equals_pillow(source, tmp_path):
    for name, image in read(resize(source, tmp_path / "small")).items():
        (file,) = source.rglob(name)
        picture = Image.open(file).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        # Pillow rounds between the two directions.
        assert (image.int() - expected.int()).abs().max() <= 2


def test_without_antialiasing_fine_detail_folds_into_a_pattern(tmp_path):
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    (tmp_path / "stripes").mkdir()
    Image.fromarray(stripes).save(tmp_path / "stripes" / "a.png")

    def spread(antialias):
        folder = resize(
            tmp_path / "stripes", tmp_path / f"{antialias}", size=24, antialias=antialias
        )
        images = load_images(str(folder), Adapter(size=(24, 24), channels=3)).images
        return images[..., 2:-2].float().std()

    assert spread(antialias=True) < 20 < 60 < spread(antialias=False)


@pytest.mark.parametrize("build", [crop, resize])
def test_sample_and_places_follow_the_seed(build, source, tmp_path):
    a, b, c = (
        read(build(source, tmp_path / f"{i}", count=3, seed=seed))
        for i, seed in enumerate([0, 0, 1])
    )
    assert len(a) == 3
    assert list(a) == list(b) != list(c)
    assert all(a[name].equal(b[name]) for name in a)


def test_too_few_images(source, tmp_path):
    with pytest.raises(ValueError, match="holds 5 images; needed are 6"):
        crop(source, tmp_path / "out", count=6)
    assert not (tmp_path / "out").exists()


def test_an_image_smaller_than_the_crop_is_named(source, tmp_path):
    Image.new("RGB", (20, 40)).save(source / "n0" / "z.png")
    with pytest.raises(ValueError, match=r"z\.png is 40×20; a crop needs at least 32×32"):
        crop(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_not_overwritten(source, tmp_path):
    with pytest.raises(ValueError, match="already holds"):
        crop(source, source)
