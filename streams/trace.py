"""What names the log lines of one request or socket, in them and in what it is answered. Pure."""

import secrets


def new_trace() -> str:
    return secrets.token_hex(8)
