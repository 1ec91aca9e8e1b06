"""What a job says of its model parallelism: the SDK's `parameters`, in the variable SM_HP_MP_PARAMETERS.

Names, defaults and what excludes what are those of SageMaker's library for TensorFlow (section 2.4 of the container
contracts).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from clary_parallel.errors import NotOffered
from clary_parallel.partitioning.plan import Optimize

VARIABLE = "SM_HP_MP_PARAMETERS"


class ParameterError(ValueError):
    """A parameter that is unknown, missing or impossible; the message says what is expected."""


@dataclass(frozen=True)
class Parameters:
    """How a model is parted and trained.

    Args:
        partitions: Parts of the model, each on a rank of its own.
        microbatches: Parts of a batch.
        pipeline: "interleaved" (backward as early as possible), "simple" or "_only_forward".
        optimize: "memory" or "speed".
        placement_strategy: "cluster", "spread", or a permutation of the letters DPT.
        auto_partition: Whether layers are placed automatically; then `smp.partition` is ignored.
        default_partition: Where layers outside any `smp.partition` go otherwise.
        contiguous: Whether each partition is a run of layers in an order in which the model runs; otherwise it may hold
            any layers, as long as tensors go on to later partitions only.
        horovod: Whether Horovod's ranks are the replicas of the model.
        memory_weight: Another weight of memory in the plan, from 0 to 1.
        xla: Whether each partition's functions are compiled by XLA.
        partition_file: Where the first rank writes which layers are in which partition; None for nowhere.
        load_partition: Whether they are read from `partition_file`, as an earlier job wrote it.
    """

    partitions: int
    microbatches: int = 1
    pipeline: str = "interleaved"
    optimize: Optimize = "memory"
    placement_strategy: str = "cluster"
    auto_partition: bool = True
    default_partition: int = 0
    contiguous: bool = True
    horovod: bool = False
    memory_weight: float | None = None
    xla: bool = False
    partition_file: str | None = None
    load_partition: bool = False


_PYTORCH_ONLY: dict[str, tuple[Any, str]] = {
    # name: (the value that asks for nothing, the alternative)
    "ddp": (False, 'use "horovod": True, and hvd.allreduce on accumulated gradients'),
    "ddp_port": (None, 'use "horovod": True'),
    "ddp_dist_backend": (None, 'use "horovod": True'),
    "active_microbatches": (None, 'a rank holds as many micro-batches as "pipeline": "interleaved" needs'),
    "deterministic_server": (False, "schedules are always deterministic here: leave it out"),
    "offload_activations": (False, "use more partitions, or clary_parallel.pipeline(..., recompute=True)"),
    "activation_loading_horizon": (4, "use more partitions, or clary_parallel.pipeline(..., recompute=True)"),
    "tensor_parallel_degree": (1, "use more partitions"),
    "fp16": (False, 'use keras.mixed_precision.set_global_policy("mixed_bfloat16")'),
    "fp16_params": (False, 'use keras.mixed_precision.set_global_policy("mixed_bfloat16")'),
    "shard_optimizer_state": (False, "each rank holds the optimizer state of its own partition only"),
    "prescaled_batch": (False, "give every replica batches of its own"),
    "skip_tracing": (False, "models are traced without being run: leave it out"),
    "sharded_data_parallel_degree": (1, 'use "horovod": True'),
}


def job_parameters(given: Mapping[str, Any] | None = None, variables: Mapping[str, str] = os.environ) -> Parameters:
    """The parameters that were given, or else those of this job.

    Raises:
        ParameterError: There are none, or one is wrong.
        NotOffered: One asks for what only the PyTorch library does.
    """
    if given is not None:
        return parse(given)
    text = variables.get(VARIABLE)
    if not text:
        raise ParameterError(
            'How many partitions has the model? Start the job with distribution={"smdistributed": {"modelparallel": '
            '{"enabled": True, "parameters": {"partitions": 2}}}, "mpi": {"enabled": True, "processes_per_host": 2}}, '
            'or call smp.init({"partitions": 2}). ' + f"The variable {VARIABLE} is not set."
        )
    try:
        read = json.loads(text)
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise ParameterError(f"{VARIABLE} must be a JSON object of parameters. Received: {text!r}.")
    return parse(cast("dict[str, Any]", read))


def parse(given: Mapping[str, Any]) -> Parameters:
    """Check parameters, as the SDK or a script gives them."""
    known: dict[str, Any] = {}
    for name, value in given.items():
        if name in _PYTORCH_ONLY or name.startswith("sdp_"):
            _refuse_pytorch(name, value)
        elif name in _CHECKS or name == "pipeline_parallel_degree":
            known["partitions" if name == "pipeline_parallel_degree" else name] = value
        else:
            raise ParameterError(
                f"There is no model parallel parameter {name!r}. There are: {', '.join(sorted(_CHECKS))}."
            )
    if "partitions" not in known:
        raise ParameterError('The parameter "partitions" is missing: the number of parts of the model, from 1.')
    for name, value in known.items():
        holds, expected = _CHECKS[name]
        if not holds(value):
            raise ParameterError(f"The parameter {name!r} is {expected}. Received: {value!r}.")
    if known.get("auto_partition") is False and "default_partition" not in known:
        raise ParameterError('With "auto_partition": False, "default_partition" must be given.')
    if known.get("load_partition") and not known.get("partition_file"):
        raise ParameterError('With "load_partition": True, "partition_file" must name the file to load.')
    if known.get("default_partition", 0) >= known["partitions"]:
        raise ParameterError(
            f"default_partition must be less than partitions={known['partitions']}. "
            f"Received: {known['default_partition']}."
        )
    return Parameters(**known)


def _refuse_pytorch(name: str, value: Any) -> None:
    off, alternative = _PYTORCH_ONLY.get(name, (None, 'use "horovod": True'))
    if value is None or value == off:
        return
    raise NotOffered(f"The model parallel parameter {name!r} is not offered for TensorFlow: {alternative}.")


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: any(value is choice or value == choice for choice in choices)


def _switch(value: Any) -> bool:
    return isinstance(value, bool)


def _path(value: Any) -> bool:
    return value is None or (isinstance(value, str) and bool(value))


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "partitions": (_whole(1), "a whole number from 1"),
    "microbatches": (_whole(1), "a whole number from 1"),
    "pipeline": (_one_of("interleaved", "simple", "_only_forward"), '"interleaved", "simple" or "_only_forward"'),
    "optimize": (_one_of("memory", "speed"), '"memory" or "speed"'),
    "placement_strategy": (
        _one_of("cluster", "spread", "DPT", "DTP", "PDT", "PTD", "TDP", "TPD"),
        '"cluster", "spread" or a permutation of the letters DPT',
    ),
    "auto_partition": (_switch, "True or False"),
    "default_partition": (_whole(0), "the number of a partition, from 0"),
    "contiguous": (_switch, "True or False"),
    "horovod": (_switch, "True or False"),
    "memory_weight": (_share, "a number from 0 to 1"),
    "xla": (_switch, "True or False"),
    "partition_file": (_path, "the path of a file"),
    "load_partition": (_switch, "True or False"),
}
