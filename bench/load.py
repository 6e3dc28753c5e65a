"""The load generator: one job in a process of its own. `python -m bench.load < job.json` prints the result as JSON.

Open loop: what was due is counted from when it was due. A result says how busy the generator's cores were; where
they had no spare time, it measured itself and is void.
"""

import asyncio
import gc
import resource
import sys

import msgspec
import uvloop

from bench.client import Failed
from bench.job import Job
from bench.jobs import accepting, crowd, endings, resources, stream

JOBS = {
    "burst": stream.burst,
    "paced": stream.paced,
    "first_token": stream.first_token,
    "wire": stream.wire,
    "accept": accepting.accept,
    "turns": accepting.turns,
    "fan_out": crowd.fan_out,
    "slow": crowd.slow,
    "storm": crowd.storm,
    "stop": endings.stop,
    "takeover": endings.takeover,
    "memory": resources.memory,
    "waiting": resources.waiting,
}


async def main() -> None:
    gc.disable()  # its pauses would be measured as the server's; the process is short
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        result = await JOBS[job.kind](job)
    except (Failed, TimeoutError) as error:
        sys.exit(f"{job.kind}: {error or 'it took too long'}")
    await asyncio.sleep(0)  # so that closes are sent
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    uvloop.run(main())
