"""Whether this environment can carry out model parallelism; readable by every Python that an image may have."""

import importlib
import importlib.util


def refuse_old_keras() -> None:
    """Raise an ImportError that names the way out where there is no Keras 3."""
    there = importlib.util.find_spec("keras")
    version: str = importlib.import_module("keras").__version__ if there else "none"
    if version.startswith(("none", "1.", "2.")):
        tensorflow = importlib.import_module("tensorflow").__version__
        raise ImportError(
            "Clary's smdistributed.modelparallel.tensorflow needs Keras 3, which TensorFlow 2.16 and later have. This "
            f"environment has TensorFlow {tensorflow} with Keras {version}. Give the estimator "
            "framework_version='2.19' and py_version='py312': scripts for TensorFlow 2.3 to 2.6 run there."
        )
