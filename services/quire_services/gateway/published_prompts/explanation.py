"""Explanation: what of a chat request is published, and for what is not, where it parts from what is.

A publication is matched whole or not at all, so a request that differs in one token shares nothing and is told nothing.
An operator can ask: how many tokens match which variant, the first difference with the text on both sides, the field
of the request that it comes from, and what would make it match. It is for operators alone, because it shows the text
of what is published to groups.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from quire_kv import Groups, Publication
from quire_proto.wire.publication_ids import prompt_id, variant_of
from quire_proto.wire.u32 import pack_u32, unpack_u32
from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.chat import ChatPrompt, chat_prompt, chat_tokens
from quire_services.gateway.openai.json_body import validated
from quire_services.gateway.templates.chat_template import PromptEncoder

from .prompt_files import PublishError
from .request_fields import field_at

PUBLIC = "public"
SHOWN_CHARS = 48  # of each side of a difference


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a request parts from a published prompt.

    Attributes:
        token, character: how many of each they have in common.
        before: the end of what they have in common.
        published, request: how each goes on; empty: it ends there.
        field: of the request, as a path.
    """

    token: int
    character: int
    before: str
    published: str
    request: str
    field: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A request beside one variant of a published prompt.

    Attributes:
        tokens: its length.
        common: tokens that the request begins with.
        open: the tenant may share it.
    """

    id: str
    variant: str
    domain: str
    state: str
    tokens: int
    common: int
    open: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """What of a request is published.

    Attributes:
        tokens: length of its prompt.
        matched: what it shares, if it shares anything.
        compared: all that is published, what it shares first, then by what they have in common.
        nearest: of what it does not share the one with most in common, at least as much as is shared.
        difference: from that.
        advice: what would make it match, a sentence each.
    """

    tokens: int
    matched: Comparison | None
    compared: tuple[Comparison, ...]
    nearest: Comparison | None
    difference: Difference | None
    advice: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """It, as JSON values."""
        return asdict(self)


def explain(
    encoder: PromptEncoder, request: object, publications: Iterable[Publication], domains: Collection[str] | None
) -> Explanation:
    """Compare a chat request, the JSON value of its body, with all that is published. ``domains``: what its tenant may
    share; None: everything. Raises PublishError for what is no chat request."""
    try:
        body = validated(ChatBody, request)
        prompt = chat_prompt(body, encoder)
        tokens = chat_tokens(body, encoder, None)
    except ApiError as error:
        raise PublishError(f"not a chat request: {error.message}") from None
    if body.chat_template:
        raise PublishError("a request with a 'chat_template' of its own is not explained: leave it out")
    packed = pack_u32(tokens)
    rows = sorted(((_compared(packed, one, domains), one) for one in publications), key=_nearness, reverse=True)
    salted = bool(body.cache_salt)
    whole = [row for row, _ in rows if row.common == row.tokens]
    matched = next((row for row in whole if row.open and not salted), None)
    # What goes on where the match ends is worth a look, and so is what comes nearest if there is none.
    nearest = next((row for row in rows if row[0] not in whole), None)
    if nearest and nearest[0].common < max((row.tokens for row in whole), default=0):
        nearest = None
    difference = _difference(encoder, prompt, tokens, nearest[1], nearest[0].common) if nearest else None
    if salted:
        advice = ["leave out 'cache_salt': a request with one shares nothing that is published"]
    elif matched and matched.state != "ready":
        advice = ["it is not computed yet: the first request that begins so does it"]
    elif not rows:
        advice = ["nothing is published; publish this request: quire prefix publish --from-request"]
    else:
        advice = [] if matched or not whole else [_closed(whole[0])]
    if nearest and difference and not salted:
        advice += _advice(encoder, nearest[0], difference)
    return Explanation(
        tokens=len(tokens),
        matched=matched,
        compared=tuple(row for row, _ in rows),
        nearest=nearest[0] if nearest else None,
        difference=difference,
        advice=tuple(advice),
    )


def _nearness(row: tuple[Comparison, Publication]) -> tuple[bool, int, bool]:
    one = row[0]
    return one.common == one.tokens and one.open, one.common, one.open


def domains_of(tenant: str, groups: Groups) -> set[str]:
    """The share domains that a tenant may use."""
    return {PUBLIC} | {member.group for member in groups.members if member.tenant == tenant}


def _compared(packed: bytes, one: Publication, domains: Collection[str] | None) -> Comparison:
    length = len(one.tokens) // 4
    common = bisect_left(range(1, length + 1), True, key=lambda n: packed[: 4 * n] != one.tokens[: 4 * n])
    may = domains is None or one.domain in domains
    return Comparison(prompt_id(one.id), variant_of(one.tokens), one.domain, one.state, length, common, may)


def _difference(
    encoder: PromptEncoder, prompt: ChatPrompt, tokens: list[int], published: Publication, common: int
) -> Difference:
    theirs, ours = encoder.decode(list(unpack_u32(published.tokens))), encoder.decode(tokens)
    pairs = enumerate(zip(theirs, ours, strict=False))
    place = next((place for place, (one, other) in pairs if one != other), min(len(theirs), len(ours)))
    if place == len(theirs):  # the same text, which the tokenizer parts otherwise
        place = min(place, len(encoder.decode(tokens[:common])))
    return Difference(
        token=common,
        character=place,
        before=ours[max(0, place - SHOWN_CHARS) : place],
        published=theirs[place : place + SHOWN_CHARS],
        request=ours[place : place + SHOWN_CHARS],
        field=field_at(encoder, prompt, ours[:place]),
    )


def _closed(one: Comparison) -> str:
    return f"it is published to the group {one.domain!r}, which this tenant is not in: quire group join"


def _advice(encoder: PromptEncoder, nearest: Comparison, difference: Difference) -> list[str]:
    """What would make a request match what it comes nearest to."""
    found = [] if nearest.open else [_closed(nearest)]
    field = difference.field or ""
    if not difference.request:
        return [*found, "the request ends where the published prompt goes on: it is another, shorter prompt"]
    if field.startswith("tools") and not encoder.canonical:
        found.append("serve with --tools-in-prompt canonical: functions that say the same are the same tokens then")
    elif field.startswith("tools"):
        found.append(f"say the same in {field}: what differs there is more than the form")
    elif field.startswith("messages"):
        found.append(f"send {field} as it was published, to the letter")
    if encoder.writes_the_date:
        found.append("the template writes the date: what was published on another day matches no more")
    variant = f"--id {nearest.id} --domain {nearest.domain}"
    return [*found, f"publish it as a variant beside that: quire prefix publish --from-request FILE {variant}"]
