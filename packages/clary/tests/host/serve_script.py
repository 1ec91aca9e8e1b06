"""A container that serves: what replicas in tests run inside their sandbox."""

import http.server
import os
import pathlib
import signal
import socketserver
import sys
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if os.environ.get("NEVER_WELL"):
            return self.answer(500, b"")
        if hanging.is_set():
            time.sleep(3600)
        return self.answer(200, b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"die":
            os._exit(7)
        if body == b"hang":
            hanging.set()
        if body == b"leak":
            while True:
                kept.append(b"x" * (1 << 20))
                time.sleep(0.002)
        if body == b"slow":
            busy.set()
            time.sleep(1)
            busy.clear()
        return self.answer(200, pathlib.Path("/opt/ml/model/name").read_bytes() + b" " + body)

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "client"

    def log_message(self, *arguments):
        pass


class OnSocket(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class OnPort(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def end(*_):
    print("told to end", flush=True)
    while busy.is_set():
        time.sleep(0.01)
    os._exit(0)


hanging, busy, kept = threading.Event(), threading.Event(), []
if os.environ.get("FAILS_TO_LOAD"):
    print("loading", flush=True)
    raise RuntimeError("this is no SavedModel")
print("starts on", os.environ["CLARY_SERVE_SOCKET"], flush=True)
if os.environ.get("ON_PORT"):
    server = OnPort(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler)
else:
    server = OnSocket(os.environ["CLARY_SERVE_SOCKET"], Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end).start())
print("serves", sys.argv[0], flush=True)
server.serve_forever()
