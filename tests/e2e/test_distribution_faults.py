"""What happens to a job of several ranks when one of them dies, and when the job is stopped: on two hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_rank_killed_in_mid_fit_ends_the_job(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_faulty_ranks.py", "kill")
    assert "STATUS Failed" in said
    reason = said.split("REASON", 1)[1]
    assert reason.strip().startswith("AlgorithmError: ExecuteUserScriptError:\nExitCode ")
    # Which rank it was: mpirun cuts its output off where another rank tells it first that its peer has gone.
    named = "On rank 1 on algo-2" in reason and "SIGKILL" in reason
    assert named or "prterun" in reason or "MPI" in reason


def test_a_stop_reaches_every_rank(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_faulty_ranks.py", "stop")
    assert "stopped-0 rank 0 on algo-1" in said
    assert "stopped-1 rank 1 on algo-2" in said
    assert "STATUS Stopped" in said
