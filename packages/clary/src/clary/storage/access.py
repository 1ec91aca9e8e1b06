"""How to reach the store."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class StoreAccess(BaseModel):
    """The store's own address and keys: for the server and for supervisors. A sandbox never sees them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    access_key: str
    secret_key: str = Field(repr=False)
    region: str
