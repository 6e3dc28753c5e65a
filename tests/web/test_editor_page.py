"""The page of a flow's editor in Chromium, on a real server."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from flows.kinds import KINDS
from tests.server import HeadraceServer
from tests.web.chatting import right_of
from tests.web.editing import (
    DRAFT,
    Api,
    box,
    card,
    choose,
    expect_ready,
    open_card,
    open_editor,
    save,
    show,
    source,
    text_of,
    write_text,
)
from tests.web.test_access import faults

WHERE = Path(__file__).parent
SHORT = {
    "nodes": [{"id": "start", "kind": "start"}, {"id": "end", "kind": "end"}],
    "edges": [{"from": "start", "to": "end"}],
}


@pytest.fixture(scope="module")
def api(web_server: HeadraceServer) -> Api:
    return Api(web_server)


def bare(value: Any) -> Any:
    """Without what no module reads."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key not in ("pattern", "description")}
    return [bare(item) for item in value] if isinstance(value, list) else value


def test_kinds_of_the_module_tests_are_those_that_are_served():
    kept = json.loads((WHERE / "kinds.json").read_text())
    served = [KINDS[kind["kind"]].describe() for kind in kept]
    assert bare(served) == bare(kept), "tests/web/kinds.json holds the results of GET /api/nodes/: put them there anew"


# ----------------------------------------------------------------------------------- one draft, three views


def test_form_writes_the_text_and_the_text_writes_the_form(page: Page, api: Api):
    open_editor(page, api.flow("Round trip"))
    text = text_of(page)
    greeting = open_card(page, "start").get_by_label("Greeting")
    greeting.fill("Coffee?")
    expect(source(page)).to_contain_text('"greeting": "Coffee?"')
    assert text_of(page) == text.replace("Tea?", "Coffee?")
    write_text(page, text.replace("Tea?", "Water?").replace("Ask for tea", "Ask"))
    expect(greeting).to_have_value("Water?")
    expect(card(page, "ask").locator(".card-name")).to_have_text("Ask")
    expect(box(page, "ask")).to_have_attribute("aria-label", "Ask, Question")


def test_undo_and_redo_go_through_both_views(page: Page, api: Api):
    open_editor(page, api.flow("Undo"))
    text = text_of(page)
    open_card(page, "say").get_by_label("Text", exact=True).fill("Hello")
    card(page, "say").get_by_label("Title").fill("Say it")
    expect(source(page)).to_contain_text("Say it")
    page.keyboard.press("Control+z")
    expect(source(page)).not_to_contain_text("Say it")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    assert text_of(page) == text
    page.get_by_role("button", name="Redo").click()
    expect(card(page, "say").get_by_label("Text", exact=True)).to_have_value("Hello")


def test_saving_keeps_what_nobody_touched_and_the_order_of_people(page: Page, api: Api):
    flow = api.flow("Kept", {**DRAFT, "edges": list(reversed(DRAFT["edges"]))})
    open_editor(page, flow)
    open_card(page, "end").get_by_label("Title").fill("The end")
    save(page)
    kept = api.text("GET", f"flows/{flow['id']}/")
    assert re.search(r'"ratio":\s*1\.0', kept)
    after = json.loads(kept)["draft"]
    assert next(node for node in after["nodes"] if node["id"] == "end")["title"] == "The end"
    assert [edge["to"] for edge in after["edges"]] == ["end", "end", "say", "ask"]


