"""Owns what a disk's own tables tell of the processor that it is for.

Sources: the Discoverable Partitions Specification for the types of root and /usr partitions, UEFI specification 2.10,
3.5.1.1 for the names of loaders; zipl writes its name (s390-tools, zipl/include/boot.h).
"""

from uuid import UUID

from pytest_readonly_vm.image.layout import DiskLayout

LOADERS = {
    "BOOTX64.EFI": "x86_64",
    "BOOTIA32.EFI": "i386",
    "BOOTAA64.EFI": "aarch64",
    "BOOTARM.EFI": "arm",
    "BOOTRISCV64.EFI": "riscv64",
    "BOOTLOONGARCH64.EFI": "loongarch64",
}
"""What a firmware looks for on a disk that it has never seen, by name."""

_PREP_OF_MBR = 0x41
_TYPES: dict[UUID | int, str] = {
    UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"): "x86_64",
    UUID("8484680c-9521-48c6-9c11-b0720656f69e"): "x86_64",
    UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"): "aarch64",
    UUID("b0e01050-ee5f-4390-949a-9101b17104e9"): "aarch64",
    UUID("69dad710-2ce4-4e3c-b16c-21a1d49abed3"): "arm",
    UUID("7d0359a3-02b3-4f0a-865c-654403e70625"): "arm",
    UUID("72ec70a6-cf74-40e6-bd49-4bda08e8f224"): "riscv64",
    UUID("beaec34b-8442-439b-a40b-984381ed097d"): "riscv64",
    UUID("c31c45e6-3f39-412e-80fb-4809c4980599"): "ppc64",
    UUID("15bb03af-77e7-4d4a-b12b-c0d084f7491c"): "ppc64",
    UUID("5eead9a9-fe09-4a1e-a1d7-520d00531306"): "s390x",
    UUID("8a4f5770-50aa-4ed3-874a-99b710db6fea"): "s390x",
    UUID("77055800-792c-4f94-b39a-98c91b762bb6"): "loongarch64",
    UUID("e611c702-575c-4cbe-9a46-434fa0bf7e3f"): "loongarch64",
    UUID("9e1a2d38-c612-4316-aa26-8b49521e5a8b"): "ppc64",  # of its firmware's boot loader, as the next
    _PREP_OF_MBR: "ppc64",
}
"""What is in a partition of this type."""


def archs_of(layout: DiskLayout) -> dict[str, str]:
    """The architectures that a disk is for, in QEMU's words, and what says so of each; none if nothing does.

    :raises ImageError: the image cannot be read.
    """
    found = {_TYPES[one.type]: "the type of its partitions" for one in layout.partitions if one.type in _TYPES}
    if found:
        return found  # there is no need to look into a file system
    if layout.has_zipl:
        return {"s390x": "the boot record of zipl"}
    return {LOADERS[name]: name for name in layout.loaders if name in LOADERS}
