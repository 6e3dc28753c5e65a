"""`python -m bench.peers.serve NAME PORT`: bare, layer, socketio or resumable on Headrace's own server and stores."""

import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "bench.peers.settings"

import django
import uvicorn
from django.conf import settings
from django.core.management import call_command

django.setup()

from config.serve import listen, server_config  # noqa: E402

LIFESPAN = {"bare": "on", "layer": "off", "socketio": "off", "resumable": "off"}


def main(name: str, port: int) -> None:
    settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
    settings.REDIS_ADDRESS()
    call_command("migrate", run_syncdb=True, verbosity=0)
    config = server_config(app=f"bench.peers.{name}:application", lifespan=LIFESPAN[name])
    uvicorn.Server(config).run(sockets=[listen("127.0.0.1", port)])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
