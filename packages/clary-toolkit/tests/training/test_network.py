"""The launcher waits for the names of the other hosts."""

from __future__ import annotations

import time

import pytest
from conformance_cases import PROGRAM

from clary_toolkit.training import network
from clary_toolkit.training.environment import TrainingEnvironment
from clary_toolkit.training.errors import ClientError
from clary_toolkit.training.paths import Paths
from toolkit_lab import Tree


def environment_of(*hosts: str) -> TrainingEnvironment:
    return TrainingEnvironment(Paths(), {}, PROGRAM, {"hosts": hosts, "current_host": hosts[0]}, {})


def test_a_single_host_waits_for_no_name() -> None:
    network.wait_for_names(environment_of("nobody-knows-this-name"), patience_seconds=0)


def test_names_that_resolve_are_not_waited_for() -> None:
    began = time.monotonic()
    network.wait_for_names(environment_of("algo-1", "localhost"))
    assert time.monotonic() - began < 5


def test_a_name_that_never_resolves_is_named() -> None:
    with pytest.raises(ClientError, match=r"host 'algo-2.invalid'"):
        network.wait_for_names(environment_of("algo-1", "algo-2.invalid"), patience_seconds=0.1)


def test_studios_local_mode_waits_for_no_name(train, probe_source: str) -> None:  # type: ignore[no-untyped-def]
    hosts = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2.invalid"]}
    tree = Tree({"train.py": probe_source}, PROGRAM, resource_config=hosts)
    assert train(tree, {"SM_STUDIO_LOCAL_MODE": "true"}).exit_code == 0
