"""The forms of names that several rooms read, as patterns without anchors. Pure."""

UUID = r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"
SLUG = r"[a-z0-9][a-z0-9-]{1,63}"  # of a flow, of a provider
ID = r"[A-Za-z0-9_-]{1,64}"  # of a command, of an option, of a branch
