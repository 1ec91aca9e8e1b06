"""The classify and regress methods: lists of tf.Example, as Estimators export them."""

from __future__ import annotations

import json

import numpy as np

from clary_toolkit.serving import json_tensors
from clary_toolkit.serving.errors import InvalidArgument
from clary_toolkit.serving.json_writing import decimal
from clary_toolkit.serving.signatures import CLASSIFY, REGRESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from clary_toolkit.serving.models import Version
    from clary_toolkit.serving.signatures import Signature

_METHODS = {"classify": (CLASSIFY, "classification"), "regress": (REGRESS, "regression")}


def tensors_of(version: Version, method: str, document: dict[str, Any]) -> tuple[Signature, dict[str, np.ndarray]]:
    """The signature to call, and the examples as its one input. Raises InvalidArgument."""
    name = document.get("signature_name")
    signature = version.signature(name if isinstance(name, str) else None)
    expected, word = _METHODS[method]
    return signature, inputs_of(signature, _serialized(document, method), expected, word)


def inputs_of(signature: Signature, serialized: list[bytes], expected: str, word: str) -> dict[str, np.ndarray]:
    """Serialized tf.Examples as the one input of a signature of the `expected` method. Raises InvalidArgument."""
    if not serialized:
        raise InvalidArgument("Input is empty.")
    if signature.method != expected:
        raise InvalidArgument(
            "Expected {} signature method_name to be {}. Was: {}".format(word, expected, signature.method)
        )
    if len(signature.inputs) != 1:
        raise InvalidArgument("Expected one input Tensor.")
    (input_name,) = signature.inputs
    texts = np.empty(len(serialized), dtype=object)
    texts[:] = serialized
    return {input_name: texts}


def results(outputs: Mapping[str, np.ndarray], method: str) -> bytes:
    """{"results": ...}: labels with scores, or a value, for each example. Raises InvalidArgument."""
    if method == "classify":
        rows = [
            "[{}]".format(", ".join("[{}, {}]".format(_label(label), decimal(score)) for label, score in pairs))
            for pairs in classes(outputs)
        ]
    else:
        rows = [decimal(value) for value in values(outputs)]
    end = "\n    ]\n}" if method == "classify" else "]\n}"
    return ('{\n    "results": [' + ", ".join(rows) + end).encode()


def classes(outputs: Mapping[str, np.ndarray]) -> list[list[tuple[bytes, float]]]:
    """Labels with scores for each example, of a classification's outputs. Raises InvalidArgument."""
    labels, scores = outputs.get("classes"), outputs.get("scores")
    if labels is None and scores is None:
        raise InvalidArgument("Expected classification signature outputs to contain classes or scores.")
    rows: list[list[tuple[bytes, float]]] = []
    for row in range(len(scores if labels is None else labels)):  # type: ignore[arg-type]
        marks: Any = None if scores is None else scores[row]
        names: Any = [b""] * len(marks) if labels is None else labels[row]
        if marks is None:
            marks = [0.0] * len(names)
        rows.append([(name, float(mark)) for name, mark in zip(names, marks)])
    return rows


def values(outputs: Mapping[str, np.ndarray]) -> list[float]:
    """A value for each example, of a regression's outputs. Raises InvalidArgument."""
    found = outputs.get("outputs")
    if found is None:
        raise InvalidArgument("Expected regression signature outputs to contain outputs.")
    return [float(value) for value in np.asarray(found).reshape(-1)]


def _label(label: bytes) -> str:
    return json.dumps(label.decode("utf-8", "replace"), ensure_ascii=False)


def _serialized(document: dict[str, Any], method: str) -> list[bytes]:
    examples = document.get("examples")
    if "examples" not in document:
        raise InvalidArgument(
            "JSON Value: {} When method is {}, key 'examples' is expected and was not found".format(
                json_tensors.show(document), method
            )
        )
    if not isinstance(examples, list):
        raise InvalidArgument(
            "JSON Value: {} Expecting 'examples' value to be an list/array".format(json_tensors.show(document))
        )
    if not examples:
        raise InvalidArgument("JSON Value: {} 'examples' value is an empty array".format(json_tensors.show(document)))
    context = document.get("context", {})
    return [_example(example, context) for example in examples]


def _example(content: Any, context: Any) -> bytes:
    from clary_toolkit.serving.tensorflow_execution import tensorflow

    made = tensorflow().train.Example()
    for values in (context, content):
        if not isinstance(values, dict):
            raise InvalidArgument(
                "Example must be JSON object but got JSON {}".format(type(values).__name__.capitalize())
            )
        for name, value in values.items():
            feature = made.features.feature[name]
            for item in value if isinstance(value, list) else [value]:
                _add(feature, name, item)
    return made.SerializeToString()


def _add(feature: Any, name: str, value: Any) -> None:
    if isinstance(value, (bool, int)):
        kind, content = "int64_list", int(value)
    elif isinstance(value, float):
        kind, content = "float_list", value
    elif isinstance(value, str):
        kind, content = "bytes_list", value.encode()
    elif json_tensors.is_base64(value):
        import base64

        kind, content = "bytes_list", base64.b64decode(value["b64"])
    else:
        raise InvalidArgument(
            "Feature: {} has element with unexpected JSON type: {}".format(
                name, "Null" if value is None else "Array" if isinstance(value, list) else "Object"
            )
        )
    if feature.WhichOneof("kind") not in (None, kind):
        raise InvalidArgument(
            "Unexpected element type in feature: {} expecting type: {}".format(
                name, feature.WhichOneof("kind").replace("_list", "")
            )
        )
    getattr(feature, kind).value.append(content)
