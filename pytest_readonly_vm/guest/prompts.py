"""Owns what a prompt on a serial console looks like: of a getty, of what asks for a password, of a shell. Pure.

A getty prints ``HOST login: `` in every language; what asks for the password afterwards does so in the guest's own,
and turns the terminal's echo off. What others print at the same time, such as the kernel, goes behind or upon a prompt.
"""

import enum
import re
from dataclasses import dataclass
from typing import Self

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.printable import shown

# What the translations of Linux-PAM, shadow and util-linux ask with.
_PASSWORD_WORDS = (
    *("password", "passwort", "kennwort", "mot de passe", "contraseña", "contrasenya", "contrasinal", "clave"),
    *("senha", "palavra-passe", "parol", "wachtwoord", "lösenord", "adgangskode", "kodeord", "passord", "salasana"),
    *("lykilorð", "hasło", "heslo", "jelszó", "geslo", "lozinka", "zaporka", "slaptažodis", "şifre", "pasahitza"),
    *("пароль", "парола", "лозинка", "κωδικός", "συνθηματικό", "סיסמה", "كلمة المرور", "كلمة السر", "گذرواژه"),
    *("パスワード", "密码", "密碼", "口令", "암호", "비밀번호", "รหัสผ่าน", "mật khẩu", "sandi", "पासवर्ड"),
)
_COLON = r"[:：]\s*$"  # the second is that of Chinese and Japanese
_LOGIN = re.compile(rf"login ?{_COLON}", re.IGNORECASE)
_COVERED_LOGIN = re.compile(r"^(?!last |\[)(?:\S+ )?login: ", re.IGNORECASE | re.MULTILINE)
_PASSWORD = re.compile(rf"(?:{'|'.join(_PASSWORD_WORDS)})[^:：]{{0,80}}{_COLON}", re.IGNORECASE)
_QUESTION = re.compile(rf"^(?!\[ *\d+\.\d+\]).{{1,80}}{_COLON}")
_ROOT_SHELL = re.compile(r"(?<!#)# *$")
_USER_SHELL = re.compile(r"\$ *$")
_REFUSAL = re.compile(r"^.*\b(?:login|authentication|password) +(?:incorrect|failure|failed)\b.*$", re.I | re.M)


class Asked(enum.Enum):
    """What the end of a text from a guest asks for."""

    NAME = "a login prompt"
    COVERED_NAME = "a login prompt with other text behind or upon it"
    PASSWORD = "a prompt for a password"
    QUESTION = "a question in words that mean nothing to us"
    ROOT = "a root shell's prompt"
    USER = "an ordinary user's shell's prompt"


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one kind of guest."""

    login: tuple[re.Pattern[str], ...] = ()
    """Of its login prompt, beside those of any guest."""
    password: tuple[re.Pattern[str], ...] = ()

    @classmethod
    def of(cls, config: VmConfig) -> Self:
        """Those that a configuration adds."""
        login, password = (
            tuple(re.compile(pattern, re.MULTILINE) for pattern in patterns)
            for patterns in (config.login_prompt, config.password_prompt)
        )
        return cls(login, password)

    def asked(self, text: str) -> Asked | None:
        """What a text asks for at its end, if it does; escape sequences and all that."""
        text = shown(text)
        line = last_line(text)
        if _LOGIN.search(line) or any(pattern.search(line) for pattern in self.login):
            return Asked.NAME
        if _PASSWORD.search(line) or any(pattern.search(line) for pattern in self.password):
            return Asked.PASSWORD
        if _ROOT_SHELL.search(line):
            return Asked.ROOT
        if _USER_SHELL.search(line):
            return Asked.USER
        if _COVERED_LOGIN.search(text) or any(pattern.search(text) for pattern in self.login):
            return Asked.COVERED_NAME
        return Asked.QUESTION if _QUESTION.search(line) else None

    def has_login(self, text: str) -> bool:
        """Whether somebody can log in where a text ends, whatever has been printed since upon the prompt."""
        return self.asked(text) in (Asked.NAME, Asked.COVERED_NAME)


def refusal(text: str) -> str:
    """The line of a text by which a login was refused, or nothing."""
    found = _REFUSAL.search(shown(text))
    return found[0].strip() if found else ""


def last_line(text: str) -> str:
    """What has come since the last line's end."""
    return text.rpartition("\n")[2]
