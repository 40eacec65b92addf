"""Text seal: reasoning in a form that clients send back as they got it.

Clients that keep their conversations themselves send reasoning back as ``encrypted_content``. The text is beside it:
there is nothing to hide, it only is in a form that no client takes for text.
"""

from __future__ import annotations

import base64
import binascii

from quire_services.gateway.http.errors import invalid

_MARK = "quire1:"


def sealed(text: str) -> str:
    """The text as clients get it."""
    return _MARK + base64.b64encode(text.encode(errors="replace")).decode()


def unsealed(given: str, where: str) -> str:
    """The text again. Raises ApiError 400 for what was not sealed here."""
    try:
        if given.startswith(_MARK):
            return base64.b64decode(given.removeprefix(_MARK), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        pass
    param = f"{where}.encrypted_content"
    raise invalid(f"{param}: it was not made here; leave the item out, or send its 'content'", param)
