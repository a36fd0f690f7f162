"""What of a machine's files is put before whoever compares them with those of other hosts."""

from collections.abc import Sequence
from pathlib import Path

from pytest_readonly_vm import VmConfig
from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.host.qemu_binary import find_qemu_img
from pytest_readonly_vm.host.stopwatch import Stopwatch
from pytest_readonly_vm.host.watch import nobody
from pytest_readonly_vm.image.bases import Bases
from pytest_readonly_vm.image.network_file import ChainFile
from pytest_readonly_vm.sources.image_sources import ImageSources


def test_every_file_that_machines_are_made_of_is_compared_whoever_names_it(tmp_path: Path) -> None:
    """Also one that was opened before for somebody else: on another host, another test may come first."""
    for name in ("base", "kernel", "initrd", "user"):
        (tmp_path / name).write_bytes(name.encode().ljust(1 << 20, b"\0"))
    said: list[tuple[str, str, list[str]]] = []
    sources = ImageSources(lambda sentence: None, nobody, Stopwatch())

    def compare(setting: str, image: object, origin: str, files: Sequence[ChainFile]) -> None:
        said.append((setting, origin, [file.path.name for file in files]))

    bases = Bases(sources, compare)
    qemu_img = find_qemu_img(None)

    def given(origin: str) -> VmConfig:
        values: dict[str, object] = {
            "image": tmp_path / "base",
            "format": "raw",
            "kernel": tmp_path / "kernel",
            "initrd": tmp_path / "initrd",
            "user_data": tmp_path / "user",
            "disks": f"data:{tmp_path / 'base'},format=raw",
        }
        return VmConfig().with_settings({name: Given(value, origin) for name, value in values.items()})

    try:
        for origin in ("one marker", "another marker"):
            config = given(origin)
            bases.get(config, qemu_img=qemu_img)
            bases.get_disk(config.disks[0], config, qemu_img=qemu_img)
    finally:
        bases.close()
    assert said == [
        (setting, origin, [name])
        for origin in ("one marker", "another marker")
        for setting, name in (
            ("kernel", "kernel"),
            ("initrd", "initrd"),
            ("user_data", "user"),
            ("image", "base"),
            ("disks data", "base"),
        )
    ]
