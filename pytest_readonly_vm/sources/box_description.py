"""Owns what an archive says itself of the disks in it: an OVA's OVF, the metadata of a Vagrant box. Pure.

The words are those of DMTF's DSP0243 (Open Virtualization Format) and of vagrant-libvirt's description of its boxes.
"""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote
from xml.etree import ElementTree

LONGEST = 1 << 20
"""Bytes of a description."""

BOX_DISK = "box.img"
"""The disk of a Vagrant box whose metadata have no list of disks."""


def is_description(name: str) -> bool:
    """Whether a member of an archive may be one, by its name."""
    return name.endswith(".ovf") or PurePosixPath(name).name == "metadata.json"


def described_disks(texts: Mapping[str, bytes]) -> list[str]:
    """The names of the disks that the descriptions of an archive name.

    :raises ValueError: one cannot be understood.
    """
    names: dict[str, None] = {}
    for name, text in texts.items():
        for disk in _of_ovf(text) if name.endswith(".ovf") else _of_box(text):
            names[str(PurePosixPath(name).parent / disk)] = None  # which they say from where they are
    return list(names)


def _of_ovf(text: bytes) -> list[str]:
    try:
        document = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not in UTF-8") from None
    if "\0" in document:  # by which expat knows UTF-16, whatever it is told
        raise ValueError("it is not in UTF-8")
    if re.search("<!(?:DOCTYPE|ENTITY)", document):  # no OVF has either, and bombs of entities have both
        raise ValueError("it has a document type")
    try:
        root = ElementTree.fromstring(document)  # a text, which is read as the one that was searched, whatever it says
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None
    # By their names without the namespace, of which there are several versions.
    elements = [
        (one.tag.rpartition("}")[2], {key.rpartition("}")[2]: one.attrib[key] for key in one.attrib})
        for one in root.iter()
    ]
    files = {found.get("id"): found.get("href", "") for tag, found in elements if tag == "File"}
    # A disk without a file is an empty one.
    return [
        unquote(files.get(found["fileRef"], "")) for tag, found in elements if tag == "Disk" and found.get("fileRef")
    ]


def _of_box(text: bytes) -> list[str]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no object of JSON")
    disks = found.get("disks")
    named = [disk.get("path") for disk in disks if isinstance(disk, dict)] if isinstance(disks, list) else []
    return [name for name in named if isinstance(name, str)]
