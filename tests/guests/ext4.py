"""Owns the ext4 file systems in the guests' disks: the same content gives the same bytes."""

from __future__ import annotations

# Spelled out, as mke2fs.conf differs between distributions, and GRUB has to understand all of them.
_FEATURES = (
    "has_journal",
    "ext_attr",
    "resize_inode",
    "dir_index",
    "filetype",
    "extent",
    "64bit",
    "flex_bg",
    "sparse_super",
    "large_file",
    "huge_file",
    "dir_nlink",
    "extra_isize",
    "metadata_csum",
)


def environment(time: int) -> dict[str, str]:
    """The environment in which e2fsprogs takes `time` (seconds since 1970) for the present."""
    # E2FSPROGS_FAKE_TIME is what versions up to 1.47.0 have; SOURCE_DATE_EPOCH came with 1.47.1.
    return {"E2FSPROGS_FAKE_TIME": str(time), "SOURCE_DATE_EPOCH": str(time)}


def mke2fs(image: str, *, size: int, label: str, uuid: str, offset: int = 0, content: str = "") -> list[str]:
    """The command that makes a file system of `size` bytes at `offset` of a file, with a folder's content."""
    options = [f"hash_seed={uuid}", "root_owner=0:0", "lazy_itable_init=1", "nodiscard", f"offset={offset}"]
    source = ["-d", content] if content else []
    return [
        *("mke2fs", "-q", "-F", "-t", "ext4"),
        *("-O", ",".join(("none", *_FEATURES))),
        *("-b", "4096", "-I", "256", "-i", "16384", "-m", "1"),
        *("-L", label, "-U", uuid),
        *("-E", ",".join(options)),
        *source,
        *(image, f"{size // 1024}k"),
    ]


def settle(image: str, *, offset: int, time: int) -> str:
    """A shell script that gives every inode the access and change time `time`, then checks the file system.

    ``mke2fs -d`` copies both from the folder's files, and no program can set the change time of a file. It
    hands out inodes from 1 upwards without gaps. `image` is a word of shell, quoted where needed.
    """
    target = f'{image}"?offset={offset}"'
    return f"""\
used=$(debugfs -R 'stats -h' {target} |
    awk -F: '/^Inode count/ {{ all = $2 }} /^Free inodes/ {{ free = $2 }} END {{ print all - free }}')
seq 1 "$used" | awk '{{ set = "set_inode_field <" $1 ">"
                       print set, "atime @{time}"; print set, "ctime @{time}" }}' |
    debugfs -w -f - {target} > /dev/null
e2fsck -f -n {target} > /dev/null
"""
