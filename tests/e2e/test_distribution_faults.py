"""What happens to a job of several ranks when one of them dies, and when the job is stopped: on two hosts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_rank_killed_in_mid_fit_ends_the_job_and_is_named(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_faulty_ranks.py", "kill")
    assert "STATUS Failed" in said
    reason = said.split("REASON", 1)[1]
    assert reason.strip().startswith("AlgorithmError: ExecuteUserScriptError:\nExitCode ")
    # Though another rank, that misses it, may be the one by which mpirun heard of it.
    assert 'ErrorMessage "On rank 1 on algo-2: The script of this rank was killed by SIGKILL (signal 9)"' in reason


def test_a_host_killed_in_mid_fit_ends_the_job_and_is_named(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_faulty_ranks.py", "host")
    assert "STATUS Failed" in said
    # Whichever is heard first: that its process was killed, or what the first host says, that has lost it.
    assert re.search(r"On algo-2\. Killed by SIGKILL|Nothing is heard of algo-2 any more", said.split("REASON", 1)[1])


def test_a_rank_that_hangs_ends_the_job_after_the_patience_that_was_asked_for(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_faulty_ranks.py", "hang")
    assert "STATUS Failed" in said
    reason = said.split("REASON", 1)[1]
    assert "On rank 0 on algo-1" in reason
    assert re.search(r"rank 0 waited 8 s in \w+ for rank 1", reason)


def test_a_rank_that_ends_before_mpi_has_begun_ends_the_job_with_its_error(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_faulty_ranks.py", "early")
    assert "STATUS Failed" in said
    assert "the data is not there" in said.split("REASON", 1)[1]


def test_a_stop_reaches_every_rank(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_faulty_ranks.py", "stop")
    assert "stopped-0 rank 0 on algo-1" in said
    assert "stopped-1 rank 1 on algo-2" in said
    assert "STATUS Stopped" in said
