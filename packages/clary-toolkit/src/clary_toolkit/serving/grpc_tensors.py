"""Between TensorFlow's protocol buffers and the server's arrays."""

from __future__ import annotations

import importlib

import numpy as np

from clary_toolkit.serving.errors import InvalidArgument
from clary_toolkit.serving.tensorflow_execution import tensorflow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from clary_toolkit.serving.signatures import Signature, TensorSpec

_types: Any = importlib.import_module("tensorflow.core.framework.types_pb2")
# The fields of a TensorProto that clients read, by kinds and bytes of the numpy type; others are sent as bytes.
_FIELDS = {
    "f4": "float_val", "f8": "double_val", "i8": "int64_val", "i4": "int_val", "i2": "int_val", "i1": "int_val",
    "u1": "int_val", "u2": "int_val", "u4": "uint32_val", "u8": "uint64_val", "b1": "bool_val",
}  # fmt: skip


def read(proto: Any, spec: TensorSpec, signature: Signature) -> np.ndarray:
    """The array of a TensorProto (any shape). Raises InvalidArgument where it is of another type or incomplete."""
    if proto.dtype != _types.DataType.Value(spec.enumeration):
        sent = _types.DataType.Name(proto.dtype).replace("DT_", "").lower()
        raise InvalidArgument(
            "Expects {} to be {} but {} is provided.".format(spec.name, spec.dtype, sent), signature.expects()
        )
    try:
        array: np.ndarray = tensorflow().make_ndarray(proto)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(
            "Tensor proto of {} has no values for its shape ({}).".format(spec.name, error), signature.expects()
        ) from None
    return np.asarray(array, dtype=spec.numpy)


def write(proto: Any, array: np.ndarray, spec: TensorSpec) -> None:
    """Fill a TensorProto, as TensorFlow Serving does: the values in the field of their type, such as `float_val`."""
    array = np.asarray(array)
    proto.dtype = _types.DataType.Value(spec.enumeration)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if array.dtype.kind in "OSU":
        proto.string_val.extend(
            value.encode() if isinstance(value, str) else bytes(value) for value in array.reshape(-1).tolist()
        )
        return
    field = _FIELDS.get(array.dtype.kind + str(array.dtype.itemsize))
    if field is None or spec.dtype == "bfloat16":
        proto.tensor_content = np.ascontiguousarray(array).tobytes()
    else:
        getattr(proto, field).extend(array.reshape(-1).tolist())


def describe(information: Any, spec: TensorSpec) -> None:
    """Fill a TensorInfo."""
    information.name = spec.tensor
    information.dtype = _types.DataType.Value(spec.enumeration)
    if spec.shape is None:
        information.tensor_shape.unknown_rank = True
    for size in spec.shape or ():
        information.tensor_shape.dim.add(size=size)


def examples(sent: Any) -> list[bytes]:
    """The serialized tf.Examples of an Input; those with a context have its features too."""
    if sent.WhichOneof("kind") == "example_list_with_context":
        context = sent.example_list_with_context.context
        merged: list[bytes] = []
        for example in sent.example_list_with_context.examples:
            whole = type(example)()
            whole.CopyFrom(context)
            for name, feature in example.features.feature.items():
                whole.features.feature[name].CopyFrom(feature)
            merged.append(whole.SerializeToString())
        return merged
    return [example.SerializeToString() for example in sent.example_list.examples]
