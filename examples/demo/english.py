"""Readable English, told from noise: enough of an answer's words are among the commonest ones of the language.

In English prose about half of the words are; in what a random or broken model writes hardly one is. What is said may
still be wrong: a small model's facts are its own.
"""

from __future__ import annotations

import re

_COMMON = """
a about after all also an and answer any are as at be because been book but by called can capital city come day days do
each eat find first for friend from get give go good had has have he help her him his how i if in into is it its just
know largest letter life light like long look made make many may me more most much my name new no not now number of on
one only or other our out over part people plants process read say sea see she so some take than that the their them
then there these they things think this three time times to two up use very was water way we week well were what when
where which who will with word work world would write year you your
"""
COMMON = frozenset(_COMMON.split())
SHARE = 0.3
_WORD = re.compile(r"[A-Za-z]+(?:['’][a-z]+)?")


def reads_as_english(text: str) -> bool:
    """Whether a person would call this English."""
    words = _WORD.findall(text)
    letters = sum(map(len, words))
    known = sum(word.lower() in COMMON for word in words)
    visible = sum(not character.isspace() for character in text)
    return len(words) >= 3 and known >= SHARE * len(words) and letters >= 0.4 * visible
