"""Tool formats: a declarative description of how a family of models writes tool calls and reasoning.

The parser and the grammar are both derived from it, so that what the one allows the other reads.

A literal is written as the model writes it. Whitespace in it is what the grammar writes; the parser takes any
whitespace there, or none. A literal may spell special tokens; which ones they are depends on the model's tokenizer and
is said to the parser and the grammar, not here.

    answer  = (content | region | section)*
    section = section_open call (separator call)* section_close
    call    = open body close
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ObjectCall:
    """A JSON object with the name and the arguments under these keys, and the id if the model writes one."""

    name: str = "name"
    arguments: str = "arguments"
    id: str = ""


@dataclass(frozen=True, slots=True)
class NamedCall:
    """The name, ``before_arguments``, the arguments as a JSON object; after the name ``before_id`` and an id, if the
    model writes ids. Where calls are numbered, ``prefix``, the name, ``before_number`` and the number are the id."""

    before_arguments: str
    before_id: str = ""
    prefix: str = ""
    before_number: str = ""


@dataclass(frozen=True, slots=True)
class TaggedCall:
    """The name, ``after_name``, and each argument in tags of its own. A string is written as it is, without quotes;
    everything else as JSON."""

    after_name: str
    key_open: str
    key_close: str
    value_close: str


@dataclass(frozen=True, slots=True)
class PythonCall:
    """A call as Python writes it: ``name(key=value, other=value)``."""


CallBody = ObjectCall | NamedCall | TaggedCall | PythonCall


@dataclass(frozen=True, slots=True)
class CallForm:
    """One way to write calls.

    Attributes:
        body: the name and the arguments.
        open, close: around each call.
        section_open, section_close: around calls that stand together.
        separator: between them.
        leads: it is a call only where a message begins: nothing else tells it from text.
        several: an answer may have several.
        remembered: templates write earlier calls so, models do not.
    """

    body: CallBody
    open: str = ""
    close: str = ""
    section_open: str = ""
    section_close: str = ""
    separator: str = ""
    leads: bool = False
    several: bool = True
    remembered: bool = False

    @property
    def trigger(self) -> str:
        """What an answer with calls begins with."""
        return self.section_open or self.open


@dataclass(frozen=True, slots=True)
class Region:
    """Text between two literals that is reasoning, or that is content where a format marks this too.

    ``leads``: it is one only where a message begins.
    """

    kind: Literal["reasoning", "content"]
    open: str
    closes: tuple[str, ...]
    leads: bool = False


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a family writes.

    Attributes:
        name: as ``--tool-parser`` has it.
        forms: ways to write calls; all are read, the first is what a grammar makes the model write.
        regions: marked text.
        joint: what stands between the messages of one answer.
    """

    name: str
    forms: tuple[CallForm, ...]
    regions: tuple[Region, ...] = ()
    joint: str = ""

    @property
    def marks_content(self) -> bool:
        """Whether content stands in regions of its own."""
        return any(region.kind == "content" for region in self.regions)

    @property
    def reasoning(self) -> Region | None:
        """The region of reasoning, if the family reasons."""
        return next((region for region in self.regions if region.kind == "reasoning"), None)

    def opened_by(self, prompt: str) -> Region | None:
        """The region that the end of a prompt has opened for the answer."""
        end = prompt.rstrip()
        return next((region for region in self.regions if region.open and end.endswith(region.open.rstrip())), None)

    def closed_by(self, prompt: str) -> bool:
        """Whether the end of a prompt has closed the answer's reasoning."""
        region, end = self.reasoning, prompt.rstrip()
        return region is not None and any(end.endswith(close.rstrip()) for close in region.closes)

    def preferring(self, form: CallForm) -> ToolFormat:
        """The same with ``form`` as the first."""
        return replace(self, forms=(form, *(other for other in self.forms if other != form)))

    def literals(self) -> Iterable[str]:
        """All literals, those that are empty too."""
        found: list[str] = []
        self.spelled(lambda text: found.append(text) or text)  # type: ignore[func-returns-value]
        return found

    def spelled(self, spell: Callable[[str], str]) -> ToolFormat:
        """The same with other literals."""
        forms = tuple(
            replace(
                form,
                body=_spelled(form.body, spell) if isinstance(form.body, NamedCall | TaggedCall) else form.body,
                open=spell(form.open),
                close=spell(form.close),
                section_open=spell(form.section_open),
                section_close=spell(form.section_close),
                separator=spell(form.separator),
            )
            for form in self.forms
        )
        regions = tuple(
            replace(region, open=spell(region.open), closes=tuple(map(spell, region.closes))) for region in self.regions
        )
        return replace(self, forms=forms, regions=regions, joint=spell(self.joint))


def _spelled(body: Any, spell: Callable[[str], str]) -> Any:
    return replace(body, **{one.name: spell(getattr(body, one.name)) for one in fields(body)})
