"""The page in a headless Chromium: what it shows is what the kvstore has, for hands, eyes and screen readers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.browser import CHROMIUM, Browser, browser
from tests.support.waits import wait_for

from .conftest import BLOCKS, HOSTILE, Planted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
SHOWN = "document.querySelector('#main').hidden === false && document.querySelector('#legend').children.length > 0"
ROWS = """[...document.querySelectorAll('#{} tbody tr')]
    .map((row) => [...row.children].map((cell) => cell.innerText.trim()))"""


@pytest.fixture(scope="module")
def page(planted: Planted) -> Iterator[Browser]:
    """The page, opened with the token as an operator does it."""
    with browser() as it:
        it.look(1280, 900)
        it.call("Page.navigate", url=planted.url + "/")
        it.wait("document.querySelector('#enter')?.hidden === false", "it asks for the token")
        enter(it, planted.token)
        it.wait(SHOWN, "it shows the pool")
        yield it


def enter(page: Browser, token: str) -> None:
    """Type a token and send the form."""
    page.run(f"document.querySelector('#token').value = {json.dumps(token)}")
    page.run("document.querySelector('#enter').requestSubmit()")


def rows(page: Browser, table: str) -> list[list[str]]:
    """What a table shows."""
    found: list[list[str]] = page.run(ROWS.replace("{}", table))
    return found


def legend(page: Browser) -> dict[str, int]:
    """The numbers beside the colours."""
    items = page.run("[...document.querySelectorAll('#legend li')].map((item) => item.innerText.trim())")
    return {name: int(number) for name, _, number in (item.rpartition(" ") for item in items)}


def test_a_wrong_token_is_refused(planted: Planted) -> None:
    """It is said, nothing is shown, and nothing is kept of it."""
    with browser() as page:
        page.call("Page.navigate", url=planted.url + "/")
        page.wait("document.querySelector('#enter')?.hidden === false", "it asks for the token")
        enter(page, "not-the-token-of-this")
        page.wait("document.querySelector('#refusal').textContent.includes('not the token')", "it is refused")
        assert page.run("document.querySelector('#main').hidden")
        assert page.run("sessionStorage.length") == 0


def test_numbers_are_the_kvstore_s(planted: Planted, page: Browser) -> None:
    """Legend and tables are what ``stats`` and ``tenants`` say, shared blocks counted apart."""
    with planted.reader() as reader:
        blocks, tenants = reader.stats().blocks, reader.tenants().tenants

    page.wait(f"document.querySelector('#legend').innerText.includes('free {blocks['free']}')", "it has been drawn")
    shown = legend(page)
    assert shown.pop("free") == blocks["free"]
    assert shown.pop("cached") == blocks["cached"]
    assert shown.pop("quarantined") == 0
    assert shown == {"held": sum(shown.values()) - 12, "shared": 5, "published": 3, "claimed": 4}
    assert sum(shown.values()) == blocks["held"]
    for table, least in (("tenants", 2), ("accounts", 2), ("sessions", 1)):  # they come one after the other
        page.wait(f"document.querySelectorAll('#{table} tbody tr').length >= {least}", f"the {table} are there")
    found = {row[0]: row[1:3] for row in rows(page, "tenants")}
    assert found == {one.tenant: [str(one.held), str(one.cached)] for one in tenants}
    assert HOSTILE in found
    counted = {row[0]: sum(map(int, row[1:])) for row in rows(page, "accounts")}
    assert counted == {one.tenant: one.held + one.cached for one in tenants if one.held + one.cached}
    assert [row[0] for row in rows(page, "sessions")] == ["engine-1"]


def test_it_follows_the_pool(planted: Planted, page: Browser) -> None:
    """Blocks that are given out and back are seen without a reload."""
    before = legend(page)["held"]
    planted.first.allocate(100, "acme", 33)
    page.wait(f"document.querySelector('#legend').innerText.includes('held {before + 9}')", "they are held")
    planted.first.free([100])
    page.wait(f"document.querySelector('#legend').innerText.includes('held {before}')", "they are free again")


def test_what_holds_a_block_is_said_to_keyboard_and_pointer(page: Browser) -> None:
    """Home selects the first block and says whose it is, where a screen reader hears it; a pointer does the same."""
    page.run("document.querySelector('#pool').focus()")
    page.key("Home")
    text = page.wait("document.querySelector('#block').innerText", "it is said")
    assert text.startswith("Block 0: ")
    assert page.run("document.querySelector('#block').getAttribute('role')") == "status"
    page.key("ArrowRight")
    page.wait("document.querySelector('#block').innerText.startsWith('Block 1: ')", "the next one")
    page.run("document.querySelector('#pool').scrollIntoView()")
    box = page.run("document.querySelector('#pool').getBoundingClientRect().toJSON()")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=box["x"] + 3, y=box["y"] + 3)
    page.wait("document.querySelector('#block').innerText.startsWith('Block 0: ')", "the pointer's")


def test_names_are_text_and_nothing_is_loaded_from_elsewhere(planted: Planted, page: Browser) -> None:
    """A tenant's name that looks like HTML makes no element; the token is in no address; nothing complains."""
    assert page.run("document.querySelectorAll('main img, main script').length") == 0
    assert page.run("document.querySelector('input[value=account]').click() || true")
    page.wait("document.querySelector('#legend').innerText.includes('acme')", "colours by tenant")
    page.run("document.querySelector('input[value=state]').click()")
    assert {request.split("/")[2] for request in page.requests if not request.startswith("data:")} == {
        planted.url.removeprefix("http://")
    }
    assert not [request for request in page.requests if planted.token in request]
    assert page.run("document.cookie") == ""
    assert page.complaints == []


