"""A server of one file on this machine, which can break off and ignore ranges."""

import hashlib
import http.server
from typing import Any

import numpy as np

from ablations.data.datasets.fetch import Remote
from tests.support.archives import RANDOM


class Server(http.server.ThreadingHTTPServer):
    """Serves one file; can break off, and can ignore ranges."""

    content = bytes(RANDOM.integers(0, 256, 3_000_000, dtype=np.uint8))
    break_after: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        content = self.server.content
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.break_after])

    def log_message(self, *arguments: Any) -> None:
        pass


def remote(server: Server, content: bytes | None = None) -> Remote:
    md5 = hashlib.md5(server.content if content is None else content).hexdigest()
    return Remote(f"http://127.0.0.1:{server.server_port}/some.bin", md5)
