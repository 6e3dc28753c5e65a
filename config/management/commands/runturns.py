"""Run turns without serving anything: a worker like any other, but for its sockets."""

import asyncio
import signal
from typing import Any

import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config import serve, startup, watchdog


class Command(BaseCommand):
    help = "Runs turns, without pages and sockets, until it is told to end. Start as many as there are cores for them."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.TURNS:
            raise CommandError("HEADRACE_TURNS is off, so this would run nothing; set it for the servers alone.")
        try:
            startup.check_data_dir()
            startup.check_before_work()
        except startup.Fault as fault:
            raise CommandError(str(fault)) from None
        self.stdout.write("Headrace runs turns (Ctrl-C ends it)")
        self.stdout.flush()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())


async def work() -> None:
    """Until SIGTERM or SIGINT; then running turns have their time, and are given back. A second SIGINT cuts that."""
    from chat.turns import manager  # models are there only now

    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await manager.start()
    try:
        serve.calm_collector()
        watchdog.Watchdog(settings.HEADRACE.loop_stands_s).start()
        await told.wait()
        draining = asyncio.create_task(manager.drain())
        loop.add_signal_handler(signal.SIGINT, draining.cancel)
        await asyncio.wait([draining])
    finally:
        await manager.stop()
