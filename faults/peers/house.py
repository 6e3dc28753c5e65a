"""A peer's processes: two workers on the same kind of stores as Headrace's, behind the same proxies."""

from faults.house import Site
from providers import fake_openai

NAMES = ("layer", "resumable")
WORKERS = 2


class Peer(Site):
    def __init__(self, name: str, is_quick: bool, model: fake_openai.Server) -> None:
        super().__init__(name, WORKERS, is_quick)
        self.name = name
        self.model = model
        self.can_resume = name == "resumable"
        for worker in self.workers:
            worker.command = ["-m", "bench.peers.serve", name, str(worker.port)]
            worker.ready = "/healthz"

    async def open(self) -> "Peer":
        await self.open_stores()
        for worker in self.workers:
            await self.connect(worker, BENCH_MODEL=self.model.base_url)
        for worker in self.workers:  # the first one makes the tables
            await worker.start(self.id_of)
        return self

    def id_of(self, pid: int) -> str | None:
        return str(pid)
