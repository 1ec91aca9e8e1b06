"""The variables that point every AWS client at the server, and the SageMaker SDK's own file of defaults."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clary.cli.output import CliError
from clary.cli.server_process import RunningServer

HOOKS = Path(__file__).parent / "hooks"
# What would otherwise win over our variables, or would lead away from the server.
CLEARED = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "SAGEMAKER_ADMIN_CONFIG_OVERRIDE",
)


@dataclass(frozen=True)
class Access:
    """How a client of one server signs and where it sends."""

    url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    account_id: str

    @property
    def default_bucket(self) -> str:
        return f"sagemaker-{self.region}-{self.account_id}"

    @property
    def role_arn(self) -> str:
        return f"arn:aws:iam::{self.account_id}:role/ClaryExecutionRole"


def access_to(server: RunningServer) -> Access:
    """The root keys of a running server, with its region and account.

    Raises:
        CliError: the keys cannot be read.
    """
    path = server.home / "credentials.json"
    try:
        keys = json.loads(path.read_text())
        access_key, secret_key = keys["access_key"], keys["secret_key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CliError(
            f"The keys of the server cannot be read from {path}: {error}.",
            "The server makes them at its first start; run as the person who started it.",
        ) from None
    return Access(
        url=server.url,
        access_key=access_key,
        secret_key=secret_key,
        region=str(server.health.get("region") or "us-east-1"),
        account_id=str(server.health.get("account_id") or "000000000000"),
    )


def variables(home: Path, access: Access, inherited: Mapping[str, str], *, sdk_polling: bool = False) -> dict[str, str]:
    """The variables to set for a program that is to use the server.

    Args:
        home: the home folder; the SDK's file of defaults is written into it.
        access: where to send and how to sign.
        inherited: the program's variables so far: paths and proxy exceptions are added to, not replaced.
        sdk_polling: keep the SDK's own, longer waits.
    """
    set_here = {
        "AWS_ENDPOINT_URL": access.url,
        "AWS_ACCESS_KEY_ID": access.access_key,
        "AWS_SECRET_ACCESS_KEY": access.secret_key,
        "AWS_DEFAULT_REGION": access.region,
        "AWS_REGION": access.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(write_sdk_defaults(home, access)),
        "PYTHONPATH": _joined(str(HOOKS), inherited.get("PYTHONPATH", ""), os.pathsep),
        "NO_PROXY": _joined(_host_of(access.url), inherited.get("NO_PROXY", ""), ","),
        "no_proxy": _joined(_host_of(access.url), inherited.get("no_proxy", ""), ","),
        "CLARY_HOME": str(home),
    }
    # A script's own role is a role of an AWS account, which no one here can look up.
    if "SAGEMAKER_VALIDATE_ROLE" not in inherited:
        set_here["SAGEMAKER_VALIDATE_ROLE"] = "false"
    if sdk_polling:
        set_here["CLARY_SDK_POLLING"] = "1"
    return set_here


# The variables that are Clary's alone, so that a shell may drop them again.
OURS = (
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "SAGEMAKER_USER_CONFIG_OVERRIDE",
    "SAGEMAKER_VALIDATE_ROLE",
    "CLARY_SDK_POLLING",
)


def cleared(inherited: Mapping[str, str]) -> list[str]:
    """The variables to remove: those of `CLEARED` and service endpoints that were set before."""
    endpoints = (name for name in inherited if name.startswith("AWS_ENDPOINT_URL_"))
    return sorted({name for name in CLEARED if name in inherited} | set(endpoints))


def write_sdk_defaults(home: Path, access: Access) -> Path:
    """The SageMaker SDK's file of defaults (v2 and v3): bucket, roles and no telemetry. JSON is YAML too."""
    role = {"RoleArn": access.role_arn}
    content = {
        "SchemaVersion": "1.0",
        "SageMaker": {
            "PythonSDK": {"Modules": {"Session": {"DefaultS3Bucket": access.default_bucket}, "TelemetryOptOut": True}},
            "TrainingJob": role,
            "ProcessingJob": role,
            "Pipeline": role,
            "Model": {"ExecutionRoleArn": access.role_arn},
        },
    }
    folder = home / "sdk"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    text = json.dumps(content, indent=2) + "\n"
    if not path.exists() or path.read_text() != text:
        fresh = folder / f".config-{os.getpid()}.yaml"
        fresh.write_text(text)
        fresh.replace(path)
    return path


def _joined(first: str, others: str, separator: str) -> str:
    kept = [part for part in others.split(separator) if part and part != first]
    return separator.join([first, *kept])


def _host_of(url: str) -> str:
    return url.split("://", 1)[-1].split("/", 1)[0].rsplit(":", 1)[0].strip("[]")
