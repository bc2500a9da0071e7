"""A built site on this machine: a server for it, and a browser to open it."""

import functools
import gzip
import http.server
import mimetypes
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each, and compresses text as hosts of static pages do."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def send_head(self) -> Any:
        """Answer a request for a file of text compressed."""
        path = Path(self.translate_path(self.path))
        kind = mimetypes.guess_type(path)[0] or ""
        if not path.is_file() or not kind.startswith(("text/", "application/j", "image/svg")):
            return super().send_head()
        content = compressed(path)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None


@functools.cache
def compressed(path: Path) -> bytes:
    """Return a file's content, compressed."""
    return gzip.compress(path.read_bytes(), compresslevel=6)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Yield the address of a server for the folder."""
    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def chromium() -> str | None:
    """Return the browser's program, if this machine has one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
