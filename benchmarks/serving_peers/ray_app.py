"""Ray Serve: one deployment with dynamic batching, which reads the request's body itself."""

from __future__ import annotations

import json
import os

import numpy as np
import ray
import saved_model
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response


# Ray sets OMP_NUM_THREADS to a replica's processors: it gets all, as the others take.
@serve.deployment(num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": os.cpu_count() or 1})
class Model:
    def __init__(self) -> None:
        self.model = saved_model.load()

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.0)
    async def compute(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.model(np.stack(rows)))

    async def __call__(self, request: Request):
        if saved_model.IMAGES:
            answer = await self.compute(saved_model.image(await request.body()))
            return Response(answer.tobytes(), media_type="application/octet-stream")
        answer = await self.compute(np.asarray((await request.json())["input"], np.float32))
        return Response(json.dumps({"output": answer.tolist()}), media_type="application/json")  # a dict goes in chunks


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2 * (os.cpu_count() or 1), include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    serve.run(
        Model.bind(), route_prefix="/predict", blocking=True, logging_config=LoggingConfig(enable_access_log=False)
    )
