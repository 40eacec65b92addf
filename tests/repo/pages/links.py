"""Pages of the project: their links, the headings that links may name, and what is reached from where."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r"\]\(([^()\s]+(?:\([^()\s]*\))?)\)")
CODE = re.compile(r"`[^`]*`")
HEADING = re.compile(r"#{1,6} +(.*)")


def section(page: Path, title: str) -> str:
    """The text of a page below a heading of the second level."""
    return page.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def line_count(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text().splitlines())


def prose(page: Path) -> Iterator[str]:
    """The lines of a page outside its fenced blocks."""
    fenced = False
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield line


def links_of(page: Path) -> list[str]:
    """Relative targets that a page links to, as they stand there."""
    found = [target for line in prose(page) for target in LINK.findall(CODE.sub("", line))]
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def code_named(page: Path) -> set[str]:
    """Files and modules of ours that a page names in its prose: ``ops/fork.py``, ``quire_engine.model.graphs``."""
    spans = [span for line in prose(page) for span in re.findall(r"`([^`]+)`", line)]
    found = {name for span in spans for name in re.findall(r"(?:^|(?<=\s))[\w./-]+\.(?:py|c)\b", span)}
    return found | {name for span in spans for name in re.findall(r"\bquire_\w+(?:\.\w+)+", span)}


def is_named_rightly(name: str, files: Iterable[str]) -> bool:
    """Whether a file ends like this path, or lies where this dotted name says; the last part may be a name in it."""
    if name.endswith((".py", ".c")):
        return any(f"/{file}".endswith(f"/{name}") for file in files)
    path = name.replace(".", "/")
    ends = (f"/{path}.py", f"/{path}/__init__.py", f"/{path.rpartition('/')[0]}.py")
    return any(f"/{file}".endswith(ends) for file in files)


def anchors_of(page: Path) -> set[str]:
    """What links may name in a page: its headings, as GitHub writes them."""
    found: set[str] = set()
    for line in prose(page):
        heading = HEADING.match(line)
        if heading:
            name = re.sub(r"[^\w\- ]", "", heading[1].strip().lower()).replace(" ", "-")
            number = 1
            while name in found:
                name, number = f"{name.removesuffix(f'-{number - 1}')}-{number}", number + 1
            found.add(name)
    return found


def has_anchor(target: Path, anchor: str) -> bool:
    """Whether a page has such a heading, or a file of code such a line (``L12``)."""
    if target.suffix == ".md":
        return anchor in anchors_of(target)
    return re.fullmatch(r"L[1-9]\d*", anchor) is not None and int(anchor[1:]) <= line_count(target)


def target_of(page: Path, link: str) -> tuple[Path, str]:
    """The file that a link leads to, and the heading in it."""
    path, _, anchor = link.partition("#")
    return ((page.parent / unquote(path)).resolve() if path else page), anchor


def broken_links(page: Path) -> list[str]:
    """Links of a page that lead to no file, or to no heading of it."""
    found = []
    for link in links_of(page):
        target, anchor = target_of(page, link)
        if not target.exists() or (anchor and not has_anchor(target, anchor)):
            found.append(link)
    return found


def within(start: Path, hops: int) -> set[Path]:
    """Pages that are at most ``hops`` links away; a link to a folder reaches no page in it."""
    reached, edge = {start}, {start}
    for _ in range(hops):
        edge = {target_of(page, link)[0] for page in edge for link in links_of(page)}
        edge = {page for page in edge if page.suffix == ".md" and page.is_file()} - reached
        reached |= edge
    return reached
