"""Catalogue: every metric that Quire shows, by page, in the order in which the pages have them.

``docs/operate/metrics.md`` has this table (``catalogue_page`` prints it). A metric is added here and read in the module
of its page. Labels have few values: engines that are connected, states, ops; tenants only on the page that is the
operator's own, and there as many as ``tenant_readings`` lets through.
"""

from __future__ import annotations

from dataclasses import dataclass

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name as it is scraped, its kind, what it says in a sentence, and the names of its labels."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


_ENGINE = ("model_name", "engine")

GATEWAY = (
    Metric("quire_gateway_info", GAUGE, "1; version, and the name at /health.", ("version", "instance")),
    Metric("quire_gateway_engines", GAUGE, "Engines that are connected, and those that can be given work.", ("state",)),
    Metric(
        "quire_gateway_requests_total",
        COUNTER,
        "Answered requests by API, HTTP status (499: the client left before one) and outcome; an answer that breaks off"
        " is 200 with the outcome 5xx.",
        ("api", "code", "outcome"),
    ),
    Metric("quire_gateway_requests_open", GAUGE, "Requests that have something at an engine, or wait for another."),
    Metric(
        "quire_gateway_generations_waiting",
        GAUGE,
        "Prompts without a first token, and requests that wait for an engine.",
    ),
    Metric("quire_gateway_requests_held", GAUGE, "Requests that wait because no engine can be given work."),
    Metric("quire_gateway_generations_stranded", GAUGE, "Prompts whose engine is gone and that wait for another."),
    Metric(
        "quire_gateway_moves_total",
        COUNTER,
        "Continuations taken from an engine to go on in another, by why: it is gone, silent, or gave them back.",
        ("cause",),
    ),
    Metric(
        "quire_gateway_recomputed_tokens_total",
        COUNTER,
        "Tokens of prompts and answers that were computed again for that; counted when their request ends.",
    ),
    Metric("quire_gateway_prompt_tokens_total", COUNTER, "Tokens of prompts of answered requests."),
    Metric("quire_gateway_cached_tokens_total", COUNTER, "Those of them that were not computed for the request."),
    Metric("quire_gateway_completion_tokens_total", COUNTER, "Tokens of answers."),
)

VLLM = (
    Metric("vllm:num_requests_running", GAUGE, "Sequences in the batch.", _ENGINE),
    Metric("vllm:num_requests_waiting", GAUGE, "Sequences that wait for a place in it.", _ENGINE),
    Metric(
        "vllm:kv_cache_usage_perc",
        GAUGE,
        "Share of the pool that is in use, 1 for all; the same of all engines.",
        _ENGINE,
    ),
    Metric("vllm:prefix_cache_queries_total", COUNTER, "Tokens of prompts that were looked for in the cache.", _ENGINE),
    Metric("vllm:prefix_cache_hits_total", COUNTER, "Tokens that were found.", _ENGINE),
    Metric("vllm:num_preemptions_total", COUNTER, "Sequences that gave their blocks up for others.", _ENGINE),
    Metric("vllm:prompt_tokens_total", COUNTER, "Tokens of prompts.", _ENGINE),
    Metric("vllm:generation_tokens_total", COUNTER, "Generated tokens.", _ENGINE),
    Metric(
        "vllm:request_success_total", COUNTER, "Continuations that have ended, by how.", (*_ENGINE, "finished_reason")
    ),
    Metric("vllm:request_prompt_tokens", HISTOGRAM, "Tokens of the prompt of a continuation.", _ENGINE),
    Metric("vllm:request_generation_tokens", HISTOGRAM, "Generated tokens of a continuation.", _ENGINE),
    Metric("vllm:request_max_num_generation_tokens", HISTOGRAM, "Those of a request's longest continuation.", _ENGINE),
    Metric("vllm:time_to_first_token_seconds", HISTOGRAM, "From the request's arrival to the first token.", _ENGINE),
    Metric("vllm:inter_token_latency_seconds", HISTOGRAM, "Between two outputs of a continuation.", _ENGINE),
    Metric("vllm:request_time_per_output_token_seconds", HISTOGRAM, "The mean of these, by continuation.", _ENGINE),
    Metric(
        "vllm:e2e_request_latency_seconds", HISTOGRAM, "From the request's arrival to a continuation's end.", _ENGINE
    ),
    Metric(
        "vllm:request_queue_time_seconds",
        HISTOGRAM,
        "From a request's arrival at the engine to its first blocks.",
        _ENGINE,
    ),
    Metric("vllm:request_prefill_time_seconds", HISTOGRAM, "From there to its first token.", _ENGINE),
    Metric("vllm:request_decode_time_seconds", HISTOGRAM, "From a continuation's first token to its last.", _ENGINE),
    Metric("vllm:cache_config_info", GAUGE, "1; the pool.", (*_ENGINE, "block_size", "num_gpu_blocks", "cache_dtype")),
)

