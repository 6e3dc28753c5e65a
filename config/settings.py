"""Django's settings, from the environment (`config/environment.py`). Bounds are `HEADRACE` (`config/bounds.py`)."""

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config import embedded
from config import logging as log
from config.environment import SettingsError, database_of, load, postgres_options
from config.secret import kept_key

BASE_DIR = Path(__file__).resolve().parent.parent


def _directory(text: str) -> Path:
    return Path(os.path.abspath(BASE_DIR / Path(text).expanduser()))


ENV_FILE = Path(os.environ.get("ENV_FILE", BASE_DIR / ".env"))
try:
    _settings = load(os.environ, ENV_FILE)
    _env = _settings.environment
    DATA_DIR = _directory(_env.data_dir)
    FILES_DIR = _directory(_env.files_dir) if _env.files_dir else DATA_DIR / "files"
    SECRET_KEY = _env.secret_key or kept_key(DATA_DIR)
except SettingsError as error:
    sys.exit(f"headrace: {error}")

# ---------------------------------------------------------------------------------------- Headrace's own

HEADRACE = _settings.bounds
HEADRACE_VERSION = "0.1.0"
HOST = _env.host
PORT = _env.port
WORKERS = _env.workers
TLS = _env.tls
TURNS = _env.headrace_turns
ALLOWED_ORIGINS = list(_env.allowed_origins)
ALLOW_PRIVATE_PROVIDERS = _env.headrace_allow_private_providers
TRUSTED_PROXIES = list(_env.trusted_proxies)
METRICS_TOKEN = _env.metrics_token
OTEL_EXPORTER_OTLP_ENDPOINT = _env.otel_exporter_otlp_endpoint
OPENAI_API_KEY = _env.openai_api_key
OPENAI_BASE_URL = _env.openai_base_url
OPENAI_MODEL = _env.openai_model
REDIS_PREFIX = _env.redis_prefix
REDIS_URL = _env.redis_url  # None: the embedded store; ask REDIS_ADDRESS
EMBEDDED_MB = _env.embedded_mb


def REDIS_ADDRESS() -> str:
    """Where Redis is. The first call starts the embedded store where no other is given."""
    from django.conf import settings

    return settings.REDIS_URL or embedded.ensure(
        settings.DATA_DIR, settings.EMBEDDED_MB, settings.HEADRACE.embedded_start_s
    )


class _Hosts:
    """The layer's hosts, asked for when it connects: naming them here would start the embedded store."""

    def __iter__(self) -> Iterator[Any]:
        from streams.redis import layer_host

        yield layer_host(REDIS_ADDRESS())


# ----------------------------------------------------------------------------------------------- Django

SECRET_KEY_FALLBACKS = list(_env.secret_key_fallbacks)
DEBUG = _env.debug
_LOCAL = ["localhost", "127.0.0.1", "[::1]"]
# Its own names always: probes on this machine use them.
ALLOWED_HOSTS = list(dict.fromkeys([*_env.allowed_hosts, *_LOCAL, HOST]))
CSRF_TRUSTED_ORIGINS = ALLOWED_ORIGINS

INSTALLED_APPS = [
    "config",  # before daphne: its runserver is the one that runs
    "daphne",
    "config.site.OperatorsConfig",  # django.contrib.admin, with a site of our own
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "streams",
    "accounts",
    "flows",
    "chat",
]
MIDDLEWARE = [
    "config.trace.TraceMiddleware",
    "config.csp.content_security_policy",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "accounts.middleware.session_logins",
    "accounts.middleware.own_language",
    "accounts.middleware.login_refusals",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

_SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "OPTIONS": {
        # A transaction that reads and then writes fails at once in DEFERRED mode, whatever the time-out.
        "transaction_mode": "IMMEDIATE",
        "timeout": 1,
        "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
    },
    "TEST": {"NAME": DATA_DIR / "test.sqlite3"},
}
_database = database_of(_env.database_url) if _env.database_url else {"NAME": DATA_DIR / "headrace.sqlite3"}
if "postgresql" in _database.get("ENGINE", ""):
    # The bridge's threads, and some for pages, which Django serves each on a thread of its own.
    _pool = {"min_size": 1, "max_size": HEADRACE.database_threads + 8, "timeout": HEADRACE.command_hop_s}
    _database["OPTIONS"] = {**postgres_options(_database["OPTIONS"], HEADRACE), "pool": _pool}
    DATABASES = {"default": _database}
else:
    DATABASES = {"default": {**_SQLITE, "NAME": BASE_DIR / _database["NAME"]}}
DATABASES["default"]["CONN_MAX_AGE"] = 0  # sockets end no request: kept connections would leak
DATABASES["default"]["ATOMIC_REQUESTS"] = False

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": _Hosts(), "prefix": f"{REDIS_PREFIX}layer"},
    }
}
# Of `manage.py runserver`; `manage.py serve` has its own (config/serve.py).
DAPHNE_WEBSOCKET_MAX_MESSAGE_SIZE = DAPHNE_WEBSOCKET_MAX_FRAME_SIZE = HEADRACE.frame_in_bytes
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["accounts.passwords.PasswordBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
# Each by its own name, so that who reads no other finds it.
LANGUAGES = [("en", "English"), ("de", "Deutsch"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "locale"]
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Served from where they lie: nothing to collect. Modules name each other without a version, so browsers ask each time.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_MAX_AGE = 0
# Files of a disk are read in a thread: nothing is gained by an asynchronous iterator.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "uploads": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": FILES_DIR, "file_permissions_mode": 0o600},
    },
}
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.BearerAuthentication",
        "accounts.authentication.PageSessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.authentication.HasScope"],
    "DEFAULT_PARSER_CLASSES": ["accounts.rest.bodies.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["accounts.rest.bodies.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "accounts.rest.bodies.JSONOnly",
    "DEFAULT_THROTTLE_CLASSES": ["accounts.rest.throttles.PerMinute"],
    "EXCEPTION_HANDLER": "accounts.rest.errors.handle_exception",
    "DEFAULT_SCHEMA_CLASS": "config.openapi.Schema",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Headrace",
    "DESCRIPTION": "Chats, flows and what operators see. Sockets speak the same events, codes and limits.",
    "VERSION": HEADRACE_VERSION,
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/api",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": ["config.openapi.close_bodies"],
    "APPEND_COMPONENTS": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    "SECURITY": [{"bearer": []}],
}
LOGGING = log.dict_config(_env.log_format, _env.log_level)

# --------------------------------------------------------------------------------------------- security

SESSION_COOKIE_SECURE = TLS
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SECURE = TLS
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "config.errors.csrf_failure"
SECURE_HSTS_SECONDS = 31_536_000 if TLS else 0
SECURE_SSL_REDIRECT = False  # the proxy's; a probe of /healthz comes without TLS
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
