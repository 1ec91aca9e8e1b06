"""Models, endpoint configurations and endpoints as boto3 sees them, on a real record and a real object store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from clary.settings import Settings
from clary.storage.client import ObjectStore
from clary.storage.seaweed import EmbeddedStore

ROLE = "arn:aws:iam::000000000000:role/SageMakerRole"
ARN = "arn:aws:sagemaker:us-east-1:000000000000"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-inference:2.19-cpu"
CONTAINER = {"Image": IMAGE, "ModelDataUrl": "s3://models/model.tar.gz"}
VARIANT = {"VariantName": "AllTraffic", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}


class StoreOfAnyLoop:
    """The object store for requests that each run in an event loop of their own."""

    def __init__(self, embedded: EmbeddedStore) -> None:
        self._access = embedded.access

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            store = ObjectStore(self._access)
            try:
                return await getattr(store, name)(*arguments)
            finally:
                await store.close()

        return call


@pytest.fixture(scope="module")
def embedded_store(tmp_path_factory: pytest.TempPathFactory) -> Generator[StoreOfAnyLoop]:
    loop = asyncio.new_event_loop()
    embedded = EmbeddedStore(Settings(home=tmp_path_factory.mktemp("home")))
    loop.run_until_complete(embedded.start())
    store = StoreOfAnyLoop(embedded)
    loop.run_until_complete(store.create_bucket("models"))
    loop.run_until_complete(store.write("models", "model.tar.gz", b"archive"))
    yield store
    loop.run_until_complete(embedded.stop())
    loop.close()


@pytest.fixture
def store(embedded_store: StoreOfAnyLoop) -> StoreOfAnyLoop:
    return embedded_store


@pytest.fixture
def sagemaker(clients: Callable[[str], Any]) -> Any:
    return clients("sagemaker")


def create_model(sagemaker: Any, name: str = "m", **members: Any) -> Any:
    request = {"ModelName": name, "PrimaryContainer": CONTAINER, "ExecutionRoleArn": ROLE, **members}
    return sagemaker.create_model(**{member: value for member, value in request.items() if value is not None})


def create_config(sagemaker: Any, name: str = "c", **members: Any) -> Any:
    variant_members = {"ProductionVariants": [VARIANT], **members}
    return sagemaker.create_endpoint_config(EndpointConfigName=name, **variant_members)


def refusal(call: Callable[..., Any], *arguments: Any, **members: Any) -> str:
    """The text of the ValidationException that a call must be answered with."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **members)
    error = caught.value.response["Error"]
    assert error["Code"] == "ValidationException", error
    return error["Message"]


def test_a_model_is_described_as_it_was_created(sagemaker: Any) -> None:
    assert create_model(sagemaker)["ModelArn"] == f"{ARN}:model/m"
    told = sagemaker.describe_model(ModelName="m")
    assert told["PrimaryContainer"] == {**CONTAINER, "Mode": "SingleModel"}
    assert told["ExecutionRoleArn"] == ROLE
    assert told["EnableNetworkIsolation"] is False


def test_the_texts_that_the_sdk_matches_on(sagemaker: Any) -> None:
    create_model(sagemaker)
    create_config(sagemaker)
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")
    assert refusal(create_model, sagemaker) == f'Cannot create already existing model "{ARN}:model/m".'
    text = f'Cannot create already existing endpoint configuration "{ARN}:endpoint-config/c".'
    assert refusal(create_config, sagemaker) == text
    text = f'Cannot create already existing endpoint "{ARN}:endpoint/e".'
    assert refusal(sagemaker.create_endpoint, EndpointName="e", EndpointConfigName="c") == text
    for operation in (sagemaker.describe_model, sagemaker.delete_model):
        assert refusal(operation, ModelName="x") == f'Could not find model "{ARN}:model/x".'
    for operation in (sagemaker.describe_endpoint_config, sagemaker.delete_endpoint_config):
        text = f'Could not find endpoint configuration "{ARN}:endpoint-config/x".'
        assert refusal(operation, EndpointConfigName="x") == text
    for operation in (sagemaker.describe_endpoint, sagemaker.delete_endpoint):
        assert refusal(operation, EndpointName="x") == f'Could not find endpoint "{ARN}:endpoint/x".'


