"""Item codes: the result of one item of a step. "No space" is a result, not an error."""

from __future__ import annotations

OK, NO_SUCH, CONFLICT, NO_SPACE, UNPUBLISHED, RETRY, CLAIMED = range(7)
ITEM_CODES = {
    OK: "OK",
    NO_SUCH: "NO_SUCH",
    CONFLICT: "CONFLICT",
    NO_SPACE: "NO_SPACE",
    UNPUBLISHED: "UNPUBLISHED",
    RETRY: "RETRY",
    CLAIMED: "CLAIMED",
}
