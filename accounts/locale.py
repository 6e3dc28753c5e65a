"""Which language somebody is spoken to in, and a catalogue error as a sentence of it."""

from django.conf import settings
from django.utils import translation
from django.utils.translation import get_supported_language_variant, gettext
from django.utils.translation.trans_real import parse_accept_lang_header

from streams.errors import WireError
from streams.sentences import told


def choose(*wishes: str, accept: str = "") -> str:
    """The first wish that is spoken here, else the browser's `Accept-Language`, else the default."""
    for wish in [*wishes, *(language for language, _ in parse_accept_lang_header(accept))]:
        if wish and wish != "*":
            try:
                return get_supported_language_variant(wish)
            except (LookupError, ValueError):  # not spoken here; no language at all
                continue
    return settings.LANGUAGE_CODE


def sentence(error: WireError, locale: str) -> str:
    """The catalogue's sentence, or its own, and the cause where one is known."""
    with translation.override(locale or settings.LANGUAGE_CODE):
        text = told(error.text or error.entry.text, gettext)
        cause = told(error.extra.get("cause", ""), gettext).strip()
    return f"{text} ({cause.rstrip('.')})" if cause else text
