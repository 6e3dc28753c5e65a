"""Which worker this process is, for its log lines and figures. Empty until its manager is made. Pure."""

worker = ""
