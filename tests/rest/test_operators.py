"""What operators see of what runs, what they may do to it, and who may only look."""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.contrib.admin.models import LogEntry
from django.test import AsyncClient, Client
from django.utils import timezone

from accounts.models import User
from chat.admin import figures, sessions
from chat.admin.transcript import Leaf, _NodeEvent, branch, children_of, laid_out, newest_below
from chat.models import Chat, Message, Question, Turn
from config.management.commands.setup import make_viewers
from flows import build, store
from flows.models import Flow, FlowVersion
from streams import database
from streams.errors import CATALOGUE
from streams.models import StreamSamples, StreamSession, Worker
from streams.store import ask_close
from tests.rest.test_admin import fill
from tests.rest.test_chats import ASK
from tests.rest.test_flows import GRAPH
from tests.waiting import until

SESSIONS = "/admin/streams/streamsession/"
LOOKED_AT = ["streams/streamsession", "streams/worker", "chat/chat", "chat/turn", "chat/question", "flows/flow",
             "flows/flowversion", "accounts/budget"]  # fmt: skip


@pytest.fixture
def bounds(settings: Any) -> Callable[..., None]:
    def change(**changed: Any) -> None:
        settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, **changed)

    return change


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def viewer(db: None) -> Client:
    user = User.objects.create_user("vera")
    user.groups.add(make_viewers())
    return signed_in(user)


def session(user: User | None = None, age_s: float = 0, **fields: Any) -> StreamSession:
    started = timezone.now() - timedelta(seconds=age_s)
    fields = {"state": "streaming", "worker": uuid.uuid4(), "last_seen": timezone.now(), **fields}
    return StreamSession.objects.create(user=user, started=started, **fields)


def listed(client: Client, path: str) -> list[Any]:
    response = client.get(path)
    assert response.status_code == 200
    return list(response.context["cl"].result_list)


# ------------------------------------------------------------------------------------------- who may what


@pytest.mark.parametrize("model", LOOKED_AT)
def test_a_viewer_looks_at_everything_that_runs(viewer: Client, chief: User, model: str) -> None:
    fill(chief, "one")
    [row] = listed(viewer, f"/admin/{model}/")
    assert viewer.get(f"/admin/{model}/{row.pk}/change/").status_code == 200
    assert viewer.post(f"/admin/{model}/{row.pk}/change/", {}).status_code == 403
    assert viewer.get(f"/admin/{model}/add/").status_code == 403


def test_a_viewer_has_no_actions_and_no_buttons(viewer: Client, chief: User) -> None:
    fill(chief, "one")
    row = StreamSession.objects.get()
    assert viewer.get(SESSIONS).context["action_form"] is None
    assert "Close the connection" not in viewer.get(f"{SESSIONS}{row.pk}/change/").content.decode()
    form = {"action": "close_sockets", "_selected_action": [row.pk], "confirmed": "yes", "reason": "Because."}
    viewer.post(SESSIONS, form)
    row.refresh_from_db()
    assert row.close_asked is None and not LogEntry.objects.exists()
    flow = Flow.objects.get()
    for button in ("build", "publish", "offline"):
        assert viewer.post(f"/admin/flows/flow/{flow.pk}/{button}/").status_code == 403


def test_a_viewer_sees_no_users_and_no_providers(viewer: Client) -> None:
    assert viewer.get("/admin/accounts/user/").status_code == 403
    assert viewer.get("/admin/flows/provider/").status_code == 403


def test_others_are_sent_to_the_log_in_or_told_that_they_may_not(db: None) -> None:
    nobody = Client().get("/admin/", follow=True)
    assert nobody.redirect_chain[-1][0] == "/login/?next=/admin/"
    anna = signed_in(User.objects.create_user("anna"))
    assert anna.get("/admin/", follow=True).status_code == 403


def test_viewers_are_made_again_without_harm(db: None) -> None:
    first = set(make_viewers().permissions.values_list("codename", flat=True))
    assert set(make_viewers().permissions.values_list("codename", flat=True)) == first
    assert len(first) == len(LOOKED_AT) and all(name.startswith("view_") for name in first)


