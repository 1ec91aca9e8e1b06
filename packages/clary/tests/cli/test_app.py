from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Clary


COMMANDS = ("up", "down", "status", "run", "env", "configure", "doctor", "jobs", "logs", "stop", "images", "quickstart")


def test_help_names_every_command(clary: Clary) -> None:
    said = clary("--help").stdout
    assert [command for command in COMMANDS if f"\n  {command} " not in said] == []


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['clary', '--help']\n"
        "try:\n    import clary.cli; clary.cli.main()\nexcept SystemExit: pass\n"
        "print(sorted({'pydantic', 'botocore', 'sqlalchemy', 'uvicorn', 'psutil'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_option_is_a_sentence_with_exit_code_2(clary: Clary) -> None:
    done = clary("status", "--nonsense")
    assert done.returncode == 2
    assert "No such option" in done.stderr
    assert "Traceback" not in done.stderr


def test_completion_can_be_shown_for_bash(clary: Clary) -> None:
    done = clary("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "complete" in done.stdout, done.stderr


def test_a_fault_of_ours_is_recorded_and_not_thrown_at_the_user(clary: Clary) -> None:
    program = (
        "import sys; sys.argv = ['clary', 'status']\n"
        "import clary.cli.server_process as server_process\n"
        "def broken(home): raise RuntimeError('made to fail')\n"
        "server_process.find = broken\n"
        "import clary.cli; clary.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "made to fail" in done.stderr
    assert "Traceback" not in done.stderr
    assert "clary-fault-" in done.stderr
