"""The site is built without a warning, and every page is opened in Chromium: at a desk and on a phone, by day and by night."""

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from support import ROOT

pytest.importorskip("sphinx", reason="building the site needs: pip install -e '.[docs]'")
from playwright import sync_api

pytestmark = pytest.mark.slow  # pages are run: some minutes, where nothing is in site/cache yet
DOCS = ROOT / "docs"
PAGES = sorted(str(page.relative_to(DOCS).with_suffix(".html")) for page in DOCS.rglob("*.md"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# What a reader of a page cannot see: what is wider than its place, and is cut off there or has to be scrolled to. Printed
# tables alone may be scrolled, on a phone: wrapped lines would be worse to read.
HIDDEN = """phone => {
    const wide = [], article = document.querySelector("article"), page = document.documentElement
    if (page.scrollWidth > window.innerWidth) wide.push(`the page: ${page.scrollWidth} px`)
    for (const at of article.querySelectorAll("*")) {
        if (at.closest(".headerlink") || at.closest("math") && at.localName !== "math") continue
        if (phone && at.closest(".columns")) continue
        const scrolls = at.scrollWidth > at.clientWidth + 1 && getComputedStyle(at).overflowX !== "visible"
        const box = at.getBoundingClientRect(), sticksOut = box.right > article.getBoundingClientRect().right + 12
        const words = at.textContent.trim().slice(0, 60)
        if (box.width && (scrolls || sticksOut)) wide.push(`${at.localName}.${at.className}: ${words}`)
    }
    return wide
}"""
WORDS = """() => {
    const copy = document.querySelector("article").cloneNode(true)
    copy.querySelectorAll("pre, code, script, style").forEach(at => at.remove())
    return copy.textContent
}"""
# Of the page, and of the text of its code: the contrast to its background as WCAG defines it, and how light the page is.
LIGHT = """() => {
    const rgb = colour => colour.match(/[\\d.]+/g).map(Number)
    const linear = c => c <= 10 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4
    const luminance = ([r, g, b]) => [r, g, b].map(linear)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
    const behind = at => {
        for (; at; at = at.parentElement) { const c = rgb(getComputedStyle(at).backgroundColor); if (c[3] !== 0) return c }
        return [255, 255, 255]
    }
    const contrast = at => {
        const [a, b] = [luminance(rgb(getComputedStyle(at).color)), luminance(behind(at))].sort((a, b) => b - a)
        return (a + 0.05) / (b + 0.05)
    }
    const code = [...document.querySelectorAll("article pre span")].filter(at => at.textContent.trim())
    return {page: luminance(behind(document.querySelector("article"))),
            text: contrast(document.querySelector("article p, article li")),
            code: code.map(at => [contrast(at), at.className, at.textContent]).sort((a, b) => a[0] - b[0])[0] || [21]}
}"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. What the cells of pages printed is kept in site/cache, where a build by hand keeps it, too."""
    fcntl = pytest.importorskip("fcntl", reason="workers of pytest wait for one another by a lock that Windows has not")
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "site"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            # Pages run one after another: kernels that start at once may choose the same port.
            places = ["-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")]
            command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", *places]
            # The tests' eight devices are not what a reader of the pages has.
            outside = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
            run = subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stderr[-5000:]
            (folder / "built").touch()
    return folder / "html"


class Links(HTMLParser):
    """The targets of a page, what it links to, and the pictures without words for them."""

    def __init__(self, text: str):
        super().__init__()
        self.targets: set[str] = set()
        self.links: list[str] = []
        self.silent: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.targets |= {values[name] for name in ("id", "name") if name in values}
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag == "img" and not values.get("alt"):
            self.silent.append(values["src"])


def test_every_page_is_built(site: Path) -> None:
    assert set(PAGES) == {str(path.relative_to(site)) for path in site.rglob("*.html")} - {"genindex.html", "search.html"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(site: Path, page: str) -> None:
    found = Links((site / page).read_text())
    assert not found.silent, "a picture needs words for those who do not see it"
    for link in found.links:
        parts = urlsplit(link)
        if parts.scheme in ("http", "https", "mailto", "data"):
            continue
        path = (site / page).parent / unquote(parts.path) if parts.path else site / page
        assert path.exists(), link
        if parts.fragment and path.suffix == ".html":
            assert unquote(parts.fragment) in Links(path.read_text()).targets, link


class Quiet(SimpleHTTPRequestHandler):
    """A server that does not write a line for each request."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def tab(address: str) -> Iterator[sync_api.Page]:
    """A browser that reaches the site and nothing else; `complaints` has what it asked of others, and every error."""
    if CHROMIUM is None:
        pytest.skip("the pages are not looked at without Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.complaints = complaints = []  # pyright: ignore
        tab.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "request", lambda request: None if request.url.startswith((address, "data:")) else complaints.append(request.url)
        )
        tab.route(lambda url: not url.startswith((address, "data:")), lambda route: route.abort())
        yield tab
        browser.close()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_readable(tab: Any, address: str, page: str) -> None:
    tab.complaints.clear()
    tab.emulate_media(color_scheme="light")
    tab.set_viewport_size({"width": 1366, "height": 768})
    tab.goto(f"{address}/{page}")
    tab.wait_for_load_state("networkidle")
    assert tab.evaluate(HIDDEN, False) == []
    assert re.findall(r"\\[a-zA-Z]+\b|\$\$", tab.evaluate(WORDS)) == [], "TeX that is not an equation"
    assert tab.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)") == []
    day = tab.evaluate(LIGHT)
    tab.emulate_media(color_scheme="dark")
    night = tab.evaluate(LIGHT)
    assert day["page"] > 0.8 > 0.1 > night["page"]
    for light in (day, night):
        assert light["text"] > 7
        assert light["code"][0] > 4.5, "too little contrast to read"
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate(HIDDEN, True) == []
    assert tab.complaints == []


def test_the_browser_sees_what_is_hidden(tab: Any, address: str) -> None:
    """The measure itself, on a page that was broken for it."""
    tab.goto(f"{address}/index.html")
    tab.evaluate("document.querySelector('article p').innerHTML = '<code style=\"white-space: nowrap\">' + 'wide '.repeat(200)")
    assert any("wide wide" in line for line in tab.evaluate(HIDDEN, False))


@pytest.mark.parametrize(("words", "found"), [("MultiSteps", "reference/combinators.html"), ("install", "index.html")])
def test_search_finds(tab: Any, address: str, words: str, found: str) -> None:
    tab.goto(f"{address}/search.html?q={words}")
    tab.wait_for_selector("#search-results li a")
    tab.wait_for_load_state("networkidle")
    links = tab.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
    assert any(urlsplit(link).path == f"/{found}" for link in links[:8]), links
