"""The list of past chats: found, renamed, pinned, exported, deleted, and the same in every tab."""

import re
from pathlib import Path
from uuid import uuid4

from playwright.sync_api import BrowserContext, Page, WebSocketRoute, expect

from tests.web.chatting import answers, chat_id, composer, expect_live, held, open_new, prose, rest, row_of, say

CURRENT = "[data-chats] [aria-current=page]"


def title() -> str:
    """One that no other test has: the list is one user's."""
    return f"T{uuid4().hex[:8]}"


def chat_with(page: Page, text: str) -> str:
    """A chat that has its address. Its id."""
    open_new(page, "assistant")
    say(page, text)
    expect(answers(page, "done")).to_have_count(1)
    page.wait_for_url("**/c/**")
    expect(page.locator(CURRENT)).to_be_visible()
    return chat_id(page)


def choose(page: Page, row: str, what: str) -> None:
    row_of(page, row).hover()
    row_of(page, row).get_by_role("button").click()
    page.get_by_role("menuitem", name=what).click()


def test_search_finds_titles_and_texts(page: Page):
    needle, other = title(), title()
    chat_with(page, f"{'long words before it ' * 5} {needle}")
    rest(page, "POST", "chats/", {"flow": "assistant", "title": other})
    search = page.get_by_label("Search your chats")
    search.fill(needle)
    expect(page.locator("[data-chats] a")).to_have_count(1)
    expect(page.locator("[data-chats] h2")).to_have_text("Found")
    search.fill(other)
    expect(page.locator("[data-chats] .chat-title")).to_have_text(other)
    search.fill(needle + "x")
    expect(page.locator("[data-chats] h2")).to_have_text("Nothing was found.")
    search.press("Escape")
    expect(row_of(page, other)).to_be_visible()


def test_new_name_is_in_every_tab(context: BrowserContext):
    first = context.new_page()
    before, after = title(), title()
    chat_with(first, before)
    second = context.new_page()
    second.goto(first.url)
    expect_live(second)
    choose(first, before, "Rename")
    first.get_by_label("Title").fill(after)
    first.keyboard.press("Enter")
    for tab in (first, second):
        expect(row_of(tab, after)).to_be_visible()
        expect(tab.locator("[data-title]")).to_have_text(after)
        expect(tab).to_have_title(f"{after} · Headrace")


def test_pinned_chat_stands_above_the_days(page: Page):
    name = title()
    chat = chat_with(page, name)
    choose(page, name, "Pin")
    expect(page.locator("[data-chats] section").first.locator("h2")).to_have_text("Pinned")
    expect(page.locator("[data-chats] section").first).to_contain_text(name)
    page.reload()
    expect(page.locator("[data-chats] section").first).to_contain_text(name)
    rest(page, "DELETE", f"chats/{chat}/")


def test_deleted_chat_is_gone_in_every_tab_and_can_be_brought_back(context: BrowserContext):
    first = context.new_page()
    name = title()
    chat_with(first, name)
    second = context.new_page()
    second.goto("/f/guide/")
    expect(row_of(second, name)).to_be_visible()
    choose(first, name, "Delete")
    for tab in (first, second):
        expect(row_of(tab, name)).to_have_count(0)
    expect(composer(first)).to_be_disabled()
    first.get_by_role("button", name="Undo").click()
    for tab in (first, second):
        expect(row_of(tab, name)).to_be_visible()
    expect_live(first)
    expect(composer(first)).to_be_enabled()
    expect(prose(first)).to_have_text(name)


def test_chat_whose_deletion_was_not_told_is_gone_when_the_list_is_read_again(page: Page):
    def without_lists(line: WebSocketRoute) -> None:
        server = line.connect_to_server()
        server.on_message(lambda frame: None if '"type":"chats"' in frame else line.send(frame))

    name = title()
    gone = chat_with(page, name)
    page.route_web_socket(re.compile("/chat/"), without_lists)
    open_new(page, "assistant")
    expect(row_of(page, name)).to_be_visible()
    rest(page, "DELETE", f"chats/{gone}/")
    say(page, title())
    expect(answers(page, "done")).to_have_count(1)
    expect(row_of(page, name)).to_have_count(0)


def test_chat_is_exported_as_markdown(page: Page):
    name = title()
    chat_with(page, name)
    with page.expect_download() as download:
        page.get_by_label("What to do with this chat").click()
        page.get_by_role("menuitem", name="Export as Markdown").click()
    assert download.value.suggested_filename.endswith(".md")
    text = Path(download.value.path()).read_text()
    assert text.startswith(f"# {name}") and text.count(name) == 3


def test_menu_is_walked_by_keys_and_gives_the_focus_back(page: Page):
    open_new(page, "assistant")
    button = page.get_by_label("What to do with this chat")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menu")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_role("menuitem").last).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("menuitem").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("menu")).to_have_count(0)
    expect(button).to_be_focused()


def test_answer_that_ended_elsewhere_is_marked_as_not_read(context: BrowserContext):
    page = context.new_page()
    name = title()
    open_new(page, "assistant")
    say(page, f"{name} {held()}")
    expect(answers(page, "running")).to_be_visible()
    page.wait_for_url("**/c/**")
    chat = page.url
    page.goto("/f/guide/")
    row = row_of(page, name)
    expect(row.get_by_label("An answer is being written")).to_be_visible()
    elsewhere = context.new_page()
    elsewhere.goto(chat)
    elsewhere.get_by_role("button", name="Stop").click()
    expect(answers(elsewhere, "stopped")).to_be_visible()
    expect(row.locator(".chat-mark")).to_have_count(0)  # it was read where it ended


def test_answer_nobody_saw_end_is_marked_as_not_read(page: Page):
    name = title()
    open_new(page, "assistant")
    say(page, f"{name} {held()}")
    expect(answers(page, "running")).to_be_visible()
    page.wait_for_url("**/c/**")
    chat = chat_id(page)
    page.goto("/f/guide/")
    expect_live(page)
    expect(row_of(page, name).get_by_label("An answer is being written")).to_be_visible()
    newest = rest(page, "GET", f"chats/{chat}/messages/")["results"][0]
    assert newest["role"] == "user"
    turn = newest["turn"]
    rest(page, "POST", f"turns/{turn}/stop/", {})
    expect(row_of(page, name).get_by_label("Not read yet")).to_be_visible()
    page.goto(f"/c/{chat}/")
    expect(row_of(page, name)).to_be_visible()
    expect(row_of(page, name).get_by_label("Not read yet")).to_have_count(0)


def test_stop_in_one_tab_is_seen_in_the_other_after_a_reload(context: BrowserContext):
    first = context.new_page()
    open_new(first, "assistant")
    say(first, held())
    expect(prose(first)).to_contain_text("w0")
    first.wait_for_url("**/c/**")
    second = context.new_page()
    second.goto(first.url)
    second.get_by_role("button", name="Stop").click()
    for tab in (first, second):
        expect(answers(tab, "stopped")).to_be_visible()
