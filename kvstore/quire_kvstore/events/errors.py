"""Errors of the event stream, in a file of their own: keys and sockets both raise them."""


class EventsError(Exception):
    """The event stream cannot be published; the message says why."""
