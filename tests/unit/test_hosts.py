"""What a host is called, and what arguments become on it."""

from types import SimpleNamespace

import pytest

from pytest_readonly_vm.plugin.hosts.controller import name_of, seen_from


@pytest.mark.parametrize(
    ("argument", "there"),
    [
        ("tests/test_a.py::test_b[/srv/x]", "tests/test_a.py::test_b[/srv/x]"),
        ("/srv/project/tests/test_a.py::test_b[/x::y]", "tests/test_a.py::test_b[/x::y]"),
        ("/srv/project", "."),
        ("/srv/projects/tests", "/srv/projects/tests"),
        ("--rootdir=/srv/project/sub", "--rootdir=sub"),
        ("--vm-image=/srv/base.qcow2", "--vm-image=/srv/base.qcow2"),
        ("-k", "-k"),
        ("-kname=/srv/project/a", "-kname=a"),
        ("a=/srv/project/b", "a=/srv/project/b"),
    ],
)
def test_paths_below_the_folder_are_those_of_the_checkout_there(argument: str, there: str) -> None:
    assert seen_from("/srv/project", argument) == there


@pytest.mark.parametrize(
    ("given", "name"),
    [("hostA", "hostA"), ("-F config -p 22 user@hostA", "user@hostA"), ("a\x1b[2Jb", "ab"), (" ", "?")],
)
def test_a_host_is_called_as_ssh_is_told(given: str, name: str) -> None:
    assert name_of(SimpleNamespace(ssh=given, vagrant_ssh=None)) == name
