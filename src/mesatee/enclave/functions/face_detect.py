"""Finds faces in an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mesatee.enclave.functions._images import read
from mesatee.errors import Malformed, TooLarge, Unavailable
from mesatee.table import Table

if TYPE_CHECKING:
    from PIL.Image import Image

WINDOW: Final = 24
"""Pixels a side of the smallest face that the detector knows."""
WORK_SIDES: Final = range(WINDOW, 2049)
"""Pixels of the longer side of the image that is searched."""
MIN_SIZES: Final = range(1, 16_384)
MIN_SCORES: Final = range(1, 1001)
_SCALE: Final = 1.1
"""From one size of the window to the next."""
_OVERLAP: Final = 0.4
"""Of two windows, the common part over both: from here on they are one face."""
WINDOWS: Final = 2000
"""That pass the cascade: each is compared with each other. A photograph has some hundred."""
_CASCADE: Final = "lbpcascade_frontalface_opencv.xml"


def face_detect(image: memoryview, *, min_size: int = 40, min_score: int = 10, work_side: int = 640) -> Table:
    """Find frontal, upright faces: columns ``x``, ``y``, ``width``, ``height`` and ``score``, the best first.

    The image is a PNG, JPEG or WebP with the limits of `image_resize`, turned upright as its EXIF data says; places
    are in its pixels then, from the upper left corner. `min_size` is the least width of a face in pixels. The search
    is on a grey image whose longer side has at most `work_side` pixels (24 to 2048): smaller is faster, and finds
    no faces of fewer than 24 pixels there. `score` is the number of neighbouring windows that agree on a face;
    those with fewer than `min_score` are left out. Faces of the same score stand from left to right, then from top to
    bottom.

    The detector is a cascade of local binary patterns (scikit-image, with the cascade that OpenCV trained): small,
    fast and old. It misses faces from the side, turned or covered, and takes some other things for faces; how well it
    finds faces depends on their age and skin. It tells nobody's identity. Needs the extra ``vision`` on the worker.

    Reveals to the output's receivers how many faces were found in the image, where, and how large they are; and no
    pixel.
    """
    for name, value, known in (
        ("min_size", min_size, MIN_SIZES),
        ("min_score", min_score, MIN_SCORES),
        ("work_side", work_side, WORK_SIDES),
    ):
        if value not in known:
            raise Malformed(f"{name} is from {known[0]} to {known[-1]}")
    found, _ = read(image)
    grey, scale = _small(found, work_side)
    return _table(
        _grouped(_windows(grey, max(WINDOW, round(min_size / scale))), min_score), scale, found.size
    )


def _small(found: Image, work_side: int) -> tuple[Any, float]:
    """Grey pixels of the image that is searched, and how many of the given image's pixels one of its is wide."""
    import numpy as np
    from PIL import Image

    if found.mode in ("LA", "RGBA"):
        # What is transparent shows white.
        whole = found.convert("RGBA")
        found = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
    grey = found.convert("L")
    scale = max(1.0, max(grey.size) / work_side)
    size = max(1, round(grey.width / scale)), max(1, round(grey.height / scale))
    return np.asarray(grey.resize(size, Image.Resampling.BOX) if scale > 1 else grey), scale


def _windows(grey: Any, least: int) -> list[tuple[int, int, int]]:
    """All windows (x, y, side) that pass the cascade, sorted."""
    if min(grey.shape) <= least:
        return []
    try:
        import skimage.data
        from skimage.feature import Cascade
    except ImportError:
        raise Unavailable(
            "faces are found by the package scikit-image",
            hint="pip install 'mesatee[vision]' where functions run",
        ) from None
    cascade = Cascade(str(Path(skimage.data.__file__).parent / _CASCADE))
    found = cascade.detect_multi_scale(
        img=grey,
        scale_factor=_SCALE,
        step_ratio=1,
        min_size=(least, least),
        max_size=grey.shape,
        # Each window by itself: its own way of joining them does not say how many agree.
        min_neighbor_number=1,
        intersection_score_threshold=2.0,
    )
    if len(found) > WINDOWS:
        raise TooLarge(
            f"{len(found)} places look like a face, the limit is {WINDOWS}: "
            "give a larger min_size or a smaller work_side"
        )
    return sorted((int(item["c"]), int(item["r"]), int(item["width"])) for item in found)


def _grouped(windows: list[tuple[int, int, int]], least: int) -> list[tuple[int, float, float, float]]:
    """Score and mean place (x, y, side) of each group of windows that overlap, the best first.

    The window that overlaps with most others takes these; then the same with what is left.
    """
    import numpy as np

    places = np.array(windows, dtype=np.int64).reshape(-1, 3)
    near = _overlaps(places)
    found = []
    while near.any():
        # Of equals the first, and the windows are sorted.
        members = near[int(np.argmax(near.sum(axis=1)))].copy()
        score = int(members.sum())
        if score < least:
            break
        x, y, side = (float(value) for value in places[members].mean(axis=0))
        found.append((score, x, y, side))
        near[members, :] = near[:, members] = False
    return sorted(found, key=lambda face: (-face[0], *face[1:]))


def _overlaps(windows: Any) -> Any:
    """Which windows overlap by `_OVERLAP` at least, as a matrix of truth values."""
    import numpy as np

    sides = windows[:, 2]
    area = np.ones((len(windows), len(windows)))
    for axis in (0, 1):
        low = np.maximum.outer(windows[:, axis], windows[:, axis])
        high = np.minimum.outer(windows[:, axis] + sides, windows[:, axis] + sides)
        area *= np.clip(high - low, 0, None)
    return area >= _OVERLAP * (np.add.outer(sides**2, sides**2) - area)


def _table(faces: list[tuple[int, float, float, float]], scale: float, size: tuple[int, int]) -> Table:
    import pyarrow as pa

    rows: list[list[int]] = []
    for score, x, y, side in faces:
        left, top = round(x * scale), round(y * scale)
        rows.append(
            [
                left,
                top,
                min(round(side * scale), size[0] - left),
                min(round(side * scale), size[1] - top),
                score,
            ]
        )
    columns = zip(*rows, strict=True) if rows else [()] * 5
    names = ["x", "y", "width", "height", "score"]
    return Table(pa.table([pa.array(list(column), pa.int64()) for column in columns], names=names))
