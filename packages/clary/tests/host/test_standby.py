"""A supervisor that waits for its job."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from clary.host.standby import Standby


def test_a_standby_takes_a_folder_and_another_takes_its_place(tmp_path: Path) -> None:
    standby = Standby(os.environ)
    standby.prepare()
    (tmp_path / "host.json").write_text(json.dumps({"host_id": "no order"}))
    recorded: list[int] = []

    def record(process: subprocess.Popen[bytes]) -> None:
        assert process.poll() is None
        recorded.append(process.pid)

    process = standby.start(tmp_path, record)
    assert recorded == [process.pid]
    assert process.wait(20) != 0
    assert "validation errors for HostSpec" in (tmp_path / "supervisor.log").read_text()
    standby.close()


def test_a_standby_that_gets_no_folder_ends(tmp_path: Path) -> None:
    standby = Standby(os.environ)
    standby.prepare()
    waiting = standby._waiting
    standby.close()
    assert waiting is not None
    assert waiting.returncode == 0
