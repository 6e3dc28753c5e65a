"""What stands around a message: its steps, thumbs, files, keys, doubts and faults."""

import json
import re

from playwright.sync_api import BrowserContext, Page, WebSocketRoute, expect

from tests.web.chatting import (
    answers,
    chat_id,
    composer,
    fake,
    held,
    open_new,
    prose,
    rest,
    say,
    until,
    words,
)


def refuse_sockets(page: Page, code: str, text: str) -> None:
    def refuse(line: WebSocketRoute) -> None:
        line.send(json.dumps({"type": "error", "code": code, "text": text, "trace": "abc"}))
        line.close(code=1008, reason=code)

    page.route_web_socket(re.compile("/chat/"), refuse)


def answered(page: Page, text: str, flow: str = "assistant") -> None:
    open_new(page, flow)
    say(page, text)
    expect(answers(page, "done")).to_have_count(1)
    page.wait_for_url("**/c/**")


# ------------------------------------------------------------------------------------------------- steps


def test_steps_are_there_after_a_reload_with_time_and_result(page: Page):
    answered(page, "red")
    for _ in range(2):
        steps = answers(page).locator(".steps")
        steps.locator("summary").first.click()
        expect(steps.locator(".steps-list > li")).to_have_count(3)
        expect(steps.locator(".step-time").first).to_have_text(re.compile(r"\d (ms|s)"))
        steps.get_by_text("Result").last.click()
        page.reload()


def test_steps_are_there_after_a_reload_in_mid_answer(page: Page):
    open_new(page, "assistant")
    say(page, held())
    expect(prose(page)).to_contain_text("w0")
    page.reload()
    steps = answers(page, "running").locator(".steps")
    steps.locator("summary").first.click()
    expect(steps.locator("[data-state=end]")).to_have_count(1)
    expect(steps.locator("[data-state=start]")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(answers(page, "stopped")).to_be_visible()


# ------------------------------------------------------------------------------------------------ thumbs


def test_thumb_and_its_comment_are_kept_and_can_be_taken_back(page: Page):
    answered(page, "red")
    bad = page.get_by_role("button", name="Bad answer")
    bad.click()
    comment = page.get_by_label("What was good or bad about it?")
    comment.fill("It is not blue.")
    with page.expect_response(re.compile("/feedback/")) as kept:
        page.locator(".feedback").get_by_role("button", name="Send").click()
    assert kept.value.ok
    page.reload()
    expect(bad).to_have_attribute("aria-pressed", "true")
    expect(comment).to_have_value("It is not blue.")
    with page.expect_response(re.compile("/feedback/")) as taken:
        bad.click()
    assert taken.value.ok
    page.reload()
    expect(bad).to_have_attribute("aria-pressed", "false")


# -------------------------------------------------------------------------------------------------- keys


def test_palette_finds_what_can_be_done_and_flows(page: Page):
    open_new(page, "assistant")
    page.keyboard.press("Control+k")
    palette = page.get_by_role("combobox", name="Find a chat")
    expect(palette).to_be_focused()
    palette.fill("wizard")
    expect(page.get_by_role("option", name="Chat with Wizard")).to_be_visible()
    expect(page.get_by_role("option")).to_have_count(1)
    palette.press("Enter")
    page.wait_for_url("**/f/wizard/")


def test_palette_says_that_nothing_was_found_and_one_escape_closes_it(page: Page):
    open_new(page, "assistant")
    page.keyboard.press("Control+k")
    palette = page.get_by_role("combobox", name="Find a chat")
    palette.fill("no such thing")
    dialog = page.get_by_role("dialog", name="Go to")
    expect(dialog.get_by_role("status")).to_have_text("Nothing was found.")
    palette.press("Escape")
    expect(dialog).to_have_count(0)


def test_question_mark_shows_the_keys_and_escape_stops_nothing_but_that(page: Page):
    open_new(page, "assistant")
    say(page, held())
    expect(prose(page)).to_contain_text("w0")
    page.locator("[data-scroller]").focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_have_count(0)
    expect(answers(page, "running")).to_be_visible()
    page.keyboard.press("Escape")
    expect(answers(page, "stopped")).to_be_visible()


def test_arrow_up_edits_the_last_message_and_slash_goes_to_the_field(page: Page):
    answered(page, "red")
    page.locator("[data-scroller]").focus()
    page.keyboard.press("/")
    expect(composer(page)).to_be_focused()
    expect(composer(page)).to_have_value("")
    page.keyboard.press("ArrowUp")
    edit = page.get_by_label("Edit your message")
    expect(edit).to_have_value("red")
    expect(edit).to_be_focused()


def test_stopped_answer_can_be_gone_on_with(page: Page):
    open_new(page, "assistant")
    say(page, held())
    expect(prose(page)).to_contain_text("w0")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".message.user .said").last).to_have_text("Go on.")
    expect(answers(page)).to_have_count(2)


