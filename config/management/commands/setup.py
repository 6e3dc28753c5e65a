"""Make an installation ready: tables, groups, the first users, the demo flows. Again and again without harm."""

import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command, get_commands
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import IntegrityError, transaction

from config import startup, translations

VIEWER = "viewer"
# What a viewer may look at in the admin, and change nothing of.
VIEWED = ("streamsession", "worker", "chat", "turn", "question", "flow", "flowversion", "budget")
FIRST = {"admin": {"is_staff": True, "is_superuser": True}, "demo": {}}


class Command(BaseCommand):
    help = "Applies migrations, makes the group viewer, the users admin and demo once, and makes the demo flows."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-demo", action="store_true", help="make neither the user demo nor the demo flows")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            startup.check_data_dir()
            startup.check_database()
        except startup.Fault as fault:
            raise CommandError(str(fault)) from None
        call_command("migrate", interactive=False, verbosity=0)
        translations.compile_stale()
        make_viewers()
        wanted = [name for name in FIRST if not (options["no_demo"] and name == "demo")]
        made = {name: password for name in wanted if (password := self._make(name))}
        if made:  # at once: what comes may fail, and passwords are kept nowhere
            self._tell(made)
        if not options["no_demo"] and "demo" in get_commands():
            self._demo()

    def _demo(self) -> None:
        try:
            startup.check_redis()
            call_command("demo", stdout=self.stdout, stderr=self.stderr)
        except startup.Fault as fault:
            raise CommandError(f"The demo flows could not be made: {fault} Then run this again.") from None

    def _make(self, name: str) -> str | None:
        """The password of a user that was made now. It is kept nowhere but hashed."""
        users = get_user_model().objects
        if users.filter(username=name).exists():
            return None
        password = secrets.token_urlsafe(12)
        try:
            with transaction.atomic():
                users.create_user(name, password=password, **FIRST[name])
        except IntegrityError:
            return None  # another start was quicker
        return password

    def _tell(self, made: dict[str, str]) -> None:
        shown = "localhost" if settings.HOST in {"127.0.0.1", "0.0.0.0", "::"} else settings.HOST
        self.stdout.write("")
        self.stdout.write(f"  Log in at http://{shown}:{settings.PORT}/login/")
        for name, password in made.items():
            self.stdout.write(f"    {name:<6} {password}")
        self.stdout.write("  This is shown once. A new password: manage.py changepassword NAME")
        self.stdout.write("")


def make_viewers() -> Group:
    """The group of those who look and do not touch. A permission that an operator added to it stays."""
    group, _ = Group.objects.get_or_create(name=VIEWER)
    names = [f"view_{name}" for name in VIEWED]
    group.permissions.add(*Permission.objects.filter(codename__in=names))
    return group
