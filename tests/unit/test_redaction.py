"""What is left out of everything that is saved of a machine."""

import pytest

from pytest_readonly_vm.evidence.redaction import (
    answer_without_secrets,
    arguments_without_secrets,
    option_without_secrets,
    text_without_secrets,
)


@pytest.mark.parametrize(
    ("command", "arguments", "shown"),
    [
        ("set_password", {"protocol": "vnc", "password": "x"}, {"protocol": "vnc", "password": "***"}),
        (
            "object-add",
            {"qom-type": "secret", "id": "a", "data": "x"},
            {"qom-type": "secret", "id": "a", "data": "***"},
        ),
        ("object-add", {"qom-type": "rng-random", "id": "a"}, {"qom-type": "rng-random", "id": "a"}),
        ("blockdev-add", {"file": {"password-secret": "sec0"}}, {"file": {"password-secret": "sec0"}}),
        ("blockdev-add", {"options": [{"secret": "x"}]}, {"options": [{"secret": "***"}]}),
        ("send-key", {"keys": [{"data": "a"}], "hold-time": 1}, {"keys": "***", "hold-time": 1}),
        ("human-monitor-command", {"command-line": "set_password vnc x"}, {"command-line": "***"}),
        ("human-monitor-command", {"command-line": "info block"}, {"command-line": "info block"}),
    ],
)
def test_arguments_of_monitor_commands(command: str, arguments: object, shown: object) -> None:
    assert arguments_without_secrets(command, arguments) == shown


def test_the_answer_with_a_secret_property() -> None:
    assert answer_without_secrets("qom-get", {"path": "/objects/s", "property": "data"}, "x") == "***"
    assert answer_without_secrets("qom-get", {"path": "/machine", "property": "type"}, "pc") == "pc"


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        ("-object", "secret,id=s,data=x,,y,format=raw", "secret,id=s,data=***,format=raw"),
        ("-object", '{"qom-type": "secret", "data": "x"}', '{"qom-type": "secret", "data": "***"}'),
        ("-spice", "port=1,password=x", "port=1,password=***"),
        ("-drive", "file=https://me:x@host/a,key-secret=s", "file=https://***@host/a,key-secret=s"),
        ("-smbios", "type=11,value=io.systemd.credential:a=x", "type=11,value=***"),
        ("-device", "virtio-rng-pci,id=data", "virtio-rng-pci,id=data"),
    ],
)
def test_options_of_the_command_line(option: str, value: str, shown: str) -> None:
    assert option_without_secrets(option, value) == shown


def test_commands_for_the_guest() -> None:
    assert text_without_secrets("DB_PASSWORD=x ./run --token=y z") == "DB_PASSWORD=*** ./run --token=*** z"
    assert text_without_secrets("grep password /etc/motd") == "grep password /etc/motd"
