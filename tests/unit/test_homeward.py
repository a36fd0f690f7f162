"""What a host on which a worker runs may have written on the controller's: evidence, in the folder of its test."""

from pathlib import Path

import pytest

from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.plugin.hosts.homeward import Delivery
from pytest_readonly_vm.plugin.output_folder import OutputFolder


def delivery(folder: Path) -> Delivery:
    def is_piece(name: str) -> bool:
        return name in ("overview.txt", "machine.vmcapsule")

    guard = OutputGuard()
    return Delivery(folder / "out", OutputFolder(lambda: is_piece, "0" * 16, guard), guard, lambda: is_piece)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_files_come_in_pieces_to_the_folder_of_their_test(tmp_path: Path) -> None:
    from_host = delivery(tmp_path)
    folder = from_host.claim("test_it.py::test_it[1]")
    for inner in (("overview.txt",), ("two", "machine.vmcapsule"), ("two", "overview.txt")):
        from_host.begin(folder, inner)
        from_host.take(b"some ")
        from_host.take(b"more")
        assert not Path(folder, *inner).exists()  # until it is whole
        from_host.finish()
        assert Path(folder, *inner).read_bytes() == b"some more"
    assert Path(folder).parent == tmp_path / "out"


@pytest.mark.parametrize(
    "inner",
    [
        ("../overview.txt",),
        ("..", "overview.txt"),
        (".", "overview.txt"),
        ("/etc", "overview.txt"),
        ("", "overview.txt"),
        ("two", "three", "overview.txt"),
        ("conftest.py",),
        (".readonly-vm-evidence",),
        ("overview.txt\n",),
        (),
    ],
)
def test_no_other_file_is_written(tmp_path: Path, inner: tuple[str, ...]) -> None:
    from_host = delivery(tmp_path)
    folder = from_host.claim("test")
    before = files(tmp_path)
    with pytest.raises(PermissionError):
        from_host.begin(folder, inner)
    from_host.take(b"something")
    with pytest.raises(PermissionError):
        from_host.finish()
    assert files(tmp_path) == before


@pytest.mark.parametrize("title", ["../../outside", "/etc/cron.d", "..", "", "a\0b", "x" * 5000, ".ssh"])
def test_whatever_a_test_is_called_its_folder_is_in_the_output_folder(tmp_path: Path, title: str) -> None:
    assert Path(delivery(tmp_path).claim(title)).parent == tmp_path / "out"


def test_nothing_is_written_to_a_folder_that_was_not_claimed(tmp_path: Path) -> None:
    from_host = delivery(tmp_path)
    from_host.claim("test")
    (tmp_path / "mine").mkdir()
    with pytest.raises(PermissionError):
        from_host.begin(str(tmp_path / "mine"), ("overview.txt",))
    assert not files(tmp_path / "mine")


def test_a_file_of_which_the_rest_does_not_come_is_not_there(tmp_path: Path) -> None:
    from_host = delivery(tmp_path)
    folder = from_host.claim("test")
    before = files(tmp_path)
    from_host.begin(folder, ("overview.txt",))
    from_host.take(b"half")
    from_host.drop()
    assert files(tmp_path) == before
