"""Fills `search_text` of the messages that are there. Each batch is its own transaction: nothing waits for the whole.

May be run again: what is filled is filled the same.
"""

import unicodedata

from django.db import migrations

BATCH = 500


def fill(apps, schema_editor):
    messages = apps.get_model("chat", "Message").objects.order_by("id").only("id", "parts")
    batch = list(messages[:BATCH])
    while batch:
        for row in batch:
            row.search_text = _search_text(row.parts)
        messages.bulk_update(batch, ["search_text"])
        batch = list(messages.filter(id__gt=batch[-1].id)[:BATCH])


def _search_text(parts):
    """As `chat/shapes.py` had it when this was written."""
    shown = []
    for part in parts:
        data = part.get("data")
        if part["kind"] == "text":
            shown.append(part.get("text"))
        elif part["kind"] == "question" and isinstance(data, dict):
            shown += [data.get("text"), data.get("label")]
    return unicodedata.normalize("NFC", "\n\n".join(text for text in shown if text).casefold())


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("chat", "0006_message_search_text")]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop, elidable=True)]
