"""Examples of the OpenAPI document."""

from typing import Any

from accounts import api as accounts
from accounts import spend_api as spend
from chat import api as chats
from chat import sessions_api as sessions
from flows import api as flows
from streams.errors import CATALOGUE

ID = "5f0c2f4e-7c1b-4a53-9a0e-2f6f0a3f6d11"
OTHER = "0b9f6c1c-2f0e-4c55-8d3a-6a1f7b1f9e02"
THIRD = "c3a2b1d0-9e8f-4a7b-8c6d-5e4f3a2b1c0d"
TIME = "2026-11-21T09:30:00.000Z"
TRACE = "9f86d081884c7d65"
PATH = {"ref": ID, "number": "3"}
GRAPH = {
    "schema": 1,
    "nodes": [
        {"id": "start", "kind": "start"},
        {"id": "hello", "kind": "message", "fields": {"text": "Hello {{ input.text }}"}},
        {"id": "end", "kind": "end"},
    ],
    "edges": [{"from": "start", "to": "hello"}, {"from": "hello", "to": "end"}],
}
PERSON = {"id": "7", "name": "Anna"}
FAULT = {"node": "hello", "field": None, "edge": None, "code": "missing_edge", "text": "Nothing follows this node."}
FLOW = {
    "id": ID,
    "slug": "guide",
    "name": "Guide",
    "description": "",
    "icon": "",
    "status": "online",
    "version": 3,
    "owner": PERSON,
    "editable": False,
}
CHAT = {
    "id": ID,
    "title": "Of mills",
    "head": OTHER,
    "pinned": False,
    "deleted": False,
    "state": None,
    "rev": 1,
    "kind": "chat",
    "flow": {"id": OTHER, "slug": "guide", "name": "Guide"},
    "created": TIME,
    "last_turn": TIME,
}
MESSAGE = {
    "id": OTHER,
    "chat": ID,
    "role": "assistant",
    "parts": [{"id": "1.hello#1", "kind": "text", "text": "Hello", "node": "hello"}],
    "parent": THIRD,
    "turn": THIRD,
    "status": "done",
    "client_id": None,
    "feedback": None,
    "created": TIME,
}
VERSION = {
    "number": 3,
    "checksum": "9b74c9897bac770ffc029102a200c5de",
    "note": "Kinder",
    "author": PERSON,
    "created": TIME,
    "published": True,
}
COUNTERS = {"bytes_sent": 5120, "bytes_recv": 96, "chunks_sent": 41, "chunks_recv": 2}
TURN_NODE = {
    "node": "hello",
    "visit": 1,
    "kind": "message",
    "title": "",
    "state": "end",
    "ms": 2,
    "output": {"text": "Hello"},
    "error": None,
}
SESSION = {
    "id": ID,
    "user": PERSON,
    "flow": OTHER,
    "chat": THIRD,
    "door": "chat",
    "kind": "text",
    "state": "connected",
    "dialect": "headrace.v1",
    "worker": None,
    "address": "192.0.2.7",
    "user_agent": "curl/8",
    "trace": TRACE,
    **COUNTERS,
    "started": TIME,
    "last_seen": TIME,
    "ended": None,
    "close_code": None,
    "close_reason": "",
}
BUDGET = {
    "of": "user",
    "id": "7",
    "name": "anna",
    "period": "day",
    "limit_tokens": 50000,
    "limit_cost_micros": None,
    "spent_tokens": 12300,
    "spent_cost_micros": 4920,
    "ends": "2026-11-22T00:00:00.000Z",
}
FLOW_FILE = {"headrace": 1, "name": "Guide", "description": "", "double_text": "queue", "graph": GRAPH}

