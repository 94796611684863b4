"""An HTTP server on the loopback device that serves files well or badly, as a test asks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Loopback:
    """Files by path, what goes wrong at the next requests for each, and the requests that came.

    Faults, each for one request: a number (that status), 'truncated' (half of the promised bytes), 'shorter'
    (half of the bytes, and no more promised), 'wrong' (other bytes), 'stalled' (half, then nothing), 'silent'
    (no answer at all), 'no ranges' (the whole, whatever was asked).
    """

    def __init__(self, url: str, released: threading.Event) -> None:
        self.url, self.released = url, released
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str | int]] = {}
        self.requests: list[tuple[str, str | None]] = []

    def serve(self, name: str, content: bytes, *faults: str | int) -> str:
        self.files[f"/{name}"], self.faults[f"/{name}"] = content, list(faults)
        return f"{self.url}/{name}"


class Handler(BaseHTTPRequestHandler):
    loopback: Loopback

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.loopback.requests.append((self.path, wanted))
        faults = self.loopback.faults.get(self.path, [404])
        fault = faults.pop(0) if faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if fault == "silent":
            self.loopback.released.wait()
            return
        content = self.loopback.files[self.path]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and fault != "no ranges" else 0
        if start >= len(content):
            self.send_error(416)
            return
        body = content[start:]
        half = body[: len(body) // 2]
        promised = len(half) if fault == "shorter" else len(body)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(promised))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if fault in {"truncated", "shorter", "stalled"}:
            body = half
        self.wfile.write(bytes(255 - b for b in body) if fault == "wrong" else body)
        if fault == "stalled":
            self.wfile.flush()
            self.loopback.released.wait()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Loopback]:
    """A server on a free port; stalled answers end with it."""
    handler = type("Bound", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    released = threading.Event()
    handler.loopback = Loopback(f"http://127.0.0.1:{server.server_port}", released)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield handler.loopback
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()
