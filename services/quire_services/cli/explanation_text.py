"""An explanation for people: what of a request is published, and where it parts from what is."""

from __future__ import annotations

from quire_services.gateway.published_prompts.explanation import Comparison, Difference, Explanation

from .text_table import text_table

_COLUMNS = {"publication": "<28", "variant": "<12", "domain": "<24", "state": "<10", "tokens": ">8", "common": ">8"}


def explanation_text(found: Explanation) -> str:
    """The lines of an explanation."""
    hit = found.matched
    shared = f"{hit.tokens} of them published: {_name(hit)}" if hit else "none of them shared"
    lines = [f"the request's prompt has {found.tokens} tokens, {shared}"]
    if found.compared:
        lines += ["", text_table(_COLUMNS, [_row(one) for one in found.compared])]
    if found.nearest and found.difference:
        lines += ["", *_difference(found.nearest, found.difference)]
    return "\n".join([*lines, *([""] if found.advice else []), *(f"- {one}" for one in found.advice)])


def _name(one: Comparison) -> str:
    return f"{one.id}, variant {one.variant}"


def _row(one: Comparison) -> tuple[object, ...]:
    domain = one.domain if one.open else f"{one.domain} (closed)"
    return one.id, one.variant, domain, one.state, one.tokens, one.common


def _difference(nearest: Comparison, difference: Difference) -> list[str]:
    """The place, the text in front of it, and how each goes on; quoted, so that spaces can be seen."""
    behind = f"{difference.token} tokens, {difference.character} characters"
    where = f", at {difference.field}" if difference.field else ""
    return [
        f"first difference from {_name(nearest)}: behind {behind}{where}",
        f"  both       {difference.before!r}",
        f"  published  {difference.published!r}",
        f"  request    {difference.request!r}",
    ]
