"""Which units a wait will never see active, by what systemd says of them, and whose names are alike."""

import pytest

from pytest_readonly_vm.guest.units import failure, is_missing, nearest

MISSING = {"LoadState": "not-found", "ActiveState": "inactive"}
NAMES = ["dbus.service", "ssh.service", "ssh.socket", "sshd@.service", "postgresql.service", "systemd-networkd.service"]


@pytest.mark.parametrize(
    ("unit", "system", "expected"),
    [
        ("nginx", "running", True),
        ("nginx.service", "degraded", True),
        ("nginx", "starting", False),  # a package that cloud-init installs
        ("nginx", "initializing", False),
        ("srv.mount", "running", False),  # whose unit comes with the mount
    ],
)
def test_a_unit_that_is_not_there_may_come_while_the_guest_boots_or_by_what_programs_do(
    unit: str, system: str, expected: bool
) -> None:
    assert is_missing(unit, {**MISSING, "system": system}) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"ActiveState": "activating", "LoadState": "loaded", "Result": "exit-code"}, ""),  # it is tried again
        ({"ActiveState": "inactive", "LoadState": "loaded", "Result": "success"}, ""),
        ({"ActiveState": "failed", "LoadState": "loaded", "Result": "exit-code", "ExecMainStatus": "3"}, "exit code 3"),
        ({"ActiveState": "failed", "LoadState": "loaded", "Result": "exit-code", "ExecMainStatus": "0"}, "exit-code"),
        ({"ActiveState": "failed", "LoadState": "loaded", "Result": "timeout"}, "failed (timeout)"),
        ({"ActiveState": "failed", "LoadState": "not-found", "Result": "signal"}, "failed (signal)"),
        ({"ActiveState": "inactive", "LoadState": "masked"}, "is masked"),
        ({"ActiveState": "inactive", "LoadState": "bad-setting"}, "a setting of it is wrong"),
    ],
)
def test_what_has_failed_or_cannot_be_started_is_said(state: dict[str, str], expected: str) -> None:
    assert expected in failure(state) if expected else not failure(state)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("sshd", ["sshd@.service", "ssh.service", "ssh.socket"]),
        ("shh.service", ["ssh.service", "ssh.socket"]),
        ("postgres", ["postgresql.service"]),
        ("networkd", ["systemd-networkd.service"]),
        ("frobnicate.service", []),  # though the ends are alike
    ],
)
def test_the_nearest_names_are_alike_without_their_ends(wanted: str, expected: list[str]) -> None:
    assert nearest(wanted, NAMES) == expected
