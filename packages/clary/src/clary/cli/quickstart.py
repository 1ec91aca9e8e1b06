"""`clary quickstart`: from nothing to a trained network that answers, each step shown and timed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clary.cli import server_process
from clary.cli.options import HomeOption, JsonOption, resolve_home
from clary.cli.output import CliError, emit_json, say, working

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.19-cpu-py312"
WANTED_ACCURACY = 0.97


def quickstart(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Train a CNN on handwritten digits through the SageMaker SDK, deploy and ask it. Safe to run again."""
    from clary.cli.images import pull

    folder = resolve_home(home)
    example = _example()
    steps: list[tuple[str, float]] = []
    with _step("Server", steps):
        server = server_process.ensure(folder)
        say(f"Clary answers at {server.url}.")
    with _step("SageMaker SDK", steps):
        python = _sdk_environment(folder / "quickstart", example / "requirements.txt")
    with _step("TensorFlow environment", steps):
        pull([IMAGE], home=folder)
    say("\n── Training job and endpoint")
    result = _train_and_ask(server, python, example, folder / "quickstart" / "predictions.png")
    steps += result.pop("seconds").items()
    if result["accuracy"] < WANTED_ACCURACY:
        raise CliError(
            f"The network reached only {result['accuracy']:.2%} on the test images; at least 97 % was expected.",
            f"See `clary logs {result['job']}`.",
        )
    if as_json:
        emit_json({**result, "url": server.url, "seconds": dict(steps)})
        return
    say("\n" + "\n".join(f"{name:<24}{seconds:6.1f} s" for name, seconds in steps))
    print(f"\nTest accuracy  {result['accuracy']:.2%}\nModel          {result['model']}", flush=True)
    print(f"Predictions    {result['picture']}", flush=True)
    say(f"\nThe server goes on at {server.url}. Next:")
    say("  clary run -- python your_script.py    your own SageMaker scripts, unchanged")
    say("  clary jobs; clary endpoints           what has run, and what serves")
    say("  clary down                            stop the server")


def _example() -> Path:
    """The example's folder, in the repository that this package is installed from."""
    for parent in Path(__file__).resolve().parents:
        candidate = parent / "examples" / "quickstart"
        if (candidate / "quickstart.py").exists():
            return candidate
    raise CliError(
        "The quickstart's scripts are not here: they come with the repository, not with the installed package.",
        "Run `make quickstart` in a clone, or your own script: clary run -- python your_script.py",
    )


@contextmanager
def _step(name: str, steps: list[tuple[str, float]]) -> Generator[None]:
    say(f"\n── {name}")
    began = time.monotonic()
    yield
    steps.append((name, round(time.monotonic() - began, 1)))


def _sdk_environment(folder: Path, requirements: Path) -> Path:
    """The Python of an environment with the SageMaker SDK; made when missing or when the requirements have changed."""
    from uv import find_uv_bin

    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    environment = folder / f"sdk-{digest}"
    python = environment / "bin" / "python"
    if (environment / "complete").exists():
        say("The SDK's environment is there.")
        return python
    folder.mkdir(parents=True, exist_ok=True)
    uv = find_uv_bin()
    commands = [
        [uv, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, str(environment)],
        [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)],
    ]
    with working("Installing the SageMaker SDK in an environment of its own"):
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise CliError(
                    f"The SageMaker SDK could not be installed:\n{done.stderr.strip()}",
                    "It comes from the package index: check the network, then run `clary quickstart` again.",
                )
    (environment / "complete").touch()
    return python


def _train_and_ask(server: server_process.RunningServer, python: Path, example: Path, picture: Path) -> dict[str, Any]:
    from clary.cli.running import child_environment

    environment = child_environment(server, sdk_polling=False)
    # A newcomer's first sight should be the training, not the SDK's advice about its own future.
    environment |= {"SAGEMAKER_SUPPRESS_V2_WARNING": "1", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
    descriptor, name = tempfile.mkstemp(suffix=".json")
    os.close(descriptor)
    outcome = Path(name)
    try:
        command = [str(python), str(example / "quickstart.py"), "--picture", str(picture), "--result", name]
        # The script's output is for the person: results for programs go to stdout later.
        code = subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode
        if code != 0:
            raise CliError(f"The script ended with exit code {code}; its words are above.", "See `clary jobs`.")
        return json.loads(outcome.read_text())
    finally:
        outcome.unlink()
