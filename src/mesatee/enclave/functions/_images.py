"""Images that somebody made, read with bounds. The decoders are C, and run in the sandboxed child alone."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any, Final

from mesatee.errors import Malformed, TooLarge, Unavailable

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS: Final = ("png", "jpeg", "webp")
IMAGE_BYTES: Final = 64 * 2**20
"""Of an image file."""
PIXELS: Final = 50_000_000
"""Of an image, in and out: a small file may claim to be much larger, and each pixel takes up to 4 bytes, thrice."""
SIDE: Final = 16_383
"""Pixels of width and of height: what WebP can say."""
_ORIENTATION: Final = 0x0112
"""The tag of EXIF that says how the camera was held (Exif 2.32, section 4.6.4)."""
_TURNS: Final = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def read(data: memoryview) -> tuple[Image, str]:
    """The first picture of a PNG, JPEG or WebP, upright, in mode L, LA, RGB or RGBA; and its format's name.

    1. The file is no longer than `IMAGE_BYTES` and begins like one of the three: no other decoder sees it.
    2. Its head claims at most `PIXELS`, `SIDE` on each side; only then it is decoded, whole or not at all.
    3. It is turned as EXIF says. EXIF that cannot be read says nothing.
    4. Other modes become one of the four. What else the file carries is dropped.

    Raises `Malformed`, `TooLarge`, or `Unavailable` without the package.
    """
    try:
        from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401  # the three decoders
    except ImportError:
        raise Unavailable(
            "images need the package pillow", hint="pip install 'mesatee[vision]' where functions run"
        ) from None
    # 1.
    if len(data) > IMAGE_BYTES:
        raise TooLarge(f"the image has {len(data)} bytes, the limit is {IMAGE_BYTES}")
    name = _format(bytes(data[:16]))
    # Checked here, by our own limit and before anything is decoded.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings(action="ignore"):
            found: Image.Image = Image.open(io.BytesIO(data), formats=[name.upper()])
            # 2.
            check_size(*found.size)
            turn = _turn(found)
            found.load()
            # 3.
            if turn is not None:
                found = found.transpose(Image.Transpose[turn])
            # 4.
            return _plain(found), name
    except (MemoryError, Malformed, TooLarge):
        raise
    except Exception as error:  # noqa: BLE001  # decoders raise anything
        # Decoders raise classes of many kinds; each of them means that these bytes are no such image.
        raise Malformed(f"the image cannot be read as {name}: {type(error).__name__}") from None


def check_size(width: int, height: int) -> None:
    """Raises `TooLarge` over `SIDE` or `PIXELS`, `Malformed` for nothing."""
    if width < 1 or height < 1:
        raise Malformed("an image has one pixel at least")
    if max(width, height) > SIDE or width * height > PIXELS:
        raise TooLarge(f"an image of {width} x {height} pixels: the limits are {SIDE} a side and {PIXELS}")


def _format(start: bytes) -> str:
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if start.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "webp"
    raise Malformed("the image is no PNG, JPEG or WebP: convert it first")


def _turn(found: Image) -> str | None:
    try:
        return _TURNS.get(found.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # as in `read`
        return None


def _plain(found: Image) -> Image:
    match found.mode:
        case "L" | "LA" | "RGB" | "RGBA" if "transparency" not in found.info:
            plain = found.copy()
        case "I;16" | "I;16B" | "I":
            plain = _sixteen(found)
        case "1":
            plain = found.convert("L")
        case _ if found.has_transparency_data:
            plain = found.convert("RGBA")
        case _:
            plain = found.convert("RGB")
    # Comments, times, places, thumbnails and colour profiles: an encoder would write them again.
    plain.info = {}
    return plain


def _sixteen(found: Image) -> Any:
    """Grey of 16 bits in 8: the upper half, as PNG's specification allows."""
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(found).astype(np.uint32) >> 8).astype(np.uint8))


__all__ = ["FORMATS", "IMAGE_BYTES", "PIXELS", "SIDE", "check_size", "read"]
