"""Resized images, read again by Pillow and compared with numpy; hostile files are refused by name."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mesatee.enclave.functions import _images
from mesatee.enclave.functions._images import FORMATS, PIXELS, SIDE, check_size
from mesatee.enclave.functions.image_resize import FILTERS, image_resize
from mesatee.errors import InputError, Malformed, TooLarge, Unavailable

RED, BLUE = (250, 10, 10), (10, 10, 250)


def file(image, format="png", **options):
    target = io.BytesIO()
    image.save(target, format.upper(), **options)
    return target.getvalue()


def resized(data, **args):
    found = Image.open(io.BytesIO(image_resize(memoryview(data), **args)))
    found.load()
    return found


def plain(width=8, height=4, colour=RED, mode="RGB"):
    return Image.new("RGB", (width, height), colour).convert(mode)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.none() | st.integers(1, 90),
    st.none() | st.integers(1, 90),
    st.sampled_from(["contain", "cover", "stretch"]),
    st.sampled_from(FILTERS),
)
def test_sizes_are_what_the_proportions_say(w, h, width, height, fit, filter):
    if width is None and height is None:
        width = 7
    found = resized(file(plain(w, h)), width=width, height=height, fit=fit, filter=filter)
    if width is not None and height is not None and fit != "contain":
        assert found.size == (width, height)
    else:
        scale = min(Fraction(box, side) for box, side in ((width, w), (height, h)) if box is not None)
        for got, side in zip(found.size, (w, h), strict=True):
            assert got == 1 or abs(got - side * scale) <= Fraction(1, 2)
        assert found.width <= (width or 10**9)
        assert found.height <= (height or 10**9)
    # One colour stays that colour, whatever the filter.
    assert set(np.asarray(found).reshape(-1, 3).tolist()[0]) == set(RED)
    assert (np.asarray(found) == np.array(RED)).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_whole_factors_agree_with_numpy(w, h, factor, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    larger = resized(file(Image.fromarray(pixels)), width=w * factor, height=h * factor, filter="nearest")
    expected = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    assert (np.asarray(larger) == expected).all()
    noise = np.random.default_rng(seed).integers(0, 256, (h * factor, w * factor), np.uint8)
    smaller = resized(file(Image.fromarray(noise)), width=w, height=h, filter="box")
    means = noise.reshape(h, factor, w, factor).mean(axis=(1, 3))
    assert np.abs(np.asarray(smaller).astype(float) - means).max() <= 1


def test_cover_cuts_off_evenly():
    image = plain(12, 4)
    image.paste(BLUE, (4, 0, 8, 4))
    found = resized(file(image), width=4, height=4, fit="cover", filter="nearest")
    assert (np.asarray(found) == np.array(BLUE)).all()
    upright = resized(file(image.transpose(Image.Transpose.ROTATE_90)), width=4, height=4, fit="cover")
    assert np.asarray(upright)[2, 2].tolist() == list(BLUE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", FORMATS)
def test_it_is_turned_upright(orientation, format):
    """Red stands in the upper left quarter of the upright picture; the file holds it as a turned camera would."""
    upright = plain(32, 16, (255, 255, 255))
    upright.paste(RED, (0, 0, 16, 8))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    held = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file(held, format, exif=exif, **({"quality": 95} if format != "png" else {}))
    found = resized(data, width=32, format="png").convert("RGB")
    assert found.size == (32, 16)
    assert np.abs(np.asarray(found)[3, 7].astype(int) - np.array(RED)).max() < 20
    assert np.asarray(found)[12, 24].min() > 235


@pytest.mark.parametrize("format", FORMATS)
def test_metadata_stays_behind(format):
    canary = b"taken at home by somebody"
    exif = Image.Exif()
    exif[0x010E] = canary.decode()
    options = {"exif": exif, "icc_profile": canary * 9}
    if format == "png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", canary.decode())
        options["pnginfo"] = text
    if format == "jpeg":
        options["comment"] = canary
    data = file(plain(), format, **options)
    for to in FORMATS:
        made = image_resize(memoryview(data), width=4, format=to)
        found = Image.open(io.BytesIO(made))
        assert canary not in made
        assert not found.getexif()
        assert not {"icc_profile", "comment", "Comment", "exif"} & set(found.info)
    assert canary in data or format == "png"


@pytest.mark.parametrize(
    ("mode", "becomes"),
    [
        ("1", "L"),
        ("L", "L"),
        ("LA", "LA"),
        ("P", "RGB"),
        ("RGB", "RGB"),
        ("RGBA", "RGBA"),
        ("I;16", "L"),
    ],
)
def test_modes_of_png(mode, becomes):
    image = plain(4, 4, (255, 255, 255))
    image = Image.fromarray(np.full((4, 4), 65535, np.uint16)) if mode == "I;16" else image.convert(mode)
    found = resized(file(image), width=2)
    assert found.mode == becomes
    assert np.asarray(found).min() == 255


@pytest.mark.parametrize("to", FORMATS)
def test_every_form_of_file_becomes_every_format(to):
    pixels = np.random.default_rng(1).integers(0, 256, (9, 7, 4), np.uint8)
    image = Image.fromarray(pixels)
    forms = [
        *(
            file(image.convert("RGB").convert(mode), "jpeg", progressive=True)
            for mode in ("L", "RGB", "CMYK")
        ),
        *(file(image.convert(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *(file(image, "webp", lossless=lossless) for lossless in (False, True)),
        *(file(image, format, save_all=True, append_images=[image]) for format in ("png", "webp")),
        # Several pictures in one JPEG, as some cameras write them.
        file(image.convert("RGB"), "mpo", save_all=True, append_images=[image.convert("RGB")]),
    ]
    for data in forms:
        assert resized(data, width=4, height=5, fit="stretch", format=to).size == (4, 5)


def test_grey_of_16_bits_keeps_the_upper_ones():
    found = resized(file(Image.fromarray(np.full((2, 2), 0x7F80, np.uint16))), width=2)
    assert (np.asarray(found) == 0x7F).all()


def test_cmyk_of_jpeg_becomes_rgb():
    found = resized(file(plain().convert("CMYK"), "jpeg", quality=95), width=8)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(int) - np.array(RED)).max() < 40


@pytest.mark.parametrize("how", ["alpha", "palette", "colour"])
def test_transparency_is_kept_or_shows_the_background(how):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    data = {
        "alpha": lambda: file(clear),
        "palette": lambda: file(
            plain(4, 4).quantize(2), transparency=plain(4, 4).quantize(2).getpixel((0, 0))
        ),
        "colour": lambda: file(plain(4, 4), transparency=RED),
    }[how]()
    kept = resized(data, width=2)
    assert kept.mode == "RGBA"
    assert np.asarray(kept)[..., 3].max() == 0
    shown = resized(data, width=2, format="jpeg", background="0000ff", quality=95)
    assert np.abs(np.asarray(shown).astype(int) - np.array((0, 0, 255))).max() < 12


def test_clear_pixels_do_not_bleed_into_others():
    image = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 4, 8))
    pixels = np.asarray(resized(file(image), width=3, filter="bilinear")).astype(int)
    assert (pixels[pixels[..., 3] > 0][:, 1] <= 2).all()


def test_the_same_input_gives_the_same_bytes():
    data = file(plain(40, 30))
    for format in FORMATS:
        one = image_resize(memoryview(data), width=10, format=format)
        assert one == image_resize(memoryview(data), width=10, format=format)
        assert Image.open(io.BytesIO(one)).format == format.upper()


def claim(width, height):
    """A PNG whose head claims a size, and that has next to no data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def test_a_bomb_is_refused_by_what_its_head_claims():
    for size in ((50_000, 50_000), (SIDE + 1, 1), (1, SIDE + 1), (8000, PIXELS // 8000 + 1)):
        with pytest.raises(TooLarge, match="the limits are"):
            image_resize(memoryview(claim(*size)), width=1)
    # Within the limits it is decoded, and found to be cut.
    with pytest.raises(Malformed, match="cannot be read as png"):
        image_resize(memoryview(claim(100, 100)), width=1)
    for size in ((SIDE, 1), (1, SIDE), (8000, PIXELS // 8000)):
        check_size(*size)
    with pytest.raises(TooLarge):
        image_resize(memoryview(file(plain(1, 4))), width=8192)


def test_a_file_that_is_too_long_is_not_looked_at(monkeypatch):
    data = file(plain())
    monkeypatch.setattr(_images, "IMAGE_BYTES", len(data))
    assert resized(data, width=1)
    with pytest.raises(TooLarge, match="bytes, the limit"):
        image_resize(memoryview(data + b"!"), width=1)


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_raise_our_errors_alone(format):
    data = file(plain(20, 20), format, exif=Image.Exif())

    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, len(data) - 1), st.integers(1, 255), st.integers(0, len(data)))
    def check(at, change, end):
        bad = bytearray(data)
        bad[at] ^= change
        for hostile in (bytes(bad), data[:end]):
            # Anything else than this class fails the test.
            with contextlib.suppress(InputError):
                resized(hostile, width=5, format="png")

    check()


def test_exif_that_cannot_be_read_says_nothing():
    data = file(plain(8, 4), "jpeg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert resized(data, width=8).size == (8, 4)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "name width, height or both"),
        ({"width": 0}, "one pixel"),
        ({"height": -1}, "one pixel"),
        ({"width": 1, "fit": "fill"}, "fit is one of"),
        ({"width": 1, "filter": "hamming"}, "filter is one of"),
        ({"width": 1, "format": "gif"}, "format is one of"),
        ({"width": 1, "quality": 0}, "quality"),
        ({"width": 1, "quality": 101}, "quality"),
        ({"width": 1, "background": "white"}, "RRGGBB"),
        ({"width": 1, "background": "ff ff ff"}, "RRGGBB"),
        ({"width": 1, "background": "ffffffff"}, "RRGGBB"),
    ],
)
def test_wrong_arguments(args, said):
    with pytest.raises(Malformed, match=said):
        image_resize(memoryview(file(plain())), **args)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"II*\0", b"%!PS-Adobe", b"RIFF\0\0\0\0AVI ", b"\x89PNG"])
def test_other_formats_reach_no_decoder(data, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("a decoder was asked"))
    with pytest.raises(Malformed, match="no PNG, JPEG or WebP"):
        image_resize(memoryview(data), width=1)


def test_without_the_package_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Unavailable, match="pillow") as caught:
        image_resize(memoryview(b""), width=1)
    assert "mesatee[vision]" in caught.value.hint
