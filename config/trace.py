"""A name for each request, in its log lines, its error body and a header of its answer."""

from collections.abc import Callable

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse

from streams.trace import new_trace

HEADER = "X-Trace-Id"


class TraceMiddleware:
    """Sets `request.trace` and binds `trace_id`. Works in sync and async chains."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if iscoroutinefunction(self):
            return self._async_call(request)
        self._begin(request)
        return self._end(request, self.get_response(request))

    async def _async_call(self, request: HttpRequest) -> HttpResponse:
        self._begin(request)
        return self._end(request, await self.get_response(request))

    def _begin(self, request: HttpRequest) -> None:
        request.trace = new_trace()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(trace_id=request.trace)

    def _end(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        response[HEADER] = request.trace
        return response
