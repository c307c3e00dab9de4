"""``mesatee model import``: which converter takes what, and the numeric check that every import goes through."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from ... import tensors
from ...errors import InputError, Malformed, NotFound
from ...protocol import limits, onnx
from ...protocol.model_card import ModelKind
from .. import models
from . import caffe, caffe_onnx, comparing, confined, environments

Framework = Literal["tensorflow", "keras", "pytorch", "sklearn", "xgboost", "lightgbm", "caffe"]
FRAMEWORKS: Final[tuple[str, ...]] = get_args(Framework)
PICKLES: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How pickles begin (protocols 2 to 5)."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A model in a format that built-in functions run, and how far it is from the original on the sample."""

    kind: ModelKind
    model: bytes = field(repr=False)
    deviations: tuple[comparing.Deviation, ...]
    versions: Mapping[str, str]
    layers: tuple[str, ...]
    """Of the child that read the original."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to import: what the command line says."""

    sample: Path | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    signature: str | None = None
    outputs: Sequence[str] = ()
    weights: Path | None = None
    packages: Path | None = None
    tolerance: float = comparing.TOLERANCE

    def options(self) -> dict[str, Any]:
        """For the script."""
        return {
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "signature": self.signature,
            "outputs": list(self.outputs),
        }


def run(framework: str, path: Path, home: Path, wanted: Wanted, say: Callable[[str], None]) -> Imported:
    """Convert and check. Raises `Malformed` with the reason, and what `confined.convert` raises."""
    if framework not in FRAMEWORKS:
        raise InputError(
            f"there is no converter for {framework[:32]}", hint=f"there are {', '.join(FRAMEWORKS)}"
        )
    if not path.exists():
        raise NotFound(f"there is no {path}", hint="check the path")
    if framework == "caffe":
        return _caffe(path, home, wanted, say)
    if framework in ("tensorflow", "keras", "pytorch"):
        return _net(framework, path, home, wanted, say)
    if framework == "sklearn":
        return _sklearn(path, home, wanted, say)
    return _boosters("xgboost" if framework == "xgboost" else "lightgbm", path, wanted, say)


def _packages(name: str, home: Path, wanted: Wanted, say: Callable[[str], None]) -> Path:
    if wanted.packages is None:
        return environments.packages(home, name, say)
    if not wanted.packages.is_dir():
        raise NotFound(
            f"there is no folder {wanted.packages}", hint="name the site-packages of an environment"
        )
    return wanted.packages


def _net(framework: str, path: Path, home: Path, wanted: Wanted, say: Callable[[str], None]) -> Imported:
    """A net of TensorFlow, Keras or PyTorch."""
    if path.is_file():
        _no_pickle(path, framework)
    name = "pytorch" if framework == "pytorch" else "tensorflow"
    packages = _packages(name, home, wanted, say)
    say("converting, and running the original")
    made = confined.convert(
        f"mesatee_{name}",
        framework,
        path,
        [packages],
        sample=wanted.sample,
        options=wanted.options(),
        # TensorFlow does not start where it cannot look at itself in /proc.
        private_root=name != "tensorflow",
    )
    return _checked(made.model, made, wanted, say)


def _checked(model: bytes, made: confined.Converted, wanted: Wanted, say: Callable[[str], None]) -> Imported:
    read = onnx.read(model)
    say("running what came out in the sandbox")
    sample = comparing.renamed(made.sample, [port.name for port in read.inputs])
    expected = tensors.read(made.expected)
    names = [port.name for port in read.outputs]
    found = comparing.run_onnx(model, sample, [name for name in names if name in expected] or names)
    deviations = comparing.compare(expected, found, wanted.tolerance)
    return Imported("onnx", model, tuple(deviations), _versions(made), tuple(made.said["layers"]))


def _sklearn(path: Path, home: Path, wanted: Wanted, say: Callable[[str], None]) -> Imported:
    """A pickle of scikit-learn: read by the base's own packages, or, for what becomes ONNX, by those of a lock."""
    packages = wanted.packages or _base()
    say("converting, and running the original")

    def attempt(chosen: Path) -> confined.Converted:
        return confined.convert(
            "mesatee_sklearn", "sklearn", path, [chosen], sample=wanted.sample, options=wanted.options()
        )

    made = attempt(packages)
    if made.said.get("needs") is not None:
        if wanted.packages is not None:
            raise Malformed(
                "the model becomes ONNX, for which the packages need skl2onnx",
                hint="install it there, or leave --packages out",
            )
        made = attempt(environments.packages(home, "sklearn", say))
    kind = made.said.get("kind")
    if kind == "trees" or kind == "linear":
        return _rows_checked(kind, made.model, made, wanted, say)
    return _checked(made.model, made, wanted, say)


