"""What answers invocations with the user's code, whichever of the two interfaces it is written to."""

from __future__ import annotations

import threading

from clary_toolkit.serving.errors import ServingError
from clary_toolkit.serving.handlers import CUSTOM_ATTRIBUTES
from clary_toolkit.serving.prediction import Target, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from clary_toolkit.serving.functions import Functions
    from clary_toolkit.serving.handlers import Handlers
    from clary_toolkit.serving.http import Request
    from clary_toolkit.serving.prediction import Answer

    # From a request, the model that its path names and what the worker has prepared to the answer.
    Code = Callable[[Request, str | None, Any], Answer]


def of_handlers(handlers: Handlers, default_model: Callable[[], str]) -> Code:
    """Invocations answered by handlers."""

    def answer(request: Request, model: str | None, _: Any) -> Answer:
        try:
            target = Target.of_attributes(request.headers.get(CUSTOM_ATTRIBUTES), model)
        except ServingError as error:
            return failure(error)
        if model is not None:
            target.model = model
        return handlers.answer(request, target, model or default_model())

    return answer


def of_functions(functions: Functions) -> Code:
    """Invocations answered by functions, with the model that their worker has loaded."""

    def answer(request: Request, _: str | None, prepared: Any) -> Answer:
        return functions.answer(request, prepared)

    return answer


def of_functions_with(functions: Functions, loaded: Any) -> Code:
    """Invocations answered by functions with one model for all workers, one at a time."""
    lock = threading.Lock()

    def answer(request: Request, _: str | None, __: Any) -> Answer:
        with lock:
            return functions.answer(request, loaded)

    return answer
