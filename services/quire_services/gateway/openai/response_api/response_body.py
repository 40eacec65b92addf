"""Response body: what a request to ``/v1/responses`` may say.

Only what is not said as in chats has a field of its own; what both have (``SHARED``) is checked where chats are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from quire_services.gateway.openai.body_values import ShallowBody, Tokens, Whole

LOGPROBS, SEALED_REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"
Included = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    # What only parts and tools have that are refused: there is nothing of it to include.
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
]
MetadataText = Annotated[str, Field(max_length=512)]
MetadataKey = Annotated[str, Field(max_length=64)]
SHARED = (
    "model", "temperature", "top_p", "top_k", "logit_bias", "repetition_penalty", "seed", "stop", "ignore_eos",
    "skip_special_tokens", "include_stop_str_in_output", "chat_template_kwargs", "parallel_tool_calls", "cache_salt",
    "priority", "structured_outputs", "stream",
)  # fmt: skip


class TextConfig(BaseModel):
    """What the text of the answer must be."""

    model_config = ConfigDict(strict=True, extra="allow")
    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(BaseModel):
    """How the model is to reason. A summary is not made: with ``auto`` none is asked for."""

    model_config = ConfigDict(strict=True, extra="allow")
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class ResponseBody(ShallowBody):
    """``POST /v1/responses``."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())
    model: str
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    include: list[Included] | None = None
    max_output_tokens: Tokens | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataText], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer is to have log-probabilities."""
        return LOGPROBS in (self.include or ())

    @property
    def wants_sealed(self) -> bool:
        """Whether reasoning is to come sealed, too."""
        return SEALED_REASONING in (self.include or ())
