"""``readonly-vm report``: what the runs of shards have left, as if there had been one."""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from pytest_readonly_vm.config.values import path
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.printable import count

HELP = "merge the pages, or the files of durations, of several runs"

_LARGEST = 512 << 20


def declare(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    merge = actions.add_parser("merge", help="make one page of several, or one file of durations")
    merge.add_argument(
        "out", type=path, metavar="OUT", help="where it comes; of durations, what all runs began with, if it is there"
    )
    merge.add_argument("inputs", type=path, nargs="+", metavar="IN", help="pages of --vm-report, or files of durations")


def run(arguments: argparse.Namespace) -> int:
    contents = [_content(file) for file in arguments.inputs]
    are_pages = [b"<" in content[:4096].lstrip()[:1] for content in contents]
    if any(are_pages) and not all(are_pages):
        page, other = (arguments.inputs[are_pages.index(one)] for one in (True, False))
        raise ConfigurationError(f"{page} is a page, and {other} is none: merge pages with pages, durations with such")
    merged = _pages if all(are_pages) else _durations
    content, told = merged(arguments.out, arguments.inputs, contents)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with OutputGuard().file(arguments.out) as file:
        file.write(content)
    print(f"{arguments.out}: {told}")
    return 0


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise ConfigurationError(f"{file}: it has more than {_LARGEST >> 20} MiB, and no run leaves so much")
    return content


def _pages(out: Path, inputs: Sequence[Path], contents: Sequence[bytes]) -> tuple[bytes, str]:
    from pytest_readonly_vm.plugin.page import why_no_page  # these load pytest
    from pytest_readonly_vm.plugin.page.document import document
    from pytest_readonly_vm.plugin.page.merged import data_in, merged, shards_of

    if why := why_no_page(out):
        raise ConfigurationError(f"{out}: {why}; nothing was written; choose another path")
    pages = [data_in(content, str(file)) for file, content in zip(inputs, contents, strict=True)]

    def relink(number: int, link: str) -> str:
        """A folder as seen from the new page; no scheme can hide in it."""
        folder = os.fsencode(inputs[number].parent.absolute()) + b"/" + unquote_to_bytes(link)
        return quote(os.path.relpath(os.path.normpath(folder), os.fsencode(out.parent.absolute()))) + "/"

    named = list(zip(_names(inputs), pages, strict=True))
    shards = shards_of(list(zip(map(str, inputs), pages, strict=True)))
    data = merged(named, relink=relink)
    told = f"a page of {count(len(pages), 'run')} with {count(len(data['tests']), 'test')}{_oddities(shards)}"
    return document({**data, "shard": shards}).encode(), told


def _oddities(shards: dict[str, Any] | None) -> str:
    """What is to be told of shards that are not each there once."""
    if shards is None:
        return ""
    times = Counter(shards["numbers"])
    without = [f", without shard {number}" for number in range(1, shards["of"] + 1) if number not in times]
    more = [f", shard {number} {often} times" for number, often in times.items() if often > 1]
    return "".join((*without, *more))


def _names(inputs: Sequence[Path]) -> list[str]:
    """A short name for each run: its file's, else its folder's, if that tells it from the others, else a number."""
    for names in ([file.stem for file in inputs], [file.parent.name for file in inputs]):
        if len(set(names)) == len(names) and all(names):
            return names
    return [str(number) for number in range(1, len(inputs) + 1)]


def _durations(out: Path, inputs: Sequence[Path], contents: Sequence[bytes]) -> tuple[bytes, str]:
    from pytest_readonly_vm.plugin.distribution.timings import Timings, read_entries, read_timings, written

    before = read_timings(out).entries()
    whole = dict(before)
    for file, content in zip(inputs, contents, strict=True):
        # Each has what the run began with as well, which must not replace what another has measured.
        entries = read_entries(content, str(file)).entries()
        whole |= {name: seconds for name, seconds in entries.items() if before.get(name) != seconds}
    timings = Timings.of(whole)
    return written(timings), f"durations of {count(len(timings.tests), 'test')} of {count(len(contents), 'run')}"
