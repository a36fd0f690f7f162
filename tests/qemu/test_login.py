"""A login at the serial console, of guests that speak any language, and of gettys upon whose prompts others print."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import AllOf, BootTimeout, ChannelError, ConsolePattern, GuestWarning, VirtualMachine
from tests.guests import bootsector
from tests.qemu.conftest import STARTS
from tests.qemu.waiting import GENEROUS

PASSWORD = "tOp-secret"
BEGUN = r"\(cd /;trap : HUP"
"""What the console shows when the line that serves a channel is typed at a root shell's prompt."""

NAME = ("debian login: ", "", True)


@pytest.fixture
def log_in(tmp_path: Path, boot: Callable[..., VirtualMachine]) -> Callable[..., VirtualMachine]:
    def start(*steps: tuple[str, str, bool], welcome: str = "root@debian:~# ", **settings: object) -> VirtualMachine:
        sector = bootsector.serial_login(*steps, welcome=welcome)
        image = bootsector.write_image(tmp_path / "login.img", sector)
        common = {"channel": "shell", "provision": "none", "login": "root", "password": PASSWORD}
        return boot(image, **{**common, "ready": f"console:{BEGUN}", **settings})

    return start


@pytest.mark.parametrize(
    ("steps", "welcome", "answers"),
    [
        ([NAME, ("Passwort: ", "", False)], "root@debian:~# ", f"root|{PASSWORD}|"),
        ([NAME, ("密码：", "", False)], "\x1b[?2004hroot@debian:~# ", f"root|{PASSWORD}|"),
        # In no language that we know: a letter tells whether the line is shown, and ^U takes it back on a terminal.
        ([NAME, ("Nenosiri: ", "", False)], "root@debian:~# ", f"root|x\x15{PASSWORD}|"),
        ([NAME], "Last login: today\r\n~ # \x1b[6n", "root|"),
        (
            [
                ("debian login: ", "[    9.1] random: crng init done\r\n", True),
                ("\x1b[1mMot de passe :\x1b[0m ", "", False),
            ],
            "root@debian:~# ",
            f"root|{PASSWORD}|",
        ),
        ([("\x1b[0;32m(none) login:\x1b[0m ", "", True), ("Geheim? ", "", False)], "# ", f"root|{PASSWORD}|"),
    ],
)
def test_each_prompt_gets_its_answer(
    log_in: Callable[..., VirtualMachine], steps: list[tuple[str, str, bool]], welcome: str, answers: str
) -> None:
    machine = log_in(*steps, welcome=welcome, password_prompt=r"^Geheim\? $")
    assert f"\n({answers})\n" in machine.console.text
    assert machine.console.text.count(PASSWORD) == answers.count(PASSWORD), "it was shown elsewhere"


def test_a_prompt_that_is_hidden_once_the_password_was_typed_is_shown_anew(
    log_in: Callable[..., VirtualMachine],
) -> None:
    machine = log_in(NAME, ("Password: ", "", False), ("root@debian:~# ", "[    9.1] foo\r\n", True))
    assert "foo\n\nroot@debian:~# (cd /;" in machine.console.text


def test_a_password_is_not_typed_where_all_could_see_it(log_in: Callable[..., VirtualMachine]) -> None:
    with pytest.raises(BootTimeout) as timeout:
        log_in(NAME, ("Nenosiri: ", "", True), boot_timeout=3)
    notes = "\n".join(timeout.value.__notes__)
    assert "'Nenosiri:' may ask for the password, which would have been shown (see password_prompt)" in notes
    assert PASSWORD not in notes


@pytest.mark.parametrize(
    ("settings", "steps", "welcome", "sentence"),
    [
        ({}, [("Passwort: ", "", False)], "Login incorrect\r\n", "was refused: Login incorrect"),
        ({}, [("Passwort: ", "", False)], "Anmeldung falsch\r\ndebian login: ", "was refused: debian login:"),
        ({}, [("Password: ", "", False)], "Current password: ", "was refused: Current password:"),
        (
            {"password": None},
            [("密码：", "", False)],
            "# ",
            r"needs a password \(密码：\), and there is no setting password",
        ),
        ({}, [], "guest@debian:~$ ", r"leads to the shell of an ordinary user \(guest@debian:~\$\); root is needed"),
    ],
)
def test_a_login_that_is_refused_ends_the_boot_at_once(
    log_in: Callable[..., VirtualMachine],
    settings: dict[str, object],
    steps: list[tuple[str, str, bool]],
    welcome: str,
    sentence: str,
) -> None:
    with pytest.raises(ChannelError, match=f"guest: the login of root {sentence}") as refused:
        log_in(NAME, *steps, welcome=welcome, ready="auto", **settings)
    notes = "\n".join(refused.value.__notes__)
    assert "It was tried at the serial console, with login from replace(login=…)" in notes
    assert "Last console lines:" in notes


def test_a_login_prompt_is_enough_where_no_channel_answers_by_the_deadline(
    log_in: Callable[..., VirtualMachine],
) -> None:
    machine = log_in(NAME, ("Passwort: ", "", False), ready="auto", boot_timeout=4)
    assert f"(root|{PASSWORD}|)" in machine.console.text


def test_a_login_that_gets_stuck_is_told(log_in: Callable[..., VirtualMachine]) -> None:
    with pytest.warns(
        GuestWarning, match="it shows a login prompt, and no channel answers: root was typed, and no prompt"
    ):
        log_in(NAME, ("What now?", "", False), ready="auto", boot_timeout=2)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("ready", "upon"),
    [
        ("auto", ""),
        ("auto", "/dev/root resized successfully\r\n"),
        ("console:login: $", ""),
        (AllOf(ConsolePattern("login: "), ConsolePattern("debian")), ""),
    ],
    ids=str,
)
def test_readiness_takes_nothing_away_from_the_test(
    log_in: Callable[..., VirtualMachine], start: str, ready: object, upon: str
) -> None:
    machine = log_in(("debian login: ", upon, True), start=start, channel="none", login=None, ready=ready)
    machine.console.expect("debian login: ", timeout=GENEROUS)
    machine.console.send("root\n")
    machine.console.expect("root", timeout=GENEROUS)
