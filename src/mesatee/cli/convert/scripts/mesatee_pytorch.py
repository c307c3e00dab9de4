"""PyTorch programs (torch.export.save, TorchScript) to ONNX, by torch.onnx. Never a pickled module."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from mesatee_converting import OPSET, Refused, answer, samples

VERSIONS = {"torch": torch.__version__}


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """By what the archive holds."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    path = Path(job["model"])
    if not zipfile.is_zipfile(path):
        raise Refused(
            "the file is no archive of PyTorch: an old pickle holds code and no program",
            "export the model: torch.export.save(torch.export.export(model, (example,)), 'model.pt2')",
        )
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    if any(name.startswith("models/") and name.endswith(".json") for name in names):
        return _exported(path, job)
    if any(name.startswith("code/") for name in names):
        return _script(path, job)
    raise Refused(
        "the file is a pickle (torch.save): it has weights and names of classes, and no program",
        "export the model: torch.export.save(torch.export.export(model, (example,)), 'model.pt2')",
    )


def _exported(path: Path, job: dict[str, Any]) -> dict[str, Any]:
    program = torch.export.load(path)
    wanted = program.graph_signature.user_inputs
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    shapes = []
    for name in wanted:
        value = values.get(name)
        if not isinstance(value, torch.Tensor):
            raise Refused(f"the input {name} is no tensor", "export a model whose inputs are tensors")
        sizes = [int(size) if isinstance(size, int) else None for size in value.shape]
        shapes.append((str(name), str(value.dtype).removeprefix("torch."), sizes))
    sample = samples(shapes, job)
    arguments = tuple(torch.from_numpy(sample[name]) for name, _, _ in shapes)
    with torch.no_grad():
        found = _flat(program.module()(*arguments))
    names = [f"output_{number}" for number in range(len(found))]
    made = torch.onnx.export(
        program,
        arguments,
        input_names=[name for name, _, _ in shapes],
        output_names=names,
        opset_version=OPSET + 1,
        dynamo=True,
        external_data=False,
    )
    if made is None:
        raise Refused("the exporter made no model")
    data = made.model_proto.SerializeToString()
    return answer(data, sample, dict(zip(names, map(_array, found), strict=True)), VERSIONS)


def _script(path: Path, job: dict[str, Any]) -> dict[str, Any]:
    module = torch.jit.load(str(path), map_location="cpu").eval()
    wanted = list(module.graph.inputs())[1:]
    shapes = [(item.debugName().split(".")[0], "float32", _sizes(item)) for item in wanted]
    sample = samples(shapes, job)
    arguments = tuple(torch.from_numpy(sample[name]) for name, _, _ in shapes)
    with torch.no_grad():
        found = _flat(module(*arguments))
    names = [f"output_{number}" for number in range(len(found))]
    file = io.BytesIO()
    torch.onnx.export(
        module,
        arguments,
        file,
        input_names=[name for name, _, _ in shapes],
        output_names=names,
        opset_version=OPSET,
        dynamo=False,
        dynamic_axes={name: {0: "batch"} for name in [*(item[0] for item in shapes), *names]},
    )
    return answer(file.getvalue(), sample, dict(zip(names, map(_array, found), strict=True)), VERSIONS)


def _sizes(value: Any) -> list[int | None] | None:
    kind = value.type()
    sizes = kind.sizes() if hasattr(kind, "sizes") else None
    if sizes is None:
        return None
    # A traced program says what it was traced with; the first dimension counts rows.
    return [None, *sizes[1:]] if sizes else []


def _flat(found: Any) -> list[torch.Tensor]:
    items = found if isinstance(found, (list, tuple)) else [found]
    flat = []
    for item in items:
        if isinstance(item, (list, tuple)):
            flat += _flat(item)
        elif isinstance(item, torch.Tensor):
            flat.append(item)
        else:
            raise Refused(f"an output is a {type(item).__name__}", "export a model whose outputs are tensors")
    return flat


def _array(value: torch.Tensor) -> Any:
    return value.detach().cpu().numpy()
