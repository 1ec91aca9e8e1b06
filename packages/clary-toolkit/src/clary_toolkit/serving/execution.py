"""The seam between the server and what computes: an `Executor` runs one loaded version of one model."""

from __future__ import annotations

import abc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from clary_toolkit.serving.signatures import Signature


class Executor(abc.ABC):
    """One loaded version of a model.

    `run` may be called by several threads at once. It neither keeps nor changes the arrays that it is given; the arrays
    that it returns belong to the caller. After `close`, which waits for no call, nothing else is called.
    """

    signatures: dict[str, Signature]
    kind = "?"  # for the log: what computes
    usual_seconds = 0.002  # how long a call takes of late, at most this; kept by whoever calls `run`

    @abc.abstractmethod
    def run(self, signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name.

        Args:
            signature: one of `signatures`.
            inputs: every input of the signature by name, each of its spec's numpy type (strings: objects of bytes).
                Shapes are as the request has them and may not fit.

        Raises ServingError with TensorFlow Serving's status: 400 where the inputs do not fit the model.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Give the memory back."""