# --------------------------------------------------------------------------------------- doubts and faults


def test_text_that_is_too_long_says_so_and_is_kept(page: Page):
    open_new(page, "assistant")
    said = page.locator("[data-said]")
    page.evaluate(
        """text => {
            const area = document.getElementById("say");
            area.value = text;
            area.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        "x" * 32_001,
    )
    expect(said).to_contain_text("too long by 1 characters: at most 32000")
    composer(page).press("Enter")
    expect(said).to_contain_text("too long")
    assert page.locator(".message").count() == 0
    composer(page).press("End")
    composer(page).press("Control+End")
    composer(page).press("Backspace")
    expect(said).to_be_empty()


def test_text_that_does_not_fit_the_question_is_asked_about_first(page: Page):
    open_new(page, "wizard")
    say(page, "Hello")
    expect(page.locator(".question.open .option").first).to_be_visible()
    say(page, "a glass of water")
    expect(page.locator("[data-said]")).to_contain_text("the question ends unanswered")
    page.get_by_role("button", name="Go back").click()
    expect(composer(page)).to_have_value("a glass of water")
    expect(page.locator(".question.open")).to_be_visible()
    composer(page).press("Enter")
    page.get_by_role("button", name="Send all the same").click()
    expect(page.locator(".question.closed").first).to_contain_text("No longer open")
    expect(page.locator(".message.user .said").last).to_have_text("a glass of water")
    expect(page.locator(".question.open")).to_be_visible()


def test_declined_question_says_so(page: Page):
    open_new(page, "wizard")
    say(page, "Hello")
    for number in range(3):
        page.get_by_role("button", name="Decline").click()
        expect(page.locator(".question.closed")).to_have_count(number + 1)
    expect(answers(page, "done")).to_contain_text("As you like.")
    page.reload()
    expect(page.locator(".question.closed .answer-given")).to_have_text(["Declined"] * 3)


def test_failure_of_the_model_names_its_cause_and_a_trace_to_copy(page: Page):
    open_new(page, "assistant")
    say(page, fake(status=400))
    problem = answers(page, "error").locator(".problem")
    for _ in range(2):
        expect(problem).to_contain_text("The model's server refused the request. (The server answered 400)")
        expect(problem.get_by_role("button", name="Copy trace")).to_be_visible()
        page.reload()
    expect(problem.locator("code")).to_have_text(re.compile("^[0-9a-f-]{36}$"))  # the turn: it says what failed


def test_chat_of_a_flow_that_is_offline_can_be_read(page: Page):
    answered(page, "what was said")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("another branch")
    page.keyboard.press("Enter")
    expect(prose(page)).to_have_text("another branch")
    expect(answers(page, "done")).to_have_count(1)
    refuse_sockets(page, "flow_offline", "This flow is offline.")
    page.reload()
    expect(page.locator("[data-line]")).to_contain_text("This flow is offline.")
    expect(prose(page)).to_have_text("another branch")
    expect(composer(page)).to_be_disabled()
    expect(page.get_by_role("button", name="Edit")).to_have_count(0)
    page.get_by_role("button", name="Earlier version").click()
    expect(prose(page)).to_have_text("what was said")


def test_address_of_a_message_shows_its_branch(page: Page):
    answered(page, "red")
    first = answers(page).get_attribute("id")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("blue")
    page.keyboard.press("Enter")
    expect(prose(page)).to_have_text("blue")
    expect(answers(page, "done")).to_have_count(1)
    page.goto(f"/c/{chat_id(page)}/#{first}")
    page.reload()
    expect(prose(page)).to_have_text("red")
    expect(page.locator(".aimed")).to_have_attribute("id", first)


def test_drafts_belong_to_their_chats(context: BrowserContext):
    page = context.new_page()
    answered(page, "red")
    first = page.url
    composer(page).fill("draft of the first")
    answered(page, "blue")
    expect(composer(page)).to_have_value("")
    composer(page).fill("draft of the second")
    page.goto(first)
    expect(composer(page)).to_have_value("draft of the first")
    idle = context.new_page()
    idle.goto(first)
    expect(composer(idle)).to_have_value("draft of the first")
    composer(page).fill("changed")
    until(page, lambda: page.evaluate("Object.values(localStorage).includes('changed')"))
    idle.close(run_before_unload=True)
    page.reload()
    expect(composer(page)).to_have_value("changed")


# ------------------------------------------------------------------------------------------------- files


def upload(name: str, size: int = 5) -> dict:
    return {"name": name, "mimeType": "text/plain", "buffer": b"x" * size}


def test_files_go_up_at_once_and_with_the_message(page: Page):
    open_new(page, "assistant")
    page.locator("[data-choose]").set_input_files([upload("a.txt")])
    expect(page.locator(".file")).to_contain_text("5 B")
    expect(page.locator(".file progress")).to_be_hidden()
    say(page, "Read this.")
    expect(page.locator(".message.user .file")).to_contain_text("a.txt")
    expect(page.locator("[data-files]")).to_be_hidden()
    expect(answers(page, "done")).to_have_count(1)
    page.reload()
    link = page.locator(".message.user a.file")
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "a.txt"


def test_file_that_fails_says_why_and_goes_again_or_away(page: Page):
    lost = re.compile("/api/files/$")
    page.route(lost, lambda route: route.fulfill(status=503, json={"error": {"text": "Not now."}}))
    open_new(page, "assistant")
    page.locator("[data-choose]").set_input_files([upload("a.txt"), upload("empty.txt", 0)])
    first, second = page.locator(".file").all()
    expect(first).to_contain_text("Not now.")
    expect(second).to_contain_text("The file is empty.")
    say(page, "Read this.")
    expect(page.locator("[data-said]")).to_contain_text("A file was not taken.")
    page.unroute(lost)
    page.get_by_role("button", name="Send a.txt again").click()
    expect(first).to_contain_text("5 B")
    page.get_by_role("button", name="Remove empty.txt").click()
    expect(page.locator(".file")).to_have_count(1)


def test_file_that_the_server_does_not_take_says_which_it_takes(page: Page):
    open_new(page, "assistant")
    page.locator("[data-choose]").set_input_files([upload("a.exe")])
    expect(page.locator(".file.failed")).to_contain_text("text, PNG, JPEG, GIF, WebP and PDF are")
    expect(page.get_by_role("button", name="Send a.exe again")).to_be_hidden()
    send = page.get_by_role("button", name="Send", exact=True)
    expect(send).to_be_disabled()
    say(page, "Read this.")
    expect(page.locator("[data-said]")).to_have_text("A file was not taken. Remove it to send the message.")
    page.get_by_role("button", name="Remove a.exe").click()
    expect(send).to_be_enabled()


def test_files_are_dropped_and_pasted(page: Page):
    page.route("**/api/files/", lambda route: route.abort())
    open_new(page, "assistant")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["x"], "dropped.txt"));
            const options = { dataTransfer: data, bubbles: true, cancelable: true };
            document.getElementById("main").dispatchEvent(new DragEvent("drop", options));
            const pasted = new DataTransfer();
            pasted.items.add(new File(["x"], "pasted.png", { type: "image/png" }));
            const event = new ClipboardEvent("paste", { clipboardData: pasted, bubbles: true, cancelable: true });
            document.getElementById("say").dispatchEvent(event);
        }"""
    )
    expect(page.locator(".file-name")).to_have_text(["dropped.txt", "pasted.png"])


