"""Headrace's pages, and some of the tests: who answers, and ways to hold up its event loop for ever."""

import os
import re
import threading

from django.http import HttpRequest, JsonResponse
from django.urls import path

from config import urls
from streams import here


async def who(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"worker": here.worker, "pid": os.getpid()})


async def stand(request: HttpRequest, how: str) -> JsonResponse:
    {"waits": wait, "counts": count, "matches": match}[how]()
    return JsonResponse({})


def wait() -> None:
    """For a lock: others may run meanwhile."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def count() -> None:
    """In Python: others get their turns."""
    while True:
        pass


def match() -> None:
    """In C, and nobody else may run Python meanwhile."""
    re.match("(a+)+$", "a" * 64 + "!")


urlpatterns = [path("who/", who), path("stand/<str:how>/", stand), *urls.urlpatterns]
handler400, handler403, handler404, handler500 = urls.handler400, urls.handler403, urls.handler404, urls.handler500
