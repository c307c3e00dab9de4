"""The messages of the ONNX format, field by field (onnx.proto3 of ONNX 1.19, IR version 12).

What is not listed is refused by the reader. Documentation and properties are skipped: nothing here reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mesatee.protocol.protobuf import Schema

MODEL: Final[Schema] = {
    1: ("ir_version", "int"),
    2: ("producer_name", "text"),
    3: ("producer_version", "text"),
    4: ("domain", "text"),
    5: ("model_version", "int"),
    6: ("doc_string", "skip"),
    7: ("graph", "span"),
    8: ("opset_import", "spans"),
    14: ("metadata_props", "skips"),
    20: ("training_info", "skips"),
    25: ("functions", "spans"),
}
OPSET: Final[Schema] = {1: ("domain", "text"), 2: ("version", "int")}
GRAPH: Final[Schema] = {
    1: ("node", "spans"),
    2: ("name", "text"),
    5: ("initializer", "spans"),
    10: ("doc_string", "skip"),
    11: ("input", "spans"),
    12: ("output", "spans"),
    13: ("value_info", "spans"),
    14: ("quantization_annotation", "skips"),
    15: ("sparse_initializer", "spans"),
    16: ("metadata_props", "skips"),
}
FUNCTION: Final[Schema] = {
    1: ("name", "text"),
    4: ("input", "texts"),
    5: ("output", "texts"),
    6: ("attribute", "texts"),
    7: ("node", "spans"),
    8: ("doc_string", "skip"),
    9: ("opset_import", "spans"),
    10: ("domain", "text"),
    11: ("attribute_proto", "spans"),
    12: ("value_info", "spans"),
    13: ("overload", "text"),
    14: ("metadata_props", "skips"),
}
NODE: Final[Schema] = {
    1: ("input", "texts"),
    2: ("output", "texts"),
    3: ("name", "text"),
    4: ("op_type", "text"),
    5: ("attribute", "spans"),
    6: ("doc_string", "skip"),
    7: ("domain", "text"),
    8: ("overload", "text"),
    9: ("metadata_props", "skips"),
}
ATTRIBUTE: Final[Schema] = {
    1: ("name", "text"),
    2: ("f", "float"),
    3: ("i", "int"),
    4: ("s", "bytes"),
    5: ("t", "span"),
    6: ("g", "span"),
    7: ("floats", "floats"),
    8: ("ints", "ints"),
    9: ("strings", "blobs"),
    10: ("tensors", "spans"),
    11: ("graphs", "spans"),
    13: ("doc_string", "skip"),
    14: ("tp", "span"),
    15: ("type_protos", "spans"),
    20: ("type", "int"),
    21: ("ref_attr_name", "text"),
    22: ("sparse_tensor", "span"),
    23: ("sparse_tensors", "spans"),
}
ATTRIBUTE_FIELDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "f",
        2: "i",
        3: "s",
        4: "t",
        5: "g",
        6: "floats",
        7: "ints",
        8: "strings",
        9: "tensors",
        10: "graphs",
        11: "sparse_tensor",
        12: "sparse_tensors",
        13: "tp",
        14: "type_protos",
    }
)
"""An attribute's type, and the one field in which its value stands."""
TENSOR: Final[Schema] = {
    1: ("dims", "ints"),
    2: ("data_type", "int"),
    3: ("segment", "skip"),
    4: ("float_data", "span"),
    5: ("int32_data", "span"),
    6: ("string_data", "skips"),
    7: ("int64_data", "span"),
    8: ("name", "text"),
    9: ("raw_data", "span"),
    10: ("double_data", "span"),
    11: ("uint64_data", "span"),
    12: ("doc_string", "skip"),
    13: ("external_data", "skips"),
    14: ("data_location", "int"),
    16: ("metadata_props", "skips"),
}
SPARSE: Final[Schema] = {1: ("values", "span"), 2: ("indices", "span"), 3: ("dims", "ints")}
VALUE: Final[Schema] = {
    1: ("name", "text"),
    2: ("type", "span"),
    3: ("doc_string", "skip"),
    4: ("metadata_props", "skips"),
}
TYPE: Final[Schema] = {
    1: ("tensor_type", "span"),
    4: ("sequence_type", "span"),
    5: ("map_type", "span"),
    6: ("denotation", "skip"),
    8: ("sparse_tensor_type", "span"),
    9: ("optional_type", "span"),
}
TENSOR_TYPE: Final[Schema] = {1: ("elem_type", "int"), 2: ("shape", "span")}
ELEMENT_TYPE: Final[Schema] = {1: ("elem_type", "span")}
MAP_TYPE: Final[Schema] = {1: ("key_type", "int"), 2: ("value_type", "span")}
SHAPE: Final[Schema] = {1: ("dim", "spans")}
DIMENSION: Final[Schema] = {1: ("dim_value", "int"), 2: ("dim_param", "text"), 3: ("denotation", "skip")}

STRING: Final = 8
DTYPES: Final[Mapping[int, tuple[str, int]]] = MappingProxyType(
    {
        1: ("float32", 32),
        2: ("uint8", 8),
        3: ("int8", 8),
        4: ("uint16", 16),
        5: ("int16", 16),
        6: ("int32", 32),
        7: ("int64", 64),
        8: ("string", 0),
        9: ("bool", 8),
        10: ("float16", 16),
        11: ("float64", 64),
        12: ("uint32", 32),
        13: ("uint64", 64),
        14: ("complex64", 64),
        15: ("complex128", 128),
        16: ("bfloat16", 16),
        17: ("float8_e4m3fn", 8),
        18: ("float8_e4m3fnuz", 8),
        19: ("float8_e5m2", 8),
        20: ("float8_e5m2fnuz", 8),
        21: ("uint4", 4),
        22: ("int4", 4),
        23: ("float4_e2m1fn", 4),
    }
)
"""A tensor's data type: numpy's name of it where there is one (text is `string`), and the bits of an element."""
DATA: Final[Mapping[str, frozenset[int]]] = MappingProxyType(
    {
        "float_data": frozenset({1, 14}),
        "int32_data": frozenset({2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 21, 22, 23}),
        "int64_data": frozenset({7}),
        "double_data": frozenset({11, 15}),
        "uint64_data": frozenset({12, 13}),
    }
)
"""A field with data of its own type, and the tensors that may have it; any but text may have `raw_data`."""
SCALARS: Final[Mapping[str, int]] = MappingProxyType({"float_data": 4, "double_data": 8})
"""Bytes of a value in the fields that hold no varints."""
