"""How to reach the store."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class StoreAccess(BaseModel):
    """An address and keys of the store, for the server and for supervisors. A sandbox never sees the store's own.

    Hosts on other machines get those of Clary's S3 front and of their own job, with its session token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    access_key: str
    secret_key: str = Field(repr=False)
    region: str
    session_token: str | None = Field(default=None, repr=False)
