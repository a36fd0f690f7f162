"""Owns what the keys of a guest's keyboard are called, and which of them type a text. Pure.

A key's own name is QEMU's: ``QKeyCode`` in https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html.
"""

import string
from collections.abc import Collection

from pytest_readonly_vm.config.values import nearest

Keys = tuple[str, ...]
"""Keys that are pressed in this order, and let go of in the other."""

_SIGNS = {
    " ": "spc", "-": "minus", "=": "equal", "[": "bracket_left", "]": "bracket_right", "\\": "backslash",
    ";": "semicolon", "'": "apostrophe", "`": "grave_accent", ",": "comma", ".": "dot", "/": "slash",
}  # fmt: skip
_PLAIN = {**{key: key for key in string.ascii_lowercase + string.digits}, **_SIGNS, "\n": "ret", "\t": "tab"}
_SHIFTED = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True))
_SHIFTED |= dict(zip(string.ascii_uppercase, string.ascii_lowercase, strict=True))

_ALIASES = {
    "enter": "ret", "return": "ret", "escape": "esc", "space": "spc", "del": "delete", "ins": "insert",
    "pageup": "pgup", "pagedown": "pgdn", "control": "ctrl", "altgr": "alt_r", "printscreen": "print",
    "win": "meta_l", "windows": "meta_l", "super": "meta_l", "meta": "meta_l", "cmd": "meta_l",
    "capslock": "caps_lock", "numlock": "num_lock", "scrolllock": "scroll_lock",
}  # fmt: skip


def combination(text: str, known: Collection[str]) -> Keys:
    """The keys that ``ctrl-alt-f2`` names, given QEMU's names for all keys; case does not matter.

    :raises ValueError: one is none; the message has the nearest that is.
    """
    return tuple(_key(word, text, known) for word in text.lower().split("-"))


def _key(word: str, text: str, known: Collection[str]) -> str:
    key = _ALIASES.get(word) or _SIGNS.get(word) or word
    if key not in known:
        raise ValueError(f"there is no key {word!r} in {text!r}{nearest(word, [*known, *_ALIASES])}")
    return key


def typed(text: str) -> list[Keys]:
    """What is pressed on a US keyboard to type a text, a new line by the Enter key.

    :raises ValueError: it has a character that is on no key.
    """
    return [_character(character, position) for position, character in enumerate(text, start=1)]


def _character(character: str, position: int) -> Keys:
    if character in _PLAIN:
        return (_PLAIN[character],)
    if character in _SHIFTED:
        return "shift", _PLAIN[_SHIFTED[character]]
    raise ValueError(f"a US keyboard has no {character!r} (character {position} of the text)")
