"""The demo behind ``make demo``: three tenants, two engines, one pool, and a table of what was computed and shared.

A tiny random model answers, so the words mean nothing; the numbers are real. One tenant's agent sends the first
request with the published system prompt and pays for it. Then the agents of all three tenants come, on both
engines, each with a private prompt of its own, and one answer is streamed. What must hold is checked against what the
kvstore and the engines themselves count; the exit code is 0 only if all of it does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openai import OpenAI

from examples.demo.report import Answer, Measured, Paint, report
from examples.demo.stack import PROMPT_WORDS, TENANTS, DemoStack, key_of, running, words
from quire_kv import Stats

AGENTS_PER_TENANT = 3
PRIVATE_WORDS = 90
ANSWER_TOKENS = 24
paint = Paint(sys.stdout.isatty())


def title(text: str) -> None:
    """Say what comes next."""
    print(f"\n{paint.bold(text)}")


def ask(stack: DemoStack, tenant: str, agent: str, private: str, *, aloud: bool = False) -> Answer:
    """One streamed chat: the published system prompt and a private message. ``aloud`` prints it as it comes."""
    client = OpenAI(base_url=stack.url, api_key=key_of(tenant), max_retries=0, timeout=60)
    began = time.perf_counter()
    raw = client.chat.completions.with_raw_response.create(
        model="tiny",
        messages=[{"role": "system", "content": words(0, PROMPT_WORDS)}, {"role": "user", "content": private}],
        max_tokens=ANSWER_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    first, usage = 0.0, None
    for chunk in raw.parse():
        text = chunk.choices[0].delta.content if chunk.choices else None
        if text:
            first = first or time.perf_counter() - began
            if aloud:
                print(paint.dim(text), end="", flush=True)
        usage = chunk.usage or usage
    client.close()
    assert usage is not None, "the last chunk carries the usage"
    assert usage.prompt_tokens_details is not None
    cached = usage.prompt_tokens_details.cached_tokens or 0
    engine = raw.headers.get("x-quire-engine", "")
    return Answer(tenant, agent, engine, usage.prompt_tokens, cached, usage.completion_tokens, first)


def agents_of_all_tenants(stack: DemoStack) -> tuple[list[Answer], int]:
    """All agents at once; also the most blocks that were in use meanwhile."""
    jobs = [(tenant, f"{tenant}-{n}") for tenant in TENANTS for n in range(1, AGENTS_PER_TENANT + 1)]
    peak = 0
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [
            pool.submit(ask, stack, tenant, agent, words(100 + i, PRIVATE_WORDS + 7 * i))
            for i, (tenant, agent) in enumerate(jobs)
        ]
        while not all(future.done() for future in futures):
            peak = max(peak, stack.stats().blocks["held"])
            time.sleep(0.02)
    return [future.result() for future in futures], peak


def conduct(stack: DemoStack) -> Measured:
    """Send all requests, in the order that the table tells of."""
    title("The first agent brings the published system prompt: it is not computed yet")
    first = ask(stack, TENANTS[0], f"{TENANTS[0]}-0", words(99, PRIVATE_WORDS))
    print(f"{first.engine} computed {first.computed} prompt tokens, first token after {first.ttft * 1000:.0f} ms")

    title(f"{AGENTS_PER_TENANT} agents of each of {len(TENANTS)} tenants come at once, on both engines")
    others, peak = agents_of_all_tenants(stack)
    print(f"{len(others)} answers; most blocks held at a time: {peak}")

    title("One more, streamed")
    streamed = ask(stack, TENANTS[1], f"{TENANTS[1]}-s", words(200, PRIVATE_WORDS), aloud=True)
    print()

    title("The same private prompt again: from its own tenant, then from another one")
    own = ask(stack, TENANTS[1], f"{TENANTS[1]}-s", words(200, PRIVATE_WORDS))
    foreign = ask(stack, TENANTS[2], f"{TENANTS[2]}-x", words(200, PRIVATE_WORDS))
    print(f"{own.tenant}: {own.cached} tokens from cache; {foreign.tenant}: {foreign.cached}")
    return Measured(
        first=first,
        others=others,
        streamed=streamed,
        own=own,
        foreign=foreign,
        peak=peak,
        stats=_settled(stack),
        published=stack.published_blocks(),
        steps=stack.steps(),
    )


def _settled(stack: DemoStack) -> Stats:
    """The counters once no sequence is left: an engine gives blocks up in the step after the last token went out."""
    deadline = time.monotonic() + 5
    while True:
        stats = stack.stats()
        if not any(session.sequences for session in stats.sessions) or time.monotonic() > deadline:
            return stats
        time.sleep(0.02)


def main() -> int:
    """Run the demo; returns the exit code."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="quire-demo-") as name:
        folder = Path(name)
        title("A tiny random model, two engines, one pool")
        from transformers.utils.logging import disable_progress_bar

        from bench.models.tiny import make_model  # imports torch: after the first line is on the screen

        disable_progress_bar()
        model = make_model(folder / "tiny", vocab=512, layers=4, hidden=256, heads=8, kv_heads=4, max_len=2048)
        with running(model, folder, lambda line: print(paint.dim(f"  {line}"))) as stack:
            measured = conduct(stack)
        holds = report(measured, stack.left, paint)
    print(f"\n{time.monotonic() - began:.0f} s in all.")
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
