"""What a host is told (`HostSpec`, read from `host.json` in its folder) and what it reports (`HostReport`).

Written by `lifecycle`, read by `host`; plain data, JSON on disk and on the wire.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from clary.storage.access import StoreAccess


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Channel(_Data):
    """One input channel, as in CreateTrainingJob's InputDataConfig."""

    name: str
    data_type: Literal["S3Prefix", "ManifestFile", "AugmentedManifestFile"] = "S3Prefix"
    s3_uri: str
    distribution: Literal["FullyReplicated", "ShardedByS3Key"] = "FullyReplicated"
    input_mode: Literal["File", "FastFile", "Pipe"] = "File"
    content_type: str | None = None
    compression: Literal["None", "Gzip"] = "None"
    record_wrapper: Literal["None", "RecordIO"] = "None"
    shuffle_seed: int | None = None
    attribute_names: tuple[str, ...] = ()


class Peer(_Data):
    """A host of the same job. `address` is set where hosts have no network namespaces of their own."""

    name: str  # algo-1 … algo-N
    instance_type: str
    instance_group: str
    address: str | None = None


class Limits(_Data):
    """What the host may use."""

    cpus: float
    memory_bytes: int
    gpu_indices: tuple[int, ...] = ()
    disk_bytes: int | None = None
    max_runtime_seconds: int
    stop_grace_seconds: int = 120


class Output(_Data):
    """Where results go. `model_uri` is the whole address of model.tar.gz, or the prefix when uncompressed."""

    model_uri: str
    output_uri: str | None
    compression: Literal["GZIP", "NONE"] = "GZIP"
    kms_key_id: str = ""
    staging_uri: str  # where the hosts of a job with several put their parts, for algo-1 to merge


class Checkpoint(_Data):
    s3_uri: str
    local_path: str = "/opt/ml/checkpoints"


class MetricDefinition(_Data):
    name: str
    regex: str


class HostSpec(_Data):
    """Everything one host needs: it works on without the server once this is written."""

    host_id: str  # unique: one attempt of one host
    job_kind: Literal["training"] = "training"
    job_name: str
    job_arn: str
    attempt: int = 1
    host: str  # algo-1
    peers: tuple[Peer, ...]  # all hosts of the job, this one included, in order
    image: str  # the URI as requested
    arguments: tuple[str, ...] = ()  # ContainerArguments
    entrypoint: tuple[str, ...] = ()  # ContainerEntrypoint; both empty: the word `train`
    environment: dict[str, str]  # the request's Environment plus the platform's own variables, credentials included
    hyperparameters: dict[str, str]
    input_mode: Literal["File", "FastFile", "Pipe"] = "File"
    channels: tuple[Channel, ...] = ()
    config_files: dict[str, str] = {}  # further files of /opt/ml/input/config by name: debughookconfig.json, …
    limits: Limits
    output: Output
    checkpoint: Checkpoint | None = None
    tensorboard: Checkpoint | None = None  # TensorBoardOutputConfig: sent on like checkpoints, never fetched
    metric_definitions: tuple[MetricDefinition, ...] = ()
    network_isolation: bool = False
    notices: tuple[str, ...] = ()  # lines for the log's head: a GPU type run on CPU, …
    store: StoreAccess
    report_url: str  # the server's address for reports of this host
    report_token: str = Field(repr=False)
    images_home: str  # the folder of the image cache

    @property
    def own_variables(self) -> dict[str, str]:
        """What every training container finds in its environment, whatever its image and request."""
        return {"TRAINING_JOB_NAME": self.job_name, "TRAINING_JOB_ARN": self.job_arn}


class Phase(StrEnum):
    """Where a host is. A host passes through these in order and may end in the last from any."""

    STARTING = "Starting"
    PREPARING_IMAGE = "PreparingImage"
    DOWNLOADING = "Downloading"
    READY = "Ready"  # inputs are in place; a job with several hosts waits here for all
    TRAINING = "Training"
    UPLOADING = "Uploading"
    ENDED = "Ended"


class LogLine(_Data):
    """One line of stdout or stderr. `sequence` counts from 0 within the host and never repeats."""

    sequence: int
    timestamp_ms: int
    message: str


class MetricPoint(_Data):
    """One value that a metric definition found, or one reading of the instance."""

    sequence: int
    name: str
    value: float
    timestamp: dt.datetime
    instance: bool = False  # an instance metric: namespace /aws/sagemaker/TrainingJobs, dimension Host


class Ending(_Data):
    """How a host ended.

    `cause` is the field that decides the job's FailureReason; the controller writes its text.
    """

    cause: Literal[
        "Completed",
        "ScriptFailed",
        "OutOfMemory",
        "Stopped",
        "MaxRuntimeExceeded",
        "ClientError",
        "InternalError",
    ]
    exit_code: int | None = None
    signal: str | None = None  # "SIGKILL"
    failure_text: str = ""  # of /opt/ml/output/failure, at most 1024 characters
    last_lines: tuple[str, ...] = ()  # the script's last traceback, or its last lines
    message: str = ""  # for ClientError and InternalError: the sentence for the user
    peak_memory_bytes: int | None = None
    model_artifact: str | None = None  # the S3 address that was written


class PhaseChange(_Data):
    phase: Phase
    timestamp: dt.datetime
    message: str = ""  # detail for SecondaryStatusTransitions, for instance the image being built


class HostReport(_Data):
    """One report, POSTed to `report_url` with `Authorization: Bearer <report_token>`.

    Idempotent: the server drops log lines and metrics whose sequence it has. Phases are the host's whole history.
    """

    host_id: str
    phases: tuple[PhaseChange, ...]
    logs: tuple[LogLine, ...] = ()
    metrics: tuple[MetricPoint, ...] = ()
    ending: Ending | None = None
    address: str | None = None  # of a replica that serves: a Unix socket's path, or 127.0.0.1:port


class HostOrders(_Data):
    """The server's answer to a report: what the host is to do, and what it need not send again."""

    wanted: Literal["run", "stop", "abort"] = "run"  # abort: kill at once and upload nothing
    start: bool = False  # every host of the job is Ready
    merge: bool = False  # every host has ended well and staged its part: algo-1 merges and uploads
    logs_received: int = 0  # log lines with a lower sequence are recorded
    metrics_received: int = 0
    max_runtime_seconds: int | None = None  # UpdateTrainingJob may not change it today; kept for resumption
    ending_received: bool = False  # the host may exit
