"""Secrets that the platform shares with hosts: derived, so that a start repeated after a crash gives the same ones."""

from __future__ import annotations

import hashlib
import hmac

from clary.front.credentials import CredentialStore

LAUNCH_TOKEN = "CLARY_LAUNCH_TOKEN"
"""The variable by which the hosts of a job know each other when one starts programs on another."""


def report_token(credentials: CredentialStore, host_id: str) -> str:
    """What a host signs its reports with."""
    return _derive(credentials, b"host-report", host_id)


def launch_token(credentials: CredentialStore, job_name: str, attempt: int) -> str:
    """What the hosts of one attempt at a job share among themselves."""
    return _derive(credentials, b"job-launch", f"{job_name} {attempt}")


def _derive(credentials: CredentialStore, purpose: bytes, name: str) -> str:
    key = credentials.root.token_key.encode()
    return hmac.new(key, purpose + b"\0" + name.encode(), hashlib.sha256).hexdigest()