def test_what_names_something_missing_is_refused(sagemaker: Any) -> None:
    assert refusal(create_config, sagemaker) == f'Could not find model "{ARN}:model/m".'
    text = refusal(sagemaker.create_endpoint, EndpointName="e", EndpointConfigName="c")
    assert text == f'Could not find endpoint configuration "{ARN}:endpoint-config/c".'
    create_model(sagemaker)
    create_config(sagemaker)
    sagemaker.delete_model(ModelName="m")
    text = refusal(sagemaker.create_endpoint, EndpointName="e", EndpointConfigName="c")
    assert text == f'Could not find model "{ARN}:model/m".'


@pytest.mark.parametrize(
    ("container", "text"),
    [
        ({"ModelDataUrl": "s3://models/absent.tar.gz"}, "Could not access model data at s3://models/absent.tar.gz"),
        ({"ModelDataUrl": "s3://nowhere/model.tar.gz"}, "Could not access model data at s3://nowhere/model.tar.gz"),
        ({"ModelDataUrl": "s3://models/model.zip"}, r"must name a \.tar\.gz archive.*Received: s3://models/model.zip"),
        ({"Image": "nobody/has-this:1"}, "Cannot find repository: nobody/has-this"),
        ({"Mode": "MultiModel", "ModelDataUrl": "s3://nowhere/models/"}, "Could not access model data"),
        ({"MultiModelConfig": {"ModelCacheSetting": "Disabled"}}, "MultiModelConfig applies to"),
        ({"ModelPackageName": "package"}, "model packages"),
    ],
)
def test_a_model_that_could_not_serve_is_refused_at_once(sagemaker: Any, container: dict[str, str], text: str) -> None:
    assert re.search(text, refusal(create_model, sagemaker, PrimaryContainer={**CONTAINER, **container}))


def test_a_model_needs_one_kind_of_containers(sagemaker: Any) -> None:
    assert "Received: neither" in refusal(create_model, sagemaker, PrimaryContainer=None)
    assert "Received: both" in refusal(create_model, sagemaker, Containers=[CONTAINER])
    create_model(sagemaker, PrimaryContainer=None, Containers=[CONTAINER])


def test_containers_in_series_have_names_of_their_own(sagemaker: Any) -> None:
    named = {**CONTAINER, "ContainerHostname": "container-2"}
    text = refusal(create_model, sagemaker, PrimaryContainer=None, Containers=[named, CONTAINER])
    assert "Received twice: container-2" in text
    direct = {"PrimaryContainer": None, "InferenceExecutionConfig": {"Mode": "Direct"}}
    text = refusal(create_model, sagemaker, Containers=[CONTAINER, named], **direct)
    assert "needs a ContainerHostname" in text
    other = {**CONTAINER, "ContainerHostname": "other"}
    create_model(sagemaker, Containers=[named, other], **direct)
    assert [each["ContainerHostname"] for each in sagemaker.describe_model(ModelName="m")["Containers"]] == [
        "container-2",
        "other",
    ]


def test_a_model_of_many_models_may_be_made_before_they_are(sagemaker: Any) -> None:
    container = {"Image": IMAGE, "Mode": "MultiModel", "ModelDataUrl": "s3://models/none-yet/"}
    create_model(sagemaker, PrimaryContainer={**container, "MultiModelConfig": {"ModelCacheSetting": "Disabled"}})
    assert sagemaker.describe_model(ModelName="m")["PrimaryContainer"]["Mode"] == "MultiModel"
    text = refusal(create_model, sagemaker, "n", PrimaryContainer={"Image": IMAGE, "Mode": "MultiModel"})
    assert "needs a ModelDataUrl" in text


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://models/out"}}}, "asynchronous inference"),
        ({"ProductionVariants": [VARIANT, VARIANT]}, "Variant names must be unique"),
        ({"ProductionVariants": [{**VARIANT, "InitialVariantWeight": 0.0}]}, "InitialVariantWeight above 0"),
        ({"ProductionVariants": [{"VariantName": "v", "ModelName": "m"}]}, "needs an InstanceType"),
        ({"ProductionVariants": [{"VariantName": "v", "InstanceType": "ml.m5.large"}]}, "needs a ModelName"),
        (
            {
                "ProductionVariants": [
                    {
                        "VariantName": "v",
                        "ModelName": "m",
                        "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1},
                    }
                ]
            },
            "serverless inference",
        ),
    ],
)
def test_a_configuration_that_asks_for_what_is_not_offered_is_refused(
    sagemaker: Any, members: dict[str, Any], text: str
) -> None:
    create_model(sagemaker)
    assert text in refusal(create_config, sagemaker, **members)


