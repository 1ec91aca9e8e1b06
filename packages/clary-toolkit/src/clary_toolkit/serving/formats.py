"""Content types: from a request's body to tensors, and from tensors to an answer's body."""

from __future__ import annotations

import csv
import io

import numpy as np

from clary_toolkit.serving import json_reading, json_tensors, json_writing
from clary_toolkit.serving.errors import InvalidArgument, ServingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from clary_toolkit.serving.signatures import Signature, TensorSpec

JSON, JSON_LINES, JSONS, CSV = "application/json", "application/jsonlines", "application/jsons", "text/csv"
NPY, NPZ = "application/x-npy", "application/x-npz"
_JSON_TYPES = (JSON, JSON_LINES, JSONS)


def media_type(header: str | None) -> str:
    """The type of a Content-Type header, without its parameters."""
    return (header or "").split(";")[0].strip().lower()


def preferred(accept: str | None) -> list[str]:
    """The types of an Accept header in their order."""
    return [media_type(part) for part in (accept or "").split(",") if part.strip()]


def document_of(body: bytes, content_type: str) -> dict[str, Any] | None:
    """The JSON request that an invocation's body stands for; None for npy, npz and CSV, which become tensors at once.

    Raises ServingError 415 for a type that nothing here reads.
    """
    if content_type in _JSON_TYPES:
        return json_reading.read_invocation(body)
    if content_type in (CSV, NPY, NPZ):
        return None
    raise ServingError(
        "Unsupported Media Type: {}. Expected {}.".format(
            content_type or "Unknown", ", ".join((*_JSON_TYPES, CSV, NPY, NPZ))
        ),
        415,
    )


def tensors_of(body: bytes, content_type: str, signature: Signature) -> tuple[str, dict[str, np.ndarray]]:
    """The format (row or column) and the tensors of a CSV, npy or npz body. Raises InvalidArgument."""
    if content_type == CSV:
        return json_tensors.tensors_of({json_tensors.ROW: read_csv(body, signature)}, signature, booleans=False)
    arrays = read_numpy(body)
    if isinstance(arrays, np.ndarray):
        if len(signature.inputs) != 1:
            raise InvalidArgument(
                "One npy array was sent, but the model takes {} inputs. Send an npz with an array for each. {}".format(
                    len(signature.inputs), signature.expects()
                )
            )
        arrays = dict.fromkeys(signature.inputs, arrays)
    if arrays.keys() != signature.inputs.keys():
        raise InvalidArgument(
            "The npz holds {}. {}".format(", ".join(sorted(arrays)) or "nothing", signature.expects())
        )
    return json_tensors.ROW, {name: _cast(arrays[name], spec, signature) for name, spec in signature.inputs.items()}


def read_csv(body: bytes, signature: Signature) -> list[Any]:
    """The rows: a value where there is one column, else a list. Whatever reads as a number is one, but for strings."""
    try:
        text = body.decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True, strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidArgument("The CSV cannot be read: {}".format(error)) from None
    if not rows:
        raise InvalidArgument("The CSV is empty. {}".format(signature.expects()))
    as_strings = len(signature.inputs) == 1 and all(spec.numpy is object for spec in signature.inputs.values())
    values: list[list[Any]] = rows if as_strings else [[_number(field) for field in row] for row in rows]
    return [row[0] if len(row) == 1 else row for row in values]


def read_numpy(body: bytes) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an npy body, or the arrays by name of an npz. Pickled objects are refused."""
    try:
        loaded: Any = np.load(io.BytesIO(body), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # noqa: BLE001 - numpy raises many kinds; the client gets each
        raise InvalidArgument(
            "The body is no npy array: {}. Expected what numpy.save writes, without objects.".format(error)
        ) from None


def answer(outputs: Mapping[str, np.ndarray], layout: str, accept: list[str], compact: bool) -> tuple[bytes, str]:
    """The body and its content type. JSON, but for who asks for npy or npz first."""
    wanted = accept[0] if accept else ""
    if wanted == NPZ or (wanted == NPY and len(outputs) == 1):
        file = io.BytesIO()
        arrays = {name: np.asarray(_plain(array)) for name, array in outputs.items()}
        if wanted == NPZ:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        else:
            np.save(file, next(iter(arrays.values())), allow_pickle=False)
        return file.getvalue(), wanted
    if wanted == NPY:
        raise InvalidArgument(
            "The model has several outputs ({}), and npy holds one. Accept {} or {}.".format(
                ", ".join(outputs), NPZ, JSON
            )
        )
    write = json_writing.predictions if layout == json_tensors.ROW else json_writing.columns
    return write(outputs, compact), wanted if wanted in _JSON_TYPES else JSON


def _plain(array: np.ndarray) -> np.ndarray:
    """Without objects and without types that numpy's files do not know."""
    if array.dtype.kind == "O":
        return array.astype("S")
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _number(field: str) -> Any:
    text = field.strip()
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return field


def _cast(array: np.ndarray, spec: TensorSpec, signature: Signature) -> np.ndarray:
    if spec.numpy is object:
        if array.dtype.kind not in "SU":
            raise InvalidArgument(
                "The array is {}, and strings are expected. {}".format(array.dtype, signature.expects())
            )
        encoded = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
        return encoded.astype(object)
    target = np.dtype(spec.numpy)
    if array.dtype == target:
        return array if array.flags.c_contiguous and array.dtype.isnative else np.ascontiguousarray(array, target)
    known = spec.dtype == "bfloat16" and array.dtype.kind in "fiu"
    if not known and not np.can_cast(array.dtype, target, "same_kind"):
        raise InvalidArgument(
            "The array's type {} does not become {} without loss. {}".format(array.dtype, target, signature.expects())
        )
    return np.ascontiguousarray(array.astype(target))
