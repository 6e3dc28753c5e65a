"""Tokens of every source: which is read, which is good, and what ends it."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.contrib.auth.models import Group
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts import store, tokens
from accounts.models import Login, Ticket, User
from accounts.tokens import Credential, credential_of, verify
from streams.errors import WireError

pytestmark = pytest.mark.django_db


@pytest.fixture
def anna() -> User:
    return User.objects.create_user("anna", password="anna")


def header(token: str) -> Credential:
    return Credential("header", token)


def is_refused(credential: Credential) -> bool:
    with pytest.raises(WireError) as raised:
        verify(credential)
    return raised.value.code == "unauthorized"


def claims(anna: User, **changes: Any) -> dict[str, Any]:
    """The claims of a good access token."""
    token = jwt.decode(tokens.mint(anna), options={"verify_signature": False})
    return {name: value for name, value in {**token, **changes}.items() if value is not None}


def signed(payload: dict[str, Any], key: Any = None, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode(payload, key or tokens.Backend().signing_key, algorithm=algorithm, headers=headers or None)


# ---------------------------------------------------------------------------------------------- which is read


def scope(query: str = "", cookie: str = "", subprotocols: tuple[str, ...] = (), **headers: str) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    if cookie:
        pairs.append((b"cookie", cookie.encode()))
    return {"query_string": query.encode(), "headers": pairs, "subprotocols": list(subprotocols)}


ALL = {
    "query": "ticket=a&t=b",
    "cookie": "access_token_cookie=e; sessionid=f",
    "subprotocols": ("headrace.v1", "bearer.d"),
    "authorization": "Bearer c",
}


def test_the_first_source_present_decides() -> None:
    found = []
    present = dict(ALL)
    assert credential_of(scope(**present)) == Credential("ticket", "a")
    for drop in ({"query": "t=b"}, {"query": ""}, {"authorization": ""}, {"subprotocols": ()}):
        present |= drop
        found.append(credential_of(scope(**present)))
    present["cookie"] = "sessionid=f"
    found.append(credential_of(scope(**present)))
    assert found == [
        Credential("t", "b"),
        Credential("header", "c"),
        Credential("subprotocol", "d"),
        Credential("cookie", "e"),
        Credential("session", "f"),
    ]
    assert credential_of(scope()) == Credential("none", "")


def test_an_empty_source_is_present_and_not_passed_over() -> None:
    assert credential_of(scope(**ALL | {"query": "ticket="})) == Credential("ticket", "")


def test_only_what_browsers_send_by_themselves_needs_an_origin() -> None:
    needs = {source: Credential(source, "x").needs_origin for source in ("ticket", "t", "header", "subprotocol")}
    assert not any(needs.values())
    assert Credential("cookie", "x").needs_origin and Credential("session", "x").needs_origin


@pytest.mark.parametrize("query", ["%ff%fe=%00", "t=%e4%b8", "&&&=", "t" * 10_000])
def test_rubbish_in_the_query_is_no_token(query: str) -> None:
    assert credential_of(scope(query)).source in ("none", "t")


# ------------------------------------------------------------------------------------------------ which is good


def test_a_minted_token_says_who_it_is(anna: User) -> None:
    anna.groups.add(Group.objects.create(name="readers"))
    identity = verify(header(tokens.mint(anna)))
    assert (identity.user_id, identity.name, identity.is_staff) == (anna.pk, "anna", False)
    assert identity.group_ids == set(anna.groups.values_list("id", flat=True))
    assert identity.expires_at == pytest.approx((timezone.now() + timedelta(minutes=15)).timestamp(), abs=5)


def test_row_9_missing_token(anna: User) -> None:
    assert is_refused(Credential("none", ""))
    assert is_refused(header(""))
    assert is_refused(header("x"))
    assert is_refused(header("ä.ö.\0"))


def test_row_9_expired_token(anna: User) -> None:
    assert is_refused(header(signed(claims(anna, exp=int(timezone.now().timestamp()) - 1))))


def test_row_9_algorithm_none(anna: User) -> None:
    unsigned = jwt.encode(claims(anna), None, algorithm="none")
    assert is_refused(header(unsigned))
    for name in ("None", "NONE", "nOnE"):
        forged = base64.urlsafe_b64encode(json.dumps({"alg": name, "typ": "JWT"}).encode()).decode().rstrip("=")
        assert is_refused(header(f"{forged}.{unsigned.split('.')[1]}."))


def test_row_9_wrong_key(anna: User, settings: Any) -> None:
    assert is_refused(header(signed(claims(anna), key="another key of at least thirty-two bytes")))
    assert is_refused(header(signed(claims(anna), key=settings.SECRET_KEY)))


def test_row_9_rs_and_hs_confusion(anna: User) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert is_refused(header(signed(claims(anna), key=private, algorithm="RS256")))
    assert is_refused(header(signed(claims(anna), algorithm="HS512")))
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    for form in (pem, der):
        public = private.public_key().public_bytes(form, serialization.PublicFormat.SubjectPublicKeyInfo)
        head, body = (
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in ({"alg": "HS256", "typ": "JWT"}, claims(anna))
        )
        algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        signature = base64.urlsafe_b64encode(algorithm.sign(f"{head}.{body}".encode(), public)).decode().rstrip("=")
        assert is_refused(header(f"{head}.{body}.{signature}"))


@pytest.mark.parametrize(
    "headers", [{"kid": "../../dev/null"}, {"jku": "https://x.example/k"}, {"jwk": {"kty": "oct", "k": "AA"}}]
)
def test_keys_named_by_the_token_itself_are_not_looked_at(anna: User, headers: dict[str, Any]) -> None:
    assert is_refused(header(signed(claims(anna), key="x" * 32, **headers)))
    assert verify(header(signed(claims(anna), **headers))).user_id == anna.pk


@pytest.mark.parametrize("claim", ["exp", "iss", "aud", "sub", "login", "jti", "token_type"])
def test_row_9_a_claim_is_missing(anna: User, claim: str) -> None:
    assert verify(header(signed(claims(anna))))
    assert is_refused(header(signed(claims(anna, **{claim: None}))))


@pytest.mark.parametrize(
    "changes",
    [{"iss": "other"}, {"aud": "other"}, {"sub": "0"}, {"login": "x"}, {"login": 7}, {"token_type": "refresh"}],
)
def test_a_claim_that_does_not_fit_is_refused(anna: User, changes: dict[str, Any]) -> None:
    assert is_refused(header(signed(claims(anna, **changes))))


def test_a_login_of_another_user_is_refused(anna: User) -> None:
    bert = User.objects.create_user("bert", password="bert")
    assert is_refused(header(signed(claims(anna, sub=str(bert.pk)))))


def test_an_older_secret_key_still_verifies(anna: User, settings: Any) -> None:
    token = tokens.mint(anna)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a newer one", [settings.SECRET_KEY]
    assert verify(header(token)).user_id == anna.pk
    settings.SECRET_KEY_FALLBACKS = []
    assert is_refused(header(token))


# ---------------------------------------------------------------------------------------------------- its end


def test_a_login_that_ended_ends_its_tokens(anna: User) -> None:
    token, other = tokens.mint(anna), tokens.mint(anna)
    login = verify(header(token)).login
    tokens.forget(store.end_logins(login=login))
    assert is_refused(header(token))
    assert verify(header(other))


def test_a_new_password_ends_every_login(anna: User) -> None:
    token = tokens.mint(anna)
    verify(header(token))
    anna.set_password("other")
    anna.save()
    assert is_refused(header(token))


def test_row_11_a_deactivated_user_has_no_tokens(anna: User) -> None:
    token = tokens.mint(anna)
    identity = verify(header(token))
    anna.is_active = False
    anna.save()
    assert is_refused(header(token))
    assert tokens.ended_among([identity.login], [anna.pk]) == {identity.login, anna.pk}


def test_saving_a_user_otherwise_ends_nothing(anna: User) -> None:
    token = tokens.mint(anna)
    anna.first_name = "Anna"
    anna.save()
    assert verify(header(token)).user_id == anna.pk


def test_what_another_process_ended_is_noticed_within_five_seconds(anna: User, monkeypatch: Any) -> None:
    token = tokens.mint(anna)
    login = verify(header(token)).login
    Login.objects.filter(id=login).update(ended_at=timezone.now())
    verify(header(token))
    later = tokens.time.monotonic() + tokens.settings.HEADRACE.known_login_s
    monkeypatch.setattr(tokens.time, "monotonic", lambda: later)
    assert is_refused(header(token))


def test_the_poll_names_only_the_dead(anna: User) -> None:
    live, ended = store.begin_login(anna.pk), store.begin_login(anna.pk)
    store.end_logins(login=ended)
    assert tokens.ended_among([live, ended], [anna.pk, 10**6]) == {ended, 10**6}


# ------------------------------------------------------------------------------------------------------ refresh


def test_refresh_rotates(anna: User) -> None:
    first = tokens.log_in(anna)
    second = tokens.refresh(first.refresh)
    assert verify(header(first.access)).login == verify(header(second.access)).login
    assert tokens.refresh(second.refresh)


def test_an_old_refresh_token_ends_the_login(anna: User) -> None:
    first = tokens.log_in(anna)
    second = tokens.refresh(first.refresh)
    for refresh in (first.refresh, second.refresh):
        with pytest.raises(WireError):
            tokens.refresh(refresh)
    assert is_refused(header(second.access))


def test_a_refresh_token_opens_nothing_and_an_access_token_refreshes_nothing(anna: User) -> None:
    pair = tokens.log_in(anna)
    assert is_refused(header(pair.refresh))
    with pytest.raises(WireError):
        tokens.refresh(pair.access)


# ------------------------------------------------------------------------------------------------------ tickets


def test_a_ticket_acts_for_the_token_that_bought_it(anna: User) -> None:
    buyer = verify(header(tokens.mint(anna)))
    ticket, expires = tokens.buy_ticket(buyer)
    identity = verify(Credential("ticket", ticket))
    assert (identity.login, identity.source) == (buyer.login, "ticket")
    assert identity.expires_at == pytest.approx(buyer.expires_at, abs=0.01)
    assert timedelta(seconds=50) < expires - datetime.now(UTC) <= timedelta(seconds=61)


def test_row_9_used_ticket(anna: User) -> None:
    ticket, _ = tokens.buy_ticket(verify(header(tokens.mint(anna))))
    verify(Credential("ticket", ticket))
    assert is_refused(Credential("ticket", ticket))


@pytest.mark.django_db(transaction=True)
def test_of_many_who_come_with_one_ticket_one_gets_in(anna: User) -> None:
    ticket, _ = tokens.buy_ticket(verify(header(tokens.mint(anna))))

    def spend(_: int) -> bool:
        try:
            return store.spend_ticket(ticket) is not None
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(spend, range(8))) == 1


def test_a_ticket_is_good_for_a_minute(anna: User) -> None:
    ticket, _ = tokens.buy_ticket(verify(header(tokens.mint(anna))))
    Ticket.objects.update(expires=timezone.now() - timedelta(seconds=1))
    assert is_refused(Credential("ticket", ticket))


def test_a_ticket_dies_with_its_login(anna: User) -> None:
    buyer = verify(header(tokens.mint(anna)))
    ticket, _ = tokens.buy_ticket(buyer)
    tokens.forget(store.end_logins(login=buyer.login))
    assert is_refused(Credential("ticket", ticket))


def test_only_the_hash_of_a_ticket_is_kept(anna: User) -> None:
    ticket, _ = tokens.buy_ticket(verify(header(tokens.mint(anna))))
    row = Ticket.objects.get()
    assert ticket not in row.hash and len(row.hash) == 64


# ----------------------------------------------------------------------------------------------------- sessions


def session_key(client: Client) -> str:
    return client.session.session_key


def test_a_session_is_its_user(anna: User, client: Client) -> None:
    client.force_login(anna)
    identity = verify(Credential("session", session_key(client)))
    assert (identity.user_id, identity.source) == (anna.pk, "session")
    assert identity.expires_at > timezone.now().timestamp()


def test_a_session_ends_with_sign_out_password_and_deactivation(anna: User) -> None:
    keys = []
    for _ in range(2):
        client = Client()
        client.force_login(anna)
        keys.append(session_key(client))
    client.logout()
    assert is_refused(Credential("session", keys[1]))
    assert verify(Credential("session", keys[0]))
    anna.set_password("other")
    anna.save()
    assert is_refused(Credential("session", keys[0]))


def test_a_session_begun_under_an_older_secret_key_is_read_and_left_as_it_is(
    anna: User, client: Client, settings: Any
) -> None:
    client.force_login(anna)
    before = Session.objects.values().get()
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a newer one", [settings.SECRET_KEY]
    assert verify(Credential("session", before["session_key"])).user_id == anna.pk
    assert Session.objects.values().get() == before
    settings.SECRET_KEY_FALLBACKS = []
    assert is_refused(Credential("session", before["session_key"]))
    assert Session.objects.values().get() == before


def test_a_session_is_refused_whose_password_changed_behind_its_login(anna: User, client: Client) -> None:
    client.force_login(anna)
    key = session_key(client)
    User.objects.update(password="another")  # as no signal tells
    assert is_refused(Credential("session", key))


@pytest.mark.parametrize("key", ["", "x", "0" * 32, "\0", "'--"])
def test_an_unknown_session_is_nobody(key: str) -> None:
    assert is_refused(Credential("session", key))
