"""Raw ASGI applications behind our server, in this process and event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from config import serve
from tests.server import free_port
from tests.waiting import until


class Quiet(uvicorn.Server):
    @contextmanager
    def capture_signals(self):
        yield


@asynccontextmanager
async def serving(app: Callable, **options) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    port = free_port()
    options = {"app": app, "loop": "none", "lifespan": "off", "timeout_graceful_shutdown": 1, **options}
    server = Quiet(serve.server_config(**options))
    task = asyncio.create_task(server.serve(sockets=[serve.listen("127.0.0.1", port)]))
    await until(lambda: server.started, what="the server has started")
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 10)
