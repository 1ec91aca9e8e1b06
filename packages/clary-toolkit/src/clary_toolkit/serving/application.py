"""Which request goes where: SageMaker's container interface and TensorFlow Serving's REST interface."""

from __future__ import annotations

import json
import re
import threading
from urllib.parse import unquote

from clary_toolkit.serving import json_writing, log, signatures
from clary_toolkit.serving.errors import ServingError
from clary_toolkit.serving.handlers import CUSTOM_ATTRIBUTES
from clary_toolkit.serving.prediction import Answer, Target, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from clary_toolkit.serving.code_runner import Code
    from clary_toolkit.serving.http import Exchange
    from clary_toolkit.serving.models import Models
    from clary_toolkit.serving.multi_model import MultiModel
    from clary_toolkit.serving.prediction import Predictor
    from clary_toolkit.serving.settings import Settings
    from clary_toolkit.serving.workers import UserWorkers, Workers

_CALL = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:(classify|regress|predict)", re.I)
_STATUS = re.compile(r"/v1/models(?:/([^/:]+))?(?:/(?:versions/(\d+)|labels/[^/:]+))?(/metadata)?", re.I)
# The router, which passes a container's own errors on as the model's, knows by the second header that these are none.
_BUSY = "Retry-After: 1\r\nX-Clary-Error: ServiceUnavailable\r\n"
_LOADING = "Retry-After: 1\r\nX-Clary-Error: Loading\r\n"
# How many requests can be worked on, and how many are taken in all: the router keeps the others, and refuses more.
_TERMS = "X-Clary-Concurrency: {}/{}\r\n"
_SMALL_BODY = 16 * 1024  # bytes


