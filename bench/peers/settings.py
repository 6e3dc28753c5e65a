"""Django's settings for floor and peer: Headrace's server, database and layer settings, and none of its apps."""

from config.settings import *  # noqa: F403

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "channels",
    "rest_framework",
    "bench.peers",
]
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):  # noqa: F405
    DATABASES["default"]["OPTIONS"]["timeout"] = 20  # noqa: F405  (each request has a thread: they wait for each other)
AUTH_USER_MODEL = "auth.User"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]  # kinder to the peer than what it would really carry
ROOT_URLCONF = "bench.peers.urls"
ASGI_APPLICATION = "bench.peers.layer.application"
TEMPLATES: list[dict] = []
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "UNAUTHENTICATED_USER": None,
}
