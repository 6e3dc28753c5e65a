"""`python -m tests.command …` is `manage.py` with the settings of the tests: it leaves one's own installation alone."""

import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

from django.core.management import execute_from_command_line

execute_from_command_line(sys.argv)
