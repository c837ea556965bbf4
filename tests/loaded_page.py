"""Pages with a map or an image, loaded in a real browser."""

import json
import time

LEVELS = """(c) => new Set(c.getContext("2d").getImageData(0, 0, c.width, c.height).data
    .filter((_, i) => i % 4 === 0)).size"""
"""Different levels of red on a canvas."""


class LoadedPage:
    """A loaded page, and what went wrong on it."""

    def __init__(self, browser, path):
        self.page = browser.new_page(viewport={"width": 1400, "height": 950})
        self.errors, self.requests = [], []
        self.page.on("console", self.note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        start = time.perf_counter()
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]")
        self.settle()
        self.seconds = time.perf_counter() - start

    def note(self, message):
        """Keep the errors of the console; the tests' own reading of pixels makes it warn."""
        if message.type == "error":
            self.errors.append(message.text)

    def check(self):
        """Nothing went wrong, and the page is self-contained: the file and data URIs only."""
        assert not self.errors
        assert all(url.startswith(("file:", "data:")) for url in self.requests), self.requests

    def settle(self):
        """Wait for what has been asked for to be drawn."""
        self.page.evaluate("() => new Promise((r) => requestAnimationFrame(() => "
                           "requestAnimationFrame(r)))")  # fmt: skip

    @property
    def view(self):
        """Centre (image pixels) and zoom (screen pixels an image pixel)."""
        data = self.page.eval_on_selector("#sky", "(c) => ({...c.dataset})")
        return tuple(float(data[key]) for key in ("x", "y", "zoom"))

    @property
    def drawn(self):
        """What is on the screen, by kind."""
        return json.loads(self.page.get_attribute("#sky", "data-drawn"))

    def screen(self, x, y):
        """Where an image pixel is on the screen."""
        self.page.locator("#sky").scroll_into_view_if_needed()
        box = self.page.locator("#sky").bounding_box()
        cx, cy, zoom = self.view
        return (
            box["x"] + box["width"] / 2 + (x - cx) * zoom,
            box["y"] + box["height"] / 2 - (y - cy) * zoom,
        )
