"""What Headrace is measured against: the bare relay, and the chat that people write with Channels and DRF today."""
