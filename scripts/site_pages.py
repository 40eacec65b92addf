"""What the site shows of the repository: a hook of MkDocs (`mkdocs.yml`), so that a page is written once, for both.

MkDocs sees `docs/` alone, while pages link to what lies beside it: pages of parts, the protocol, tables of results,
lines of code. All that links reach from `docs/` becomes part of the site under its own path: Markdown as a page, code
as a page with numbered lines, an image as it is. Links are rewritten to lead there, so MkDocs' strict mode judges them
too, and fences that only our tests read (`scenario PATH`, `hex NAME`) get titles. Nothing is written into the tree.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".mjs": "js", ".yml": "yaml", ".yaml": "yaml", ".toml": "toml"}
LINK = re.compile(r"(?<=\]\()([^()\s]+)(?=\))")
CODE = re.compile(r"(`[^`]*`)")
FENCE = re.compile(r"( *)(`{3,})(.*)")
ABSOLUTE = re.compile(r"[a-z]+:|#|/")
SHELLS = {"sh", "bash", "console", "shell"}
FRONT_PAGE = "README.md"  # of the repository; the site has docs/index.md in its place


def uri_of(path: str) -> str:
    """Where a file of the repository is in the site, as MkDocs names sources."""
    if path == FRONT_PAGE:
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}.md" if Path(path).suffix in LANGUAGES else path


def translated(text: str, link: Callable[[str], str]) -> str:
    """A page with every relative link replaced, and with fences as the site's Markdown reads them."""
    lines, fence = [], ""
    for line in text.splitlines():
        found = FENCE.fullmatch(line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif found:
            fence = found[2]
            line = f"{found[1]}{fence}{info(found[3])}"
        else:
            parts = CODE.split(line)
            parts[::2] = (LINK.sub(lambda target: replaced(target[0], link), part) for part in parts[::2])
            line = "".join(parts)
        lines.append(line)
    return "\n".join(lines) + "\n"


def replaced(target: str, link: Callable[[str], str]) -> str:
    """A link's target, replaced unless it leads out of the repository or stays on its page."""
    return target if ABSOLUTE.match(target) else link(target)


def info(words: str) -> str:
    """The first line of a fence, behind its backquotes: a language, and what else is said as its title.

    What a shell's block has there is a mark for the suite, and nothing for a reader.
    """
    language, _, title = words.strip().partition(" ")
    if not title or language in SHELLS:
        return language
    return f'{"text" if language in ("scenario", "hex") else language} title="{title}"'


def links_of(text: str) -> list[str]:
    """Targets of a page's relative links, without headings and lines."""
    found: list[str] = []

    def remember(target: str) -> str:
        found.append(target.partition("#")[0])
        return target

    translated(text, remember)
    return found


def reached(start: list[str]) -> dict[str, str]:
    """Files that pages lead to, themselves included, by their place in the site."""
    found = {uri_of(path): path for path in start}
    edge = list(start)
    while edge:
        page = edge.pop()
        for target in links_of((ROOT / page).read_text()):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
            if (ROOT / path).is_file() and path != FRONT_PAGE and uri_of(path) not in found:
                found[uri_of(path)] = path
                edge += [path] if path.endswith(".md") else []
    return found


def source_page(path: str) -> str:
    """A file of code as a page; the fence is longer than any that the code may have."""
    code = (ROOT / path).read_text()
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {posixpath.basename(path)}\n\n`{path}`\n\n"
    return f'{head}``````{LANGUAGES[Path(path).suffix]} linenums="1"\n{code}``````\n'


places: dict[str, str] = {}  # files of the repository by their place in the site, of the build under way


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what pages lead to."""
    from mkdocs.structure.files import File

    places.clear()
    places.update(reached([f"docs/{file.src_uri}" for file in files.documentation_pages()]))
    for uri, path in places.items():
        if path.startswith("docs/"):
            continue
        if uri.startswith("source/"):
            files.append(File.generated(config, uri, content=source_page(path)))
        else:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Rewrites a page for the site."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    here = posixpath.dirname(places[uri])

    def link(target: str) -> str:
        path, _, anchor = target.partition("#")
        there = uri_of(posixpath.normpath(posixpath.join(here, path)))
        if line := re.fullmatch(r"L(\d+)", anchor):
            found = files.get_file_from_path(there)
            return f"{found.url_relative_to(page.file)}#__codelineno-0-{line[1]}" if found else target
        return posixpath.relpath(there, posixpath.dirname(uri) or ".") + (f"#{anchor}" if anchor else "")

    return translated(markdown, link)
