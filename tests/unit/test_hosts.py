"""What a host is called, and what arguments become on it."""

from types import SimpleNamespace

import pytest

from pytest_readonly_vm.plugin.hosts.controller import name_of, seen_from
from pytest_readonly_vm.plugin.hosts.same_bases import Compared


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


ONE, OTHER = ["1" * 64], ["2" * 64]


def test_a_name_that_is_surely_the_same_is_compared_whoever_says_it_from_wherever() -> None:
    compared = Compared()
    assert compared.hear("A", "the base image of the run", ONE, "/a", True, None) == ""
    assert compared.hear("B", "the base image of the run", ONE, "/b", True, None) == ""
    assert str(compared.hear("C", "the base image of the run", OTHER, "/c", True, None)).startswith("two hosts have ")
    assert str(compared.hear("A", "the base image of the run", OTHER, "/d", True, None)).startswith("A has different ")
    changed = str(compared.hear("A", "the base image of the run", OTHER, "/a", True, None))
    assert changed.startswith("an image was changed while tests ran with it (the base image of the run): A has /a ")
    assert len(compared.differences) == 3


def test_a_file_name_is_compared_where_the_other_host_has_no_such_file() -> None:
    compared = Compared()
    assert compared.hear("A", "box.img", ONE, "/one/box.img", False, None) == ""
    assert compared.hear("A", "box.img", OTHER, "/two/box.img", False, None) == ""  # which are two
    assert compared.hear("B", "box.img", OTHER, "/elsewhere/box.img", False, None) == ""
    third = ["3" * 64]
    assert compared.hear("C", "box.img", third, "/three/box.img", False, None) == [
        "/one/box.img",
        "/two/box.img",
        "/elsewhere/box.img",
    ]
    assert compared.hear("C", "box.img", third, "/three/box.img", False, []) == ""  # it has all of these as well
    assert not compared.differences
    assert "A has /one/box.img" in compared.hear("D", "box.img", ["4" * 64], "/d/box.img", False, ["/one/box.img"])
    assert "A has /two/box.img" in compared.hear("E", "box.img", ["5" * 64], "/two/box.img", False, None)
