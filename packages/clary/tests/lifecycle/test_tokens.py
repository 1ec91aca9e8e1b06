"""Secrets of hosts and jobs are derived: the same at every start, different for everybody."""

from __future__ import annotations

from pathlib import Path

from clary.front.credentials import CredentialStore
from clary.lifecycle.tokens import launch_token, report_token
from clary.settings import Settings


def test_tokens_outlive_the_server_and_differ_between_homes(tmp_path: Path) -> None:
    first, again, other = (
        CredentialStore(tmp_path / name, Settings(home=tmp_path / name)) for name in ("home", "home", "other")
    )
    assert launch_token(first, "job", 1) == launch_token(again, "job", 1) != launch_token(other, "job", 1)
    tokens = {launch_token(first, "job", 1), launch_token(first, "job", 2), launch_token(first, "job-2", 1)}
    assert len(tokens | {report_token(first, "job 1")}) == 4
