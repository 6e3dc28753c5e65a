"""Apart from the migration that fills it: PostgreSQL alters no table in the transaction that wrote its foreign keys."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("chat", "0003_turn_user"), migrations.swappable_dependency(settings.AUTH_USER_MODEL)]

    operations = [
        migrations.AlterField(
            "turn",
            "user",
            models.ForeignKey(
                settings.AUTH_USER_MODEL, django.db.models.deletion.CASCADE, related_name="+", db_index=False
            ),
        ),
        migrations.AddIndex(
            "turn",
            models.Index(condition=models.Q(("state", "running")), fields=["user"], name="turn_running_of_user"),
        ),
    ]