# ------------------------------------------------------------------------------------- language and ear


def test_language_is_chosen_and_kept_with_the_user(page: Page):
    open_new(page, "guide")
    try:
        page.get_by_role("button", name="Language").click()
        with page.expect_navigation():
            page.get_by_role("menuitemradio", name="Deutsch").click()
        expect(page.locator("html")).to_have_attribute("lang", "de")
        expect(page.get_by_role("link", name="Neuer Chat")).to_be_visible()
        expect(composer(page)).to_have_count(0)
        expect(page.locator("[data-connection]")).to_contain_text("Verbunden")
        page.get_by_role("button", name="Sprache").click()
        with page.expect_navigation():
            page.get_by_role("menuitemradio", name="简体中文").click()
        expect(page.locator("html")).to_have_attribute("lang", "zh-hans")
        expect(page.locator("[data-connection]")).to_contain_text("已连接")
    finally:
        rest(page, "PATCH", "me/", {"locale": ""})


def test_answer_is_told_by_sentence_and_its_end_in_a_word(page: Page):
    open_new(page, "assistant")
    say(page, held("One **bold** thing. Another thing. And the", after=10))
    told = page.locator("[data-read-out] p")
    expect(told).to_have_text(["One bold thing.", "Another thing."])
    expect(page.locator(".visually-hidden[data-status]")).to_have_text("The answer is being written.")
    page.keyboard.press("Escape")
    expect(page.locator(".visually-hidden[data-status]")).to_have_text("Stopped.")


def test_wrap_is_a_switch_of_each_code_block(page: Page):
    answered(page, "```python\n" + words(60) + "\n```")
    expect(prose(page).locator(".code-language")).to_have_text("python")
    wrap = prose(page).get_by_role("button", name="Wrap long lines")
    wrap.click()
    expect(wrap).to_have_attribute("aria-pressed", "true")
    expect(prose(page).locator("pre")).to_have_css("white-space", "pre-wrap")
