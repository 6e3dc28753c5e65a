"""A turn knows its user, so that counting what he runs does not look at what everyone runs."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import OuterRef, Subquery


def fill(apps, schema_editor):
    chats = apps.get_model("chat", "Chat").objects.filter(id=OuterRef("chat_id"))
    apps.get_model("chat", "Turn").objects.update(user_id=Subquery(chats.values("user_id")[:1]))


class Migration(migrations.Migration):
    dependencies = [("chat", "0002_initial"), migrations.swappable_dependency(settings.AUTH_USER_MODEL)]

    operations = [
        migrations.AddField(
            "turn",
            "user",
            models.ForeignKey(
                settings.AUTH_USER_MODEL,
                django.db.models.deletion.CASCADE,
                related_name="+",
                db_index=False,
                null=True,
            ),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=True),
    ]
