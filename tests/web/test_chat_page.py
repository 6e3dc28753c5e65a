"""The chat page in Chromium, on a real server."""

import json
import re

from playwright.sync_api import BrowserContext, Page, WebSocketRoute, expect

from tests.server import HeadraceServer
from tests.web.chatting import (
    answers,
    composer,
    expect_live,
    fake,
    held,
    open_new,
    prose,
    rest,
    right_of,
    say,
    until,
    words,
)
from tests.web.editing import Api

VAULT = {
    "nodes": [
        {"id": "start", "kind": "start", "fields": {"suggestions": ["Open it"]}},
        {"id": "ask", "kind": "question", "fields": {"text": "Your PIN?", "secret": True}},
        {"id": "say", "kind": "message", "fields": {"text": "Thank you."}},
        {"id": "end", "kind": "end"},
    ],
    "edges": [{"from": "start", "to": "ask"}, {"from": "ask", "to": "say"}, {"from": "say", "to": "end"}],
}
PIN = "7355608"
RECORD_STORAGE = """
    window.stored = [];
    const { setItem } = Storage.prototype;
    Storage.prototype.setItem = function (key, value) {
        window.stored.push(value);
        setItem.call(this, key, value);
    };
"""
CHAT_URL = re.compile(r"/c/[0-9a-f-]{36}/$")


def test_guide_answers_and_the_chat_gets_an_address_and_a_place_in_the_list(page: Page):
    page.goto("/")
    page.get_by_role("link", name="Chat with Guide").click()
    expect_live(page)
    page.get_by_role("button", name="What is Headrace?").click()
    expect(answers(page, "done")).to_be_visible(timeout=60_000)
    expect(page).to_have_url(CHAT_URL)
    expect(prose(page).locator("strong").first).to_have_text("Headrace")
    expect(page.locator("[data-chats] [aria-current=page] .chat-title")).to_have_text("What is Headrace?")
    expect(page).to_have_title("What is Headrace? · Headrace")


def test_refresh_in_mid_answer_loses_and_doubles_nothing(page: Page):
    open_new(page, "assistant")
    said = words(600)
    say(page, said)
    expect(prose(page)).to_contain_text("w40 ")
    for _ in range(3):
        page.reload()
        expect(prose(page)).to_contain_text("w40 ")
    expect(answers(page, "done")).to_be_visible()
    assert prose(page).inner_text() == said
    assert answers(page).count() == 1


def test_two_tabs_are_in_step(context: BrowserContext):
    first = context.new_page()
    open_new(first, "assistant")
    say(first, words(300))
    expect(first).to_have_url(CHAT_URL)
    second = context.new_page()
    second.goto(first.url)
    for tab in (first, second):
        expect(answers(tab, "done")).to_be_visible()
    assert prose(first).inner_text() == prose(second).inner_text() == words(300)
    say(second, "and you?")
    expect(prose(first)).to_have_text("and you?")


def test_stop_is_there_before_the_first_token(page: Page):
    open_new(page, "assistant")
    say(page, fake(first_s=500) + " slow")
    page.get_by_role("button", name="Stop").click()
    expect(answers(page, "stopped")).to_contain_text("Stopped before anything was written")


def test_escape_stops_and_keeps_what_was_written(page: Page):
    open_new(page, "assistant")
    say(page, held(after=5))
    expect(prose(page)).to_contain_text("w1")
    page.keyboard.press("Escape")
    expect(answers(page, "stopped")).to_be_visible()
    shown = prose(page).inner_text()
    assert words(20).startswith(shown) and "w1" in shown
    page.reload()
    expect(prose(page)).to_have_text(shown)


