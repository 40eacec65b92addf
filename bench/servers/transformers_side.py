"""transformers' own generation as a peer of the serve bench: a program in the peer's environment, without a server.

It speaks JSON lines (``side.py``) and imports nothing of ours but the workload's words. Two modes:

- *generate*: requests one after the other in the order of their arrival: what serving with ``generate`` means;
- *generate_batch*: transformers' continuous batching with paged keys and values and its prefix cache, all first turns
  in one call, then all second turns, and so on.

There is no HTTP, no tokenizer thread and no tenant in its way: what a real server would add is not counted against it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

PAGE = 256  # its default
Generated = dict[str, Any]


class Clock:
    """A streamer that notes when tokens come; its first call brings the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: torch.Tensor) -> None:
        """One token, or the prompt."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing."""


class LoadedModel:
    """The loaded model."""

    def __init__(self, directory: str, kv_bytes: int, token_bytes: int, dtype: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._pages = max(8, kv_bytes // (PAGE * token_bytes))

    def play(self, mode: str, agents: list[dict[str, Any]]) -> list[list[Generated]]:
        """Each agent's answers, turn by turn."""
        began = time.perf_counter()
        histories: list[list[dict[str, str]]] = [
            [{"role": "system", "content": agent["system"]}] if agent["system"] else [] for agent in agents
        ]
        answers: list[list[Generated]] = [[] for _ in agents]
        for turn in range(max(len(agent["turns"]) for agent in agents)):
            live = [i for i, agent in enumerate(agents) if turn < len(agent["turns"])]
            prompts = []
            for i in live:
                histories[i].append({"role": "user", "content": agents[i]["turns"][turn]})
                prompts.append(self._render(histories[i]))
            run = self._batch if mode == "generate_batch" else self._one_by_one
            for i, answer in zip(live, run(prompts, [agents[i] for i in live]), strict=True):
                answer["began"] = began + agents[i]["start_s"] if turn == 0 else answers[i][-1]["ended"]
                answers[i].append(answer)
                histories[i].append({"role": "assistant", "content": answer["texts"][0]})
        return answers

    def _render(self, messages: list[dict[str, str]]) -> list[int]:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _config(self, agent: dict[str, Any]) -> GenerationConfig:
        length = agent["max_tokens"]
        return GenerationConfig(max_new_tokens=length, min_new_tokens=length, do_sample=not agent["greedy"], top_k=0)

    def _one_by_one(self, prompts: list[list[int]], agents: list[dict[str, Any]]) -> list[Generated]:
        found = []
        for prompt, agent in zip(prompts, agents, strict=True):
            clock = Clock() if agent["n"] == 1 else None
            config = self._config(agent)
            config.num_return_sequences = agent["n"]
            ids = torch.tensor([prompt])
            out = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=clock
            )
            now = time.perf_counter()
            times = clock.times[1:] if clock else [now] * agent["max_tokens"]
            found.append(self._answer(prompt, [row[len(prompt) :].tolist() for row in out], times, now, 0))
        return found

    def _batch(self, prompts: list[list[int]], agents: list[dict[str, Any]]) -> list[Generated]:
        first = agents[0]
        copies = [prompt for prompt in prompts for _ in range(first["n"])]
        cache = ContinuousBatchingConfig(num_blocks=self._pages, max_batch_tokens=2048)
        done = self._model.generate_batch(
            copies, generation_config=self._config(first), continuous_batching_config=cache, record_timestamps=True
        )
        outputs = [done[name] for name in sorted(done, key=lambda name: int(name.rpartition("_")[2]))]
        found = []
        for i, prompt in enumerate(prompts):
            mine = outputs[i * first["n"] : (i + 1) * first["n"]]
            if any(output.error for output in mine):
                raise RuntimeError(mine[0].error)
            times = [at for output in mine for at in output.timestamps or [output.lifespan[1]]]
            found.append(self._answer(prompt, [o.generated_tokens for o in mine], sorted(times), max(times), 0))
        return found

    def _answer(
        self, prompt: list[int], rows: list[list[int]], times: list[float], ended: float, cached: int
    ) -> Generated:
        return {
            "ended": ended,
            "tokens": times,
            "texts": [self._tokenizer.decode(row, skip_special_tokens=True) for row in rows],
            "prompt": len(prompt),
            "cached": cached,
            "output": sum(map(len, rows)),
        }


def main() -> None:
    """Read requests from stdin until it ends."""
    out, sys.stdout = sys.stdout, sys.stderr  # what the library prints is no answer
    peer: LoadedModel | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if peer is None:
                peer = LoadedModel(request["directory"], request["kv_bytes"], request["token_bytes"], request["dtype"])
                torch.set_num_threads(os.cpu_count() or 1)
                answer = {"transformers": transformers.__version__, "threads": torch.get_num_threads()}
            else:
                answer = {"answers": peer.play(request["mode"], request["agents"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
