"""Owns the guest's screen and keyboard: pictures of the one, keys for the other, text read off the picture."""

import asyncio
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_readonly_vm.channels.keyboard import Keys, combination, typed
from pytest_readonly_vm.channels.pattern import compiled
from pytest_readonly_vm.channels.picture import Picture
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.errors import DisplayError, QmpError, VmError, WaitTimeout
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.tool import run_tool
from pytest_readonly_vm.image.output_guard import OutputGuard

_HOLD = 0.02  # seconds
_OCR_PATIENCE = 10.0
_POLLS = (0.05, 0.5)  # seconds: after a change, and when nothing has changed for long
_LETTERS = 3  # how much to enlarge: a text console's letters are 8 x 16, and OCR wants them thrice as high
_LINES_SHOWN = 50


class Screen:
    """The first display of one machine, and its keyboard.

    A PC has a keyboard; a machine of another type may need ``-device virtio-keyboard-pci`` or ``usb-kbd`` among its
    `qemu_args`. Keys for a keyboard that is not there are lost without a word.
    """

    def __init__(self, loop: LoopThread, qmp: Qmp, *, folder: Path, name: str, output_guard: OutputGuard) -> None:
        self._loop = loop
        self._qmp = qmp
        self._folder = folder
        self._name = name
        self._output_guard = output_guard
        self._typing = asyncio.Lock()
        self._keys: Sequence[str] = ()

    # On the loop's thread.

    async def picture(self) -> Picture:
        """What the screen shows.

        :raises DisplayError: the machine has no display.
        """
        # QEMU may write in the machine's own folder only.
        dump = self._folder / f"screen-{secrets.token_hex(4)}.ppm"
        try:
            await self._qmp.command("screendump", {"filename": str(dump)})
            return Picture.from_ppm(dump.read_bytes())
        except QmpError as error:
            raise self._blind(error.description.replace(str(dump), "its picture")) from None
        finally:
            dump.unlink(missing_ok=True)

    def _blind(self, refusal: str) -> DisplayError:
        if "no console" not in refusal:
            return DisplayError(f"{self._name}: the screen cannot be read: {refusal}")
        blind = DisplayError(f"{self._name}: the machine has no display")
        blind.add_note("A display comes with a device such as -device virtio-gpu-pci among its qemu_args.")
        return blind

    async def _press(self, all_keys: Sequence[Keys], hold: float) -> None:
        milliseconds = max(1, round(hold * 1000))  # QEMU takes 0 for 10
        async with self._typing:
            for keys in all_keys:
                status = (await self._qmp.command("query-status"))["status"]
                if status not in ("running", "suspended"):  # QEMU would drop the keys
                    raise VmError(f"{self._name}: the machine takes no keys: it is {status}")
                values = [{"type": "qcode", "data": key} for key in keys]
                await self._qmp.command("send-key", {"keys": values, "hold-time": milliseconds})
                # The time in which QEMU presses and lets go of them; it drops what does not fit into its queue.
                await asyncio.sleep(2 * len(keys) * milliseconds / 1000)

    async def _known_keys(self) -> Sequence[str]:
        if not self._keys:
            schema = await self._qmp.command("query-qmp-schema")  # where types have numbers for names
            enums = (entity["values"] for entity in schema if entity["meta-type"] == "enum")
            self._keys = next(names for names in enums if "kp_subtract" in names)
        return self._keys

    # On any thread.

    def screenshot(self, path: str | os.PathLike[str]) -> Path:
        """Write what the screen shows to a PNG file, in place of one that is there, and return its path.

        :raises DisplayError: the machine has no display.
        :raises VmError: the file cannot be written; its folder must exist; it must not be what machines read.
        :raises GuestDied: QEMU ended.
        """
        png = self._loop.run(self.picture()).png()
        path = Path(path).absolute()
        try:
            with self._output_guard.file(path) as file:
                file.write(png)
        except OSError as error:
            raise VmError(f"{self._name}: {path} cannot be written: {error.strerror}") from None
        return path

    def send_keys(self, *combinations: str, hold: float = _HOLD) -> None:
        """Press keys, one combination after the other: ``send_keys("ctrl-alt-f2", "a", "ret")``.

        Names are QEMU's, such as ``ret``, ``pgup``, ``f1``, ``meta_l``, ``kp_enter``, ``minus``, or more usual ones for
        them: ``enter``, ``pageup``, ``win``, ``space``. Returns when the last key is up. The first call takes 50 ms
        more, to ask for QEMU's names.

        :param hold: seconds between any two motions of a key; a guest that is slow to take them may need more.
        :raises DisplayError: there is no such key, or the machine has no display; nothing was pressed then.
        :raises VmError: the machine is paused.
        :raises GuestDied: QEMU ended.
        """
        self._loop.run(self.picture())
        known = self._loop.run(self._known_keys())
        try:
            keys = [combination(text, known) for text in combinations]
        except ValueError as error:
            raise DisplayError(f"{self._name}: {error}") from None
        self._loop.run(self._press(keys, hold))

    def type(self, text: str, *, hold: float = _HOLD) -> None:
        r"""Type a text on a keyboard with the US layout; ``\n`` is the Enter key and ``\t`` the tabulator.

        Takes two `hold` for each character and two more where Shift is needed: 200 characters take about 10 s.

        :param hold: as for `send_keys`.
        :raises DisplayError: such a keyboard lacks a character, or the machine has no display; nothing was typed then.
        :raises VmError: the machine is paused.
        :raises GuestDied: QEMU ended.
        """
        self._loop.run(self.picture())
        try:
            keys = typed(text)
        except ValueError as error:
            raise DisplayError(f"{self._name}: {error}") from None
        self._loop.run(self._press(keys, hold))

    def wait_for_text(self, pattern: str | re.Pattern[str], timeout: float = 60.0) -> re.Match[str]:
        """Wait until the screen shows a text, read by the program ``tesseract``, which must be installed.

        It takes a second or so for a screen full of text, and errs at times: O and 0, l and 1, _ and a space. So ask
        for words, and for few.

        :param pattern: a regular expression; a text is compiled with `re.MULTILINE`.
        :param timeout: seconds to wait; a reading that has begun then gets up to 10 s to end.
        :raises WaitTimeout: it did not show; a note has what was read last.
        :raises DisplayError: the machine has no display, or there is no tesseract.
        :raises GuestDied, GuestPaused: the guest has come to its end or stands still, so the screen will not change.
        """
        __tracebackhide__ = True
        wanted = compiled(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout
        seen, text, pause = None, "", _POLLS[0]
        end: VmError | None = None
        while True:
            picture = self._loop.run(self.picture())
            if picture != seen:
                seen, pause = picture, _POLLS[0]
                text = self._read(picture, max(_OCR_PATIENCE, deadline - time.monotonic()))
            if match := wanted.search(text):
                return match
            if end is not None:
                raise end
            if (left := deadline - time.monotonic()) <= 0:
                raise self._not_shown(wanted, timeout, text)
            try:
                self._loop.run(self._qmp.liveness.race(asyncio.sleep(min(pause, left))))
            except VmError as error:  # once more, as what has stopped the guest may be what is shown
                end = error
            pause = min(2 * pause, _POLLS[1])

    def _read(self, picture: Picture, timeout: float) -> str:
        if (tesseract := shutil.which("tesseract")) is None:
            raise DisplayError(
                f"{self._name}: reading the screen needs the program tesseract (on Debian and Ubuntu: apt-get install "
                "tesseract-ocr)"
            )
        file = self._folder / f"screen-{secrets.token_hex(4)}.pgm"
        try:
            file.write_bytes(picture.for_reading(_LETTERS))
            # A block of text; one thread, as several are slower on all but idle computers.
            done = run_tool(
                [tesseract, str(file), "-", "--psm", "6", "-c", "preserve_interword_spaces=1"],
                timeout=timeout,
                env={**os.environ, "OMP_THREAD_LIMIT": "1"},
            )
        finally:
            file.unlink(missing_ok=True)
        if done.returncode:
            raise DisplayError(
                f"{self._name}: tesseract failed: {done.stderr.strip().replace(str(file), 'the picture')}"
            )
        return done.stdout

    def _not_shown(self, wanted: re.Pattern[str], timeout: float, text: str) -> WaitTimeout:
        error = WaitTimeout(f"{self._name}: the screen did not show {wanted.pattern!r} within {timeout:g} s")
        lines = [line for line in text.splitlines() if line.strip()]
        error.add_note("\n".join(["Read last:", *lines[-_LINES_SHOWN:]]) if lines else "No text could be read.")
        return error
