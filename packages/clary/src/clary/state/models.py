"""Models: what CreateModel recorded, until DeleteModel. An endpoint keeps its own copy of those that it serves."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Index, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from clary.state.database import Base, Name


class Model(Base):
    """One model. `request` is CreateModel's request without its tags: what Describe echoes."""

    __tablename__ = "models"
    __table_args__ = (Index(None, "creation_time", "id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    arn: Mapped[str] = mapped_column(String(256))
    creation_time: Mapped[dt.datetime]
    request: Mapped[dict[str, Any]]


def find_model(session: Session, name: str) -> Model | None:
    """The model of this name."""
    return session.scalars(select(Model).where(Model.name == name)).first()


def find_models(session: Session, names: set[str]) -> dict[str, Model]:
    """The models of these names, by name; those that do not exist are left out."""
    return {model.name: model for model in session.scalars(select(Model).where(Model.name.in_(sorted(names))))}
