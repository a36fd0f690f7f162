"""Owns the table of options: what each setting is called, what it takes, and what ``--help`` says of it. Pure.

What a setting means, `settings` says. Every run of pytest loads this, and only those that use machines load that.
"""

import os
from typing import Any, NamedTuple

SCOPES = ("function", "class", "module", "package", "session")


class Option(NamedTuple):
    """How one setting is given by a command line, an environment variable or an ini file."""

    metavar: str
    help: str
    kind: type = str
    """`list` is for the arguments of a program, which may be given in one text."""
    repeatable: bool = False
    separator: str = ""
    """What parts several values in an environment variable; a blank is for any white space. Without, there is one."""

    def of_options(self, value: Any) -> object:
        """What options on a command line have said: those that repeat arguments add up to one list."""
        return " ".join(value) if self.kind is list else value

    def of_variable(self, value: str) -> object:
        """What an environment variable has said."""
        return value.split(None if self.separator.isspace() else self.separator) if self.separator else value


OPTIONS = {
    "image": Option(
        "IMAGE",
        "base image, never written: a path, also of a packed file; a URL, https:// or oci://; a name of vm-images.toml "
        "(repeat the option to run every VM test once per image)",
        repeatable=True,
        separator=os.pathsep,
    ),
    "format": Option(
        "NAME", "format of the base image: qcow2, raw, qed, vmdk, vdi, vhdx, vpc (default: what qemu-img finds)"
    ),
    "cdrom": Option(
        "PATH",
        "CD or DVD image in the machine's drive, never written: as an image a path, also of a packed file, or a URL; "
        "an image that is a CD itself is there without a disk",
    ),
    "memory": Option("SIZE", "guest memory, like 512M or 2G (default: 1G)"),
    "cpus": Option("N", "virtual CPUs (default: 1)", kind=int),
    "cpu_model": Option(
        "NAME",
        "QEMU CPU model (default: max for x86, Arm and s390x guests, nearly all that the accelerator can do)",
    ),
    "machine": Option(
        "TYPE",
        "QEMU machine type (default: pc for x86 guests, virt for Arm, RISC-V and LoongArch, pseries for POWER)",
    ),
    "firmware": Option(
        "NAME",
        "what boots the image: bios; uefi; uefi-secure, which refuses what is not signed by the keys that the "
        "distribution has enrolled; auto, uefi if the image can boot by nothing else (default: auto)",
    ),
    "tpm": Option("on|off", "give each machine a TPM 2.0 of its own, by swtpm", kind=bool),
    "accel": Option(
        "NAME",
        "auto: KVM if it is proved to run guests here, else TCG; kvm: refuse to run without; tcg (default: auto)",
    ),
    "qemu": Option("BINARY", "QEMU system emulator, a name on PATH or a path (default: the one for arch)"),
    "arch": Option(
        "NAME",
        "architecture of the guest: x86_64, aarch64, riscv64 and what else QEMU emulates, also as amd64, arm64, …; "
        "auto, that of qemu, of the kernel, or of the image, as far as its partitions or loaders for UEFI tell, else "
        "this computer's (default: auto)",
    ),
    "kernel": Option("PATH", "kernel for a direct boot, without the image's bootloader"),
    "initrd": Option("PATH", "initial RAM disk for a direct boot"),
    "append": Option("TEXT", "kernel command line for a direct boot"),
    "disk_interface": Option(
        "NAME", "how the guest sees its disk: virtio, scsi, sata, ide, nvme, usb (default: virtio)"
    ),
    "disks": Option(
        "NAME:SIZE",
        "a further disk, blank and of a size, or NAME:IMAGE, with the content of an image; ,interface= ,serial= and "
        ",format= may follow; repeatable",
        repeatable=True,
        separator=" ",
    ),
    "network": Option(
        "NAME",
        "user: outward connections through QEMU, nothing listens on the host; restricted: a network card of which no "
        "connection leads out; none (default: user)",
    ),
    "networks": Option(
        "NAME",
        "private networks between the machines of a test, or of what shares them, that a machine is on; repeatable",
        repeatable=True,
        separator=",",
    ),
    "qemu_args": Option(
        "ARGS", "extra QEMU arguments, split like a shell would; repeatable", kind=list, repeatable=True
    ),
    "snapshot": Option(
        "MODE",
        "where the guest's writes go: temporary, a file without a name that the kernel reclaims when QEMU ends; "
        "overlay, a named qcow2 file (default: temporary)",
    ),
    "keep": Option(
        "WHEN",
        "keep the overlay of a machine in the output folder: never, on-failure, always; its guest is shut down first, "
        "for at most 30 s (default: never)",
    ),
    "evidence": Option(
        "WHEN",
        "save what is known of the machines of a test in a folder of its own: on, always; retain-on-failure, if it "
        "fails; off (default: retain-on-failure)",
    ),
    "capsule": Option(
        "WHEN",
        "save the machines of a test that fails as they are at that moment, for readonly-vm resume: never, on-failure "
        "(default: never)",
    ),
    "output": Option(
        "DIR", "folder for evidence, capsules, overlays and whatever else is kept (default: test-results)"
    ),
    "report": Option("PATH", "write a page that shows the run: machines, boots, commands, tests; a single HTML file"),
    "panic_pattern": Option(
        "REGEX",
        "a line on the serial console that means that the guest has panicked, beside those of Linux, BSD and Windows; "
        "repeatable",
        repeatable=True,
    ),
    "health": Option(
        "WHAT",
        "fail a test whose guest shows, by its end: kernel, an oops, warning or hung task; units, a failed unit; "
        "cores, a core dump; journal:REGEX, such a line; repeatable",
        repeatable=True,
    ),
    "health_allow": Option(
        "REGEX", "what the health gates are not to mind: lines, names of units; repeatable", repeatable=True
    ),
    "tmpdir": Option("DIR", "where the guests' temporary writes go, on a disk with room (default: TMPDIR or /var/tmp)"),
    "verify": Option(
        "HOW",
        "prove the base untouched: stat, by identity, size and times after every test; hash, by SHA-256 at the end of "
        "the run as well; off (default: stat)",
    ),
    "seal": Option(
        "HOW",
        "confine QEMU with Landlock and its seccomp sandbox: auto, as far as this computer can; require, or refuse to "
        "run; off (default: auto)",
    ),
    "channel": Option(
        "NAME",
        "how commands reach the guest: agent, the QEMU guest agent; shell, a root shell on a virtio port; ssh; auto, "
        "the first of agent and shell that answers; none (default: auto)",
    ),
    "provision": Option(
        "HOW",
        "how an unprepared image gets a channel: cloud-init, by a seed; systemd, by credentials (252 or later); "
        "kernel, by the command line of a direct boot; auto, by what fits; none (default: auto)",
    ),
    "user_data": Option("PATH", "user data for cloud-init, merged with what the plugin needs"),
    "login": Option("NAME", "user to log in as at the serial console's prompt, for the shell"),
    "password": Option("TEXT", "password for login; never shown"),
    "login_prompt": Option(
        "REGEX", "a login prompt on the serial console, beside those that end with login:; repeatable", repeatable=True
    ),
    "password_prompt": Option(
        "REGEX", "a prompt for a password there, beside those that are known; repeatable", repeatable=True
    ),
    "boot_timeout": Option(
        "SECONDS", "how long a guest may take to become ready, times timeout-factor (default: 90)", kind=float
    ),
    "test_timeout": Option(
        "SECONDS",
        "how long a test with a machine may take that has no timeout of its own, boots apart, times timeout-factor "
        "(default: 120)",
        kind=float,
    ),
    "timeout_factor": Option(
        "FACTOR",
        "by how much guests are slower here than on the computers that these two times are meant for; auto: 1 with "
        "KVM, 4 with TCG (default: auto)",
    ),
    "ready": Option(
        "WHAT",
        "when a guest counts as booted: auto, a channel answers and its init has finished, or a login prompt shows; "
        "channel, agent, shell, ssh, systemd, port:N, unit:NAME, console:PATTERN, event:QMP_EVENT, none "
        "(default: auto)",
    ),
    "start": Option(
        "HOW",
        "how a machine comes to be: cold, each boots; clone, the first boots and is frozen, each is a fresh process "
        "that goes on from there; auto, clone where that is possible and faster (default: auto)",
    ),
    "layers": Option(
        "MODULE:NAME",
        "prepared states of the guest that a test starts from, each upon the one before",
        repeatable=True,
        separator=" ",
    ),
    "cluster": Option("MODULE:NAME", "the function that forms the cluster that the fixture readonly_vm_cluster gives"),
    "machine_id": Option(
        "WHAT", "the machine-id of a clone: keep, that of the guest which it is a copy of; new (default: keep)"
    ),
    "prove_pristine": Option(
        "on|off",
        "leave a mark in RAM and on the disk of each machine, and fail if a machine has one when it is handed over",
        kind=bool,
    ),
    "prefetch": Option(
        "N",
        "start the next tests' clones while a test runs: so many ahead, 0 for none, in xdist's workers one at most; "
        "auto: two, none where there is one CPU (default: auto)",
    ),
    "cache": Option("DIR", "folder for frozen guests, from which later runs start (default: in the user's cache)"),
    "cache_size": Option("SIZE", "how much the frozen guests may take there (default: 10G)"),
    "cache_from": Option(
        "TARGET",
        "where frozen guests of other computers are, taken if they fit this one: a folder, oci://REGISTRY/NAME, or a "
        "URL of S3, GCS, Azure, SSH, HTTP; `readonly-vm cache push TARGET` puts them there",
    ),
    "cache_signers": Option(
        "FILE",
        "who may have signed them, as ssh-keygen(1) has allowed signers; what nobody of them has signed is refused, "
        "but in a folder of your own",
    ),
    "cache_unsigned": Option("on|off", "take what nobody has signed as well: it runs, and is believed", kind=bool),
    "image_store": Option(
        "DIR", "where images that were unpacked or downloaded are kept (default: in the user's cache)"
    ),
    "image_store_size": Option("SIZE", "how much of them is kept, the least recently used going first (default: 50G)"),
    "image_timeout": Option(
        "SECONDS", "how long the server of an image on the network may take for an answer (default: 15)"
    ),
    "no_cache": Option("on|off", "keep no frozen guests for later runs", kind=bool),
    "budget": Option(
        "SIZE[,CPUS]",
        "what the machines of all your test runs on this computer may have together, such as 12G or 12G,8; who finds "
        "no room waits; auto, four fifths of the memory and four guest CPUs for each CPU; off (default: auto)",
    ),
    "reset": Option(
        "WHEN",
        "before a test, set a machine that others have used back to its start: never, each-test (default: never)",
    ),
    "scope": Option(
        "SCOPE",
        "how long the machine of readonly_vm lives: function, class, module, package, session (default: function)",
    ),
    "monitor": Option(
        "on|off",
        "give each machine a second monitor for a human, and print how to reach it (not from xdist's workers)",
        kind=bool,
    ),
    "shard": Option(
        "NUMBER/SHARDS",
        "run one of so many parts of the tests, like 2/8: each test is in one of them, and those that start from the "
        "same frozen guest are in as few as balance allows",
    ),
    "durations": Option(
        "FILE",
        "how long tests took earlier, as JSON, by which shards and xdist's groups are balanced; pytest-split reads "
        "it, too",
    ),
    "store_durations": Option("on|off", "write how long the tests of this run took into that file", kind=bool),
}
