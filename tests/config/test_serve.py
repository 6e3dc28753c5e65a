"""`manage.py serve`, `setup`, `doctor` and the handshake, as an operator and a client meet them."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import redis
from websockets.exceptions import InvalidStatus

from config import embedded
from tests.server import ROOT, HeadraceServer, environment, free_port, manage
from tests.sockets.tabs import tab_at
from tests.waiting import until, wait_until
from tests.wire import Closed, opened


def chat(flow: str = "guide") -> str:
    return f"/chat/{flow}?chat_id={uuid.uuid4()}"


def workers_of(supervisor: int) -> set[int]:
    """Its children, the keeper of the store apart."""
    pids = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return {int(pid) for pid in pids if b"--listener" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def state_of(pid: int) -> str:
    """A letter, as `ps` shows it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_alive(pid: int) -> bool:
    try:
        return state_of(pid) != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def token(server: HeadraceServer) -> str:
    return manage("token", "demo", env=server.env).stdout.strip()


# ------------------------------------------------------------------------------------ starts that fail well


def refused(env: dict[str, str]) -> str:
    """The one sentence of a start that fails."""
    done = manage("serve", env=env)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_taken_port_is_one_sentence(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sentence = refused(environment(tmp_path / "data", PORT=str(port)))
    assert f"Port {port} of 127.0.0.1 cannot be had" in sentence
    assert "set PORT to another" in sentence
    assert not (tmp_path / "data" / "redis").exists()


def test_foreign_host_is_one_sentence(tmp_path):
    assert "HOST" in refused(environment(tmp_path / "data", HOST="host.invalid", PORT=str(free_port())))


def test_address_of_another_machine_is_blamed_on_the_host(tmp_path):
    sentence = refused(environment(tmp_path / "data", HOST="192.0.2.1", PORT=str(free_port())))
    assert "HOST 192.0.2.1 is no address of this machine" in sentence
    assert "PORT" not in sentence


def test_missing_migrations_are_one_sentence(tmp_path):
    sentence = refused(environment(tmp_path / "data", PORT=str(free_port())))
    assert "run: manage.py setup" in sentence


def test_database_that_does_not_answer_is_one_sentence(tmp_path):
    url = f"postgres://me:hunter2@127.0.0.1:{free_port()}/none"
    sentence = refused(environment(tmp_path / "data", PORT=str(free_port()), DATABASE_URL=url))
    assert "check DATABASE_URL" in sentence
    assert "hunter2" not in sentence


def test_redis_that_does_not_answer_is_one_sentence(server):
    url = f"redis://127.0.0.1:{free_port()}/0"
    sentence = refused({**server.env, "PORT": str(free_port()), "REDIS_URL": url})
    assert "check REDIS_URL" in sentence


# --------------------------------------------------------------------------------------------------- setup


def test_second_setup_makes_no_user_and_says_no_password(server):
    before = dict(server.passwords)
    assert set(before) == {"admin", "demo"}
    output = server.setup()
    assert "Log in" not in output
    assert server.passwords == before


def test_passwords_are_kept_nowhere_in_clear(server):
    for path in server.data_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(password.encode() in content for password in server.passwords.values()), path


# ------------------------------------------------------------------------------------------------ handshake


async def status_of(server: HeadraceServer, path: str, **options) -> int:
    """101, or the status that refused the handshake."""
    try:
        async with opened(server.host, path, **options):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


@pytest.mark.parametrize("path", ["/", "/chat", "/ws/x", "/call", "/chats/x", "/api/v1/x"])
async def test_unknown_path_is_404(server, path):
    assert await status_of(server, path) == 404


@pytest.mark.parametrize(
    ("offered", "status"),
    [
        (("graphql-ws",), 400),
        (("graphql-ws", "bearer.x"), 400),
        (("headrace.v1",), 101),
        (("graphql-ws", "headrace.v1"), 101),
        ((), 101),
    ],
)
async def test_unknown_subprotocol_alone_is_400(server, offered, status):
    assert await status_of(server, chat(), subprotocols=offered) == status


async def test_bearer_subprotocol_is_never_echoed(server, token):
    async with opened(server.host, chat(), subprotocols=("headrace.v1", f"bearer.{token}")) as client:
        assert client.connection.subprotocol == "headrace.v1"
        assert (await client.recv())["type"] == "welcome"


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        "http://{host}.evil.example",
        "http://evil{host}",
        "https://{host}",
        "http://127.0.0.1:1",
        "HTTP://{host}",
        "http://{host}/",
    ],
)
@pytest.mark.parametrize("credential", ["session", "token"])
async def test_foreign_origin_is_403_whatever_the_credential(server, token, origin, credential):
    headers = {"Origin": origin.format(host=server.host)}
    if credential == "session":
        headers["Cookie"] = "sessionid=x"
    assert await status_of(server, chat(), headers=headers, token=token if credential == "token" else None) == 403


