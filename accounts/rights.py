"""Who may do what with a flow. A flow is anything with `owner_id`, `visibility`, and `group_ids` or `groups`."""

from typing import Any

from django.db.models import Q, QuerySet

from accounts.tokens import Identity


def can_edit(identity: Identity, flow: Any) -> bool:
    """Its owner and staff: its draft, builds, versions, debug runs."""
    return identity.is_staff or flow.owner_id == identity.user_id


def can_chat(identity: Identity, flow: Any) -> bool:
    """Whether the flow is visible to him. Whether it is online is another question, with another answer."""
    if can_edit(identity, flow) or flow.visibility == "everyone":
        return True
    return flow.visibility == "groups" and not identity.group_ids.isdisjoint(_groups_of(flow))


def editable(identity: Identity, flows: QuerySet) -> QuerySet:
    """`can_edit` as a filter."""
    return flows if identity.is_staff else flows.filter(owner_id=identity.user_id)


def visible(identity: Identity, flows: QuerySet) -> QuerySet:
    """`can_chat` as a filter."""
    if identity.is_staff:
        return flows
    in_group = flows.model.groups.through.objects.filter(group_id__in=identity.group_ids).values("flow_id")
    return flows.filter(
        Q(owner_id=identity.user_id) | Q(visibility="everyone") | Q(visibility="groups", id__in=in_group)
    )


def _groups_of(flow: Any) -> frozenset[int]:
    if hasattr(flow, "group_ids"):
        return frozenset(flow.group_ids)
    return frozenset(flow.groups.values_list("id", flat=True))
