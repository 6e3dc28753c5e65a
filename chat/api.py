"""REST of chats, turns and questions: the chat without a socket, by the same manager."""

import secrets
import uuid
from typing import Any

import msgspec
from asgiref.sync import async_to_sync
from django.conf import settings
from django.db.models import Q
from django.http import StreamingHttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import locale as languages
from accounts import rights
from accounts.rest.bodies import Body, Flag, Json, Nothing, Text, found, path_id
from accounts.rest.pages import page
from accounts.tokens import Identity
from chat import export, protocol, shapes, snapshot
from chat.doors import admission
from chat.models import Chat, Message, Question, Turn
from chat.turns import manager as managers
from chat.turns.manager import ask_manager
from chat.turns.nodes import Nodes
from chat.turns.states import ACTIVE, TurnState
from chat.turns.store import chats
from flows import store as flows
from streams.abort import abort_of
from streams.clock import stamp
from streams.errors import WireError
from streams.turnstile import Turnstile

TITLE_CHARS = Chat._meta.get_field("title").max_length  # of one that is given
COMMENT_CHARS = 2000
IDEMPOTENCY_KEY = "Idempotency-Key"


class NewChat(Body):
    flow = Text(max_length=64)
    title = Text(max_length=TITLE_CHARS, allow_blank=True, default="")


class ChatPatch(Body):
    title = Text(max_length=TITLE_CHARS, required=False)
    head = serializers.UUIDField(required=False)
    pinned = Flag(required=False)


class SayBody(Body):
    """A `say`; its text and the number of its files are judged where a socket's are."""

    text = Json(kind=str)
    params = Json(kind=dict, default=dict)
    parent = serializers.UUIDField(required=False, allow_null=True)
    files = serializers.ListField(child=serializers.UUIDField(), default=list)


class AnswerBody(Body):
    value = Json(required=False, allow_null=True)
    action = serializers.ChoiceField(choices=["accept", "decline", "cancel"], default="accept")


class Feedback(Body):
    value = serializers.ChoiceField(choices=["up", "down"])
    comment = Text(max_length=COMMENT_CHARS, allow_blank=True, default="")


# ------------------------------------------------------------------------------------------------------- chats


class ChatAPIView(APIView):
    scopes = ("chat",)


class ChatsView(ChatAPIView):
    """One's own chats, pinned ones first, then by their last turn. `q` searches titles and texts."""

    def get(self, request: Request) -> Response:
        rows = own_chats(request.auth).filter(kind=Chat.Kind.CHAT).select_related("flow")
        query = request.query_params.get("q", "").replace("\0", "")[:200]
        if query:
            wanted = shapes.folded(query)
            mine = Message.objects.filter(chat__user_id=request.auth.user_id)
            in_texts = mine.filter(search_text__contains=wanted)
            rows = rows.filter(Q(search_title__contains=wanted) | Q(id__in=in_texts.values("chat_id")))
        return page(request, rows, ("pinned", "last_turn_at", "id"), chats_json)

    def post(self, request: Request) -> Response:
        body = NewChat.of(request)
        flow = flows.find_flow(body["flow"])
        if flow is None or not rights.can_chat(request.auth, flow):
            raise WireError("flow_not_found")
        chat = chats.create_chat(request.auth.user_id, str(flow.id), body["title"])
        location = f"{request.path}{chat.id}/"
        return Response(chats_json([chat])[0], status=201, headers={"Location": location})


class ChatView(ChatAPIView):
    def get(self, request: Request, ref: str) -> Response:
        return Response(chats_json([own_chat(request.auth, ref)])[0])

    def patch(self, request: Request, ref: str) -> Response:
        chat = own_chat(request.auth, ref)
        body = ChatPatch.of(request)
        if "head" in body:
            body["head"] = str(body["head"])
        if body:
            ask_manager(lambda manager: manager.commands.patch_chat(str(chat.id), request.auth.user_id, **body))
        return Response(chats_json([own_chat(request.auth, ref)])[0])

    def delete(self, request: Request, ref: str) -> Response:
        chat = own_chat(request.auth, ref)
        ask_manager(lambda manager: manager.commands.delete_chat(str(chat.id), request.auth.user_id))
        return Response(status=204)


