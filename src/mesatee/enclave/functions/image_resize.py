"""Makes an image smaller or larger, and leaves out all that is not its pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

from mesatee.enclave.functions._images import FORMATS, check_size, read
from mesatee.errors import Malformed

if TYPE_CHECKING:
    from PIL.Image import Image

FITS: Final = ("contain", "cover", "stretch")
FILTERS: Final = ("lanczos", "bicubic", "bilinear", "box", "nearest")
QUALITIES: Final = range(1, 101)


def image_resize(
    image: memoryview,
    *,
    width: int | None = None,
    height: int | None = None,
    fit: str = "contain",
    format: str | None = None,
    filter: str = "lanczos",
    quality: int = 85,
    background: str = "ffffff",
) -> bytes:
    """Resize a PNG, JPEG or WebP to `width` and `height` in pixels; the other follows where one is left out.

    `fit` decides where both are given: ``contain`` keeps the proportions within that box, ``cover`` keeps them and
    cuts off evenly what is beyond it, ``stretch`` does not keep them. `format` is ``png``, ``jpeg`` or ``webp``, by
    default that of the input. `filter` is ``lanczos``, ``bicubic``, ``bilinear``, ``box`` or ``nearest``. `quality`
    from 1 to 100 is for ``jpeg`` and ``webp``. Transparency is kept, but in ``jpeg``, where `background` (RRGGBB in
    hex) shows through.

    The image is turned upright as its EXIF data says. Only the first picture of an animation is taken. The output has
    8 bits a channel and is grey or RGB: palettes and CMYK become RGB, of 16 bits the upper 8 are kept. Limits: a file
    of 64 MiB, 16,383 pixels a side and 50 million in all, of input and output; the head's claim is checked before
    anything is decoded. Needs the extra ``vision`` on the worker.

    Reveals to the output's receivers the resized image. All metadata is left out: EXIF with place, time and camera,
    comments, thumbnails and colour profiles (colours are taken for sRGB). What the pixels themselves carry remains.
    """
    for name, value, known in (("fit", fit, FITS), ("filter", filter, FILTERS)):
        if value not in known:
            raise Malformed(f"{name} is one of {', '.join(known)}")
    if format is not None and format not in FORMATS:
        raise Malformed(f"format is one of {', '.join(FORMATS)}, or left out for that of the input")
    if quality not in QUALITIES:
        raise Malformed("quality is from 1 to 100")
    if width is None and height is None:
        raise Malformed("name width, height or both, in pixels")
    check_size(width if width is not None else 1, height if height is not None else 1)
    colour = _colour(background)
    found, given = read(image)
    return _written(_resized(found, width, height, fit, filter), format or given, quality, colour)


def _colour(text: str) -> tuple[int, int, int]:
    try:
        # bytes.fromhex would pass over spaces.
        red, green, blue = bytes.fromhex(text) if text.isalnum() else b""
    except ValueError:
        raise Malformed("background is a colour as RRGGBB in hex, such as ffffff") from None
    return red, green, blue


def _resized(found: Image, width: int | None, height: int | None, fit: str, filter: str) -> Image:
    from PIL import Image

    size = _size(found.size, width, height, fit)
    check_size(*size)
    # The part of the image that is shown, in its own pixels.
    box = (0.0, 0.0, float(found.width), float(found.height))
    if fit == "cover" and width is not None and height is not None:
        scale = max(width / found.width, height / found.height)
        over = (found.width - width / scale) / 2, (found.height - height / scale) / 2
        box = (
            max(0.0, over[0]),
            max(0.0, over[1]),
            min(float(found.width), found.width - over[0]),
            min(float(found.height), found.height - over[1]),
        )
    return found.resize(size, Image.Resampling[filter.upper()], box)


def _size(given: tuple[int, int], width: int | None, height: int | None, fit: str) -> tuple[int, int]:
    """Width and height of the result; each is one pixel at least."""
    if width is not None and height is not None and fit != "contain":
        return width, height
    # Whole numbers, so that nothing depends on rounding: the narrower side decides.
    if height is None or (width is not None and width * given[1] <= height * given[0]):
        return width or 1, _share(given[1], width or 1, given[0])
    return _share(given[0], height, given[1]), height


def _share(side: int, part: int, whole: int) -> int:
    """`side` * `part` / `whole`, rounded, 1 at least."""
    return max(1, (side * part * 2 + whole) // (2 * whole))


def _written(found: Image, format: str, quality: int, background: tuple[int, int, int]) -> bytes:
    from PIL import Image

    options: dict[str, Any] = {"png": {}, "jpeg": {"quality": quality}, "webp": {"quality": quality}}[format]
    if format == "jpeg" and found.mode in ("LA", "RGBA"):
        under = Image.new("RGBA", found.size, (*background, 255))
        found = Image.alpha_composite(under, found.convert("RGBA")).convert("RGB")
    target = io.BytesIO()
    found.save(target, format.upper(), **options)
    return target.getvalue()
