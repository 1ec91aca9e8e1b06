"""The SDK's model parallel parameters: defaults, and what is refused with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clary_parallel.errors import NotOffered
from clary_parallel.modelparallel.parameters import ParameterError, Parameters, job_parameters


def test_defaults_are_those_of_sagemakers_library() -> None:
    assert job_parameters({"partitions": 2}) == Parameters(
        2, 1, "interleaved", "memory", "cluster", True, 0, True, False, None, False, None, False
    )


def test_a_job_says_them_in_its_variable_and_a_script_may_say_others() -> None:
    variables = {"SM_HP_MP_PARAMETERS": json.dumps({"partitions": 4, "microbatches": 8, "horovod": True})}
    assert job_parameters(None, variables) == Parameters(4, 8, horovod=True)
    assert job_parameters({"pipeline_parallel_degree": 2}, variables) == Parameters(2)


def test_a_process_outside_a_job_is_told_both_ways() -> None:
    with pytest.raises(ParameterError, match=r'"partitions": 2.*smp\.init\(\{"partitions": 2\}\)'):
        job_parameters(None, {})
    with pytest.raises(ParameterError, match="must be a JSON object"):
        job_parameters(None, {"SM_HP_MP_PARAMETERS": "partitions=2"})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, '"partitions" is missing'),
        ({"partitions": 0}, "'partitions' is a whole number from 1. Received: 0"),
        ({"partitions": True}, "'partitions' is a whole number"),
        ({"partitions": 2, "microbatches": "4"}, "'microbatches' is a whole number from 1. Received: '4'"),
        ({"partitions": 2, "pipeline": "gpipe"}, '"interleaved", "simple" or "_only_forward"'),
        ({"partitions": 2, "optimize": "time"}, '"memory" or "speed"'),
        ({"partitions": 2, "placement_strategy": "near"}, '"cluster", "spread"'),
        ({"partitions": 2, "auto_partition": False}, '"default_partition" must be given'),
        ({"partitions": 2, "auto_partition": False, "default_partition": 2}, "less than partitions=2. Received: 2"),
        ({"partitions": 2, "memory_weight": 1.5}, "a number from 0 to 1"),
        ({"partitions": 2, "horovod": "yes"}, "True or False"),
        ({"partitions": 2, "partition_file": 3}, "the path of a file. Received: 3"),
        ({"partitions": 2, "load_partition": True}, '"partition_file" must name the file to load'),
        ({"partitions": 2, "micro_batches": 4}, "no model parallel parameter 'micro_batches'. There are: auto_part"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_expected(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ParameterError) as error:
        job_parameters(wrong)
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["ddp", "tensor_parallel_degree", "fp16", "sdp_reduce_bucket_size"])
def test_what_only_the_pytorch_library_does_is_refused_with_the_alternative(name: str) -> None:
    value = 2 if name == "tensor_parallel_degree" else True
    with pytest.raises(NotOffered, match=rf"'{name}' is not offered for TensorFlow: \w+"):
        job_parameters({"partitions": 2, name: value})


def test_values_that_ask_for_nothing_are_accepted() -> None:
    assert job_parameters({"partitions": 2, "ddp": False, "tensor_parallel_degree": 1}) == Parameters(2)
