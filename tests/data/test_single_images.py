"""Single images: any mode, size and orientation become squares of eight bits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nas.data.folder_options import FolderOptions, default_size
from nas.data.pictures import decode_file, read_header, square
from nas.errors import UsageError


def squared(image: Image.Image, **options) -> np.ndarray:
    return np.asarray(square(image, FolderOptions(**{"image_size": 8, **options})))


def test_an_image_of_the_size_keeps_its_bits():
    pixels = np.random.RandomState(0).randint(0, 256, (8, 8, 3), dtype=np.uint8)
    assert (squared(Image.fromarray(pixels)) == pixels).all()
    assert (squared(Image.fromarray(pixels[..., 0]), grayscale=True) == pixels[..., 0]).all()


def test_bars_are_added_or_the_middle_is_cut_out():
    image = Image.new("RGB", (16, 8), (10, 200, 30))
    barred, cut = squared(image), squared(image, crop=True)
    assert (barred[2:6] == (10, 200, 30)).all()
    assert not barred[:2].any()
    assert not barred[6:].any()
    assert (cut == (10, 200, 30)).all()
    assert (squared(image, background="white")[:2] == 255).all()


def test_transparent_pixels_are_white_or_black():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (squared(image) == 255).all()
    assert (squared(image, background="black") == 0).all()
    half = Image.new("LA", (8, 8), (0, 128))
    assert set(squared(half).ravel()) == {127}
    palette = Image.new("P", (8, 8), 3)
    palette.info["transparency"] = 3
    assert (squared(palette) == 255).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.full((8, 8), 0x8000, np.uint16), 0x80),
        (np.full((8, 8), 255, np.uint16), 0),  # of 65,535
        (np.full((8, 8), 0x8000, np.int32), 0x80),
        (np.full((8, 8), 200, np.int32), 200),
        (np.full((8, 8), 0.5, np.float32), 128),
        (np.full((8, 8), 200, np.float32), 200),
        (np.full((8, 8), np.nan, np.float32), 0),
    ],
)
def test_deep_images_become_eight_bits(values, expected):
    assert abs(int(squared(Image.fromarray(values), grayscale=True)[0, 0]) - expected) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "PA"])
def test_all_modes_become_three_channels_or_one(mode):
    image = Image.new("L" if mode in ("P", "PA", "LA") else "RGB", (12, 5), "#c8c8c8")
    image = (image.convert("P") if mode == "PA" else image).convert(mode)
    assert squared(image).shape == (8, 8, 3)
    assert squared(image, grayscale=True).shape == (8, 8)
    assert abs(int(squared(image, grayscale=True)[4, 4]) - (255 if mode == "1" else 200)) <= 2


def test_orientation_is_obeyed(tmp_path):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:, :4] = 255  # bright on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = decode_file(tmp_path / "turned.png", FolderOptions(image_size=8, grayscale=True))[0]
    assert (turned == np.rot90(pixels, -1)).all()
    assert turned[0].all()
    assert not turned[-1].any()


def test_a_large_photograph_is_the_same_as_read_whole(tmp_path):
    y, x = np.mgrid[0:900, 0:1200]
    pixels = np.stack([x * 255 // 1199, y * 255 // 899, (x + y) * 255 // 2098], 2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    quick = decode_file(tmp_path / "a.jpg", FolderOptions(image_size=32)).transpose(1, 2, 0).astype(int)
    whole = np.asarray(square(Image.fromarray(pixels), FolderOptions(image_size=32))).astype(int)
    assert np.abs(quick - whole).mean() < 3


def test_a_header_has_hash_size_and_mode_or_says_why_not(tmp_path):
    Image.new("CMYK", (3, 5)).save(tmp_path / "a.jpg")
    header = read_header(tmp_path / "a.jpg")
    assert (header.width, header.height, header.mode, len(header.sha256)) == (3, 5, "CMYK", 64)
    (tmp_path / "b.png").write_bytes(b"x")
    assert read_header(tmp_path / "b.png") == "no image that Pillow reads"
    assert read_header(tmp_path / "none.png") == "No such file or directory"


def test_an_image_too_large_to_unpack_is_refused(tmp_path, monkeypatch):
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "exceeds limit" in read_header(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ([(28, 28)], 28), ([(32, 32)], 32), ([(8, 9)], 16), ([(60, 40)], 48), ([(4000, 3000)], 96),
        ([(1, 1), (30, 34), (500, 9)], 32),
    ],
)  # fmt: skip
def test_the_default_size_is_near_the_images_own(sides, size):
    assert default_size(sides) == size


@pytest.mark.parametrize(
    "options", [{"image_size": 7}, {"image_size": 1000}, {"image_size": True}, {"background": "red"}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(UsageError, match=r"from 8 to 512 pixels|white or black"):
        FolderOptions(**options)
