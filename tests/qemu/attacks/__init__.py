"""Ways in which whoever holds the monitor may try to change the base image.

One for every command of QMP and HMP (QEMU 7.2) that opens, creates or removes a file by its name, or that makes QEMU
run a program. Each is tried with the options that take it furthest: no image locking, existing files reused.
"""

from tests.qemu.attacks.attacker import Attack
from tests.qemu.attacks.disks import ON_DISKS, ON_ITS_OWN_DISK
from tests.qemu.attacks.files import ON_FILES

ATTACKS = (*ON_DISKS, *ON_FILES)

__all__ = ["ATTACKS", "ON_DISKS", "ON_FILES", "ON_ITS_OWN_DISK", "Attack"]
