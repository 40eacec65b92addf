"""Response lookup: what the gateway keeps and finds of responses for the requests that it reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from quire_services.gateway.http.errors import body_too_large, invalid

from .response_answer import Keep
from .response_draft import ResponseDraft
from .response_store import ResponseStore

MAX_ITEMS = 65_536  # of a conversation
MAX_REFERENCES = 4096  # of a request to items that are kept


class TooLong(Exception):
    """A conversation that is longer than what is read here."""


def keeper(store: ResponseStore, tenant: str, name: str, draft: ResponseDraft) -> Keep | None:
    """Begin to keep a response; what it is completed with. None if it is not to be kept, or is too large for it and the
    client does not insist. Raises ApiError 400."""
    if draft.store is False:
        return None
    if not store.takes(len(draft.items)):
        if draft.store:
            raise invalid("'store': the input is larger than what is kept here; send 'store': false", "store")
        return None
    store.open(tenant, name, draft.items, draft.many, draft.previous)
    draft.items = b""
    return partial(store.complete, tenant, name)


def looked_up(
    store: ResponseStore, tenant: str, most: Callable[[], int], here: int | None, previous: str, references: list[str]
) -> bytes:
    """As ``Lookup`` has it, for one tenant. Raises ApiError, and TooLong for more than ``here`` bytes.

    Args:
        most: bytes that a request may have.
        here: bytes that are read here; None: all that a request may have.
    """
    if len(references) > MAX_REFERENCES:
        raise invalid(f"at most {MAX_REFERENCES} items may be references", "input")
    entries = store.conversation(tenant, previous) if previous else []
    if sum(entry.many for entry in entries) > MAX_ITEMS:
        raise invalid(f"the conversation has more than {MAX_ITEMS} items", "previous_response_id")
    texts = [text for entry in entries for text in entry.texts()]
    texts += [store.item(tenant, identity) for identity in references]
    size = sum(map(len, texts))
    if size > most():
        raise body_too_large(f"the conversation is {size} bytes long, more than a request may be")
    if here is not None and size > here:
        raise TooLong
    return b"\n".join(texts)
