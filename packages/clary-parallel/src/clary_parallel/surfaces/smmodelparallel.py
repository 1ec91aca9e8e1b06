"""SageMaker's model parallel library for TensorFlow (`smdistributed.modelparallel.tensorflow`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from clary_parallel.analyse import partition as _partition
from clary_parallel.errors import ParallelError, no_such_name
from clary_parallel.frameworks import tf
from clary_parallel.modelparallel import job, keras_two, waiting
from clary_parallel.modelparallel.checkpoints import CheckpointManager
from clary_parallel.modelparallel.communication import (
    CommGroup,
    RankType,
    allgather,
    barrier,
    broadcast,
    dp_barrier,
    dp_rank,
    dp_size,
    get_dp_group,
    get_mp_group,
    local_rank,
    local_size,
    mp_barrier,
    mp_rank,
    mp_size,
    rank,
    recv_from,
    send,
    size,
    tp_rank,
    tp_size,
)
from clary_parallel.modelparallel.hooks import register_post_partition_hook
from clary_parallel.modelparallel.model import DistributedModel
from clary_parallel.modelparallel.step import step
from clary_parallel.modelparallel.step_output import StepOutput
from clary_parallel.pipelining import held

WORLD = CommGroup.WORLD
MP_GROUP = CommGroup.MP_GROUP
DP_GROUP = CommGroup.DP_GROUP
PP_GROUP = CommGroup.PP_GROUP
RDP_GROUP = CommGroup.RDP_GROUP
WORLD_RANK = RankType.WORLD_RANK
MP_RANK = RankType.MP_RANK
DP_RANK = RankType.DP_RANK
PP_RANK = RankType.PP_RANK
RDP_RANK = RankType.RDP_RANK

# A stage of the pipeline is a partition, and nothing is tensor parallel.
pp_rank, pp_size, pp_barrier, get_pp_group = mp_rank, mp_size, mp_barrier, get_mp_group
rdp_rank, rdp_size, rdp_barrier, get_rdp_group = dp_rank, dp_size, dp_barrier, get_dp_group

_OF_PYTORCH = "it is of the PyTorch library. "
NOT_OFFERED = {
    "DistributedOptimizer": _OF_PYTORCH + "Use a Keras optimizer, and apply_gradients on accumulated gradients.",
    "save": _OF_PYTORCH + "Use smp.CheckpointManager(checkpoint).save(), or model.save_model() for the whole model.",
    "load": _OF_PYTORCH + "Use smp.CheckpointManager(checkpoint).restore().",
    "save_checkpoint": _OF_PYTORCH + "Use smp.CheckpointManager(checkpoint).save().",
    "resume_from_checkpoint": _OF_PYTORCH + "Use smp.CheckpointManager(checkpoint).restore().",
    "shard": "each replica reads what it is given: dataset.shard(smp.dp_size(), smp.dp_rank()).",
    "set_partition": _OF_PYTORCH + "Use with smp.partition(index): in the model's call.",
    "set_activation_checkpointing": _OF_PYTORCH + "Use clary_parallel.pipeline(model, recompute=True).",
    "set_tensor_parallelism": _OF_PYTORCH + "Use more partitions.",
    "tensor_parallelism": _OF_PYTORCH + "Use more partitions.",
    "delay_param_initialization": _OF_PYTORCH + "Leave it out.",
    "model_creation": _OF_PYTORCH + "Create the model without it.",
    "nn": _OF_PYTORCH + "Use keras.layers.",
    "amp": _OF_PYTORCH + 'Use keras.mixed_precision.set_global_policy("mixed_bfloat16").',
    "fp16": _OF_PYTORCH + 'Use keras.mixed_precision.set_global_policy("mixed_bfloat16").',
    "v1": "it is of TensorFlow 1's sessions. Use smdistributed.modelparallel.tensorflow with @smp.step.",
    "get_world_process_group": _OF_PYTORCH + "Use smp.WORLD with smp.allgather, smp.broadcast and smp.barrier.",
    "get_mp_process_group": _OF_PYTORCH + "Use smp.MP_GROUP, or smp.get_mp_group() for its ranks.",
    "get_dp_process_group": _OF_PYTORCH + "Use smp.DP_GROUP, or smp.get_dp_group() for its ranks.",
    "get_pp_process_group": _OF_PYTORCH + "Use smp.PP_GROUP, or smp.get_pp_group() for its ranks.",
    "get_tp_process_group": _OF_PYTORCH + "Nothing is tensor parallel.",
    "get_rdp_process_group": _OF_PYTORCH + "Use smp.RDP_GROUP, or smp.get_rdp_group() for its ranks.",
    "TP_GROUP": "nothing is tensor parallel. Use smp.MP_GROUP.",
    "TP_RANK": "nothing is tensor parallel. Use smp.MP_RANK.",
}


def not_offered(module: str, name: str) -> Exception:
    """The error for a name that the compatible module does not have."""
    return no_such_name(module, name, NOT_OFFERED, "smmodelparallel.md")


def init(config: Mapping[str, Any] | None = None) -> None:
    """Join the job's ranks and divide them. First call of a script, on every rank.

    Args:
        config: Parameters; by default those of the training job (see `modelparallel.parameters`).

    Raises:
        ParameterError: A parameter is wrong or does not fit the number of ranks.
        NotOffered: A parameter asks for what only the PyTorch library does.
    """
    here = job.start(config)
    keras_two.install()
    if here.parameters.partitions > 1:
        waiting.install()
        if here.parameters.optimize == "memory":
            held.keep_large_apart()
    _two_threads()


def _two_threads() -> None:
    """A step inside a tf.function holds a thread of TensorFlow's pool while the stages need another one."""
    threads = tf.config.threading.get_inter_op_parallelism_threads() or int(
        os.environ.get("TF_NUM_INTEROP_THREADS") or len(os.sched_getaffinity(0))
    )
    if threads > 1:
        return
    try:
        tf.config.threading.set_inter_op_parallelism_threads(2)
    except RuntimeError as error:
        raise ParallelError(
            "TensorFlow was started with one inter-op thread; a step needs two. Call smp.init() before any other use "
            "of TensorFlow, or set TF_NUM_INTEROP_THREADS=2."
        ) from error


