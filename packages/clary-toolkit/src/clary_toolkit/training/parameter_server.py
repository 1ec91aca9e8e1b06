"""A parameter server of TensorFlow, which serves until it is killed.

`python -m clary_toolkit.training.parameter_server TF_CONFIG`, where TF_CONFIG is the text of that variable.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def main(config: str) -> None:
    """Serve as the task that `config`, the text of a TF_CONFIG, names. On the CPU: a GPU is the script's."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    tensorflow: Any = importlib.import_module("tensorflow")

    parsed = json.loads(config)
    compat = tensorflow.compat.v1
    server = compat.train.Server(
        parsed["cluster"], job_name=parsed["task"]["type"], task_index=parsed["task"]["index"], protocol="grpc"
    )
    server.join()


if __name__ == "__main__":
    main(sys.argv[1])
