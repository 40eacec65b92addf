"""What went wrong with the hub, as one sentence that says what to do.

huggingface_hub answers a repository that is not there, one that is private and one without a token all alike, and hides
a network that is away behind a file that is not in the cache; so the reason is looked for in the chain of causes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from huggingface_hub import constants, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError

from quire_engine.checkpoint.refusal import first_line

from .hub_model import HubModel

FULL = (errno.ENOSPC, errno.EDQUOT)


def explained(error: BaseException, model: HubModel) -> str:
    """One line for a person."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return _refused(cause, model)
        if isinstance(cause, OfflineModeIsEnabled):
            return not_cached(model)
        if isinstance(cause, OSError) and cause.errno in FULL:
            return f"the disk of {model.folder} is full: make room, or set HF_HOME to a directory on another disk"
        if isinstance(cause, PermissionError):
            return (
                f"{cause.filename or model.folder} may not be written: set HF_HOME to a directory that this user owns"
            )
    root = causes[-1]
    return (
        f"{model} is not in the cache, and {constants.ENDPOINT} does not answer ({type(root).__name__}:"
        f" {first_line(root)}): see to the network, HTTPS_PROXY or HF_ENDPOINT, or name the directory of a model"
    )


def not_cached(model: HubModel) -> str:
    """Why a model is not there where nothing may be fetched."""
    return (
        f"{model} is not in the cache ({constants.HF_HUB_CACHE}), or not whole, and HF_HUB_OFFLINE says to fetch"
        " nothing: unset it, or name the directory of a model"
    )


def _refused(error: HfHubHTTPError, model: HubModel) -> str:
    """What an answer of the hub means."""
    page, status = f"{constants.ENDPOINT}/{model.name}", error.response.status_code
    token = bool(get_token())
    if isinstance(error, GatedRepoError):
        do = "with the account of HF_TOKEN" if token else "and set HF_TOKEN to a token of the account that did"
        return f"{model.name} is gated: agree to its terms at {page} {do} ({status})"
    if isinstance(error, RevisionNotFoundError):
        return f"{model.name} has no revision {model.revision!r}: see {page}/tree/main for its branches and tags"
    if error.response.headers.get("X-Error-Code") == "RepoNotFound" or status == 404:
        private = "one that the account of HF_TOKEN may not see" if token else "private, which takes an HF_TOKEN"
        return f"{constants.ENDPOINT} has no model {model.name} ({status}): it is misspelt, or {private}"
    if status in (401, 403):
        what = "HF_TOKEN, which is wrong, has expired or lacks the right to read it" if token else "none: set HF_TOKEN"
        return f"{constants.ENDPOINT} does not let this token fetch {model.name} ({status}): it is {what}"
    return f"{constants.ENDPOINT} answered {status} for {model.name}: {first_line(error)}: try again later"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what led to it, the outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
