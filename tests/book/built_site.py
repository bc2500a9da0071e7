"""What a browser finds on the pages of a built site.

`inspect` opens every page once, some at a time, and does to it what readers do: look at it on a
wide screen and on a phone, in light and in dark mode, and move everything that moves. What is
looked at is in built_site.js.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from playwright.async_api import Browser, ConsoleMessage, Page, Response, Route, async_playwright

WIDE, PHONE = (1280, 900), (390, 844)
AT_ONCE = 3
SCRIPT = Path(__file__).with_suffix(".js").read_text()
# The theme breaks the first three on every page; the last is docutils' markup of a bibliography.
AXE_IGNORED = {"label-content-name-mismatch", "region", "summary-name", "aria-required-children"}


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


def axe_script() -> str | None:
    """Return axe-core, if the package that brings it along is installed."""
    if not find_spec("axe_playwright_python"):
        return None
    return (files("axe_playwright_python") / "axe.min.js").read_text()


@dataclass
class Findings:
    """What is wrong with one page, by kind of check, and how much it makes a reader load."""

    page: str
    loading: list[str] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)
    movement: list[str] = field(default_factory=list)
    dark: list[str] = field(default_factory=list)
    accessibility: list[str] = field(default_factory=list)
    moved: int = 0
    loaded: int = 0


class Visit:
    """One page in a window, with everything that goes wrong while it loads."""

    def __init__(self, page: Page, base: str, name: str) -> None:
        self.page, self.base, self.found = page, base, Findings(name)
        page.on("pageerror", lambda error: self.found.loading.append(f"script: {error}"))
        page.on("console", self._console)
        page.on("requestfailed", lambda r: self.found.loading.append(f"failed: {r.url}"))
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.found.loading.append(f"console: {message.text}")

    def _response(self, response: Response) -> None:
        self.found.loaded += int(response.headers.get("content-length", 0))
        if response.status >= 400:
            self.found.loading.append(f"{response.status}: {response.url}")

    async def _route(self, route: Route) -> None:
        if route.request.url.startswith((self.base, "data:", "blob:")):
            await route.continue_()
        else:
            self.found.loading.append(f"outside request: {route.request.url}")
            await route.abort()

    async def open(self) -> None:
        """Load the page, and wait until its formulas are set."""
        await self.page.route("**/*", self._route)
        await self.page.goto(f"{self.base}/{self.found.page}", wait_until="load")
        await self.page.evaluate("() => window.MathJax?.startup?.promise")

    async def check(self, axe: str | None) -> Findings:
        """Do all that a reader would."""
        await self.open()
        found, loaded = self.found, self.found.loaded
        await self.page.evaluate(SCRIPT)
        await self.page.evaluate("reader.loadAll()")
        await self.look()
        found.moved, found.movement = await self.page.evaluate("reader.move()")
        if axe:
            await self.page.evaluate(axe)
            found.accessibility = await self.serious(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"])
        await self.page.emulate_media(color_scheme="dark")
        await self.page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        found.dark = await self.page.evaluate("reader.dark()")
        if axe:
            found.dark += await self.serious(["color-contrast"])
        found.loaded = loaded
        return found

    async def look(self) -> None:
        """See what a reader would see, on a wide screen and on a phone."""
        for width, height in (PHONE, WIDE):
            await self.page.set_viewport_size({"width": width, "height": height})
            problems = await self.page.evaluate("reader.noticeable()")
            self.found.looks += [what for what in problems if what not in self.found.looks]

    async def serious(self, rules: list[str]) -> list[str]:
        """Return the serious faults that axe finds."""
        faults = await self.page.evaluate("(rules) => reader.serious(rules)", rules)
        return [text for rule, text in faults if rule not in AXE_IGNORED]


async def _inspect(program: str, base: str, pages: Sequence[str]) -> list[Findings]:
    axe, limit = axe_script(), asyncio.Semaphore(AT_ONCE)

    async def one(browser: Browser, name: str) -> Findings:
        async with limit:
            size = {"width": WIDE[0], "height": WIDE[1]}
            # reduced motion, so that a change of colours is at its end when it is looked at
            page = await browser.new_page(viewport=size, reduced_motion="reduce")
            found = await Visit(page, base, name).check(axe)
            await page.close()
            return found

    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = await playwright.chromium.launch(executable_path=program, args=arguments)
        results = await asyncio.gather(*(one(browser, name) for name in pages))
        await browser.close()
    return list(results)


def inspect(program: str, base: str, pages: Sequence[str]) -> list[Findings]:
    """Open every page in one browser, and return what was found on each."""
    # a thread of its own, because Playwright's synchronous half may have a loop in this one
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _inspect(program, base, pages)).result()
