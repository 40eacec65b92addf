"""Greedy tokens through the paged path equal transformers' own, for every family."""

from __future__ import annotations

import pytest

from bench.families.same_tokens import BLOCK, NEW, compare
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.model import load_model
from tests.support.families import FAMILIES, family_model


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_equal_eager_generate(family, tmp_path):
    """Mixed, chunked, prefix-sharing batches give exactly the tokens of transformers' generate."""
    directory = family_model(tmp_path, family)
    compared = compare(directory, load_model(directory), layout_of(directory, "float32", BLOCK))

    assert compared.paged == compared.eager
    assert min(compared.distinct) >= NEW // 3, "the model repeats itself: this proves nothing"
