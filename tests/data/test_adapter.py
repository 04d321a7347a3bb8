import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openset.data import Adapter, ImageSet, load_files


def picture(mode: str, size=(6, 4)) -> Image.Image:
    """A horizontal ramp from black to white, width 6 and height 4."""
    ramp = np.tile(np.linspace(0, 255, size[0]).astype(np.uint8), (size[1], 1))
    return Image.fromarray(ramp).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I", "F", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_uint8_of_the_declared_shape(mode, channels):
    source = picture("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(source).astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(np.asarray(source).astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(source).astype(np.float32) / 255)
    else:
        image = source.convert(mode)
    pixels = Adapter((4, 6), channels)(image)
    assert pixels.shape == (channels, 4, 6)
    assert pixels.dtype == torch.uint8
    expected = source.convert("1").convert("L") if mode == "1" else source
    reference = torch.from_numpy(np.array(expected)).expand(channels, -1, -1)
    assert (pixels.int() - reference.int()).abs().max() <= 1


def test_transparent_pictures_lie_on_white():
    image = Image.new("RGBA", (2, 1))
    image.putpixel((1, 0), (0, 0, 255, 255))
    assert Adapter((1, 2))(image)[:, 0].T.tolist() == [[255, 255, 255], [0, 0, 255]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([9, 9, 9])
    palette.info["transparency"] = 0
    assert Adapter((1, 1), 1)(palette).item() == 255


def test_inversion_is_exact_and_comes_before_resizing():
    image = picture("L")
    plain = Adapter((4, 6), 1)(image)
    assert torch.equal(Adapter((4, 6), 1, invert=True)(image), 255 - plain)
    bits = Image.fromarray(np.array([[True, False]]))
    assert Adapter((1, 2), 1, invert=True)(bits).tolist() == [[[0, 255]]]


def test_resizing_averages_what_it_shrinks():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 254
    small = Adapter((8, 8), 1)(stripes).float()
    assert (small[0, :, 1:-1] - 127).abs().max() <= 2  # without antialiasing it would be 0 or 254


def test_the_same_size_is_left_alone():
    pixels = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert torch.equal(Adapter((5, 7), 3)(pixels), pixels)
    assert torch.equal(Adapter((5, 7), 3)(pixels.permute(1, 2, 0).numpy()), pixels)
    assert torch.equal(Adapter((5, 7), 3)(pixels.float() / 255), pixels)


@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.booleans(),
    st.sampled_from(["bilinear", "bicubic", "lanczos", "box", "nearest"]),
)  # fmt: skip
def test_settings_survive_json(height, width, channels, invert, interpolation):
    adapter = Adapter((height, width), channels, invert, interpolation)
    assert Adapter.from_settings(json.loads(json.dumps(adapter.settings()))) == adapter


def test_float_pixels_must_be_finite_and_in_range():
    adapter = Adapter((2, 2), 1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        adapter(np.array([[0, np.nan], [0, 0]]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        adapter(torch.full((1, 2, 2), torch.inf))
    with pytest.raises(ValueError, match=r"0…1.*0…255"):
        adapter(np.array([[0.0, 7.0], [0, 0]]))
    with pytest.raises(ValueError, match="int64"):
        adapter(torch.zeros(1, 2, 2, dtype=torch.long))


@pytest.mark.parametrize("shape", [(2,), (2, 4, 4), (5, 5, 5), (1, 3, 4, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="has shape"):
        Adapter((4, 4))(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 4)}, "size is"),
        ({"size": (4, 4), "channels": 2}, "channels is 2"),
        ({"size": (4, 4), "interpolation": "sinc"}, "nearest"),
        ({"size": (4, 4), "resize": "fit"}, "stretch, shorter, pad"),
        ({"size": (4, 4), "scaled": (4, 0)}, "scaled is"),
        ({"size": (4, 4), "fill": (0, 0, 300)}, "fill is"),
        ({"size": (4, 4), "channels": 1, "std": (0.0,)}, "no std of 0"),
        ({"size": (4, 4), "mean": (0.5,)}, "mean has 1 values for 3 channels"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Adapter(**settings)


def test_a_bad_file_is_named(tmp_path):
    adapter = Adapter((4, 6), 1)
    good = tmp_path / "good.png"
    picture("L").save(good)
    assert torch.equal(adapter.open(good), adapter(picture("L")))
    assert torch.equal(adapter.open(good.read_bytes()), adapter.open(good))
    truncated, empty, text = (tmp_path / f"{name}.png" for name in ("truncated", "empty", "text"))
    big = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    big.save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:200])
    empty.write_bytes(b"")
    text.write_text("no image")
    for path, reason in [(truncated, ""), (empty, "empty"), (text, "no image that Pillow")]:
        with pytest.raises(ValueError, match=f"{path.name}.*{reason}"):
            adapter.open(path)
    with pytest.raises(ValueError, match=r"no such image: .*gone\.png"):
        adapter.open(tmp_path / "gone.png")


def test_photos_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180°
    picture("L").save(tmp_path / "turned.png", exif=exif)
    upright = Adapter((4, 6), 1).open(tmp_path / "turned.png")
    assert torch.equal(upright, Adapter((4, 6), 1)(picture("L")).flip(1, 2))


def ramps(height: int, width: int) -> Image.Image:
    """A picture whose pixels tell where they lie: red is the column, green the row."""
    red, green = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([red, green, 0 * red], 2).astype(np.uint8))


def test_the_shorter_side_is_resized_and_the_centre_cut_out():
    adapter = Adapter((4, 4), resize="shorter", interpolation="nearest")
    wide = adapter(ramps(8, 24))
    assert wide[0, 0].tolist() == [9, 11, 13, 15]  # columns 4…7 of the 12 that are left
    assert wide[1, :, 0].tolist() == [1, 3, 5, 7]
    tall = adapter(ramps(24, 8))
    assert tall[1, :, 0].tolist() == [9, 11, 13, 15]
    assert tall[0, 0].tolist() == [1, 3, 5, 7]


def test_the_centre_of_a_larger_picture_is_cut_out():
    adapter = Adapter((4, 2), resize="shorter", scaled=(8, 8), interpolation="nearest")
    cut = adapter(ramps(8, 8))
    assert cut[0, 0].tolist() == [3, 4]
    assert cut[1, :, 0].tolist() == [2, 3, 4, 5]
    assert torch.equal(adapter(torch.from_numpy(np.array(ramps(8, 8))).permute(2, 0, 1)), cut)


def test_bars_keep_the_whole_picture_and_its_aspect():
    adapter = Adapter((6, 6), resize="pad", interpolation="nearest", fill=(7, 8, 9))
    padded = adapter(ramps(4, 12))
    assert padded[:, 2:4, :][0, 0].tolist() == [1, 3, 5, 7, 9, 11]
    bars = padded[:, [0, 1, 4, 5]]
    assert torch.equal(
        bars, torch.tensor([7, 8, 9], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 6)
    )
    assert Adapter((6, 6), resize="pad")(ramps(4, 12))[:, 0].sum() == 0


def test_a_mask_is_cut_as_its_picture_is():
    classes = ramps(9, 30).split()[0]
    for resize, scaled in [
        ("shorter", None),
        ("shorter", (12, 12)),
        ("stretch", (8, 8)),
        ("pad", None),
    ]:
        adapter = Adapter((6, 6), 1, resize=resize, scaled=scaled, interpolation="nearest")
        pixels, mask = adapter(classes)[0], adapter.mask(classes)
        beside = mask == 255
        assert torch.equal(pixels[~beside], mask[~beside])
        assert bool(beside.any()) == (resize == "pad")


def test_images_in_memory_are_cut_as_files_are(tmp_path):
    adapter = Adapter((4, 4), resize="shorter", scaled=(6, 6))
    ramps(4, 4).save(tmp_path / "ramp.png")
    images = ImageSet(adapter.open(tmp_path / "ramp.png")[None], None)
    stored = torch.from_numpy(np.array(ramps(4, 4))).permute(2, 0, 1)[None]
    assert torch.equal(ImageSet(stored, None, adapter)[0][0], images[0][0])
    assert torch.equal(load_files([tmp_path / "ramp.png"], adapter)[0][0], images[0][0])


def test_what_the_network_sees_can_be_looked_at(tmp_path):
    adapter = Adapter((4, 4), 1, invert=True, resize="shorter")
    ramps(8, 24).save(tmp_path / "ramp.png")
    seen = adapter.show(tmp_path / "ramp.png")
    assert seen.size == (4, 4)
    assert torch.equal(torch.from_numpy(np.array(seen))[None], adapter.open(tmp_path / "ramp.png"))


def test_a_picture_too_long_to_resize_is_refused():
    sliver = Image.new("L", (1_000_000, 1))
    with pytest.raises(ValueError, match=r"1 × 1000000 pixels would become.*stretch"):
        Adapter((224, 224), resize="shorter")(sliver)
    assert Adapter((224, 224), resize="pad")(sliver).shape == (3, 224, 224)


def test_settings_of_earlier_versions_are_read_and_new_ones_are_short():
    earlier = {"size": [8, 8], "channels": 1, "invert": True, "resample": "bicubic"}
    adapter = Adapter.from_settings(earlier)
    assert adapter == Adapter((8, 8), 1, invert=True, interpolation="bicubic")
    renamed = {**earlier, "interpolation": "bicubic"}
    del renamed["resample"]
    assert adapter.settings() == renamed
    whole = Adapter(
        (4, 3), resize="pad", scaled=(8, 6), fill=(1, 2, 3), mean=(0.1,) * 3, std=(1.0,) * 3
    )
    assert Adapter.from_settings(json.loads(json.dumps(whole.settings()))) == whole
    assert eval(repr(whole)) == whole
    assert repr(Adapter((4, 3))) == "Adapter(size=(4, 3))"
    assert str(whole) == "longer side to 8 × 6 (bilinear), bars, centre of 4 × 3, RGB"


def test_masks_are_resized_without_new_values():
    values = np.array([[0, 11], [255, 3]], np.uint8)
    mask = Adapter((4, 4)).mask(Image.fromarray(values))
    assert torch.equal(mask[::2, ::2], torch.from_numpy(values))
    assert set(mask.unique().tolist()) == {0, 3, 11, 255}
    with pytest.raises(ValueError, match="mode RGB"):
        Adapter((4, 4)).mask(picture("RGB"))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_laid_on_white_band_by_band(monkeypatch, mode, channels):
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 4)).astype(np.uint8)
    image = Image.fromarray(values).convert("P" if mode == "P" else mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(256))
    adapter = Adapter((9, 7), channels)
    whole = Image.alpha_composite(Image.new("RGBA", (7, 9), "white"), image.convert("RGBA"))
    for band in (2**20, 14, 1):
        monkeypatch.setattr("openset.data.modes.BAND", band)
        assert torch.equal(adapter(image), adapter(whole.convert("RGB")))
