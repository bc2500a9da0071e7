"""A built site, served on this machine, and what a browser sees of it."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Response, Route

WIDTHS = (1280, 390)
HEIGHT = 900


class Links(HTMLParser):
    """Collects the anchors of an HTML file and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[str] = []
        self.undescribed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {found[key] or "" for key in ("id", "name") if key in found}
        self.targets += [found[key] or "" for key in ("href", "src") if key in found]
        if tag == "img" and not found.get("alt"):
            self.undescribed.append(found.get("src") or "")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Yield the address of a server for the folder."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Visit:
    """One page in a window, with everything that went wrong while it loaded."""

    def __init__(self, browser: Browser, base: str, path: str) -> None:
        self.complaints: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": WIDTHS[0], "height": HEIGHT})
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("console", self._console)
        self.page.on("requestfailed", lambda r: self.complaints.append(f"request failed: {r.url}"))
        self.page.on("response", self._response)
        self.base = base
        self.page.route("**/*", self._route)
        self.page.goto(f"{base}/{path}", wait_until="load")
        # formulas are set after the page has loaded
        self.page.evaluate("() => window.MathJax?.startup?.promise")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"console: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.url}")

    def _route(self, route: Route) -> None:
        url = route.request.url
        if url.startswith((self.base, "data:", "blob:")):
            route.continue_()
        else:
            self.complaints.append(f"outside request: {url}")
            route.abort()

    def problems(self) -> list[str]:
        """Return what a reader would notice, on a wide screen or on a phone."""
        found = list(self.complaints)
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": HEIGHT})
            found += [what for what in self.page.evaluate(NOTICEABLE) if what not in found]
        return found


# Broken pictures, formulas left as TeX or in error, and a page wider than its window.
NOTICEABLE = r"""() => {
  const out = [];
  for (const img of document.images)
    if (!img.complete || !img.naturalWidth) out.push("broken image: " + img.src);
  for (const bad of document.querySelectorAll("mjx-merror"))
    out.push("formula in error: " + bad.textContent);
  for (const math of document.querySelectorAll(".math"))
    if (!math.querySelector("mjx-container")) out.push("formula not set: " + math.textContent);
  const root = document.documentElement;
  if (root.scrollWidth > window.innerWidth)
    out.push(`page is ${root.scrollWidth} px wide in a window of ${window.innerWidth}`);
  return out;
}"""