class EventsView(ChatAPIView):
    """Server-sent events: `chat/doors/events.py` answers before this view is asked.

    What comes here is of another method, or of a page of another site.
    """

    def get(self, request: Request, ref: str) -> Response:
        raise WireError("forbidden")


class RestoreView(ChatAPIView):
    """Undoes a deletion. Turns that it ended stay ended."""

    def post(self, request: Request, ref: str) -> Response:
        mine = Chat.objects.filter(user_id=request.auth.user_id, kind=Chat.Kind.CHAT)
        chat = found(mine.filter(id=path_id(ref)).first())
        Nothing.of(request)
        ask_manager(lambda manager: manager.commands.restore_chat(str(chat.id), request.auth.user_id))
        return Response(chats_json([own_chat(request.auth, ref)])[0])


def _bounds() -> tuple[int, int, float]:
    bounds = settings.HEADRACE
    return bounds.exports_at_once, bounds.requests_waiting, bounds.request_wait_s


_exports = Turnstile(_bounds, "busy", gettext_noop("Too many chats are exported at this moment. Try again shortly."))


class ExportView(ChatAPIView):
    """The chat as a file: `?as=md` the branch that is shown, `?as=json` the whole tree."""

    def get(self, request: Request, ref: str) -> StreamingHttpResponse:
        chat = own_chat(request.auth, ref)
        form = request.query_params.get("as", "md")
        if form not in export.FORMS:
            raise WireError("validation_error", fields={"as": _("This must be md or json.")})
        abort = abort_of(getattr(request._request, "scope", {}))
        guest = _exports.enter(request.auth.user_id, settings.HEADRACE.exports_per_user)
        return export.as_file(chat, form, guest, abort)


class MessagesView(ChatAPIView):
    """Newest first, of all branches; `?branch=<message>`: that message and its ancestors."""

    def get(self, request: Request, ref: str) -> Response:
        chat = own_chat(request.auth, ref)
        rows = chat.messages.all()
        branch = request.query_params.get("branch")
        if branch is not None:
            rows = rows.filter(id__in=_ancestors(chat, branch))
        return page(request, rows, ("created", "id"), messages_json, lambda row: len(msgspec.json.encode(row.parts)))


def own_chats(identity: Identity) -> Any:
    return Chat.objects.filter(user_id=identity.user_id, deleted=False)


def own_chat(identity: Identity, ref: str) -> Chat:
    return found(own_chats(identity).select_related("flow").filter(id=path_id(ref)).first())


def chats_json(rows: list[Chat]) -> list[dict[str, Any]]:
    """`state`: of the running or waiting turn, else null."""
    active = Turn.objects.filter(chat__in=rows, state__in=ACTIVE, background=False)
    states = dict(active.values_list("chat_id", "state"))
    return [chat_json(row, states.get(row.id)) for row in rows]


def chat_json(row: Chat, state: str | None) -> dict[str, Any]:
    return shapes.chat_item(row, state) | {
        "rev": row.rev,
        "kind": row.kind,
        "flow": row.flow and {"id": str(row.flow.id), "slug": row.flow.slug, "name": row.flow.name},
        "created": stamp(row.created),
        "last_turn": stamp(row.last_turn_at),
    }


def messages_json(rows: list[Message]) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(shapes.message_of(row)) for row in rows]


def _ancestors(chat: Chat, branch: str) -> list[uuid.UUID]:
    """Ids from `branch` up to the root. It may name the answer of a turn that has not ended."""
    parents = dict(chat.messages.values_list("id", "parent"))
    for answer, said in chat.turns.values_list("answer", "input"):
        parents.setdefault(answer, said)
    try:
        at: uuid.UUID | None = path_id(branch)
    except WireError:
        at = None
    if at not in parents:
        raise WireError("message_not_found")
    return shapes.ancestors(parents, at)


class FeedbackView(ChatAPIView):
    """What one thinks of an answer."""

    def put(self, request: Request, ref: str) -> Response:
        message = path_id(ref)
        body = Feedback.of(request)
        chats.set_feedback(str(message), request.auth.user_id, body)
        return Response(body)

    def delete(self, request: Request, ref: str) -> Response:
        chats.set_feedback(str(path_id(ref)), request.auth.user_id, None)
        return Response(status=204)


# ------------------------------------------------------------------------------------------------------- turns


