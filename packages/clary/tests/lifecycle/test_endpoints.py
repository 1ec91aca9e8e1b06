"""The controller of endpoints with a real record: what it does when replicas serve, fail, die, hang and vanish."""

from __future__ import annotations

from typing import Any

import pytest
from driven_endpoints import DrivenEndpoints
from driven_platform import GIB, DrivenPlatform

from clary.cluster.base import Resources
from clary.host.spec import LogLine, Phase
from clary.services import endpoint_configs, endpoints
from clary.state import log_pages
from clary.state.routing import routing_version
from clary.wire.errors import ValidationError

TWO = {"InitialInstanceCount": 2}


@pytest.fixture
def driven(platform: DrivenPlatform) -> DrivenEndpoints:
    return DrivenEndpoints(platform)


def scale(driven: DrivenEndpoints, count: int, **members: object) -> None:
    wanted = {"VariantName": "AllTraffic", "DesiredInstanceCount": count, **members}
    driven.call(
        endpoints.update_endpoint_weights_and_capacities, EndpointName="e", DesiredWeightsAndCapacities=[wanted]
    )
    driven.settle()


def test_an_endpoint_is_in_service_when_all_its_instances_serve(driven: DrivenEndpoints) -> None:
    first, second = driven.create("e", TWO)
    first.serve()
    assert driven.status() == "Creating"
    assert driven.routed() == set()
    second.serve()
    assert driven.status() == "InService"
    assert driven.routed() == {first.spec.host_id, second.spec.host_id}
    (variant,) = driven.describe()["ProductionVariants"]
    assert (variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]) == (2, 2)


def test_an_endpoint_that_is_being_created_says_what_it_waits_for(driven: DrivenEndpoints) -> None:
    (replica,) = driven.create()
    replica.enter(Phase.DOWNLOADING)
    (variant,) = driven.describe()["PendingDeploymentSummary"]["ProductionVariants"]
    assert variant["VariantStatus"][0]["Status"] == "Creating"
    assert variant["VariantStatus"][0]["StatusMessage"] == "Downloading"


def test_a_model_that_fails_its_ping_fails_the_endpoint_and_says_why(driven: DrivenEndpoints) -> None:
    first, second = driven.create("e", TWO)
    first.end("ScriptFailed", exit_code=1, last_lines=("ValueError: no model here",))
    assert second.report().wanted == "stop"
    second.end("Stopped")
    told = driven.describe()
    assert told["EndpointStatus"] == "Failed"
    assert told["FailureReason"].startswith("The primary container for production variant AllTraffic did not pass")
    assert "ValueError: no model here" in told["FailureReason"]
    assert driven.running() == []
    with pytest.raises(ValidationError, match="Cannot update failed endpoint"):
        driven.update("e", "e-config")


def test_a_host_that_fails_by_no_fault_of_the_model_is_tried_three_times(driven: DrivenEndpoints) -> None:
    driven.create()
    for attempt in range(3):
        assert driven.status() == "Creating"
        driven.let_pass(100)
        driven.replicas()[attempt].end("InternalError", message="the disk is full")
    assert driven.status() == "Failed"
    assert "the disk is full" in driven.describe()["FailureReason"]


def test_an_update_takes_over_only_once_all_of_it_serves(driven: DrivenEndpoints) -> None:
    (old,) = driven.in_service()
    driven.add_config("new", TWO)
    first, second = driven.update("e", "new")
    first.serve()
    assert (driven.status(), driven.routed()) == ("Updating", {old.spec.host_id})
    assert driven.describe()["EndpointConfigName"] == "e-config"
    second.serve()
    assert (driven.status(), driven.routed()) == ("InService", {first.spec.host_id, second.spec.host_id})
    assert driven.describe()["EndpointConfigName"] == "new"
    assert old.report().wanted == "run", "it answers the requests that it has"
    driven.let_pass(3)
    assert old.report().wanted == "stop"
    old.end("Stopped")
    assert old.spec.host_id in driven.platform.cluster.cleaned


