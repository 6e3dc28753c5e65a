"""`manage.py token USER`."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounts.models import User
from accounts.tokens import Credential, verify


def printed(*arguments: str) -> str:
    out = StringIO()
    call_command("token", *arguments, stdout=out)
    return out.getvalue().strip()


@pytest.mark.django_db
def test_it_prints_a_token_that_is_good() -> None:
    user = User.objects.create_user("anna", password="anna")
    assert verify(Credential("header", printed("anna"))).user_id == user.pk


@pytest.mark.django_db
def test_it_says_that_there_is_no_such_user() -> None:
    User.objects.create_user("bert", password="bert", is_active=False)
    for name in ("nobody", "bert"):
        with pytest.raises(CommandError, match="no active user"):
            printed(name)


@pytest.mark.parametrize("minutes", ["0", "-5", "nan"])
def test_it_prints_no_token_that_has_ended_already(minutes: str) -> None:
    with pytest.raises(CommandError, match="more than 0"):
        printed("anna", f"--minutes={minutes}")
