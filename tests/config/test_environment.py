"""Settings from the environment and `.env`: what is bad is one sentence that names it, and nothing is half done."""

import os
import stat
from pathlib import Path

import pytest

from config.bounds import Bounds
from config.environment import (
    Environment,
    SettingsError,
    database_of,
    fields,
    load,
    postgres_options,
    read_env_file,
)
from config.management.commands.document_settings import document
from config.secret import kept_key
from tests.server import ROOT, environment, manage


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("PORT", "x", "PORT is 'x'; it must be a whole number from 1 to 65535."),
        ("PORT", "0", "PORT is '0'; it must be a whole number from 1 to 65535."),
        ("PORT", "80.5", "PORT is '80.5'; it must be a whole number from 1 to 65535."),
        ("WORKERS", "none", "WORKERS is 'none'; it must be a whole number from 1 to 256."),
        ("DEBUG", "maybe", "DEBUG is 'maybe'; it must be on or off."),
        ("HEADRACE_TURNS", "2", "HEADRACE_TURNS is '2'; it must be on or off."),
        ("LOG_LEVEL", "loud", "LOG_LEVEL is 'loud'; it must be `DEBUG`, `INFO`, `WARNING` or `ERROR`."),
        ("HEADRACE_RING_BYTES", "many", "HEADRACE_RING_BYTES is 'many'; it must be a whole number above 0."),
        ("HEADRACE_RING_BYTES", "0", "HEADRACE_RING_BYTES is '0'; it must be a whole number above 0."),
        ("HEADRACE_BEAT_S", "nan", "HEADRACE_BEAT_S is 'nan'; it must be a number above 0."),
        ("HEADRACE_RING_BYTE", "1", "HEADRACE_RING_BYTE is not a setting; did you mean HEADRACE_RING_BYTES?"),
        ("HEADRACE_RING_BYTE", "", "HEADRACE_RING_BYTE is not a setting; did you mean HEADRACE_RING_BYTES?"),
        (
            "HEADRACE_PRIVATE_PROVIDERS",
            "on",
            "HEADRACE_PRIVATE_PROVIDERS is not a setting; did you mean HEADRACE_ALLOW_PRIVATE_PROVIDERS?",
        ),
        ("HEADRACE_DEAD_AFTER_S", "5", "HEADRACE_DEAD_AFTER_S is 5 and HEADRACE_BEAT_S is 3; the first must be"),
        ("HEADRACE_LOOP_STANDS_S", "5", "HEADRACE_LOOP_STANDS_S is 5 and HEADRACE_DEAD_AFTER_S is 10; the first"),
        ("HEADRACE_LOOP_STANDS_S", "-1", "HEADRACE_LOOP_STANDS_S is '-1'; it must be a number from 0 to 86400."),
        ("HEADRACE_LOOP_STANDS_S", "nan", "HEADRACE_LOOP_STANDS_S is 'nan'; it must be a number from 0 to 86400."),
        ("HEADRACE_LOOP_STANDS_S", "inf", "HEADRACE_LOOP_STANDS_S is 'inf'; it must be a number from 0 to 86400."),
        ("HEADRACE_PLACES_KEPT_S", "8", "HEADRACE_PLACES_KEPT_S is 8 and HEADRACE_PLACES_EVERY_S is 5; the first must"),
        ("TRUSTED_PROXIES", "foo", "TRUSTED_PROXIES has 'foo'; it must be IP addresses or networks"),
        ("TRUSTED_PROXIES", "127.0.0.1,10.0.0.1/8", "TRUSTED_PROXIES has '10.0.0.1/8'"),
        ("TRUSTED_PROXIES", "*", "TRUSTED_PROXIES has '*'"),
        ("OPENAI_BASE_URL", "api.example.org/v1", "OPENAI_BASE_URL is not the address of a server; it must look like"),
        ("OPENAI_BASE_URL", "https://", "OPENAI_BASE_URL is not the address of a server"),
        ("OPENAI_BASE_URL", "https://a.example:port", "OPENAI_BASE_URL is not the address of a server"),
        ("OPENAI_BASE_URL", "https://a.example/v1 # mine", "OPENAI_BASE_URL is not the address of a server"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "OTEL_EXPORTER_OTLP_ENDPOINT is not the address of a server"),
        ("HEADRACE_XYZZY", "1", "HEADRACE_XYZZY is not a setting; docs/settings.md lists what there is."),
        ("REDIS_URL", "http://redis", "REDIS_URL is not an address of Redis"),
        ("REDIS_URL", "redis://host:port/0", "REDIS_URL is not an address of Redis"),
        ("REDIS_URL", "redis+cluster://one,two/1", "REDIS_URL is not an address of Redis"),
        ("DATABASE_URL", "mysql://host/name", "DATABASE_URL is not an address of a database"),
        ("DATABASE_URL", "postgres://host:5432", "DATABASE_URL is not an address of a database"),
        ("ALLOWED_ORIGINS", "https://a.example/", "ALLOWED_ORIGINS has 'https://a.example/'"),
        ("ALLOWED_ORIGINS", "a.example", "ALLOWED_ORIGINS has 'a.example'"),
        ("ALLOWED_HOSTS", "https://a.example", "ALLOWED_HOSTS has 'https://a.example'"),
    ],
)
def test_bad_value_names_the_variable_and_what_would_be_right(variable, value, sentence):
    with pytest.raises(SettingsError) as caught:
        load({variable: value}, None)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("variable", ["SECRET_KEY", "METRICS_TOKEN"])
