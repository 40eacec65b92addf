"""Parameters: every one that OpenAI or vLLM documents for a request, and what Quire does with it.

A parameter is *served*; or *accepted* without effect, because it cannot change the answer; or *refused* by name unless
its value is one that changes nothing. An answer that silently ignores what was asked would be a wrong answer. A field
that is in no table is ignored: clients send new ones before servers know them.

``docs/operate/parameters.md`` is this table (``parameters_page`` prints it). A parameter that is served is a
field of the body of its API (``bodies``), where its type and range are checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHAT, PLAIN = "chat", "completions"
RESPONSES = "responses"  # its table is response_api.response_parameters
BOTH = (CHAT, PLAIN)
_C, _P = (CHAT,), (PLAIN,)
Apis = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    Attributes:
        openai, vllm: APIs in which they have it.
        served: APIs in which Quire serves it.
        harmless: accepted whatever its value is.
        neutral: values that change nothing; null never does.
        note: what is served, or why nothing is needed, or why it is refused and what there is instead.
    """

    name: str
    openai: Apis
    vllm: Apis
    served: Apis = ()
    harmless: bool = False
    neutral: tuple[Any, ...] = ()
    note: str = ""

    def accepts(self, value: Any, api: str) -> bool:
        """Whether a request to ``api`` may have this value."""
        if value is None or self.harmless or api in self.served or (self.served and not value):
            return True
        return any(value == same and isinstance(value, bool) == isinstance(same, bool) for same in self.neutral)

    def known_to(self, api: str) -> bool:
        """Whether OpenAI or vLLM has it in this API."""
        return api in (*self.openai, *self.vllm)


def _served(
    name: str, openai: Apis, vllm: Apis, note: str = "", served: Apis = BOTH, neutral: tuple[Any, ...] = ()
) -> Parameter:
    """``neutral``: in the other API, beside what is false, zero or empty."""
    return Parameter(name, openai, vllm, served, neutral=neutral, note=note)


def _harmless(name: str, openai: Apis, vllm: Apis, why: str) -> Parameter:
    return Parameter(name, openai, vllm, harmless=True, note=why)


def _refused(name: str, openai: Apis, vllm: Apis, *neutral: Any, why: str) -> Parameter:
    return Parameter(name, openai, vllm, neutral=neutral, note=why)


_MODEL = "default: that of `generation_config.json`"
_UNREAD = "refused where the template does not read it"
_WHEN = "decides who pays or when, not what is answered"
_KEPT = "nothing is kept of requests, whatever it says"
_MEDIA = "media are refused, so there is nothing to process"
_GUIDED = "the older word for what `structured_outputs` says, with one of which it cannot be given"
_STRUCTURED = "[structured output](structured_output.md)"
_RENDER = "vLLM's generating endpoints ignore it, too"