# --------------------------------------------------------------------------------------------- the lists


def test_sessions_are_filtered_by_flow_state_kind_and_date(page: Client, chief: User) -> None:
    flow = store.create_flow(chief.pk, "Guide", draft=GRAPH)
    live = session(chief, flow=flow.id)
    over = session(chief, state="disconnected", kind="audio", age_s=40 * 86_400, ended=timezone.now())
    yesterday = (timezone.now() - timedelta(days=1)).isoformat()
    for query, expected in {
        "": [live, over],
        "state=live": [live],
        "state=disconnected": [over],
        f"flow={flow.id}": [live],
        "flow=none": [],
        "kind__exact=audio": [over],
        f"started__gte={yesterday.replace('+', '%2B')}": [live],
    }.items():
        assert listed(page, f"{SESSIONS}?{query}") == expected, query


def test_sessions_are_found_by_user_chat_and_id(page: Client, chief: User) -> None:
    anna = User.objects.create_user("annabel")
    chat = Chat.objects.create(user=anna, title="Where is my invoice")
    hers, other = session(anna, chat=chat.id), session(chief)
    for term, expected in {
        "nabel": [hers],
        "invoice": [hers],
        str(chat.id): [hers],
        chat.id.hex: [hers],
        str(other.id): [other],
        str(other.worker): [other],
        "nobody": [],
    }.items():
        assert listed(page, f"{SESSIONS}?q={term}") == expected, term


def test_totals_are_over_the_filtered_set_not_the_page(page: Client, chief: User, bounds: Any) -> None:
    bounds(admin_rows=2)
    for _ in range(5):
        session(chief, bytes_sent=1024, chunks_sent=3, kind="audio")
    session(chief, bytes_sent=5000, chunks_sent=50)
    assert "totals/?kind__exact=audio" in page.get(f"{SESSIONS}?kind__exact=audio").content.decode()
    totals = page.get(f"{SESSIONS}totals/?kind__exact=audio").context["totals"]
    assert (totals["sessions"], totals["live"], totals["is_cut"]) == ("5", "5", False)
    assert totals["sent"] == "5.0\xa0KB in 15 frames"


def test_totals_of_too_many_rows_say_that_they_are_of_the_newest(page: Client, chief: User, bounds: Any) -> None:
    bounds(admin_totalled_rows=2)
    for age_s, count in ((30, 100), (20, 10), (10, 1)):
        session(chief, age_s=age_s, chunks_sent=count)
    totals = page.get(f"{SESSIONS}totals/").context["totals"]
    assert totals["is_cut"] and totals["sent"].endswith("in 11 frames")


def test_a_list_counts_to_its_bound_and_goes_on_by_time(page: Client, chief: User, settings: Any, bounds: Any) -> None:
    bounds(admin_counted_rows=4, admin_rows=50)
    rows = [session(chief, age_s=age_s) for age_s in range(7)]
    response = page.get(SESSIONS)
    shown = response.context["cl"]
    assert shown.result_count == 4 and "4 or more" in response.content.decode()
    seen, following = list(shown.result_list), shown.older_url
    while following:
        shown = page.get(SESSIONS + following).context["cl"]
        seen, following = seen + list(shown.result_list), shown.older_url
    assert seen == rows


def test_what_people_read_are_words(page: Client, chief: User) -> None:
    fill(chief, "one")
    turn = Turn.objects.get()
    shown = page.get(f"/admin/chat/turn/{turn.pk}/change/").content.decode()
    assert "Turn 1 of Chat one" in shown and "Turn object" not in shown
    for model in ("streams/streamsession", "chat/turn", "chat/chat", "flows/flowversion"):
        text = page.get(f"/admin/{model}/").content.decode()
        assert " object (" not in text and "running_at" not in text and "bytes_sent" not in text


