"""What instance types have, and what jobs get of the machine."""

from __future__ import annotations

import botocore.session
import pytest

from clary.cluster.base import Node, Resources
from clary.cluster.instance_types import gpus_asked, instance_type, notices_for, resources_for
from clary.cluster.packing import pack

GIB = 1024**3
LAPTOP = [Node("local", Resources(cpus=2, memory_bytes=20 * GIB))]
WORKSTATION = [Node("local", Resources(cpus=64, memory_bytes=256 * GIB, gpus=4))]


@pytest.mark.parametrize(
    ("name", "vcpus", "gib", "gpus"),
    [
        ("ml.m4.xlarge", 4, 16, 0),
        ("ml.m5.large", 2, 8, 0),
        ("ml.m5.24xlarge", 96, 384, 0),
        ("ml.c4.8xlarge", 36, 60, 0),
        ("ml.c5.xlarge", 4, 8, 0),
        ("ml.c5n.18xlarge", 72, 189, 0),
        ("ml.r5.2xlarge", 8, 64, 0),
        ("ml.t3.medium", 2, 4, 0),
        ("ml.p2.16xlarge", 64, 732, 16),
        ("ml.p3.2xlarge", 8, 61, 1),
        ("ml.p3.16xlarge", 64, 488, 8),
        ("ml.p3dn.24xlarge", 96, 768, 8),
        ("ml.p4d.24xlarge", 96, 1152, 8),
        ("ml.p5.48xlarge", 192, 2048, 8),
        ("ml.g4dn.xlarge", 4, 16, 1),
        ("ml.g4dn.12xlarge", 48, 192, 4),
        ("ml.g5.48xlarge", 192, 768, 8),
        ("ml.g6e.xlarge", 4, 32, 1),
        ("ml.trn1.32xlarge", 128, 512, 0),
    ],
)
def test_types_have_what_aws_says(name: str, vcpus: int, gib: float, gpus: int) -> None:
    found = instance_type(name)
    assert (found.vcpus, found.memory_gib, found.gpus, found.known) == (vcpus, gib, gpus, True)


def test_every_training_type_of_the_service_model_is_known() -> None:
    loader = botocore.session.Session().get_component("data_loader")
    model = loader.load_service_model("sagemaker", "service-2")
    names = model["shapes"]["TrainingInstanceType"]["enum"]
    assert [name for name in names if not instance_type(name).known] == []


def test_the_type_that_aws_never_had_is_four_cpus_of_its_family() -> None:
    found = instance_type("ml.p3.xlarge")
    assert (found.vcpus, found.memory_gib, found.gpus) == (4, 30.5, 1)


def test_an_unknown_type_is_a_guess_that_says_so() -> None:
    assert instance_type("ml.x9.4xlarge").vcpus == 16
    assert instance_type("ml.whatever.foo").vcpus == 4
    assert notices_for("ml.x9.4xlarge", LAPTOP) == (
        "AWS has no instance type ml.x9.4xlarge: taken as 16 vCPUs, 64 GiB.",
    )


def test_one_host_gets_what_its_type_has() -> None:
    assert resources_for(["ml.m5.xlarge"], WORKSTATION) == (Resources(cpus=4, memory_bytes=16 * GIB),)


def test_one_host_gets_no_more_than_the_machine() -> None:
    assert resources_for(["ml.m5.xlarge"], LAPTOP) == (Resources(cpus=2, memory_bytes=16 * GIB),)
    assert resources_for(["ml.m5.24xlarge"], LAPTOP) == (Resources(cpus=2, memory_bytes=20 * GIB),)


def test_two_hosts_of_a_job_share_a_small_machine() -> None:
    assert resources_for(["ml.m5.xlarge"] * 2, LAPTOP) == (Resources(cpus=1, memory_bytes=10 * GIB),) * 2


def test_hosts_of_different_types_share_in_proportion() -> None:
    large, small = resources_for(["ml.c5.18xlarge", "ml.c5.9xlarge"], WORKSTATION)
    assert large.cpus > small.cpus
    assert large.cpus + small.cpus <= 64


def test_a_host_never_gets_less_than_it_can_run_with() -> None:
    hosts = resources_for(["ml.m5.large"] * 100, LAPTOP)
    assert {host.cpus for host in hosts} == {0.25}


def test_gpus_are_shared_whole() -> None:
    assert [host.gpus for host in resources_for(["ml.p3.16xlarge"], WORKSTATION)] == [4]
    assert [host.gpus for host in resources_for(["ml.p3.16xlarge"] * 2, WORKSTATION)] == [2, 2]
    assert [host.gpus for host in resources_for(["ml.p3.2xlarge", "ml.m5.large"], WORKSTATION)] == [1, 0]


def test_a_type_with_more_gpus_than_there_are_says_so() -> None:
    assert notices_for("ml.p3.16xlarge", WORKSTATION) == (
        "ml.p3.16xlarge has 8 GPUs on AWS, a machine here has 4: no host gets more.",
    )
    assert notices_for("ml.p3.8xlarge", WORKSTATION) == ()


def test_a_gpu_type_without_gpus_runs_on_cpus_and_says_so() -> None:
    assert [host.gpus for host in resources_for(["ml.p3.2xlarge"], LAPTOP)] == [0]
    assert notices_for("ml.p3.2xlarge", LAPTOP) == (
        "ml.p3.2xlarge has 1 GPU(s) on AWS, this machine has none: the job runs on CPUs.",
    )
    assert notices_for("ml.p3.2xlarge", WORKSTATION) == ()


@pytest.mark.parametrize(
    ("types", "cpus", "gib"),
    [
        (["ml.m5.xlarge"], 2, 16),
        (["ml.m5.xlarge"] * 2, 1, 11),
        (["ml.t3.medium"], 2, 4),
        (["ml.p3.2xlarge"], 2, 22),
        (["ml.c5.large"] * 8, 0.25, 2.75),
    ],
)
def test_the_examples_of_the_documentation_hold(types: list[str], cpus: float, gib: float) -> None:
    machine = Node("local", Resources(cpus=2, memory_bytes=22 * GIB))
    hosts = resources_for(types, [machine])
    assert hosts == (Resources(cpus=cpus, memory_bytes=int(gib * GIB)),) * len(types)
    assert pack([machine], hosts, ()) is not None


def test_the_documented_job_that_is_too_large_is() -> None:
    machine = Node("local", Resources(cpus=2, memory_bytes=22 * GIB))
    assert pack([machine], resources_for(["ml.c5.large"] * 9, [machine]), ()) is None


@pytest.mark.parametrize(("given", "gpus"), [("0.5", 0.5), ("2", 2), ("0", 0), (None, None)])
def test_a_job_may_ask_for_gpus_beside_its_type(given: str | None, gpus: float | None) -> None:
    assert gpus_asked({} if given is None else {"CLARY_GPUS": given}) == gpus


@pytest.mark.parametrize("given", ["1.5", "-1", "many", "nan", ""])
def test_what_is_no_number_of_gpus_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"a whole number, or a part of one such as 0\.5\. Received: "):
        gpus_asked({"CLARY_GPUS": given})
