"""The hard floor: picows, a server in C, on uvloop, pours ready-made frames from memory to all sockets.

No model, no store, no rights, no HTTP. Only `say` with `rate` and `tokens` is known; `batch`: frames in one write.
"""

import asyncio
import json
import re
import signal
import sys
import time

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from bench import stamp
from streams.frames import text_frames

_SAID = re.compile(r"(\w+)=([\w.-]+)")
_viewers: set[WSTransport] = set()
_pours: set[asyncio.Task] = set()


class Viewer(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        _viewers.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        _viewers.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            order = dict(_SAID.findall(json.loads(frame.get_payload_as_bytes())["text"]))
            transport.send(WSMsgType.TEXT, b'{"type":"ok"}')
            task = asyncio.create_task(_pour(int(order["tokens"]), float(order["rate"]), int(order.get("batch", 1))))
            _pours.add(task)
            task.add_done_callback(_pours.discard)


async def _pour(tokens: int, rate: float, batch: int) -> None:
    """One frame a token by its time-table, `batch` of them in one write; without a rate as fast as it can."""
    begun = time.monotonic()
    for first in range(0, tokens, batch):
        due = begun + first / rate if rate else 0.0
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        text = stamp.encode(time.monotonic())
        frames = [b'{"type":"delta","text":"%b"}' % text] * min(batch, tokens - first)
        if batch == 1:
            for viewer in tuple(_viewers):
                viewer.send(WSMsgType.TEXT, frames[0])
        else:
            joined = text_frames(frames)
            for viewer in tuple(_viewers):
                viewer.underlying_transport.write(joined)
    for viewer in tuple(_viewers):
        viewer.send(WSMsgType.TEXT, b'{"type":"turn_end"}')


async def main(port: int) -> None:
    def listener(request: WSUpgradeRequest) -> Viewer:
        return Viewer()

    server = await ws_create_server(listener, "127.0.0.1", port, backlog=2048)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
