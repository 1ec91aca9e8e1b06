"""What the host of an endpoint is told (`ReplicaSpec`, read from `host.json` in its folder).

Written by `lifecycle`, read by `host`; plain data, JSON on disk. A replica reports as every host does, by
`HostReport`: Phase.READY means that it serves, with its address in `HostReport.address`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from clary.host.spec import HostSpec, Limits
from clary.storage.access import StoreAccess


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSource(_Data):
    """Where a model lies: ModelDataUrl, or ModelDataSource.S3DataSource.

    An S3Object with Gzip is a .tar.gz that is unpacked; without compression it is one file. An S3Prefix is a folder of
    files (compression None), or the folder of archives of a multi-model endpoint.
    """

    s3_uri: str
    kind: Literal["S3Object", "S3Prefix"] = "S3Object"
    compression: Literal["Gzip", "None"] = "Gzip"


class ServingContainer(_Data):
    """One container of a model, as in ContainerDefinition."""

    hostname: str = "container-1"
    image: str  # the URI as requested
    environment: dict[str, str]  # the request's Environment plus the platform's own variables, credentials included
    model: ModelSource | None = None
    mode: Literal["SingleModel", "MultiModel"] = "SingleModel"
    keeps_models: bool = True  # of several models: loaded between requests ("ModelCacheSetting" is not "Disabled")
    entrypoint: tuple[str, ...] = ()  # empty: the image's own entrypoint
    arguments: tuple[str, ...] = ()  # both empty: the word `serve`


class ReplicaSpec(_Data):
    """Everything one replica of a variant needs: it works on without the server once this is written."""

    host_id: str  # unique: one attempt of one replica
    job_kind: Literal["endpoint"] = "endpoint"
    endpoint_name: str
    endpoint_arn: str
    variant: str
    replica: int = 0  # counts from 0 within the variant
    instance_type: str = ""
    containers: tuple[ServingContainer, ...] = Field(min_length=1)  # in the order in which they are called
    direct: bool = False  # a request names the container that it is for, instead of going through all
    limits: Limits  # its max_runtime_seconds has no meaning here: an endpoint serves until it is stopped
    network_isolation: bool = False
    startup_seconds: int = 240  # ContainerStartupHealthCheckTimeoutInSeconds: from the start of `serve` to a good ping
    model_download_seconds: int = 3600  # ModelDataDownloadTimeoutInSeconds
    notices: tuple[str, ...] = ()  # lines for the log's head
    store: StoreAccess
    report_url: str
    report_token: str = Field(repr=False)
    images_home: str


AnySpec = HostSpec | ReplicaSpec
_ANY_SPEC: TypeAdapter[HostSpec | ReplicaSpec] = TypeAdapter(AnySpec)


def read_spec(text: str | bytes) -> HostSpec | ReplicaSpec:
    """The order in a host's `host.json`, of whichever kind its `job_kind` says."""
    return _ANY_SPEC.validate_json(text)
