"""What was compiled once gives what the ORM gives; held against the pinned Django, whose inner names it uses."""

import uuid
from datetime import UTC, datetime

import pytest
from django.db import IntegrityError, transaction

from streams.models import StreamSession, Worker
from streams.prepared import Select, insert, update

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
pytestmark = pytest.mark.django_db

BY_ID = Select(lambda id: StreamSession.objects.select_related("user").filter(id=id), uuid.UUID)
OF_USER = Select(lambda user, state: StreamSession.objects.filter(user_id=user, state=state).only("id"), int, str)


@pytest.fixture
def session(django_user_model) -> StreamSession:
    user = django_user_model.objects.create_user("anna")
    return StreamSession.objects.create(user=user, chat=uuid.uuid4(), state="connected", started=AT, last_seen=AT)


def test_a_row_comes_as_the_orm_gives_it_relations_included(session, django_assert_num_queries):
    expected = StreamSession.objects.get(id=session.id)
    with django_assert_num_queries(1):
        found = BY_ID.one(session.id)
        assert found.user.username == "anna"
    for field in StreamSession._meta.concrete_fields:
        assert getattr(found, field.attname) == getattr(expected, field.attname), field.name


def test_each_call_has_its_own_arguments(session):
    assert BY_ID.one(uuid.uuid4()) is None
    assert BY_ID.one(session.id).id == session.id
    assert [row.id for row in OF_USER.all(session.user_id, "connected")] == [session.id]
    assert OF_USER.all(session.user_id, "error") == []


def test_inserted_row_is_the_one_that_save_makes():
    worker = Worker(host="h", pid=1, started=AT, last_seen=AT)
    insert(worker)
    found = Worker.objects.get(id=worker.id)
    assert (found.host, found.started, found.runs_turns, found.buried_at) == ("h", AT, True, None)
    worker.pid = 2
    worker.save()
    assert Worker.objects.count() == 1


def test_second_insert_of_a_key_is_refused():
    worker = Worker(host="h", pid=1, started=AT, last_seen=AT)
    insert(worker)
    with pytest.raises(IntegrityError), transaction.atomic():
        insert(worker)


def test_update_writes_the_named_fields_of_this_row_alone(session):
    other = StreamSession.objects.create(started=AT, last_seen=AT)
    session.state, session.bytes_sent, session.trace = "streaming", 7, "not written"
    update(session, "state", "bytes_sent")
    found = StreamSession.objects.get(id=session.id)
    assert (found.state, found.bytes_sent, found.trace) == ("streaming", 7, "")
    other.refresh_from_db()
    assert other.bytes_sent == 0
