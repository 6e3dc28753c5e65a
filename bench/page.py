"""How fluid the chat page stays: `python -m bench.page`. Prints the figures and judges nothing.

A chat of 500 messages, and an answer of 20,000 tokens at 100 a second, in Chromium with a socket of this script's own
behind the real page. Counted are frames (the time between two `requestAnimationFrame`) and tasks of the main thread
over 50 ms (the browser's own `longtask` entries). Run it on a machine that does nothing else.
"""

import argparse
import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, WebSocketRoute, sync_playwright

from tests.server import HeadraceServer

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
FRAME_MS = 50
LINE = "the water runs over the wheel and the mill grinds on as it did before **every** day of `that` long year"
WORDS = LINE.split(" ")
WATCH = """() => {
    window.measured = { frames: [], tasks: [] };
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) measured.tasks.push(entry.duration);
    }).observe({ type: "longtask" });
    let last = performance.now();
    const tick = (now) => {
        measured.frames.push(now - last);
        last = now;
        requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
}"""


def tokens(count: int) -> list[str]:
    """Prose in paragraphs, with a code block and a list now and then, as a model writes."""
    texts = []
    for number in range(count):
        if number % 400 == 399:
            texts.append("\n\n```python\nfor wheel in mill:\n    wheel.turn()\n```\n\n")
        elif number % 90 == 89:
            texts.append("\n\n- an item\n- another\n\n")
        else:
            texts.append(f"{WORDS[number % len(WORDS)]} ")
    return texts


def message(number: int) -> dict[str, Any]:
    role = "assistant" if number % 2 else "user"
    text = "".join(tokens(400 if number % 2 else 12))
    return {
        "id": f"m{number}", "chat": "c", "role": role, "parent": f"m{number - 1}" if number else None, "turn": None,
        "parts": [{"id": f"p{number}", "kind": "text", "text": text}], "status": "done", "client_id": None,
        "feedback": None, "created": f"2026-01-01T{number // 60:02}:{number % 60:02}:00.000Z",
    }  # fmt: skip


class Chat:
    """The server's side of the page's socket: a history, and an answer at its pace."""

    def __init__(self, messages: int) -> None:
        self.history = [message(number) for number in range(messages)]
        self.line: WebSocketRoute | None = None
        self.seq = 0

    def serve(self, line: WebSocketRoute) -> None:
        self.line = line
        line.on_message(lambda _: None)
        flow = {"id": "f", "slug": "guide", "name": "Guide", "version": 1, "greeting": "", "suggestions": []}
        limits = {"text_chars": 32000, "frame_bytes": 262144, "file_bytes": 1}
        head = self.history[-1]["id"] if self.history else None
        self._send(type="welcome", epoch="e", seq=0, trace="t", chat="c", flow=flow, limits=limits, resumed=False)
        chat = {"id": "c", "rev": 1, "title": "A long chat", "head": head}
        self._send(type="snapshot", epoch="e", seq=0, chat=chat, messages=self.history, more=False, turns=[])

    def begin(self) -> None:
        said = message(len(self.history) // 2 * 2) | {"id": "said"}
        said["parent"] = self.history[-1]["id"] if self.history else None
        self._event(type="turn_start", turn="t", message=said, answer="a", attempt=1, skill="flow", parts=[])
        self._event(type="part", turn="t", part="x", kind="text")

    def delta(self, text: str) -> None:
        self._event(type="delta", part="x", text=text)

    def _event(self, **frame: Any) -> None:
        self.seq += 1
        self._send(seq=self.seq, **frame)

    def _send(self, **frame: Any) -> None:
        assert self.line is not None
        self.line.send(json.dumps(frame))


def stream(page: Page, chat: Chat, count: int, rate: float) -> None:
    chat.begin()
    began = time.monotonic()
    for number, text in enumerate(tokens(count)):
        chat.delta(text)
        ahead_s = began + (number + 1) / rate - time.monotonic()
        if ahead_s > 0:
            page.wait_for_timeout(ahead_s * 1000)


def told(name: str, page: Page) -> str:
    measured = page.evaluate("measured")
    frames = sorted(measured["frames"])
    slow = [frame for frame in frames if frame > FRAME_MS]
    tasks = [task for task in measured["tasks"] if task > FRAME_MS]
    p99 = frames[int(len(frames) * 0.99)] if frames else 0
    return (
        f"{name}: {len(frames)} frames, p99 {p99:.1f} ms, longest {max(frames, default=0):.1f} ms, "
        f"{len(slow)} over {FRAME_MS} ms; {len(tasks)} tasks over {FRAME_MS} ms, longest {max(tasks, default=0):.0f} ms"
    )


def sign_in(page: Page, server: HeadraceServer) -> None:
    page.goto("/login/")
    page.locator("#id_username").fill("demo")
    page.locator("#id_password").fill(server.passwords["demo"])
    page.locator("form button[type=submit]").click()
    page.wait_for_selector("h1")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=100, help="tokens a second")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = HeadraceServer(Path(folder) / "data")
        server.setup()
        server.start()
        path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page(base_url=server.url, viewport={"width": 1200, "height": 800})
            sign_in(page, server)
            chat = Chat(chosen.messages)
            page.route_web_socket(re.compile("/chat/"), chat.serve)
            page.add_init_script(f"({WATCH})()")
            began = time.monotonic()
            page.goto("/f/guide/")
            page.locator(".message").nth(max(0, chosen.messages - 1)).wait_for(state="attached")
            print(f"{chosen.messages} messages shown after {time.monotonic() - began:.2f} s")
            print(told("opening", page))
            page.evaluate("measured.frames = []; measured.tasks = []")
            for _ in range(20):
                page.mouse.move(600, 400)
                page.mouse.wheel(0, -1500)
                page.wait_for_timeout(100)
            print(told("scrolling up", page))
            page.locator("[data-to-end]").click()
            page.evaluate("measured.frames = []; measured.tasks = []")
            stream(page, chat, chosen.tokens, chosen.rate)
            print(told(f"{chosen.tokens} tokens at {chosen.rate:g}/s under {chosen.messages} messages", page))
        finally:
            browser.close()
            server.kill()


if __name__ == "__main__":
    main()
