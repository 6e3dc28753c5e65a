"""axe finds nothing serious on any page, light or dark; and no page is wider than a phone."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.server import HeadraceServer
from tests.web.chatting import answers, expect_live, held, open_new, prose, say

AXE = (Path(__file__).parent / "vendor/axe-core-4.14.1/axe.min.js").read_text()
RICH = """\
# A heading

A [link](https://example.com/a) and `code`, **bold**.

- [x] done
- open

> a quote

| a | b |
| --- | ---: |
| 1 | 2 |

```python
def f(x):  # why
    return "text" + 1
```
"""


def faults(page: Page) -> list[str]:
    """What axe calls serious or critical, in both looks."""
    found = []
    for look in ("light", "dark"):
        page.evaluate("look => { document.documentElement.dataset.theme = look; }", look)
        page.evaluate(AXE)
        result = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        for fault in result["violations"]:
            if fault["impact"] in ("serious", "critical"):
                where = [node["target"] for node in fault["nodes"]][:4]
                found.append(f"{look}: {fault['id']} {where} {fault['nodes'][0]['failureSummary']}")
    return found


def is_within(page: Page, width: int) -> bool:
    return page.evaluate("document.documentElement.scrollWidth") <= width


def test_sign_in_page(browser: Browser, web_server: HeadraceServer):
    page = browser.new_page(base_url=web_server.url)
    page.goto("/login/")
    page.get_by_label("Name").fill("nobody")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert faults(page) == []
    page.set_viewport_size({"width": 320, "height": 640})
    assert is_within(page, 320)
    page.close()


def test_flows_and_what_is_not_there(page: Page):
    page.goto("/")
    assert faults(page) == []
    page.set_viewport_size({"width": 320, "height": 640})
    assert is_within(page, 320)
    page.goto("/nothing/here/")
    assert faults(page) == []


def test_chat_with_an_answer_its_tools_and_its_dialogs(page: Page):
    open_new(page, "assistant")
    say(page, RICH)
    expect(answers(page, "done")).to_have_count(1)
    page.get_by_role("button", name="Bad answer").click()
    answers(page).locator(".steps summary").first.click()
    expect(answers(page).locator(".steps-list > li").first).to_be_visible()
    assert faults(page) == []
    page.get_by_label("What to do with this chat").click()
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    expect(page.get_by_role("option").first).to_be_visible()
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 320, "height": 640})
    assert is_within(page, 320)
    page.get_by_role("button", name="Open the list of chats").click()
    assert faults(page) == []


def test_chat_with_a_question_and_a_doubt(page: Page):
    open_new(page, "wizard")
    say(page, "Hello")
    expect(page.locator(".question.open .option").first).to_be_visible()
    say(page, "water")
    expect(page.locator("[data-said] button").first).to_be_visible()
    assert faults(page) == []
    page.get_by_role("button", name="Send all the same").click()
    expect(answers(page, "stopped")).to_be_visible()  # its question with it
    page.get_by_role("button", name="Decline").click()
    expect(page.locator(".question.open textarea")).to_be_visible()
    page.locator(".question.open textarea").fill("Ada")
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.locator(".question.open input").first).to_be_visible()
    assert faults(page) == []


def test_chat_with_a_queue_and_a_running_answer(page: Page):
    open_new(page, "assistant")
    say(page, held())
    expect(prose(page)).to_contain_text("w0")
    say(page, "next")
    expect(page.locator("[data-status=queued]")).to_have_count(1)
    assert faults(page) == []
    page.get_by_role("button", name="Stop").click()
    expect(answers(page, "done")).to_have_count(1)


@pytest.mark.parametrize("path", ["/", "/f/guide/"])
def test_page_is_reached_by_keyboard_from_its_skip_link(page: Page, path: str):
    page.set_viewport_size({"width": 390, "height": 780})  # where the field does not take the focus by itself
    page.goto(path)
    if path != "/":
        expect_live(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
