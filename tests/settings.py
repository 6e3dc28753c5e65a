"""The settings under test: Headrace's own, in a directory of this run, on the stores that STORES names.

Whatever else an operator may have set is left out.
"""

import atexit
import os
import shutil
import tempfile

from tests import stores

_directory = tempfile.mkdtemp(prefix="headrace-test-")
_maker = os.getpid()


@atexit.register
def _clear() -> None:
    if os.getpid() == _maker:
        shutil.rmtree(_directory, ignore_errors=True)


for _name in [name for name in os.environ if name.startswith(("HEADRACE_", "OPENAI_", "DATABASE_", "REDIS_"))]:
    del os.environ[_name]
os.environ.update(
    {
        "ENV_FILE": os.devnull,
        "DATA_DIR": _directory,
        "SECRET_KEY": "a key of the tests, of no use to anybody",
        "HEADRACE_ALLOW_PRIVATE_PROVIDERS": "on",
        "HEADRACE_LOGINS_PER_ADDRESS_A_MINUTE": "100000",  # all tests come from one
        "LOG_LEVEL": "WARNING",
        **stores.of_this_process(),
        # Users of many tests have the same ids; test_throttles.py sets its own.
        "HEADRACE_REST_REQUESTS_PER_MINUTE": "1000000",
        "HEADRACE_REST_ANONYMOUS_PER_MINUTE": "1000000",
    }
)

from config.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # users are made in many tests
if stores.ARE_REAL:
    DATABASES["default"]["TEST"] = {"NAME": stores.PREFIX}  # noqa: F405
    DATABASES["default"]["OPTIONS"]["options"] += " -c synchronous_commit=off"  # noqa: F405 - no test ends the machine