def test_flow_is_built_by_keyboard_alone(page: Page, api: Api):
    flow = api.flow("Keys", SHORT)
    open_editor(page, flow)
    card(page, "start").locator(".card-head").focus()
    page.keyboard.press("Shift+Tab")  # into the picture's tools or the form's head: no trap
    card(page, "start").get_by_role("button", name="Add a node after this one").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".menu [role=menuitem]").first).to_be_focused()
    for _ in range(20):
        if page.locator(".menu [role=menuitem]:focus").inner_text() == "Message":
            break
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(card(page, "message").locator(".card-head")).to_be_focused()
    expect(source(page)).to_contain_text('{"from": "message", "to": "end"}')
    text = card(page, "message").get_by_label("Text", exact=True)
    for _ in range(8):
        if text.evaluate("node => node === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(text).to_be_focused()
    page.keyboard.type("Good day")
    page.keyboard.press("Control+s")
    expect(page.locator("[data-save-state]")).to_have_text("Saved")
    assert [node["fields"] for node in api.draft(flow)["nodes"] if node["id"] == "message"] == [{"text": "Good day"}]


def test_lists_edges_and_names_are_edited_in_the_form(page: Page, api: Api):
    flow = api.flow("Form")
    open_editor(page, flow)
    ask = open_card(page, "ask")
    ask.get_by_role("button", name="Add to “Options”").click()
    ask.get_by_label("Id", exact=True).last.fill("none")
    ask.get_by_label("Label", exact=True).last.fill("None, thanks")
    ask.get_by_role("button", name="Move number 3 up").click()
    ask.get_by_label("none", exact=True).select_option("end")
    ask.get_by_role("button", name="Add the branch expired").click()
    ask.get_by_label("expired", exact=True).select_option("say")
    ask.locator(".card-fields").get_by_label("Id").fill("tea")
    page.keyboard.press("Tab")
    expect(card(page, "tea")).to_have_class(re.compile("selected"))
    open_card(page, "say").get_by_role("button", name="Duplicate").click()
    choose(page, card(page, "say_2").get_by_role("button", name="Kind"), "Prompt")
    card(page, "say_2").get_by_role("button", name="Remove this node: say_2").click()
    save(page)
    after = api.draft(flow)
    nodes = {node["id"]: node for node in after["nodes"]}
    assert [option["id"] for option in nodes["tea"]["fields"]["options"]] == ["green", "none", "black"]
    assert nodes["say"]["fields"]["text"] == "{{ tea.label }} it is."
    assert {"from": "tea", "to": "end", "branch": "none"} in after["edges"]
    assert {"from": "tea", "to": "say", "branch": "expired"} in after["edges"]
    assert "say_2" not in nodes


def test_variable_is_chosen_from_those_that_can_be_read(page: Page, api: Api):
    open_editor(page, api.flow("Variables"))
    say = open_card(page, "say")
    say.get_by_label("Text", exact=True).fill("You: ")
    choose(page, say.get_by_role("button", name="Insert a variable into Text"), "ask.value")
    expect(say.get_by_label("Text", exact=True)).to_have_value("You: {{ ask.value }}")
    expect(say.get_by_label("Text", exact=True)).to_be_focused()


def test_text_is_completed_from_the_kinds(page: Page, api: Api):
    open_editor(page, api.flow("Completion"))
    write_text(page, '{"nodes": [{"id": "a", "kind": "llm", "fields": {')
    page.keyboard.press("Control+Space")
    options = page.locator("[data-source] .cm-tooltip-autocomplete li")
    expect(options.filter(has_text="temperature")).to_be_visible()
    page.keyboard.type("prov")
    expect(options).to_have_count(1)
    page.keyboard.press("Enter")
    expect(source(page)).to_contain_text('"provider": ""')
    page.keyboard.press("Control+Space")
    expect(options.filter(has_text="scripted")).to_be_visible()


# --------------------------------------------------------------------------------------------------- faults


def test_faults_are_told_while_typing_and_lead_to_their_field(page: Page, api: Api):
    open_editor(page, api.flow("Faults"))
    text = open_card(page, "say").get_by_label("Text", exact=True)
    text.fill("{{ nobody.label }}")
    expect(text).to_have_attribute("aria-invalid", "true")
    expect(page.locator("[data-source] .cm-lintRange-error")).to_have_text("nobody.label")
    expect(box(page, "say")).to_have_attribute("aria-label", "say, Message, 1 fault")
    card(page, "say").locator(".card-head").click()
    show(page, "faults")
    page.get_by_role("button", name=re.compile("nobody.label")).click()
    expect(text).to_be_focused()
    text.fill("{{ ask.label }}")
    expect(page.locator("[data-faults] [role=status]")).to_contain_text("Nothing is wrong")
    expect(page.locator("[data-source] .cm-lintRange-error")).to_have_count(0)


def test_fault_of_an_edge_leads_to_its_branch(page: Page, api: Api):
    draft = {**DRAFT, "edges": [edge for edge in DRAFT["edges"] if edge.get("branch") != "black"]}
    draft["edges"] = [*draft["edges"], {"from": "ask", "to": "nowhere", "branch": "black"}]
    open_editor(page, api.flow("Edges", draft))
    show(page, "faults")
    page.get_by_role("button", name=re.compile("ask → nowhere")).click()
    expect(card(page, "ask").get_by_label("black")).to_be_focused()
    card(page, "ask").get_by_label("black").select_option("end")
    expect(page.locator("[data-faults] [role=status]")).to_contain_text("Nothing is wrong")


def test_text_that_is_no_json_is_told_where_it_breaks_and_the_form_waits(page: Page, api: Api):
    open_editor(page, api.flow("Broken"))
    text = text_of(page)
    write_text(page, text.replace('"edges": [', '"edges" ['))
    expect(page.locator("[data-not-json]")).to_be_visible()
    expect(page.get_by_role("button", name="Save", exact=True)).to_be_disabled()
    show(page, "faults")
    page.get_by_role("button", name=re.compile("colon is missing")).click()
    expect(source(page)).to_be_focused()
    page.keyboard.press("Control+z")
    expect(page.locator("[data-not-json]")).to_be_hidden()


# -------------------------------------------------------------------------------------------------- picture


def test_picture_is_walked_by_keys_and_selects(page: Page, api: Api):
    open_editor(page, api.flow("Picture"))
    box(page, "start").focus()
    page.keyboard.press("ArrowRight")
    expect(box(page, "ask")).to_be_focused()
    page.keyboard.press("Enter")
    expect(card(page, "ask").locator(".card-head")).to_have_attribute("aria-expanded", "true")
    expect(box(page, "ask")).to_have_attribute("aria-pressed", "true")
    box(page, "end").click()
    expect(card(page, "end")).to_have_class(re.compile("selected"))
    layer = page.locator("[data-picture] svg.picture > g").first
    before = layer.get_attribute("transform")
    page.get_by_role("button", name="Zoom in").click()
    assert layer.get_attribute("transform") != before
    page.get_by_role("button", name="Fit the picture").click()
    assert layer.get_attribute("transform") == before


# ------------------------------------------------------------------------------------ builds and debug runs


def test_debug_run_shows_what_each_node_read_gave_and_took(page: Page, api: Api):
    flow = api.flow("Debug")
    open_editor(page, flow)
    open_card(page, "say").get_by_label("Text", exact=True).fill("So {{ ask.label }} it is.")
    page.get_by_role("button", name="Start a debug run").click()
    expect(page.locator("[data-build-state]")).to_have_text("Built")
    page.get_by_role("button", name="Yes, please").click()
    expect(box(page, "ask")).to_have_attribute("data-run", "wait")
    page.get_by_role("button", name="Green").click()
    expect(page.locator(".message.assistant[data-status=done]")).to_contain_text("So Green it is.")
    steps = page.locator("[data-trial-steps] > li")
    expect(steps).to_have_count(4)
    say = steps.filter(has_text="say")
    say.locator("summary").click()
    expect(say.locator("dl").first).to_have_text("ask.labelGreen")
    expect(say.locator("dl").last).to_have_text("textSo Green it is.")
    expect(say.locator(".run-step-facts")).to_have_text(re.compile(r"\d+ m?s"))
    expect(card(page, "say").locator(".run-mark")).to_have_text(re.compile(r"\d+ m?s"))
    assert api.draft(flow)["nodes"][2]["fields"]["text"] == "So {{ ask.label }} it is."
    card(page, "say").get_by_label("Text", exact=True).fill("Another.")
    expect(page.get_by_text("The draft was changed since this run began.")).to_be_visible()


def test_debug_run_of_a_model_tells_tokens_and_cost_and_a_failed_node(page: Page, api: Api):
    nodes = [
        {"id": "start", "kind": "start"},
        {"id": "answer", "kind": "llm", "fields": {"provider": "openai"}},
        {"id": "end", "kind": "end"},
    ]
    edges = [{"from": "start", "to": "answer"}, {"from": "answer", "to": "end"}]
    open_editor(page, api.flow("Model", {"nodes": nodes, "edges": edges}))
    page.get_by_role("button", name="Start a debug run").click()
    page.get_by_label("Your message").fill("one two three")
    page.keyboard.press("Enter")
    answer = page.locator("[data-trial-steps] > [data-node=answer]")
    expect(answer.locator(".run-step-facts")).to_have_text(re.compile(r"\d+ tokens · cost 0\.\d+ · "))
    answer.locator("summary").click()
    expect(answer.locator("dl").first).to_have_text("input.textone two three")
    page.get_by_label("Your message").fill('{"fake": {"status": 401}}')
    page.keyboard.press("Enter")
    expect(page.locator("[data-trial-steps] > [data-node=answer][data-state=error]")).to_be_visible()
    expect(box(page, "answer")).to_have_attribute("data-run", "error")


def test_build_tells_its_faults_and_begins_no_debug_run(page: Page, api: Api):
    nodes = [*DRAFT["nodes"], {"id": "lonely", "kind": "message", "fields": {"text": "x"}}]
    open_editor(page, api.flow("No build", {**DRAFT, "nodes": nodes}))
    page.get_by_role("button", name="Build", exact=True).click()
    expect(page.locator(".faults-panel")).to_be_visible()
    expect(page.locator(".fault").first).to_contain_text("lonely")
    expect(page.locator("[data-build-state]")).to_have_text("Not built yet")


def test_build_shows_how_far_it_is(page: Page, api: Api):
    states = iter(
        [
            {"status": "in_progress", "progress": 40, "faults": [], "build": "b"},
            {"status": "success", "progress": 100, "faults": [], "build": "b"},
        ]
    )

    def told(route: Route) -> None:
        route.fulfill(json={"build": "b"} if route.request.method == "POST" else next(states))

    page.route("**/build/", told)
    open_editor(page, api.flow("Progress"))
    page.evaluate(
        """() => {
            window.seen = [];
            const bar = document.querySelector("[data-progress]");
            new MutationObserver(() => seen.push(bar.value)).observe(bar, { attributes: true });
        }"""
    )
    page.get_by_role("button", name="Build", exact=True).click()
    expect(page.locator("[data-build-state]")).to_have_text("Built")
    assert 40 in page.evaluate("seen")
    expect(page.locator("[data-progress]")).to_be_hidden()


# ------------------------------------------------------------------------------------- publishing, versions


def test_versions_are_published_compared_restored_and_taken_offline(page: Page, api: Api):
    flow = api.flow("Versions")
    open_editor(page, flow)
    page.get_by_role("button", name="Publish", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Note").fill("The first tea")
    dialog.get_by_role("button", name="Publish").click()
    expect(page.locator("[data-status]")).to_have_text("Online, version 1")
    open_card(page, "say").get_by_label("Text", exact=True).fill("No tea.")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(dialog.locator(".diff-line.more")).to_contain_text("No tea.")
    dialog.get_by_role("button", name="Publish").click()
    expect(page.locator("[data-status]")).to_have_text("Online, version 2")
    show(page, "versions")
    expect(page.locator("[data-version]")).to_have_count(2)
    expect(page.locator("[data-version='1']")).to_contain_text("The first tea")
    page.get_by_role("button", name="Compare version 1 with the draft").click()
    expect(dialog.locator(".diff-line.less")).to_contain_text("{{ ask.label }} it is.")
    dialog.get_by_role("button", name="Make version 1 the draft again").click()
    dialog.get_by_role("button", name="Restore").click()
    expect(card(page, "say").get_by_label("Text", exact=True)).to_have_value("{{ ask.label }} it is.")
    expect(page.locator("[data-save-state]")).to_have_text("Saved")
    assert api.draft(flow) == DRAFT
    choose(page, page.get_by_role("button", name="More"), "Take offline")
    dialog.get_by_role("button", name="Take offline").click()
    expect(page.locator("[data-status]")).to_have_text("Offline")


# -------------------------------------------------------------------------------- two editors, a local draft


def saved_by_another(api: Api, flow: dict, text: str) -> None:
    held = api("GET", f"flows/{flow['id']}/")
    held["draft"]["nodes"][2]["fields"]["text"] = text
    api("PATCH", f"flows/{flow['id']}/", {"draft": held["draft"]}, If_Match=f'"{held["revision"]}"')


@pytest.mark.parametrize(("button", "kept"), [("Keep mine", "Mine."), ("Take theirs", "Theirs.")])
def test_second_save_shows_both_and_keeps_the_one_that_is_chosen(page: Page, api: Api, button: str, kept: str):
    flow = api.flow(f"Conflict {button}")
    open_editor(page, flow)
    open_card(page, "say").get_by_label("Text", exact=True).fill("Mine.")
    saved_by_another(api, flow, "Theirs.")
    page.keyboard.press("Control+s")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".side-column").first.locator(".diff-line.less")).to_contain_text("Theirs.")
    expect(dialog.locator(".side-column").last.locator(".diff-line.more")).to_contain_text("Mine.")
    dialog.get_by_role("button", name=button).click()
    expect(card(page, "say").get_by_label("Text", exact=True)).to_have_value(kept)
    expect(page.locator("[data-save-state]")).to_have_text("Saved")
    assert api.draft(flow)["nodes"][2]["fields"]["text"] == kept