ENGINE = (
    Metric("quire_engine_ready", GAUGE, "1 if it can be given work.", ("engine",)),
    Metric("quire_engine_report_age_seconds", GAUGE, "Since its last report, of two in a second.", ("engine",)),
    Metric("quire_engine_steps_total", COUNTER, "Steps computed.", ("engine",)),
    Metric("quire_engine_replayed_steps_total", COUNTER, "Steps that ran as a captured graph.", ("engine",)),
    Metric("quire_engine_messages_total", COUNTER, "Messages to the kvstore.", ("engine",)),
    Metric("quire_engine_requests_total", COUNTER, "Requests taken in.", ("engine",)),
    Metric("quire_engine_computed_tokens_total", COUNTER, "Tokens computed, of prompts and answers.", ("engine",)),
    Metric("quire_engine_drafted_tokens_total", COUNTER, "Tokens that were computed as drafts.", ("engine",)),
    Metric("quire_engine_forced_tokens_total", COUNTER, "Tokens of answers that came of drafts.", ("engine",)),
    Metric("quire_engine_kvstores_lost_total", COUNTER, "Times that its kvstore went away.", ("engine",)),
)

KVSTORE = (
    Metric("quire_kvstore_info", GAUGE, "1; version, model and type of elements.", ("version", "model", "dtype")),
    Metric("quire_kvstore_uptime_seconds", GAUGE, "Since its start, with which all counters begin at 0."),
    Metric("quire_kvstore_blocks", GAUGE, "Blocks of the pool by state.", ("state",)),
    Metric("quire_kvstore_block_tokens", GAUGE, "Tokens that a block holds."),
    Metric("quire_kvstore_block_bytes", GAUGE, "Bytes of a block, all layers."),
    Metric("quire_kvstore_sessions", GAUGE, "Sessions by state.", ("state",)),
    Metric("quire_kvstore_sequences", GAUGE, "Live sequences."),
    Metric("quire_kvstore_shortest_lease_seconds", GAUGE, "Left of the lease that ends first; none without a session."),
    Metric("quire_kvstore_publications", GAUGE, "Published prompts by state.", ("state",)),
    Metric("quire_kvstore_claims", GAUGE, "Claims that are open."),
    Metric("quire_kvstore_waits", GAUGE, "Sequences that wait for one."),
    Metric("quire_kvstore_weights_bytes", GAUGE, "Bytes of weights on the GPU by state of their arena.", ("state",)),
    Metric("quire_kvstore_weights_readers", GAUGE, "Processes that map them."),
    Metric(
        "quire_kvstore_prompt_tokens_total",
        COUNTER,
        "Tokens of allocated sequences by source: a publication, other cache, or none, so that they are computed.",
        ("source",),
    ),
    Metric("quire_kvstore_computed_tokens_total", COUNTER, "Tokens that engines have said are computed."),
    Metric("quire_kvstore_allocates_total", COUNTER, "Sequences that got their first blocks."),
    Metric("quire_kvstore_no_space_total", COUNTER, "Answers that there is no space."),
    Metric("quire_kvstore_evictions_total", COUNTER, "Cached blocks that made room."),
    Metric("quire_kvstore_seals_total", COUNTER, "Blocks sealed."),
    Metric("quire_kvstore_duplicates_total", COUNTER, "Blocks sealed whose content was there already."),
    Metric("quire_kvstore_extends_total", COUNTER, "Sequences that got more blocks."),
    Metric("quire_kvstore_forks_total", COUNTER, "Sequences forked off others."),
    Metric("quire_kvstore_copies_total", COUNTER, "Blocks copied on write."),
    Metric("quire_kvstore_left_behind_total", COUNTER, "Blocks that sequences gave back as no window sees them."),
    Metric("quire_kvstore_claimed_total", COUNTER, "Allocates that were told who computes what they lack."),
    Metric("quire_kvstore_waited_total", COUNTER, "Waits for claims."),
    Metric("quire_kvstore_adopted_total", COUNTER, "Sequences handed over from one session to another."),
    Metric("quire_kvstore_attached_total", COUNTER, "Sessions opened."),
    Metric("quire_kvstore_fenced_total", COUNTER, "Sessions whose lease ran out."),
    Metric("quire_kvstore_killed_total", COUNTER, "Fenced processes that were killed."),
    Metric("quire_kvstore_not_killed_total", COUNTER, "Fenced processes that could not be killed."),
    Metric("quire_kvstore_reclaimed_sessions_total", COUNTER, "Sessions that ended, whose blocks came back."),
    Metric("quire_kvstore_reclaimed_references_total", COUNTER, "References to blocks that came back so."),
    Metric("quire_kvstore_messages_total", COUNTER, "Requests answered."),
    Metric("quire_kvstore_errors_total", COUNTER, "Requests refused."),
    Metric("quire_kvstore_bad_frames_total", COUNTER, "Messages that were no requests."),
    Metric("quire_kvstore_internal_errors_total", COUNTER, "Requests that met a bug."),
    Metric("quire_kvstore_resends_total", COUNTER, "Requests repeated whose answer was kept."),
    Metric("quire_kvstore_busy_replies_total", COUNTER, "Requests refused because too many of a connection waited."),
    Metric("quire_kvstore_unsent_replies_total", COUNTER, "Replies that a peer did not take."),
    Metric("quire_kvstore_busy_seconds_total", COUNTER, "Time spent on executing requests."),
    Metric("quire_kvstore_steps_total", COUNTER, "Steps of engines."),
    Metric("quire_kvstore_op_seconds", HISTOGRAM, "What executing a request took, by op.", ("op",)),
)