def test_names_of_rows_keep_their_letters(page: Client, chief: User, monkeypatch: Any) -> None:
    fill(chief, "one")
    monkeypatch.setattr("chat.admin.operations.ask_manager", lambda order: None)
    Chat.objects.update(title="iPhone or not")
    Worker.objects.update(host="vm")
    text = page.get(SESSIONS).content.decode()
    assert ">iPhone or not</a>" in text
    row = StreamSession.objects.get()
    form = {"action": "close_sockets", "_selected_action": [row.pk], "confirmed": "yes", "reason": "Because."}
    told = page.post(SESSIONS, form, follow=True).content.decode()
    assert f">{row}: " in told and "vm:7" in page.get(f"{SESSIONS}{row.pk}/change/").content.decode()


def test_every_page_of_the_admin_has_the_sign_of_the_house(page: Client) -> None:
    assert 'rel="icon"' in page.get("/admin/").content.decode()


# ------------------------------------------------------------------------------------------ what moves


def test_cells_of_live_sessions_are_asked_for_by_id(viewer: Client, chief: User) -> None:
    row, other = session(chief, bytes_sent=2048, chunks_sent=7), session(chief)
    rows = viewer.get(f"{SESSIONS}live/?ids={row.id},nonsense,{uuid.uuid4()}").json()["rows"]
    assert set(rows) == {str(row.id)} and str(other.id) not in rows
    cells = rows[str(row.id)]
    assert (cells["sent"], cells["is_live"], cells["state"]) == ("2.0\xa0KB in 7 frames", True, "streaming")


def test_what_moves_is_shown_to_nobody_else(db: None) -> None:
    staff = signed_in(User.objects.create_user("sam", is_staff=True))
    row = session()
    assert staff.get(f"{SESSIONS}live/?ids={row.id}").status_code == 403
    assert staff.get(f"{SESSIONS}{row.id}/samples/").status_code == 403
    assert staff.get(f"{SESSIONS}totals/").status_code == 403
    assert "figures" not in staff.get("/admin/").context


def test_the_plot_begins_with_nothing_and_ends_with_the_counters(viewer: Client, chief: User) -> None:
    row = session(chief, age_s=60, bytes_sent=900, chunks_sent=9)
    StreamSamples.objects.create(session=row.id, points=[[5.0, 100, 1, 0, 0], [10.0, 500, 5, 0, 0]])
    plot = viewer.get(f"{SESSIONS}{row.id}/samples/").json()
    times = [point[0] for point in plot["points"]]
    assert plot["points"][0] == [0, 0, 0, 0, 0] and plot["points"][-1][1:] == [900, 9, 0, 0]
    assert len(times) == 4 and times == sorted(times) and plot["is_live"]


def test_a_chat_that_is_not_deleted_bears_no_cross(page: Client, chief: User) -> None:
    fill(chief, "one")
    cell = lambda said: f'<td class="field-is_deleted">{said}</td>'
    text = page.get("/admin/chat/chat/").content.decode()
    assert cell("–") in text and "icon-no" not in text
    Chat.objects.update(deleted=True)
    assert cell("deleted") in page.get("/admin/chat/chat/").content.decode()


def test_figures_are_links_to_the_rows_they_count(page: Client, chief: User) -> None:
    fill(chief, "one")
    turn = Turn.objects.get()
    Turn.objects.filter(pk=turn.pk).update(first_token_ms=700)
    for number, code in ((2, "provider_timeout"), (3, "provider_timeout"), (4, "flow_error")):
        Turn.objects.create(
            chat=turn.chat, user=chief, number=number, input=turn.input, state="error", created=timezone.now(),
            error={"code": code}, first_token_ms=100 * number,
        )  # fmt: skip
    context = page.get("/admin/").context
    shown = {figure.label: figure for figure in context["figures"]}
    assert shown["Turns a minute"].value == "0.8" and len(listed(page, shown["Turns a minute"].url)) == 4
    assert shown["First token, half of them within"].value == "300 ms"
    assert shown["First token, 95 % within"].value == "700 ms"
    assert len(listed(page, shown["First token, 95 % within"].url)) == 4
    for label in ("Live sockets", "Open questions", "Workers"):
        assert shown[label].value == "1" and len(listed(page, shown[label].url)) == 1, label
    assert [(cause.label, cause.count) for cause in context["causes"]] == [
        ("The model did not answer in time.", "2"),
        ("The flow failed. Try again, or tell its owner.", "1"),
    ]
    assert [len(listed(page, cause.url)) for cause in context["causes"]] == [2, 1]
    assert "The model did not answer in time." in page.get("/admin/figures/").content.decode()


