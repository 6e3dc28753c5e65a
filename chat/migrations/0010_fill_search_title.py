"""Fills `search_title` of the chats that are there. Each batch is its own transaction: nothing waits for the whole.

May be run again: what is filled is filled the same.
"""

import unicodedata

from django.db import migrations

BATCH = 500


def fill(apps, schema_editor):
    chats = apps.get_model("chat", "Chat").objects.exclude(title="").order_by("id").only("id", "title")
    batch = list(chats[:BATCH])
    while batch:
        for row in batch:
            row.search_title = unicodedata.normalize("NFC", row.title.casefold())  # as `chat/shapes.py` had it
        chats.bulk_update(batch, ["search_title"])
        batch = list(chats.filter(id__gt=batch[-1].id)[:BATCH])


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("chat", "0009_chat_search_title")]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop, elidable=True)]
