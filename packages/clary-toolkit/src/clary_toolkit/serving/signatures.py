"""What a model takes and gives: the signatures of a SavedModel as plain data."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DEFAULT = "serving_default"
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


class TensorSpec:
    """One named tensor.

    Args:
        name: its name in the signature.
        dtype: TensorFlow's word for its type: "float", "int64", "string".
        numpy: the numpy type of its values; object for strings.
        shape: -1 stands for any size; None for any shape.
        tensor: its name in the graph.
        enumeration: "DT_FLOAT" and the like.
    """

    def __init__(
        self, name: str, dtype: str, numpy: Any, shape: tuple[int, ...] | None, tensor: str = "", enumeration: str = ""
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.numpy = numpy
        self.shape = shape
        self.tensor = tensor or name + ":0"
        self.enumeration = enumeration or "DT_" + dtype.upper()

    def __str__(self) -> str:
        shape = "any shape" if self.shape is None else "shape [{}]".format(", ".join(str(size) for size in self.shape))
        return "{}: {} of {}".format(self.name, self.dtype, shape)


class Signature:
    """One signature: its inputs and outputs by name, in the names' order."""

    def __init__(self, name: str, inputs: list[TensorSpec], outputs: list[TensorSpec], method: str = PREDICT) -> None:
        self.name = name
        self.method = method
        self.inputs: dict[str, TensorSpec] = {spec.name: spec for spec in sorted(inputs, key=lambda spec: spec.name)}
        self.outputs: dict[str, TensorSpec] = {spec.name: spec for spec in sorted(outputs, key=lambda spec: spec.name)}

    @property
    def has_rows(self) -> bool:
        """Whether every input and output has a first dimension of any size: requests can share one call."""
        specs = list(self.inputs.values()) + list(self.outputs.values())
        return bool(self.inputs) and all(spec.shape and spec.shape[0] == -1 for spec in specs)

    def expects(self) -> str:
        """What a request must hold, for an error's text (-1 is any size)."""
        return 'The signature "{}" expects {} (-1 is any size).'.format(
            self.name, "; ".join(str(spec) for spec in self.inputs.values())
        )


def metadata(model: str, version: int, signatures: Mapping[str, Signature]) -> bytes:
    """TensorFlow Serving's answer to GET /v1/models/<model>/metadata."""
    described = {
        name: {
            "inputs": {key: _tensor(spec) for key, spec in signature.inputs.items()},
            "outputs": {key: _tensor(spec) for key, spec in signature.outputs.items()},
            "method_name": signature.method,
        }
        for name, signature in sorted(signatures.items())
    }
    answer = {
        "model_spec": {"name": model, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": described}},
    }
    return json.dumps(answer, indent=1).encode() + b"\n"


def _tensor(spec: TensorSpec) -> dict[str, object]:
    sizes = [{"size": str(size), "name": ""} for size in spec.shape or ()]
    return {
        "dtype": spec.enumeration,
        "tensor_shape": {"dim": sizes, "unknown_rank": spec.shape is None},
        "name": spec.tensor,
    }
