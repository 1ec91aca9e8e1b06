"""The launcher loads little before a script starts; benchmarks/starts.py measures what that costs."""

from __future__ import annotations

import subprocess
import sys

from toolkit_lab import SOURCE

HEAVY = ("boto3", "asyncio", "logging", "typing", "dataclasses", "http.client", "tarfile", "urllib.request", "inspect")


def test_nothing_heavy_is_loaded_before_the_script_runs() -> None:
    code = "import sys, clary_toolkit.training.launcher\nprint(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in HEAVY if name in printed] == []
