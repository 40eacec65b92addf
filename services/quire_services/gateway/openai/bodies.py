"""Request bodies of the OpenAI API.

Types are strict (``"5"`` is not a number, ``8.0`` is one: ``body_values``) and ranges are checked here; a field that is
``null`` means its default. Unknown fields are accepted and ignored, because clients send new ones before
servers know them; fields that are known and would change the answer, but are not served, are refused by name
(``parameters``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .body_values import Real, RepetitionPenalty, ShallowBody, Tokens, TokensOrNone, Whole, bool_as_count, whole_number

MAX_N = 64
MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_SALT_CHARS = 1024
MAX_ADJUSTED = 1024  # tokens biased, and tokens allowed
MAX_BAD_WORDS, MAX_BAD_WORD_CHARS = 128, 128
MAX_TEMPLATE_CHARS = 1 << 16
MAX_PRIORITY = (1 << 30) - 1
TokenId = Annotated[Whole, Field(ge=0, lt=2**32)]


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(strict=True, extra="allow")
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Body(ShallowBody):
    """What chat and plain completions have in common."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())
    model: str
    max_tokens: Tokens | None = None
    temperature: Annotated[Real, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=-1)] | None = None
    min_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    seed: Whole | None = None
    stop: str | list[str] | None = None
    n: Annotated[Whole, Field(ge=1, le=MAX_N)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[Whole, Field(ge=0)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=128)] | None = None
    frequency_penalty: Annotated[Real, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Real, Field(ge=-2, le=2)] | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: Annotated[dict[str, Annotated[Real, Field(ge=-100, le=100)]], Field(max_length=MAX_ADJUSTED)] | None = (
        None
    )
    allowed_token_ids: Annotated[list[TokenId], Field(max_length=MAX_ADJUSTED)] | None = None
    bad_words: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_BAD_WORD_CHARS)]], Field(max_length=MAX_BAD_WORDS)
        ]
        | None
    ) = None
    use_beam_search: bool | None = None
    length_penalty: Annotated[Real, Field(ge=-10, le=10)] | None = None
    early_stopping: bool | Literal["never"] | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[Whole, Field(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    prompt_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    priority: Annotated[Whole, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=MAX_SALT_CHARS)] | None = None


class Message(BaseModel):
    """A message of a conversation; further fields go to the chat template as they are."""

    model_config = ConfigDict(strict=True, extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[str | dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatBody(Body):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    include_reasoning: bool | None = None
    return_prompt_text: bool | None = None
    echo: bool | None = None
    chat_template: Annotated[str, Field(min_length=1, max_length=MAX_TEMPLATE_CHARS)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionBody(Body):
    """``POST /v1/completions``."""

    max_tokens: TokensOrNone | None = None
    prompt: Any = Field(None, description="a string, a list of strings, token ids, or a list of lists of token ids")
    logprobs: Annotated[
        Annotated[int, BeforeValidator(whole_number), Field(ge=0, le=5)] | None, BeforeValidator(bool_as_count)
    ] = None
    echo: bool | None = None
    best_of: Annotated[Whole, Field(ge=1, le=MAX_N)] | None = None
