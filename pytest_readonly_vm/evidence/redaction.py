"""Owns what is left out of everything that is saved or shown of a machine: values that are secret. Pure."""

import json
import re
from collections.abc import Mapping

HIDDEN = "***"

_SECRET = re.compile(r"pass(?:word|wd|phrase)|secret|token|credential|private.?key", re.IGNORECASE)
_REFERENCE = re.compile(r"[-_]secret$")  # as in key-secret=sec0: the name of an object that has the secret
_TYPED = ("send-key", "input-send-event")
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_PAIR = re.compile(r"([\w.-]+)=((?:,,|[^,])*)")
_ASSIGNMENT = re.compile(r"([\w.-]*(?:pass(?:word|wd|phrase)|secret|token)[\w.-]*=)\S+", re.IGNORECASE)


def without_secrets(value: object) -> object:
    """A part of a QMP message, with the values hidden that are secret by their keys."""
    if isinstance(value, Mapping):
        is_secret_object = str(value.get("qom-type", "")).startswith("secret")
        return {
            key: HIDDEN if _is_secret(str(key)) or (is_secret_object and key == "data") else without_secrets(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    return value


def arguments_without_secrets(command: str, arguments: object) -> object:
    """The arguments of a QMP command. Keys that a test types may be a password, so they are hidden, too."""
    if not isinstance(arguments, Mapping):
        return without_secrets(arguments)
    hidden: set[str] = set()
    if command in _TYPED:
        hidden = {"keys", "events"}
    elif command == "human-monitor-command" and _SECRET.search(str(arguments.get("command-line"))):
        hidden = {"command-line"}
    elif command == "qom-set" and _reads_secret(arguments):
        hidden = {"value"}
    found = without_secrets({key: value for key, value in arguments.items() if key not in hidden})
    assert isinstance(found, dict)
    return found | dict.fromkeys(hidden & arguments.keys(), HIDDEN)


def answer_without_secrets(command: str, arguments: object, answer: object) -> object:
    """What QEMU has answered to a QMP command."""
    if command == "qom-get" and isinstance(arguments, Mapping) and _reads_secret(arguments):
        return HIDDEN
    return without_secrets(answer)


def option_without_secrets(option: str, value: str) -> str:
    """The value of an option on QEMU's command line."""
    if value.startswith("{"):
        try:
            return json.dumps(without_secrets(json.loads(value)))
        except ValueError:
            return HIDDEN
    is_secret_object = option == "-object" and value.startswith("secret")

    def hide(pair: re.Match[str]) -> str:
        key, content = pair.groups()
        is_credential = option == "-smbios" and key == "value" and content.startswith("io.systemd.credential")
        return (
            f"{key}={HIDDEN}" if _is_secret(key) or is_credential or (is_secret_object and key == "data") else pair[0]
        )

    return _USER_IN_URL.sub(f"{HIDDEN}@", _PAIR.sub(hide, value))


def text_without_secrets(text: str) -> str:
    """A line that somebody wrote, such as a command for the guest, without what looks like ``PASSWORD=...`` in it."""
    return _USER_IN_URL.sub(f"{HIDDEN}@", _ASSIGNMENT.sub(rf"\1{HIDDEN}", text))


def _is_secret(key: str) -> bool:
    return bool(_SECRET.search(key)) and not _REFERENCE.search(key)


def _reads_secret(arguments: Mapping[str, object]) -> bool:
    name = str(arguments.get("property"))
    return _is_secret(name) or (name == "data" and str(arguments.get("path")).startswith("/objects/"))
