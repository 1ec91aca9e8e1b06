"""What the tests of clary-parallel are made of: an environment with TensorFlow and MPI, programs run in it as ranks.

The workspace's own environment has no TensorFlow. One with the exact versions of requirements.txt is built once by uv
and kept in CLARY_TEST_PARALLEL_HOME (~/.cache/clary-test-parallel), in a folder named by the file's hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uv import find_uv_bin

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src"
COMPAT = SOURCE / "clary_parallel" / "compat"
REQUIREMENTS = TESTS / "requirements.txt"
HOME = Path(os.environ.get("CLARY_TEST_PARALLEL_HOME", "~/.cache/clary-test-parallel")).expanduser()


@dataclass(frozen=True)
class Ended:
    """How a program of ranks ended. `reports` holds what each rank wrote with `report`, by rank."""

    code: int
    output: str
    errors: str
    reports: dict[int, Any]


def environment(requirements: Path = REQUIREMENTS) -> Path:
    """The folder of the environment, built when it is not there: two builders at once wait for one another."""
    target = HOME / hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "ready").exists():
            shutil.rmtree(target, ignore_errors=True)
            uv = find_uv_bin()
            subprocess.run([uv, "venv", "--quiet", "--python", "3.11", str(target)], check=True)
            install = [
                uv,
                "pip",
                "install",
                "--quiet",
                "--compile-bytecode",
                "--python",
                str(target / "bin" / "python"),
            ]
            subprocess.run([*install, "-r", str(requirements)], check=True)
            (target / "ready").touch()
    return target


def run_ranks(
    program: str | Path,
    ranks: int = 2,
    *arguments: str,
    variables: dict[str, str] | None = None,
    timeout: float = 240,
    options: tuple[str, ...] = (),
) -> Ended:
    """Run a program (its text, or its path) as `ranks` processes under mpirun, with this package's source on the path.

    The program may call `report(value)` of rank_report to hand a value (JSON) back; see `Ended.reports`.
    """
    home = environment()
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        if isinstance(program, str):
            path = Path(folder) / "program.py"
            path.write_text(program)
        else:
            path = program
        command = [str(home / "bin" / "python"), str(path), *arguments]
        if ranks > 1:
            launch = [
                "mpirun",
                "--allow-run-as-root",
                "--oversubscribe",
                "--bind-to",
                "none",
                # Tests run more ranks than there are cores: one that waits lets the others work.
                "--mca",
                "mpi_yield_when_idle",
                "1",
                *options,
                "-n",
                str(ranks),
            ]
            command = [str(home / "bin" / launch[0]), *launch[1:], *command]
        done = subprocess.run(
            command,
            env=rank_environment(home, Path(folder), variables or {}),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        reports = {int(file.stem): json.loads(file.read_text()) for file in (Path(folder) / "reports").glob("*.json")}
    return Ended(done.returncode, done.stdout, done.stderr, reports)


def assert_does_not_fit_alone(program: Path, *arguments: str) -> None:
    """One process of a program that limits its own memory ends without a report.

    With an error, or a signal, by where it is that an allocation fails; some of TensorFlow's threads stand still for
    good.
    """
    try:
        alone = run_ranks(program, 1, *arguments, timeout=60)
    except subprocess.TimeoutExpired:
        return
    assert alone.code != 0
    assert not alone.reports
    told = any(words in alone.errors for words in ("bad_alloc", "OOM", "ResourceExhausted", "MemoryError"))
    assert told or alone.code < 0, alone.errors


def rank_environment(home: Path, folder: Path, variables: dict[str, str]) -> dict[str, str]:
    """The variables that a rank starts with: quiet, one thread, a report folder, the import-compatible modules."""
    (folder / "reports").mkdir(exist_ok=True)
    return {
        "HOME": os.environ.get("HOME", str(folder)),
        "TMPDIR": str(folder) if len(str(folder)) < 60 else "/tmp",
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(COMPAT), str(TESTS / "programs")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RANK_REPORTS": str(folder / "reports"),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "2",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
