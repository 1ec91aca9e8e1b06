"""Endpoint configurations: what CreateEndpointConfig recorded, until DeleteEndpointConfig."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Index, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from clary.state.database import Base, Name


class EndpointConfig(Base):
    """One configuration. `request` is CreateEndpointConfig's request without its tags: what Describe echoes."""

    __tablename__ = "endpoint_configs"
    __table_args__ = (Index(None, "creation_time", "id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    arn: Mapped[str] = mapped_column(String(256))
    creation_time: Mapped[dt.datetime]
    request: Mapped[dict[str, Any]]


def find_endpoint_config(session: Session, name: str) -> EndpointConfig | None:
    """The configuration of this name."""
    return session.scalars(select(EndpointConfig).where(EndpointConfig.name == name)).first()
