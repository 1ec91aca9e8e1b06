"""From the JSON of a predict request to tensors, by TensorFlow Serving's rules and with its error texts.

Whole arrays are converted by numpy at once where that is certain to give what the rules give; what is left, and every
request that is wrong, is walked value by value.
"""

from __future__ import annotations

import base64
import binascii
import json

import numpy as np

from clary_toolkit.serving import release
from clary_toolkit.serving.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from clary_toolkit.serving.signatures import Signature, TensorSpec

    JsonValue = Any

ROW, COLUMN = "instances", "inputs"
# Whole numbers up to here keep their value in the type.
_EXACT = {"float": 2**24 - 1, "double": 2**53 - 1, "half": 2**11 - 1, "bfloat16": 2**8 - 1}
_FLOATS = tuple(_EXACT)
_BITS = {"int8": 32, "uint8": 32, "int16": 32, "uint16": 32, "int32": 32, "int64": 64}
_UNSIGNED = {"uint32": 32, "uint64": 64}
_LONGEST_VALUE = 1000
# Before numpy 1.24 a ragged list became an array of lists, with a warning.
if hasattr(np, "VisibleDeprecationWarning"):
    import warnings

    warnings.filterwarnings("ignore", category=np.VisibleDeprecationWarning)  # type: ignore[attr-defined]


def tensors_of(document: JsonValue, signature: Signature, booleans: bool = True) -> tuple[str, dict[str, np.ndarray]]:
    """The format (ROW or COLUMN) and the tensors by name of a predict request.

    Args:
        document: the request, a JSON object.
        signature: what the model takes.
        booleans: whether true or false may stand anywhere in it; without them numbers are read faster.

    Raises InvalidArgument with TensorFlow Serving's text.
    """
    if ROW in document and COLUMN in document:
        raise InvalidArgument(
            "JSON Value: {} Not formatted correctly expecting only one of '{}' or '{}' keys to exist ".format(
                show(document), COLUMN, ROW
            )
        )
    if ROW in document:
        instances = document[ROW]
        if not isinstance(instances, list):
            raise InvalidArgument("JSON Value: {} Excepting '{}' to be an list/array".format(show(document), ROW))
        if not instances:
            raise InvalidArgument("JSON Value: {} No values in '{}' array".format(show(document), ROW))
        return ROW, _instances(instances, signature, booleans)
    if COLUMN in document:
        return COLUMN, _columns(document[COLUMN], signature, booleans)
    raise InvalidArgument("Missing 'inputs' or 'instances' key")


def show(value: JsonValue) -> str:
    """A JSON value as an error shows it; the middle of a long one is left out."""
    text = json.dumps(value, indent=4, ensure_ascii=False)
    if len(text) > _LONGEST_VALUE:
        text = text[: _LONGEST_VALUE - 100] + " [...] " + text[-100:]
    return text


