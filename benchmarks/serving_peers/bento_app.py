"""BentoML: a batchable API for numbers as JSON; for images an API that takes bytes.

An array travels to BentoML's public port as JSON alone (its pickled form is for calls between services), so a
batchable API would have to parse images as text: bytes are faster for it, computed one by one.
"""

from __future__ import annotations

from typing import Annotated

import bentoml
import numpy as np
import saved_model
from bentoml.validators import ContentType

Bytes = Annotated[bytes, ContentType("application/octet-stream")]


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Model:
    def __init__(self) -> None:
        self.model = saved_model.load()

    if saved_model.IMAGES:

        @bentoml.api
        def predict(self, body: Bytes, /) -> Bytes:
            return self.model(saved_model.image(body)[np.newaxis]).tobytes()

    else:

        @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
        def predict(self, batch: np.ndarray) -> np.ndarray:
            return self.model(np.asarray(batch, np.float32))
