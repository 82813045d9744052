"""Image files of every kind come out as the network's images; what is none is named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nas.data import FolderOptions
from nas.errors import DataError
from nas.final.pictures import BLANK, BLANK_INSIDE, Fit, ImageFiles, read_picture

GREY = Fit(input_shape=(1, 28, 28), light_on_dark=True, digits=False)
DIGITS = Fit(input_shape=(1, 28, 28), light_on_dark=True, digits=True)
COLOUR = Fit(input_shape=(3, 16, 24), light_on_dark=False, digits=False)


def drawing(size=(28, 28), light=True) -> Image.Image:
    """A bar that stands right of the middle."""
    image = Image.new("L", size, 0 if light else 255)
    width, height = size
    box = (width * 0.6, height * 0.2, width * 0.7, height * 0.8)
    ImageDraw.Draw(image).rectangle(box, fill=255 if light else 0)
    return image


def content(image: Image.Image, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def seen(picture) -> np.ndarray:
    assert picture.pixels.dtype == np.uint8
    return picture.pixels[0].astype(int)


def test_an_image_of_the_right_size_is_taken_as_it_is():
    picture = read_picture(content(drawing()), DIGITS)
    assert (seen(picture) == np.asarray(drawing())).all()
    assert picture.notes == ()


def test_a_light_ground_is_inverted_unless_told():
    dark = content(drawing(light=False))
    picture = read_picture(dark, GREY)
    assert picture.notes == ("inverted",)
    assert (seen(picture) == np.asarray(drawing())).all()
    as_is = read_picture(dark, GREY, "as-is")
    assert (as_is.notes, seen(as_is)[0, 0]) == ((), 255)
    assert read_picture(content(drawing()), GREY, "invert").notes == ("inverted",)
    assert read_picture(content(drawing(light=False).convert("RGB")), COLOUR).notes == ()  # colours have no ground


OWN = Fit(input_shape=(3, 16, 16), light_on_dark=False, digits=False, own=FolderOptions(image_size=16))


@pytest.mark.parametrize("fit", [GREY, DIGITS, COLOUR, OWN], ids=("grey", "digits", "colour", "own"))
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"])
def test_a_blank_image_is_noted(mode, fit):
    """Of any size, colour and mode; also where bars are put beside it."""
    for size, level in (((28, 28), 0), ((90, 31), 1), ((1, 1), 0)):
        blank = content(Image.new("RGB", size, "teal").convert(mode) if mode in ("RGB", "CMYK") else
                        Image.new(mode, size, level), "TIFF")  # fmt: skip
        for polarity in ("auto", "invert"):
            assert read_picture(blank, fit, polarity).notes[-1] == BLANK
    image = drawing((90, 31))
    drawn = content(image.convert("L" if mode == "I;16" else mode), "TIFF")
    assert not {BLANK, BLANK_INSIDE} & set(read_picture(drawn, fit).notes)


def test_an_image_whose_drawing_is_lost_on_the_way_is_noted():
    """A dot in a thousand pixels, and a thing outside the square that is cut out."""
    large = Image.new("L", (1000, 1000))
    large.putpixel((3, 500), 100)
    assert read_picture(content(large), DIGITS).notes == (BLANK_INSIDE,)
    cut = Fit(**{**vars(OWN), "own": FolderOptions(image_size=16, crop=True)})
    wide = Image.new("RGB", (90, 30))
    wide.putpixel((2, 2), (255, 0, 0))
    assert read_picture(content(wide), cut).notes == (BLANK_INSIDE,)
    assert read_picture(content(wide.crop((0, 0, 30, 30))), cut).notes == ()


@pytest.mark.parametrize("size", [(28, 28), (280, 280), (9, 9), (1, 1), (400, 100), (3, 90)])
def test_any_size_becomes_the_networks(size):
    for fit in (GREY, DIGITS, COLOUR):
        assert read_picture(content(drawing(size)), fit).pixels.shape == fit.input_shape


def test_the_shape_is_not_stretched_and_the_ground_fills_up():
    wide = Image.new("L", (100, 50), 40)
    ImageDraw.Draw(wide).rectangle((20, 10, 80, 40), fill=200)
    found = seen(read_picture(content(wide), GREY))
    assert (found[:7] == 40).all()
    assert (found[-7:] == 40).all()
    assert found[14, 14] == 200


def test_a_drawn_digit_is_centred_as_in_mnist():
    image = Image.new("L", (300, 200), 230)
    ImageDraw.Draw(image).rectangle((200, 40, 220, 120), fill=30)
    picture = read_picture(content(image), DIGITS)
    assert picture.notes == ("inverted", "centred")
    found = seen(picture)
    rows, columns = np.flatnonzero((found > 60).any(1)), np.flatnonzero((found > 60).any(0))
    assert rows[-1] - rows[0] + 1 == 20
    assert abs((rows[0] + rows[-1]) / 2 - 13.5) <= 1
    assert abs((columns[0] + columns[-1]) / 2 - 13.5) <= 1
    assert found.max() == 255


def test_an_empty_sheet_is_not_centred():
    picture = read_picture(content(Image.new("L", (90, 60), 250)), DIGITS)
    assert picture.notes == ("inverted", BLANK)
    assert (seen(picture) == 5).all()


FORMS = {
    "1": lambda image: image.convert("1"),
    "P": lambda image: image.convert("P"),
    "RGB": lambda image: image.convert("RGB"),
    "RGBA": lambda image: image.convert("RGBA"),
    "LA": lambda image: image.convert("LA"),
    "16 bits": lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_picture(form):
    assert (seen(read_picture(content(FORMS[form](drawing())), GREY)) == np.asarray(drawing())).all()


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "CMYK"), ("TIFF", "CMYK"), ("TIFF", "F"), ("BMP", "L")])
def test_other_formats(kind, mode):
    image = drawing().convert(mode)
    if mode == "F":
        image = Image.fromarray(np.asarray(drawing()).astype(np.float32) / 255 * 0.9)
    found = seen(read_picture(content(image, kind), GREY))
    expected = np.asarray(drawing()).astype(int)
    assert np.abs(found - expected * (0.9 if mode == "F" else 1)).max() < 30


@pytest.mark.parametrize("light", [True, False])
def test_what_is_transparent_is_ground(light):
    alpha = drawing()
    image = Image.new("RGBA", alpha.size, (255,) * 3 + (0,) if light else (0,) * 4)
    image.paste((255,) * 4 if light else (0, 0, 0, 255), (0, 0), alpha)
    picture = read_picture(content(image), GREY)
    assert (seen(picture) == np.asarray(drawing())).all()
    assert picture.notes == (() if light else ("inverted",))


def test_exif_turns_the_picture():
    upright = drawing()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    turned = content(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert (seen(read_picture(turned, GREY)) == np.asarray(upright)).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "no image"), (b"no image", "no image"), (content(drawing((200, 200)))[:90], "damaged")],
)
def test_what_is_no_image_is_named(data, reason, tmp_path):
    with pytest.raises(DataError, match=reason):
        read_picture(data, GREY)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=reason):
        read_picture(tmp_path / "a.png", GREY)


def test_missing_files_and_giants_are_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="No such file"):
        read_picture(tmp_path / "none.png", GREY)
    with pytest.raises(DataError, match=r"[Dd]irectory"):
        read_picture(tmp_path, GREY)
    monkeypatch.setattr("nas.final.pictures.MAX_PIXELS", 100)
    with pytest.raises(DataError, match="28 x 28 pixels"):
        read_picture(content(drawing()), GREY)


def test_a_folder_gives_its_images_in_order(tmp_path: Path):
    for name in ("b.png", "a.JPG", "sub/c.png", "notes.txt", ".hidden/d.png", "sub/.e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [str(path.relative_to(tmp_path)) for path, _ in ImageFiles().below(tmp_path)] == [
        "a.JPG",
        "b.png",
        "sub/c.png",
    ]


LEVELS = np.asarray(drawing((40, 40))).astype(np.uint16)


@pytest.mark.parametrize("fit", [GREY, DIGITS, COLOUR, OWN], ids=("grey", "digits", "colour", "own"))
@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (LEVELS * 16, "0 to 4080 of 65535"), (LEVELS * 4, "0 to 1020 of 65535"), (LEVELS * 257, None),
        ((LEVELS // 10).astype(np.uint8), "0 to 25 of 255"), (LEVELS.astype(np.uint8), None),
        ((LEVELS / 2550).astype(np.float32), "0 to 0.1 of 1"), ((LEVELS / 255).astype(np.float32), None),
        (LEVELS.astype(">u2") * 16, "0 to 4080 of 65535"), ((LEVELS * 16).astype(np.int32), "0 to 4080 of 65535"),
    ],
)  # fmt: skip
def test_a_fraction_of_a_files_levels_is_noted(levels, words, fit):
    notes = read_picture(content(Image.fromarray(levels), "TIFF"), fit).notes
    assert [note for note in notes if "contrast" in note] == ([f"very low contrast: levels {words}"] if words else [])


def test_colours_of_a_palette_are_no_levels():
    assert read_picture(content(drawing().convert("P")), GREY).notes == ()
    faint = drawing().point(lambda level: level // 10).convert("RGB").quantize(2)
    assert read_picture(content(faint), GREY).notes == ("very low contrast: levels 0 to 25 of 255",)


@pytest.mark.parametrize("fit", [GREY, OWN], ids=("grey", "own"))
@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_of_several_pictures_is_noted(kind, fit):
    frames = [drawing(), drawing(light=False), drawing((28, 28)).rotate(90)]
    several = content(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    found, alone = (read_picture(each, fit) for each in (several, content(frames[0], kind, lossless=True)))
    assert found.notes == ("first of 3 pictures",)
    assert alone.notes == ()
    assert (found.pixels == alone.pixels).all()
    if kind == "GIF":  # a later one is cut off
        read_picture(several[: len(several) * 9 // 10], fit)