def test_figures_and_groups_are_written_as_the_reader_does(page: Client, chief: User) -> None:
    fill(chief, "one")
    Turn.objects.update(first_token_ms=1250)
    shown = page.get("/admin/", headers={"Accept-Language": "de"})
    assert {"0,2", "1,2 s"} <= {figure.value for figure in shown.context["figures"]}
    assert "Konten" in shown.content.decode()


def test_a_cause_is_said_in_the_readers_language(monkeypatch: pytest.MonkeyPatch) -> None:
    german = {CATALOGUE["provider_timeout"].text: "Zu spät."}
    monkeypatch.setattr(sessions, "_", lambda text: german.get(text, text))
    row = StreamSession(close_reason="provider_timeout", close_code=1011, ended=timezone.now())
    assert (sessions.cause("provider_timeout"), sessions.closing(row)) == ("Zu spät.", "Zu spät (1011)")
    assert sessions.cause("of_a_plugin") == "of_a_plugin"


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([7], 0.95, 7), ([3, 1, 2, 4], 0.5, 2), (range(1, 101), 0.95, 95)],
)
def test_quantiles(values: Any, share: float, expected: int | None) -> None:
    assert figures.quantile(values, share) == expected


def test_workers_show_their_load(page: Client, chief: User) -> None:
    fill(chief, "one")
    worker = Worker.objects.get()
    session(chief, worker=worker.id)
    text = page.get("/admin/streams/worker/").content.decode()
    assert "alive" in text and f"state=live&amp;worker={worker.id}" in text
    assert len(listed(page, f"{SESSIONS}?state=live&worker={worker.id}")) == 2


# -------------------------------------------------------------------------------------------- transcripts


def leaf(name: int, parent: int | None) -> Leaf:
    made = lambda number: None if number is None else uuid.UUID(int=number)
    return Leaf(made(name), made(parent), timezone.now())


def test_a_branch_is_the_way_from_the_first_message_to_its_newest_leaf() -> None:
    leaves = [leaf(1, None), leaf(2, 1), leaf(3, 1), leaf(4, 2), leaf(5, 2), leaf(6, 77)]
    known, children = {one.id: one for one in leaves}, children_of(leaves)
    way = lambda start: [id_.int for id_ in branch(known, newest_below(children, uuid.UUID(int=start)))]
    assert (way(1), way(2), way(4), way(6)) == ([1, 3], [1, 2, 5], [1, 2, 4], [6])


def test_messages_that_name_each_other_do_not_hang_the_page() -> None:
    leaves = [leaf(1, 2), leaf(2, 1)]
    known, children = {one.id: one for one in leaves}, children_of(leaves)
    assert len(branch(known, newest_below(children, leaves[0].id))) == 2


def test_nodes_are_laid_out_one_after_the_other() -> None:
    event = lambda node, state, ms=None: _NodeEvent("node", "t", node, "llm", state, ms=ms)
    runs = laid_out([event("a", "start"), event("a", "end", 250), event("b", "start"), event("b", "error", 750)])
    assert [(run.node, run.state, run.start, run.width) for run in runs] == [
        ("a", "end", 0, 250),
        ("b", "error", 250, 750),
    ]
    [under_way] = laid_out([event("a", "start")])
    assert under_way.state == "start" and under_way.ms is None


