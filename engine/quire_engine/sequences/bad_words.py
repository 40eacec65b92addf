"""BadWords: sequences of tokens that an answer may not contain.

Only the last token of a word is ever refused, and only where the ones before it are already there, in the answer. A
word of one token is refused always. Of the tokens before, the newest may be known to the device alone (it is being
computed while this is planned), so it is left to the caller to compare: ``ends`` says what it would have to be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
_ANY, _NONE = -1, -2  # in the place of a token: before a shorter word; before the answer


class BadWords:
    """The words of one request.

    Attributes:
        single: words of one token.
        ids: every token of every word.
        reach: how many tokens before the newest one are looked at.
    """

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        longer = [word for word in words if len(word) > 1]
        self.single: Ids = np.unique(np.array([word[0] for word in words if len(word) == 1], np.int64))
        self.ids: Ids = np.array([token for word in words for token in word], np.int64)
        self.reach = max((len(word) for word in longer), default=2) - 2
        self._before: Ids = np.full((len(longer), self.reach), _ANY, np.int64)
        for line, word in zip(self._before, longer, strict=True):
            line[self.reach - len(word) + 2 :] = word[:-2]
        self._newest: Ids = np.array([word[-2] for word in longer], np.int64)
        self._last: Ids = np.array([word[-1] for word in longer], np.int64)

    def __bool__(self) -> bool:
        return len(self.ids) > 0

    def ends(self, before: Sequence[int]) -> tuple[Ids, Ids]:
        """Pairs (newest token, token that may not follow it) of an answer that is ``before`` and one token more."""
        tail = np.full(self.reach, _NONE, np.int64)
        known = before[max(0, len(before) - self.reach) :]
        tail[self.reach - len(known) :] = known
        found = ((self._before == tail) | (self._before == _ANY)).all(axis=1)
        return self._newest[found], self._last[found]