DECLARATIONS = (
    Metric(
        "quire_declarations_version",
        GAUGE,
        "Version of the declarations that are in force here, microseconds of the store's clock; 0 before all of them"
        " are.",
    ),
    Metric("quire_declarations_look_age_seconds", GAUGE, "Since the store was read last; none before it first was."),
    Metric(
        "quire_declarations_failures_total",
        COUNTER,
        "What failed since the follower started, by part: store, keys, members, quotas, shares, publications, state.",
        ("part",),
    ),
)

_TENANT = ("tenant",)

TENANTS = (
    Metric(
        "quire_tenant_blocks",
        GAUGE,
        "Blocks that a tenant or share domain is charged, by state; (quarantine): what fenced sessions held.",
        ("tenant", "state"),
    ),
    Metric("quire_tenant_sequences", GAUGE, "Live sequences.", _TENANT),
    Metric("quire_tenant_prompt_tokens_total", COUNTER, "Tokens of allocated sequences.", _TENANT),
    Metric("quire_tenant_cached_tokens_total", COUNTER, "Those of them that were cached.", _TENANT),
    Metric("quire_tenant_limit_blocks", GAUGE, "Most blocks that it may hold; none without a limit.", _TENANT),
    Metric("quire_tenant_share_blocks", GAUGE, "Of its limit in the cluster, this node's share, if declared.", _TENANT),
    Metric("quire_tenant_guarantee_blocks", GAUGE, "Blocks that it is guaranteed.", _TENANT),
)

PAGES = {"gateway": GATEWAY + DECLARATIONS + VLLM, "engine": ENGINE, "kvstore": KVSTORE, "tenants": TENANTS}
