"""Inside jobs, Python's start arranges for the SageMaker SDKs' STS calls to reach this machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toolkit_lab import SOURCE, find_python

MODULE = SOURCE / "clary_toolkit" / "sts_redirect.py"
PATH_FILE = SOURCE / "clary_toolkit" / "clary_toolkit_hooks.pth"
HOOK = PATH_FILE.read_text().splitlines()[0]
JOB = {"TRAINING_JOB_NAME": "job-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:7700"}
KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "eu-west-1"}
ASK = (
    "import boto3\n"
    "def url(**kwargs): return boto3.client('sts', **kwargs).meta.endpoint_url\n"
    "print(url(endpoint_url='https://sts.eu-west-1.amazonaws.com'))\n"
    "print(url())\n"
    "print(url(endpoint_url='https://sts.example.com'))\n"
    "print(boto3.client('s3', endpoint_url='https://sts.eu-west-1.amazonaws.com').meta.endpoint_url)\n"
)


def printed_by(code: str, environ: dict[str, str], python: str = sys.executable) -> list[str]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), **environ}
    return subprocess.run([python, "-c", code], env=environ, capture_output=True, text=True, check=True).stdout.split()


def test_amazons_sts_host_gives_way_to_this_machine_and_other_addresses_stay() -> None:
    ours, amazons = JOB["AWS_ENDPOINT_URL"], "https://sts.eu-west-1.amazonaws.com"
    assert printed_by(HOOK + "\n" + ASK, {**JOB, **KEYS}) == [ours, ours, "https://sts.example.com", amazons]


@pytest.mark.parametrize(
    ("has_tensorflow_io", "endpoint", "expected"),
    [
        (True, "127.0.0.1:7700", "http://127.0.0.1:7700"),
        (True, "http://127.0.0.1:7700", "http://127.0.0.1:7700"),
        (False, "127.0.0.1:7700", "127.0.0.1:7700"),
    ],
)
def test_tensorflow_ios_file_system_is_told_the_scheme(
    tmp_path: Path, has_tensorflow_io: bool, endpoint: str, expected: str
) -> None:
    if has_tensorflow_io:
        (tmp_path / "tensorflow_io").mkdir()
    environ = {**JOB, "S3_USE_HTTPS": "0", "S3_ENDPOINT": endpoint, "PYTHONPATH": f"{SOURCE}:{tmp_path}"}
    code = HOOK + "\nimport subprocess\nprint(subprocess.check_output(['printenv', 'S3_ENDPOINT']).decode())"
    assert printed_by(code, environ) == [expected]


def test_outside_a_job_nothing_changes() -> None:
    amazons = "https://sts.eu-west-1.amazonaws.com"
    assert printed_by(HOOK + "\n" + ASK, KEYS)[:2] == [amazons, amazons]
    code = HOOK + "\nimport sys\nprint('clary_toolkit.sts_redirect' in sys.modules)"
    assert printed_by(code, {"AWS_ENDPOINT_URL": "http://x"}) == ["False"]


def test_the_redirect_stands_alone_by_its_path() -> None:
    code = (
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('redirect', {str(MODULE)!r})\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "import botocore.session\nmodule.install()\nmodule.install()\n"
    )
    assert printed_by(code + ASK, {**JOB, **KEYS, "PYTHONPATH": ""})[0] == JOB["AWS_ENDPOINT_URL"]


def test_a_botocore_that_does_not_know_the_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("redirect", MODULE)
    assert spec is not None
    assert spec.loader is not None
    redirect = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(redirect)
    environ = {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": "http://runtime"}
    import botocore

    assert redirect.endpoint_for("sagemaker", None, environ) is None
    monkeypatch.setattr(botocore, "__version__", "1.30.9")
    assert redirect.endpoint_for("sagemaker", None, environ) == "http://all"
    assert redirect.endpoint_for("sagemaker-runtime", None, environ) == "http://runtime"
    assert redirect.endpoint_for("s3", "http://mine", environ) == "http://mine"


def test_the_hook_loads_on_every_python(each_python: str) -> None:
    assert printed_by(HOOK + "\nimport json\nprint('fine')", JOB, each_python) == ["fine"]


@pytest.mark.parametrize("version", ["3.7", "3.13"])
def test_the_hook_costs_less_than_a_millisecond(version: str, tmp_path: Path) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"Python {version} is not installed (pyenv install {version})")
    subprocess.run([python, "-m", "compileall", "-q", str(SOURCE)], check=True)
    code = f"import time\nbegan = time.perf_counter()\n{HOOK}\nprint(time.perf_counter() - began)"
    fastest, deadline = 1.0, time.monotonic() + 20
    while fastest >= 0.001 and time.monotonic() < deadline:
        fastest = min(fastest, float(printed_by(code, JOB, python)[0]))
    assert fastest < 0.001


@pytest.mark.parametrize(
    ("environ", "then"),
    [({**JOB, "S3_USE_HTTPS": "0"}, "0"), ({**JOB, "S3_USE_HTTPS": "1"}, "1"), ({"S3_USE_HTTPS": "0"}, "1")],
)
def test_a_script_that_asks_for_https_stays_with_a_store_on_http(
    each_python: str, environ: dict[str, str], then: str
) -> None:
    script = (
        "import os, subprocess\n"
        "os.environ['S3_USE_HTTPS'] = '1'\n"
        "os.environ['S3_REGION'] = 'us-west-2'\n"
        "os.environ.update({'MINE': '1'})\n"
        "print(os.environ['S3_USE_HTTPS'], os.environ['S3_REGION'], os.environ['MINE'])\n"
        "print(subprocess.check_output(['printenv', 'S3_USE_HTTPS']).decode())\n"
    )
    assert printed_by(HOOK + "\n" + script, environ, each_python) == [then, "us-west-2", "1", then]
