"""What a chat is found by, as text: SQLite knows the case of ASCII alone, and no database one form of each letter."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("chat", "0008_turn_key")]

    operations = [
        migrations.AddField(
            "chat",
            "search_title",
            models.TextField(blank=True, db_default="", default="", editable=False),
        ),
    ]
