"""The services that Clary speaks for: how each is addressed, and its model, loaded when first needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

Protocol = Literal["json", "rest-json", "query"]


@dataclass(frozen=True)
class Service:
    """How one service is addressed on the wire.

    Everything routing needs before the model itself is loaded: SageMaker's takes a tenth of a second.
    """

    name: str  # botocore's
    protocol: Protocol
    signing_name: str
    validation_code: str = "ValidationException"
    target_prefix: str | None = None
    api_version: str | None = None  # set where the service takes the Query protocol
    json_version: str = "1.1"


SERVICES: tuple[Service, ...] = (
    Service("sagemaker", "json", "sagemaker", target_prefix="SageMaker"),
    Service("sagemaker-runtime", "rest-json", "sagemaker", validation_code="ValidationError"),
    Service("sagemaker-metrics", "rest-json", "sagemaker"),
    Service("sagemaker-featurestore-runtime", "rest-json", "sagemaker", validation_code="ValidationError"),
    Service("logs", "json", "logs", validation_code="InvalidParameterException", target_prefix="Logs_20140328"),
    Service(
        "cloudwatch",
        "json",
        "monitoring",
        validation_code="ValidationError",
        target_prefix="GraniteServiceVersion20100801",
        api_version="2010-08-01",
        json_version="1.0",
    ),
    Service("sts", "query", "sts", validation_code="ValidationError", api_version="2011-06-15"),
    Service("iam", "query", "iam", validation_code="ValidationError", api_version="2010-05-08"),
)

BY_NAME = {service.name: service for service in SERVICES}
BY_TARGET = {service.target_prefix: service for service in SERVICES if service.target_prefix}
BY_VERSION = {service.api_version: service for service in SERVICES if service.api_version}
SIGNING_NAMES = {service.signing_name for service in SERVICES}
REST = tuple(service for service in SERVICES if service.protocol == "rest-json")


@cache
def model(name: str) -> Any:
    """botocore's ServiceModel of one service: shapes, operations, errors and constraints."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model(name, "service-2"), service_name=name)
