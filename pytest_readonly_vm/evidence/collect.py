"""Owns the evidence of one machine: the files that say, when a test has failed, what the machine was and did.

Nothing here raises: a piece that cannot be had is named in the overview, with the reason. Each has a deadline.
"""

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pytest_readonly_vm.channels.history import HistoryEntry
from pytest_readonly_vm.config.disk import DISK
from pytest_readonly_vm.config.settings import SETTINGS, VmConfig
from pytest_readonly_vm.config.table import OPTIONS
from pytest_readonly_vm.config.values import secret
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.evidence import complaints
from pytest_readonly_vm.evidence.capsule.save import SUFFIX, save_capsule
from pytest_readonly_vm.evidence.redaction import (
    HIDDEN,
    answer_without_secrets,
    arguments_without_secrets,
    option_without_secrets,
    text_without_secrets,
)
from pytest_readonly_vm.evidence.replay import Started, opened_as, script
from pytest_readonly_vm.host.loop import within
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.printable import line, shown

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine

OVERVIEW = "overview.txt"
SCREENSHOT = "screenshot.png"
PIECES = (
    *(OVERVIEW, "console.txt", "qmp.jsonl", "timeline.jsonl", "stderr.txt", "command.sh", "config.json"),
    *(SCREENSHOT, "journal.txt", "kernel.txt", "failed-units.txt", "processes.txt", f"machine{SUFFIX}"),
)
"""Every name that a file of evidence can have."""

_MONITOR_PATIENCE = 1.0
_GUEST_PATIENCE = 3.0
"""Seconds that a guest has to show that it answers, and then, times its slowness, to tell all."""

_CAPSULE_PATIENCE = 120.0
_AT_ONCE = 1 << 20  # characters

# One round trip for all, what tells most first: what has come by the deadline is kept. Journal lines are those since
# the machine was handed over, as seconds back from the guest's own clock when it is asked, and not when it has told the
# rest.
_QUESTIONS = """\
section() {{ printf '\\n{mark}%s\\n' "$1"; }}
now=$(date +%s)
{complaints}
if [ -d /run/systemd/system ]; then
section failed-units.txt
systemctl --no-pager --plain --failed
section processes.txt
ps axfww -o pid,user,stat,etime,rss,args || ps
section journal.txt
journalctl --no-pager --quiet --boot --since="@$((now - {age:.0f}))" --lines=5000 -o short-precise
else
section processes.txt
ps axfww -o pid,user,stat,etime,rss,args 2>/dev/null || ps
section kernel.txt
dmesg | tail -n 5000
fi
section end
"""


