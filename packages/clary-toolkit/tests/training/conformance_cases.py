"""The /opt/ml trees on which both launchers are run, by name."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from toolkit_lab import SCRIPTS, Tree

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBE = (SCRIPTS / "probe.py").read_text()
TENSORFLOW = {"SAGEMAKER_TRAINING_MODULE": "sagemaker_tensorflow_container.training:main"}
PROGRAM = {"sagemaker_program": '"train.py"'}


@dataclass(frozen=True)
class Case:
    """One tree and the variables of the platform that both launchers get."""

    tree: Tree
    variables: Mapping[str, str] = field(default_factory=dict)
    sees: bool = True  # whether under AWS's the script gets as far as to write down what it sees
    objects: Mapping[str, bytes] = field(default_factory=dict)  # in the bucket `code`, by key


def many_hyperparameters(encode: bool) -> dict[str, str]:
    """Hyperparameters of every kind: JSON-encoded as framework estimators send them, or plain."""
    values: dict[str, object] = {
        "epochs": 5,
        "learning-rate": 0.001,
        "tiny": 1e-12,
        "huge": 12345678901234567890123,
        "optimizer": "adam",
        "name with space": 'a "quoted" text with $HOME, `ls`, ; and \\',
        "unicode": "größe ☃ 漢字",
        "ключ": "значение",
        "empty": "",
        "flag": True,
        "off": False,
        "nothing": None,
        "layers": [64, "x", None, 1.5],
        "nested": {"b": {"c": [1, 2]}, "a": "ü"},
        "betas": {"second": 0.999, "first": 0.9},
        "k": 3,
        "X": "one letter",
        "UPPER_lower-MIX.dot": "v",
        "newline": "first\nsecond",
        "number as text": "007",
        "path": "s3://bucket/a b/",
    }
    if encode:
        return {key: json.dumps(value) for key, value in values.items()}
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return {**plain, "half json": '{"a": 1', "nan": "NaN", "inf": "-Infinity", "python": "True", "octal": "010"}


def archive(*members: tuple[str, str | tarfile.TarInfo]) -> bytes:
    """A sourcedir.tar.gz: files by name and text, or whatever else by its own header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = content.encode() if isinstance(content, str) else b""
            if isinstance(content, str):
                info.size, info.mode, info.mtime = len(data), 0o664, 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def header(name: str, kind: bytes, link: str = "") -> tuple[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755 if kind == tarfile.DIRTYPE else 0o644
    return name, info


def archives() -> dict[str, Case]:
    """Code that comes as an archive, good and bad, from S3 and from a channel."""
    good = archive(
        ("train.py", PROBE),
        header("lib", tarfile.DIRTYPE),
        ("lib/tools.py", "x = 1\n"),
        ("größe.txt", "ü"),
        header("link.py", tarfile.SYMTYPE, "lib/tools.py"),
        header("hard.py", tarfile.LNKTYPE, "lib/tools.py"),
    )
    local = "input/data/code/sourcedir.tar.gz"

    def of(content: bytes) -> Case:
        return Case(Tree({}, {**PROGRAM, "sagemaker_submit_directory": "{base}/" + local}, files={local: content}))

    key = "job 1/source/ü+sourcedir.tar.gz"
    return {
        "code in a channel": of(good),
        "code in S3": Case(
            Tree({}, {**PROGRAM, "sagemaker_submit_directory": json.dumps(f"s3://code/{key}")}),
            TENSORFLOW,
            objects={key: good},
        ),
        "code in a folder": Case(
            Tree(
                {},
                {**PROGRAM, "sagemaker_submit_directory": "{base}/input/data/code"},
                files={"input/data/code/train.py": PROBE, "input/data/code/a/b.txt": "x"},
            )
        ),
        "code is there already": Case(
            Tree({"train.py": PROBE}, {**PROGRAM, "sagemaker_submit_directory": "s3://code/never-asked-for"})
        ),
        "bad archive: parent": of(archive(("train.py", PROBE), ("../outside.txt", "x"))),
        "bad archive: absolute": of(archive(("train.py", PROBE), ("/tmp/outside.txt", "x"))),
        "bad archive: link": of(archive(("train.py", PROBE), header("out", tarfile.SYMTYPE, "../../etc/passwd"))),
        "bad archive: hard link": of(archive(("train.py", PROBE), header("out", tarfile.LNKTYPE, "/etc/passwd"))),
        "bad archive: device": of(archive(("train.py", PROBE), header("null", tarfile.CHRTYPE))),
        "bad archive: FIFO": of(archive(("train.py", PROBE), header("pipe", tarfile.FIFOTYPE))),
        "no archive at all": replace(of(b"not a tar file, but a file"), sees=False),
        "no such object": Case(
            Tree({}, {**PROGRAM, "sagemaker_submit_directory": "s3://code/nothing/here.tar.gz"}),
            sees=False,
            objects={"other": b""},
        ),
        "no such folder": Case(Tree({}, {**PROGRAM, "sagemaker_submit_directory": "/nowhere/at/all"}), sees=False),
    }


def config_of_hosts(current: str, groups: Mapping[str, tuple[str, ...]]) -> dict[str, object]:
    hosts = sorted(host for members in groups.values() for host in members)
    return {
        "current_host": current,
        "current_instance_type": "ml.p3.2xlarge",
        "current_group_name": next(name for name, members in groups.items() if current in members),
        "hosts": hosts,
        "instance_groups": [
            {"instance_group_name": name, "instance_type": "ml.p3.2xlarge", "hosts": list(members)}
            for name, members in groups.items()
        ],
        "network_interface_name": "eth1",
        "topology": None,
    }


SETUP = "from setuptools import setup\nsetup(name='probed', version='1.0', py_modules=['train', 'extra'])\n"
SHELL = '#!/bin/sh\necho "$@"\nexec {python} probe.py "$@"\n'
VENDORED = {
    "vendor/setup.py": "from setuptools import setup\nsetup(name='vendored', version='1.0', py_modules=['vendored'])\n",
    "vendor/vendored.py": "ANSWER = 42\n",
}
FILE_CHANNEL = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}


