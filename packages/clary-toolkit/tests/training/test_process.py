"""The script's output is passed on untouched, its end is reported, SIGTERM reaches it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conformance_cases import PROGRAM

from toolkit_lab import PASSED_ON, SOURCE, Tree

LAUNCHER = [sys.executable, "-m", "clary_toolkit.training.launcher"]


@contextmanager
def launched(tree: Tree, base: Path, **streams: int) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher, running on the tree; ended at the latest when the block is left."""
    tree.lay_out(base)
    environ = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environ.update({"SAGEMAKER_BASE_DIR": str(base), "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"})
    with subprocess.Popen(LAUNCHER, cwd=base.parent, env=environ, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path) -> str:
    """The text of a file, once there is some."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written in time")


QUIET = {**PROGRAM, "sagemaker_container_log_level": "50"}


def test_bytes_pass_unchanged_and_each_output_keeps_to_itself(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "sys.stdout.buffer.write(b'\\xff\\x00 50%\\r100%\\n' + b'x' * 10_000_000)\n"
        "os.write(2, b'\\tspoken\\n\\n')\n"
    )
    with launched(
        Tree({"train.py": script}, QUIET), tmp_path / "ml", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out, err = process.communicate(timeout=60)
    assert out == b"\xff\x00 50%\r100%\n" + b"x" * 10_000_000
    assert err == b"\tspoken\n\n"
    assert process.returncode == 0


def test_the_order_between_outputs_is_kept_where_they_are_one(tmp_path: Path) -> None:
    script = "import os\nfor i in range(2000):\n    os.write(1 + i % 2, b'%d\\n' % i)\n"
    with launched(
        Tree({"train.py": script}, QUIET), tmp_path / "ml", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        out, _ = process.communicate(timeout=60)
    assert out.split() == [b"%d" % number for number in range(2000)]


def test_a_line_is_passed_on_as_soon_as_it_is_written(tmp_path: Path) -> None:
    script = "import sys\nprint('first')\nsys.stdin.readline()\n"
    tree = Tree({"train.py": script}, QUIET)
    with launched(tree, tmp_path / "ml", stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        assert process.poll() is None


def test_sigterm_reaches_the_script_which_may_end_well(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, time\n"
        "def stop(number, frame):\n"
        "    open(os.environ['SM_MODEL_DIR'] + '/saved', 'w').write('checkpoint')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "open(os.environ['SM_OUTPUT_DATA_DIR'] + '/ready', 'w').write('yes')\n"
        "time.sleep(60)\n"
    )
    with launched(Tree({"train.py": script}, QUIET), tmp_path / "ml") as process:
        wait_for(tmp_path / "ml" / "output" / "data" / "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert (tmp_path / "ml" / "model" / "saved").read_text() == "checkpoint"
    assert (tmp_path / "ml" / "output" / "success").exists()


def test_sigterm_reaches_what_a_shell_script_runs(tmp_path: Path) -> None:
    shell = f"#!/bin/sh\n{sys.executable} inner.py\necho $? > $SM_OUTPUT_DATA_DIR/code\n"
    inner = (
        "import os, signal, sys, time\n"
        "def stop(number, frame):\n"
        "    open(os.environ['SM_OUTPUT_DATA_DIR'] + '/told', 'w').write('yes')\n"
        "    sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "open(os.environ['SM_OUTPUT_DATA_DIR'] + '/ready', 'w').write('yes')\n"
        "time.sleep(60)\n"
    )
    tree = Tree({"run.sh": shell, "inner.py": inner}, {**QUIET, "sagemaker_program": "run.sh"})
    with launched(tree, tmp_path / "ml") as process:
        wait_for(tmp_path / "ml" / "output" / "data" / "ready")
        process.send_signal(signal.SIGTERM)
        assert wait_for(tmp_path / "ml" / "output" / "data" / "told") == "yes"
        assert process.wait(timeout=30) == 1


def test_a_script_that_dies_of_sigterm_is_reported_so(tmp_path: Path) -> None:
    script = "import os, time\nopen(os.environ['SM_OUTPUT_DATA_DIR'] + '/ready', 'w').write('yes')\ntime.sleep(60)\n"
    with launched(Tree({"train.py": script}, QUIET), tmp_path / "ml") as process:
        wait_for(tmp_path / "ml" / "output" / "data" / "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 1
    assert 'ExtraInfo "Process killed by SIGTERM (signal 15)"' in (tmp_path / "ml" / "output" / "failure").read_text()


def test_a_job_stopped_during_pip_never_starts_its_script(tmp_path: Path) -> None:
    waiting = "import os, time\nopen('started', 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    tree = Tree(
        {"train.py": "open('ran', 'w')\n", "requirements.txt": "x\n", "pip/__main__.py": waiting},
        PROGRAM,
    )
    base = tmp_path / "ml"
    with launched(tree, base, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(base / "code" / "started")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 1
    assert "while pip was installing" in (base / "output" / "failure").read_text()
    assert not (base / "code" / "ran").exists()


def test_the_job_ends_with_its_script_whatever_it_leaves_behind(tmp_path: Path) -> None:
    script = "import subprocess, sys\nprint('started', flush=True)\nsubprocess.Popen(['sleep', '30'])\n"
    with launched(Tree({"train.py": script}, QUIET), tmp_path / "ml", stdout=subprocess.PIPE) as process:
        assert process.wait(timeout=20) == 0
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"started\n"


def test_a_reader_that_went_away_does_not_stop_the_script(tmp_path: Path) -> None:
    script = "import os\nfor i in range(1000):\n    print('x' * 1000)\nopen('finished', 'w')\n"
    with launched(Tree({"train.py": script}, PROGRAM), tmp_path / "ml", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=30) == 0
    assert (tmp_path / "ml" / "code" / "finished").exists()
