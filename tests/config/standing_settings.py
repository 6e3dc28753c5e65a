"""Headrace's own settings, and pages at which its event loop stands."""

from config.settings import *  # noqa: F403

ROOT_URLCONF = "tests.config.standing_urls"
