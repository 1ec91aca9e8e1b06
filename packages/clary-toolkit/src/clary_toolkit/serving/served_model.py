"""The model in the model folder as the user's functions get it where there is no model_fn: called with arrays."""

from __future__ import annotations

import numpy as np

from clary_toolkit.serving.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from clary_toolkit.serving.models import Models
    from clary_toolkit.serving.prediction import Predictor


class ServedModel:
    """A model by its default signature: `model(array)` or `model.predict({"name": array})`.

    Gives the array of the only output, or all by name.
    """

    def __init__(self, models: Models, predictor: Predictor, name: str | None = None) -> None:
        self._version = models.find(name)
        self._predictor = predictor

    def __call__(self, data: Any) -> Any:
        signature = self._version.signature(None)
        if not isinstance(data, dict):
            if len(signature.inputs) != 1:
                raise InvalidArgument("One array was given. " + signature.expects())
            data = dict.fromkeys(signature.inputs, data)
        if data.keys() != signature.inputs.keys():
            raise InvalidArgument("Received {}. {}".format(", ".join(map(str, data)), signature.expects()))
        inputs = {name: np.asarray(data[name]).astype(spec.numpy) for name, spec in signature.inputs.items()}
        outputs = self._predictor.call(self._version, inputs)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    predict = __call__