def test_wizard_is_answered_by_keyboard_alone(page: Page):
    open_new(page, "wizard")
    say(page, "Hello")
    option = page.locator(".question.open .option").first
    expect(option).to_be_enabled()
    option.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".question.open textarea")).to_be_focused()
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    expect(page.locator(".question.open input").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(answers(page, "done")).to_contain_text("Ada")
    assert page.locator(".question.closed").count() == 3


def test_question_is_there_after_a_refresh_and_answered_in_the_composer(page: Page):
    open_new(page, "wizard")
    say(page, "Hello")
    expect(page.locator(".question.open .option").first).to_be_visible()
    page.reload()
    label = page.locator(".question.open .option").first.inner_text()
    say(page, label)
    expect(page.locator(".question.closed").first).to_contain_text(label)
    assert page.locator(".message.user").count() == 1


def open_vault(page: Page, server: HeadraceServer) -> None:
    """At a secret question, with something in the composer that was written before it."""
    api = Api(server)
    flow = api.flow("Vault", VAULT)
    api("POST", f"flows/{flow['id']}/publish/", {})
    open_new(page, flow["slug"])
    composer(page).fill("for later")
    page.locator(".suggestion").click()
    expect(page.locator(".question.open input[type=password]")).to_be_visible()
    page.wait_for_url("**/c/**")


def test_secret_in_the_composer_goes_to_its_question_and_is_kept_nowhere(page: Page, web_server: HeadraceServer):
    page.add_init_script(RECORD_STORAGE)
    sent: list[str] = []
    page.on("websocket", lambda line: line.on("framesent", lambda frame: sent.append(str(frame))))
    open_vault(page, web_server)
    composer(page).fill(PIN)
    page.evaluate("dispatchEvent(new Event('pagehide'))")  # as if left: drafts are kept now
    composer(page).press("Enter")
    expect(answers(page, "done")).to_contain_text("Thank you.")
    expect(page.locator(".message.user .said")).to_have_text(["Open it"])
    assert [json.loads(frame)["type"] for frame in sent if PIN in frame] == ["answer"]
    stored = page.evaluate("window.stored")
    assert "for later" in stored and PIN not in "".join(stored)


def test_secret_in_the_composer_is_gone_when_another_tab_has_answered(
    context: BrowserContext, web_server: HeadraceServer
):
    page, other = context.new_page(), context.new_page()
    open_vault(page, web_server)
    composer(page).fill(PIN)
    other.goto(page.url)
    other.locator(".question.open input").fill("another")
    other.keyboard.press("Enter")
    expect(answers(page, "done")).to_contain_text("Thank you.")
    expect(composer(page)).to_have_value("for later")


def test_bad_form_value_is_told_at_its_field(page: Page):
    open_new(page, "wizard")
    say(page, "Hello")
    page.locator(".question.open .option").first.click()
    page.locator(".question.open textarea").fill("Ada")
    page.get_by_role("button", name="Answer", exact=True).click()
    number = page.locator(".question.open input[type=number]")
    number.fill("99999")
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(number).to_be_focused()
    expect(page.locator(".field", has=page.locator("input[type=number]")).get_by_role("alert")).not_to_be_empty()


def test_error_is_told_in_place_and_tried_again(page: Page):
    open_new(page, "assistant")
    say(page, fake(fault="cut", after=6, times=1) + " " + words(40))
    problem = answers(page, "error").locator(".problem")
    expect(problem).to_contain_text("provider_cut")
    expect(prose(page)).to_contain_text("w0")
    page.reload()
    expect(problem).to_contain_text("provider_cut")
    page.get_by_role("button", name="Try again").click()
    expect(answers(page, "done")).to_contain_text("w39")
    expect(page.locator(".branch-place")).to_have_text("2/2")


def test_error_stays_within_a_phone(page: Page):
    page.set_viewport_size({"width": 390, "height": 780})
    open_new(page, "assistant")
    say(page, fake(fault="cut", after=6) + " " + words(40))
    expect(answers(page, "error").locator(".trace")).to_be_visible()
    assert right_of(page, ".problem, .problem *") <= right_of(page, ".problem") < 390


def test_cut_line_comes_back_by_position_without_a_word(page: Page):
    urls: list[str] = []
    lines: list[WebSocketRoute] = []

    def through(line: WebSocketRoute) -> None:
        urls.append(line.url)
        line.connect_to_server()
        lines.append(line)

    page.route_web_socket(re.compile("/chat/"), through)
    open_new(page, "assistant")
    said = words(900)
    say(page, fake(rate=150) + said)
    for cut in range(3):
        until(page, lambda cut=cut: len(lines) == cut + 1)
        expect(prose(page)).to_contain_text(f"w{150 * cut + 10} ")
        lines[-1].close(code=3001)
    expect(answers(page, "done")).to_be_visible()
    assert prose(page).inner_text() == said
    until(page, lambda: len(urls) == 4)
    assert all("epoch=" in url and "seq=" in url for url in urls[1:])


def test_lost_line_is_told_with_its_next_try_and_what_was_sent_goes_out_once(page: Page):
    is_down = False
    lines: list[WebSocketRoute] = []

    def through(line: WebSocketRoute) -> None:
        if is_down:
            line.close(code=3001)
            return
        line.connect_to_server()
        lines.append(line)

    page.route_web_socket(re.compile("/chat/"), through)
    open_new(page, "assistant")
    say(page, "one")
    expect(prose(page)).to_have_text("one")
    is_down = True
    lines[-1].close(code=3001)
    say(page, "two")
    expect(page.locator(".message.user").last).to_contain_text("Sending")
    expect(page.locator("[data-line]")).to_contain_text(re.compile(r"Attempt \d+, next try in \d+ second"))
    is_down = False
    page.get_by_role("button", name="Try now").dispatch_event("click")
    expect(prose(page)).to_have_text("two")
    expect(page.locator("[data-line]")).to_be_hidden()
    page.reload()
    expect(page.locator(".message.user .said")).to_have_text(["one", "two"])


def test_whole_blocks_are_not_painted_again(page: Page):
    open_new(page, "assistant")
    say(page, fake(rate=60) + "First paragraph.\n\nSecond one.\n\n" + words(200))
    expect(prose(page).locator("p")).to_have_count(3)
    first = prose(page).locator("p").first.element_handle()
    expect(answers(page, "done")).to_be_visible()
    assert first.evaluate("node => node.isConnected")


def test_edit_makes_a_branch_and_arrows_walk_it(page: Page):
    open_new(page, "assistant")
    say(page, "red")
    expect(prose(page)).to_have_text("red")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("blue")
    page.keyboard.press("Enter")
    expect(prose(page)).to_have_text("blue")
    expect(answers(page, "done")).to_be_visible()
    page.get_by_role("button", name="Earlier version").click()
    expect(prose(page)).to_have_text("red")
    page.reload()
    expect(prose(page)).to_have_text("red")


def test_messages_queue_while_an_answer_runs_and_can_be_taken_back(page: Page):
    open_new(page, "assistant")
    say(page, held())
    expect(answers(page, "running")).to_be_visible()
    say(page, "second")
    say(page, "third")
    queued = page.locator(".message.user[data-status=queued]")
    expect(queued).to_have_count(2)
    expect(queued.last).to_contain_text("number 2 in the queue")
    queued.last.get_by_role("button", name="Take back").click()
    expect(queued).to_have_count(1)
    expect(composer(page)).to_have_value("third")
    page.get_by_role("button", name="Stop").click()
    expect(prose(page)).to_have_text("second")
    expect(answers(page, "done")).to_have_count(1)


def test_shift_enter_breaks_and_an_input_method_does_not_send(page: Page):
    open_new(page, "assistant")
    composer(page).fill("one")
    composer(page).press("Shift+Enter")
    composer(page).press_sequentially("two")
    composer(page).dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    expect(composer(page)).to_have_value("one\ntwo")
    composer(page).press("Enter")
    expect(page.locator(".message.user .said")).to_have_text("one\ntwo")
    expect(composer(page)).to_be_focused()


def test_draft_is_kept_over_a_reload(page: Page):
    open_new(page, "assistant")
    composer(page).fill("half a thought")
    page.reload()
    expect(composer(page)).to_have_value("half a thought")
    composer(page).fill("")
    page.reload()
    expect_live(page)
    expect(composer(page)).to_have_value("")


def test_reader_who_scrolls_up_is_left_alone_until_he_asks(page: Page):
    open_new(page, "assistant")
    say(page, held("\n\n".join(f"Paragraph {number}." for number in range(120)), after=200))
    expect(prose(page)).to_contain_text("Paragraph 98.")
    page.locator("[data-scroller]").hover()
    page.mouse.wheel(0, -400)
    expect(page.get_by_role("button", name="To the end")).to_be_visible()
    until(page, lambda: page.evaluate("document.querySelector('[data-scroller]').scrollTop") > 0)
    say(page, "more")
    page.mouse.wheel(0, -400)
    page.get_by_role("button", name="Stop").click()
    new = page.get_by_role("button", name="New below")
    expect(new).to_be_visible()
    expect(answers(page, "done")).to_have_count(1)
    below = "(box => box.scrollHeight - box.scrollTop - box.clientHeight)(document.querySelector('[data-scroller]'))"
    assert page.evaluate(below) > 100
    new.click()
    expect(prose(page)).to_be_in_viewport()
    expect(new).to_be_hidden()


def test_phone_has_one_column_and_a_drawer(context: BrowserContext):
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 780})
    open_new(page, "guide")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.get_by_role("link", name="New chat")).not_to_be_in_viewport()
    page.get_by_role("button", name="Open the list of chats").click()
    expect(page.get_by_role("link", name="New chat")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="New chat")).not_to_be_in_viewport()