def test_an_update_that_fails_leaves_the_old_model_serving_and_says_why(driven: DrivenEndpoints) -> None:
    (old,) = driven.in_service()
    driven.add_config("new")
    (new,) = driven.update("e", "new")
    new.end("ClientError", message="s3://bucket/model.tar.gz is not a gzip archive")
    told = driven.describe()
    assert told["EndpointStatus"] == "InService"
    assert "s3://bucket/model.tar.gz is not a gzip archive" in told["FailureReason"]
    assert told["EndpointConfigName"] == "e-config"
    assert driven.routed() == {old.spec.host_id}
    assert old.report().wanted == "run"


def test_an_endpoint_rolls_back_while_failed_instances_are_still_there(driven: DrivenEndpoints) -> None:
    driven.in_service()
    driven.add_config("new", TWO)
    first, second = driven.update("e", "new")
    first.end("ScriptFailed", exit_code=1)
    assert driven.status() == "RollingBack"
    second.end("Stopped")
    assert driven.status() == "InService"


def test_an_update_that_takes_longer_than_it_may_is_rolled_back(driven: DrivenEndpoints) -> None:
    driven.in_service()
    driven.add_config("new")
    routing = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}
    policy = {"TrafficRoutingConfiguration": routing, "MaximumExecutionTimeoutInSeconds": 600}
    (new,) = driven.update("e", "new", DeploymentConfig={"BlueGreenUpdatePolicy": policy})
    driven.let_pass(601)
    new.end("Stopped")
    assert driven.status() == "InService"
    assert "600 seconds" in driven.describe()["FailureReason"]


