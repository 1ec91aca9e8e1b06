"""From one signature of a SavedModel to an OpenVINO model that is the same, or the reason why there is none.

OpenVINO's CPU plugin computes 64-bit integers in 32 bits and doubles in single precision, and a table looked up beyond
its end gives zeros where TensorFlow raises. None of this need show on a sample, so the graph itself is looked at:
whatever depends on the request's values and computes with such numbers is declined, and indices into tables become
outputs of the model, for `openvino_execution` to hold against the tables' sizes in each call.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile

import numpy as np

from clary_toolkit.serving.execution import Unfit
from clary_toolkit.serving.signatures import DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from clary_toolkit.serving.signatures import Signature, TensorSpec

_TYPES = {"float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8", "int8": "i8", "bool": "boolean"}
# With 64-bit integers these may leave 32 bits; the others pass numbers on or compare them.
_ARITHMETIC = frozenset(
    (
        *("Add", "Subtract", "Multiply", "Power", "Negative", "Abs", "SquaredDifference"),
        *("MatMul", "Einsum", "CumSum", "ReduceSum", "ReduceProd", "ReduceMean"),
        *("BitwiseLeftShift", "BitwiseRightShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"),
    )
)
_DIVISION = frozenset(["Divide", "Mod", "FloorMod"])  # by zero: an error in TensorFlow, for integers
_UNCHECKED_INDICES = frozenset(
    ["GatherND", "GatherElements", "EmbeddingBagOffsets", "EmbeddingBagPacked", "EmbeddingSegmentsSum"]
)
_RANDOM = frozenset(["RandomUniform", "Multinomial"])


class ReadModel:
    """An OpenVINO model of a signature.

    Args:
        model: the openvino.Model.
        inputs: the signature's inputs by name, in the model's order.
        outputs: the signature's outputs by name, in the model's order.
        table_sizes: of the tables that are looked up by values of the request. For each the model has two further
            outputs, the smallest and the largest index.
    """

    def __init__(self, model: Any, inputs: list[TensorSpec], outputs: list[TensorSpec], table_sizes: list[int]) -> None:
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.table_sizes = table_sizes


def read(core: Any, path: str, signature: Signature) -> ReadModel:
    """The model of a signature of the SavedModel at `path`.

    Args:
        core: the openvino.Core.
        path: the SavedModel's folder.
        signature: one of its signatures.

    Raises Unfit where OpenVINO would not compute the same.
    """
    for spec in [*signature.inputs.values(), *signature.outputs.values()]:
        if _TYPES.get(_numpy_name(spec)) is None:
            raise Unfit(
                "OpenVINO does not compute with {} of type {} as TensorFlow does.".format(spec.name, spec.dtype)
            )
    try:
        model = _read(core, path, signature.name)
    except RuntimeError as error:
        raise Unfit("OpenVINO cannot read it: {}".format(_short(error))) from error
    inputs = _in_order(model.inputs, signature.inputs, "input")
    outputs = _in_order(model.outputs, signature.outputs, "output")
    return ReadModel(model, inputs, outputs, _inspect(model))


def _read(core: Any, path: str, name: str) -> Any:
    """OpenVINO reads the signature serving_default: another one is read from a copy in which it has that name."""
    if name == DEFAULT:
        return core.read_model(path)
    from tensorflow.core.protobuf import saved_model_pb2  # type: ignore[import-not-found]

    saved: Any = saved_model_pb2.SavedModel()
    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        saved.ParseFromString(file.read())
    for meta_graph in saved.meta_graphs:
        signatures = meta_graph.signature_def
        if name in signatures:
            signatures[DEFAULT].CopyFrom(signatures[name])
            for other in [key for key in signatures if key != DEFAULT]:
                del signatures[other]
    folder = tempfile.mkdtemp(prefix="clary-signature-")
    try:
        with open(os.path.join(folder, "saved_model.pb"), "wb") as file:
            file.write(saved.SerializeToString())
        for part in ("variables", "assets"):
            if os.path.isdir(os.path.join(path, part)):
                os.symlink(os.path.join(path, part), os.path.join(folder, part))
        model = core.read_model(folder)
        model.validate_nodes_and_infer_types()
        return model
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_order(ports: list[Any], specs: dict[str, TensorSpec], word: str) -> list[TensorSpec]:
    """The signature's tensors in the order of the model's ports, which are found by their names."""
    ordered: list[TensorSpec] = []
    for port in ports:
        found = [specs[name] for name in port.get_names() if name in specs]
        if len(found) != 1:
            raise Unfit(
                "OpenVINO names the {}s {}.".format(word, " and ".join(sorted(port.get_names())) or "not at all")
            )
        spec = found[0]
        if port.get_element_type().get_type_name() != _TYPES[_numpy_name(spec)]:
            raise Unfit(
                "OpenVINO makes the {} {} {}; it is {}.".format(
                    word, spec.name, port.get_element_type().get_type_name(), spec.dtype
                )
            )
        ordered.append(spec)
    if sorted(spec.name for spec in ordered) != sorted(specs):
        raise Unfit("OpenVINO leaves out {}s of the signature.".format(word))
    return ordered


def _inspect(model: Any) -> list[int]:
    """Declines what differs without showing; the sizes of tables, whose indices become outputs of the model."""
    from_values: set[str] = set()  # names of the nodes that depend on the request's values, not only on its shapes
    lookups: list[tuple[Any, int]] = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind in _RANDOM:
            raise Unfit("It computes with random numbers ({}).".format(kind))
        if kind in ("ReadValue", "Assign"):
            raise Unfit("It keeps something between requests.")
        depends = kind == "Parameter" or any(
            source.get_node().get_name() in from_values for source in node.input_values()
        )
        if not depends or kind in ("ShapeOf", "Result"):
            continue
        from_values.add(node.get_name())
        types = {output.get_element_type().get_type_name() for output in node.outputs()}
        integers = {each for each in types if each[:1] in "iu"}
        if types & {"f64", "u64", "u32"}:
            raise Unfit("It computes with numbers of 64 bits ({}), which OpenVINO does in 32.".format(kind))
        if ("i64" in types and kind in _ARITHMETIC) or (integers and kind in _DIVISION):
            raise Unfit("It computes with whole numbers ({}) as OpenVINO does not.".format(kind))
        if kind in _UNCHECKED_INDICES:
            raise Unfit("It looks up values ({}) without a check of the place.".format(kind))
        if kind == "Gather" and node.input_value(1).get_node().get_name() in from_values:
            lookups.append((node, _table_size(node)))
    return _watch(model, lookups)


def _table_size(gather: Any) -> int:
    axis = gather.input_value(2).get_node()
    shape = gather.input_value(0).get_partial_shape()
    if axis.get_type_name() != "Constant" or shape.rank.is_dynamic:
        raise Unfit("It looks up values along an axis that the request decides.")
    size = shape[int(np.asarray(axis.get_data()).reshape(-1)[0])]
    if size.is_dynamic:
        raise Unfit("It looks up values in a table whose size the request decides.")
    return int(size.get_length())


def _watch(model: Any, lookups: list[tuple[Any, int]]) -> list[int]:
    if not lookups:
        return []
    opset8 = _operations()
    sizes: list[int] = []
    watched: dict[str, int] = {}
    for gather, size in lookups:
        indices = gather.input_value(1)
        source = "{}:{}".format(indices.get_node().get_name(), indices.get_index())
        if watched.setdefault(source, size) < size:
            continue  # the same indices go into a smaller table
        if indices.get_partial_shape().rank.is_dynamic:
            raise Unfit("It looks up indices of which not even the rank is known.")
        axes = opset8.constant(np.arange(indices.get_partial_shape().rank.get_length(), dtype=np.int64))
        model.add_results(
            [
                opset8.result(opset8.reduce_min(indices, axes, False)),
                opset8.result(opset8.reduce_max(indices, axes, False)),
            ]
        )
        sizes.append(size)
    return sizes


def _operations() -> Any:
    try:
        return importlib.import_module("openvino.opset8")
    except ModuleNotFoundError:  # OpenVINO 2024
        return importlib.import_module("openvino.runtime.opset8")


def _numpy_name(spec: TensorSpec) -> str:
    return "" if spec.numpy is object else np.dtype(spec.numpy).name


def _short(error: Exception) -> str:
    """The part of OpenVINO's text that tells something: without the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return " ".join(telling or lines)[:300]
