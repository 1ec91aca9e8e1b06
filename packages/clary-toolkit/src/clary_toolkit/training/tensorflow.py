"""What the TensorFlow containers do beyond the toolkit: model_dir, TensorFlow's S3 plugin, a look at what was saved.

Named by SAGEMAKER_TRAINING_MODULE=sagemaker_tensorflow_container.training:main, as AWS's images set it.
"""

from __future__ import annotations

import os

from clary_toolkit.training import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from clary_toolkit.training.environment import TrainingEnvironment

MODULE = "sagemaker_tensorflow_container.training:main"


def set_model_dir(environment: TrainingEnvironment) -> None:
    """Under a tuning job give each training job a model_dir of its own: <model_dir>/<job>/model, unless it is local."""
    model_dir = environment.hyperparameters.get("model_dir")
    if not environment.is_tuning or not model_dir or str(model_dir).startswith("/opt/ml"):
        return
    own = "{}/{}/model".format(model_dir, environment.job_name)
    log.info("This is a job of a tuning job: model_dir is {}".format(own))
    environment.hyperparameters["model_dir"] = own


def s3_variables(region: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of TensorFlow's S3 file system, which knows nothing of AWS_ENDPOINT_URL, and of its log level."""
    variables = {"S3_REGION": region, "TF_CPP_MIN_LOG_LEVEL": "1", "S3_USE_HTTPS": "1"}
    endpoint = (
        environ.get("S3_ENDPOINT_URL") or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    )
    scheme, _, rest = endpoint.partition("://")
    if rest:
        variables["S3_ENDPOINT"] = rest.rstrip("/")
        variables["S3_USE_HTTPS"] = "1" if scheme == "https" else "0"
        variables["S3_VERIFY_SSL"] = "1" if scheme == "https" else "0"
        # Of the plugin's own one and three seconds, a busy machine needs more: a checkpoint would fail the job.
        for name in ("S3_CONNECT_TIMEOUT_MSEC", "S3_REQUEST_TIMEOUT_MSEC"):
            variables[name] = environ.get(name) or "60000"
    return variables


def warn_of_unservable_model(model_folder: str) -> None:
    """Say so when the job saved nothing, or nothing that TensorFlow Serving could load."""
    has_files = has_bundle = False
    for folder, _, files in os.walk(model_folder):
        has_files = has_files or bool(files)
        if "saved_model.pb" not in files and "saved_model.pbtxt" not in files:
            continue
        has_bundle = True
        version = os.path.basename(folder)
        if not version.isdigit():
            log.warning(
                "The SavedModel lies in the folder {!r}, which is not a number: TensorFlow Serving will not load it. "
                "Save it to a folder like {}/1.".format(version, model_folder)
            )
    if not has_files:
        log.warning(
            "No model artifact is saved under path {0}: this job uploads no model. Have the script save to {0} "
            "(the variable SM_MODEL_DIR).".format(model_folder)
        )
    elif not has_bundle:
        log.warning(
            "What was saved under {} is not a SavedModel: it cannot be served by the TensorFlow Serving "
            "containers.".format(model_folder)
        )
