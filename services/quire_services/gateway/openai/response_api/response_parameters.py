"""Response parameters: what ``/v1/responses`` does with every one that OpenAI or vLLM documents for it.

As ``parameters`` has it for the other APIs, in a table of its own: many names are the same and mean something else.
"""

from __future__ import annotations

from typing import Any

from quire_services.gateway.http.errors import other_api, unsupported
from quire_services.gateway.openai.parameters import PARAMETERS_BY_NAME, RESPONSES, Parameter

from .response_body import ResponseBody

_R = (RESPONSES,)


def _served(name: str, note: str = "", *, openai: bool = True, vllm: bool = True) -> Parameter:
    return Parameter(name, _R if openai else (), _R if vllm else (), _R, note=note)


def _harmless(name: str, why: str, *, openai: bool = True, vllm: bool = True) -> Parameter:
    return Parameter(name, _R if openai else (), _R if vllm else (), harmless=True, note=why)


def _refused(name: str, *neutral: Any, openai: bool = True, vllm: bool = True, why: str) -> Parameter:
    return Parameter(name, _R if openai else (), _R if vllm else (), neutral=neutral, note=why)


_AS_CHAT = "as in chat completions"
_CACHED = "every prompt is looked up in the cache anyway"

RESPONSE_PARAMETERS: tuple[Parameter, ...] = (
    _served("model", _AS_CHAT),
    _served("input", "a string, or items: messages (text parts), `function_call`, `function_call_output`, `reasoning`,"
            " `item_reference` to an item of a response that is kept; others are refused"),
    _served("instructions", "a system message before all else; not taken over from the previous response"),
    _served("previous_response_id", "goes on from a response that is kept; 404 for any other"),
    _served("store", "default `true`: kept for `previous_response_id` and GET within the gateway's bounds; what is too"
            " large is not kept, and refused where it says `true`"),
    _served("tools", "type `function`; tools that OpenAI runs itself are refused"),
    _served("tool_choice", _AS_CHAT + ", in the flat form of this API"),
    _served("parallel_tool_calls", _AS_CHAT),
    _served("text", "`format`: as `response_format` of chat completions, in the flat form of this API; `verbosity` is"
            " refused unless it is `medium`"),
    _served("reasoning", "`effort`: as `reasoning_effort` of chat completions; `summary`: `auto`, none is made, the"
            " reasoning itself is in `content`; other fields are refused"),
    _served("include", "`message.output_text.logprobs`, `reasoning.encrypted_content`; others are accepted and"
            " name what cannot be there"),
    _served("max_output_tokens", "from 1; default: all that there is room for, at most `max_new_tokens` of"
            " `generation_config.json`"),
    _served("temperature", _AS_CHAT),
    _served("top_p", _AS_CHAT),
    _served("top_logprobs", "0 to 20, with `include`: `message.output_text.logprobs`"),
    _served("truncation", "`auto`: the oldest turns are left out until the prompt fits"),
    _served("metadata", "up to 16 strings, repeated in the response"),
    _served("stream"),
    _served("stream_options", "`include_obfuscation` is accepted, nothing is padded", vllm=False),
    _served("user", "repeated in the response; the tenant comes from the API key"),
    _served("safety_identifier", "repeated in the response; nothing is reported about users", vllm=False),
    _served("prompt_cache_key", f"repeated in the response; {_CACHED}"),
    _harmless("prompt_cache_options", _CACHED, vllm=False),
    _harmless("prompt_cache_retention", "the cache keeps what it has space for", vllm=False),
    _harmless("service_tier", "decides who pays or when, not what is answered"),
    _harmless("max_tool_calls", "counts calls of tools that OpenAI runs itself"),
    _harmless("image", "images are refused, so there is nothing to compress", vllm=False),
    _refused("background", False, why="a response is answered while its request is open; send 'stream': true, and read"
             " it as it comes"),
    _refused("conversation", vllm=False, why="there are no conversation objects here; go on from a response with"
             " 'previous_response_id'"),
    _refused("prompt", why="prompt templates are kept by OpenAI and not here; send 'instructions' and 'input'"),
    _refused("context_management", [], vllm=False, why="nothing is compacted; 'truncation': \"auto\" leaves out the"
             " oldest turns"),
    _refused("moderation", vllm=False, why="nothing is moderated"),
    _refused("access_programs", vllm=False, why="they are programs of OpenAI's; here all keys are answered alike"),
    _served("top_k", _AS_CHAT, openai=False),
    _served("seed", _AS_CHAT, openai=False),
    _served("stop", _AS_CHAT, openai=False),
    _served("ignore_eos", _AS_CHAT, openai=False),
    _served("repetition_penalty", _AS_CHAT, openai=False),
    _served("logit_bias", _AS_CHAT, openai=False),
    _served("skip_special_tokens", _AS_CHAT, openai=False),
    _served("include_stop_str_in_output", _AS_CHAT, openai=False),
    _served("cache_salt", _AS_CHAT, openai=False),
    _served("chat_template_kwargs", _AS_CHAT, openai=False, vllm=False),
    _harmless("request_id", "the header `x-request-id` names a request", openai=False),
    _harmless("mm_processor_kwargs", "media are refused, so there is nothing to process", openai=False),
    _served("priority", _AS_CHAT, openai=False),
    _served("structured_outputs", _AS_CHAT + ", without `text.format`", openai=False),
    _refused("enable_response_messages", False, openai=False,
             why="what the model is given for a request is told at '/v1/responses/render'"),
    _refused("previous_input_messages", [], openai=False, why="send what was said before as items of 'input'"),
    _refused("previous_response", openai=False,
             why="send its id as 'previous_response_id', or its items in 'input'"),
    _refused("vllm_xargs", {}, openai=False, why="nothing here would read them"),
)  # fmt: skip
_BY_NAME = {row.name: row for row in RESPONSE_PARAMETERS}
_NO_SUMMARY = "none is made; the reasoning itself is in the 'content' of its item"
_WITHIN: dict[str, dict[str, tuple[Any, str]]] = {  # of an object: the value that changes nothing, and why no other
    "text": {"verbosity": ("medium", "say in 'instructions' how long an answer is to be")},
    "reasoning": {
        "summary": ("auto", _NO_SUMMARY),
        "generate_summary": ("auto", _NO_SUMMARY),
        "context": ("auto", "which reasoning a model sees again is for its chat template to say"),
        "mode": ("standard", "a model reasons in one way; how much, 'reasoning.effort' says"),
    },
}


def refuse_in_response(body: ResponseBody) -> None:
    """Raise ApiError 400 for the first parameter that is known and not served, of this API or of the others."""
    for name, value in (body.model_extra or {}).items():
        row = _BY_NAME.get(name)
        if row is not None and not row.accepts(value, RESPONSES):
            raise unsupported(name, row.note)
        chats = PARAMETERS_BY_NAME.get(name)
        if row is None and chats is not None and value and not chats.harmless:
            raise other_api(name, " and ".join(chats.openai or chats.vllm))
    for name, fields in _WITHIN.items():
        for field, (neutral, why) in fields.items():
            if getattr(getattr(body, name), field, None) not in (None, neutral):
                raise unsupported(f"{name}.{field}", why)
