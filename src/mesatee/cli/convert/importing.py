"""``mesatee model import``: which converter takes what, and the numeric check that every import goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from ... import tensors
from ...errors import InputError, Malformed, NotFound
from ...protocol import limits, onnx
from ...protocol.model_card import ModelKind
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
    raise InputError(f"models of {framework} are not imported yet")


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
    found = comparing.run_onnx(model, sample)
    deviations = comparing.compare(tensors.read(made.expected), found, wanted.tolerance)
    versions = {str(name): str(value)[: limits.NAME_CHARS] for name, value in made.said["versions"].items()}
    return Imported("onnx", model, tuple(deviations), versions, tuple(made.said["layers"]))


def _no_pickle(path: Path, framework: str) -> None:
    with path.open("rb") as file:
        front = file.read(2)
    if front in PICKLES:
        hints = {
            "pytorch": "export it: torch.export.save(torch.export.export(model, (example,)), 'model.pt2')",
            "keras": "write it by `model.save('model.keras')`",
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
