"""Listens for gRPC on the port where AWS's container has TensorFlow Serving, beside HTTP and never before it.

Handlers reach it by `context.grpc_port` and `context.channel`. It needs grpcio and TensorFlow Serving's stubs; an image
without them serves HTTP alone, and the log says so.
"""

from __future__ import annotations

import contextlib
import threading

from clary_toolkit.serving import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from clary_toolkit.serving.models import Models
    from clary_toolkit.serving.prediction import Predictor
    from clary_toolkit.serving.settings import Settings

_THREADS = 32  # those that wait for the model; it runs calls of several as one
_PATIENCE_SECONDS = 20.0
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # or two servers would share the port and its requests
]


class GrpcServer:
    """TensorFlow Serving's PredictionService and ModelService over the models that HTTP serves."""

    def __init__(self, models: Models, predictor: Predictor, settings: Settings) -> None:
        self._models = models
        self._predictor = predictor
        self._settings = settings
        self._decided = threading.Event()
        self._port: int | None = None
        self._channel: object = None
        self._server: Any = None

    def start(self) -> None:
        """Begin to listen, soon: on a thread of its own."""
        threading.Thread(target=self._start, name="grpc", daemon=True).start()

    def reach(self) -> tuple[int | None, object]:
        """The port and a channel to it, or None twice; waits while it is being decided."""
        self._decided.wait(_PATIENCE_SECONDS)
        return self._port, self._channel

    def stop(self, seconds: float) -> None:
        """Take no more requests; wait this long for those that are being answered."""
        server, self._server = self._server, None
        if server is not None:
            server.stop(seconds).wait(seconds)

    def _start(self) -> None:
        try:
            self._listen()
            log.info("gRPC on 127.0.0.1:{}".format(self._port))
        except ImportError as error:
            log.info("There is no gRPC: {}".format(error))
        except Exception:  # noqa: BLE001 - the boundary of the thread; HTTP serves all the same
            log.exception("gRPC cannot be served")
        finally:
            self._decided.set()

    def _listen(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        import grpc  # type: ignore[import-not-found]

        from clary_toolkit.serving import grpc_services

        library: Any = grpc
        server = library.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"),
            options=_OPTIONS,
            maximum_concurrent_rpcs=self._settings.queue,
        )
        grpc_services.add(server, self._models, self._predictor)
        port = 0
        with contextlib.suppress(RuntimeError):  # newer versions raise, older give 0
            port = server.add_insecure_port("127.0.0.1:{}".format(self._settings.grpc_port))
        if not port:
            port = server.add_insecure_port("127.0.0.1:0")
            log.info("Port {} is not free: gRPC has another".format(self._settings.grpc_port))
        server.start()
        self._server = server
        self._channel = library.insecure_channel("localhost:{}".format(port), options=_OPTIONS[:2])
        self._port = port