@dataclass(slots=True)
class Evidence:
    """What was saved of a machine, and what could not be."""

    folder: Path
    output_guard: OutputGuard
    saved: list[Path] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Pieces by name, and why they are not there."""
    complaints: list[str] = field(default_factory=list)
    """What the guest complained of since the machine was handed over."""


def collect(
    vm: "VirtualMachine",
    folder: Path,
    *,
    about: Mapping[str, str],
    console: BinaryIO | None = None,
    capsule: bool = False,
) -> Evidence:
    """Save what is known of a machine in a folder, made if it is not there. What of the machine has ended is left out.

    :param about: facts for the top of the overview.
    :param console: the console's log, opened while it had a name.
    :param capsule: whether to save the machine itself as well, if it lives.
    """
    evidence = Evidence(folder, vm.instance.output_guard)
    with _piece(evidence, OVERVIEW):
        folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Callable[[], Iterable[str]]] = {
        "qmp.jsonl": lambda: _lines(_messages(vm.history.entries())),
        "timeline.jsonl": lambda: _lines(_timeline(vm.history.entries())),
        "console.txt": lambda: _console(vm, console),
        "stderr.txt": lambda: [vm.stderr],
        "command.sh": lambda: [_script(vm)],
        "config.json": lambda: [_configuration(vm.config)],
    }
    for name, text in texts.items():
        with _piece(evidence, name):
            _write(evidence, name, text())
    if not vm.closed:
        with _piece(evidence, "what only QEMU and the guest can tell"):
            _ask(vm, evidence)
    with _piece(evidence, OVERVIEW):
        _write(evidence, OVERVIEW, _overview(vm, evidence, about))
    if capsule and not vm.closed:
        name = f"machine{SUFFIX}"
        with _piece(evidence, name):
            save_capsule(vm, folder / name, test=about.get("test", ""), timeout=_CAPSULE_PATIENCE)
            evidence.saved.append(folder / name)
        with _piece(evidence, OVERVIEW):
            _write(evidence, OVERVIEW, _overview(vm, evidence, about))
    return evidence


@contextlib.contextmanager
def _piece(evidence: Evidence, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is: a test has failed for a reason of its own, which is to be seen
        reason = error.strerror if isinstance(error, OSError) and not isinstance(error, VmError) else None
        evidence.missing[name] = (reason or str(error) or type(error).__name__).partition("\n")[0]


def _write(evidence: Evidence, name: str, text: Iterable[str]) -> None:
    path = evidence.folder / name
    with evidence.output_guard.file(path, mode=0o777 if path.suffix == ".sh" else 0o666) as file:
        file.writelines(piece.encode(errors="replace") for piece in text)
    if path not in evidence.saved:
        evidence.saved.append(path)


# What we know by ourselves.


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _lines(messages: Iterable[Mapping[str, object]]) -> Iterator[str]:
    return (json.dumps(message, default=repr, ensure_ascii=False) + "\n" for message in messages)


def _messages(entries: Iterable[HistoryEntry]) -> list[dict[str, object]]:
    """What we and QEMU have said to each other, in the order in which it was said."""
    found: list[tuple[float, dict[str, object]]] = []
    for one in entries:
        if one.kind == "event":
            message: dict[str, object] = {"event": one.what, "data": arguments_without_secrets("", dict(one.detail))}
            found.append((one.time, {"from": "QEMU", **message}))
        elif one.kind == "qmp":
            arguments = one.detail.get("arguments") or {}
            said = {"execute": one.what, "arguments": arguments_without_secrets(one.what, arguments)}
            found.append((one.time, {"from": "us", **said}))
            end = one.time + one.seconds
            if one.outcome:
                found.append((end, {"from": "QEMU", "to": one.what, "error": one.outcome}))
            elif "return" in one.detail:
                answer = answer_without_secrets(one.what, arguments, one.detail["return"])
                found.append((end, {"from": "QEMU", "to": one.what, "return": answer}))
    found.sort(key=lambda pair: pair[0])
    return [{"time": _moment(when), **message} for when, message in found]


def _timeline(entries: Iterable[HistoryEntry]) -> Iterator[dict[str, object]]:
    for one in entries:
        took: dict[str, object] = {"state": "pending"} if one.is_pending else {"seconds": round(one.seconds, 6)}
        entry = {"time": _moment(one.time), **took, "kind": one.kind, "what": text_without_secrets(one.what)}
        yield entry | ({"outcome": text_without_secrets(one.outcome)} if one.outcome else {})


def _console(vm: "VirtualMachine", log: BinaryIO | None) -> Iterator[str]:
    """What the guest has sent, without what a terminal would obey: all of it, or what is known of one that is gone."""
    if vm.console.loss:
        yield f"({vm.console.loss}; what follows is what memory has)\n"
    if vm.console.loss or (log is None and vm.closed):
        yield shown(vm.console.text)
        return
    # By another descriptor of its own, as a log that was opened before may be read more than once.
    path = vm.console.log_path if log is None else Path(f"/proc/self/fd/{log.fileno()}")
    with path.open(encoding="utf-8", errors="replace") as text:
        while lines := text.readlines(_AT_ONCE):
            yield shown("".join(lines))


def _script(vm: "VirtualMachine") -> str:
    instance = vm.instance
    smbios = instance.folder / "smbios"
    return script(
        Started(
            name=vm.name,
            argv=instance.process.argv,
            folder=instance.folder,
            disks={disk.name: opened_as(disk.chain) for disk in instance.spec.disks if disk.chain},
            blank={disk.name: disk.size for disk in instance.spec.disks if disk.size is not None},
            cdrom=(cd.descriptor, cd.path) if (cd := instance.spec.cd) else None,
            firmware=opened_as(instance.spec.firmware.files),
            credentials=smbios.read_text() if smbios.exists() else None,
            is_copy=vm.manner == "clone",
        )
    )


def _configuration(config: VmConfig) -> str:
    settings = {}
    for name, declared in SETTINGS.items():
        value = getattr(config, name)
        if OPTIONS[name].kind is list:
            value = _arguments_shown(value)
        elif declared.parse is secret and value is not None:
            value = HIDDEN
        settings[name] = {"value": value, "origin": config.origin(name)}
    lines = (f"  {json.dumps(name)}: {json.dumps(entry, default=str)}" for name, entry in settings.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _arguments_shown(arguments: tuple[str, ...]) -> list[str]:
    before = ("", *arguments)
    return [option_without_secrets(option, value) for option, value in zip(before, arguments, strict=False)]


def _overview(vm: "VirtualMachine", evidence: Evidence, about: Mapping[str, str]) -> Iterator[str]:
    instance = vm.instance
    facts = {**about, "saved": _moment(time.time())}
    facts["machine"] = f"{vm.name}: {vm.instance.spec.hypervisor.describe()}"
    for disk in instance.spec.disks:
        facts["base" if disk.name == DISK else f"disk {disk.name}"] = disk.describe()
    if cd := instance.spec.cd:
        facts["CD"] = str(cd.path)
    facts["firmware"] = vm.firmware
    ready = f"ready after {vm.boot_seconds:.2f} s" if vm.boot_seconds else "never ready"
    if phases := ", ".join(f"{name} {seconds:.2f} s" for name, seconds in vm.boot_phases.items()):
        ready += f" ({'' if vm.manner == 'boot' else 'the boot that it goes on from: '}{phases})"
    facts["start"] = f"{vm.manner}, {ready}"
    if vm.reason:
        facts["not cloned"] = vm.reason
    facts["channel"] = vm.channel or "none has answered"
    facts["QEMU"] = f"process {vm.pid}, {instance.process.verdict()}"
    if (trouble := None if vm.closed else vm.trouble) is not None:
        facts["trouble"] = f"{type(trouble).__name__}: {trouble}"
    yield from (f"{name + ':':<12}{line(value)}\n" for name, value in facts.items())
    if missing := {name: reason for name, reason in evidence.missing.items() if name != OVERVIEW}:
        yield "\nNot here:\n"
        yield from (f"  {name}: {line(reason)}\n" for name, reason in missing.items())


# What QEMU and the guest are asked for.


def _ask(vm: "VirtualMachine", evidence: Evidence) -> None:
    loop = vm.loop
    status = vm.qmp.execute("query-status", timeout=_MONITOR_PATIENCE)
    with _piece(evidence, SCREENSHOT):
        late = partial(VmError, f"QEMU did not show the screen ({_MONITOR_PATIENCE:g} s)")
        png = loop.run(within(_MONITOR_PATIENCE, vm.screen.picture(), late)).png()
        with evidence.output_guard.file(evidence.folder / SCREENSHOT) as file:
            file.write(png)
        evidence.saved.append(evidence.folder / SCREENSHOT)
    channel = vm.instance.channels.found
    with _piece(evidence, "journal, failed units, processes"):
        if (trouble := vm.trouble) is not None:
            raise VmError(f"the guest was not asked: {trouble}")
        if not status["running"]:
            raise VmError(f"the guest was not asked: it is {status['status']}")
        if channel is None:
            raise VmError("the guest was not asked: no channel has answered")
        answers = bytearray()
        age = _age(vm.history.entries(), vm.handed_over, time.time())
        mark = f"{secrets.token_hex(8)} "  # which nothing that the guest has logged can have
        text = _QUESTIONS.format(mark=mark, age=age, complaints=complaints.QUESTIONS)
        late = partial(VmError, f"the guest did not answer in time ({_GUEST_PATIENCE:g} s)")
        nothing = channel.execute(b":", input=b"", stdout=answers.extend, stderr=answers.extend)
        loop.run(within(_GUEST_PATIENCE, vm.qmp.liveness.race(nothing), late))
        patience = _GUEST_PATIENCE * vm.slowness
        late = partial(VmError, f"the guest did not tell all in time ({patience:g} s)")
        asked = channel.execute(text.encode(), input=b"", stdout=answers.extend, stderr=answers.extend)
        try:
            loop.run(within(patience, vm.qmp.liveness.race(asked), late))
        finally:
            sections = dict(_sections(answers.decode(errors="replace"), mark))
            for name in [name for name in sections if name in PIECES]:
                with _piece(evidence, name):
                    _write(evidence, name, [shown(sections[name])])
            with _piece(evidence, "what the guest complained of"):
                evidence.complaints = complaints.complaints(sections, age=age, allowed=vm.config.health_allow)


def _age(entries: Iterable[HistoryEntry], handed_over: float, now: float) -> float:
    """Seconds that have passed in a guest since it was handed over, and one for the clocks.

    None pass while it is paused, and what came after a checkpoint has not been when it is restored.
    """
    known = list(entries)
    begin = max([handed_over, *(one.time for one in known if one.kind == "start")])
    age, since = 0.0, begin  # what had passed at a moment; `now` stands for a guest that is paused
    for one in known:
        if one.time < begin:
            continue
        if one.kind == "state" and "to" in one.detail:
            age, since = max(float(str(one.detail["to"])) - begin, 0.0), one.time
        elif (one.kind, one.what) == ("event", "STOP"):
            age, since = age + max(one.time - since, 0.0), now
        elif (one.kind, one.what) == ("event", "RESUME"):
            since = min(since, one.time)
    return age + now - since + 1


def _sections(text: str, mark: str) -> Iterator[tuple[str, str]]:
    for section in text.split(f"\n{mark}")[1:]:
        name, _, content = section.partition("\n")
        yield name, content
