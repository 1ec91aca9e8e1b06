"""What the environment asks of the server: SageMaker's variables, and Clary's for the socket."""

from __future__ import annotations

import os

from clary_toolkit.serving.errors import StartupError
from clary_toolkit.training.machine import count_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

AUTO, TENSORFLOW = "auto", "tensorflow"
_MEGABYTE = 1024 * 1024
_LARGEST_PAYLOAD = 1024 * _MEGABYTE  # an asynchronous invocation's; the router holds the others to 6 MiB
_CONCURRENCY = 128  # requests at once that keep it busy; how many the router lets come in at least
_IGNORED = {
    "SAGEMAKER_TFS_INSTANCE_COUNT": "one process serves with several threads",
    "SAGEMAKER_TFS_BATCH_TIMEOUT_MICROS": "a batch never waits: requests are joined while the device is busy",
    "SAGEMAKER_TFS_FRACTIONAL_GPU_MEM_MARGIN": "GPU memory grows as it is needed",
    "SAGEMAKER_GUNICORN_WORKER_CLASS": "there is no gunicorn",
    "SAGEMAKER_MODEL_SERVER_VMARGS": "there is no Java",
}


_EXECUTIONS = {"auto": AUTO, "openvino": AUTO, "tensorflow": TENSORFLOW}
FLOAT32, BFLOAT16, INT8 = "float32", "bfloat16", "int8"
_PRECISIONS = {"float32": FLOAT32, "f32": FLOAT32, "bfloat16": BFLOAT16, "bf16": BFLOAT16, "int8": INT8, "i8": INT8}


class Settings:
    """The server's settings, read from a process environment by `Settings.of`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        base = environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml"
        cores = count_cpus()
        self.cores = cores
        self.base = base
        self.multi_model = _flag(environ, "SAGEMAKER_MULTI_MODEL", False)
        self.model_folder = os.path.join(base, "model")
        self.code_folder = os.path.join(base, "code" if self.multi_model else os.path.join("model", "code"))
        self.socket = environ.get("CLARY_SERVE_SOCKET") or None
        port = environ.get("SAGEMAKER_BIND_TO_PORT")
        self.port = _number(environ, "SAGEMAKER_BIND_TO_PORT", 8080) if port or not self.socket else None
        self.grpc_port = _number(environ, "CLARY_SERVING_GRPC_PORT", 9000)
        self.address = environ.get("CLARY_SERVE_HOST") or "127.0.0.1"
        self.default_model = environ.get("SAGEMAKER_TFS_DEFAULT_MODEL_NAME") or None
        self.program = environ.get("SAGEMAKER_PROGRAM") or "inference.py"
        self.log_level = _number(environ, "SAGEMAKER_CONTAINER_LOG_LEVEL", 20)

        self.batching = _flag(environ, "SAGEMAKER_TFS_ENABLE_BATCHING", None)
        self.max_batch = max(1, _number(environ, "SAGEMAKER_TFS_MAX_BATCH_SIZE", 32))
        self.slots = max(1, _number(environ, "SAGEMAKER_TFS_NUM_BATCH_THREADS", max(1, cores // 4)))
        self.queue = max(1, _number(environ, "SAGEMAKER_TFS_MAX_ENQUEUED_BATCHES", 1024))
        self.intra_op = _number(environ, "SAGEMAKER_TFS_INTRA_OP_PARALLELISM", 0)
        self.inter_op = _number(environ, "SAGEMAKER_TFS_INTER_OP_PARALLELISM", 0)
        self.execution = _choice(environ, "CLARY_SERVING_EXECUTION", _EXECUTIONS)
        self.precision = _choice(environ, "CLARY_SERVING_PRECISION", _PRECISIONS)
        self.threads = max(2, min(8, cores + 1))

        workers = _number(environ, "SAGEMAKER_GUNICORN_WORKERS", 0)
        per_worker = _number(environ, "SAGEMAKER_GUNICORN_THREADS", 0)
        self.handler_threads = max(workers, 1) * max(per_worker, 1) if workers or per_worker else max(4, cores)
        self.concurrency = max(_CONCURRENCY, 2 * self.handler_threads, 2 * self.slots * self.max_batch)
        self.function_threads = max(1, _number(environ, "SAGEMAKER_MODEL_SERVER_WORKERS", 1))
        handler_seconds = _number(environ, "SAGEMAKER_GUNICORN_TIMEOUT_SECONDS", 60)
        self.handler_seconds = max(handler_seconds, _number(environ, "SAGEMAKER_NGINX_PROXY_READ_TIMEOUT_SECONDS", 60))
        minutes_or_seconds = _number(environ, "SAGEMAKER_MODEL_SERVER_TIMEOUT", 60)
        self.function_seconds = _number(environ, "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", minutes_or_seconds)
        self.default_accept = environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT") or "application/json"
        limit = _number(environ, "SAGEMAKER_MAX_PAYLOAD_IN_MB", 0)
        self.max_payload = limit * _MEGABYTE if limit > 0 else _LARGEST_PAYLOAD
        self.max_payload_in_mb = limit or 6
        self.batch_strategy = environ.get("SAGEMAKER_BATCH_STRATEGY") or "MULTI_RECORD"
        self.concurrent_transforms = _number(environ, "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", self.threads)
        self.ignored = ["{} has no effect: {}".format(name, why) for name, why in _IGNORED.items() if name in environ]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """The settings that this environment asks for. Raises StartupError for a value that cannot be read."""
        return cls(environ)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise StartupError("The variable {} is {!r}. Expected a whole number.".format(name, text)) from None


def _choice(environ: Mapping[str, str], name: str, values: Mapping[str, str]) -> str:
    """One of the values that a variable may have; the first where it is not set."""
    text = environ.get(name, "").strip().lower() or next(iter(values))
    if text not in values:
        expected = " or ".join(dict.fromkeys(values.values()))
        raise StartupError("The variable {} is {!r}. Expected {}.".format(name, environ[name], expected))
    return values[text]


def _flag(environ: Mapping[str, str], name: str, default: bool | None) -> bool | None:
    text = environ.get(name, "").strip().lower()
    if not text:
        return default
    if text not in ("true", "false", "1", "0"):
        raise StartupError("The variable {} is {!r}. Expected true or false.".format(name, environ[name]))
    return text in ("true", "1")
