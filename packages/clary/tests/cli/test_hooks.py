"""The hooks as a child process has them, with stand-ins for the SDKs' modules: the real SDKs are tested end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clary.cli.environment import HOOKS
from clary.images.interpreters import find

STS = "https://sts.us-east-1.amazonaws.com"


def run_python(program: str, *folders: Path, python: str = sys.executable, **variables: str) -> str:
    path = os.pathsep.join(map(str, (HOOKS, *folders)))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": path,
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        **variables,
    }
    done = subprocess.run([python, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def sdk(tmp_path: Path) -> Path:
    """A package `sagemaker` whose session module polls as the SDK's does."""
    package = tmp_path / "sagemaker"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "session.py").write_text(
        "import time\n"
        "def describes(polls):\n"
        "    seen, last = [], time.time()\n"
        "    for number in range(polls):\n"
        "        time.sleep(10)\n"
        "        if time.time() - last >= 30:\n"
        "            seen.append(number)\n"
        "            last = time.time()\n"
        "    return seen\n"
        "def times_out(seconds):\n"
        "    deadline = time.time() + seconds\n"
        "    time.sleep(10)\n"
        "    return time.time() > deadline\n"
    )
    return tmp_path


CLIENT = (
    "import botocore.session\n"
    "client = botocore.session.Session().create_client({service!r}, 'us-east-1', endpoint_url={endpoint!r})\n"
    "print(client.meta.endpoint_url)"
)


@pytest.mark.parametrize(
    ("service", "given", "expected"),
    [
        ("sts", STS, "http://127.0.0.1:9"),
        ("sts", "https://sts.cn-north-1.amazonaws.com.cn", "http://127.0.0.1:9"),
        ("sts", None, "http://127.0.0.1:9"),
        ("sts", "http://my-own-sts:1", "http://my-own-sts:1"),
        ("sts", "https://sts.amazonaws.com.example.org", "https://sts.amazonaws.com.example.org"),
        ("s3", "https://s3.us-east-1.amazonaws.com", "https://s3.us-east-1.amazonaws.com"),
        ("sagemaker", None, "http://127.0.0.1:9"),
    ],
)
def test_only_amazons_own_sts_host_is_replaced(service: str, given: str | None, expected: str) -> None:
    assert run_python(CLIENT.format(service=service, endpoint=given)).strip() == expected


def test_an_sdk_that_describes_each_thirty_seconds_describes_at_every_look(sdk: Path) -> None:
    program = (
        "import time; began = time.monotonic(); import sagemaker.session as s\n"
        "print(s.describes(4)); print(time.monotonic() - began < 3)"
    )
    assert run_python(program, sdk).split("\n")[:2] == ["[0, 1, 2, 3]", "True"]


def test_a_timeout_that_the_user_gave_counts_real_seconds(sdk: Path) -> None:
    assert (
        run_python("import sagemaker.session as s; print(s.times_out(5), s.times_out(0))", sdk).strip() == "False True"
    )


def test_the_users_own_time_is_untouched(sdk: Path) -> None:
    program = (
        "import time; import sagemaker.session as s\n"
        "print(time.sleep is s.time.sleep, s.time.strftime is time.strftime)"
    )
    assert run_python(program, sdk).strip() == "False True"


def test_the_sdks_waits_stay_when_asked(sdk: Path) -> None:
    program = "import time; import sagemaker.session as s; print(s.time is time)"
    assert run_python(program, sdk, CLARY_SDK_POLLING="1").strip() == "True"


def test_another_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.marked = __file__\n")
    assert run_python("print(marked)", tmp_path).strip() == str(tmp_path / "sitecustomize.py")


def test_a_fault_in_the_hooks_does_not_stop_the_script(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise RuntimeError('someone else is broken')\n")
    said = run_python("print('the script ran')", tmp_path)
    assert "the script ran" in said
    assert "someone else is broken" in said


def test_a_python_that_uses_no_sdk_loads_none() -> None:
    assert run_python("import sys; print('botocore' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("version", ["3.7", "3.8", "3.10", "3.13"])
def test_the_hooks_work_in_every_python(sdk: Path, version: str) -> None:
    python = find(version)
    if python is None:
        pytest.skip(f"Python {version} is not here")
    said = run_python("import sagemaker.session as s; print(s.describes(2))", sdk, python=str(python))
    assert said.strip() == "[0, 1]"


@pytest.mark.parametrize("named", ["Session(profile='work')", "Session(None, None, True, 'nowhere')", "Session()"])
def test_a_profile_that_a_script_names_is_a_name_only(named: str, tmp_path: Path) -> None:
    credentials, config = tmp_path / "credentials", tmp_path / "config"
    credentials.write_text("[work]\naws_access_key_id = REAL\naws_secret_access_key = real\n")
    config.write_text("[profile work]\nregion = eu-west-1\nendpoint_url = https://example.com\n")
    said = run_python(
        f"import botocore.session\nsession = botocore.session.{named}\n"
        "if session.profile is None: session.set_config_variable('profile', 'later')\n"
        "client = session.create_client('sagemaker')\n"
        "print(session.profile, session.get_credentials().access_key)\n"
        "print(client.meta.region_name, client.meta.endpoint_url)",
        AWS_SHARED_CREDENTIALS_FILE=str(credentials),
        AWS_CONFIG_FILE=str(config),
        AWS_ACCESS_KEY_ID="OURS",
        AWS_SECRET_ACCESS_KEY="ours",
        AWS_DEFAULT_REGION="us-east-1",
    )
    name = next((word for word in ("work", "nowhere") if word in named), "later")
    assert said.split() == [name, "OURS", "us-east-1", "http://127.0.0.1:9"]
