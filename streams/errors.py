"""The catalogue: every error of every door, with its sentence, HTTP status, close code and retry.

Pure. Sentences are English message ids without anything to fill in; the edge translates them (`streams/sentences.py`).
"""

from typing import Any, NamedTuple

from streams.sentences import Sentence


class Entry(NamedTuple):
    """`status`: HTTP. `close`: WebSocket close code where the error ends a socket, else None."""

    status: int
    close: int | None
    is_retryable: bool
    text: str


def _(text: str) -> str:  # marks a sentence for gettext's extraction; it is translated at the edge
    return text


CATALOGUE: dict[str, Entry] = {
    # who, and may
    "unauthorized": Entry(
        401, 1008, False, _("You are not signed in, or your sign-in has ended. Sign in and connect again.")
    ),
    "forbidden": Entry(403, 1008, False, _("You may not do this.")),
    "csrf_failed": Entry(403, None, False, _("The CSRF token is missing or wrong. Reload the page and try again.")),
    "session_closed": Entry(403, 1008, False, _("An operator has closed this connection.")),
    # there
    "not_found": Entry(404, None, False, _("There is nothing here, or it is not yours.")),
    "flow_not_found": Entry(404, 1008, False, _("There is no such flow, or it is not open to you.")),
    "skill_not_found": Entry(404, 1008, False, _("There is no such skill.")),
    "version_not_found": Entry(404, 1008, False, _("The flow has no such version.")),
    "chat_not_found": Entry(404, 1008, False, _("There is no such chat, or it is not yours.")),
    "message_not_found": Entry(404, None, False, _("There is no such message in this chat.")),
    "turn_not_found": Entry(404, None, False, _("There is no such turn in this chat.")),
    "question_not_found": Entry(404, None, False, _("There is no such question in this chat.")),
    "file_not_found": Entry(404, None, False, _("There is no such file, or it is not yours.")),
    # form
    "bad_request": Entry(400, 1008, False, _("The address or its parameters are malformed.")),
    "bad_json": Entry(400, None, False, _("This is not valid JSON.")),
    "bad_frame": Entry(400, None, False, _("The frame has not the form of its type.")),
    "unknown_type": Entry(400, None, False, _("There is no such type of frame.")),
    "unknown_field": Entry(400, None, False, _("There is a field that this frame does not have.")),
    "empty_text": Entry(400, None, False, _("The text is empty.")),
    "bad_text": Entry(400, None, False, _("The text has a character that is not allowed (NUL).")),
    "validation_error": Entry(400, None, False, _("Some fields are not valid.")),
    "graph_invalid": Entry(400, None, False, _("The graph has faults.")),
    "bad_cursor": Entry(400, None, False, _("The cursor is not one that this list gave.")),
    "bad_limit": Entry(400, None, False, _("The limit must be a number from 1 to 200.")),
    "url_not_allowed": Entry(400, None, False, _("This address is not allowed: it must be https and public.")),
    "bad_binary_frame": Entry(400, None, False, _("Binary frames carry audio only, and there is none here.")),
    "invalid_answer": Entry(422, None, False, _("The answer does not fit the question.")),
    "id_conflict": Entry(422, None, False, _("This id was used with other content. Use a fresh id.")),
    # state
    "turn_running": Entry(409, None, False, _("An answer is still being written. Wait for it, or stop it.")),
    "turn_not_running": Entry(409, None, False, _("No such turn runs or waits. It may have ended already.")),
    "question_closed": Entry(409, None, False, _("This question was answered already.")),
    "flow_offline": Entry(409, 1008, False, _("This flow is offline. Its owner must publish it first.")),
    "not_built": Entry(409, 1013, False, _("The draft is not built as it stands. Build it, then connect again.")),
    "build_running": Entry(409, None, True, _("A build of this flow is running.")),
    "build_failed": Entry(409, None, False, _("The flow does not build. Its faults say where.")),
    "idle": Entry(409, 1000, False, _("Nothing was said here for a long time. Connect again to go on.")),
    "not_supported": Entry(501, 1008, False, _("This server does not support that.")),
    "conflict": Entry(412, None, False, _("Somebody else has saved meanwhile. Reload, then save again.")),
    "question_expired": Entry(410, None, False, _("The question has expired without an answer.")),
    "chat_deleted": Entry(410, 1000, False, _("The chat was deleted.")),
    # size
    "text_too_long": Entry(413, None, False, _("The text is too long.")),
    "frame_too_large": Entry(413, 1009, False, _("The frame or body is too large.")),
    "file_too_large": Entry(413, None, False, _("The file is too large.")),
    "answer_too_long": Entry(413, None, False, _("The answer became too long and was cut. The text so far is kept.")),
    # files
    "file_type_not_allowed": Entry(
        415, None, False, _("Files of this type are not taken: text, PNG, JPEG, GIF, WebP and PDF are.")
    ),
    "bad_filename": Entry(400, None, False, _("The file's name has nothing that could be shown.")),
    "empty_file": Entry(400, None, False, _("The file is empty.")),
    "file_incomplete": Entry(400, None, False, _("The file is broken, or did not come whole.")),
    "file_decompression_limit": Entry(422, None, False, _("The file unfolds to more than may be read.")),
    # rate
    "queue_full": Entry(429, None, True, _("Too many messages wait already. Wait for an answer, or stop one.")),
    "busy": Entry(429, None, True, _("Too many answers are being written. Try again in a moment.")),
    "rate_limited": Entry(429, None, True, _("Too many commands. Slow down a little.")),
    "throttled": Entry(429, None, True, _("Too many requests. Slow down a little.")),
    "too_many_connections": Entry(429, 1013, True, _("Too many connections are open. Close some and try again.")),
    "too_many_errors": Entry(
        429, 1008, True, _("Too many bad frames. Mend what sends them, or wait a minute, then connect again.")
    ),
    "slow_reader": Entry(429, 1013, True, _("You read too slowly. Connect again to go on where you were.")),
    "quota_exceeded": Entry(429, None, True, _("Your budget is used up.")),
    # away
    "unavailable": Entry(503, 1013, True, _("The service cannot reach its storage. Try again in a moment.")),
    "going_away": Entry(503, 1012, True, _("This server is restarting. Connect again.")),
    "worker_lost": Entry(503, None, True, _("The server that wrote this answer was lost. Try again.")),
    "engine_unavailable": Entry(503, None, True, _("The engine does not answer.")),
    "engine_missing": Entry(503, None, False, _("The engine is not installed here.")),
    # upstream
    "provider_timeout": Entry(504, None, True, _("The model did not answer in time.")),
    "turn_timeout": Entry(504, None, False, _("The answer took too long and was cut. The text so far is kept.")),
    "provider_error": Entry(502, None, True, _("The model's server answered with an error.")),
    "provider_auth": Entry(502, None, False, _("The model's server refused the key. An operator must mend it.")),
    "provider_rate_limited": Entry(502, None, True, _("The model's server has too much to do. Try again in a moment.")),
    "provider_refused": Entry(502, None, False, _("The model's server refused the request.")),
    "provider_cut": Entry(502, None, True, _("The answer was cut off. The text so far is kept; try again.")),
    # run
    "flow_error": Entry(500, None, False, _("The flow failed. Try again, or tell its owner.")),
    "loop_bound": Entry(500, None, False, _("The flow went round too often.")),
    "tool_outcome_unknown": Entry(500, None, False, _("A step was cut and nobody knows whether it was done.")),
    "internal": Entry(500, 1011, False, _("Something went wrong on our side. The trace helps us to find it.")),
    # others
    "method_not_allowed": Entry(405, None, False, _("This method is not allowed here.")),
    "unsupported_media_type": Entry(415, None, False, _("The content type must be application/json.")),
}


