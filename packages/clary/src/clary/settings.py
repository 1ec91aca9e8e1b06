"""What a person may set: each field is also the environment variable `CLARY_<FIELD>`.

Every other module receives a `Settings`; none reads the environment itself.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_PORT = 7700
DEFAULT_REGION = "us-east-1"
DEFAULT_ACCOUNT = "000000000000"
DEFAULT_ROLE_NAME = "ClaryExecutionRole"
CLUSTER_PATTERN = r"^(local|ray|ray:auto|ray:(//)?[^/\s:]+:\d+)$"
_EVERYWHERE = ("0.0.0.0", "::")


class Settings(BaseSettings):
    """The platform's settings, from `CLARY_*` variables or keyword arguments.

    `home` holds everything that must survive: the record, the store, keys, images, jobs and logs.
    """

    model_config = SettingsConfigDict(env_prefix="CLARY_", extra="ignore", frozen=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".clary")
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    hosts_url: str | None = None  # the server's address as other machines reach it, where it is not `url`
    cluster: str = Field(default="local", pattern=CLUSTER_PATTERN)
    region: str = DEFAULT_REGION
    account_id: str = Field(default=DEFAULT_ACCOUNT, pattern=r"^\d{12}$")
    database_url: str | None = None
    stop_grace_seconds: int = Field(default=120, ge=0)  # from SIGTERM to SIGKILL; AWS gives 120
    container_engine: str = ""  # a program and its options, for instance "podman --runtime runc"; empty: what works
    container_options: str = ""  # further words of the engine's `create`
    s3_endpoint: str | None = None
    s3_access_key: str | None = None
    s3_secret_key: str | None = None

    @property
    def url(self) -> str:
        """The address that every AWS client on this machine is pointed at."""
        host = "127.0.0.1" if self.listens_everywhere else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def listens_everywhere(self) -> bool:
        """Whether the server listens on all addresses of the machine."""
        return self.host in _EVERYWHERE

    @property
    def url_for_hosts(self) -> str:
        """The address at which the hosts of jobs reach the server."""
        return self.hosts_url or self.url

    @property
    def uses_ray(self) -> bool:
        """Whether jobs run on a Ray cluster."""
        return self.cluster != "local"

    @property
    def ray_address(self) -> str | None:
        """The Ray cluster's address as Ray takes it; None for one of this machine that Clary starts itself."""
        if self.cluster.startswith("ray://"):
            return self.cluster
        return self.cluster.removeprefix("ray").removeprefix(":") or None

    @property
    def default_role_arn(self) -> str:
        """The execution role that exists from the first start."""
        return self.role_arn(DEFAULT_ROLE_NAME)

    def role_arn(self, name: str) -> str:
        """The role of that name in the server's account."""
        return f"arn:aws:iam::{self.account_id}:role/{name}"

    @property
    def default_bucket(self) -> str:
        """The bucket that the SDKs derive for themselves from region and account."""
        return f"sagemaker-{self.region}-{self.account_id}"

    @property
    def resolved_database_url(self) -> str:
        """SQLite under `home` unless `database_url` names another database."""
        return self.database_url or f"sqlite:///{self.home / 'clary.db'}"

    def arn(self, resource: str, service: str = "sagemaker") -> str:
        """The ARN of a resource of this account, for instance `arn("training-job/x")`."""
        return f"arn:aws:{service}:{self.region}:{self.account_id}:{resource}"


@lru_cache(maxsize=1)
def current_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
