"""The rows: what is measured of whom, and what it should be. The goals are those of the design.

A row's module says how; here stand its name and the contenders that it needs.
"""

from collections.abc import Callable

from bench.measure import Bench, Row
from bench.rows import accepting, crowd, endings, growth, pages, resources, stream

FLOOR_AND_PEER = ("bare", "layer", "headrace")
PEERS = (*FLOOR_AND_PEER, "socketio", "resumable")

ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "burst": stream.burst,
    "paced": stream.paced,
    "first": stream.first_token,
    "accept": accepting.accept,
    "wire": stream.wire,
    "admin": pages.admin,
    "fan-out": crowd.fan_out,
    "stop": endings.stop,
    "slow": crowd.slow,
    "takeover": endings.takeover,
    "storm": crowd.storm,
    "memory": resources.memory,
    "cost": resources.cost,
    "growth": growth.growth,
    "capacity": growth.capacity,
    "durability": resources.durability,
}
NEEDS = {
    "burst": PEERS,
    "paced": PEERS,
    "first": FLOOR_AND_PEER,
    "accept": (*FLOOR_AND_PEER, "accepting"),
    "wire": PEERS,
    "admin": ("filled",),
    "fan-out": (*PEERS, "hard", "three"),
    "stop": FLOOR_AND_PEER,
    "slow": FLOOR_AND_PEER,
    "takeover": ("three",),
    "storm": ("bare", "headrace"),
    "memory": FLOOR_AND_PEER,
    "cost": ("headrace", "counted"),
    "growth": ("headrace",),
    "capacity": FLOOR_AND_PEER,
    "durability": ("storeless", "headrace"),
}
