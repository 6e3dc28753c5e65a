"""How often somebody may do something: counters in Redis, the same for every worker.

A quota protects, it does not decide: where Redis is away nothing is refused by it.
"""

import structlog

from streams import redis

WINDOW_S = 60

log = structlog.get_logger("headrace.quotas")


def spend(name: str, most: int) -> float:
    """Counts once under `name`. 0 where that is within `most` a minute, else the seconds until the next one begins."""
    key = _key(name)
    try:
        with redis.blocking_client().pipeline(transaction=True) as pipe:
            pipe.set(key, 0, ex=WINDOW_S, nx=True).incr(key).pttl(key)
            _, count, left_ms = pipe.execute()
    except redis.Trouble as error:
        log.warning("quota_not_counted", reason=type(error).__name__)
        return 0.0
    return max(left_ms, 1) / 1000 if count > most else 0.0


def give_back(name: str) -> None:
    """Nothing was counted under `name`."""
    try:
        redis.blocking_client().delete(_key(name))
    except redis.Trouble:
        pass  # it ends by itself


def _key(name: str) -> str:
    return redis.key("quota", name)
