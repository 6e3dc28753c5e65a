"""Print an access token of a user, for scripts."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from accounts.models import User
from accounts.tokens import mint


class Command(BaseCommand):
    help = "Prints an access token of USER on a log-in of its own."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="the user's name")
        parser.add_argument("--minutes", type=float, default=15, help="how long it is good (default 15)")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["minutes"] > 0:
            raise CommandError("--minutes must be more than 0: the token would have ended already.")
        try:
            user = User.objects.filter(username=options["user"], is_active=True).first()
        except DatabaseError as error:
            raise CommandError(f"The database cannot be used ({error}); run: manage.py doctor") from None
        if user is None:
            names = ", ".join(User.objects.filter(is_active=True).values_list("username", flat=True)[:10])
            raise CommandError(f"There is no active user {options['user']!r}; there are: {names or 'none'}.")
        self.stdout.write(mint(user, timedelta(minutes=options["minutes"])))
