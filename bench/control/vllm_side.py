"""vLLM's KVCacheManager in process: the peer of ``quire bench control``. Runs in vLLM's own environment.

It is driven as vLLM's scheduler drives it: a ``Request`` with the block hasher of the default algorithm,
``get_computed_blocks`` and ``allocate_slots`` at admission, ``append_output_token_ids`` and ``allocate_slots`` for
each sequence of a decode step, ``free`` at the end. Its allocate_slots also indexes the blocks it hands out. It has
no fork: parallel samples are requests of their own that hit the prompt's blocks.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import sys
import time
from typing import Any

import torch
from vllm import SamplingParams, __version__
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request

VOCAB = 32_000
LONGEST = 1 << 17


class ManagerSide:
    """One manager and its requests."""

    def __init__(self, blocks: int, block_size: int, algorithm: str) -> None:
        spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float16)
        config = KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        )
        self._manager = KVCacheManager(
            config, max_model_len=LONGEST, scheduler_block_size=block_size, hash_block_size=block_size
        )
        digest = get_hash_fn_by_name(algorithm)
        init_none_hash(digest)
        self._hasher = get_request_block_hasher(block_size, digest)
        self._sampling = SamplingParams(max_tokens=4096)
        self._random = random.Random(1)
        self._count = 0

    def tokens(self, count: int) -> list[int]:
        """A new random prompt."""
        return [self._random.randrange(VOCAB) for _ in range(count)]

    def admit(self, tokens: list[int]) -> Request:
        """Build, hash, look up, allocate."""
        self._count += 1
        request = Request(str(self._count), tokens, self._sampling, None, block_hasher=self._hasher)
        found, hit, *_ = self._manager.get_computed_blocks(request)
        if self._manager.allocate_slots(request, len(tokens) - hit, hit, found) is None:
            raise RuntimeError("the pool is full")
        request.num_computed_tokens = len(tokens)
        return request

    def free(self, requests: list[Request]) -> None:
        """Give requests up."""
        for request in requests:
            self._manager.free(request)

    # --- cases: each returns wall times of single operations (us) and CPU time of one (us) --------------------

    def case_admit(self, tokens: int, cached: bool, repeat: int) -> dict[str, Any]:
        """Admit ``repeat`` prompts, never seen before or seen and freed."""
        prompts = [self.tokens(tokens) for _ in range(repeat)]
        if cached:
            self.free([self.admit(prompt) for prompt in prompts])
        requests: list[Request] = []
        figures = timed([lambda p=prompt: requests.append(self.admit(p)) for prompt in prompts])
        self.free(requests)
        return figures

    def case_free(self, tokens: int, repeat: int) -> dict[str, Any]:
        """Free ``repeat`` requests."""
        requests = [self.admit(self.tokens(tokens)) for _ in range(repeat)]
        return timed([lambda r=request: self._manager.free(r) for request in requests])

    def case_decode(self, sequences: int, steps: int, prompt: int) -> dict[str, Any]:
        """``steps`` decode steps of ``sequences`` sequences, block edges spread evenly over the steps; 16 go before."""
        requests = [self.admit(self.tokens(prompt + i % 16)) for i in range(sequences)]
        manager, drawn = self._manager, self.tokens(16 + steps)

        def step(token: int) -> None:
            manager.new_step_starts()
            for request in requests:
                request.append_output_token_ids(token)
                manager.allocate_slots(request, 1)
                request.num_computed_tokens += 1

        for token in drawn[:16]:
            step(token)
        figures = timed([lambda t=token: step(t) for token in drawn[16:]])
        self.free(requests)
        return figures

    def case_fork(self, tokens: int, children: int, repeat: int) -> dict[str, Any]:
        """``children`` more requests with the prompt of one that runs."""
        prompts = [self.tokens(tokens) for _ in range(repeat)]
        parents = [self.admit(prompt) for prompt in prompts]
        made: list[Request] = []
        figures = timed([lambda p=prompt: made.extend(self.admit(p) for _ in range(children)) for prompt in prompts])
        self.free(made + parents)
        return figures


def timed(operations: list[Any]) -> dict[str, Any]:
    """Run the operations one after the other: wall time of each, and CPU time of one on the mean."""
    walls = []
    cpu = time.process_time_ns()
    for operation in operations:
        began = time.perf_counter_ns()
        operation()
        walls.append((time.perf_counter_ns() - began) / 1000)
    return {"wall_us": walls, "cpu_us": (time.process_time_ns() - cpu) / 1000 / len(operations)}


def main() -> None:
    """Serve requests from stdin."""
    answers = sys.stdout
    peer: ManagerSide | None = None
    for line in sys.stdin:
        request = json.loads(line)
        case = request.pop("case")
        with contextlib.redirect_stdout(sys.stderr):
            if case == "start":
                algorithm = "sha256"
                peer = ManagerSide(request["blocks"], request["block_size"], algorithm)
                gc.collect()
                gc.freeze()  # as its engine's process does
                answer = {"vllm": __version__, "hash": algorithm, "block_size": request["block_size"]}
            else:
                answer = getattr(peer, f"case_{case}")(**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