class TurnsView(ChatAPIView):
    """A `say` without a socket. `Idempotency-Key` is its id: the same again answers the same."""

    def post(self, request: Request, ref: str) -> Response:
        chat = own_chat(request.auth, ref)
        body = SayBody.of(request)
        said = protocol.Say(
            id=_command_id(request),
            text=body["text"],
            params=body["params"],
            parent=str(body["parent"]) if body.get("parent") else None,
            files=[str(file) for file in body["files"]],
        )
        reply = async_to_sync(_say)(request.auth, str(chat.id), _locale(request), said)
        return Response(reply, status=202, headers={"Location": f"/api/turns/{reply['turn']}/"})


class TurnView(ChatAPIView):
    def get(self, request: Request, ref: str) -> Response:
        turn = own_turn(request.auth, ref)
        return Response(turn_json(turn, _nodes_of(turn)))


class StopView(ChatAPIView):
    def post(self, request: Request, ref: str) -> Response:
        turn = own_turn(request.auth, ref)
        Nothing.of(request)
        stop = protocol.Stop(id=_command_id(request), turn=str(turn.id))
        return Response(ask_manager(lambda manager: manager.commands.stop_turn(request.auth, str(turn.chat_id), stop)))


class AnswerView(ChatAPIView):
    def post(self, request: Request, ref: str) -> Response:
        mine = Question.objects.filter(turn__chat__in=own_chats(request.auth)).select_related("turn")
        question = found(mine.filter(id=path_id(ref)).first())
        body = AnswerBody.of(request)
        answer = protocol.AnswerCommand(
            id=_command_id(request), question=str(question.id), value=body.get("value"), action=body["action"]
        )
        return Response(
            ask_manager(lambda manager: manager.commands.answer(request.auth, str(question.turn.chat_id), answer))
        )


def own_turn(identity: Identity, ref: str) -> Turn:
    rows = Turn.objects.filter(chat__in=own_chats(identity)).select_related("version")
    return found(rows.filter(id=path_id(ref)).first())


def turn_json(turn: Turn, nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """`parts`: of the stored answer, or before the end those that the database has (the stream has the rest)."""
    answer = Message.objects.filter(id=turn.answer).first()
    question = turn.questions.filter(action="").first() if turn.state == TurnState.WAITING else None
    return {
        "id": str(turn.id),
        "chat": str(turn.chat_id),
        "state": turn.state,
        "message": str(turn.input),
        "answer": str(turn.answer),
        "attempt": turn.attempt,
        "version": turn.version.number if turn.version else None,
        "skill": turn.skill,
        "parts": msgspec.to_builtins(shapes.parts_of(answer.parts if answer else turn.parts)),
        "nodes": nodes,
        "question": question and msgspec.to_builtins(shapes.question_of(question)),
        "data": turn.data,
        "usage": turn.usage,
        "error": turn.error,
        "created": stamp(turn.created),
        "ended": turn.ended_at and stamp(turn.ended_at),
    }


def _nodes_of(turn: Turn) -> list[dict[str, Any]]:
    """Its steps: the row's, and while it runs those that only the log has yet."""
    bounds = settings.HEADRACE
    nodes = Nodes(turn.nodes, bounds.turn_nodes, bounds.turn_nodes_bytes)
    if turn.state == TurnState.RUNNING:
        entries = ask_manager(lambda manager: manager.log.read(str(turn.chat_id), 0)).entries
        for event in snapshot.nodes_in_log(entries, str(turn.id)):
            nodes.add(event)
    return nodes.rows()


def _command_id(request: Request) -> str:
    """The command's id: the key that was given, else a fresh one."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return secrets.token_urlsafe(16)
    try:
        return msgspec.convert(key, protocol.Id)
    except msgspec.ValidationError as error:
        text = _("This must be 1 to 64 letters, digits, _ or -.")
        raise WireError("validation_error", fields={IDEMPOTENCY_KEY: text}) from error


def _locale(request: Request) -> str:
    accept = request.headers.get("Accept-Language", "")
    return languages.choose(request.query_params.get("locale", ""), request.auth.locale, accept=accept)


async def _say(identity: Identity, chat: str, locale: str, said: protocol.Say) -> dict[str, Any]:
    manager = await managers.start()
    return await manager.commands.say(await admission.admit_chat(identity, chat, locale), said)
