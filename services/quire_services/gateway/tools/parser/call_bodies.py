"""Call bodies: the name and the arguments of one call, in each of the ways that formats know.

A reader returns whether it has begun a call. Until it has, it may find that there is none, and nothing is lost: the
text is content then. Once a call has begun it stays one, and what the model wrote reaches the client as it is.
"""

from __future__ import annotations

import json
import re

from quire_services.gateway.tools.formats.tool_format import CallForm, NamedCall, ObjectCall, PythonCall, TaggedCall

from . import json_values, python_values
from .event_sink import EventSink
from .parameter_types import ParameterTypes
from .tagged_values import TaggedValue
from .text_source import SPACE, Reading, TextSource

NAME_STOPS = "<>{}[]()\"'`,;=" + "".join(map(chr, range(0xFDD0, 0xFDF0)))
LONGEST_NAME = 256
NO_ARGUMENTS = "{}"
_TOO_MANY = tuple("}])" + SPACE)
_BESIDE = ("type", "function", "id")  # further keys of a call that nothing else marks


class CallReader:
    """Reads the calls of one answer."""

    def __init__(self, source: TextSource, sink: EventSink, types: ParameterTypes) -> None:
        self._source = source
        self._sink = sink
        self._types = types

    def read(self, form: CallForm) -> Reading[bool]:
        """Read one call with what stands around it. If there is none nothing is read."""
        source = self._source
        begin, source.held = source.at, True
        found = False
        if (yield from source.literal(form.open)):
            yield from source.skip_space()
            found = yield from self._body(form)
        if not found:
            source.at = begin
        source.held = False
        if found and form.close:
            yield from self._close(form.close)
        return found

    def _close(self, close: str) -> Reading[None]:
        """Read what closes a call, and brackets too many before it, which models write."""
        source = self._source
        begin, source.held = source.at, True
        while (yield from source.peek()) in _TOO_MANY:
            source.at += 1
        if not (yield from source.literal(close)):
            source.at = begin
        source.held = False

    def _body(self, form: CallForm) -> Reading[bool]:
        match form.body:
            case ObjectCall() as body:
                return (yield from self._object(body, form.leads))
            case NamedCall() as body:
                return (yield from self._named(body, form))
            case TaggedCall() as body:
                return (yield from self._tagged(body, form))
            case PythonCall():
                return (yield from self._python(form.leads))

    def _name(self, behind: str) -> Reading[str]:
        """The name of a tool, up to the literal behind it."""
        return (yield from self._source.run(NAME_STOPS + behind.strip()[:1], LONGEST_NAME))

    def _begin(self, name: str, identity: str = "") -> None:
        self._source.held = False
        self._sink.begin(name, identity)

    def _object(self, body: ObjectCall, leads: bool) -> Reading[bool]:
        """A JSON object. Arguments that come before the name wait for it, an id that comes after them is too late."""
        name, identity, early = "", "", ""
        if not (yield from self._source.word("{")):
            return False
        while key := (yield from self._key()):
            if key == body.arguments and name:
                if not (yield from self._arguments(name, identity)):
                    return False
                while (yield from self._key()) and (yield from json_values.value(self._source)) is not None:
                    pass
                return True
            if leads and key not in (body.name, body.arguments, *_BESIDE):
                return False
            text = yield from json_values.value(self._source)
            if text is None:
                return False
            if key == body.arguments:
                early = text
            elif key == body.name:
                name = json_values.loaded_string(text) or ""
                if not name or (leads and not self._types.known(name)):
                    return False
            elif key == body.id:
                identity = json_values.loaded_string(text) or ""
        arguments = json_values.object_text(early or "null")
        if key is None or not name or arguments is None or (leads and not early):
            return False
        self._begin(name, identity)
        self._sink.arguments(arguments)
        self._sink.end(True)
        return True

    def _key(self) -> Reading[str | None]:
        """The next key of an object, with its colon; empty at the object's end, None if there is neither."""
        source = self._source
        yield from source.literal(" ,")
        if (yield from source.literal(" }")):
            return ""
        yield from source.skip_space()
        key = yield from json_values.string(source)
        if key is None or not (yield from source.literal(" :")):
            return None
        yield from source.skip_space()
        return key

    def _arguments(self, name: str, identity: str) -> Reading[bool]:
        """Begin the call if its arguments are an object, or text that says one, or null, and read them."""
        source = self._source
        if (yield from source.peek()) == "{":
            self._begin(name, identity)
            self._sink.end((yield from json_values.bracketed(source, self._sink.arguments)))
            return True
        text = json_values.object_text((yield from json_values.value(source)) or "")
        if text is None:
            return False
        self._begin(name, identity)
        self._sink.arguments(text)
        self._sink.end(True)
        return True

    def _named(self, body: NamedCall, form: CallForm) -> Reading[bool]:
        source = self._source
        if body.prefix:
            yield from source.word(body.prefix)
        name = yield from self._name(body.before_id or body.before_arguments)
        identity = ""
        if body.before_number:
            identity, name = body.prefix + name, re.sub(rf"{re.escape(body.before_number)}\d+\Z", "", name)
        if not name or (form.leads and not self._types.known(name)):
            return False
        if body.before_id:
            if not (yield from source.literal(body.before_id)):
                return False
            identity = yield from source.run(NAME_STOPS, LONGEST_NAME)
        if not (yield from source.literal(f" {body.before_arguments}")):
            return False
        yield from source.skip_space()
        return (yield from self._arguments(name, identity))

    def _tagged(self, body: TaggedCall, form: CallForm) -> Reading[bool]:
        source, sink = self._source, self._sink
        name = yield from self._name(body.after_name)
        if not name or not (yield from source.literal(body.after_name)):
            return False
        if not body.after_name.strip():  # then only what follows tells that the name has ended
            yield from source.skip_space()
            if not (yield from source.peek()):
                return False
        self._begin(name)
        before, complete = "{", True
        while complete and (yield from source.literal(f" {body.key_open}")):
            key = yield from source.before(body.key_close.split()[0], LONGEST_NAME)
            complete = yield from source.literal(body.key_close)
            if complete:
                sink.arguments(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
                value = TaggedValue(source, body, self._types.of(name, key))
                complete, before = (yield from value.read(sink.arguments)), ", "
        if complete:
            sink.arguments("}" if before != "{" else NO_ARGUMENTS)
            yield from source.skip_space()
            complete = yield from source.sees(form.close.split()[0])  # else there might have been more arguments
        sink.end(complete)
        return True

    def _python(self, leads: bool) -> Reading[bool]:
        source, sink = self._source, self._sink
        name = yield from source.run(NAME_STOPS, LONGEST_NAME)
        if not name or (leads and not self._types.known(name)) or not (yield from source.word("(")):
            return False
        self._begin(name)
        keys, before = self._types.keys(name), "{"
        while True:
            text, whole = yield from python_values.argument(source)
            if text.strip():
                key, value = python_values.keyword(text)
                key = key or (keys.pop(0) if keys else "")
                sink.arguments(f"{before}{json.dumps(key, ensure_ascii=False)}: {python_values.literal_as_json(value)}")
                before = ", "
            if not whole:
                sink.end(False)
                return True
            if not (yield from source.word(",")):
                break
        yield from source.word(")")
        sink.arguments("}" if before != "{" else NO_ARGUMENTS)
        sink.end(True)
        return True