def test_look_is_chosen_kept_with_the_user_and_there_before_any_script(page: Page, context: BrowserContext):
    page.goto("/")
    try:
        for look in ("light", "dark"):
            with page.expect_response("**/api/me/"):
                page.locator("[data-look]").click()
            expect(page.locator("html")).to_have_attribute("data-theme", look)
        page.evaluate("localStorage.clear()")
        page.route("**/theme.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
        page.goto("/")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    finally:
        rest(page, "PATCH", "me/", {"theme": ""})


def test_ended_sign_in_is_told(page: Page, context: BrowserContext):
    open_new(page, "guide")
    context.clear_cookies()
    page.evaluate("window.dispatchEvent(new Event('pageshow'))")
    page.route("**/api/**", lambda route: route.fulfill(json={"results": [], "next": None}))
    page.evaluate("window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    expect(page.locator("[data-line]")).to_contain_text("Sign in again")
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()


def test_flow_that_went_offline_is_told(page: Page):
    refusal = {"type": "error", "code": "flow_offline", "text": "This flow is offline.", "trace": "abc"}

    def refuse(line: WebSocketRoute) -> None:
        line.send(json.dumps(refusal))
        line.close(code=1008, reason="flow_offline")

    page.route_web_socket(re.compile("/chat/"), refuse)
    page.goto("/f/guide/")
    expect(page.locator("[data-line]")).to_contain_text("This flow is offline.")
    expect(page.locator("[data-line]")).not_to_contain_text("abc")
    expect(page.get_by_role("button", name="Look again")).to_be_visible()
    expect(page.get_by_role("button", name="Add files")).to_be_disabled()
    expect(composer(page)).to_be_disabled()