@pytest.mark.parametrize(
    ("state", "said", "unsaid"),
    [("running", "under way", "stopped here"), ("stopped", "stopped here", "under way")],
)
def test_a_node_without_its_end_is_under_way_while_its_turn_is(
    page: Client, chief: User, monkeypatch: Any, state: str, said: str, unsaid: str
) -> None:
    fill(chief, "one")
    Turn.objects.update(state=state)
    turn = Turn.objects.get()
    event = _NodeEvent("node", str(turn.id), "a", "llm", "start")
    monkeypatch.setattr("chat.admin.transcript.held", lambda chat, limit: [msgspec.json.encode(event)])
    for path in (f"chat/{turn.chat_id}", f"turn/{turn.id}"):
        shown = page.get(f"/admin/chat/{path}/change/").content.decode()
        assert said in shown and unsaid not in shown


def message(chat: Chat, role: str, text: str, parent: Message | None = None, **fields: Any) -> Message:
    parts = fields.pop("parts", [{"id": "1.x#1", "kind": "text", "text": text, "node": "hello"}])
    return Message.objects.create(
        chat=chat, role=role, parts=parts, parent=parent and parent.id, created=timezone.now(), **fields
    )


def test_a_transcript_shows_one_branch_its_turns_and_the_way_to_the_others(page: Client, chief: User) -> None:
    chat = Chat.objects.create(user=chief, title="Two answers")
    asked = message(chat, "user", "What <b>now</b>?")
    first = message(chat, "assistant", "The first answer.", asked)
    second = message(chat, "assistant", "The second answer.", asked)
    for number, answer in ((1, first), (2, second)):
        Turn.objects.create(
            chat=chat, user=chief, number=number, input=asked.id, answer=answer.id, state="done", created=timezone.now()
        )
    Chat.objects.filter(pk=chat.pk).update(head=second.id)
    path = f"/admin/chat/chat/{chat.pk}/change/"
    shown = page.get(path).content.decode()
    assert (
        "What &lt;b&gt;now&lt;/b&gt;?" in shown and "The second answer." in shown and "The first answer." not in shown
    )
    assert "2 / 2" in shown and f"?at={first.id}" in shown and "This chat has 2 branches." in shown
    other = page.get(f"{path}?at={first.id}").content.decode()
    assert "The first answer." in other and "The second answer." not in other
    assert "hello" in other, "the nodes of a turn whose log is gone"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"action": "decline", "label": "", "value": None}, "declined"),
        ({"action": "expire"}, "nobody answered in time"),
        ({"action": "accept", "label": "Yes, please", "value": "y"}, "Yes, please"),
        ({"action": "accept", "label": ""}, "(secret)"),
        ({}, "not answered yet"),
    ],
)
def test_an_answer_is_never_an_empty_label(page: Client, chief: User, data: dict[str, Any], said: str) -> None:
    chat = Chat.objects.create(user=chief, title="Asked")
    part = {"id": "1.ask#1", "kind": "question", "node": "ask", "data": {"text": "Shall I?", **data}}
    asked = message(chat, "assistant", "", parts=[part])
    Chat.objects.filter(pk=chat.pk).update(head=asked.id)
    shown = page.get(f"/admin/chat/chat/{chat.pk}/change/").content.decode()
    assert f'<p class="answer">{said}</p>' in shown


def test_a_declined_question_says_so_in_its_list_and_on_its_page(page: Client, chief: User) -> None:
    fill(chief, "one")
    Question.objects.update(action="decline")
    [row] = listed(page, "/admin/chat/question/?state=decline")
    assert listed(page, "/admin/chat/question/?state=open") == []
    assert page.get(f"/admin/chat/question/{row.pk}/change/").content.decode().count("declined") >= 2


# -------------------------------------------------------------------------------------------- flows


def test_a_version_shows_what_it_changed(page: Client, chief: User) -> None:
    flow = store.create_flow(chief.pk, "Guide", draft=GRAPH)
    later = json.loads(json.dumps(GRAPH))
    later["nodes"][0]["title"] = "A fresh title"
    later["edges"][0]["branch"] = "yes"
    for number, graph in ((1, GRAPH), (2, later)):
        row = FlowVersion.objects.create(flow=flow, number=number, graph=graph, checksum=str(number), author=chief)
    shown = page.get(f"/admin/flows/flowversion/{row.pk}/change/").content.decode()
    assert "What changed since version 1" in shown and "<ins>A fresh title</ins>" in shown
    gone, come = GRAPH["edges"][0], later["edges"][0]
    assert f"<del>{gone['from']} → {gone['to']}</del>" in shown
    assert f"<ins>{come['from']} → {come['to']} (yes)</ins>" in shown
    assert (
        f"/admin/flows/flowversion/{row.pk}/change/"
        in page.get(f"/admin/flows/flow/{flow.pk}/change/").content.decode()
    )


