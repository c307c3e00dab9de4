"""Faces in a photograph that scikit-image ships (of Eileen Collins, by NASA, in the public domain)."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from mesatee.enclave.functions import face_detect as module
from mesatee.enclave.functions.face_detect import face_detect
from mesatee.errors import Malformed, TooLarge, Unavailable

FOLDER = Path(skimage.data.__file__).parent
CUT = (110, 10, 350, 230)
FACE = (65, 55, 165, 175)
"""Left, top, right and bottom of the face in this part of the photograph, as one sees it."""


@pytest.fixture(scope="module")
def photograph():
    """The head, because a search takes time."""
    return Image.open(FOLDER / "astronaut.png").convert("RGB").crop(CUT)


def found(image, **args):
    if isinstance(image, Image.Image):
        target = io.BytesIO()
        image.save(target, "PNG")
        image = target.getvalue()
    return face_detect(memoryview(image), **args).to_arrow().to_pylist()


def is_face(row, face):
    """The middle of what was found is on the face, and it is about as wide."""
    x, y = row["x"] + row["width"] / 2, row["y"] + row["height"] / 2
    width = face[2] - face[0]
    return face[0] < x < face[2] and face[1] < y < face[3] and 0.6 * width < row["width"] < 1.6 * width


def test_the_face_is_found_and_nothing_else(photograph):
    (whole,) = found((FOLDER / "astronaut.png").read_bytes())
    whole = {**whole, "x": whole["x"] - CUT[0], "y": whole["y"] - CUT[1]}
    (part,) = rows = found(photograph)
    assert is_face(part, FACE)
    assert is_face(whole, FACE)
    assert min(part["score"], whole["score"]) >= 10
    assert rows == found(photograph)


def test_a_mirrored_a_larger_and_a_grey_photograph(photograph):
    mirrored = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    width = photograph.width
    assert is_face(found(mirrored, min_score=5)[0], (width - FACE[2], FACE[1], width - FACE[0], FACE[3]))
    larger = photograph.resize((2 * photograph.width, 2 * photograph.height))
    assert is_face(found(larger, min_size=100)[0], tuple(2 * side for side in FACE))
    assert is_face(found(photograph.convert("L"))[0], FACE)


def test_two_faces_beside_each_other(photograph):
    width, height = photograph.size
    both = Image.new("RGB", (2 * width, height))
    both.paste(photograph, (0, 0))
    both.paste(photograph, (width, 0))
    rows = found(both)
    assert len(rows) == 2
    left, right = sorted(rows, key=lambda row: row["x"])
    assert is_face(left, FACE)
    assert is_face(right, (width + FACE[0], FACE[1], width + FACE[2], FACE[3]))


def test_a_photograph_that_was_taken_sideways(photograph):
    exif = Image.Exif()
    exif[0x0112] = 6
    target = io.BytesIO()
    held = photograph.transpose(Image.Transpose.ROTATE_90)
    held.save(target, "JPEG", exif=exif, quality=95)
    assert is_face(found(target.getvalue())[0], FACE)
    # Without what EXIF says she lies on her side, and is not found.
    assert not any(is_face(row, FACE) for row in found(held))


@pytest.mark.parametrize("name", ["brick.png", "coffee.png", "page.png", "rocket.jpg"])
def test_pictures_without_a_face(name):
    assert found((FOLDER / name).read_bytes(), work_side=320) == []


def test_arguments_decide_what_is_found(photograph):
    assert found(photograph, min_size=200) == []
    assert found(photograph, min_score=1000) == []
    scores = [row["score"] for row in found(photograph, min_score=1)]
    assert len(scores) > 1
    assert scores == sorted(scores, reverse=True)
    assert is_face(found(photograph, work_side=150, min_score=3)[0], FACE)


@pytest.mark.parametrize("size", [(1, 1), (24, 24), (2000, 1), (30, 30)])
def test_small_images_have_no_face_and_all_columns(size):
    table = face_detect(memoryview(b"".join([png(Image.new("LA", size))])))
    assert table.to_dict() == {"x": [], "y": [], "width": [], "height": [], "score": []}


def png(image):
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def test_places_stay_within_the_image_whatever_it_shows():
    noise = np.random.default_rng(7).integers(0, 256, (150, 200), np.uint8)
    for row in found(Image.fromarray(noise), min_score=1, min_size=1):
        assert 0 <= row["x"] < row["x"] + row["width"] <= 200
        assert 0 <= row["y"] < row["y"] + row["height"] <= 150


def test_what_is_refused(photograph, monkeypatch):
    for args in ({"min_size": 0}, {"min_score": 0}, {"work_side": 23}, {"work_side": 2049}):
        with pytest.raises(Malformed, match="is from"):
            found(photograph, **args)
    with pytest.raises(Malformed, match="no PNG"):
        face_detect(memoryview(b"nothing"))
    monkeypatch.setattr(module, "WINDOWS", 3)
    with pytest.raises(TooLarge, match="limit is 3") as caught:
        found(photograph)
    windows = int(caught.value.message.split()[0])
    monkeypatch.setattr(module, "WINDOWS", windows - 1)
    with pytest.raises(TooLarge):
        found(photograph)
    monkeypatch.setattr(module, "WINDOWS", windows)
    assert found(photograph)


def test_without_the_package_it_says_so(photograph, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(Unavailable, match="scikit-image") as caught:
        found(photograph)
    assert "mesatee[vision]" in caught.value.hint
