"""MLServer: a custom runtime with adaptive batching.

Its REST protocol has no raw bytes: an image is a BYTES element in base64, its own form for binary content.
"""

from __future__ import annotations

import base64

import numpy as np
import saved_model
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Model(MLModel):
    async def load(self) -> bool:
        self.model = saved_model.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = payload.inputs[0]
        if not saved_model.IMAGES:
            answer = self.model(np.asarray(NumpyCodec.decode_input(given), np.float32))
            return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", answer)])
        answer = self.model(np.stack([saved_model.image(base64.b64decode(each)) for each in given.data]))
        encoded = [base64.b64encode(row.tobytes()).decode() for row in answer]
        output = ResponseOutput(name="output", shape=[len(encoded), 1], datatype="BYTES", data=encoded)
        return InferenceResponse(model_name=self.name, outputs=[output])
