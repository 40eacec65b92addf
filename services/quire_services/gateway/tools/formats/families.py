"""Families: the formats of the models in use, by the names that vLLM and SGLang have made known.

Taken from the models' own chat templates and prompt documentation. Formats with marks of their own come before those
that only lead, because a template's call is tried with one after the other.
"""

from __future__ import annotations

from .tool_format import CallForm, NamedCall, ObjectCall, PythonCall, Region, TaggedCall, ToolFormat

_THINK = Region("reasoning", "<think>\n", ("\n</think>\n\n",), leads=True)
_MISTRAL_THINK = Region("reasoning", "[THINK]", ("[/THINK]",), leads=True)
_SEED_THINK = Region("reasoning", "<seed:think>", ("</seed:think>",), leads=True)
REASONING = (_THINK, _MISTRAL_THINK, _SEED_THINK)

HERMES = ToolFormat(
    "hermes",
    (CallForm(ObjectCall(), "<tool_call>\n", "\n</tool_call>", separator="\n"),),
    (_THINK,),
)
QWEN3_CODER = ToolFormat(
    "qwen3_coder",
    (
        CallForm(
            TaggedCall(">\n", "<parameter=", ">\n", "\n</parameter>\n"),
            "<tool_call>\n<function=",
            "</function>\n</tool_call>",
            separator="\n",
        ),
    ),
    (_THINK,),
)
GLM45 = ToolFormat(
    "glm45",
    (
        CallForm(
            TaggedCall("\n", "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
            "<tool_call>",
            "</tool_call>",
            separator="\n",
        ),
    ),
    (_THINK,),
)
SEED_OSS = ToolFormat(
    "seed_oss",
    (
        CallForm(
            TaggedCall(">\n", "<parameter=", ">", "</parameter>\n"),
            "<seed:tool_call>\n<function=",
            "</function>\n</seed:tool_call>",
            separator="\n",
        ),
    ),
    (_SEED_THINK,),
)
MINIMAX = ToolFormat(
    "minimax_m2",
    (
        CallForm(
            TaggedCall('">\n', '<parameter name="', '">', "</parameter>\n"),
            '<invoke name="',
            "</invoke>\n",
            "<minimax:tool_call>\n",
            "</minimax:tool_call>",
        ),
    ),
    (_THINK,),
)
NEMOTRON = ToolFormat(
    "nemotron",
    (CallForm(ObjectCall(), section_open="<TOOLCALL>[", section_close="]</TOOLCALL>", separator=", "),),
    (_THINK,),
)
PHI4_MINI = ToolFormat("phi4_mini", (CallForm(ObjectCall(), "<|tool_call|>", "<|/tool_call|>"),))
LFM2 = ToolFormat(
    "lfm2",
    (CallForm(PythonCall(), section_open="<|tool_call_start|>[", section_close="]<|tool_call_end|>", separator=", "),),
    (_THINK,),
)
KIMI_K2 = ToolFormat(
    "kimi_k2",
    (
        CallForm(
            NamedCall("<|tool_call_argument_begin|>", prefix="functions.", before_number=":"),
            "<|tool_call_begin|>",
            "<|tool_call_end|>",
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
        ),
    ),
    (_THINK,),
)
MISTRAL = ToolFormat(
    "mistral",
    (
        CallForm(ObjectCall(id="id"), section_open="[TOOL_CALLS][", section_close="]", separator=", "),
        CallForm(NamedCall("[ARGS]", "[CALL_ID]"), "[TOOL_CALLS]"),
        CallForm(NamedCall("[ARGS]"), "[TOOL_CALLS]"),
        CallForm(NamedCall(""), "[TOOL_CALLS]"),
    ),
    (_MISTRAL_THINK,),
)
DEEPSEEK = ToolFormat(
    "deepseek",
    (
        CallForm(
            NamedCall("\n```json\n"),
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            "\n```<｜tool▁call▁end｜>",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "\n",
        ),
        CallForm(
            NamedCall("<｜tool▁sep｜>"),
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
        ),
    ),
    (_THINK,),
)
_HARMONY_HEADERS = ("<|channel|>commentary json<|message|>", "<|channel|>commentary <|constrain|>json<|message|>")
HARMONY = ToolFormat(
    "harmony",
    (
        CallForm(
            NamedCall(" <|constrain|>json<|message|>"),
            "<|channel|>commentary to=functions.",
            "<|call|>",
            several=False,
        ),
        CallForm(NamedCall("<|message|>"), "<|channel|>commentary to=functions.", "<|call|>", several=False),
        *(
            CallForm(NamedCall(header), " to=functions.", "<|call|>", leads=True, several=False, remembered=True)
            for header in _HARMONY_HEADERS
        ),
    ),
    (
        Region("reasoning", "<|channel|>analysis<|message|>", ("<|end|>",)),
        Region("content", "<|channel|>final<|message|>", ("<|return|>", "<|end|>")),
        Region("content", "<|channel|>commentary<|message|>", ("<|end|>",)),
    ),
    joint="<|start|>assistant",
)
LLAMA3_JSON = ToolFormat(
    "llama3_json",
    (
        CallForm(ObjectCall(arguments="parameters"), separator="; ", leads=True),
        CallForm(ObjectCall(arguments="parameters"), section_open="<|python_tag|>", separator="; "),
    ),
)
PYTHONIC = ToolFormat(
    "pythonic",
    (
        CallForm(PythonCall(), section_open="[", section_close="]", separator=", ", leads=True),
        CallForm(PythonCall(), section_open="<|python_start|>[", section_close="]<|python_end|>", separator=", "),
    ),
)
_ALL = (
    HARMONY,
    DEEPSEEK,
    MISTRAL,
    KIMI_K2,
    SEED_OSS,
    MINIMAX,
    QWEN3_CODER,
    GLM45,
    HERMES,
    NEMOTRON,
    PHI4_MINI,
    LFM2,
    LLAMA3_JSON,
    PYTHONIC,
)
FAMILIES: dict[str, ToolFormat] = {family.name: family for family in _ALL}
ALIASES = {
    "qwen": "hermes",
    "qwen3_xml": "qwen3_coder",
    "deepseek_v3": "deepseek",
    "deepseek_v31": "deepseek",
    "openai": "harmony",
    "llama4_json": "llama3_json",
    "llama4_pythonic": "pythonic",
    "glm47": "glm45",
}