class Application:
    """Routes requests. It is there before the model is: until `start` is called, it says that it is loading."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: Models | None = None
        self._predictor: Predictor | None = None
        self._workers: Workers | None = None
        self._code: Code | None = None
        self._multi_model: MultiModel | None = None
        self._user_workers: UserWorkers | None = None
        self._terms = "" if settings.multi_model else _TERMS.format(settings.concurrency, settings.queue)
        self._in_progress = 0
        self._lock = threading.Lock()

    def start(
        self,
        models: Models,
        predictor: Predictor,
        workers: Workers,
        code: Code | None = None,
        user_workers: UserWorkers | None = None,
        multi_model: MultiModel | None = None,
    ) -> None:
        """Begin to serve: by `code` on `user_workers` where the user has written some."""
        self._predictor, self._workers = predictor, workers
        self._code, self._user_workers, self._multi_model = code, user_workers, multi_model
        self._models = models

    @property
    def is_ready(self) -> bool:
        """Whether the model is there."""
        return self._models is not None

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, now or from another thread later. Never blocks."""
        request = exchange.request
        path = request.path
        if path == "/invocations":
            if request.method == "POST":
                self._invoke(exchange, None, self._code)
            else:
                _refuse_method(exchange, "POST")
        elif path == "/ping":
            exchange.answer(200 if self.is_ready else 503)
        elif path == "/execution-parameters":
            exchange.answer(200, self._execution_parameters())
        elif path[:4].lower() == "/v1/":
            self._rest(exchange)
        elif self._settings.multi_model and path[:7] == "/models":
            if self._multi_model is None:
                _refuse_loading(exchange)
            else:
                self._multi_model.handle(exchange, self._invoke)
        else:
            exchange.answer(
                404,
                json_writing.error(
                    "There is nothing at {}. Expected /ping, /invocations, /execution-parameters or "
                    "/v1/models/<name>.".format(path[:200])
                ),
            )

    def _invoke(self, exchange: Exchange, model: str | None, code: Code | None) -> None:
        if not self._has_room(exchange):
            return
        predictor, workers, user_workers = self._predictor, self._workers, self._user_workers
        if predictor is None or workers is None:
            return
        reply = self._reply(exchange)
        if code is not None and user_workers is not None:
            user_workers.run(
                lambda prepared: reply(code(exchange.request, model, prepared)), lambda: self._give_up(exchange, reply)
            )
            return
        headers = exchange.request.headers
        try:
            target = Target.of_attributes(headers.get(CUSTOM_ATTRIBUTES), model)
        except ServingError as error:
            reply(failure(error))
            return
        if model is not None:
            target.model = model
        body, content_type, accept = exchange.request.body, headers.get("content-type"), headers.get("accept")

        def work() -> None:
            if exchange.is_gone:
                reply(Answer(499, b""))
            else:
                predictor.invoke(target, body, content_type, accept, reply)

        if self._in_progress == 1 and len(body) <= _SMALL_BODY and predictor.is_quick(target):
            work()  # nothing else is under way, and it holds up the loop for less than a switch of threads would
        else:
            workers.run(work)

    def _rest(self, exchange: Exchange) -> None:
        request = exchange.request
        models, predictor, workers = self._models, self._predictor, self._workers
        if models is None or predictor is None or workers is None:
            _refuse_loading(exchange)
            return
        path = unquote(request.path)
        call = _CALL.fullmatch(path)
        if call and request.method == "POST":
            if self._has_room(exchange):
                name, version, method = call.groups()
                target = Target(name, int(version) if version else None, method.lower())
                reply = self._reply(exchange)
                workers.run(lambda: predictor.rest(target, request.body, reply))
            return
        status = _STATUS.fullmatch(path)
        if not status or request.method not in ("GET", "HEAD"):
            exchange.answer(400, json_writing.error("Malformed request: {} {}".format(request.method, path)))
            return
        name, number, wants_metadata = status.groups()
        try:
            if not name:
                raise ServingError("Missing model name in request.", 400)
            version = int(number) if number else None
            if wants_metadata:
                found = models.find(name, version)
                body = signatures.metadata(name, found.number, found.executor.signatures)
            else:
                body = models.status(name, version)
            exchange.answer(200, body)
        except ServingError as error:
            answer = failure(error)
            exchange.answer(answer.status, answer.body)

    def _has_room(self, exchange: Exchange) -> bool:
        """Whether the request may come in; it is answered where not."""
        if self._models is None:
            _refuse_loading(exchange)
            return False
        if self._in_progress >= self._settings.queue:
            message = "The server is busy: {} requests are waiting. Try again later.".format(self._in_progress)
            exchange.answer(503, json_writing.error(message), headers=_BUSY)
            return False
        with self._lock:
            self._in_progress += 1
        return True

    def _reply(self, exchange: Exchange) -> Callable[[Answer], None]:
        """What gives the answer to a request that has come in: the first one counts."""
        pending = [exchange]

        def reply(answer: Answer) -> None:
            with self._lock:
                if not pending:
                    return
                pending.clear()
                self._in_progress -= 1
            if answer.pieces is None:
                exchange.answer(answer.status, answer.body, answer.content_type, self._terms)
                return
            try:
                exchange.answer_in_pieces(answer.status, answer.pieces, answer.content_type)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary to the user's code
                log.exception("exception handling request: {}".format(error))
                refusal = failure(error if isinstance(error, Exception) else ServingError(str(error), 500))
                exchange.answer(refusal.status, refusal.body, refusal.content_type)

        return reply

    def _give_up(self, exchange: Exchange, reply: Callable[[Answer], None]) -> None:
        message = "inference.py did not answer {} within the time allowed".format(exchange.request.path)
        reply(Answer(504, json_writing.error(message)))

    def _execution_parameters(self) -> bytes:
        settings = self._settings
        return json.dumps(
            {
                "MaxConcurrentTransforms": settings.concurrent_transforms,
                "BatchStrategy": settings.batch_strategy,
                "MaxPayloadInMB": settings.max_payload_in_mb,
            }
        ).encode()


def _refuse_loading(exchange: Exchange) -> None:
    exchange.answer(503, json_writing.error("The model is being loaded. Try again later."), headers=_LOADING)


def _refuse_method(exchange: Exchange, allowed: str) -> None:
    message = "{} {} is not possible. Use {}.".format(exchange.request.method, exchange.request.path, allowed)
    exchange.answer(405, json_writing.error(message), headers="Allow: {}\r\n".format(allowed))
