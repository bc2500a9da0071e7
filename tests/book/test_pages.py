"""The built book, as its readers find it.

Pages are tested where `make book` has left them in _build/html, and opened where there is a
Chromium (`CHROMIUM` names another one); axe-core comes with the package axe-playwright-python.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, sync_playwright

from book.build.local import chromium, serve
from tests.book.built_site import Findings, Links, axe_script, inspect

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
# chapters with nothing to move
STILL = (
    *("05-why-energy-and-ipr", "09-your-own-vlm", "10-write-your-own-pruner", "11-the-ledger"),
    "12-prune-safely",
)
HEAVIEST = 3_000_000  # bytes on the wire, before pictures that are loaded late


@pytest.fixture(scope="module")
def site() -> Path:
    if not (SITE / "index.html").exists():
        pytest.skip("no built site in _build/html: run `make book` first")
    return SITE


def html_files(site: Path) -> list[Path]:
    return sorted(p for p in site.rglob("*.html") if "_static" not in p.parts)


def test_internal_links_lead_somewhere_and_images_are_described(site: Path) -> None:
    pages = {path: Links(path.read_text()) for path in html_files(site)}
    broken, undescribed = [], []
    for path, links in pages.items():
        undescribed += [f"{path.name}: {src}" for src in links.undescribed]
        for target in links.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            there = (path.parent / unquote(url.path)).resolve() if url.path else path
            anchor = unquote(url.fragment)
            if not there.exists() or (
                anchor and there in pages and anchor not in pages[there].anchors
            ):
                broken.append(f"{path.name}: {target}")
    assert not broken
    assert not undescribed


def test_pictures_keep_their_room_before_they_load(site: Path) -> None:
    for path in html_files(site):
        for picture in re.findall(r"<img [^>]*_images/[^>]*>", path.read_text()):
            sizes = re.findall(r' (width|height)="\d+"', picture)
            assert sizes == ["width", "height"], f"{path.name}: {picture[:200]}"


def test_every_chapter_links_its_code_and_its_terms(site: Path) -> None:
    for path in (site / "notebooks").glob("*.html"):
        targets = Links(path.read_text()).targets
        assert any(t.startswith("../book/api.html#lofi_core.") for t in targets), path.name
        assert any(t.startswith("../book/glossary.html#term-") for t in targets), path.name


def test_foot_says_what_made_the_page(site: Path) -> None:
    for path in (site / "notebooks").glob("*.html"):
        foot = path.read_text().partition('class="extra_footer"')[2]
        for part in (
            r"Built from commit \w+",
            r"profile \w+",
            r"device \w+",
            r"torch \d",
            r"ran in",
        ):
            assert re.search(part, foot), f"{path.name}: no {part!r}"
        assert 'href="../book/status.html"' in foot


# In a browser


@pytest.fixture(scope="module")
def program() -> str:
    found = chromium()
    if not found:
        pytest.skip("no Chromium on this machine: the built pages were not looked at")
    return found


@pytest.fixture(scope="module")
def findings(site: Path, program: str) -> list[Findings]:
    """Every page was looked at; of the pages of source code, which are alike, one."""
    pages = [path.relative_to(site).as_posix() for path in html_files(site)]
    code = [page for page in pages if page.startswith("_modules/")]
    with serve(site) as base:
        return inspect(program, base, [page for page in pages if page not in code[1:]])


def told(findings: list[Findings], kind: str) -> list[str]:
    return [f"{found.page}: {what}" for found in findings for what in getattr(found, kind)]


@pytest.mark.browser
@pytest.mark.slow
class TestPages:
    def test_load_without_a_fault_or_a_request_to_another_host(
        self, findings: list[Findings]
    ) -> None:
        assert not told(findings, "loading")

    def test_read_well_on_a_wide_screen_and_on_a_phone(self, findings: list[Findings]) -> None:
        assert not told(findings, "looks")

    def test_what_should_move_moves(self, findings: list[Findings]) -> None:
        assert not told(findings, "movement")
        still = [f.page for f in findings if f.page.startswith("notebooks/") and not f.moved]
        assert set(still) <= {f"notebooks/{name}.html" for name in STILL}

    def test_are_readable_in_dark_mode(self, findings: list[Findings]) -> None:
        assert not told(findings, "dark")

    def test_have_no_serious_fault_for_readers_with_disabilities(
        self, findings: list[Findings]
    ) -> None:
        if not axe_script():
            pytest.skip("axe-core is not installed (package axe-playwright-python)")
        assert not told(findings, "accessibility")

    def test_are_light(self, findings: list[Findings]) -> None:
        heavy = {f.page: f.loaded for f in findings if f.loaded > HEAVIEST}
        assert not heavy


@pytest.fixture(scope="module")
def browser(program: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        opened = playwright.chromium.launch(executable_path=program, args=arguments)
        yield opened
        opened.close()


def chapter_with(site: Path, marker: str) -> Path:
    pages = sorted((site / "notebooks").glob("*.html"))
    return next(page for page in pages if marker in page.read_text())


@pytest.mark.browser
@pytest.mark.slow
def test_scrubber_moves_by_keyboard_and_plays_from_a_file(site: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(chapter_with(site, 'class="scrubber"').as_uri())
    root = page.locator(".scrubber").first
    said = root.locator("output").inner_text()
    root.locator("input").focus()
    page.keyboard.press("ArrowRight")
    assert root.locator("output").inner_text() != said
    assert root.locator(".scrubber-frame:not([hidden])").count() == 1
    root.locator("button").click()
    page.wait_for_function(
        "([root, before]) => root.querySelector('input').value !== before",
        arg=[root.element_handle(), root.locator("input").input_value()],
    )
    page.close()


@pytest.mark.browser
@pytest.mark.slow
def test_without_scripts_the_first_frame_is_there_and_no_dead_control(
    site: Path, browser: Browser
) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(chapter_with(site, 'class="scrubber"').as_uri())
    root = page.locator(".scrubber").first
    assert root.locator("svg").first.is_visible()
    assert not root.locator("input").is_visible() and not root.locator("button").is_visible()
    page.context.close()


@pytest.mark.browser
@pytest.mark.slow
def test_paper_has_the_text_without_the_menus(site: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(chapter_with(site, 'class="scrubber"').as_uri())
    page.emulate_media(media="print")
    assert page.locator("article h1").is_visible()
    assert page.locator(".scrubber svg").first.is_visible()
    for menu in (".bd-sidebar-primary", ".bd-header-article", ".scrubber-controls"):
        assert not page.locator(menu).first.is_visible(), menu
    page.close()


@pytest.mark.browser
@pytest.mark.slow
def test_search_finds_a_word_and_misses_a_word_that_is_not_there(
    site: Path, browser: Browser
) -> None:
    with serve(site) as base:
        page = browser.new_page()
        for word, expected in (("leverage", True), ("zxqvkj", False)):
            page.goto(f"{base}/search.html?q={word}")
            page.wait_for_selector("#search-results .search-summary:not(:empty)")
            page.wait_for_function("document.querySelector('#search-results p').innerText !== ''")
            page.wait_for_timeout(500)
            found = page.locator("#search-results li a").count()
            assert bool(found) is expected, word
        page.close()


@pytest.mark.browser
@pytest.mark.slow
def test_term_shows_its_meaning_where_the_pointer_rests(site: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto((site / "notebooks" / "01-what-a-vlm-sees.html").as_uri())
    term = page.locator("a.glossary-term").first
    assert len(term.get_attribute("title") or "") > 30
    page.close()
