"""The demo with SmolLM2-135M-Instruct: agents that ask in English and read the answers, and one that calls a function.

Two cores run it, so it is small: it writes clear English and gets facts wrong. Everything is greedy, so that a machine
says the same in every run, up to ties in the last bits of a sum. The model's own chat template writes no functions;
``smollm2.jinja`` beside this file is that template with functions added, and what holds a call to its schema is the
engine: the model was not trained to make any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonschema import ValidationError

from bench.models.smollm2 import SMOLLM2
from examples.demo.chat import Answer, Question, ask, ask_all
from examples.demo.english import reads_as_english
from examples.demo.functions import TOOLS, carried_out
from examples.demo.report import Played
from examples.demo.stack import TENANTS, DemoStack, SharedPrompt
from examples.demo.terminal import Live, dim, indented, progress, title

BLOCKS = 256
PROMPT = SharedPrompt(Path(__file__).with_name("smollm2.txt").read_text().strip(), TOOLS)
FIRST = "What is the capital of France?"
QUESTIONS = {
    "atlas": ("What is photosynthesis?", "How many days are in a week?", "What is the largest ocean?"),
    "borea": ("Write one sentence about the sea.", "Where do penguins live?", "Why is water important?"),
    "cairn": ("How do plants grow?", "What is gravity?", "What is the opposite of cold?"),
}
NOTE = """Rewrite this note in one sentence:

Dear team, on Monday we move to the new office at the harbour. Please pack your desk on Friday afternoon and write your
name on every box. The moving van comes at eight in the morning. Coffee and cake are waiting for you on the third floor.
If you have questions, ask Nora."""
ADDING = "What is the sum of 1250 and 475?"
# Greedy answers of so small a model repeat themselves; the penalty is what keeps them from that.
WORDS = {"temperature": 0, "frequency_penalty": 0.3, "max_tokens": 80, "tool_choice": "none"}
A_CALL = {"temperature": 0, "max_tokens": 96, "tool_choice": "required", "parallel_tool_calls": False}
MARGIN = " " * 12


def make(folder: Path) -> Path:
    """The model's files as they are in the cache, under the template with functions."""
    title("SmolLM2-135M-Instruct in float32, two engines, one pool")
    kept = SMOLLM2.get(progress)
    model = folder / kept.name
    model.mkdir()
    for file in kept.iterdir():
        if file.name != "chat_template.jinja":
            (model / file.name).symlink_to(file)
    (model / "chat_template.jinja").write_text(Path(__file__).with_name("smollm2.jinja").read_text())
    return model


def play(stack: DemoStack) -> Played:
    """Send all requests, in the order that the table tells of."""
    title("The first agent brings the published prompt, a system message and two functions: it is not computed yet")
    first = ask(stack, _question(TENANTS[0], "0", FIRST))
    _show(first, FIRST)

    asked = [(tenant, str(n), text) for tenant in TENANTS for n, text in enumerate(QUESTIONS[tenant], 1)]
    title(f"{len(asked)} agents of {len(TENANTS)} tenants come at once, on both engines")
    later, peak = ask_all(stack, [_question(*one) for one in asked])
    for answer, (_, _, text) in zip(later, asked, strict=True):
        _show(answer, text)

    title("One more, streamed: each piece is printed when it comes")
    print(f"{TENANTS[1] + '-s':<12}{NOTE.splitlines()[0]} (a private note of {len(NOTE.split())} words follows)")
    streamed = ask(stack, _question(TENANTS[1], "s", NOTE), Live(MARGIN))
    print()

    title("An agent that must call a function (tool_choice: required) and goes on with what it returns")
    called, told, sentences = _call(stack, TENANTS[2])

    title("The private note again: from its own tenant, then from another one")
    own = ask(stack, _question(TENANTS[1], "s", NOTE))
    foreign = ask(stack, _question(TENANTS[2], "x", NOTE))
    print(f"{own.tenant}: {own.cached} tokens from cache; {foreign.tenant}: {foreign.cached}")
    said = [_readable([first, *later, streamed, *told, own, foreign]), _pieces(streamed), *sentences]
    return Played(first, [*later, streamed, called], streamed, told, own, foreign, peak, said)


def _question(tenant: str, agent: str, text: str) -> Question:
    return Question(tenant, f"{tenant}-{agent}", [{"role": "user", "content": text}], WORDS)


def _show(answer: Answer, question: str) -> None:
    print(f"{answer.agent:<12}{question}")
    print(dim(indented(answer.text + (" ..." if answer.finish == "length" else ""), MARGIN)))


def _call(stack: DemoStack, tenant: str) -> tuple[Answer, list[Answer], list[tuple[bool, str]]]:
    """The answer with the call, the one after it, and what must hold of both."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": ADDING}]
    answer = ask(stack, Question(tenant, f"{tenant}-f", messages, A_CALL))
    print(f"{answer.agent:<12}{ADDING}")
    for call in answer.calls:
        print(f"{MARGIN}{dim('calls')} {call.name}({call.arguments})")
    made = f"{len(answer.calls)} call, finish_reason {answer.finish}"
    if len(answer.calls) != 1 or answer.finish != "tool_calls":
        return answer, [], [(False, f"an agent that must call a function calls one: {made}; {answer.text!r}")]
    (call,) = answer.calls
    try:
        returned = carried_out(call)
    except (KeyError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        return answer, [], [(False, f"the call is valid for its function's schema: {call.arguments}: {reason}")]
    print(f"{MARGIN}{dim('returns')} {returned}")
    function = {"name": call.name, "arguments": call.arguments}
    messages += [
        {"role": "assistant", "tool_calls": [{"id": call.id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": call.id, "content": returned},
    ]
    told = ask(stack, Question(tenant, f"{tenant}-f", messages, WORDS))
    print(dim(indented(told.text, MARGIN)))
    return answer, [told], [(True, f"{made}: valid for its schema, and carried out")]


def _readable(answers: list[Answer]) -> tuple[bool, str]:
    """Every answer is English and ended as answers do."""
    bad = [a.agent for a in answers if not reads_as_english(a.text) or a.finish not in ("stop", "length")]
    return not bad, f"{len(answers)} answers in readable English" + (f", but for {', '.join(bad)}" if bad else "")


def _pieces(streamed: Answer) -> tuple[bool, str]:
    """The stream came while it was written."""
    holds = 2 * streamed.pieces >= streamed.output
    return holds, f"the streamed answer of {streamed.output} tokens came in {streamed.pieces} pieces"