def cases() -> dict[str, Case]:
    """The trees. `{python}` in code stands for the interpreter of the environment."""
    program = Tree({"train.py": PROBE}, PROGRAM)

    def broken(source: str) -> Case:
        return Case(Tree({"train.py": source}, {**PROGRAM, "epochs": "1"}), TENSORFLOW, sees=False)

    found = {
        "a program": Case(program),
        "a program in a TensorFlow image": Case(program, TENSORFLOW),
        "a program in a folder": Case(Tree({"src/a-b/run.py": PROBE}, {"sagemaker_program": "src/a-b/run.py"})),
        "the program named by a variable": Case(Tree({"run.py": PROBE}), {"SAGEMAKER_PROGRAM": "run.py"}),
        "hyperparameters in JSON": Case(replace(program, hyperparameters={**PROGRAM, **many_hyperparameters(True)})),
        "plain hyperparameters": Case(
            replace(program, hyperparameters={"sagemaker_program": "train.py", **many_hyperparameters(False)})
        ),
        "the SDK's own hyperparameters": Case(
            replace(
                program,
                hyperparameters={
                    **PROGRAM,
                    "sagemaker_job_name": '"tf-2026-01-01"',
                    "sagemaker_region": '"eu-central-1"',
                    "sagemaker_container_log_level": "10",
                    "sagemaker_enable_cloudwatch_metrics": "false",
                    "sagemaker_estimator_class_name": '"TensorFlow"',
                    "sagemaker_estimator_module": '"sagemaker.tensorflow.estimator"',
                    "sagemaker_mpi_enabled": "false",
                    "default_user_module_name": '"x"',
                    "model_dir": '"s3://bucket/prefix/model"',
                },
            ),
            {"TRAINING_JOB_NAME": "tf-2026-01-01", "MY_VARIABLE": "kept", "AWS_DEFAULT_REGION": "us-west-2"},
        ),
        "a tuning job": Case(
            replace(
                program,
                hyperparameters={
                    **PROGRAM,
                    "_tuning_objective_metric": '"loss"',
                    "model_dir": '"/opt/ml/model"',
                },
            ),
            {**TENSORFLOW, "TRAINING_JOB_NAME": "tune-001"},
        ),
        "a tuning job without model_dir": Case(
            replace(program, hyperparameters={**PROGRAM, "_tuning_objective_metric": "loss"}),
            {**TENSORFLOW, "TRAINING_JOB_NAME": "tune-001"},
        ),
        "channels": Case(
            replace(
                program,
                channels={
                    "train": {**FILE_CHANNEL, "ContentType": "text/csv"},
                    "validation-1.x": FILE_CHANNEL,
                    "A": {**FILE_CHANNEL, "TrainingInputMode": "Pipe"},
                },
            )
        ),
        "several hosts": Case(
            replace(
                program,
                resource_config=config_of_hosts("algo-2", {"homogeneousCluster": ("algo-1", "algo-2", "algo-3")}),
            ),
            TENSORFLOW,
        ),
        "instance groups": Case(
            replace(
                program,
                resource_config=config_of_hosts("algo-3", {"data": ("algo-1",), "train": ("algo-2", "algo-3")}),
            )
        ),
        "a bare resource config": Case(
            replace(program, resource_config={"current_host": "algo-1", "hosts": ["algo-1"]}), TENSORFLOW
        ),
        "a package": Case(
            Tree(
                {"setup.py": SETUP, "train.py": PROBE, "extra.py": "", "sub/data.txt": "x"},
                {**PROGRAM, "a": "1", "bc": "[1]"},
            )
        ),
        "a package with requirements": Case(
            Tree(
                {"setup.py": SETUP, "train.py": PROBE, "extra.py": "", "requirements.txt": "./vendor\n", **VENDORED},
                PROGRAM,
            )
        ),
        "a program with requirements": Case(
            Tree({"train.py": "import vendored\n" + PROBE, "requirements.txt": "./vendor\n", **VENDORED}, PROGRAM),
            TENSORFLOW,
        ),
        "a shell script": Case(
            Tree(
                {"run.sh": SHELL, "probe.py": PROBE, "requirements.txt": "no-such-package-anywhere\n"},
                {"sagemaker_program": "run.sh", **many_hyperparameters(True)},
            )
        ),
        "another executable": Case(
            Tree(
                {"bin/run": SHELL.replace("probe.py", "bin/probe.py"), "bin/probe.py": PROBE},
                {"sagemaker_program": "bin/run", "a": "1"},
            )
        ),
        "an endpoint for S3": Case(program, {**TENSORFLOW, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
        "raises": broken("def work():\n    raise ValueError('it broke')\n\nwork()\n"),
        "raises in a plain image": replace(broken("raise KeyError('a')\n"), variables={}),
        "raises with cause": broken("try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise OSError('bad') from e\n"),
        "exits with a text": broken("import sys\nsys.exit('there is no data')\n"),
        "exits with a code": broken("import sys\nsys.exit(3)\n"),
        "is killed": broken("import os\nos.kill(os.getpid(), 9)\n"),
        "has a syntax error": broken("def work(:\n    pass\n"),
        "imports what is not there": broken("import nothing_like_this\n"),
        "exits as a killed shell": Case(
            Tree({"run.sh": "exit 137\n"}, {"sagemaker_program": "run.sh"}), TENSORFLOW, sees=False
        ),
        "writes its own failure": broken(
            "import os\n"
            "open(os.environ['SM_OUTPUT_DIR'] + '/failure', 'w').write('my own words')\n"
            "raise RuntimeError('other words')\n"
        ),
        "requirements that cannot be": Case(
            Tree({"train.py": PROBE, "requirements.txt": "./not-there\n"}, PROGRAM), sees=False
        ),
        "no such program": Case(Tree({"other.py": PROBE}, PROGRAM), sees=False),
        "no such shell script": Case(Tree({"other.py": PROBE}, {"sagemaker_program": "run.sh"}), sees=False),
        "no program at all": Case(Tree({"train.py": PROBE}), sees=False),
        "no hyperparameters.json": Case(replace(program, missing=("hyperparameters.json",)), sees=False),
        "a broken inputdataconfig.json": Case(
            replace(program, files={"input/config/inputdataconfig.json": "{"}), sees=False
        ),
        **archives(),
    }
    for name in ("../train.py", "/bin/ls", "-c", "a;b.py", "x/./y.py", "x//y.py", "dir/", "train py"):
        found["the name " + name] = Case(Tree({"train.py": PROBE}, {"sagemaker_program": name}), sees=False)
    return found
