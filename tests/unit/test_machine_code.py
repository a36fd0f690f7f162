"""The machine code that the package carries as digits is what its assembler sources say, byte for byte."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import pytest_readonly_vm
from pytest_readonly_vm.host.proof_firmware import firmware
from pytest_readonly_vm.start.repair_program import _PROCESSORS, repair_program

PACKAGE = Path(pytest_readonly_vm.__file__).parent
HEADERS = 0x78
"""Bytes of a repair program before what its source makes."""

SOURCES = sorted(PACKAGE.rglob("*.s"))
BINUTILS = {
    "aarch64": ("aarch64-linux-gnu", (), ()),
    "i386": ("x86_64-linux-gnu", ("--32",), ("-m", "elf_i386")),
    "riscv64": ("riscv64-linux-gnu", (), ()),
    "x86": ("x86_64-linux-gnu", ("--64",), ("-m", "elf_x86_64")),
    "x86_64": ("x86_64-linux-gnu", ("--64",), ("-m", "elf_x86_64")),
}
"""For the processor that a source is named after: whose tools, and the options of the assembler and the linker."""


def assembled(source: Path, folder: Path, *, address: int) -> bytes:
    """What an assembler makes of a source that is to be at an address."""
    tools, for_as, for_ld = BINUTILS[processor(source)]
    if shutil.which(f"{tools}-as") is None:
        pytest.skip(f"the package binutils-{tools.replace('_', '-')} is missing")
    made = folder / "made"
    for command in (
        [f"{tools}-as", *for_as, "-o", f"{made}.o", str(source)],
        [f"{tools}-ld", *for_ld, f"-Ttext={address:#x}", "-o", str(made), f"{made}.o"],
        [f"{tools}-objcopy", "-O", "binary", "-j", ".text", str(made), f"{made}.bin"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    return Path(f"{made}.bin").read_bytes()


def processor(source: Path) -> str:
    return source.name.split(".")[1]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_digits_are_what_the_source_says(source: Path, tmp_path: Path) -> None:
    if source.name.startswith("repair_program."):
        program = repair_program(processor(source))
        assert program is not None
        assert assembled(source, tmp_path, address=0x400000 + HEADERS) == program[HEADERS:]
    else:
        assert assembled(source, tmp_path, address=0xF0000) == firmware()


def test_every_module_with_machine_code_has_a_source() -> None:
    has_code = re.compile(r'bytes\.fromhex\(\s*"[0-9a-f]')
    modules = {path for path in PACKAGE.rglob("*.py") if has_code.search(path.read_text())}
    assert modules == {source.with_name(f"{source.name.split('.')[0]}.py") for source in SOURCES}


@pytest.mark.parametrize("arch", sorted(_PROCESSORS))
def test_every_processor_has_a_source(arch: str) -> None:
    assert arch in [processor(source) for source in SOURCES if source.name.startswith("repair_program.")]