def is_base64(value: JsonValue) -> bool:
    """Whether the value is {"b64": "..."} and nothing else."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _instances(instances: list[JsonValue], signature: Signature, booleans: bool) -> dict[str, np.ndarray]:
    specs = signature.inputs
    first = instances[0]
    if not isinstance(first, dict) and len(specs) > 1:
        raise InvalidArgument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map",
            signature.expects(),
        )
    if not isinstance(first, dict) or is_base64(first):
        if not specs:
            raise InvalidArgument('The signature "{}" takes no inputs'.format(signature.name))
        (name, spec), *_ = specs.items()
        array = _whole(instances, spec, booleans)
        if array is not None:
            return {name: array}
        return _walk_plain(instances, spec, signature)
    if all(isinstance(instance, dict) and instance.keys() == specs.keys() for instance in instances):
        arrays: dict[str, np.ndarray] = {}
        for name, spec in specs.items():
            array = _whole([instance[name] for instance in instances], spec, booleans)
            if array is None:
                break
            arrays[name] = array
        else:
            return arrays
    return _walk_objects(instances, signature)


def _columns(inputs: JsonValue, signature: Signature, booleans: bool) -> dict[str, np.ndarray]:
    specs = signature.inputs
    if not isinstance(inputs, dict) or is_base64(inputs):
        if len(specs) != 1:
            raise InvalidArgument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map",
                signature.expects(),
            )
        (name, spec), *_ = specs.items()
        return {name: _column(inputs, spec, booleans)}
    arrays: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        if name not in inputs:
            raise InvalidArgument("Missing named input: {} in 'inputs' object.".format(name), signature.expects())
        arrays[name] = _column(inputs[name], spec, booleans)
    return arrays


def _column(value: JsonValue, spec: TensorSpec, booleans: bool) -> np.ndarray:
    array = _whole(value, spec, booleans)
    if array is not None:
        return array
    shape = _shape(value)
    flat: list[Any] = []
    _walk(value, 0, shape, spec, flat)
    return _array(flat, shape, spec)


def _whole(value: JsonValue, spec: TensorSpec, booleans: bool) -> np.ndarray | None:
    """The array, made at once; None where a walk must decide: numpy would take true and false for 1 and 0."""
    if spec.numpy is object or (booleans and spec.dtype != "bool"):
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):  # ragged
        return None
    kind = array.dtype.kind
    if not array.size:
        return array.astype(spec.numpy) if kind != "O" else None
    if spec.dtype == "bool":
        return array if kind == "b" else None
    if kind in "iu" and spec.dtype not in _FLOATS:
        low, high = _range(spec)
        fits = low <= int(array.min()) and int(array.max()) <= high
        return array.astype(spec.numpy) if fits else None
    if kind in "fiu" and spec.dtype in _FLOATS:
        exact = _EXACT[spec.dtype]
        # False for NaN too, which the walk takes.
        fits = bool(array.max() <= exact) and bool(array.min() >= -exact)
        return array.astype(spec.numpy) if fits else None
    return None


def _range(spec: TensorSpec) -> tuple[int, int]:
    information = np.iinfo(spec.numpy)
    return int(information.min), int(information.max)


def _walk_plain(instances: list[JsonValue], spec: TensorSpec, signature: Signature) -> dict[str, np.ndarray]:
    flat: list[Any] = []
    shape: tuple[int, ...] | None = None
    for position, instance in enumerate(instances):
        if isinstance(instance, dict) and not is_base64(instance):
            raise InvalidArgument("Expecting value/list but got object at item {} of input list".format(position))
        try:
            shape = _add_instance(instance, spec, shape, flat)
        except InvalidArgument as error:
            raise InvalidArgument(
                "Failed to process element: {} of 'instances' list. Error: {}: {}".format(
                    position, release.invalid_argument(), error.message
                ),
                signature.expects(),
            ) from error
    return {spec.name: _array(flat, (len(instances),) + (shape or ()), spec)}


def _walk_objects(instances: list[JsonValue], signature: Signature) -> dict[str, np.ndarray]:
    specs = signature.inputs
    flats: dict[str, list[Any]] = {name: [] for name in specs}
    shapes: dict[str, tuple[int, ...]] = {}
    for position, instance in enumerate(instances):
        if not isinstance(instance, dict) or is_base64(instance):
            raise InvalidArgument("Expecting object but got list at item {} of input list".format(position))
        for name, value in instance.items():
            try:
                if name not in specs:
                    raise InvalidArgument("JSON object: does not have named input: " + name)
                shapes[name] = _add_instance(value, specs[name], shapes.get(name), flats[name])
            except InvalidArgument as error:
                raise InvalidArgument(
                    "Failed to process element: {} key: {} of 'instances' list. Error: {}: {}".format(
                        position, name, release.invalid_argument(), error.message
                    ),
                    signature.expects(),
                ) from error
        if instance.keys() != specs.keys():
            raise InvalidArgument(
                "Failed to process element: {} of 'instances' list. JSON object: {} keys must be equal to: {}".format(
                    position, show(instance), ",".join(specs)
                )
            )
    return {name: _array(flats[name], (len(instances),) + shapes[name], spec) for name, spec in specs.items()}


def _add_instance(
    value: JsonValue, spec: TensorSpec, expected: tuple[int, ...] | None, flat: list[Any]
) -> tuple[int, ...]:
    shape = _shape(value)
    before = len(flat)
    _walk(value, 0, shape, spec, flat)
    if expected is None or shape == expected:
        return shape
    size = 1
    for length in expected:
        size *= length
    if len(flat) - before != size:
        raise InvalidArgument("Expecting tensor size: {} but got: {}".format(size, len(flat) - before))
    raise InvalidArgument("Expecting shape {} but got: {}".format(_list(expected), _list(shape)))


def _list(shape: tuple[int, ...]) -> str:
    return "[{}]".format(",".join(map(str, shape)))


def _shape(value: JsonValue) -> tuple[int, ...]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _walk(value: JsonValue, level: int, shape: tuple[int, ...], spec: TensorSpec, flat: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise InvalidArgument(
                "JSON Value: {} found at incorrect level: {} in the JSON DOM. Expected at level: {}".format(
                    show(value), level + 1, len(shape)
                )
            )
        flat.append(_value(value, spec))
        return
    if level >= len(shape):
        raise InvalidArgument("Encountered list at unexpected level: {} expected < {}".format(level, len(shape)))
    if len(value) != shape[level]:
        raise InvalidArgument(
            "Encountered list at unexpected size: {} at level: {} expected size: {}".format(
                len(value), level, shape[level]
            )
        )
    for item in value:
        _walk(item, level + 1, shape, spec, flat)


def _value(value: JsonValue, spec: TensorSpec) -> Any:
    dtype = spec.dtype
    if dtype == "string":
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if isinstance(value, dict):
            return _decode(value)
    elif dtype == "bool":
        if isinstance(value, bool):
            return value
    elif isinstance(value, bool):
        pass
    elif dtype in _FLOATS:
        if isinstance(value, (int, float)):
            return _decimal(value, spec)
    elif dtype in _BITS or dtype in _UNSIGNED:
        if isinstance(value, int):
            low, high = _range(spec)
            if low <= value <= high:
                return value
    else:
        raise InvalidArgument("Conversion of JSON Value: {} to type: {}".format(show(value), dtype))
    raise InvalidArgument(
        "JSON Value: {} Type: {} is not of expected type: {}".format(show(value), _type(value), dtype)
    )


def _decimal(value: int | float, spec: TensorSpec) -> float:
    if isinstance(value, int):
        lossless = abs(value) <= _EXACT[spec.dtype]
    elif value != value or value in (float("inf"), float("-inf")):
        lossless = True
    else:
        lossless = spec.dtype in ("double", "bfloat16") or abs(value) <= float(np.finfo(spec.numpy).max)
    if not lossless:
        raise InvalidArgument(
            "Cannot convert JSON value: {} to {} without loss of precision.".format(show(value), spec.dtype)
        )
    return float(value)


def _decode(value: dict[str, JsonValue]) -> bytes:
    if not is_base64(value):
        raise InvalidArgument("JSON Value: {} not formatted correctly for base64 data".format(show(value)))
    text = "".join(value["b64"].split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument("Unable to base64 decode") from None


def _type(value: JsonValue) -> str:
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "True" if value else "False"
    return {dict: "Object", list: "Array", str: "String"}.get(type(value), "Number")


def _array(flat: list[Any], shape: tuple[int, ...], spec: TensorSpec) -> np.ndarray:
    if spec.numpy is object:
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
    else:
        array = np.array(flat, dtype=spec.numpy)
    return array.reshape(shape)
