"""What can go wrong, as a tree. No I/O.

::

    VmError
    ├── ConfigurationError       a setting is wrong or contradicts another; pytest shows it as UsageError
    ├── HostError                this computer lacks something that a machine needs
    │   ├── QemuNotFound
    │   ├── AcceleratorUnavailable
    │   ├── SealUnavailable
    │   └── OutOfSpace
    ├── ImageError               the base image is refused, before anything starts
    │   └── DownloadError        ... as it could not be had from its URL or registry
    ├── RemoteError              a frozen guest cannot go to the place where it is to lie, or come from there
    │   └── NotTrusted           ... as nobody whom this user trusts has signed it
    ├── BaseImageChanged         the base image is no longer what it was when the run opened it
    ├── BaseImageLost            the server of a base image on the network does not answer any more
    ├── StartFailed              QEMU did not come up
    ├── BootFailed               the firmware booted nothing: it found no loader, or Secure Boot refused it
    ├── GuestDied                the guest has come to its end, or QEMU with it, while somebody was waiting for it
    │   ├── GuestPanicked        ... by a panic of its kernel
    │   ├── GuestReset           ... by a reset that nobody asked for: a triple fault, a watchdog, a loop of reboots
    │   ├── GuestShutDown        ... as it shut down or was powered off
    │   └── QemuDied             ... as QEMU was killed, crashed, or was told to quit
    ├── GuestPaused              the guest stands still: paused, suspended, in a debugger, its disk cannot be written
    ├── CapsuleRefused           a saved machine is damaged, or does not fit this computer or its base image
    ├── GuestUnhealthy           a health gate found in the guest what should not be there
    ├── GuestBroken              an earlier test has met the end of this machine, or of all of its kind
    ├── ConnectionLost           QEMU is alive, but its monitor or console no longer talks to us
    ├── ChannelError             no way to run commands in the guest answered
    │   └── ChannelLost          ... any more: the guest rebooted, or ended its side of the channel
    ├── GuestLacks               the guest has not what is asked for: systemd, its journal
    │   └── UnitNotFound         ... or a systemd unit of that name
    ├── UnitFailed               a systemd unit that was waited for has failed, or cannot be started
    ├── CommandFailed            a command in the guest ended with another exit code than 0
    ├── TransferError            a file could not be read or written in the guest, or arrived damaged; also an OSError
    ├── DisplayError             the machine has no display, or a key does not exist
    ├── NetworkError             a private network of machines cannot do what is asked of it
    │   └── SwitchDied           ... any more: the process that is its switch has ended
    ├── DiskError                a disk of a machine cannot do what is asked of it
    ├── FaultUnused              a fault was on and has met nothing, so the test has shown nothing of it
    ├── RecordingError           a disk cannot be recorded, or what was recorded is not what is asked for
    ├── MountFailed              no file system of a disk after a power cut can be mounted
    ├── CutFailed                a check fails on what a disk may hold after a power cut; also an AssertionError
    ├── WaitTimeout              what was waited for did not come; also a TimeoutError
    │   ├── BootTimeout          ... and what was waited for was a ready guest
    │   └── CommandTimeout       ... and what was waited for was the end of a command, which was killed if possible
    └── QmpError                 QEMU refused a monitor command

The message of each is one line that says what happened. Evidence (the last console lines, QEMU's stderr, a command
line that can be pasted) and the next step are in its notes (`BaseException.add_note`), which pytest prints below it.
Both may have words of a guest in them, so both pass through `legible`, whoever wrote them.
"""

from collections.abc import Mapping

from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.printable import line, note


class _Legible(Exception):
    """What has a message and notes that are fit to be shown to a person."""

    def __str__(self) -> str:
        return line(super().__str__())

    def add_note(self, text: str) -> None:
        super().add_note(note(text))


class VmError(_Legible):
    """Anything that this package raises on purpose."""


class ConfigurationError(VmError):
    """A setting has an impossible value, or two settings contradict each other. The message names the origin."""


class HostError(VmError):
    """This computer lacks something that the machine needs."""


class QemuNotFound(HostError):
    """No usable QEMU, or a tool that comes with it, was found. The message names the package to install."""


class AcceleratorUnavailable(HostError):
    """The accelerator that was asked for is missing, denied, or does not run guests. The message says which."""


class SealUnavailable(HostError):
    """``seal=require`` was asked for and the kernel cannot confine QEMU."""


class OutOfSpace(HostError):
    """The folder for temporary snapshots has no room, or that for images that come from elsewhere."""


class ImageError(VmError):
    """The base image cannot be used: missing, damaged, encrypted, in use by a writer, or of an unsupported kind."""


class DownloadError(ImageError):
    """An image cannot be had from its URL or registry: refused, missing, cut too often, not what its digest says."""


class RemoteError(VmError):
    """A frozen guest cannot be pushed or fetched: the place is refused, stalls, has not all of it, or it is damaged."""


class NotTrusted(RemoteError):
    """A frozen guest is not used, as it is not signed by anybody in ``cache_signers``; the message says what to do."""


class BaseImageChanged(VmError):
    """A file of the base image's backing chain was written, truncated or replaced while the run was using it."""


class BaseImageLost(VmError):
    """The server of a base image on the network stalls, is gone, or refuses to go on, for longer than `image_timeout`.

    The guests that read from it got I/O errors from then on.
    """


class GuestWarning(_Legible, UserWarning):
    """The guest has booted, and something is not as it should be: units that failed, a login that leads nowhere."""


class ImageWarning(_Legible, UserWarning):
    """An image is used that somebody could have changed on its way: it came by http, or nobody knows its digest."""


