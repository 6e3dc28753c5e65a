"""The peers' REST: a message is accepted by the same rows as over a socket; what is stored of a chat."""

from django.http import HttpRequest, HttpResponse
from django.urls import path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bench.peers import models


class SaySerializer(serializers.Serializer):
    id = serializers.CharField(max_length=64)
    text = serializers.CharField(max_length=32_000)


class TurnsView(APIView):
    def post(self, request: Request, chat: str) -> Response:
        say = SaySerializer(data=request.data)
        say.is_valid(raise_exception=True)
        return Response(models.accept(chat, say.validated_data["id"], say.validated_data["text"]), status=202)


class HistoryView(APIView):
    def get(self, request: Request, chat: str) -> Response:
        return Response(models.history(chat))


def healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"ok")


urlpatterns = [
    path("chats/<str:chat>/turns/", TurnsView.as_view()),
    path("chats/<uuid:chat>/messages/", HistoryView.as_view()),
    path("healthz", healthz),
]
