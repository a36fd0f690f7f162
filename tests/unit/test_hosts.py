"""What a host is called, and what arguments become on it."""

from types import SimpleNamespace

import pytest

from pytest_readonly_vm.plugin.hosts.controller import name_of, seen_from


@pytest.mark.parametrize(
    ("argument", "there"),
    [
        ("tests/test_a.py::test_b[/work/x]", "tests/test_a.py::test_b[/work/x]"),
        ("/work/project/tests/test_a.py::test_b[/x::y]", "tests/test_a.py::test_b[/x::y]"),
        ("/work/project", "."),
        ("/work/projects/tests", "/work/projects/tests"),
        ("--rootdir=/work/project/sub", "--rootdir=sub"),
        ("--vm-image=/srv/base.qcow2", "--vm-image=/srv/base.qcow2"),
        ("-k", "-k"),
        ("-kname=/work/project/a", "-kname=a"),
        ("a=/work/project/b", "a=/work/project/b"),
    ],
)
def test_paths_below_the_folder_are_those_of_the_checkout_there(argument: str, there: str) -> None:
    assert seen_from("/work/project", argument) == there


@pytest.mark.parametrize(
    ("given", "name"),
    [("hostA", "hostA"), ("-F config -p 22 user@hostA", "user@hostA"), ("a\x1b[2Jb", "ab"), (" ", "?")],
)
def test_a_host_is_called_as_ssh_is_told(given: str, name: str) -> None:
    assert name_of(SimpleNamespace(ssh=given, vagrant_ssh=None)) == name
