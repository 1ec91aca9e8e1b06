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

    `run` may be called by several threads at once. It does not change the arrays that it is given, and nor may the
    caller afterwards: a call's may be read once more. The arrays that it returns belong to the caller. After `close`,
    which waits for no call, nothing else is called.
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

    def rehearse(self, signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same for inputs that the server has made up."""
        return self.run(signature, inputs)

    def gains_by_joining(self, signature: Signature) -> bool:
        """Whether several rows in one call take less time than one after the other."""
        return True

    @abc.abstractmethod
    def close(self) -> None:
        """Give the memory back."""


class Engine(abc.ABC):
    """What may compute one signature in TensorFlow's place. `run` may be called by several threads at once."""

    name = "?"  # for the log
    gains_by_joining = True  # as Executor.gains_by_joining

    @abc.abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name, as `Executor.run`. Where it raises, Declined or whatever, TensorFlow answers."""


class Declined(Exception):
    """Why an engine leaves one request to TensorFlow: a sentence for the log."""


class Unfit(Exception):
    """Why an engine cannot take a signature over: a sentence for the log."""
