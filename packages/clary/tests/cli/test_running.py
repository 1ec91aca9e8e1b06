from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Clary


PRINT = "import os, json; print(json.dumps(dict(os.environ)))"


def variables_of_a_child(served: Clary, **own: str) -> dict[str, str]:
    done = served("run", "--", sys.executable, "-c", PRINT, **own)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_command_gets_the_servers_address_and_keys(served: Clary, served_home: Path) -> None:
    seen = variables_of_a_child(served)
    keys = json.loads((served_home / "credentials.json").read_text())
    assert seen["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    assert (seen["AWS_ACCESS_KEY_ID"], seen["AWS_SECRET_ACCESS_KEY"]) == (keys["access_key"], keys["secret_key"])
    assert seen["AWS_DEFAULT_REGION"] == seen["AWS_REGION"] == "us-east-1"
    defaults = json.loads(Path(seen["SAGEMAKER_USER_CONFIG_OVERRIDE"]).read_text())
    assert defaults["SageMaker"]["PythonSDK"]["Modules"]["TelemetryOptOut"] is True


def test_what_would_lead_elsewhere_is_removed_and_the_rest_is_kept(served: Clary) -> None:
    seen = variables_of_a_child(
        served,
        AWS_PROFILE="work",
        AWS_SESSION_TOKEN="old",
        AWS_ENDPOINT_URL_S3="https://example.com",
        PYTHONPATH="/my/modules",
        NO_PROXY="internal.example",
        MINE="kept",
    )
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"} & set(seen)
    assert seen["PYTHONPATH"].split(os.pathsep)[1:] == ["/my/modules"]
    assert seen["NO_PROXY"] == "127.0.0.1,internal.example"
    assert seen["MINE"] == "kept"


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_the_exit_code_is_the_commands_own(served: Clary, code: int) -> None:
    assert served("run", "--", sys.executable, "-c", f"raise SystemExit({code})").returncode == code


def test_options_after_the_command_are_the_commands(served: Clary) -> None:
    done = served("run", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--home", "x", "--help")
    assert done.stdout.strip() == "['--home', 'x', '--help']"


def test_a_missing_command_is_127_as_in_a_shell(served: Clary) -> None:
    done = served("run", "--", "no-such-program")
    assert done.returncode == 127
    assert "no-such-program" in done.stderr


def test_signals_reach_the_command(
    served: Clary, served_home: Path, plain_environment: Callable[..., dict[str, str]]
) -> None:
    program = (
        "import signal, sys, time\n"
        "def leave(number, frame): print('got', number, flush=True); sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "clary.cli", "run", "--", sys.executable, "-c", program],
        env=plain_environment(served_home),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=20)
    assert (said, process.returncode) == (f"got {int(signal.SIGTERM)}\n", 9)


def test_a_command_killed_by_a_signal_ends_as_a_shell_would_say(served: Clary) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert served("run", "--", sys.executable, "-c", program).returncode == 128 + 9


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "export AWS_REGION=us-east-1"),
        ("fish", "set -gx AWS_REGION 'us-east-1';"),
        ("tcsh", "setenv AWS_REGION us-east-1;"),
        ("pwsh", "$Env:AWS_REGION = 'us-east-1'"),
    ],
)
def test_env_speaks_each_shell(served: Clary, shell: str, line: str) -> None:
    assert line in served("env", "--shell", shell).stdout.splitlines()


def test_env_can_be_undone(served_home: Path, plain_environment: Callable[..., dict[str, str]], served: Clary) -> None:
    script = 'eval "$({0} env)"; eval "$({0} env --unset)"; echo "<$AWS_ENDPOINT_URL$AWS_ACCESS_KEY_ID>"'
    done = subprocess.run(
        ["bash", "-c", script.format(f"{sys.executable} -m clary.cli")],
        env=plain_environment(served_home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "<>"


def test_env_without_a_server_says_how_to_start_one(clary: Clary) -> None:
    done = clary("env")
    assert (done.returncode, done.stdout) == (3, "")
    assert "clary up" in done.stderr


def test_an_unknown_shell_is_refused(served: Clary) -> None:
    done = served("env", "--shell", "ksh93")
    assert done.returncode == 2
    assert "ksh93" in done.stderr
