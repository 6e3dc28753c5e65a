"""How many requests somebody may make a minute: a user over all his tokens, nobody by his network."""

from typing import Any

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from accounts import quotas
from accounts.passwords import network_of


class PerMinute(BaseThrottle):
    _wait_s = 0.0

    def allow_request(self, request: Request, view: Any) -> bool:
        bounds = settings.HEADRACE
        if request.auth:
            who, most = f"requests:user:{request.auth.user_id}", bounds.rest_requests_per_minute
        else:
            network = network_of(request.META.get("REMOTE_ADDR", ""))
            who, most = f"requests:address:{network}", bounds.rest_anonymous_per_minute
        self._wait_s = quotas.spend(who, most)
        return not self._wait_s

    def wait(self) -> float:
        return self._wait_s
