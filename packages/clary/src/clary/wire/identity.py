"""Names of identities: the unique ids and ARNs that go with a role."""

from __future__ import annotations

import base64
import hashlib


def role_id(role_arn: str) -> str:
    """The unique id of a role, "AROA…": always the same for the same ARN."""
    digest = base64.b32encode(hashlib.sha256(role_arn.encode()).digest()).decode()
    return "AROA" + digest[:17]


def session_user_id(session_arn: str) -> str:
    """The user id of "arn:aws:sts::<account>:assumed-role/<role>/<session>": "AROA…:<session>"."""
    partition, account, resource = _parts(session_arn)
    role, session = resource.removeprefix("assumed-role/").rsplit("/", 1)
    return f"{role_id(f'arn:{partition}:iam::{account}:role/{role}')}:{session}"


def account_of(arn: str) -> str:
    """The account in an ARN."""
    return _parts(arn)[1]


def _parts(arn: str) -> tuple[str, str, str]:
    _, partition, _, _, account, resource = arn.split(":", 5)
    return partition, account, resource
