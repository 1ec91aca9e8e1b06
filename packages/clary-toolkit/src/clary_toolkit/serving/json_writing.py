"""Writes tensors as TensorFlow Serving writes them, digit by digit: {"predictions": [...]} or {"outputs": ...}.

A float has the six digits of %g where they give its value back, else nine (seventeen for a double), and always a point
or an exponent; NaN and Infinity stand bare.
"""

from __future__ import annotations

import base64
import json

import numpy as np

from clary_toolkit.serving.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BYTES_SUFFIX = "_bytes"
_FEW = 48  # up to here, value by value is faster than numpy


def predictions(outputs: Mapping[str, np.ndarray], compact: bool) -> bytes:
    """The answer to a request in row format: a value, or an object of the named outputs, for each row.

    Args:
        outputs: arrays with the same first dimension, by name.
        compact: without line breaks, as AWS's container passes it on.
    """
    if not outputs:
        raise InvalidArgument("Cannot convert empty tensor map to JSON")
    columns: dict[str, list[str]] = {}
    count = -1
    for name, array in outputs.items():
        if not array.ndim:
            raise InvalidArgument("Tensor name: {} has no shape information ".format(name))
        if count not in (-1, len(array)):
            raise InvalidArgument(
                "Tensor name: {} has inconsistent batch size: {} expecting: {}".format(name, len(array), count)
            )
        count = len(array)
        columns[name] = _rows(name, array)
    breaks = ("", "", "", " ") if compact else ("\n    ", "\n        ", "\n            ", " ")
    end = "}" if compact else "\n}"
    if len(columns) == 1:
        (rows,) = columns.values()
        body = ", ".join(rows)
    else:
        keys = [json.dumps(name, ensure_ascii=False) + ": " for name in columns]
        comma = "," + (breaks[2] or " ")
        body = ("," + (breaks[1] or " ")).join(
            breaks[1] * (position == 0)
            + "{"
            + breaks[2]
            + comma.join(key + value for key, value in zip(keys, values))
            + breaks[1]
            + "}"
            for position, values in enumerate(zip(*columns.values()))
        )
    return _encode("{" + breaks[0] + '"predictions": [' + body + breaks[0] + "]" + end)


def columns(outputs: Mapping[str, np.ndarray], compact: bool) -> bytes:
    """The answer to a request in column format: the only output, or an object of the named outputs."""
    if not outputs:
        raise InvalidArgument("Cannot convert empty tensor map to JSON")
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        body = _nested(_values(name, array), array.shape, 1, compact)
    else:
        indent = "" if compact else "\n        "
        body = "{{{}{}}}".format(
            ("," + (" " if compact else "")).join(
                "{}{}: {}".format(
                    indent,
                    json.dumps(name, ensure_ascii=False),
                    _nested(_values(name, array), array.shape, 2, compact),
                )
                for name, array in outputs.items()
            ),
            "" if compact else "\n    ",
        )
    return _encode('{"outputs": ' + body + "}" if compact else '{\n    "outputs": ' + body + "\n}")


def error(message: str, hint: str = "") -> bytes:
    """{"error": message}, and a member of its own for a hint: clients compare the error with TensorFlow Serving's."""
    document = {"error": message, "hint": hint} if hint else {"error": message}
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


def decimal(value: float, single: bool = True) -> str:
    """One number as TensorFlow Serving writes it; `single` where it was a 32-bit float."""
    if value != value:
        return "NaN"
    text = "%.6g" % value
    back = float(text)
    if "inf" in text:
        return "-Infinity" if value < 0 else "Infinity"
    if (np.float32(back) != np.float32(value)) if single else back != value:
        text = ("%.9g" if single else "%.17g") % value
    return text if "." in text or "e" in text else text + ".0"


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _rows(name: str, array: np.ndarray) -> list[str]:
    """A text for each row of the array."""
    values = _values(name, array)
    if array.ndim == 1:
        return values
    return _group(values, array.shape[1:], len(array))


def _group(values: Sequence[str], shape: tuple[int, ...], count: int) -> list[str]:
    """Joins `values` into `count` texts of nested lists of `shape`, on one line."""
    texts = list(values)
    for size in reversed(shape):
        if size == 0:
            outer = count
            for length in shape[: shape.index(0)]:
                outer *= length
            texts = ["[]"] * outer
            for length in reversed(shape[: shape.index(0)]):
                texts = ["[" + ", ".join(texts[i : i + length]) + "]" for i in range(0, len(texts), length)]
            return texts
        texts = ["[" + ", ".join(texts[i : i + size]) + "]" for i in range(0, len(texts), size)]
    return texts


def _nested(values: list[str], shape: tuple[int, ...], level: int, compact: bool) -> str:
    if not shape:
        return values[0]
    if compact:
        (text,) = _group(values, shape, 1)
        return text
    if not shape[0]:
        return "[]"
    step = len(values) // shape[0]
    indent = "\n" + "    " * (level + 1)
    items = [_nested(values[i * step : (i + 1) * step], shape[1:], level + 1, compact) for i in range(shape[0])]
    return "[" + indent + ("," + indent).join(items) + "\n" + "    " * level + "]"


def _values(name: str, array: np.ndarray) -> list[str]:
    """A text for each value, in the array's order."""
    kind = array.dtype.kind
    if kind == "f" or array.dtype.name == "bfloat16":
        single = array.dtype.itemsize <= 4
        flat = array.astype(np.float64).ravel()
        return [decimal(value, single) for value in flat.tolist()] if flat.size <= _FEW else _decimals(flat, single)
    flat = array.ravel()
    if kind in "iu":
        return [str(value) for value in flat.tolist()]
    if kind == "b":
        return ["true" if value else "false" for value in flat.tolist()]
    if kind in "OSU":
        as_bytes = name.endswith(_BYTES_SUFFIX)
        return [_string(value, as_bytes) for value in flat.tolist()]
    raise InvalidArgument("Failed to write JSON value for tensor type: {}".format(array.dtype.name))


def _string(value: object, as_bytes: bool) -> str:
    content = value if isinstance(value, bytes) else str(value).encode()
    if as_bytes:
        return '{"b64": "' + base64.b64encode(content).decode() + '"}'
    return json.dumps(content.decode("utf-8", "surrogateescape"), ensure_ascii=False)


def _decimals(flat: np.ndarray, single: bool) -> list[str]:
    """Many numbers: all at full length at once, then again those that may be shorter."""
    form: str = ("%.9g " if single else "%.17g ") * flat.size
    texts: list[str] = list((form % tuple(flat.tolist())).split())
    with np.errstate(all="ignore"):
        scale = np.power(10.0, 5 - np.floor(np.log10(np.abs(flat))))
        rounded = np.rint(flat * scale) / scale
        if single:
            shorter = rounded.astype(np.float32) == flat.astype(np.float32)
        else:
            shorter = np.abs(rounded - flat) <= np.abs(flat) * 1e-14
        shorter |= ~np.isfinite(rounded) | (np.rint(flat) == flat)
    for position in np.nonzero(shorter)[0].tolist():
        texts[position] = decimal(float(flat[position]), single)
    return texts