class StartFailed(VmError):
    """QEMU ended or stayed silent before its monitor answered."""


class BootFailed(VmError):
    """The machine's firmware has booted nothing: it found no loader, or Secure Boot refused the one that it found."""


class GuestDied(VmError):
    """The guest came to its end, or QEMU with it, while somebody was waiting for it, by whatever hand.

    Raised as it is, and not as one of its kinds, where the machine was closed.
    """


class GuestPanicked(GuestDied):
    """The guest's kernel has panicked. QEMU has paused it if its kernel told so; otherwise it hangs, or will reboot.

    Attributes: `panic`, what the kernel said, empty if it said nothing on the serial console.
    """

    def __init__(self, message: str, *, panic: str = "") -> None:
        super().__init__(message)
        self.panic = panic


class GuestReset(GuestDied):
    """The guest has been reset and nobody asked for it. While it boots QEMU ends then; later the guest boots anew."""


class GuestShutDown(GuestDied):
    """The guest has shut down or powered itself off, and QEMU has ended with it."""


class QemuDied(GuestDied):
    """QEMU ended under the guest: killed by a signal, by a crash, by a refusal of its own, or told to quit."""


class GuestPaused(VmError):
    """The guest stands still, so nothing can be waited for; the message says why, and what lets it go on.

    Nothing is lost: it goes on with `VirtualMachine.resume`, which also wakes a guest that is suspended to RAM.

    Attributes: `state`, QEMU's run state: ``paused``, ``suspended``, ``debug``, ``io-error``, ``watchdog``, ...
    """

    def __init__(self, message: str, *, state: str = "") -> None:
        super().__init__(message)
        self.state = state


class CapsuleRefused(VmError):
    """A capsule is none, is damaged, or does not fit this computer or the image at hand; the message says which."""


class GuestUnhealthy(VmError):
    """A health gate has found in the guest what should not be there: a kernel oops, a failed unit, a core dump."""


class GuestBroken(VmError):
    """The machine, or all machines of its kind, cannot be trusted since an earlier test; the message says which."""


class ConnectionLost(VmError):
    """The connection to QEMU's monitor or console broke although the QEMU process is still running."""


class ChannelError(VmError):
    """No channel to run commands in the guest has answered. The message says of each channel why not."""


class ChannelLost(ChannelError):
    """The channel is gone under a command or transfer: the guest rebooted or shut down, or its agent or shell ended."""


class GuestLacks(VmError):
    """The guest has not what a wait or a question needs, such as systemd; nothing would come of waiting for it."""


class UnitNotFound(GuestLacks):
    """There is no such systemd unit in the guest, or none of that name can be. The message has names like it."""


class UnitFailed(VmError):
    """A systemd unit that was waited for has failed, is masked or cannot be loaded; the notes have its last lines."""


class CommandFailed(VmError):
    """A command in the guest ended with another exit code than 0.

    Attributes: `result`, the `CommandResult`. The notes have the ends of both streams.
    """

    def __init__(self, message: str, result: CommandResult) -> None:
        super().__init__(message)
        self.result = result


class TransferError(VmError, OSError):
    """A file or folder could not be read or written in the guest, or its checksum is another there."""


class DisplayError(VmError):
    """The machine has no display, or there is no such key on its keyboard."""


class NetworkError(VmError):
    """A private network cannot do what is asked: no port for a card, no address left, a machine that is not on it."""


class SwitchDied(NetworkError):
    """The process that is the switch of a private network has ended, and with it every connection over it."""


class DiskError(VmError):
    """A disk of a machine cannot do what is asked: no such place on it, an interface that has no such thing."""


class FaultUnused(VmError):
    """A fault has ended without having met a single frame of its network, or a single request to its disk.

    What it was to show is not shown.
    """


class RecordingError(VmError):
    """A disk cannot be recorded, the log of a recording is damaged or too large, or it has no such cut."""


class MountFailed(VmError):
    """A guest can mount no file system of a disk after a power cut; the message ends with what it said of the last."""


class CutFailed(VmError, AssertionError):
    """A check fails on what a disk may hold after a power cut. The notes have the line that reproduces it.

    Attributes: `id`, of the cut at which it failed first, and `minimal`, of the one with the fewest lost writes that
    still does; `cut` of a `Recording` gives them again.
    """

    def __init__(self, message: str, *, id: str, minimal: str) -> None:
        super().__init__(message)
        self.id = id
        self.minimal = minimal


class WaitTimeout(VmError, TimeoutError):
    """A wait for an event, a reply or a console pattern reached its deadline."""


class BootTimeout(WaitTimeout):
    """The guest did not become ready within ``boot_timeout``."""


class CommandTimeout(WaitTimeout):
    """A command in the guest did not end in time. The message says whether it was killed there.

    Attributes: `stdout` and `stderr`, what it had printed so far, as text. The notes have the ends of both.
    """

    def __init__(self, message: str, *, stdout: str, stderr: str) -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr


class QmpError(VmError):
    """QEMU answered a monitor command with an error.

    Attributes: `command` and `arguments` as they were sent, `error_class` (``GenericError``, ``CommandNotFound``,
    ``DeviceNotFound``, …: QMP's own names) and `description`, QEMU's sentence.
    """

    def __init__(self, command: str, arguments: Mapping[str, object], error_class: str, description: str) -> None:
        super().__init__(f"{command}: {description} ({error_class})")
        self.command = command
        self.arguments = dict(arguments)
        self.error_class = error_class
        self.description = description


for _error in [value for value in globals().values() if isinstance(value, type) and issubclass(value, VmError)]:
    _error.__module__ = "pytest_readonly_vm"  # where they are imported from; pytest's short summary has little room
