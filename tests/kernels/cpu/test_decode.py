"""The compiled kernel for single query rows on a CPU, against plain PyTorch and on memory it must not read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quire_kernels.cpu import host_library
from quire_kernels.cpu.call import WIDTHS
from quire_kernels.cpu.decode import cpu_decode_ref, supports
from tests.support.cpu_attention import row_problem, row_results
from tests.support.host_library import need_host_library

need_host_library()


@pytest.mark.parametrize("group", [1, 2, 3, 7, 8, 16])
@pytest.mark.parametrize("width", WIDTHS)
def test_equals_pytorch(width: int, group: int) -> None:
    """Every head dimension and group size gives PyTorch's result to rounding, and no slot outside the run is read."""
    query, arena, items = row_problem(width, group)
    for got, exact in zip(row_results(query, arena, items), cpu_decode_ref(query, *arena, items, 0.2), strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("size", [1, 8, 64])
def test_any_block_size(size: int) -> None:
    """A block may hold any number of slots."""
    query, arena, items = row_problem(64, 2, size=size, lengths=(1, 9, 20), skip=0)
    for got, exact in zip(row_results(query, arena, items), cpu_decode_ref(query, *arena, items, 0.2), strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-5, atol=2e-6)


def test_large_scores_do_not_overflow() -> None:
    """Scores far apart: the largest key wins, nothing is NaN."""
    query, arena, items = row_problem(64, 2)
    for got, exact in zip(
        row_results(query * 300, arena, items), cpu_decode_ref(query * 300, *arena, items, 0.2), strict=True
    ):
        torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4)


def test_threads_change_nothing() -> None:
    """Items shared among threads give the same bits."""
    query, arena, items = row_problem(64, 2)
    for one, three in zip(row_results(query, arena, items), row_results(query, arena, items, threads=3), strict=True):
        assert torch.equal(one, three)


def test_what_the_kernel_does_not_know_is_refused() -> None:
    """Dtypes, widths and strides that would be read as something else raise before any address is used."""
    query, arena, items = row_problem(64, 2)
    for bad_query, bad_arena in [
        (query.double(), arena.double()),
        (query[..., :40], arena[..., :40].contiguous()),
        (query, arena[:, :1]),
        (query, arena.transpose(2, 3)),
        (query, arena.bfloat16()),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011
            row_results(bad_query, bad_arena, items)
    assert not supports(torch.empty(1, 2, 1, 1, 16, 64, dtype=torch.float16))
    assert not supports(torch.empty(1, 2, 1, 1, 16, 40))


def test_a_directory_others_may_write_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded from a cache that another user could have filled."""
    (tmp_path / "quire").mkdir()
    (tmp_path / "quire").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(host_library.NoHostLibrary, match="others may write"):
        host_library.load.__wrapped__()


def test_without_a_compiler_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, or one that fails: NoHostLibrary with the reason, so that the caller can do without."""
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(host_library.NoHostLibrary, match="no C compiler"):
        host_library.load.__wrapped__()
