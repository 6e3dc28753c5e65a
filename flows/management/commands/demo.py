"""`manage.py demo`: the demo flows, made once."""

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from flows import demo
from streams import database, redis
from streams.errors import WireError


class Command(BaseCommand):
    help = "Makes the flows guide, wizard and assistant, owned by the user admin. Again and again without harm."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            lines = asyncio.run(_make())
        except WireError as error:
            raise CommandError(f"The demo could not be made: {error.text or error.entry.text}") from None
        finally:
            database.close()
        for line in lines:
            self.stdout.write(f"  {line}")


async def _make() -> list[str]:
    try:
        return await demo.make()
    finally:
        await redis.aclose()