def _boosters(
    framework: Literal["xgboost", "lightgbm"], path: Path, wanted: Wanted, say: Callable[[str], None]
) -> Imported:
    """XGBoost and LightGBM: the file is run as it is, once it was checked, and compared if the library is here."""
    _no_pickle(path, framework)
    data = models.load(path)
    seen = models.look(data)
    if seen.kind != framework:
        raise Malformed(f"the file is a model of the kind {seen.kind}, not of {framework}")
    packages = wanted.packages or _base()
    if not (packages / framework).is_dir():
        say(f"not compared: {framework} is not installed here (pip install 'mesatee[trees]')")
        return Imported(seen.kind, data, (), {}, ())
    options = {**wanted.options(), "features": seen.details["features"]}
    say("running the original")
    made = confined.convert(
        "mesatee_boosters", framework, path, [packages], sample=wanted.sample, options=options
    )
    made = replace(made, said={**made.said, "columns": list(seen.columns)})
    return _rows_checked(seen.kind, data, made, wanted, say)


def _base() -> Path:
    """The packages that MesaTEE itself is installed with."""
    return Path(sysconfig.get_path("purelib"))


def _rows_checked(
    kind: ModelKind, model: bytes, made: confined.Converted, wanted: Wanted, say: Callable[[str], None]
) -> Imported:
    """As `_checked`, for models that take a table."""
    models.look(model)
    say("running what came out in the sandbox")
    rows = tensors.read(made.sample)["rows"]
    found = comparing.run_rows(kind, model, rows, [str(name) for name in made.said.get("columns", ())])
    deviations = comparing.compare(tensors.read(made.expected), {"prediction": found}, wanted.tolerance)
    return Imported(kind, model, tuple(deviations), _versions(made), tuple(made.said["layers"]))


def _versions(made: confined.Converted) -> dict[str, str]:
    return {str(name): str(value)[: limits.NAME_CHARS] for name, value in made.said["versions"].items()}


def _no_pickle(path: Path, framework: str) -> None:
    with path.open("rb") as file:
        front = file.read(2)
    if front in PICKLES:
        hints = {
            "pytorch": "export it: torch.export.save(torch.export.export(model, (example,)), 'model.pt2')",
            "keras": "write it by `model.save('model.keras')`",
            "lightgbm": "write it by `booster.save_model('model.txt')`",
            "xgboost": "write it by `booster.save_model('model.json')`",
            "tensorflow": "write it by `model.export(FOLDER)` or `tf.saved_model.save`",
        }
        raise Malformed(
            f"the file is a pickle, which is code and no model of {framework}", hint=hints.get(framework)
        )


def _caffe(path: Path, home: Path, wanted: Wanted, say: Callable[[str], None]) -> Imported:
    """A net as text and its weights: read here, by our own reader; run by OpenCV in the confined child."""
    text, weights = _caffe_files(path, wanted.weights)
    net = caffe.read_net(_utf8(text))
    with weights.open("rb") as file:
        blobs = caffe.read_weights(file.read(limits.ONNX_BYTES + 1))
    model = caffe_onnx.convert(net, blobs, {name: tuple(shape) for name, shape in wanted.shapes.items()})
    read = onnx.read(model)
    packages = _packages("caffe", home, wanted, say)
    say("running the original by OpenCV")
    options = wanted.options()
    options["inputs"] = {
        port.name: [size if isinstance(size, int) else None for size in port.shape or ()]
        for port in read.inputs
    }
    options["outputs"] = [port.name for port in read.outputs]
    made = confined.convert(
        "mesatee_caffe",
        "caffe",
        text,
        [packages],
        sample=wanted.sample,
        options=options,
        beside={"weights": weights},
    )
    return _checked(model, made, wanted, say)


def _caffe_files(path: Path, weights: Path | None) -> tuple[Path, Path]:
    """The text and the weights: a folder with one of each, or a file and --weights."""
    if path.is_dir():
        texts, binaries = sorted(path.glob("*.prototxt")), sorted(path.glob("*.caffemodel"))
        if len(texts) == 1 and len(binaries) == 1:
            return texts[0], binaries[0]
        raise NotFound(
            f"{path} has {len(texts)} files .prototxt and {len(binaries)} files .caffemodel, not one of each",
            hint="name the net, and the weights by --weights FILE.caffemodel",
        )
    found = weights or path.with_suffix(".caffemodel")
    if not found.is_file():
        raise NotFound(f"there are no weights {found}", hint="name them by --weights FILE.caffemodel")
    return path, found


def _utf8(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(caffe.TEXT_BYTES + 1)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"{path} is no text: the net's text comes first, its weights by --weights") from None


__all__ = ["FRAMEWORKS", "Framework", "Imported", "Wanted", "run"]
