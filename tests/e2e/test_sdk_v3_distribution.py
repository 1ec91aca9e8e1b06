"""SDK v3's MPI driver, as the SDK uploads it, starts its ranks on two hosts that have no SSH server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_sdks_mpi_driver_starts_ranks_on_both_hosts(server: Server, sdk_v3: Path) -> None:
    said = server.run(sdk_v3, "v3_mpi.py", COLUMNS="300")
    assert "rank=0 of=2 total=3.0 host=algo-1" in said
    assert "rank=1 of=2 total=3.0 host=algo-2" in said
    assert "Master can connect to all worker nodes." in said
    assert "Found status file /tmp/done.algo-1" in said
    assert "status Completed" in said
