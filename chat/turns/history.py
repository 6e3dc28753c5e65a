"""Stored messages as a model reads them."""

from typing import Any

import msgspec

from chat import shapes
from flows.context import FileView, with_files
from providers.base import LLMMessage


def messages_of(role: str, parts: list[dict[str, Any]], known: dict[str, FileView]) -> list[LLMMessage]:
    """One stored message; questions and their answers as assistant's and user's text. `known`: files by id."""
    views = tuple(known[data["file"]] for data in shapes.files_of(parts) if data["file"] in known)
    messages: list[LLMMessage] = []
    for part in parts:
        if part["kind"] == "text" and part.get("text"):
            message = LLMMessage("user" if role == "user" else "assistant", part["text"])
            messages.append(with_files(message, views) if role == "user" else message)
        elif part["kind"] == "question":
            data = part["data"]
            messages.append(LLMMessage("assistant", data["text"]))
            if data.get("action") == "accept" and "value" in data:
                messages.append(LLMMessage("user", data.get("label") or _as_text(data["value"])))
    return messages


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
