"""What operators see of chats, turns, questions, sockets and workers, and the two things they may do: stop and close.

Everything is looked at, nothing of it written here: what is done goes through ChatManager and into the admin's log.
"""

from chat.admin import chats, flows, sessions, turns, workers  # noqa: F401  registers their pages
