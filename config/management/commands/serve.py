"""Serve pages and sockets."""

import socket
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import serve, startup


class Command(BaseCommand):
    help = "Serves pages and sockets on HOST and PORT, by WORKERS processes."
    requires_system_checks: list[str] = []  # `manage.py check` and `doctor` do that; a restart should be quick

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--listener", type=int, help="descriptor of a listening socket; given by the supervisor")
        parser.add_argument("--life", type=int, help="descriptor of the supervisor's pipe")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["listener"] is not None:
            sys.exit(serve.serve_alone(socket.socket(fileno=options["listener"]), options["life"]))
        try:
            startup.check_data_dir()
            startup.check_host()
            listener = serve.listen(settings.HOST, settings.PORT)
            startup.check_before_work()
        except (startup.Fault, serve.ServeError) as fault:
            raise CommandError(str(fault)) from None
        shown = "localhost" if settings.HOST in {"127.0.0.1", "0.0.0.0", "::"} else settings.HOST
        self.stdout.write(f"Headrace listens on http://{shown}:{settings.PORT}/ (Ctrl-C ends it)")
        self.stdout.flush()
        if settings.WORKERS == 1:
            sys.exit(serve.serve_alone(listener))
        try:
            serve.supervise(listener, settings.WORKERS)
        except serve.ServeError as error:
            raise CommandError(str(error)) from None
