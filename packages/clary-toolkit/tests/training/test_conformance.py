"""On the same /opt/ml trees, what a script sees under Clary's launcher equals what it sees under AWS's own.

AWS's `sagemaker-training` and `sagemaker-tensorflow-training` are installed from PyPI into a cached environment. Both
launchers run there, in the same interpreter, on the same tree at the same path; `scripts/probe.py` writes down what it
sees. Every difference that is allowed stands in `DIFFERENCES`, with its reason, and each of them must be met: a row
that no tree shows fails the test. `docs/reference/training-contract.md` carries the table.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from conformance_cases import Case, cases
from conformance_differences import DIFFERENCES, allowed
from moto.server import ThreadedMotoServer

from toolkit_lab import SOURCE, Ended, cached_environment, run_launcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The first of them may have to fetch an environment.
pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1200)]

AWS_PACKAGES = ("sagemaker-training==5.1.4", "sagemaker-tensorflow-training==20.5.0")
# What those two import, and what builds the test's package. They are installed without their own pins, which have no
# wheels for a current Python.
AWS_IMPORTS = (
    *("boto3", "gevent", "inotify_simple", "numpy", "paramiko", "pip", "protobuf", "psutil", "retrying", "scipy"),
    *("setuptools", "six", "werkzeug", "wheel"),
)


CASES = cases()


@pytest.fixture(scope="module")
def environment() -> Path:
    """An environment with AWS's launcher (`bin/train`) and Clary's (`bin/clary-train`); kept for the next run."""
    folder = cached_environment("aws-toolkit", [["--no-deps", *AWS_PACKAGES], [*AWS_IMPORTS]])
    site = next((folder / "lib").glob("python3.*")) / "site-packages"
    # AWS's container module imports TensorFlow, which it uses for parameter servers alone; none of the trees has any.
    (site / "tensorflow.py").write_text("")
    (site / "_clary_source.pth").write_text(f"{SOURCE}\n")
    script = folder / "bin" / "clary-train"
    script.write_text(
        f"#!{folder}/bin/python\nimport sys\nfrom clary_toolkit.training.launcher import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    script.chmod(0o755)
    return folder


@dataclass
class Laboratory:
    """Runs one case under both launchers, at the same path."""

    environment: Path
    base: Path
    s3: str

    def run(self, case: Case) -> tuple[Ended, Ended]:
        python = str(self.environment / "bin" / "python")
        code = {
            name: text.replace("{python}", python) if isinstance(text, str) else text
            for name, text in case.tree.code.items()
        }
        tree = replace(case.tree, code=code)
        variables = {
            "SM_STUDIO_LOCAL_MODE": "true",  # algo-1 has no address here; AWS's would wait for one
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "false",  # pip's way to say: without isolation
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **case.variables,
        }
        if case.objects:
            variables.update(self.store(case.objects))
        ended: list[Ended] = []
        for launcher in ("train", "clary-train"):
            tree.lay_out(self.base)
            ended.append(run_launcher([str(self.environment / "bin" / launcher)], self.base, variables))
        return ended[0], ended[1]

    def store(self, objects: Mapping[str, bytes]) -> dict[str, str]:
        """Put the objects into the bucket `code`; the variables by which a launcher reads them."""
        keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret/key+"}
        client = boto3.client("s3", endpoint_url=self.s3, region_name="us-east-1", **keys)
        client.create_bucket(Bucket="code")
        for key, content in objects.items():
            client.put_object(Bucket="code", Key=key, Body=content)
        variables = {key.upper(): value for key, value in keys.items()}
        return {**variables, "AWS_REGION": "us-east-1", "S3_ENDPOINT_URL": self.s3}


@pytest.fixture(scope="module")
def laboratory(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    store = ThreadedMotoServer(port=0)
    store.start()
    host, port = store.get_host_and_port()
    yield Laboratory(environment, tmp_path_factory.mktemp("job") / "ml", f"http://{host}:{port}")
    store.stop()


@pytest.fixture(scope="module")
def met() -> Iterator[set[str]]:
    """The subjects of the differences that the trees have shown so far."""
    return set()


def differences_of(aws: Ended, clary: Ended) -> list[str]:
    """Every difference of two ends, one line each: `where: AWS's → Clary's`, values in JSON."""
    with_parts = all(_FAILURE.fullmatch(ended.failure or "") for ended in (aws, clary))
    left, right = flat(aws, with_parts), flat(clary, with_parts)
    return [
        f"{where}: {json.dumps(left.get(where), ensure_ascii=False)} → "
        f"{json.dumps(right.get(where), ensure_ascii=False)}"
        for where in sorted({*left, *right})
        if left.get(where) != right.get(where)
    ]


_FAILURE = re.compile(
    r'(\w+):\nExitCode (-?\d+)\nErrorMessage "(.*?)"\n(?:ExtraInfo "(.*?)"\n)?Command "(.*)"', re.DOTALL
)


def flat(ended: Ended, with_parts: bool) -> dict[str, object]:
    found: dict[str, object] = {
        "exit_code": ended.exit_code,
        "succeeded": ended.succeeded,
        "seen": ended.probe is not None,
    }
    parts = _FAILURE.fullmatch(ended.failure or "")
    if parts is None or not with_parts:
        found["failure"] = ended.failure
    else:
        names = ("name", "ExitCode", "ErrorMessage", "ExtraInfo", "Command")
        found.update({f"failure.{name}": value for name, value in zip(names, parts.groups(), strict=True)})
    for key, value in (ended.probe or {}).items():
        if isinstance(value, dict):
            found.update({f"{key}.{name}": item for name, item in value.items()})
        else:
            found[key] = value
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_script_sees_what_it_sees_under_awss_toolkit(name: str, laboratory: Laboratory, met: set[str]) -> None:
    case = CASES[name]
    aws, clary = laboratory.run(case)
    assert (aws.probe is not None) is case.sees, aws.output
    unexplained: list[str] = []
    for line in differences_of(aws, clary):
        rows = allowed(name, line)
        met.update(rows)
        if not rows:
            unexplained.append(line)
    assert not unexplained, "\n".join([*unexplained, clary.output])


def test_the_environment_that_scripts_import_is_awss(laboratory: Laboratory) -> None:
    tree = CASES["the SDK's own hyperparameters"].tree
    base = replace(tree, channels={"train": {"TrainingInputMode": "File"}}).lay_out(laboratory.base)
    code = (
        "import json\nfrom sagemaker_training import environment\nenv = environment.Environment()\n"
        "print(json.dumps([dict(env), env.to_cmd_args(), env.to_env_vars(), env.sagemaker_s3_output(), len(env)]))"
    )
    printed = [
        subprocess.run(
            [str(laboratory.environment / "bin" / "python"), "-c", code],
            env={"PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(base), "TRAINING_JOB_NAME": "x", **variables},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
        for variables in ({}, {"PYTHONPATH": f"{SOURCE}/clary_toolkit/compat:{SOURCE}"})
    ]
    assert json.loads(printed[0]) == json.loads(printed[1])


def test_every_difference_of_the_table_was_met(met: set[str]) -> None:
    here = Path(__file__).parent
    if len(met) == 0:
        pytest.skip("the trees were not run in this session")
    assert [row.subject for row in DIFFERENCES if row.pattern and row.subject not in met] == []
    assert [row.subject for row in DIFFERENCES if row.shown_by and not (here / row.shown_by).exists()] == []