class WireError(Exception):
    """A refusal by its name in the catalogue, the same at every door.

    `text` replaces the catalogue's sentence where more can be said (a `Sentence`, where something fills it); `extra`
    holds what the error frame or body carries besides: `field`, `fields`, `faults`, `retry_after` (seconds);
    `cause` follows its sentence.
    """

    def __init__(self, code: str, text: str | None = None, **extra: Any) -> None:
        super().__init__(code if text is None else f"{code}: {text}")
        self.code = code
        self.entry = CATALOGUE[code]
        self.text = text
        self.extra = extra


_SIZES = {
    "file_too_large": _("The file is larger than {limit}."),
    "frame_too_large": _("The frame or body is larger than {limit}."),
}


def too_large(code: str, most_bytes: int) -> WireError:
    """`file_too_large` or `frame_too_large`, with the bound that was passed."""
    power = max(power for power in (0, 10, 20) if most_bytes >> power or not power)
    limit = f"{most_bytes / (1 << power):.4g} {({0: 'bytes', 10: 'KiB', 20: 'MiB'})[power]}"
    return WireError(code, Sentence(_SIZES[code], limit=limit))


def shape_of(error: WireError, text: str, *carried: str) -> dict[str, Any]:
    """The error as every door shows it: `text` is its sentence in the reader's language; `carried`: what of `extra`."""
    shape = {
        "code": error.code,
        "text": text,
        "retryable": error.extra.get("retryable", error.entry.is_retryable),
    }
    return shape | {name: error.extra[name] for name in carried if error.extra.get(name) is not None}
