"""What Headrace is measured against: bare floors, and the chats that people write with other means today."""
