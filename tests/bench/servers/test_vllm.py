"""What the serve bench reads from the peer's metrics page."""

from __future__ import annotations

from bench.servers.vllm import block_size, usage

PAGE = """
vllm:kv_cache_usage_perc{engine="0",model_name="llama-27m"} 0.0625
vllm:cache_config_info{_block_size_resolved="True",block_size="128",engine="0",mamba_block_size="None"} 1.0
"""


def test_metrics_page_is_read() -> None:
    """The share of blocks in use, and the tokens of a block."""
    assert usage(PAGE) == 0.0625
    assert block_size(PAGE) == 128


def test_page_that_does_not_say() -> None:
    """A page without a block size of its own gives none, not that of something else."""
    assert block_size(PAGE.replace(',block_size="128"', "")) == 0
    assert usage("") == 0.0
