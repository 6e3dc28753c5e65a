"""Who may what with a flow: the test by object and the filter of the database say the same."""

import itertools

import pytest
from django.contrib.auth.models import Group

from accounts import rights
from accounts.models import User
from accounts.tokens import identity_of
from flows.models import Flow


@pytest.mark.django_db
def test_filters_and_tests_agree_for_every_user_and_visibility() -> None:
    group = Group.objects.create(name="group")
    people = [User.objects.create_user(name) for name in ("owner", "member", "stranger")]
    people.append(User.objects.create_user("chief", is_staff=True))
    people[1].groups.add(group)
    for visibility in Flow.Visibility.values:
        flow = Flow.objects.create(slug=visibility, name=visibility, owner=people[0], visibility=visibility)
        flow.groups.add(group)
    seen = {}
    for user, flow in itertools.product(people, Flow.objects.all()):
        identity = identity_of(user)
        rows = Flow.objects.filter(pk=flow.pk)
        may = rights.can_chat(identity, flow), rights.can_edit(identity, flow)
        assert may == (rights.visible(identity, rows).exists(), rights.editable(identity, rows).exists())
        seen[user.username, flow.visibility] = may
    assert [seen["member", visibility][0] for visibility in ("everyone", "groups", "owner")] == [True, True, False]
    assert [seen["stranger", visibility][0] for visibility in ("everyone", "groups", "owner")] == [True, False, False]
    assert all(
        seen[name, visibility] == (True, True) for name in ("owner", "chief") for visibility in ("groups", "owner")
    )