def test_a_flow_is_built_published_with_a_note_and_taken_offline_on_its_page(
    transactional_db: None,
    redis_url: str,
    page: Client,
    chief: User,
) -> None:
    flow = store.create_flow(chief.pk, "Guide", draft=GRAPH)
    base = f"/admin/flows/flow/{flow.pk}"
    assert page.get(f"{base}/build/").status_code == 403
    assert "The draft was built" in page.post(f"{base}/build/", follow=True).content.decode()
    assert "The flow is online." in page.post(f"{base}/publish/", {"note": "As agreed."}, follow=True).content.decode()
    flow.refresh_from_db()
    assert flow.is_online and flow.published.note == "As agreed."
    assert "As agreed." in page.get(f"{base}/change/").content.decode()
    page.post(f"{base}/offline/")
    flow.refresh_from_db()
    assert not flow.is_online
    said = set(LogEntry.objects.filter(object_id=str(flow.pk)).values_list("change_message", flat=True))
    assert said == {"Built.", "Published version 1.", "Taken offline."}


@pytest.mark.parametrize(
    ("draft", "where"),
    [
        ('{"nodes": [}', "line 1, column 12"),
        ('{\n  "nodes": [],\n  nodes\n}', "line 3, column 3"),
        ("[" * 20_000, "nested"),
    ],
)
def test_a_draft_that_is_no_json_is_refused_with_its_place(page: Client, chief: User, draft: str, where: str) -> None:
    flow = store.create_flow(chief.pk, "Guide", draft=GRAPH)
    form = {
        "name": "Guide", "slug": flow.slug, "owner": chief.pk, "double_text": "queue", "visibility": "everyone",
        "base_revision": 1, "draft": draft,
    }  # fmt: skip
    errors = page.post(f"/admin/flows/flow/{flow.pk}/change/", form).context["adminform"].form.errors
    assert where in str(errors["draft"])


def test_a_flow_shows_how_much_it_is_used(page: Client, chief: User) -> None:
    fill(chief, "one")
    flow = Flow.objects.get()
    text = page.get(f"/admin/flows/flow/{flow.pk}/change/").content.decode()
    assert f"/admin/chat/chat/?flow={flow.pk}" in text and f"?flow={flow.pk}&amp;state=live" in text
    assert len(listed(page, f"/admin/chat/chat/?flow={flow.pk}")) == 1
    assert len(listed(page, f"{SESSIONS}?flow={flow.pk}&state=live")) == 1


# ---------------------------------------------------------------------------------------- stop and close


def test_closing_asks_for_a_reason_first(page: Client, chief: User) -> None:
    flow = store.create_flow(chief.pk, "Guide", draft=GRAPH)
    chat = Chat.objects.create(user=chief, flow=flow, title="Where is it")
    row = session(chief, flow=flow.id, chat=chat.id, address="192.0.2.7")
    form = {"action": "close_sockets", "_selected_action": [row.pk]}
    asked = page.post(SESSIONS, form).content.decode()
    assert "Each connection is told that an operator closed it." in asked and 'name="reason"' in asked
    assert f"<li>{row} · {chief} · Guide · Where is it · 192.0.2.7</li>" in asked
    assert "(required)" in asked and "Say why" in asked and "errornote" not in asked
    empty = page.post(SESSIONS, form | {"confirmed": "yes", "reason": "  "}).content.decode()
    assert "Say why" in empty and "errornote" in empty
    row.refresh_from_db()
    assert row.close_asked is None and not LogEntry.objects.exists()