PARAMETERS: tuple[Parameter, ...] = (
    # --- both know it ---
    _served("model", BOTH, BOTH, "as in `/v1/models`, `--model-aliases` as well; another is answered 404"),
    _served("messages", _C, _C, "text: a string, or parts `text`, `input_text`, `output_text`, `refusal`, `thinking`,"
            " `reasoning` and strings, each on a line of its own; parts of other types are refused", _C),
    _served("prompt", _P, _P, "a string, token ids, or a list of either", _P),
    _served("max_tokens", BOTH, BOTH, "from 1, with `echo` 0; -1: all that there is room for. Default: chat all,"
            " completions 16, of either at most `max_new_tokens` of `generation_config.json`"),
    _served("max_completion_tokens", _C, _C, "goes before `max_tokens`", _C),
    _served("temperature", BOTH, BOTH, f"0 to 2; {_MODEL}, else 1"),
    _served("top_p", BOTH, BOTH, f"0 to 1; 0: the most likely token; {_MODEL}, else 1"),
    _served("n", BOTH, BOTH, "1 to 64"),
    _served("seed", BOTH, BOTH, "64 bits; the same seed gives the same answer, on any engine and in any batch"
            " ([to the bit on a CPU in float32](../internals/numerics.md), but for rounding elsewhere)"),
    _served("stop", BOTH, BOTH, "up to 16 strings of up to 1,024 characters; one may spell a special token"),
    _served("stream", BOTH, BOTH),
    _served("stream_options", BOTH, BOTH, "`include_usage`, and with it vLLM's `continuous_usage_stats`;"
            " `include_obfuscation` is accepted, nothing is padded"),
    _served("logprobs", BOTH, BOTH, "chat: `true` or `false`; completions: 0 to 5, `true` is 1"),
    _served("top_logprobs", _C, _C, "0 to 20, with `logprobs`", _C),
    _served("echo", _P, BOTH, "completions: with `logprobs`, the prompt's too, of up to 8,192 tokens over all choices;"
            " chat: the text of the last message, if that is the assistant's"),
    _served("user", BOTH, BOTH, "a string; accepted without effect: the tenant comes from the API key"),
    _served("tools", _C, _C, "type `function`; rendered by the model's template, calls are found by `--tool-parser`;"
            f" arguments keep to their schemas: {_STRUCTURED}", _C),
    _served("tool_choice", _C, _C, "`auto`, `required`, a function, `allowed_tools`; `none`: the prompt stays as it is,"
            " calls in the answer are text", _C, ("none", "auto")),
    _served("parallel_tool_calls", _C, _C, "`false`: the answer has one call at most", _C, (True,)),
    _served("reasoning_effort", _C, _C, f"`none` to `max`; sets `enable_thinking`, too; {_UNREAD}", _C),
    _served("frequency_penalty", BOTH, BOTH, "-2 to 2, for each time that a token was generated"),
    _served("presence_penalty", BOTH, BOTH, "-2 to 2, once for a token that was generated"),
    _served("logit_bias", BOTH, BOTH, "-100 to 100 for up to 1,024 token ids"),
    _served("response_format", _C, BOTH, f"`text`, `json_object`, `json_schema`: {_STRUCTURED}; `structural_tag` is"
            " refused"),
    _refused("suffix", _P, _P, "", why="a text is continued, nothing is filled in"),
    # --- OpenAI alone ---
    _served("best_of", _P, (), "`n` to 64: the `n` of the highest log-probability per token; with `stream` only `n`;"
            " with `use_beam_search` the beams", _P, (1,)),
    _refused("audio", _C, (), why="answers are text"),
    _refused("modalities", _C, (), ["text"], why="answers are text"),
    _refused("functions", _C, (), [], why="send 'tools'"),
    _refused("function_call", _C, (), "none", "auto", why="send 'tool_choice'"),
    _refused("verbosity", _C, (), "medium", why="say in a message how long an answer is to be"),
    _refused("web_search_options", _C, (), why="nothing is looked up in the web; give the model a tool for it"),
    _refused("moderation", _C, (), why="nothing is moderated"),
    _harmless("metadata", _C, (), _KEPT),
    _harmless("store", _C, (), _KEPT),
    _harmless("prediction", _C, (), "makes an answer come sooner, not another one"),
    _harmless("prompt_cache_key", _C, (), "every prompt is looked up in the cache anyway"),
    _harmless("prompt_cache_options", _C, (), "every prompt is looked up in the cache anyway"),
    _harmless("prompt_cache_retention", _C, (), "the cache keeps what it has space for"),
    _harmless("safety_identifier", _C, (), "nothing is reported about users"),
    _harmless("service_tier", _C, (), _WHEN),
    # --- vLLM alone: how tokens are chosen ---
    _served("top_k", (), BOTH, f"0 and -1: off; {_MODEL}, else off"),
    _served("min_p", (), BOTH, f"0 to 1; {_MODEL}, else 0"),
    _served("repetition_penalty", (), BOTH, f"0.01 to 100, for tokens of prompt and answer; {_MODEL}, else 1"),
    _served("min_tokens", (), BOTH),
    _served("stop_token_ids", (), BOTH, "up to 128"),
    _served("ignore_eos", (), BOTH),
    _served("use_beam_search", (), BOTH, "`n` beams, at most as many as an engine has batch slots; answers as from"
            " `generate(num_beams=...)` of transformers, where vLLM goes on to `max_tokens` and counts the prompt as"
            " length. Refused with it: `stream`, as in vLLM; `stop`, parameters that draw tokens or change logits,"
            " which vLLM ignores; log-probabilities of the prompt; grammars"),
    _served("length_penalty", (), BOTH, "-10 to 10, with `use_beam_search`", neutral=(1,)),
    _served("early_stopping", (), BOTH, "`true`, `false` or `\"never\"`, with `use_beam_search`, as in transformers"),
    _served("allowed_token_ids", (), BOTH, "up to 1,024; stop tokens only if they are among them; empty: all"),
    _served("bad_words", (), BOTH, "up to 128 of up to 128 characters, 1,024 tokens in all: not written with the tokens"
            " that the word has alone or behind a space, unless `allowed_token_ids` leave nothing else"),
    _served("structured_outputs", (), BOTH, "one of `json`, `json_object`, `regex`, `choice`, `grammar`, and"
            f" `whitespace_pattern`: {_STRUCTURED}; `structural_tag` is refused"),
    _served("guided_json", (), BOTH, _GUIDED),
    _served("guided_regex", (), BOTH, _GUIDED),
    _served("guided_choice", (), BOTH, _GUIDED),
    _served("guided_grammar", (), BOTH, _GUIDED),
    _harmless("guided_decoding_backend", (), BOTH, "there is one"),
    _served("guided_whitespace_pattern", (), BOTH, _GUIDED),
    _refused("logits_processors", (), BOTH, [],
             why="no code of a request is run; there are 'logit_bias', 'allowed_token_ids' and 'bad_words'"),
    _refused("thinking_token_budget", (), BOTH, -1,
             why="reasoning is bounded together with the answer, by 'max_tokens'"),
    _refused("repetition_detection", (), BOTH,
             why="repetitions are not looked for; there are 'frequency_penalty' and 'repetition_penalty'"),
    _refused("watermarking", (), BOTH, False, why="answers are not watermarked"),
    _refused("vllm_xargs", (), BOTH, {}, why="nothing here would read them"),
    # --- vLLM alone: what is answered with ---
    _served("skip_special_tokens", (), BOTH),
    _served("spaces_between_special_tokens", (), BOTH,
            "`true`; `false` is refused where special tokens are in the answer (`skip_special_tokens: false`)"),
    _served("return_token_ids", (), BOTH, "`token_ids` of the answer; `prompt_token_ids`, in a stream once"),
    _served("return_tokens_as_token_ids", (), BOTH, "tokens of log-probabilities are called `token_id:N`"),
    _served("return_prompt_text", (), _C, "`prompt_text`, in a stream once", _C),
    _served("include_stop_str_in_output", (), BOTH, "the text of a stop token, too, unless it is a special one"),
    _served("prompt_logprobs", (), BOTH, "0 to 20 of the most likely tokens at each of the prompt, with ranks; not in a"
            " stream; of up to 8,192 tokens over all choices, fewer with many alternatives"),
    _refused("logprob_token_ids", (), BOTH, [], why="log-probabilities are those of the most likely tokens"),
    _served("include_reasoning", (), _C, "`false`: the answer comes without its `reasoning_content`", _C, (True,)),
    _harmless("return_token_offsets", (), BOTH, _RENDER),
    _harmless("return_mm_kwargs", (), BOTH, _RENDER),
    _harmless("stream_interval", (), BOTH, "how many tokens come at a time changes none of them"),
    _refused("routed_experts_prompt_start", (), BOTH, 0, why="experts are not reported"),
    # --- vLLM alone: the prompt ---
    _served("add_special_tokens", (), BOTH, "default: completions `true`, chat `false` (the template writes them)"),
    _served("truncate_prompt_tokens", (), BOTH, "as many tokens of the prompt; -1: as many as there is room for"),
    _served("truncation_side", (), BOTH, "`left` (default): the last ones stay; `right`: the first"),
    _served("chat_template_kwargs", (), _C, f"variables of the template; {_UNREAD} (false and empty ones are not)", _C),
    _served("documents", (), _C, f"objects, as the template reads them; {_UNREAD}, or leaves one out", _C),
    _served("chat_template", (), _C, "with `--trust-request-chat-template`, else refused; up to 65,536 characters,"
            " rendered in a process of its own", _C),
    _served("add_generation_prompt", (), _C, "`false`: the prompt ends with the last message", _C, (True,)),
    _served("continue_final_message", (), _C, "the answer goes on with the last message, as it stands; not with"
            " `add_generation_prompt: true`, which may be left out", _C),
    _refused("prompt_embeds", (), _P, why="a prompt is text or token ids"),
    _harmless("mm_processor_kwargs", (), _C, _MEDIA),
    _harmless("media_io_kwargs", (), _C, _MEDIA),
    # --- vLLM alone: the cache and the queue ---
    _served("cache_salt", (), BOTH, "1 to 1,024 characters; shares nothing with requests of another salt, or of none,"
            " of the same tenant, and no published prompt"),
    _served("priority", (), BOTH, "lower is served first among the tenant's own requests that wait; default 0, less"
            " than 2^30 from that; other tenants' shares stay what they are"),
    _harmless("request_id", (), BOTH, "the header `x-request-id` names a request"),
    _harmless("session_id", (), BOTH, "any engine finds what another has computed"),
    _refused("kv_transfer_params", (), BOTH, {}, why="engines share one pool, nothing is transferred"),
    _refused("ec_transfer_params", (), BOTH, {}, why="engines share one pool, nothing is transferred"),
)  # fmt: skip
PARAMETERS_BY_NAME = {row.name: row for row in PARAMETERS}