def test_all_that_is_shown_has_a_name(page: Browser) -> None:
    """The accessibility tree: each control, table and region is named, and headings divide the page."""
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]}
    want = ("button", "radio", "spinbutton", "application", "table", "region", "log", "textbox")
    assert [pair for pair in named if pair[0] in want and not pair[1]] == []
    assert {name for role, name in named if role == "heading"} >= {"Now", "Pool", "Tenants", "Events"}
    assert ("application", "Pool") in named


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(page: Browser, dark: bool) -> None:
    """Each colour of text stands out from its ground by 4.5 to 1, in light and dark."""
    page.look(1280, 900, dark=dark)
    ratio = page.run("""(() => {
        const style = getComputedStyle(document.documentElement);
        const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = (name) => {
            const n = parseInt(style.getPropertyValue(name).trim().slice(1), 16);
            return 0.2126 * part(n >> 16) + 0.7152 * part(n >> 8 & 255) + 0.0722 * part(n & 255);
        };
        const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        return Math.min(...["--text", "--faint", "--bad", "--first", "--second"].flatMap((name) =>
            ["--panel", "--ground"].map((ground) => ratio(light(name), light(ground)))));
    })()""")
    assert ratio >= 4.5


def test_cells_are_drawn_in_their_colours(page: Browser) -> None:
    """As many kinds of cells are on the canvas as the legend counts, in the colours that it shows."""
    page.look(1280, 900)
    kinds = [name for name, count in legend(page).items() if count]
    seen = """(() => {
        const canvas = document.querySelector('#pool'), context = canvas.getContext('2d');
        const { data } = context.getImageData(0, 0, canvas.width, canvas.height), found = new Set();
        const hex = (byte) => byte.toString(16).padStart(2, '0');
        for (let at = 0; at < data.length; at += 4) found.add('#' + [0, 1, 2].map((n) => hex(data[at + n])).join(''));
        return [...found];
    })()"""
    style = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
    colours = {page.run(style.replace("{}", name)) for name in kinds}
    wait_for(lambda: colours <= set(page.run(seen)), "they are painted")
    assert len(kinds) == 6
    assert page.run("document.querySelector('#number').max") == str(BLOCKS - 1)