SHAPES: dict[str, Any] = {
    "Tokens": {"access": "eyJ…", "refresh": "eyJ…"},
    "Ticket": {"ticket": "Wq1…", "expires_in": 60},
    "Me": {"id": "7", "username": "anna", "name": "Anna", "locale": "", "theme": "dark", "staff": False},
    "Budget": BUDGET,
    "OwnUsage": {"budgets": [BUDGET]},
    "Key": {"id": ID, "name": "script", "scopes": ["chat"], "hint": "x7Qa", "created": TIME},
    "NewKey": {"id": ID, "name": "script", "scopes": ["chat"], "hint": "x7Qa", "created": TIME, "key": "hr_…x7Qa"},
    "Flow": FLOW,
    "ImportedFlow": FLOW | {"faults": []},
    "FlowFile": FLOW_FILE,
    "Faults": {"faults": [FAULT]},
    "BuildBegun": {"build": "0b9f6c1c2f0e4c558d3a6a1f7b1f9e02"},
    "Build": {
        "build": "0b9f6c1c2f0e4c558d3a6a1f7b1f9e02",
        "status": "failure",
        "progress": 100,
        "checksum": "9b74c9897bac770ffc029102a200c5de",
        "faults": [FAULT],
        "error": FAULT["text"],
    },
    "Version": VERSION,
    "VersionGraph": VERSION | {"graph": GRAPH},
    "Diff": {
        "nodes": [
            {
                "id": "hello",
                "kind": "message",
                "title": "",
                "change": "changed",
                "fields": [{"field": "text", "before": "Hello", "after": "Hello {{ input.text }}"}],
            }
        ],
        "edges": [],
    },
    "NodeKind": {
        "kind": "message",
        "title": "Message",
        "schema": {"$ref": "#/$defs/Fields", "$defs": {"Fields": {"type": "object"}}},
        "outputs": ["text"],
        "branches": [],
        "optional_branches": [],
        "passes": True,
        "is_start": False,
        "is_end": False,
    },
    "Provider": {
        "id": ID,
        "slug": "openai",
        "kind": "openai_compatible",
        "base_url": "https://api.openai.com/v1",
        "has_key": True,
        "models": ["gpt-4o-mini"],
        "options": {},
        "on_takeover": "restart",
        "prices": {"input": 150000, "output": 600000},
        "takes_pictures": True,
        "enabled": True,
    },
    "Chat": CHAT,
    "ChatFile": {
        "headrace": 1,
        "id": ID,
        "title": "Of mills",
        "flow": "guide",
        "head": OTHER,
        "created": TIME,
        "messages": [MESSAGE],
    },
    "Message": MESSAGE,
    "Said": {"message": ID, "turn": OTHER, "answer": THIRD, "queued": False},
    "Answered": {"question": ID, "turn": OTHER},
    "Stopped": {"turn": OTHER},
    "TurnNode": TURN_NODE,
    "Turn": {
        "id": THIRD,
        "chat": ID,
        "state": "done",
        "message": THIRD,
        "answer": OTHER,
        "attempt": 1,
        "version": 3,
        "skill": "flow",
        "parts": MESSAGE["parts"],
        "nodes": [TURN_NODE],
        "question": None,
        "data": None,
        "usage": None,
        "error": None,
        "created": TIME,
        "ended": TIME,
    },
    "Feedback": {"value": "up", "comment": ""},
    "File": {"id": ID, "name": "mills.pdf", "mime": "application/pdf", "bytes": 48213, "created": TIME},
    "Session": SESSION,
    "Totals": {
        "since": TIME,
        "live": 3,
        "sessions": 12,
        **COUNTERS,
        "doors": {"chat": 12},
        "states": {"connected": 3},
        "is_cut": False,
    },
    "Worker": {
        "id": ID,
        "host": "one",
        "pid": 7,
        "alive": True,
        "draining": False,
        "runs_turns": True,
        "turns": 0,
        "sockets": 3,
        "started": TIME,
        "last_seen": TIME,
    },
}

BODIES: dict[type, Any] = {
    accounts.Password: {"username": "anna", "password": "…"},
    accounts.Refresh: {"refresh": "eyJ…"},
    accounts.Revoke: {"all": True},
    accounts.Me: {"theme": "dark"},
    accounts.NewKey: {"name": "script", "scopes": ["chat"]},
    spend.BudgetBody: {"of": "user", "id": "7", "period": "day", "limit_tokens": 50000},
    flows.NewFlow: {"name": "Guide", "draft": GRAPH},
    flows.FlowPatch: {"draft": GRAPH},
    flows.FlowExport: FLOW_FILE,
    flows.GraphBody: {"graph": GRAPH},
    flows.BuildBody: {"version": None},
    flows.PublishBody: {"note": "Kinder"},
    flows.Nothing: {},
    flows.NewProvider: {"slug": "openai", "kind": "openai_compatible", "base_url": "https://api.openai.com/v1"},
    flows.ProviderPatch: {"key": "sk-…"},
    chats.NewChat: {"flow": "guide"},
    chats.ChatPatch: {"title": "Of mills", "pinned": True},
    chats.SayBody: {"text": "What is a flow?"},
    chats.AnswerBody: {"value": "Anna"},
    chats.Feedback: {"value": "up"},
    sessions.CloseBody: {"reason": "It floods the server."},
}


def error(code: str) -> dict[str, Any]:
    entry = CATALOGUE[code]
    return {"error": {"code": code, "text": entry.text, "retryable": entry.is_retryable, "trace": TRACE}}
