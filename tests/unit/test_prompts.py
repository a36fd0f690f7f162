"""Prompts are known as what they are, in any language and with whatever others print upon them, and nothing else is."""

import pytest

from pytest_readonly_vm import VmConfig
from pytest_readonly_vm.guest.prompts import Asked, Prompts, refusal


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Debian GNU/Linux 12 debian ttyS0\n\ndebian login: ", Asked.NAME),
        ("(none) login: ", Asked.NAME),
        ("München-1 login: ", Asked.NAME),
        ("FreeBSD/amd64 (host) (ttyu0)\n\nlogin: ", Asked.NAME),
        ("somewhere console login: ", Asked.NAME),
        ("\x1b[0;32mdebian login:\x1b[0m ", Asked.NAME),
        ("[   12.3] foo: bar\nlocalhost login:", Asked.NAME),
        ("[   12.3] no end of a linelocalhost login: ", Asked.NAME),
        ("debian login: /dev/root resized successfully\n", Asked.COVERED_NAME),
        ("localhost login: [   23.1] random: crng init done", Asked.COVERED_NAME),
        ("localhost login: [   23.1] random: crng init done\n[   24.0] more\n", Asked.COVERED_NAME),
        ("\x1b[Jdebian login: \n[   12.3] foo\n", Asked.COVERED_NAME),
        ("Last login: Thu Nov 26 01:00:00 on ttyS0\n", None),
        ("Last login: Thu Nov 26 01:00:00 on ttyS0\nroot@debian:~# ", Asked.ROOT),
        ("Welcome. Please login: see the manual\n", None),
        ("[    1.0] login: a driver\n", None),
        *(
            (f"root\n{prompt}", Asked.PASSWORD)
            for prompt in (
                *("Password: ", "Password:", "root's password: ", "Password for root@REALM: ", "Passwort: "),
                *("Mot de passe : ", "Mot de passe\xa0: ", "Contraseña: ", "Palavra-passe: ", "Parola: ", "Hasło: "),
                *("Пароль: ", "Лозинка: ", "密码：", "密碼: ", "パスワード: ", "암호: ", "Κωδικός: ", "PASSWORD: "),
            )
        ),
        ("root\n\x1b[1mPasswort:\x1b[0m ", Asked.PASSWORD),
        ("root\nYour password will expire in 3 days.\n", None),
        ("root\nContrase\ufffda: ", Asked.QUESTION),
        ("root\nNenosiri: ", Asked.QUESTION),
        ("root\n[   12.3] usb 1-1: ", None),
        ("root\n[   12.3] usb 1-1: new device:\n", None),
        ("\x1b[?2004hroot@debian:~# ", Asked.ROOT),
        ("~ # \x1b[6n", Asked.ROOT),
        ("Expanding ####", None),
        ("user@debian:~$ ", Asked.USER),
        ("grub> ", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_a_text_asks_for(text: str, asked: Asked | None) -> None:
    assert Prompts().asked(text) is asked


def test_prompts_that_a_user_knows() -> None:
    config = VmConfig().replace(login_prompt="Benutzer> $", password_prompt=[r"^Geheim\? $"])
    prompts = Prompts.of(config)
    assert prompts.asked("switch\nBenutzer> ") is Asked.NAME
    assert prompts.asked("switch\nBenutzer> \n[    9.0] foo\n") is Asked.COVERED_NAME
    assert prompts.asked("root\nGeheim? ") is Asked.PASSWORD
    assert Prompts().asked("root\nGeheim? ") is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n\nLogin incorrect\ndebian login: ", "Login incorrect"),
        ("\nlogin: Authentication failure\n", "login: Authentication failure"),
        ("\nLast failed login: yesterday\nThere was 1 failed login attempt\n", ""),
    ],
)
def test_the_words_of_a_refusal(text: str, line: str) -> None:
    assert refusal(text) == line


def test_text_that_a_hostile_guest_sends_costs_little() -> None:
    for text in ("password" * 500, "a " * 2000, "login: " * 600, "#" * 4000, ":" * 4000):
        assert Prompts().asked(text) is not Asked.PASSWORD
