"""Label Studio in headless Chromium: somebody logs in, opens a task and looks."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps
from playwright.sync_api import FloatRect, Page, sync_playwright

from tests.label_studio.server import Server

_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb")
_SIZE = (1340, 650)
_PATIENCE_MS = 60_000
_CLICK_MS = 300
"""Between clicks that are not to count as a double click."""
_DRAWN_MS = 2_500
"""What the editor takes to draw its regions, once the picture is there; it tells nobody."""


def chromium() -> str | None:
    """The program of the system, else that of `CHROMIUM`."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = (shutil.which(name) for name in names)
    return os.environ.get("CHROMIUM") or next((path for path in found if path), None)


@contextmanager
def logged_in(server: Server) -> Iterator[Page]:
    """A page of the server's user.

    Raises:
        RuntimeError: this machine has no Chromium.

    """
    program = chromium()
    if program is None:
        raise RuntimeError("no Chromium here; install it (`apt-get install -y chromium`) or name it in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            width, height = _SIZE
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(_PATIENCE_MS)
            page.goto(f"{server.url}/user/login/")
            page.fill("input[name=email]", server.email)
            page.fill("input[name=password]", server.password)
            page.click("button[type=submit]")
            page.wait_for_url(lambda url: "/login" not in url)
            yield page
        finally:
            browser.close()


def open_task(page: Page, server: Server, project: int, task: int) -> None:
    """The task in the editor, as drawn."""
    page.goto(f"{server.url}/projects/{project}/data?task={task}")
    page.wait_for_selector(".lsf-main-content, .lsf-editor", state="visible")
    page.wait_for_selector("canvas", state="attached")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(_DRAWN_MS)


def picture_box(page: Page) -> FloatRect:
    """Where the editor shows the picture."""
    box = page.locator(".lsf-image img").first.bounding_box()
    if box is None:
        raise AssertionError("the editor shows no picture")
    return box


def open_data_manager(page: Page, server: Server, project: int) -> None:
    page.goto(f"{server.url}/projects/{project}/data")
    page.wait_for_selector("text=Submitted annotations", state="visible")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(_DRAWN_MS)


def auto_annotate(page: Page) -> None:
    """Switch smart tools on in the open task. Label Studio keeps the switch in the browser."""
    if not page.get_by_text("Auto-Accept Suggestions").count():
        page.get_by_text("Auto-Annotation").click()
    page.wait_for_selector("text=Auto-Accept Suggestions", state="visible")


def choose_smart_tool(page: Page, place: int = 0) -> None:
    """The button of smart tools chooses the first of them, and with each more click the next."""
    button = page.locator("button.lsf-tool_smart").first
    for _ in range(place + 1):
        button.click()


def choose_tool(page: Page, name: str) -> None:
    page.locator(f'button[aria-label="{name}"]:not(.lsf-tool_smart)').click()


def choose_label(page: Page, key: str) -> None:
    """By its key, after the tool is chosen."""
    page.keyboard.press(key)
    page.wait_for_selector(".lsf-label_selected", state="attached")


def click_picture(page: Page, *points: tuple[float, float], alt: bool = False) -> None:
    """Places in percent of the picture's sides."""
    for point in points:
        x, y = _on_page(page, point)
        page.mouse.move(x, y)
        if alt:
            page.keyboard.down("Alt")
        page.mouse.click(x, y)
        if alt:
            page.keyboard.up("Alt")
        page.wait_for_timeout(_CLICK_MS)


def drag_on_picture(page: Page, *points: tuple[float, float]) -> None:
    """From the first to the last with the button down."""
    first, *others = (_on_page(page, point) for point in points)
    page.mouse.move(*first)
    page.mouse.down()
    for x, y in others:
        page.mouse.move(x, y, steps=5)
    page.mouse.up()


def save_screenshot(page: Page, path: Path) -> None:
    """What the page shows, small: the last bits of noise are left out."""
    seen = ImageOps.posterize(Image.open(BytesIO(page.screenshot())).convert("RGB"), 6)
    seen.save(path, optimize=True)


def _on_page(page: Page, point: tuple[float, float]) -> tuple[float, float]:
    box = picture_box(page)
    return box["x"] + box["width"] * point[0] / 100, box["y"] + box["height"] * point[1] / 100
