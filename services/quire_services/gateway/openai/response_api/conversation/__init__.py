"""Conversations: the items that a response answers, checked, and as the messages of a chat."""
