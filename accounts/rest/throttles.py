"""How many requests somebody may make a minute: a user over all his tokens, nobody by his address.

Counted in Redis for all workers together; where Redis is away nobody is counted, for a request must not fail by it.
"""

import time
from typing import Any

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from streams import redis

WINDOW_S = 60


class PerMinute(BaseThrottle):
    def allow_request(self, request: Request, view: Any) -> bool:
        bounds = settings.HEADRACE
        if request.auth:
            who, most = f"user:{request.auth.user_id}", bounds.rest_requests_per_minute
        else:
            who, most = f"address:{request.META.get('REMOTE_ADDR', '')}", bounds.rest_anonymous_per_minute
        return _count(who) <= most

    def wait(self) -> float:
        """Until the present window ends."""
        return WINDOW_S - time.time() % WINDOW_S


def _count(who: str) -> int:
    """This request's number in the present window."""
    key = redis.key("requests", who, str(int(time.time() // WINDOW_S)))
    try:
        pipe = redis.blocking_client().pipeline(transaction=False)
        pipe.incr(key)
        pipe.expire(key, 2 * WINDOW_S)
        return pipe.execute()[0]
    except (redis.Trouble, OSError, TimeoutError):
        return 0
