"""What CreateEndpointConfig, CreateEndpoint and UpdateEndpoint refuse beyond the shapes' own constraints.

What Clary does not offer is refused where leaving it out would silently give another result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from clary.wire.errors import ValidationError

_CONFIG_NOT_OFFERED = {
    "AsyncInferenceConfig": "asynchronous inference",
    "CrossRegionTrafficConfig": "traffic across regions",
    "ExecutionRoleArn": "inference components",
    "ExplainerConfig": "explanations",
}
_VARIANT_NOT_OFFERED = {
    "AcceleratorPartitionLayouts": "parts of accelerators",
    "AcceleratorType": "Elastic Inference, which AWS has ended as well",
    "CapacityReservationConfig": "capacity reservations",
    "CoreDumpConfig": "core dumps",
    "InstancePools": "pools of instance types",
    "ServerlessConfig": "serverless inference",
}
_LARGEST_STEP = 50  # percent
_STRATEGIES = ("LEAST_OUTSTANDING_REQUESTS", "RANDOM")


def variants_of(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All variants of a configuration: production first, then shadow."""
    return [*params["ProductionVariants"], *params.get("ShadowProductionVariants", ())]


def check_config(params: Mapping[str, Any]) -> None:
    """All that can be told from CreateEndpointConfig's request alone.

    Raises:
        ValidationError: with the first thing that is wrong.
    """
    for member, feature in _CONFIG_NOT_OFFERED.items():
        if params.get(member):
            raise ValidationError(f"Clary does not offer {feature}. Remove {member} from the request.")
    variants = variants_of(params)
    names = Counter(variant["VariantName"] for variant in variants)
    doubled = next((name for name, count in names.items() if count > 1), None)
    if doubled:
        raise ValidationError(f"Variant names must be unique within an endpoint configuration. Received: {doubled}")
    for variant in variants:
        _check_variant(variant)
    if not any(variant.get("InitialVariantWeight", 1.0) > 0 for variant in params["ProductionVariants"]):
        raise ValidationError("At least one production variant needs an InitialVariantWeight above 0.")


def check_deployment(params: Mapping[str, Any]) -> None:
    """The DeploymentConfig of CreateEndpoint and UpdateEndpoint.

    Raises:
        ValidationError: it asks for a way of updating that Clary does not offer.
    """
    config = params.get("DeploymentConfig", {})
    if "RollingUpdatePolicy" in config:
        raise ValidationError("Clary updates endpoints blue/green. Use BlueGreenUpdatePolicy, not RollingUpdatePolicy.")
    if config.get("AutoRollbackConfiguration", {}).get("Alarms"):
        raise ValidationError("Clary has no alarms that roll an update back. Remove AutoRollbackConfiguration.")
    routing = config.get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration", {})
    for kind, member, least in (("CANARY", "CanarySize", 1), ("LINEAR", "LinearStepSize", 10)):
        if routing.get("Type") == kind:
            _check_step(kind, member, routing.get(member), least)
        elif member in routing:
            raise ValidationError(f"{member} applies to traffic routing of the type {kind}.")


def _check_step(kind: str, member: str, size: Mapping[str, Any] | None, least: int) -> None:
    if size is None:
        raise ValidationError(f"Traffic routing of the type {kind} needs a {member}.")
    if size["Type"] == "CAPACITY_PERCENT" and not least <= size["Value"] <= _LARGEST_STEP:
        raise ValidationError(
            f"{member} must be from {least} to {_LARGEST_STEP} percent of the capacity. Received: {size['Value']}"
        )


def _check_variant(variant: Mapping[str, Any]) -> None:
    name = variant["VariantName"]
    for member, feature in _VARIANT_NOT_OFFERED.items():
        if variant.get(member):
            raise ValidationError(f"Variant {name}: Clary does not offer {feature}. Remove {member}.")
    if variant.get("ManagedInstanceScaling", {}).get("Status") == "ENABLED":
        raise ValidationError(f"Variant {name}: Clary does not offer ManagedInstanceScaling. Remove it.")
    if variant.get("EnableSSMAccess"):
        raise ValidationError(f"Variant {name}: Clary's instances are not reached by SSM. Remove EnableSSMAccess.")
    if not variant.get("ModelName"):
        raise ValidationError(f"Variant {name} needs a ModelName: Clary does not offer inference components.")
    if not variant.get("InstanceType"):
        raise ValidationError(f"Variant {name} needs an InstanceType. Received: none.")
    strategy = variant.get("RoutingConfig", {}).get("RoutingStrategy", _STRATEGIES[0])
    if strategy not in _STRATEGIES:
        expected = " and ".join(_STRATEGIES)
        raise ValidationError(f"Variant {name}: Clary offers the RoutingStrategy {expected}. Received: {strategy}")
