"""Keys are found by QEMU's names and by usual ones; a text becomes keys of a US keyboard."""

import pytest

from pytest_readonly_vm.channels.keyboard import combination, typed

KNOWN = ("ctrl", "alt", "alt_r", "shift", "f2", "ret", "esc", "spc", "meta_l", "minus", "a", "pgup", "kp_enter")


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-alt-f2", ("ctrl", "alt", "f2")),
        ("Ctrl-Alt-F2", ("ctrl", "alt", "f2")),
        ("a", ("a",)),
        ("A", ("a",)),
        ("kp_enter", ("kp_enter",)),
        ("Enter", ("ret",)),
        ("win-PageUp", ("meta_l", "pgup")),
        ("ctrl-minus", ("ctrl", "minus")),
        ("space", ("spc",)),
    ],
)
def test_a_combination(text: str, keys: tuple[str, ...]) -> None:
    assert combination(text, KNOWN) == keys


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ctrl-excape", r"^there is no key 'excape' in 'ctrl-excape' \(did you mean 'escape'\?\)$"),
        ("pageupp", r"\(did you mean 'pageup'\?\)$"),
        ("ctrl--", "^there is no key '' in 'ctrl--'$"),
        ("", "^there is no key '' in ''$"),
        ("ctrl alt", "^there is no key 'ctrl alt'"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        combination(text, KNOWN)


def test_a_text() -> None:
    assert typed("aA1!\t_\n") == [
        ("a",),
        ("shift", "a"),
        ("1",),
        ("shift", "1"),
        ("tab",),
        ("shift", "minus"),
        ("ret",),
    ]
    assert typed("") == []


@pytest.mark.parametrize(("text", "character"), [("é", "'é'"), ("a\r", r"'\\r'"), ("€", "'€'")])
def test_a_character_that_is_on_no_key_is_named(text: str, character: str) -> None:
    with pytest.raises(ValueError, match=rf"^a US keyboard has no {character} \(character {len(text)} of the text\)$"):
        typed(text)
