"""The `train` command: from the files of /opt/ml to the script's end, the failure file and the exit code.

The order is AWS's: read the job, place its code, install what it needs, set SM_* variables, run the entry point, write
/opt/ml/output/success or failure. Exit code 0 or, whatever the script's own was, 1.
"""

from __future__ import annotations

import os
import sys

from clary_toolkit.training import code, entry_point, log, network, process, requirements, runners, tensorflow
from clary_toolkit.training.environment import TrainingEnvironment
from clary_toolkit.training.errors import ClientError
from clary_toolkit.training.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def main() -> int:
    """Run the training job in /opt/ml, or in the folder that SAGEMAKER_BASE_DIR names; returns the exit code."""
    paths = Paths.of(os.environ)
    process.forward_termination()
    try:
        _train(paths)
        _write(paths.success, "")
        log.info("Reporting training SUCCESS")
        return 0
    except ClientError as error:
        return _fail(paths, str(error), 1)
    except Exception as error:  # noqa: BLE001 - the boundary: the failure file records mistakes of the launcher's own
        import traceback

        text = "Framework Error: \n{}\n{}".format(traceback.format_exc(), error)
        return _fail(paths, text, getattr(error, "errno", None) or 1)


def _train(paths: Paths) -> None:
    environment = TrainingEnvironment.read(paths, os.environ)
    if isinstance(environment.log_level, int):
        log.configure(environment.log_level)
    os.environ.update(environment.platform_variables())
    if not environment.s3_output:
        _run_job(environment)
        return
    from clary_toolkit.training import intermediate

    sync = intermediate.start(environment, os.environ)
    try:
        _run_job(environment)
    finally:
        if sync is not None:
            sync.finish()


def _run_job(environment: TrainingEnvironment) -> None:
    module = environment.framework_module
    if module and module != tensorflow.MODULE:
        _run_framework(module)
        return
    if module:
        tensorflow.set_model_dir(environment)
        os.environ.update(tensorflow.s3_variables(environment.region, os.environ))
    run(environment)
    if module:
        tensorflow.warn_of_unservable_model(environment.paths.model)


def run(environment: TrainingEnvironment) -> None:
    """Place the job's code, install what it needs and run its entry point to the end."""
    folder = environment.paths.code
    name = environment.entry_point
    entry_point.check_name(name)
    runner = runners.select(environment)
    code.place(environment.code_uri, folder, os.environ)
    kind = entry_point.kind_of(name, folder)
    if kind != entry_point.PACKAGE:
        path = entry_point.locate(name, folder)
        if kind == entry_point.COMMAND:
            os.chmod(path, 0o777)
    requirements.install(kind, folder, sys.executable, os.environ)
    network.wait_for_names(environment)

    own = _usable(environment.variables())
    own["PYTHONPATH"] = ":".join([folder] + [entry for entry in sys.path if entry != folder])
    command = entry_point.command(name, kind, sys.executable, environment.arguments())
    _announce(environment, own, command)
    variables = dict(os.environ)
    variables.update(own)
    runner(runners.Launch(environment, kind, command, variables))


def _usable(variables: dict[str, str]) -> dict[str, str]:
    """Without those that no environment can hold: a name with = in it, a value with a zero byte."""
    usable: dict[str, str] = {}
    for name, value in variables.items():
        if "=" in name or "\0" in name or "\0" in value:
            log.warning("The variable {!r} is left out: its name or value cannot stand in an environment".format(name))
        else:
            usable[name] = value
    return usable


def _announce(environment: TrainingEnvironment, variables: Mapping[str, str], command: list[str]) -> None:
    import json

    log.info(
        "Invoking user script\n\nTraining Env:\n\n{}\n\nEnvironment variables:\n\n{}\n\n"
        "Invoking script with the following command:\n\n{}\n\n".format(
            json.dumps(environment.as_mapping(), indent=4),
            "\n".join("{}={}".format(name, value) for name, value in variables.items()),
            " ".join(command),
        )
    )


def _run_framework(module: str) -> None:
    """Call the training function of another framework's container, as AWS's toolkit does: module:function."""
    import importlib

    name, _, function = module.partition(":")
    try:
        imported = importlib.import_module(name)
    except ImportError as error:
        raise ClientError(
            "The framework module {!r} (SAGEMAKER_TRAINING_MODULE) cannot be imported: {}. Expected {!r}, or a module "
            "that the image holds.".format(module, error, tensorflow.MODULE)
        ) from error
    getattr(imported, function)()


def _fail(paths: Paths, text: str, exit_code: int) -> int:
    if os.path.exists(paths.failure):
        log.info("{} is there already and stays as it is".format(paths.failure))
    else:
        _write(paths.failure, text)
    log.error("Reporting training FAILURE")
    log.error(text)
    log.error("Encountered exit_code {}".format(exit_code))
    return exit_code


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
