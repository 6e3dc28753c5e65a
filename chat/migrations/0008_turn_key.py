"""A turn knows the API key that said it, whose budget counts it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("chat", "0007_fill_search_text")]

    operations = [migrations.AddField("turn", "key", models.UUIDField(blank=True, null=True))]