def test_an_update_can_keep_the_old_instances_for_a_while(driven: DrivenEndpoints) -> None:
    (old,) = driven.in_service()
    driven.add_config("new")
    routing = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}
    policy = {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": 120}
    (new,) = driven.update("e", "new", DeploymentConfig={"BlueGreenUpdatePolicy": policy})
    new.serve()
    driven.let_pass(100)
    assert old.report().wanted == "run"
    driven.let_pass(30)
    assert old.report().wanted == "stop"


def test_a_replica_that_dies_is_replaced_at_once(driven: DrivenEndpoints) -> None:
    first, second = driven.in_service("e", TWO)
    driven.platform.cluster.running.discard(first.spec.host_id)
    driven.settle()
    assert driven.routed() == {second.spec.host_id}
    assert driven.status() == "InService"
    third = driven.replicas()[2]
    third.serve()
    assert driven.routed() == {second.spec.host_id, third.spec.host_id}


def test_a_replica_that_dies_again_and_again_is_started_ever_later(driven: DrivenEndpoints) -> None:
    (first,) = driven.in_service()
    first.end("ScriptFailed", exit_code=1)
    driven.replicas()[1].end("ScriptFailed", exit_code=1)
    assert len(driven.replicas()) == 2
    driven.let_pass(3.9)
    assert len(driven.replicas()) == 2
    driven.let_pass(0.2)
    assert len(driven.replicas()) == 3
    assert driven.status() == "InService"


def test_a_replica_whose_server_restarts_gets_no_requests_meanwhile(driven: DrivenEndpoints) -> None:
    (replica,) = driven.in_service()
    version = routing_version(driven.platform.database)
    replica.address = None
    replica.enter(Phase.STARTING)
    driven.settle()
    assert driven.routed() == set()
    assert routing_version(driven.platform.database) > version
    replica.address = "127.0.0.1:1234"
    replica.enter(Phase.READY)
    driven.settle()
    (variant,) = driven.table().endpoints["e"].variants
    assert [routed.address for routed in variant.replicas] == ["127.0.0.1:1234"]


def test_instances_are_added_and_removed(driven: DrivenEndpoints) -> None:
    (first,) = driven.in_service()
    scale(driven, 2)
    assert driven.status() == "Updating"
    second = driven.replicas()[1]
    second.serve()
    assert (driven.status(), driven.routed()) == ("InService", {first.spec.host_id, second.spec.host_id})
    scale(driven, 1)
    assert (driven.status(), driven.routed()) == ("InService", {first.spec.host_id})
    driven.let_pass(3)
    assert second.report().wanted == "stop"


def test_instances_that_cannot_be_added_leave_those_that_are_there(driven: DrivenEndpoints) -> None:
    (first,) = driven.in_service()
    scale(driven, 2)
    driven.replicas()[1].end("ScriptFailed", exit_code=1)
    told = driven.describe()
    assert (told["EndpointStatus"], driven.routed()) == ("InService", {first.spec.host_id})
    assert "did not pass the ping" in told["FailureReason"]
    assert told["ProductionVariants"][0]["DesiredInstanceCount"] == 1


def test_weights_change_at_once(driven: DrivenEndpoints) -> None:
    driven.in_service("e", {"VariantName": "a", "InitialVariantWeight": 1.0}, {"VariantName": "b"})
    wanted = [{"VariantName": "b", "DesiredWeight": 3.0}]
    driven.call(endpoints.update_endpoint_weights_and_capacities, EndpointName="e", DesiredWeightsAndCapacities=wanted)
    driven.settle()
    assert driven.status() == "InService"
    assert [variant.weight for variant in driven.table().endpoints["e"].variants] == [1.0, 3.0]


def test_an_update_retains_counts_and_weights_when_asked(driven: DrivenEndpoints) -> None:
    driven.in_service()
    scale(driven, 2, DesiredWeight=5.0)
    driven.replicas()[1].serve()
    driven.add_config("new")
    started = driven.update("e", "new", RetainAllVariantProperties=True)
    assert len(started) == 2
    for replica in started:
        replica.serve()
    assert driven.describe()["ProductionVariants"][0]["CurrentWeight"] == 5.0


def shifting(kind: str, **members: Any) -> dict[str, Any]:
    routing = {"Type": kind, "WaitIntervalInSeconds": 60, **members}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": 100}}


def test_a_canary_gets_its_share_first_and_then_everything(driven: DrivenEndpoints) -> None:
    (old,) = driven.in_service()
    driven.add_config("new")
    size = {"Type": "CAPACITY_PERCENT", "Value": 20}
    (new,) = driven.update("e", "new", DeploymentConfig=shifting("CANARY", CanarySize=size))
    assert driven.incoming() == (0.0, set())
    new.serve()
    assert (driven.status(), driven.routed()) == ("Updating", {old.spec.host_id})
    assert driven.incoming() == (0.2, {new.spec.host_id})
    (pending,) = driven.describe()["PendingDeploymentSummary"]["ProductionVariants"]
    assert pending["VariantStatus"][0]["Status"] == "Baking"
    driven.let_pass(30)
    assert driven.incoming() == (0.2, {new.spec.host_id})
    driven.let_pass(31)
    assert (driven.status(), driven.routed(), driven.incoming()) == ("InService", {new.spec.host_id}, (0.0, set()))
    driven.let_pass(90)
    assert old.report().wanted == "run"
    driven.let_pass(11)
    assert old.report().wanted == "stop"


def test_linear_steps_are_equal(driven: DrivenEndpoints) -> None:
    driven.in_service()
    driven.add_config("new", {"InitialInstanceCount": 2})
    size = {"Type": "INSTANCE_COUNT", "Value": 1}
    for replica in driven.update("e", "new", DeploymentConfig=shifting("LINEAR", LinearStepSize=size)):
        replica.serve()
    assert driven.incoming()[0] == 0.5
    driven.let_pass(61)
    assert (driven.status(), driven.incoming()[0], len(driven.routed())) == ("InService", 0.0, 2)


def test_a_new_fleet_that_dies_while_it_takes_over_is_rolled_back(driven: DrivenEndpoints) -> None:
    (old,) = driven.in_service()
    driven.add_config("new")
    size = {"Type": "CAPACITY_PERCENT", "Value": 20}
    (new,) = driven.update("e", "new", DeploymentConfig=shifting("CANARY", CanarySize=size))
    new.serve()
    new.end("ScriptFailed", exit_code=1)
    told = driven.describe()
    assert (told["EndpointStatus"], told["EndpointConfigName"]) == ("InService", "e-config")
    assert "did not pass the ping" in told["FailureReason"]
    assert (driven.routed(), driven.incoming()) == ({old.spec.host_id}, (0.0, set()))


def test_an_endpoint_is_gone_when_nothing_of_it_is_left(driven: DrivenEndpoints) -> None:
    (replica,) = driven.in_service()
    driven.call(endpoints.delete_endpoint, EndpointName="e")
    driven.settle()
    assert (driven.status(), driven.routed()) == ("Deleting", set())
    assert replica.report().wanted == "stop"
    replica.end("Stopped")
    assert driven.row() is None
    assert driven.table().endpoints == {}
    with pytest.raises(ValidationError, match=r'Could not find endpoint "arn:aws:sagemaker:us-east-1:0+:endpoint/e"\.'):
        driven.describe()
    assert replica.report().wanted == "abort"


def test_an_endpoint_can_be_deleted_while_it_is_being_created(driven: DrivenEndpoints) -> None:
    (replica,) = driven.create()
    driven.call(endpoints.delete_endpoint, EndpointName="e")
    driven.settle()
    replica.end("Stopped")
    assert driven.row() is None


def test_a_replica_that_does_not_stop_is_killed(driven: DrivenEndpoints) -> None:
    (replica,) = driven.in_service()
    driven.call(endpoints.delete_endpoint, EndpointName="e")
    driven.settle()
    driven.let_pass(100)
    assert replica.spec.host_id in driven.platform.cluster.ended
    assert driven.row() is None


def test_an_endpoint_serves_on_when_its_configuration_and_model_are_deleted(driven: DrivenEndpoints) -> None:
    (first,) = driven.in_service()
    driven.call(endpoint_configs.delete_endpoint_config, EndpointConfigName="e-config")
    first.end("ScriptFailed", exit_code=1)
    driven.replicas()[1].serve()
    assert driven.describe()["EndpointConfigName"] == "e-config"
    assert len(driven.routed()) == 1


def test_logs_go_to_the_endpoints_group(driven: DrivenEndpoints) -> None:
    (replica,) = driven.create()
    replica.report(logs=(LogLine(sequence=0, timestamp_ms=1, message="loading"),))
    row = driven.row()
    assert row is not None
    (stream,) = [item.log_stream for item in row.replicas]
    assert stream.startswith("AllTraffic/i-")
    with driven.platform.database.reading() as session:
        group = log_pages.group_id(session, "/aws/sagemaker/Endpoints/e")
        assert group is not None
        assert log_pages.stream_id(session, group, stream) is not None


def test_a_job_and_an_endpoint_share_the_machine(driven: DrivenEndpoints) -> None:
    driven.in_service()
    (host,) = driven.platform.start("big", instance_type="ml.m5.24xlarge")
    assert host.spec.limits.cpus == 4, "an endpoint reserves no processors"
    assert host.spec.limits.memory_bytes == 14 * GIB, "the job is scaled to what the endpoint leaves"


def test_an_endpoint_waits_for_memory_and_says_so(driven: DrivenEndpoints) -> None:
    (host,) = driven.platform.start("big", instance_type="ml.m5.24xlarge")
    assert driven.create() == []
    (variant,) = driven.describe()["PendingDeploymentSummary"]["ProductionVariants"]
    assert "Waiting for memory" in variant["VariantStatus"][0]["StatusMessage"]
    driven.platform.finish(host)
    driven.settle()
    assert len(driven.replicas()) == 1


def test_an_endpoint_that_no_machine_can_hold_fails_with_a_capacity_error(driven: DrivenEndpoints) -> None:
    driven.platform.cluster.total = Resources(cpus=4, memory_bytes=GIB // 4)
    driven.create()
    assert driven.status() == "Failed"
    assert driven.describe()["FailureReason"].startswith("CapacityError: Unable to provision")


def test_another_controller_goes_on_where_one_was_killed(driven: DrivenEndpoints) -> None:
    (replica,) = driven.create()
    again = DrivenEndpoints(driven.platform)
    again.settle()
    assert len(again.replicas()) == 1
    replica.serve()
    assert again.status() == "InService"
