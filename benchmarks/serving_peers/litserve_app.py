"""LitServe: an API with dynamic batching; images come as a file of a form, the binary form of its documentation."""

from __future__ import annotations

import os

import litserve
import numpy as np
import saved_model
from starlette.responses import Response


class ModelAPI(litserve.LitAPI):
    def setup(self, device):
        self.model = saved_model.load()

    def decode_request(self, request):
        if saved_model.IMAGES:
            return saved_model.image(request["image"].file.read())
        return np.asarray(request["input"], np.float32)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        return self.model(x)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        if saved_model.IMAGES:
            return Response(output.tobytes(), media_type="application/octet-stream")
        return {"output": output.tolist()}


if __name__ == "__main__":
    api = ModelAPI(max_batch_size=16, batch_timeout=0.0)
    litserve.LitServer(api, accelerator="cpu", devices=1).run(
        host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), generate_client_file=False, log_level="warning"
    )
