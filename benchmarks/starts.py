"""What small things cost that happen often: the launcher, `clary --help`, a look at migrations, a log line.

Processor time where nothing is waited for: other work on the machine is not in it.

Run: make bench NAME=starts
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Measurement, report

RUNS = 9
TOOLKIT = Path(__file__).parents[1] / "packages" / "clary-toolkit" / "src"


def processor_seconds(command: list[str], folder: Path, environ: dict[str, str]) -> float:
    """Seconds of processor time that a command and all it ran took."""
    process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} exited with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def launcher_seconds(folder: Path) -> float:
    """What the launcher adds to a script, beside the same script alone."""
    config = folder / "ml" / "input" / "config"
    config.mkdir(parents=True)
    code = folder / "ml" / "code"
    code.mkdir()
    (code / "train.py").write_text("print('started')\n")
    (config / "hyperparameters.json").write_text(json.dumps({"sagemaker_program": '"train.py"', "epochs": "1"}))
    (config / "inputdataconfig.json").write_text("{}")
    (config / "resourceconfig.json").write_text(
        json.dumps({"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "lo"})
    )
    bare_environ = {"PATH": os.environ["PATH"]}
    cache = str(folder / "bytecode")
    environ = {
        **bare_environ, "PYTHONPATH": str(TOOLKIT), "PYTHONPYCACHEPREFIX": cache,
        "SAGEMAKER_BASE_DIR": str(folder / "ml"),
    }  # fmt: skip
    program = "from clary_toolkit.training.launcher import main\nraise SystemExit(main())"
    launcher, bare = [sys.executable, "-S", "-c", program], [sys.executable, "-S", "train.py"]
    processor_seconds(launcher, folder, environ)
    return statistics.median(
        processor_seconds(launcher, folder, environ) - processor_seconds(bare, code, bare_environ) for _ in range(RUNS)
    )


def help_seconds(folder: Path) -> float:
    command = [sys.executable, "-m", "clary.cli", "--help"]
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    processor_seconds(command, folder, environ)
    return statistics.median(processor_seconds(command, folder, environ) for _ in range(RUNS))


def migration_seconds(folder: Path) -> float:
    """`upgrade` on a database that needs nothing, in a process that has it imported."""
    from clary.state.migrate import upgrade

    url = f"sqlite:///{folder / 'clary.db'}"
    upgrade(url)
    took: list[float] = []
    for _ in range(RUNS):
        began = time.perf_counter()
        upgrade(url)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def lines_per_second(folder: Path) -> float:
    """Log lines that one stream takes, in batches of 5,000."""
    from clary.state.database import Database
    from clary.state.logs import append_in_order
    from clary.state.migrate import upgrade

    url = f"sqlite:///{folder / 'lines.db'}"
    upgrade(url)
    database = Database(url)
    lines = [(1_700_000_000_000 + number, f"epoch 1 step {number} loss 0.1234") for number in range(5000)]
    rates: list[float] = []
    for _ in range(RUNS):
        began = time.perf_counter()
        with database.transaction() as session:
            append_in_order(session, "/aws/sagemaker/TrainingJobs", "job/algo-1-1", lines)
        rates.append(len(lines) / (time.perf_counter() - began))
    database.close()
    return statistics.median(rates)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        launcher, help_, migration = launcher_seconds(folder), help_seconds(folder), migration_seconds(folder)
        lines = lines_per_second(folder)
    report(
        "starts",
        [
            Measurement("launcher before a script, processor time", launcher, "s", bar=0.06, ok=launcher <= 0.06),
            Measurement("clary --help, processor time", help_, "s", bar=0.3, ok=help_ <= 0.3),
            Measurement("migrations of a current database", migration, "s", bar=0.15, ok=migration <= 0.15),
            Measurement("log lines recorded in one stream", lines, "lines/s", bar=20_000, ok=lines >= 20_000),
        ],
    )


if __name__ == "__main__":
    main()
