"""What scripts use of AWS's sagemaker-containers, the older name of sagemaker-training: `training_env()`."""

from __future__ import annotations

from clary_toolkit.compat.sagemaker_training.environment import Environment


def training_env() -> Environment:
    """The job as this host sees it."""
    return Environment()