def test_too_many_at_a_time_are_refused(page: Client, chief: User, bounds: Any) -> None:
    bounds(admin_operated_rows=1)
    form = {"action": "close_sockets", "_selected_action": [session(chief).pk, session(chief).pk]}
    assert "Choose at most 1 at a time." in page.post(SESSIONS, form, follow=True).content.decode()


async def test_a_socket_closed_by_an_operator_hears_it_and_the_log_says_why(
    live: Any, make_user: Any, token_of: Any, redis_url: str
) -> None:
    def prepare() -> tuple[Any, User, str]:
        anna = make_user("anna")
        operator = make_user("operator", is_staff=True, is_superuser=True)
        flow = store.create_flow(anna.pk, "Guide", draft=GRAPH)
        return anna, operator, str(flow.id)

    anna, operator, flow = await database.write(prepare)
    client = AsyncClient()
    await client.aforce_login(operator)
    await client.post(f"/admin/flows/flow/{flow}/publish/")
    async with live.open(f"/chat/{flow}?chat_id={uuid.uuid4()}", await token_of(anna)) as socket:
        welcome = await socket.recv()
        form = {
            "action": "close_sockets", "_selected_action": [welcome["session"]],
            "confirmed": "yes", "reason": "It sends rubbish.",
        }  # fmt: skip
        assert (await client.post(SESSIONS, form)).status_code == 302
        error = await socket.until("error")
        assert error["code"] == "session_closed" and error["trace"] == welcome["trace"]
        closed = await socket.closed()
        assert (closed.code, closed.reason) == (1008, "session_closed")
    row = await until(lambda: database.read(_ended, welcome["session"]), what="the row has ended")
    assert (row.state, row.close_code, row.close_reason) == ("error", 1008, "session_closed")
    entry = await database.read(LogEntry.objects.filter(object_id=welcome["session"]).get)
    assert entry.change_message == "Close the connection: It sends rubbish." and entry.user_id == operator.pk


def _ended(id_: str) -> StreamSession | None:
    return StreamSession.objects.filter(id=id_, ended__isnull=False).first()


async def test_an_operator_stops_what_runs_in_the_chat_of_a_socket(
    live: Any, make_user: Any, token_of: Any, redis_url: str
) -> None:
    def prepare() -> tuple[User, User, Flow]:
        anna, operator = make_user("anna"), make_user("operator", is_staff=True, is_superuser=True)
        return anna, operator, store.create_flow(anna.pk, "Asks", draft=ASK)

    anna, operator, flow = await database.write(prepare)
    await build.publish(flow.id, anna.pk)
    client = AsyncClient()
    await client.aforce_login(operator)
    async with live.open(f"/chat/{flow.id}?chat_id={uuid.uuid4()}", await token_of(anna)) as socket:
        welcome = await socket.recv()
        await socket.say("Hello")
        await socket.until("question")
        form = {
            "action": "stop_turns", "_selected_action": [welcome["session"]],
            "confirmed": "yes", "reason": "It waits for nobody.",
        }  # fmt: skip
        assert (await client.post(SESSIONS, form)).status_code == 302
        assert (await socket.until("turn_end"))["status"] == "stopped"
        nothing = await client.post(SESSIONS, form, follow=True)
        assert "No such turn runs or waits. It may have ended already." in nothing.content.decode()
    entries = await database.read(lambda: list(LogEntry.objects.filter(object_id=welcome["session"])))
    assert [entry.change_message for entry in entries] == ["Stop the running turn: It waits for nobody."]


async def test_a_wish_to_close_whose_message_was_lost_is_found_by_the_poll(
    live: Any, make_user: Any, token_of: Any, redis_url: str, settings: Any
) -> None:
    anna = await database.write(make_user, "anna")
    flow = await database.write(lambda: store.create_flow(anna.pk, "Guide", draft=GRAPH))
    await build.publish(flow.id, anna.pk)
    async with live.open(f"/chat/{flow.id}?chat_id={uuid.uuid4()}", await token_of(anna)) as socket:
        welcome = await socket.recv()
        assert await database.write(ask_close, welcome["session"])
        closed = await socket.closed()
        assert (closed.code, closed.reason) == (1008, "session_closed")
