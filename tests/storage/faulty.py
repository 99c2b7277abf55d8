"""A proxy in front of an S3 server that answers badly when it is told to."""

import http.client
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from typing import Any, Literal
from urllib.parse import urlsplit

Fault = Literal["403", "500", "503", "silence", "cut upload", "cut download", "lost answer"]
SILENCE_SECONDS = 3.0
OUR_OWN = {"expect", "transfer-encoding"}
"""Headers that a proxy answers itself."""


class FaultyProxy:
    """Faults come in the order of `faults`, one for each request that `meant` holds for."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.faults: list[Fault] = []
        self.meant: Callable[[str, str], bool] = lambda method, path: True
        self.made: list[Fault] = []
        self.asked = Counter[str]()
        """Requests of each method and path, such as `GET /bucket/file`."""
        self.lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next_fault(self, request: BaseHTTPRequestHandler) -> Fault | None:
        with self.lock:
            self.asked[f"{request.command} {urlsplit(request.path).path}"] += 1
            if not self.faults or not self.meant(request.command, request.path):
                return None
            self.made.append(self.faults.pop(0))
            return self.made[-1]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        fault, length = self.next_fault(request), int(request.headers.get("Content-Length", 0))
        if fault == "cut upload":
            request.rfile.read(length // 2)
            return self.hang_up(request)
        body = (
            chunks(request) if "chunked" in request.headers.get("Transfer-Encoding", "") else request.rfile.read(length)
        )
        if fault == "silence":
            sleep(SILENCE_SECONDS)
            return self.hang_up(request)
        if fault in ("403", "500", "503"):
            code = {"403": "AccessDenied", "500": "InternalError", "503": "SlowDown"}[fault]
            return reply(request, int(fault), {}, f"<Error><Code>{code}</Code></Error>".encode())
        status, headers, content = self.forward(request, body)
        if fault == "lost answer":
            return self.hang_up(request)
        if fault == "cut download":
            reply(request, status, headers, content, sent=len(content) // 2)
            return self.hang_up(request)
        return reply(request, status, headers, content)

    def forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.target)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in OUR_OWN}
        connection.request(request.command, request.path, body, headers)
        answer = connection.getresponse()
        found = {name: value for name, value in answer.getheaders() if name.lower() != "transfer-encoding"}
        content = answer.read()
        connection.close()
        return answer.status, found, content

    @staticmethod
    def hang_up(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def chunks(request: BaseHTTPRequestHandler) -> bytes:
    """A body whose length was not told in advance."""
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    while request.rfile.readline().strip():  # what follows the last one
        pass
    return body


def reply(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes, sent: int | None = None
) -> None:
    request.send_response_only(status)
    for name, value in ({"Content-Length": str(len(content))} | headers).items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content[:sent])
