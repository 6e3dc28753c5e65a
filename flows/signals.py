"""What other floors may want to hear of flows, sent once it was committed."""

from django.dispatch import Signal

flow_deleted = Signal()  # flow: its id as a string
