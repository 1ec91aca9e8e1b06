"""What the tests of every cluster share: the conformance suite beside this file can be imported; one Ray for all."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import ray_machines
from ray_machines import RayMachines


@pytest.fixture(scope="session")
def machines() -> Generator[RayMachines]:
    """A Ray cluster without nodes for hosts yet."""
    with ray_machines.running() as machines:
        yield machines