def test_short_secret_is_refused_and_not_shown(variable):
    with pytest.raises(SettingsError) as caught:
        load({variable: "hunter2"}, None)
    assert f"{variable} is too short" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_address_with_a_password_is_not_shown():
    with pytest.raises(SettingsError) as caught:
        load({"DATABASE_URL": "mysql://me:hunter2@host/name"}, None)
    assert "hunter2" not in str(caught.value)


def test_values_are_typed():
    settings = load(
        {
            "PORT": "9000",
            "DEBUG": "On",
            "ALLOWED_HOSTS": "a.example, b.example,",
            "HEADRACE_BEAT_S": "0.5",
            "HEADRACE_LOG_EVENTS": "50",
            "REDIS_URL": "",
            "TRUSTED_PROXIES": "127.0.0.1, ::1, 10.0.0.0/8",
            "OPENAI_BASE_URL": "http://127.0.0.1:9000/v1",
        },
        None,
    )
    assert settings.environment.port == 9000
    assert settings.environment.debug is True
    assert settings.environment.allowed_hosts == ("a.example", "b.example")
    assert settings.environment.redis_url is None
    assert settings.environment.trusted_proxies == ("127.0.0.1", "::1", "10.0.0.0/8")
    assert settings.bounds.beat_s == 0.5
    assert settings.bounds.log_events == 50
    assert settings.bounds.ring_events == Bounds().ring_events


def test_environment_wins_over_the_file(tmp_path):
    file = tmp_path / ".env"
    file.write_text("PORT=9000\nHOST=0.0.0.0\n")
    read = load({"PORT": "9001"}, file).environment
    assert (read.port, read.host) == (9001, "0.0.0.0")


def test_file_takes_comments_quotes_and_export(tmp_path):
    file = tmp_path / ".env"
    file.write_text("# a comment\n\nexport A=1\nB = two words # said aside\nC='#kept'\nD=\"a b\"\nE=a#b\nF=\n")
    assert read_env_file(file) == {"A": "1", "B": "two words", "C": "#kept", "D": "a b", "E": "a#b", "F": ""}


def test_comment_may_follow_a_quoted_value(tmp_path):
    file = tmp_path / ".env"
    file.write_text('A="a # b" # it\'s said aside\nB=\'x\'\t# "more"\nC= # none\n')
    assert read_env_file(file) == {"A": "a # b", "B": "x", "C": ""}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("PORT 8000", "line 1 is not NAME=value"),
        ("A=1\n=2", "line 2 is not"),
        ("A='open", "line 1: the value of A must end with the quote it begins with"),
        ('A="a" b', "only a comment may follow"),
        ('A="a"#b', "only a comment may follow"),
    ],
)
def test_broken_line_of_the_file_is_named(tmp_path, text, line):
    file = tmp_path / ".env"
    file.write_text(text)
    with pytest.raises(SettingsError, match=line):
        read_env_file(file)


def test_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / ".env"
    file.write_bytes(b"PORT=\xff\xfe")
    with pytest.raises(SettingsError, match="must be a UTF-8 text file"):
        read_env_file(file)


