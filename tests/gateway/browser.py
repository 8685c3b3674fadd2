"""A real Chromium without a window, and pages in it that report whatever a user's browser would complain of."""

import contextlib
import re
import shutil
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.async_api import Browser, Page, WebSocketRoute, async_playwright, expect

from tests.conftest import ON_CI

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no Chromium here: scripts/install-browser.sh installs one"
ARGUMENTS = [
    "--no-sandbox",  # root in CI; it visits nothing but our own page
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
DESKTOP = (1360, 900)
PHONE = (360, 780)
WAIT_S = 60

_REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


def chromium() -> str:
    """The program. Skips the test where there is none, and fails it on CI."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        if ON_CI:
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


@contextlib.asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """A browser with a profile of its own, which is gone afterwards."""
    program = chromium()
    expect.set_options(timeout=WAIT_S * 1000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Visit:
    """A page that was opened at `url`, and what was wrong with it so far."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)

    def one(self, selector: str) -> Any:
        """What `expect` and Playwright's actions take: the element that a CSS selector names."""
        return self.page.locator(selector)

    async def is_live(self) -> None:
        """Returns once events come in."""
        await expect(self.one("#connection")).to_have_text("Live")

    async def focused(self) -> str | None:
        """The id or the text of what has the focus, once it is seen to have it; None: the page itself."""
        name, outlined = await self.page.evaluate(
            "(() => { const at = document.activeElement; return at === document.body ? [null, true] : "
            "[at.id || at.textContent.trim(), getComputedStyle(at).outlineStyle !== 'none'] })()"
        )
        assert outlined, f"{name} does not show that it has the focus"
        found: str | None = name
        return found

    async def tab_to(self, name: str) -> None:
        """Presses Tab until something has the focus, by its id or its text."""
        for _ in range(30):
            await self.page.keyboard.press("Tab")
            if await self.focused() == name:
                return
        raise AssertionError(f"Tab does not come to {name}")

    async def faint(self) -> list[str]:
        """All texts whose contrast with what is behind them is below 4.5 : 1 (WCAG 2.2, 1.4.3), with that contrast."""
        faint: list[str] = await self.page.evaluate(_FAINT)
        return faint

    async def width(self) -> int:
        """How wide the page is, in CSS pixels; more than the window if it has to be scrolled sideways."""
        width: int = await self.page.evaluate("document.documentElement.scrollWidth")
        return width

    async def height(self) -> int:
        """How long the page is, in CSS pixels."""
        height: int = await self.page.evaluate("document.documentElement.scrollHeight")
        return height


class Cut:
    """Stands between the page and WS /events: while `away`, connections end at once."""

    def __init__(self) -> None:
        self.away = False
        self._open: list[WebSocketRoute] = []

    async def pass_on(self, socket: WebSocketRoute) -> None:
        """Takes a new connection."""
        if self.away:
            await socket.close(code=1001, reason="away")
            return
        socket.connect_to_server()
        self._open.append(socket)

    async def cut(self, reason: str) -> None:
        """Ends what is open, as the gateway ends that of a client that is too slow."""
        self.away = True
        for socket in self._open:
            await socket.close(code=1013, reason=reason)
        self._open.clear()


@contextlib.asynccontextmanager
async def visiting(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = DESKTOP,
    dark: bool = False,
    touch: bool = False,
    refused: Collection[int] = (),
    cut: Cut | None = None,
) -> AsyncIterator[Visit]:
    """Opens the dashboard, as a visitor who was never there before. In the end, everything must have been in order:
    no script failed, the console is empty, and no request went to another host. `refused`: statuses that are expected.
    """
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        has_touch=touch,
        reduced_motion="reduce",
    )
    context.set_default_timeout(WAIT_S * 1000)
    try:
        page = await context.new_page()
        visit = Visit(page, url)
        ours = (url + "/", url.replace("http", "ws", 1) + "/", "data:")

        def heard(kind: str, text: str) -> None:
            status = _REFUSED.match(text)
            if status is None or int(status[1]) not in refused:
                visit.faults.append(f"{kind}: {text}")

        def asked(address: str) -> None:
            if not address.startswith(ours):
                visit.faults.append(f"asks elsewhere: {address}")

        page.on("console", lambda line: heard(line.type, line.text))
        page.on("pageerror", lambda error: heard("script", str(error)))
        page.on("request", lambda request: asked(request.url))
        page.on("websocket", lambda socket: asked(socket.url))
        if cut is not None:
            await page.route_web_socket(re.compile("/events$"), cut.pass_on)
        await page.goto(url)
        yield visit
        assert visit.faults == []
    finally:
        await context.close()


_FAINT = """() => {
  const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const parse = (colour) => {
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = colour;
    pixel.fillRect(0, 0, 1, 1);
    return [...pixel.getImageData(0, 0, 1, 1).data];
  };
  const level = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return parse(getComputedStyle(document.body).backgroundColor);
  };
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest("noscript, script")) continue;
    const [text, ground] = [parse(getComputedStyle(element).color), behind(element)].map(level);
    const ratio = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    if (ratio < 4.5) faint.push(`${texts.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return faint;
}"""
