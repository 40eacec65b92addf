"""Tool choice: which of a request's tools the model may call, and whether it must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Function = Mapping[str, Any]
Mode = Literal["none", "auto", "required"]


class ToolChoiceInvalid(ValueError):
    """A choice that cannot be made; the message is for the client."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What a request lets the model do.

    Attributes:
        mode: whether it calls no tool, may call some, or must.
        functions: those that it may call, as the API has them: ``name``, ``parameters``, ``strict``.
        one: it calls exactly one, which the request names.
        narrowed: there are tools that it may not call.
    """

    mode: Mode
    functions: tuple[Function, ...] = ()
    one: bool = False
    narrowed: bool = False

    @property
    def binds(self) -> bool:
        """Whether an answer that keeps to no grammar would be a wrong answer, and not only a worse one."""
        return self.mode == "required" or self.narrowed or any(one.get("strict") for one in self.functions)


def tool_choice_of(choice: Any, tools: Sequence[Mapping[str, Any]] | None) -> ToolChoice:
    """The choice that ``tool_choice`` says, in the form of chats or of responses. Raises ToolChoiceInvalid."""
    functions = {one["name"]: one for one in (tool.get("function", tool) for tool in tools or ())}
    if choice == "none" or (choice in (None, "auto") and not functions):
        return ToolChoice("none")
    if not functions:
        raise ToolChoiceInvalid("a tool cannot be chosen where there are no tools")
    if choice in (None, "auto", "required"):
        return ToolChoice("required" if choice == "required" else "auto", tuple(functions.values()))
    if not isinstance(choice, Mapping):
        raise ToolChoiceInvalid("must be 'none', 'auto', 'required', or an object that names tools")
    kind = choice.get("type")
    if kind == "function":
        return ToolChoice("required", (_named(choice, functions),), one=True)
    if kind == "allowed_tools":
        inner = choice.get("allowed_tools", choice)
        inner = inner if isinstance(inner, Mapping) else {}
        mode, named = inner.get("mode", "auto"), inner.get("tools")
        if mode not in ("auto", "required") or not isinstance(named, Sequence) or not named:
            raise ToolChoiceInvalid("'allowed_tools' needs a mode, 'auto' or 'required', and tools")
        allowed = {one["name"]: one for one in (_named(one, functions) for one in named)}
        return ToolChoice(mode, tuple(allowed.values()), narrowed=len(allowed) < len(functions))
    raise ToolChoiceInvalid(f"the type {kind!r} is not known")


def _named(choice: Any, functions: Mapping[str, Function]) -> Function:
    found = choice.get("function", choice) if isinstance(choice, Mapping) else None
    name = found.get("name") if isinstance(found, Mapping) else None
    if not isinstance(name, str) or name not in functions:
        raise ToolChoiceInvalid(f"there is no tool named {name!r}")
    return functions[name]
