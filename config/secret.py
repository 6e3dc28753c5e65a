"""The secret key that is made once where none is given, readable by its owner only."""

import os
import secrets
import tempfile
from pathlib import Path

from config.environment import SettingsError


def kept_key(data_dir: Path) -> str:
    """The key in `data_dir/secret_key`, made on first use. Two processes that make it at once get the same.

    Raises SettingsError where the directory cannot be written or the file can be read by others.
    """
    path = data_dir / "secret_key"
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"{path} can be read by others; run: chmod 600 {path}")
        key = path.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"DATA_DIR {data_dir} cannot be used ({error.strerror}); it must be a directory that this user can write."
        ) from None
    if not key:
        raise SettingsError(f"{path} is empty; delete it to have a new key made (everybody has to log in again).")
    return key


def _make(path: Path) -> None:
    """Written whole under another name, then linked: a reader sees a whole key or none, and the first one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".secret_key-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
        try:
            os.link(name, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(name)
