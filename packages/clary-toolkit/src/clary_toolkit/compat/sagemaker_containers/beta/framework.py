"""`from sagemaker_containers.beta.framework import training_env`; the names for model servers are not here."""

from __future__ import annotations

from clary_toolkit.compat.sagemaker_containers import training_env
from clary_toolkit.compat.sagemaker_training import environment as env

__all__ = ["env", "training_env"]
