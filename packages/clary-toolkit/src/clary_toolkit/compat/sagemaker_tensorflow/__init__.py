"""The package of SageMaker's Pipe mode for TensorFlow, so that scripts which import it run in File mode.

Clary refuses jobs in Pipe mode when they are created; a dataset of a pipe is refused here with the way out. A
sagemaker-tensorflow that is installed wins over this one.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["PipeModeDataset", "PipeModeDatasetException"]


class PipeModeDatasetException(Exception):
    """A channel cannot be read as a pipe."""


class PipeModeDataset:
    """Says that there are no pipes."""

    def __init__(self, channel: str, *_: Any, **__: Any) -> NoReturn:
        raise PipeModeDatasetException(
            "Clary does not offer Pipe mode yet, so that channel {0!r} cannot be read as a pipe. Start the job with "
            "input_mode='File' or 'FastFile' and read the files of /opt/ml/input/data/{0}, for instance with "
            "tf.data.TFRecordDataset.".format(channel)
        )
