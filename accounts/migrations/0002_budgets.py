import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial"), ("auth", "0012_alter_user_first_name_max_length")]

    operations = [
        migrations.CreateModel(
            name="Budget",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("flow", models.UUIDField(blank=True, null=True, verbose_name="flow")),
                (
                    "period",
                    models.CharField(choices=[("day", "day"), ("month", "month")], max_length=8, verbose_name="period"),
                ),
                (
                    "limit_tokens",
                    models.PositiveBigIntegerField(
                        blank=True,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="tokens",
                    ),
                ),
                (
                    "limit_cost_micros",
                    models.PositiveBigIntegerField(
                        blank=True,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="cost in micros",
                        help_text="Millionths of what the providers' prices are in: 2500000 is 2.50.",
                    ),
                ),
                ("created", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "group",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="auth.group",
                        verbose_name="group",
                    ),
                ),
                (
                    "key",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="accounts.apikey",
                        verbose_name="API key",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "budget",
                "verbose_name_plural": "budgets",
                "constraints": [
                    *(
                        models.UniqueConstraint(fields=[name, "period"], name=f"budget_once_a_{name}")
                        for name in ("user", "group", "key", "flow")
                    ),
                    models.CheckConstraint(
                        condition=(
                            Q(user__isnull=False, group__isnull=True, key__isnull=True, flow__isnull=True)
                            | Q(user__isnull=True, group__isnull=False, key__isnull=True, flow__isnull=True)
                            | Q(user__isnull=True, group__isnull=True, key__isnull=False, flow__isnull=True)
                            | Q(user__isnull=True, group__isnull=True, key__isnull=True, flow__isnull=False)
                        ),
                        name="budget_of_one",
                        violation_error_message="Choose one: a user, a group, a key or a flow.",
                    ),
                    models.CheckConstraint(
                        condition=Q(limit_tokens__isnull=False) | Q(limit_cost_micros__isnull=False),
                        name="budget_limits",
                        violation_error_message="Set a limit: of tokens, of the cost, or of both.",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Spent",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("start", models.DateField()),
                ("tokens", models.PositiveBigIntegerField(default=0)),
                ("cost_micros", models.PositiveBigIntegerField(default=0)),
                (
                    "budget",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="spent",
                        to="accounts.budget",
                    ),
                ),
            ],
            options={
                "verbose_name": "spent sum",
                "verbose_name_plural": "spent sums",
                "constraints": [models.UniqueConstraint(fields=["budget", "start"], name="spent_once_a_period")],
            },
        ),
    ]
