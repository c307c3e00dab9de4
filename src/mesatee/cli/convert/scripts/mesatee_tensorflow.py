"""TensorFlow (SavedModel, frozen graph) and Keras models to ONNX, by tf2onnx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from mesatee_converting import OPSET, Refused, answer, samples
from tf2onnx import tf_loader

VERSIONS = {"tensorflow": tf.__version__, "keras": keras.__version__, "tf2onnx": tf2onnx.__version__}
Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """By what the file is: a folder is a SavedModel."""
    path = Path(job["model"])
    if job["from"] == "keras":
        return _keras(path, job)
    if path.is_dir():
        return _saved_model(path, job)
    return _frozen(path, job)


def _saved_model(path: Path, job: dict[str, Any]) -> dict[str, Any]:
    if not (path / "saved_model.pb").is_file():
        raise Refused(
            "the folder has no saved_model.pb",
            "name the folder that `model.export` or `tf.saved_model.save` wrote",
        )
    loaded = tf.saved_model.load(str(path))
    signatures = dict(loaded.signatures)
    name = job.get("signature") or ("serving_default" if "serving_default" in signatures else None)
    if name is None and len(signatures) == 1:
        name = next(iter(signatures))
    if name not in signatures:
        raise Refused(
            f"the SavedModel has the signatures {', '.join(sorted(signatures)) or 'none'}",
            "name one by --signature; a model has one if it was written by `model.export(FOLDER)`",
        )
    function = signatures[name]
    _no_python(function.graph.as_graph_def())
    wanted = function.structured_input_signature[1]
    sample = samples([_spec(key, spec) for key, spec in wanted.items()], job)
    expected = {
        key: value.numpy()
        for key, value in function(**{key: tf.constant(value) for key, value in sample.items()}).items()
    }
    graph, inputs, outputs, tables, renamed = tf_loader.from_saved_model(
        str(path), None, None, "serve", [name], return_initialized_tables=True, return_tensors_to_rename=True
    )
    return _done(graph, inputs, outputs, renamed, tables, sample, expected)


def _frozen(path: Path, job: dict[str, Any]) -> dict[str, Any]:
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except Exception:  # noqa: BLE001  # protobuf's own classes
        raise Refused("the file is no frozen graph", "a SavedModel is given as its folder") from None
    if not graph.node:
        raise Refused("the file has no node of a graph: it is no frozen graph", "a SavedModel is its folder")
    _no_python(graph)
    if any(node.op in ("VarHandleOp", "VariableV2", "ReadVariableOp") for node in graph.node):
        raise Refused(
            "the graph has variables: it is not frozen", "freeze it, or give the SavedModel's folder"
        )
    inputs = [f"{node.name}:0" for node in graph.node if node.op == "Placeholder"]
    used = {name.split(":")[0].lstrip("^") for node in graph.node for name in node.input}
    silent = ("Const", "NoOp", "Placeholder", "Assert")
    outputs = [f"{node.name}:0" for node in graph.node if node.name not in used and node.op not in silent]
    outputs = job.get("outputs") or outputs
    if not inputs or not outputs:
        raise Refused("the graph has no Placeholder, or nothing that comes out of it")
    with tf.Graph().as_default() as made:
        tf.import_graph_def(graph, name="")
        tensors = [(name, made.get_tensor_by_name(name)) for name in inputs]
        sample = samples([_spec(name, tensor) for name, tensor in tensors], job)
        with tf.compat.v1.Session(graph=made) as session:
            values = session.run(outputs, sample)
    expected = dict(zip(outputs, values, strict=True))
    with tf.Graph().as_default():
        optimised = tf_loader.tf_optimize(inputs, outputs, graph)
    return _done(optimised, inputs, outputs, None, None, sample, expected)


def _keras(path: Path, job: dict[str, Any]) -> dict[str, Any]:
    try:
        # In safe mode no layer may bring code of its own.
        model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
    except ValueError as error:
        text = str(error)
        if "safe_mode" in text or "deserialization of a `Lambda`" in text:
            raise Refused(
                "the model has a Lambda layer, which is code", "write it with layers, or give a SavedModel"
            ) from None
        raise
    specs, names = [], []
    for tensor in model.inputs:
        name = tensor.name.split(":")[0].replace("/", "_")
        names.append(name)
        specs.append(tf.TensorSpec(tensor.shape, tensor.dtype, name=name))
    sample = samples([_spec(name, spec) for name, spec in zip(names, specs, strict=True)], job)

    def call(*given: Any) -> Any:
        found = model(given[0] if len(given) == 1 else list(given), training=False)
        found = found if isinstance(found, (list, tuple)) else [found]
        return [tf.identity(value, name=f"output_{number}") for number, value in enumerate(found)]

    function = tf.function(call, input_signature=specs, autograph=False)
    values = function(*[tf.constant(sample[name]) for name in names])
    expected = {f"output_{number}": value.numpy() for number, value in enumerate(values)}
    concrete = function.get_concrete_function()
    inputs = [tensor.name for tensor in concrete.inputs if tensor.dtype != tf.resource]
    outputs = [tensor.name for tensor in concrete.outputs]
    graph = tf_loader.from_function(concrete, inputs, outputs)
    renamed = dict(zip(inputs, names, strict=True)) | dict(zip(outputs, expected, strict=True))
    return _done(graph, inputs, outputs, renamed, None, sample, expected)


def _no_python(graph: Any) -> None:
    """Neither in the graph nor in the functions that it brings."""
    nodes = [*graph.node, *(node for item in graph.library.function for node in item.node_def)]
    if any(node.op in ("PyFunc", "EagerPyFunc", "PyFuncStateless") for node in nodes):
        raise Refused(
            "the model calls Python code (tf.py_function), which no other runtime has",
            "write that part with TensorFlow's own operations, and export it again",
        )


def _spec(name: str, tensor: Any) -> tuple[str, str, list[int | None] | None]:
    shape = None if tensor.shape.rank is None else tensor.shape.as_list()
    return name, tensor.dtype.as_numpy_dtype().dtype.name if tensor.dtype != tf.string else "object", shape


def _done(
    graph: Any,
    inputs: list[str],
    outputs: list[str],
    renamed: Any,
    tables: Any,
    sample: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
) -> dict[str, Any]:
    if tables:
        raise Refused(
            "the model looks texts up in a table, which is not converted", "map them before the model"
        )
    model, _ = tf2onnx.convert._convert_common(
        graph,
        name="model",
        opset=OPSET,
        input_names=inputs,
        output_names=outputs,
        tensors_to_rename=renamed,
    )
    return answer(model.SerializeToString(), sample, expected, VERSIONS)
