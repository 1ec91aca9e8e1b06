"""TensorFlow's collectives among the ranks: the set-up, through the meeting that MPI is.

Each rank takes one GPU and tells the others where its collective server will listen. TensorFlow starts the server when
the eager context begins, with the first tensor; so this only prepares it, and scripts may still set visible devices
after `init()`. A context that has begun already cannot join: measured, the first collective then waits for ever.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import socket
import sys
from typing import Any

from clary_parallel.data import choice
from clary_parallel.data.agreement import Call
from clary_parallel.frameworks import tf
from clary_parallel.transport.mpi import MpiTransport

_JOB = "worker"
_started: Collectives | None = None


class Collectives:
    """The devices' collectives of this process: the hint for TensorFlow, the device, the keys, the watch."""

    def __init__(self, hint: str, ranks: MpiTransport, port: socket.socket) -> None:
        self.hint = hint
        self.rank, self.size = ranks.rank, ranks.size
        kind = "GPU" if hint == "nccl" else "CPU"
        self.device = f"/job:{_JOB}/replica:0/task:{self.rank}/device:{kind}:0"
        self._port = port  # Bound as long as this lives, so that nobody else gets it before TensorFlow listens.
        self._keys: dict[Call, int] = {}
        self._open = contextlib.ExitStack()

    def key(self, call: Call) -> int:
        """The instance key of a call that all ranks have just agreed on, so that all give it the same one.

        TensorFlow ties a key to one shape and type. So does a call.
        """
        return self._keys.setdefault(call, 2 * len(self._keys) + 1)

    def begin(self, ranks: MpiTransport) -> None:
        """From here on, until `finish`, the transport's patience runs for a sum on the devices."""
        self.finish()
        self._open.enter_context(ranks.inside(f"a sum on the devices ({self.hint})"))

    def finish(self) -> None:
        """The sum is done."""
        self._open.close()


def set_up(ranks: MpiTransport) -> Collectives | None:
    """Choose with the other ranks and prepare TensorFlow; None when gradients stay on MPI. Collective."""
    global _started
    if _started is not None:
        return _started
    mine, gpus = _seen(ranks)
    kind, why = choice.choose(ranks.allgather_object(mine))
    if why and ranks.rank == 0:
        print(f"clary_parallel: gradients are summed by MPI on the hosts, because {why}", file=sys.stderr, flush=True)
    _pin(gpus, ranks.local_rank)
    if kind != "mpi":
        _started = _prepare(kind, ranks)
    return _started


def _seen(ranks: MpiTransport) -> tuple[choice.Seen, list[Any]]:
    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    # What a script has chosen before init() stays.
    visible: list[Any] = tf.config.get_visible_devices("GPU")
    index = gpus.index(visible[0]) if 0 < len(visible) < len(gpus) else choice.gpu_of(len(gpus), ranks.local_rank)
    obstacle = ""
    if not hasattr(tf.raw_ops, "CollectiveAllToAllV2"):
        obstacle = f"TensorFlow {tf.__version__} lacks the operations; it takes one that has CollectiveAllToAllV2"
    elif _begun():
        obstacle = (
            "TensorFlow had made its first tensor before init(). Call clary_parallel.init() (or hvd.init()) first, "
            "before models, optimizers and data sets"
        )
    name = None if index is None or not visible else choice.gpu_name(socket.gethostname(), index)
    return choice.Seen(choice.wanted(), name, obstacle), gpus


def _pin(gpus: list[Any], local_rank: int) -> None:
    """One GPU for this rank, with memory taken as it is needed, unless the script has chosen, or it is too late."""
    visible: list[Any] = tf.config.get_visible_devices("GPU")
    if _begun() or not gpus or len(visible) < len(gpus):
        return
    mine = gpus[choice.gpu_of(len(gpus), local_rank) or 0]
    for gpu in gpus:
        # For all, hidden ones included: scripts that pin themselves do so as well. A GPU that a script has cut into
        # parts of given sizes cannot grow.
        if tf.config.get_logical_device_configuration(gpu) is None:
            tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.set_visible_devices(mine, "GPU")


def _prepare(hint: str, ranks: MpiTransport) -> Collectives:
    messages = importlib.import_module("tensorflow.core.protobuf.tensorflow_server_pb2")
    # TensorFlow's server takes a port that this process has bound already only if it is told so.
    os.environ.setdefault("TF_GRPC_REUSE_PORT", "1")
    port = socket.socket()
    port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    port.bind(("0.0.0.0", 0))
    host = "127.0.0.1" if ranks.local_size == ranks.size else socket.gethostname()
    places = ranks.allgather_object(f"{host}:{port.getsockname()[1]}")
    context = _context()
    context.configure_collective_ops(
        collective_leader=f"/job:{_JOB}/replica:0/task:0",
        device_filters=(f"/job:{_JOB}/task:{ranks.rank}",),
    )
    context.enable_collective_ops(
        messages.ServerDef(
            cluster=tf.train.ClusterSpec({_JOB: places}).as_cluster_def(),
            default_session_config=copy.deepcopy(context.config),
            job_name=_JOB,
            task_index=ranks.rank,
            protocol="grpc",
        )
    )
    return Collectives(hint, ranks, port)


def _context() -> Any:
    # TensorFlow has no public way to start collectives but its own strategies, which bring their own training loop.
    return importlib.import_module("tensorflow.python.eager.context").context()


def _begun() -> bool:
    return _context()._context_handle is not None
