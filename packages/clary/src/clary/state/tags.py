"""Tags of any resource, by its ARN."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import String, delete, func, insert, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from clary.state.database import Base, Name, table_of


class Tag(Base):
    """One tag of one resource. ARNs of SageMaker have at most 256 characters."""

    __tablename__ = "tags"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    resource_arn: Mapped[str] = mapped_column(Name, primary_key=True)
    key: Mapped[str] = mapped_column(Name, primary_key=True)
    value: Mapped[str] = mapped_column(String(256))


def put(session: Session, resource_arn: str, tags: Iterable[Mapping[str, str]]) -> None:
    """Add tags (`{"Key": …, "Value": …}`) to a resource; a key that it has gets the new value."""
    new = {tag["Key"]: tag["Value"] for tag in tags}
    if not new:
        return
    remove(session, resource_arn, new)
    rows = [{"resource_arn": resource_arn, "key": key, "value": value} for key, value in new.items()]
    session.execute(insert(table_of(Tag)), rows)


def get(session: Session, resource_arn: str, *, after: str = "", limit: int | None = None) -> list[dict[str, str]]:
    """The tags of a resource, as AWS writes them, sorted by key."""
    statement = select(Tag.key, Tag.value).where(Tag.resource_arn == resource_arn, Tag.key > after)
    rows = session.execute(statement.order_by(Tag.key).limit(limit))
    return [{"Key": key, "Value": value} for key, value in rows]


def get_many(session: Session, resource_arns: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """The tags of several resources, by ARN; those without tags are left out."""
    statement = select(Tag.resource_arn, Tag.key, Tag.value).where(Tag.resource_arn.in_(list(resource_arns)))
    found: dict[str, list[dict[str, str]]] = {}
    for arn, key, value in session.execute(statement.order_by(Tag.resource_arn, Tag.key)):
        found.setdefault(arn, []).append({"Key": key, "Value": value})
    return found


def count_with(session: Session, resource_arn: str, keys: Iterable[str]) -> int:
    """How many tags the resource would have if these keys were added."""
    wanted = list(keys)
    others = select(func.count()).where(Tag.resource_arn == resource_arn, Tag.key.not_in(wanted))
    return len(set(wanted)) + (session.scalar(others) or 0)


def remove(session: Session, resource_arn: str, keys: Iterable[str]) -> None:
    """Take tags from a resource; keys that it has not are no error."""
    session.execute(delete(Tag).where(Tag.resource_arn == resource_arn, Tag.key.in_(list(keys))))


def remove_all(session: Session, resource_arn: str) -> None:
    """Take all tags from a resource that is deleted."""
    session.execute(delete(Tag).where(Tag.resource_arn == resource_arn))
