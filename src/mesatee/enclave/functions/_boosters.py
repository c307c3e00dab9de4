"""XGBoost and LightGBM by their C interfaces.

Their Python packages make a callback for log messages when they are imported, which needs memory that is writable and
executable; no child has that. So the shared libraries of the packages are called themselves. Arrays stay alive until
the library has copied them.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mesatee.errors import Malformed, Unavailable

if TYPE_CHECKING:
    from mesatee.enclave.functions._boosting import Rows

LIBRARIES: Final = {
    "xgboost": ("xgboost-cpu", "lib/libxgboost.so", "XGBGetLastError"),
    "lightgbm": ("lightgbm", "lib/lib_lightgbm.so", "LGBM_GetLastError"),
}
"""Package, its shared library, and what says the last error."""
_FLOAT32, _FLOAT64, _INT32 = 0, 1, 2
"""Types of LightGBM's interface."""


class _Library:
    """Calls that raise `Malformed` when the library refuses."""

    def __init__(self, name: str) -> None:
        package, place, self._error = LIBRARIES[name]
        found = importlib.util.find_spec(name)
        path = Path(next(iter(found.submodule_search_locations or ())), place) if found is not None else None
        if path is None or not path.exists():
            raise Unavailable(
                f"gbdt_train needs the package {package}",
                hint="pip install 'mesatee[trees]' where functions run",
            )
        self.name = name
        self._library = ctypes.CDLL(str(path))

    def __call__(self, call: str, *given: Any) -> None:
        if getattr(self._library, call)(*given):
            # The library's own message may show values: what is left out here is no help without them.
            raise Malformed(f"{self.name} refused to train on these rows with these arguments ({call})")

    @contextlib.contextmanager
    def handle(self, make: str, free: str, *given: Any) -> Iterator[ctypes.c_void_p]:
        """What `make` makes of these arguments, until the end of the block."""
        found = ctypes.c_void_p()
        self(make, *given, ctypes.byref(found))
        try:
            yield found
        finally:
            self(free, found)


def _texts(texts: Sequence[str]) -> Any:
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))


def _pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _interface(array: Any) -> bytes:
    """An array as XGBoost is told of one."""
    return json.dumps({**array.__array_interface__, "descr": None}).encode()


def xgboost(options: Mapping[str, Any], rows: Rows, trees: int, classes: list[str]) -> bytes:
    """A model as UBJ. Raises `Malformed` and `Unavailable`."""
    import numpy as np

    call = _Library("xgboost")
    features, label = np.ascontiguousarray(rows.features), np.ascontiguousarray(rows.label, np.float32)
    threads = int(options["nthread"])
    settings = json.dumps({"missing": float("nan"), "nthread": threads}).encode()
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(
            call.handle("XGDMatrixCreateFromDense", "XGDMatrixFree", _interface(features), settings)
        )
        kinds = ["c" if name in rows.categorical else "q" for name in rows.names]
        count = ctypes.c_uint64(len(kinds))
        call("XGDMatrixSetStrFeatureInfo", data, b"feature_name", _texts(rows.names), count)
        call("XGDMatrixSetStrFeatureInfo", data, b"feature_type", _texts(kinds), count)
        call("XGDMatrixSetInfoFromInterface", data, b"label", _interface(label))
        if rows.weight is not None:
            weight = np.ascontiguousarray(rows.weight, np.float32)
            call("XGDMatrixSetInfoFromInterface", data, b"weight", _interface(weight))
        if rows.groups is not None:
            sizes = np.ascontiguousarray(rows.sizes(), np.uint32)
            call("XGDMatrixSetUIntInfo", data, b"group", _pointer(sizes), ctypes.c_uint64(len(sizes)))
        given = (ctypes.c_void_p * 1)(data)
        booster = stack.enter_context(
            call.handle("XGBoosterCreate", "XGBoosterFree", given, ctypes.c_uint64(1))
        )
        for name, value in options.items():
            call("XGBoosterSetParam", booster, name.encode(), str(value).encode())
        for number in range(trees):
            call("XGBoosterUpdateOneIter", booster, ctypes.c_int(number), data)
        call("XGBoosterSetStrFeatureInfo", booster, b"feature_name", _texts(rows.names), count)
        call("XGBoosterSetStrFeatureInfo", booster, b"feature_type", _texts(kinds), count)
        if classes:
            call("XGBoosterSetAttr", booster, b"classes", json.dumps(classes).encode())
        size, made = ctypes.c_uint64(), ctypes.c_char_p()
        settings = json.dumps({"format": "ubj"}).encode()
        call("XGBoosterSaveModelToBuffer", booster, settings, ctypes.byref(size), ctypes.byref(made))
        # Copied while the booster, whose buffer it is, is there.
        return ctypes.string_at(made, size.value)


def lightgbm(options: Mapping[str, Any], rows: Rows, trees: int) -> bytes:
    """A model as text. Raises `Malformed` and `Unavailable`."""
    import numpy as np

    call = _Library("lightgbm")
    places = [str(rows.names.index(name)) for name in rows.categorical]
    said = {**options, "categorical_feature": ",".join(places)} if places else dict(options)
    text = " ".join(f"{name}={value}" for name, value in said.items()).encode()
    features, label = np.ascontiguousarray(rows.features), np.ascontiguousarray(rows.label, np.float32)
    fields = [(b"label", label, _FLOAT32)]
    if rows.weight is not None:
        fields.append((b"weight", np.ascontiguousarray(rows.weight, np.float32), _FLOAT32))
    if rows.groups is not None:
        fields.append((b"group", np.ascontiguousarray(rows.sizes(), np.int32), _INT32))
    with contextlib.ExitStack() as stack:
        height, width = features.shape
        data = stack.enter_context(
            call.handle(
                "LGBM_DatasetCreateFromMat",
                "LGBM_DatasetFree",
                _pointer(features),
                ctypes.c_int(_FLOAT64),
                ctypes.c_int32(height),
                ctypes.c_int32(width),
                ctypes.c_int(1),
                text,
                None,
            )
        )
        for name, values, kind in fields:
            call(
                "LGBM_DatasetSetField",
                data,
                name,
                _pointer(values),
                ctypes.c_int(len(values)),
                ctypes.c_int(kind),
            )
        call("LGBM_DatasetSetFeatureNames", data, _texts(rows.names), ctypes.c_int(width))
        booster = stack.enter_context(call.handle("LGBM_BoosterCreate", "LGBM_BoosterFree", data, text))
        finished = ctypes.c_int(0)
        for _ in range(trees):
            call("LGBM_BoosterUpdateOneIter", booster, ctypes.byref(finished))
            if finished.value:
                break
        size, room = ctypes.c_int64(0), 1 << 20
        while True:
            made = ctypes.create_string_buffer(room)
            asked = (ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_int(0), ctypes.c_int64(room))
            call("LGBM_BoosterSaveModelToString", booster, *asked, ctypes.byref(size), made)
            if size.value <= room:
                return made.value
            room = size.value


__all__ = ["LIBRARIES", "lightgbm", "xgboost"]
