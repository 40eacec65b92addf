"""Fetching a model from the hub into its cache, by huggingface_hub: its files, locks, tokens, proxies and resumption.

What can be refused without the weights is refused before they are fetched: by the list of files, by the configuration,
by the space on the disk. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean to every
program that uses that library. What goes wrong becomes one sentence (``explained``).
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.utils import disable_progress_bars, tqdm

from quire_engine.checkpoint.refusal import ModelRefused

from .complaints import explained
from .hub_model import HubModel, weight_names
from .repository import check_listing, descriptions

FILES_AT_ONCE = 4  # files that are fetched at the same time

ReportBytes = Callable[[int, int], None]
Say = Callable[[str], None]


def fetch(model: HubModel, check: Callable[[Path], object], report: ReportBytes, say: Say) -> Path:
    """The directory of ``model`` in the cache, with all its files fetched that are not there yet.

    Args:
        check: raises ModelRefused for a directory with a configuration that cannot be served; it has no weights yet.
        report: called with the bytes that are there and those that there will be, from any thread.
        say: called with a line for a person when the weights are begun.

    Raises ModelRefused.
    """
    disable_progress_bars()  # ours stands in their place
    try:
        info = HfApi(endpoint=constants.ENDPOINT).model_info(model.name, revision=model.revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        check_listing(str(model), sizes)
        small = descriptions(sizes)
        directory = _fetch(model, str(info.sha), small, report, sum(sizes[name] for name in small))
        check(directory)
        _remember(model, str(info.sha))
        weights = weight_names(directory)
        if absent := [name for name in weights if name not in sizes]:
            raise ModelRefused(f"{model} names weights that it does not hold ({absent[0]}): its makers must mend it")
        total = sum(sizes[name] for name in weights)
        _check_space(model, total - _there(directory, weights))
        amount = f"{len(weights)} file(s), {total / 1e9:.2f} GB"
        say(f"fetching {model} from {constants.ENDPOINT}: {amount}, into {directory}")
        return _fetch(model, str(info.sha), weights, report, total)
    except ModelRefused:
        raise
    except Exception as error:  # of any kind: HTTP, files and what huggingface_hub makes of them
        raise ModelRefused(explained(error, model)) from error


def _fetch(model: HubModel, commit: str, names: Iterable[str], report: ReportBytes, total: int) -> Path:
    """Fetch these files of a commit; returns the snapshot's directory."""
    count = _Count(report, total)

    def one(name: str) -> Path:
        return Path(_file(model, name, commit, tqdm_class=count.bar))

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        places = list(pool.map(one, names))
    first = min(places, key=lambda place: len(place.parts))
    return first.parent


def _remember(model: HubModel, commit: str) -> None:
    """Note which commit a branch or tag is at, as huggingface_hub does for a file that is asked for by its name."""
    if model.revision != commit:
        _file(model, "config.json", model.revision)


def _file(model: HubModel, name: str, revision: str, **options: Any) -> str:
    where = {"endpoint": constants.ENDPOINT, "cache_dir": constants.HF_HUB_CACHE}
    return str(hf_hub_download(model.name, name, revision=revision, **where, **options))


def _there(directory: Path, names: Iterable[str]) -> int:
    """Bytes of those of the files that are there."""
    return sum(file.stat().st_size for name in names if (file := directory / name).exists())


def _check_space(model: HubModel, needed: int) -> None:
    free = shutil.disk_usage(model.folder).free
    if needed > free:
        raise ModelRefused(
            f"{model} takes {needed:,} more bytes, and {free:,} are free in {model.folder}: make room, or set HF_HOME"
            " to a directory on another disk"
        )


class _Count:
    """The bytes of several files as one number."""

    def __init__(self, report: ReportBytes, total: int) -> None:
        self._report, self._total, self._done = report, total, 0
        self._lock = threading.Lock()
        count = self

        class Bar(tqdm):  # type: ignore[misc]
            """What huggingface_hub tells of one file; nothing of it is drawn."""

            def __init__(self, *_args: Any, **options: Any) -> None:
                super().__init__(disable=True, total=options.get("total"))
                count.add(options.get("initial") or 0)

            def update(self, n: float | None = 1) -> bool | None:
                """Count ``n`` more bytes."""
                count.add(int(n or 0))
                return None

            def update_transfer(self, _n: float | None = 1) -> None:
                """What has come and is not written yet; it is counted when it is."""

        self.bar: type[Any] = Bar

    def add(self, more: int) -> None:
        """Count bytes of any file."""
        with self._lock:
            self._done += more
            self._report(min(self._done, self._total), self._total)
