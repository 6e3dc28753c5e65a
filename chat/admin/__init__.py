"""What operators see of chats, turns, questions, sockets and workers, and the two things they may do: stop and close.

It is looked at, not written here: what is done goes through ChatManager and into the admin's log. Budgets apart,
which are set here because this floor knows the names of all whose they are.
"""

from chat.admin import budgets, chats, flows, sessions, turns, workers  # noqa: F401  registers their pages