def test_missing_file_is_none(tmp_path):
    assert read_env_file(tmp_path / "none") == {}


def test_postgres_address_is_taken_apart():
    read = database_of("postgres://me:p%40ss@db.example:5433/head%20race?sslmode=require")
    assert read["ENGINE"] == "django.db.backends.postgresql"
    assert (read["NAME"], read["USER"], read["PASSWORD"]) == ("head race", "me", "p@ss")
    assert (read["HOST"], read["PORT"], read["OPTIONS"]) == ("db.example", "5433", {"sslmode": "require"})


def test_what_the_address_of_postgres_says_goes_before_our_limits():
    options = postgres_options({"connect_timeout": "9", "options": "-c lock_timeout=7s"}, Bounds())
    assert options["connect_timeout"] == "9" and options["tcp_user_timeout"] == 10_000
    assert options["options"].startswith("-c lock_timeout=500 ") and options["options"].endswith("-c lock_timeout=7s")


def test_sqlite_address_is_a_path():
    assert database_of("sqlite:////srv/a.sqlite3")["NAME"] == "/srv/a.sqlite3"
    assert database_of("sqlite:///a.sqlite3")["NAME"] == "a.sqlite3"


def test_key_is_made_once_for_its_owner_only(tmp_path):
    key = kept_key(tmp_path / "data")
    assert len(key) >= 32
    assert kept_key(tmp_path / "data") == key
    assert stat.S_IMODE((tmp_path / "data" / "secret_key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret_key"]


def test_key_that_others_can_read_is_refused(tmp_path):
    kept_key(tmp_path)
    (tmp_path / "secret_key").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        kept_key(tmp_path)


def test_first_of_two_keys_made_at_once_wins(tmp_path, monkeypatch):
    kept_key(tmp_path)
    first = (tmp_path / "secret_key").read_text()
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as seen before the other's was there
    assert kept_key(tmp_path) == first


def test_every_variable_says_what_it_is():
    assert all(field.text for field in fields(Environment))


def test_document_of_the_settings_is_up_to_date():
    assert (ROOT / "docs" / "settings.md").read_text() == document()


def test_example_file_names_only_settings_there_are():
    known = {field.variable for field in fields(Environment)} | {
        field.variable for field in fields(Bounds, "HEADRACE_")
    }
    lines = [line.lstrip("# ") for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line]
    assert lines
    assert {line.partition("=")[0] for line in lines} <= known


# ------------------------------------------------------------------------------------------ whole commands


def test_bad_setting_ends_every_command_with_one_sentence_and_status_1(tmp_path):
    done = manage("check", env=environment(tmp_path / "data", PORT="eighty"))
    assert done.returncode == 1
    assert done.stderr == "headrace: PORT is 'eighty'; it must be a whole number from 1 to 65535.\n"
    assert not (tmp_path / "data").exists()


def test_broken_env_file_ends_every_command_with_one_sentence_and_status_1(tmp_path):
    (tmp_path / "env").write_text("PORT: 8000\n")
    env = {**environment(tmp_path / "data"), "ENV_FILE": str(tmp_path / "env")}
    done = manage("check", env=env)
    assert done.returncode == 1
    assert done.stderr == f"headrace: {tmp_path / 'env'}, line 1 is not NAME=value, a comment or empty.\n"
    assert not (tmp_path / "data").exists()


def test_data_dir_that_cannot_be_written_ends_with_one_sentence_and_status_1(tmp_path):
    (tmp_path / "data").write_text("a file where a directory should be")
    done = manage("serve", env=environment(tmp_path / "data"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"headrace: DATA_DIR {tmp_path / 'data'} cannot be used")
    assert done.stderr.count("\n") == 1


def test_unknown_bound_in_the_file_ends_with_one_sentence_that_says_the_nearest(tmp_path):
    (tmp_path / "env").write_text("HEADRACE_TURN_PER_USER=9\n")
    done = manage("check", env={**environment(tmp_path / "data"), "ENV_FILE": str(tmp_path / "env")})
    assert done.returncode == 1
    assert done.stderr == "headrace: HEADRACE_TURN_PER_USER is not a setting; did you mean HEADRACE_TURNS_PER_USER?\n"


def test_settings_start_no_store(tmp_path):
    done = manage("check", env=environment(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "data" / "redis").exists()
    assert os.listdir(tmp_path / "data") == ["secret_key"]
