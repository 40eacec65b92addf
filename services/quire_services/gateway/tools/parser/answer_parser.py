"""Answer parser: the text of an answer, in pieces, to events.

    text -> content | region | section of calls          (``formats.tool_format``)

Text that may still turn out to be a mark waits; all other text goes out with the piece that brings it. What looks like
a call and is none comes out as content; what an answer's end cuts off behind the mark of a call does not, because no
client has a use for half a mark.

Invariants: the events depend on the text and not on how it is cut into pieces; nothing raises, whatever the model
writes; time is linear in the text but for what waits for a mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from quire_services.gateway.tools.formats.tool_format import CallForm, Region, ToolFormat

from .call_bodies import CallReader
from .event_sink import EventSink
from .events import AnswerEvent
from .marks import marked_format
from .parameter_types import ParameterTypes, Tool
from .text_source import Reading, TextSource, pending


class AnswerParser:
    """Parses one answer.

    Args:
        written: how the model writes.
        tools: of the request, None if they are not known.
        opened: the region that the prompt has opened.
        specials: spellings of the tokenizer's special tokens; those are given to ``feed_special``.
        must_call: the answer is held to calls, so that what is none is one that its end cuts off.
    """

    def __init__(
        self,
        written: ToolFormat,
        tools: Iterable[Tool] | None = None,
        opened: Region | None = None,
        specials: Iterable[str] = (),
        must_call: bool = False,
    ) -> None:
        self._marks, self._format = marked_format(written, frozenset(specials))
        self._opened = self._format.regions[written.regions.index(opened)] if opened else None
        self._source = TextSource()
        self._sink = EventSink(self._marks, mute=must_call)
        self._calls = CallReader(self._source, self._sink, ParameterTypes(tools))
        self._triggers, self._first = _triggers(self._format)
        self._reading = self._answer()
        next(self._reading)

    def feed(self, text: str) -> list[AnswerEvent]:
        """Take a piece of text."""
        return self.feed_marked(self.marked(text))

    def feed_special(self, token: str) -> list[AnswerEvent]:
        """Take a special token by its spelling. One that is no mark of the format adds nothing."""
        return self.feed_marked(self.mark(token))

    def marked(self, text: str) -> str:
        """A piece of text for ``feed_marked``. (Between the two it may be joined, held back and cut, for stop strings
        say, in one string with the marks of special tokens.)"""
        return self._marks.plain(text)

    def mark(self, token: str) -> str:
        """A special token for ``feed_marked``."""
        return self._marks.special(token)

    def feed_marked(self, text: str) -> list[AnswerEvent]:
        """Take a piece of what ``marked`` and ``mark`` have made."""
        if text:
            self._source.push(text)
            next(self._reading)
        return self._sink.take()

    def finish(self) -> list[AnswerEvent]:
        """The answer has ended."""
        self._source.ended = True
        next(self._reading, None)
        self._sink.finish()
        return self._sink.take()

    def _answer(self) -> Reading[None]:
        source, sink = self._source, self._sink
        if self._opened:
            yield from source.literal(f" {self._opened.open}")  # models open it again that have not learnt the prompt
            yield from self._region(self._opened)
        while True:
            if sink.fresh and (yield from self._leading()):
                continue
            end, marked = self._plain_end()
            if end > source.at:
                sink.text("content", source.text[source.at : end])
                source.at = end
                if marked:
                    continue
            if marked:
                if not (yield from self._marked()):
                    sink.text("content", source.text[source.at])
                    source.at += 1
            elif not (yield from source.more()):
                break

    def _plain_end(self) -> tuple[int, bool]:
        """Where text ends that is no mark for sure, and whether a mark may begin there."""
        source = self._source
        first = self._first.search(source.text, source.at)
        if not first:
            return len(source.text), False
        found = [place for word in self._triggers if (place := source.text.find(word, first.start())) >= 0]
        end = min([*found, pending(source.text, first.start(), self._triggers)])
        return end, end < len(source.text)

    def _leading(self) -> Reading[bool]:
        """Read what is marked only where a message begins."""
        source = self._source
        begin, source.held = source.at, True
        yield from source.skip_space()
        for form in self._format.forms:
            if form.leads and (yield from self._section(form)):
                return True
        for region in self._format.regions:
            if region.leads and (yield from source.literal(region.open)):
                source.held = False
                yield from self._region(region)
                return True
        self._sink.fresh = False
        source.at, source.held = begin, False
        return False

    def _marked(self) -> Reading[bool]:
        """Read what a mark begins here; nothing is read if it is none."""
        source = self._source
        for form in self._format.forms:
            if not form.leads and (yield from self._section(form)):
                return True
        for region in self._format.regions:
            if not region.leads and (yield from source.literal(region.open)):
                yield from self._region(region)
                return True
        if self._format.joint and (yield from source.literal(self._format.joint)):
            self._sink.apart()
            self._sink.fresh = True
            return True
        return False

    def _section(self, form: CallForm) -> Reading[bool]:
        """Read calls that stand together; nothing is read if there is none."""
        source = self._source
        begin, source.held, source.starved = source.at, True, False
        found = False
        if (yield from source.literal(form.section_open)):
            yield from source.skip_space()
            found = yield from self._calls.read(form)
        if not found:
            source.at, source.held = begin, False
            return (yield from self._cut_call(form))
        together = bool(form.section_open or form.separator.strip())
        while together and form.several:
            before, source.held = source.at, True
            yield from source.literal(f" {form.separator.strip()}")
            yield from source.skip_space()
            if not (yield from self._calls.read(form)):
                source.at, source.held = before, False
                break
        if form.section_close and not source.starved:
            yield from source.literal(f" {form.section_close}")
        if source.starved:
            source.drop()
        self._sink.apart()
        return True

    def _cut_call(self, form: CallForm) -> Reading[bool]:
        """Drop a call that the answer's end cuts off behind its mark, before it is clear which tool it calls."""
        source = self._source
        if not source.starved or form.leads or not form.trigger or not (yield from source.literal(form.trigger)):
            return False
        source.drop()
        self._sink.apart()
        return True

    def _region(self, region: Region) -> Reading[None]:
        """Read marked text and the mark that ends it."""
        source, sink = self._source, self._sink
        closes = tuple(close.strip() for close in region.closes)
        sink.apart()
        while True:
            found = [(place, word) for word in closes if (place := source.text.find(word, source.at)) >= 0]
            waiting = len(source.text) if source.ended else pending(source.text, source.at, closes)
            place, word = min([*found, (waiting, "")])
            sink.text(region.kind, source.text[source.at : place])
            source.at = place + len(word)
            if word:
                break
            if not (yield from source.more()):
                return
        sink.apart()
        sink.fresh = True


@lru_cache(maxsize=64)
def _triggers(written: ToolFormat) -> tuple[tuple[str, ...], re.Pattern[str]]:
    """Words that marks begin with, wherever they stand, and a pattern of their first characters."""
    marked = [form.trigger for form in written.forms if not form.leads]
    marked += [region.open for region in written.regions if not region.leads]
    words = tuple(dict.fromkeys(text.split()[0] for text in (*marked, written.joint) if text))
    return words, re.compile("|".join(re.escape(word[0]) for word in words) or r"(?!)")
