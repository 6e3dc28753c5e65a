"""What a message is found by, as text: JSON escapes other scripts, and has words of its own."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("chat", "0005_fewer_indexes")]

    operations = [
        migrations.AddField(
            "message",
            "search_text",
            models.TextField(blank=True, db_default="", default="", editable=False),
        ),
    ]