def test_changes_that_were_not_saved_come_back_and_can_be_discarded(page: Page, api: Api):
    flow = api.flow("Local")
    open_editor(page, flow)
    open_card(page, "say").get_by_label("Text", exact=True).fill("Not saved.")
    expect(page.locator("[data-save-state]")).to_have_text("Not saved")
    page.reload()
    expect_ready(page)
    expect(source(page)).to_contain_text("Not saved.")
    assert api.draft(flow) == DRAFT
    page.get_by_role("button", name="Discard them").click()
    expect(source(page)).not_to_contain_text("Not saved.")
    page.reload()
    expect_ready(page)
    expect(source(page)).not_to_contain_text("Not saved.")


# ----------------------------------------------------------------------------------- ways in, narrow screens


def give_file(page: Page, content: bytes) -> None:
    file = {"name": "flow.json", "mimeType": "application/json", "buffer": content}
    page.locator("[data-import-file]").set_input_files(file)


def test_new_flow_is_made_on_the_list_and_a_flow_travels_by_file(page: Page, api: Api):
    page.goto("/")
    page.get_by_role("button", name="New flow").click()
    page.get_by_label("Name of the new flow").fill("Brand new")
    page.keyboard.press("Enter")
    expect_ready(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Brand new")
    flow = api.flow("Traveller")
    open_editor(page, flow)
    with page.expect_download() as download:
        choose(page, page.get_by_role("button", name="More"), "Export what is saved")
    path = download.value.path()
    page.goto("/")
    give_file(page, path.read_bytes())
    expect_ready(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Traveller")
    assert flow["id"] not in page.url
    expect(card(page, "ask")).to_be_visible()
    page.goto("/")
    give_file(page, b"{")
    expect(page.get_by_role("alert")).to_contain_text("This file is no flow")
    page.get_by_role("link", name="Edit Traveller").first.click()
    expect_ready(page)


def test_phone_shows_one_panel_at_a_time(context: BrowserContext, api: Api):
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 780})
    open_editor(page, api.flow("Phone"))
    for panel in ("json", "graph", "try", "faults", "versions", "form"):
        show(page, panel)
        expect(page.locator(f"[data-show={panel}]")).to_have_attribute("aria-pressed", "true")
        expect(page.locator(".work > .panel:visible")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    show(page, "graph")
    box(page, "ask").click()
    expect(card(page, "ask").get_by_label("Title")).to_be_visible()


def test_phone_shows_the_whole_bar_where_words_are_long(page: Page, api: Api):
    page.set_viewport_size({"width": 390, "height": 780})
    page.set_extra_http_headers({"Accept-Language": "de"})
    open_editor(page, api.flow("Telefon"))
    expect(page.get_by_role("button", name="Veröffentlichen")).to_be_in_viewport(ratio=1)
    expect(page.locator(".edit-name h1")).to_be_in_viewport(ratio=1)
    assert right_of(page, ".edit-bar, .edit-bar *") <= 390


def test_axe_finds_nothing_serious(page: Page, api: Api):
    draft = {**DRAFT, "nodes": [*DRAFT["nodes"], {"id": "lonely", "kind": "llm", "fields": {"provider": "nobody"}}]}
    open_editor(page, api.flow("Access", draft))
    for node in ("ask", "lonely"):
        open_card(page, node)
    show(page, "faults")
    expect(page.locator(".fault").first).to_be_visible()
    assert faults(page) == []
    show(page, "versions")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.locator(".fault").first).to_be_visible()
    card(page, "lonely").get_by_role("button", name="Remove this node: lonely").click()
    show(page, "try")
    page.get_by_role("button", name="Start a debug run").click()
    page.get_by_role("button", name="Yes, please").click()
    page.get_by_role("button", name="Black").click()
    expect(page.locator("[data-trial-steps] > li")).to_have_count(3)
    page.locator("[data-trial-steps] > li").first.locator("summary").click()
    assert faults(page) == []
