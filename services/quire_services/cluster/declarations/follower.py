"""A node's follower: reads the store, and keeps its node as it says, until it is stopped.

Two threads: one for what must be fast (keys, groups, quotas), one for published prompts, whose computing takes as long
as it takes. What is known of the store is kept in files of the node's own (``node_files``), so a node that starts while
the store is away has its keys and quotas all the same.

    in force after a write   STORE_POLL_S + one pass (its calls take milliseconds, and each is given up after 2 s):
                             within ``BOUND_S`` on a node that answers and reaches the store
    store away               everything goes on as it is; said once in the log, and again when it is back
    node away                tried again each STORE_POLL_S
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from .node_admin import NodeAdmin, NodeError
from .node_files import NodeFiles
from .reconciler import apply_keys, apply_members, apply_publications, apply_quotas, uses_of
from .records import QUOTA, DeclarationStore, Records, StoreError, by_kind, live_values, newer
from .share_ledger import LedgerPage, ShareLedger
from .shares import most_share

STORE_POLL_S = 0.5
SHARES_S = 1.0  # between two moves of shares; longer where many nodes read what all of them write
BEAT_S_PER_NODE, MOST_BEAT_S = 0.02, 10.0
PENDING_S = 1.0  # between two looks at prompts that are not computed yet
TELL_S = 1.0  # between two words to the node's gateway, for its metrics
MEND_S = 5.0  # between two looks at a node whose declarations did not change
BOUND_S = 5.0
UNAVAILABLE = 503
CALLS_END_S = 3.0  # for a call that is under way
log = structlog.get_logger()


class Follower:
    """One node's.

    Args:
        name: the node's, alone in its cluster.
    """

    def __init__(self, name: str, store: DeclarationStore, node: NodeAdmin, files: NodeFiles) -> None:
        self.name, self._store, self._node, self._files = name, store, node, files
        self._ledger = ShareLedger(store.table("shares"), name)
        self.records: Records = files.records()
        self._given = files.given()
        self._revision = -1
        self._stop, self._changed = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._parts = {"keys": False, "members": False, "quotas": False, "publications": False}
        self._said: dict[str, str] = {}
        self._failures = Counter[str]()
        self._shares, self._most, self._needs = dict[str, int](), dict[str, int](), dict[str, int]()
        self._looked_at: float | None = None
        self._in_force = self._published = 0  # versions
        self._applied_at = self._shared_at = self._told_at = 0.0
        self._beat_s = SHARES_S
        self.joined = self.failed = False

    @property
    def version(self) -> int:
        """The newest version that is known here."""
        return max((record.version for record in self.records.values()), default=0)

    @property
    def applied(self) -> int:
        """The version of which everything is in force here; 0 if none is."""
        return min(self._in_force, self._published)

    def start(self) -> None:
        """Follow, on threads of its own."""
        for each in (self._follow, self._publish):
            thread = threading.Thread(target=self._run, args=(each,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End, and give the node's shares up."""
        self._stop.set()
        self._changed.set()
        for thread in self._threads:
            thread.join(CALLS_END_S)
        self._attempt("store", self._ledger.leave)
        self._store.close()

    def turn(self) -> None:
        """One look at the store, and what follows from it for all but prompts."""
        changed = self._attempt("store", self._look, False)
        now = time.monotonic()
        if "store" not in self._said:
            self._looked_at = now
        failed = any(part in self._said for part in ("keys", "members"))
        if changed or failed or not self._parts["keys"] or now - self._applied_at >= MEND_S:
            self._applied_at = now
            self._part("keys", lambda: apply_keys(self._node, self.records))
            self._part("members", lambda: apply_members(self._node, self.records))
            self._changed.set()
        if now - self._told_at >= TELL_S:  # first: what the node needs goes into this beat
            self._told_at = now
            self._tell()
        if changed or now - self._shared_at >= self._beat_s:
            self._shared_at = now
            self._part("quotas", self._settle)
        if all(self._parts[part] for part in ("keys", "members", "quotas")):
            self._in_force = self.version
        known = self._revision >= 0 or bool(self.records)
        if not self.joined and known and all(self._parts.values()):
            self.joined = True
            self._attempt("state", self._files.keep_joined)
            log.info("declarations_joined", node=self.name, version=self.version)

    def publish(self) -> bool:
        """One look at published prompts; whether one is still to be computed."""
        before, version, pending = dict(self._given), self.version, False

        def apply() -> bool:
            nonlocal pending
            try:
                pending = not apply_publications(self._node, self.records, self._given)
            except NodeError as error:
                pending = error.status == UNAVAILABLE  # its engines are on their way
                raise
            return not pending

        self._parts["publications"] = self._attempt("publications", apply, False)
        if self._parts["publications"]:
            self._published = version
        if before != self._given:
            self._attempt("state", lambda: self._files.keep_given(self._given))
        return pending

    def _run(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:
            log.exception("declarations_broken", node=self.name)
            self.failed = True  # its supervisor starts it again

    def _follow(self) -> None:
        while not self._stop.wait(STORE_POLL_S if self._revision >= 0 or "store" in self._said else 0):
            self.turn()

    def _publish(self) -> None:
        pending = False
        while not self._stop.is_set():
            self._changed.wait(PENDING_S if pending else MEND_S)
            self._changed.clear()
            if not self._stop.is_set():
                pending = self.publish()

    def _look(self) -> bool:
        """Read what is new in the store; whether anything is."""
        revision = self._store.revision()
        if revision == self._revision:
            return False
        found = newer(self.records, self._store.read())
        first, self._revision = self._revision < 0, revision
        if found:
            self.records = {**self.records, **found}
            self._attempt("state", lambda: self._files.keep(self.records))
            log.info("declarations", node=self.name, changed=len(found), version=self.version)
        return bool(found) or first

    def _settle(self) -> None:
        quotas = by_kind(self.records, QUOTA)
        rows = [row for row in self._node.rows("tenants") if row["tenant"] in quotas] if quotas else []
        about = {"version": self.version, "joined": self.joined, "problems": sorted(self._said)}
        needs = {tenant: need for tenant, need in self._needs.items() if tenant in quotas}
        page: LedgerPage | None = self._attempt("shares", lambda: self._ledger.beat(uses_of(rows), about, needs))
        if page:
            self._beat_s = min(MOST_BEAT_S, max(SHARES_S, len(page.nodes) * BEAT_S_PER_NODE))
        shares = apply_quotas(self._node, self.records, rows, page)
        if page:
            limits = {tenant: int(value["limit"]) for tenant, value in live_values(self.records, QUOTA).items()}
            self._shares = shares
            self._most = {tenant: most_share(limits[tenant], len(page.nodes)) for tenant in shares}

    def _tell(self) -> None:
        """Say to the node's gateway how far it is, and hear what was too large there."""
        age = None if self._looked_at is None else time.monotonic() - self._looked_at
        word = {"version": self.applied, "look_age_s": age, "failures": dict(self._failures)}
        word |= {"shares": self._shares, "most": self._most, "beat_s": self._beat_s}
        with suppress(NodeError, LookupError, TypeError, ValueError):  # what is wrong there, the other parts say
            needs = self._node.call("PUT", "declarations", body=word)["needs"]
            self._needs = {str(tenant): int(need) for tenant, need in needs.items()}

    def _part(self, name: str, act: Callable[[], None]) -> None:
        self._attempt(name, act)
        self._parts[name] = name not in self._said

    def _attempt(self, part: str, act: Callable[[], Any], otherwise: Any = None) -> Any:
        """Do it; a failure is said once, and remembered until it goes well."""
        try:
            answer = act()
        except (StoreError, NodeError, OSError, LookupError, TypeError, ValueError) as error:
            # The last three: a record or an answer that another version of Quire wrote.
            gone = isinstance(error, NodeError) and error.gone
            self._failures[part] += 1
            if gone:  # its next life joins anew
                self.joined, self._parts = False, dict.fromkeys(self._parts, False)
                self._in_force = self._published = 0
            if part not in self._said:
                say = log.info if gone else log.warning  # as at any start and stop of the stack
                say("declarations_wait", node=self.name, part=part, reason=str(error) or type(error).__name__)
            self._said[part] = str(error) or type(error).__name__
            return otherwise
        if self._said.pop(part, None):
            log.info("declarations_again", node=self.name, part=part)
        return answer