def test_ways_of_updating_that_are_not_offered_are_refused(sagemaker: Any) -> None:
    create_model(sagemaker)
    create_config(sagemaker)
    rolling = {"MaximumBatchSize": {"Type": "INSTANCE_COUNT", "Value": 1}, "WaitIntervalInSeconds": 0}

    def policy(kind: str, **members: Any) -> dict[str, Any]:
        return {"TrafficRoutingConfiguration": {"Type": kind, "WaitIntervalInSeconds": 0, **members}}

    large = {"Type": "CAPACITY_PERCENT", "Value": 60}
    for config, text in (
        ({"RollingUpdatePolicy": rolling}, "blue/green"),
        ({"BlueGreenUpdatePolicy": policy("CANARY")}, "needs a CanarySize"),
        ({"BlueGreenUpdatePolicy": policy("LINEAR", LinearStepSize=large)}, "from 10 to 50 percent"),
        ({"BlueGreenUpdatePolicy": policy("ALL_AT_ONCE", CanarySize=large)}, "applies to traffic routing of the type"),
    ):
        members = {"EndpointName": "e", "EndpointConfigName": "c", "DeploymentConfig": config}
        assert text in refusal(sagemaker.create_endpoint, **members)


def test_an_endpoint_that_is_not_in_service_cannot_be_updated(sagemaker: Any) -> None:
    create_model(sagemaker)
    create_config(sagemaker)
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")
    assert "in-progress" in refusal(sagemaker.update_endpoint, EndpointName="e", EndpointConfigName="c")
    wanted = [{"VariantName": "AllTraffic", "DesiredWeight": 2.0}]
    update = sagemaker.update_endpoint_weights_and_capacities
    assert "in-progress" in refusal(update, EndpointName="e", DesiredWeightsAndCapacities=wanted)


def test_lists_are_filtered_sorted_and_paged(sagemaker: Any) -> None:
    for name in ("a-1", "a-2", "b-1"):
        create_model(sagemaker, name)
    create_config(sagemaker, ProductionVariants=[{**VARIANT, "ModelName": "a-1"}])
    for name in ("x", "y"):
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName="c")
    models = sagemaker.list_models(NameContains="a-", SortBy="Name", SortOrder="Ascending", MaxResults=1)
    assert [model["ModelName"] for model in models["Models"]] == ["a-1"]
    models = sagemaker.list_models(
        NameContains="a-", SortBy="Name", SortOrder="Ascending", MaxResults=1, NextToken=models["NextToken"]
    )
    assert [model["ModelName"] for model in models["Models"]] == ["a-2"]
    assert "NextToken" not in models
    assert [config["EndpointConfigName"] for config in sagemaker.list_endpoint_configs()["EndpointConfigs"]] == ["c"]
    listed = sagemaker.list_endpoints(StatusEquals="Creating", SortBy="Name")["Endpoints"]
    assert [endpoint["EndpointName"] for endpoint in listed] == ["y", "x"]
    assert sagemaker.list_endpoints(StatusEquals="InService")["Endpoints"] == []


def test_tags_follow_their_resource(sagemaker: Any) -> None:
    tag = {"Key": "team", "Value": "vision"}
    arns = [
        create_model(sagemaker, Tags=[tag])["ModelArn"],
        create_config(sagemaker, Tags=[tag])["EndpointConfigArn"],
        sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c", Tags=[tag])["EndpointArn"],
    ]
    for arn in arns:
        sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "more", "Value": "1"}])
        assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "more", "Value": "1"}, tag]
    sagemaker.delete_model(ModelName="m")
    assert "Could not find" in refusal(sagemaker.list_tags, ResourceArn=arns[0])
    create_model(sagemaker)
    assert sagemaker.list_tags(ResourceArn=arns[0])["Tags"] == []


def test_the_defaults_of_a_variant_are_told(sagemaker: Any) -> None:
    create_model(sagemaker)
    create_config(sagemaker, ProductionVariants=[{k: v for k, v in VARIANT.items() if k != "InitialInstanceCount"}])
    (variant,) = sagemaker.describe_endpoint_config(EndpointConfigName="c")["ProductionVariants"]
    assert (variant["InitialInstanceCount"], variant["InitialVariantWeight"]) == (1, 1.0)
