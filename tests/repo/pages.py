"""Pages of the project: their links, the headings that links may name, and what is reached from where."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r"\]\(([^()\s]+(?:\([^()\s]*\))?)\)")
CODE = re.compile(r"`[^`]*`")
HEADING = re.compile(r"#{1,6} +(.*)")


def pages_of(root: Path) -> list[Path]:
    """Every page under version control, or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "*.md"]
    names = subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout.split("\0")
    return sorted(root / name for name in names if name and (root / name).is_file())


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
    return re.fullmatch(r"L[1-9]\d*", anchor) is not None and int(anchor[1:]) <= len(target.read_text().splitlines())


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