def is_initialized() -> bool:
    """Whether `init` was called."""
    return job.started()


def partition(index: int) -> contextlib.AbstractContextManager[None]:
    """Pin the layers that are called inside the block to a partition; ignored with "auto_partition": True.

    Args:
        index: The partition, from 0; of nested blocks the innermost counts.
    """
    parameters = job.current().parameters
    if not 0 <= index < parameters.partitions:
        raise ValueError(
            f"There is no partition {index}: the job has partitions={parameters.partitions}, numbered from 0."
        )
    return contextlib.nullcontext() if parameters.auto_partition else _partition(index)


__all__ = [
    "DP_GROUP", "DP_RANK", "MP_GROUP", "MP_RANK", "PP_GROUP", "PP_RANK", "RDP_GROUP", "RDP_RANK", "WORLD",
    "WORLD_RANK", "CheckpointManager", "CommGroup", "DistributedModel", "RankType", "StepOutput", "allgather",
    "barrier", "broadcast", "dp_barrier", "dp_rank", "dp_size", "get_dp_group", "get_mp_group", "get_pp_group",
    "get_rdp_group", "init", "is_initialized", "local_rank", "local_size", "mp_barrier", "mp_rank", "mp_size",
    "partition", "pp_barrier", "pp_rank", "pp_size", "rank", "rdp_barrier", "rdp_rank", "rdp_size", "recv_from",
    "register_post_partition_hook", "send", "size", "step", "tp_rank", "tp_size",
]  # fmt: skip
