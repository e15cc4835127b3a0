"""Image files become squares of 8 bits in RGB by the true range of their mode, or are refused with file and mode."""

import numpy as np
import pytest
from conftest import refusal
from PIL import Image

from rossbench.data.pixels import decode


def pixels(path, size=8):
    return np.frombuffer(decode(path, size), np.uint8).reshape(3, size, size)


def wide(values, dtype="<u2"):
    """Gray of more than 8 bits, a value to each column of 2 pixels."""
    return Image.fromarray(np.repeat(np.repeat(np.array([values], dtype), 2, 1), 2 * len(values), 0))


def palette():
    made = Image.new("P", (16, 16), 1)
    made.putpalette([0, 0, 0, 50, 60, 70])
    return made


def pnm(depth):
    """A PGM file whose white is ``depth``, with 0, half of it and white."""
    values = np.repeat(np.repeat([[0, depth // 2, depth]], 2, 1), 6, 0)
    return b"P5 6 6 %d\n" % depth + values.astype(">u2" if depth > 255 else "u1").tobytes()


@pytest.mark.parametrize(
    ("made", "name", "options", "rgb"),
    [
        (Image.new("L", (16, 16), 90), "x.png", {}, (90, 90, 90)),
        (Image.new("L", (16, 16), 90), "x.png", {"transparency": 90}, (90, 90, 90)),
        (Image.new("RGB", (16, 16), (1, 2, 3)), "x.png", {"transparency": (1, 2, 3)}, (1, 2, 3)),
        (Image.new("RGBA", (16, 16), (9, 8, 7, 0)), "x.png", {}, (9, 8, 7)),
        (Image.new("LA", (16, 16), (9, 30)), "x.png", {}, (9, 9, 9)),
        (Image.new("1", (16, 16), 1), "x.png", {}, (255, 255, 255)),
        (Image.new("1", (16, 16), 1), "x.tif", {}, (255, 255, 255)),
        (palette(), "x.png", {"transparency": bytes([0, 128])}, (50, 60, 70)),
        (palette(), "x.bmp", {}, (50, 60, 70)),
        (Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "x.tif", {}, (0, 255, 255)),
        (Image.new("YCbCr", (16, 16), (80, 128, 128)), "x.tif", {}, (80, 80, 80)),
    ],
)
def test_a_colour_of_8_bits_stays_and_an_opacity_is_dropped(tmp_path, made, name, options, rgb):
    made.save(tmp_path / name, **options)
    assert (pixels(tmp_path / name) == np.array(rgb).reshape(3, 1, 1)).all()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda path: wide([0, 128 * 257, 65535]).save(path), "x.png"),
        (lambda path: wide([0, 128 * 257 + 100, 65535]).save(path), "x.tif"),
        (lambda path: wide([0, 128 * 257, 65535], ">u2").save(path), "x.tiff"),
        (lambda path: path.write_bytes(pnm(65535)), "x.pgm"),
        (lambda path: path.write_bytes(pnm(1023)), "x.pgm"),
        (lambda path: path.write_bytes(pnm(255)), "x.pgm"),
    ],
)
def test_gray_of_16_bits_is_scaled_by_its_whole_range(tmp_path, make, name):
    make(tmp_path / name)
    row = pixels(tmp_path / name, 6)[0, 0, ::2]
    assert row[0] == 0
    assert abs(int(row[1]) - 128) <= 1
    assert row[2] == 255


def refused_mode(path, made, **options):
    made.save(path, **options)
    return refusal(lambda: pixels(path))


def test_numbers_without_a_known_range_and_several_images_are_refused_with_file_and_mode(tmp_path):
    gray, sign, real = wide([0, 9]), wide([0, 9], "i4"), wide([0, 9], "f4")
    gray8 = Image.new("L", (16, 16), 9)
    lab, two = Image.new("LAB", (16, 16)), [Image.new("RGB", (16, 16), (k, k, k)) for k in (9, 99)]
    for made, name, options, mode in [
        (sign, "x.tif", {}, "mode I in a TIFF file"),
        (real, "x.tif", {}, "mode F in a TIFF file"),
        (lab, "x.tif", {}, "mode LAB in a TIFF file"),
        (gray, "x.tif", {"tiffinfo": {262: 0}}, "white as 0 in mode I;16"),
        (gray8, "x.tif", {"tiffinfo": {339: 2}}, "signed ones of mode L"),
        *(
            (two[0], f"x.{end}", {"save_all": True, "append_images": two[1:]}, "got 2 (")
            for end in ("png", "webp", "tif")
        ),
    ]:
        said = refused_mode(tmp_path / name, made, **options)
        assert said.startswith(f"{tmp_path / name}: expected ")
        assert mode in said


def test_orientation_and_profile_change_nothing_and_a_cameras_file_is_its_photo(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    photo, exif = Image.fromarray(noise).resize((40, 36)), Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "plain.jpg")
    photo.save(tmp_path / "turned.jpg", exif=exif, icc_profile=b"x" * 200)
    photo.save(tmp_path / "several.jpg", format="MPO", save_all=True, append_images=[photo.rotate(90)])
    for name in ("turned", "several"):
        assert (pixels(tmp_path / f"{name}.jpg") == pixels(tmp_path / "plain.jpg")).all()