async def test_own_origin_passes(server):
    headers = {"Origin": server.url, "Cookie": "sessionid=x"}
    assert await status_of(server, chat(), headers=headers) == 101


@pytest.mark.parametrize("cookie", ["sessionid=x", "access_token_cookie=x"])
async def test_missing_origin_is_403_for_cookies_only(server, token, cookie):
    assert await status_of(server, chat(), headers={"Cookie": cookie}) == 403
    assert await status_of(server, chat(), headers={"Cookie": cookie}, token=token) == 101


async def test_no_credential_is_told_by_an_error_frame(server):
    async with opened(server.host, chat()) as client:
        closed = await client.closed()
    assert client.frames[-1]["code"] == "unauthorized"
    assert (closed.code, closed.reason) == (1008, "unauthorized")


async def test_tokens_reach_no_log(server, token):
    for path in (
        f"{chat()}&t={token}",
        f"{chat('none')}&t={token}",
        f"{chat()}&ticket=secret-ticket",
        f"/nope?t={token}",
    ):
        try:
            async with opened(server.host, path) as client:
                await client.recv()
        except (InvalidStatus, Closed):
            pass
    assert token not in server.log
    assert "secret-ticket" not in server.log


# --------------------------------------------------------------------------------------------------- doctor


def test_doctor_finds_a_running_installation_well(server):
    done = manage("doctor", env=server.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("good") == 8


def test_database_is_for_its_owner_only(server):
    found = list(server.data_dir.glob("headrace.sqlite3*"))
    assert server.data_dir / "headrace.sqlite3" in found
    assert {path.stat().st_mode & 0o777 for path in [*found, server.data_dir / "secret_key"]} == {0o600}
    assert server.data_dir.stat().st_mode & 0o777 == 0o700


def test_database_that_others_could_read_is_closed_to_them(tmp_path):
    env = environment(tmp_path / "data")
    assert manage("setup", "--no-demo", env=env).returncode == 0
    database = tmp_path / "data" / "headrace.sqlite3"
    database.chmod(0o644)
    assert manage("setup", "--no-demo", env=env).returncode == 0
    assert database.stat().st_mode & 0o777 == 0o600


def test_doctor_says_how_to_mend(tmp_path):
    done = manage("doctor", env=environment(tmp_path / "data", PORT=str(free_port()), DEBUG="on"))
    assert done.returncode == 1
    assert "migrations are not applied; run: manage.py setup" in done.stdout
    assert "DEBUG is on" in done.stdout


def test_doctor_asks_what_a_name_of_the_file_may_mean(tmp_path):
    (tmp_path / ".env").write_text("PROT=9000\nCOMPOSE_PROJECT_NAME=chat\nOTEL_EXPORTER_OTLP_HEADERS=a=b\n")
    done = manage("doctor", env=environment(tmp_path / "data", ENV_FILE=str(tmp_path / ".env")))
    assert "bad   settings: PROT in" in done.stdout and "is not a setting; did you mean PORT?" in done.stdout
    assert "COMPOSE" not in done.stdout and "OTEL" not in done.stdout


def test_doctor_misses_the_server(server):
    done = manage("doctor", env={**server.env, "PORT": str(free_port())})
    assert done.returncode == 1
    assert "bad   socket: nothing listens on" in done.stdout
    assert done.stdout.count("good") == 7


# ------------------------------------------------------------------------------------------- end and workers


async def test_sigterm_sends_sockets_away_and_ends_well(make_server):
    own = make_server(HEADRACE_DRAIN_SOCKETS_S="0.2").start()
    token = manage("token", "demo", env=own.env).stdout.strip()
    async with opened(own.host, chat(), token) as client:
        await client.until("snapshot")
        own.process.send_signal(signal.SIGTERM)
        closed = await client.closed(30)
    assert (closed.code, closed.reason) == (1012, "going_away")
    assert client.frames[-1]["type"] == "error" or "going_away" in [frame["type"] for frame in client.frames]
    assert own.process.wait(30) == 0
    own.process = None
    await until(lambda: embedded.running(own.data_dir / "redis") is None, what="the store has gone")


@pytest.fixture(scope="module")
def pair(make_server) -> HeadraceServer:
    return make_server(WORKERS="2").start()


async def test_chat_goes_on_when_the_embedded_store_was_killed(pair):
    """Its keeper first, then its server; the sockets stay open and the chats get their answers."""
    token = (await asyncio.to_thread(manage, "token", "demo", env=pair.env)).stdout.strip()
    address = embedded.running(pair.data_dir / "redis")
    async with tab_at(pair.host, "guide", token, str(uuid.uuid4())) as tab:
        await tab.until("snapshot")
        await tab.until_stored((await tab.say("One"))["turn"])
        for which in ("keeper", "server"):
            pid = store_pid(address)
            os.kill(pid if which == "server" else parent_of(pid), signal.SIGKILL)
            await until(lambda pid=pid: not is_alive(pid), what="the store has gone")
            await until(lambda: embedded.running(pair.data_dir / "redis") == address, what="the store is back")
            reply = await tab.say(f"After the {which}")
            assert reply["type"] == "ok", reply
            stored = await tab.until_stored(reply["turn"])
            assert stored["status"] == "done"
        said = [message for message in tab.view.messages.values() if message["role"] == "user"]
        assert len(said) == 3


def store_pid(address: str) -> int:
    with redis.Redis.from_url(address, socket_timeout=5) as client:
        return client.info("server")["process_id"]


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


def test_dead_worker_is_replaced(pair):
    before = workers_of(pair.process.pid)
    assert len(before) == 2
    gone = before.pop()
    os.kill(gone, signal.SIGKILL)
    wait_until(lambda: len(workers_of(pair.process.pid) - {gone}) == 2, 15, "another worker is there")
    assert before <= workers_of(pair.process.pid)
    assert "worker_died" in pair.log


def test_workers_and_store_end_with_a_killed_supervisor(pair):
    workers = workers_of(pair.process.pid)
    assert embedded.running(pair.data_dir / "redis")
    os.kill(pair.process.pid, signal.SIGKILL)
    pair.process.wait()
    pair.process = None
    wait_until(lambda: not any(is_alive(pid) for pid in workers), 30, "the workers have ended")
    wait_until(lambda: embedded.running(pair.data_dir / "redis") is None, 10, "the store has gone")


def test_workers_that_cannot_live_end_the_server_with_one_sentence(tmp_path):
    program = (
        "import sys, subprocess; from config import serve\n"
        "serve._start_worker = lambda listener, life: subprocess.Popen(['false'])\n"
        "from django.core.management import call_command\n"
        "try: serve.supervise(serve.listen('127.0.0.1', 0), 2)\n"
        "except serve.ServeError as error: sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={
            **environment(tmp_path / "data", HEADRACE_WORKER_RESTART_AFTER_S="0.01"),
            "DJANGO_SETTINGS_MODULE": "config.settings",
        },
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "workers died within 60 s" in done.stderr.splitlines()[-1]


# ---------------------------------------------------------------------------------------- another server


@pytest.fixture(scope="module")
def daphne(server: HeadraceServer):
    """`manage.py runserver`: Daphne, without lifespan, on the installation of `server`."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "runserver", "--noreload", str(port)],
        env=server.env,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with socket.socket() as probe:
        wait_until(lambda: probe.connect_ex(("127.0.0.1", port)) == 0, 30, "Daphne listens")
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(30)


async def test_chat_works_under_daphne(daphne, token):
    async with opened(daphne, chat(), token) as client:
        assert (await client.recv())["type"] == "welcome"
        assert (await client.say("Hello"))["type"] == "ok"
        assert (await client.until("turn_end"))["status"] == "done"


async def test_refusal_is_told_by_an_error_frame_under_daphne(daphne, token):
    async with opened(daphne, chat("no-such-flow"), token) as client:
        await client.closed()
    assert client.frames[-1]["code"] == "flow_not_found"


@pytest.mark.parametrize(("path", "headers"), [("/nope", {}), ("/chat/guide", {"Origin": "https://evil.example"})])
async def test_handshake_is_refused_by_403_under_daphne(daphne, path, headers):
    with pytest.raises(InvalidStatus) as refusal:
        async with opened(daphne, path, headers=headers):
            pass
    assert refusal.value.response.status_code in {403, 404}
