"""Owns the guests that are one boot sector each: 512 bytes of 16-bit machine code, written here as bytes.

Each function returns a sector for a BIOS PC (``-M pc`` or ``-M q35``). Every guest sets COM1 to 115200 8N1,
prints `text` there and then does the one thing that it is named after. This file knows neither pytest nor
QEMU's options.

    sector = bootsector.hello("hello\\n")
    image = bootsector.write_image(tmp_path / "hello.img", sector)  # raw; for any hard disk interface
"""

from __future__ import annotations

from pathlib import Path

SECTOR_SIZE = 512
"""Bytes in a disk sector, and in each guest."""

DATA_SECTOR = 8
"""The sector (LBA) that `writer` reads and overwrites; `write_image` puts `PRISTINE` there."""

PRISTINE = b"pristine"
"""The first eight bytes of the data sector in a new image."""

MODIFIED = b"modified"
"""The first eight bytes of the data sector after `writer` has run."""

_ORIGIN = 0x7C00  # where the BIOS loads and starts a boot sector
_BUFFER = 0x8000  # a free sector's worth of memory behind it
_SIGNATURE = b"\x55\xaa"
# No interrupts; divisor 1 = 115200 baud; 8N1; 16-byte FIFOs, cleared; DTR and RTS.
_COM1_SETUP = ((0x3F9, 0), (0x3FB, 0x80), (0x3F8, 1), (0x3F9, 0), (0x3FB, 3), (0x3FA, 0xC7), (0x3FC, 3))


class _Assembler:
    """Machine code with labels; references are filled in by `sector()`, so they may point forwards."""

    def __init__(self) -> None:
        self._code = bytearray()
        self._labels: dict[str, int] = {}
        self._references: list[tuple[int, int, bool, str]] = []

    def emit(self, *parts: bytes | str) -> None:
        """Append code: each part is bytes, or hexadecimal digits."""
        for part in parts:
            self._code += bytes.fromhex(part) if isinstance(part, str) else part

    def label(self, name: str) -> None:
        """Name the current position."""
        self._labels[name] = len(self._code)

    def short(self, opcode: str, target: str) -> None:
        """Append a jump with an 8-bit displacement: eb jmp, 74 jz, 75 jnz, 72 jc, 76 jbe."""
        self._refer(opcode, target, size=1, relative=True)

    def near(self, opcode: str, target: str) -> None:
        """Append a jump with a 16-bit displacement: e9 jmp, e8 call."""
        self._refer(opcode, target, size=2, relative=True)

    def call(self, target: str) -> None:
        """Append ``call target``."""
        self.near("e8", target)

    def address(self, opcode: str, target: str) -> None:
        """Append an instruction that ends with a 16-bit address: be mov si, bb mov bx, ..."""
        self._refer(opcode, target, size=2, relative=False)

    def _refer(self, opcode: str, target: str, *, size: int, relative: bool) -> None:
        self.emit(opcode)
        self._references.append((len(self._code), size, relative, target))
        self._code += bytes(size)

    def sector(self) -> bytes:
        """The finished boot sector; `ValueError` when it does not fit."""
        room = SECTOR_SIZE - len(_SIGNATURE)
        if len(self._code) > room:
            raise ValueError(f"{len(self._code)} bytes of guest for {room} of a boot sector: cut the text")
        for at, size, relative, target in self._references:
            value = self._labels[target]
            value = value - (at + size) if relative else _ORIGIN + value
            self._code[at : at + size] = value.to_bytes(size, "little", signed=relative)
        return bytes(self._code).ljust(room, b"\0") + _SIGNATURE


def _word(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _start(text: str) -> _Assembler:
    """The beginning that all guests share: segments, stack, serial port, `text`.

    Afterwards ``putc`` prints AL and ``puts`` the zero-terminated string at SI; both keep all but AX and SI.
    """
    asm = _Assembler()
    asm.emit("fa fc", "31c0 8ed8 8ec0 8ed0")  # cli; cld; xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax
    asm.address("ea", "next")  # jmp 0:next                     (some BIOSes start us at 07c0:0000)
    asm.emit("0000")
    asm.label("next")
    asm.emit("bc fe7b", "8816 ff7b", "fb")  # mov sp, 0x7bfe; mov [0x7bff], dl; sti     (DL is the boot drive)
    for port, value in _COM1_SETUP:
        asm.emit("ba", _word(port), "b0", bytes([value]), "ee")  # mov dx, port; mov al, value; out dx, al
    asm.address("be", "text")  # mov si, text
    asm.call("puts")
    asm.near("e9", "main")  # jmp main

    asm.label("putc")
    asm.emit("52 50", "ba fd03")  # push dx; push ax; mov dx, 0x3fd      (line status)
    asm.label("putc.wait")
    asm.emit("ec", "a8 20")  # in al, dx; test al, 0x20                  (transmitter empty?)
    asm.short("74", "putc.wait")  # jz
    asm.emit("58", "b2 f8", "ee", "5a c3")  # pop ax; mov dl, 0xf8; out dx, al; pop dx; ret

    asm.label("puts")
    asm.emit("ac", "84c0")  # lodsb; test al, al
    asm.short("74", "puts.end")  # jz
    asm.call("putc")
    asm.short("eb", "puts")  # jmp
    asm.label("puts.end")
    asm.emit("c3")  # ret

    _string(asm, "text", text.encode("ascii"))
    asm.label("main")
    return asm


def _string(asm: _Assembler, label: str, text: bytes) -> None:
    asm.label(label)
    asm.emit(text + b"\0")


def _halt(asm: _Assembler) -> None:
    asm.emit("fa", "f4", "eb fd")  # cli; again: hlt; jmp again


def _receive(asm: _Assembler) -> None:
    """What ``getc``, behind it, needs once: the port's interrupt, which the BIOS takes and does nothing about."""
    asm.emit("ba f903 b0 01 ee")  # mov dx, 0x3f9; mov al, 1; out dx, al         (when data is ready)
    asm.emit("b2 fc b0 0b ee")  # mov dl, 0xfc; mov al, 0x0b; out dx, al         (DTR, RTS, and interrupts let out)
    asm.emit("e4 21 24 ef e6 21")  # in al, 0x21; and al, ~0x10; out 0x21, al    (IRQ 4)


def _getc(asm: _Assembler) -> None:
    """A routine that waits for a byte, in AL; changes DX. Meanwhile the processor of the host has nothing to do."""
    asm.label("getc")
    asm.emit("ba fd03", "fa", "ec", "a8 01")  # mov dx, 0x3fd; cli; in al, dx; test al, 1      (data ready?)
    asm.short("75", "getc.ready")  # jnz
    asm.emit("fb f4")  # sti; hlt                                                    (nothing comes between the two)
    asm.short("eb", "getc")  # jmp
    asm.label("getc.ready")
    asm.emit("fb", "b2 f8", "ec", "c3")  # sti; mov dl, 0xf8; in al, dx; ret


def _output(text: str, code: str) -> bytes:
    asm = _start(text)
    asm.emit(code)
    _halt(asm)
    return asm.sector()


def hello(text: str) -> bytes:
    """Print `text` and halt for ever, interrupts off."""
    return _output(text, "")


def spin(text: str) -> bytes:
    """Print `text` and keep the processor busy for ever."""
    return _output(text, "eb fe")  # jmp $


def powers_off(text: str) -> bytes:
    """Print `text` and power off: ACPI's sleep state S5, as QEMU's pc and q35 want it with their BIOS."""
    return _output(text, "ba 0406 b8 0020 ef")  # mov dx, 0x604; mov ax, 0x2000; out dx, ax


def resets(text: str) -> bytes:
    """Print `text` and reset the machine through the keyboard controller."""
    return _output(text, "b0 fe e6 64")  # mov al, 0xfe; out 0x64, al


def panics(text: str) -> bytes:
    """Print `text` and report a panic to the device ``pvpanic`` (which the machine must have), then halt."""
    return _output(text, "ba 0505 b0 01 ee")  # mov dx, 0x505; mov al, 1; out dx, al


def minds_the_second_press(text: str, answer: str = "pressed") -> bytes:
    """Print `text`, then `answer` for each press of the power button, a line each; power off at the second."""
    asm = _start(text)
    asm.emit("ba 0206 b8 0001 ef")  # mov dx, 0x602; mov ax, 0x100; out dx, ax     (ACPI's PM1_EN: the button)
    asm.emit("b1 02")  # mov cl, 2
    asm.label("again")
    asm.emit("f4")  # hlt                                                         (until the next tick of the timer)
    asm.emit("ba 0006 ed", "f6c4 01")  # mov dx, 0x600; in ax, dx; test ah, 1      (PM1_STS)
    asm.short("74", "again")  # jz
    asm.emit("b8 0001 ef")  # mov ax, 0x100; out dx, ax                            (seen)
    asm.address("be", "pressed")  # mov si, pressed
    asm.call("puts")
    asm.emit("fec9")  # dec cl
    asm.short("75", "again")  # jnz
    asm.emit("ba 0406 b8 0020 ef")  # mov dx, 0x604; mov ax, 0x2000; out dx, ax
    _halt(asm)
    _string(asm, "pressed", f"{answer}\n".encode())
    return asm.sector()


def triple_fault(text: str) -> bytes:
    """Print `text` and cause an exception that no handler can take, so that the processor resets."""
    asm = _start(text)
    asm.address("0f01 1e", "empty")  # lidt [empty]
    asm.emit("cc")  # int3
    asm.label("empty")
    asm.emit(bytes(6))
    return asm.sector()


def echo(text: str) -> bytes:
    """Print `text`, then send back every byte that arrives."""
    asm = _start(text)
    _receive(asm)
    asm.label("echo")
    asm.call("getc")
    asm.call("putc")
    asm.short("eb", "echo")  # jmp
    _getc(asm)
    return asm.sector()


def obeys(text: str) -> bytes:
    """Print `text`, then do what the bytes that arrive say.

    ``p`` reports a panic to pvpanic, ``k`` prints a line as Linux does when it panics, ``t`` is a triple fault, ``r`` a
    reset by the keyboard controller, ``o`` powers off; every other byte is sent back.
    """
    asm = _start(text)
    _receive(asm)
    asm.label("again")
    asm.call("getc")
    for letter in b"pktro":
        asm.emit("3c", bytes([letter]))  # cmp al, letter
        asm.short("74", chr(letter))  # jz
    asm.call("putc")
    asm.short("eb", "again")  # jmp
    asm.label("p")
    asm.emit("ba 0505 b0 01 ee")  # mov dx, 0x505; mov al, 1; out dx, al
    asm.short("eb", "again")
    asm.label("k")
    asm.address("be", "words")  # mov si, words
    asm.call("puts")
    asm.short("eb", "again")
    asm.label("t")
    asm.address("0f01 1e", "empty")  # lidt [empty]
    asm.emit("cc")  # int3
    asm.label("r")
    asm.emit("b0 fe e6 64")  # mov al, 0xfe; out 0x64, al
    asm.short("eb", "again")
    asm.label("o")
    asm.emit("ba 0406 b8 0020 ef")  # mov dx, 0x604; mov ax, 0x2000; out dx, ax
    asm.short("eb", "again")
    _getc(asm)
    asm.label("empty")
    asm.emit(bytes(6))
    _string(asm, "words", b"\n[    1.234567] Kernel panic - not syncing: told to\n")
    return asm.sector()


def serial_login(*steps: tuple[str, str, bool], welcome: str) -> bytes:
    """Ask for one line after the other, tell what was answered, print `welcome`, then send back every byte.

    A step is a prompt, what is printed upon it once, and whether what is typed there is shown. As with a getty, an
    empty line has its prompt printed anew. The answers are told as ``(one|two|)``.
    """
    asm = _start("")
    _receive(asm)
    asm.emit("bf", _word(_BUFFER))  # mov di, buffer
    for number, (_, _, is_shown) in enumerate(steps):
        asm.address("be", f"prompt{number}")  # mov si, prompt
        asm.call("puts")
        asm.address("be", f"upon{number}")
        asm.call("puts")
        asm.label(f"ask{number}")
        asm.emit("b7", bytes([is_shown]))  # mov bh, is_shown
        asm.call("line")
        asm.short("75", f"done{number}")  # jnz
        asm.address("be", f"prompt{number}")
        asm.call("puts")
        asm.short("eb", f"ask{number}")  # jmp
        asm.label(f"done{number}")
    asm.emit("c605 00")  # mov byte [di], 0
    asm.address("be", "open")
    asm.call("puts")
    asm.emit("be", _word(_BUFFER))
    asm.call("puts")
    asm.address("be", "welcome")
    asm.call("puts")
    asm.label("echo")
    asm.call("getc")
    asm.call("putc")
    asm.short("eb", "echo")

    _getc(asm)
    asm.label("line")  # appends to [di]; ZF when it was empty
    asm.emit("89fd")  # mov bp, di
    asm.label("char")
    asm.call("getc")
    asm.emit("3c 0a")  # cmp al, '\n'
    asm.short("74", "end")  # je
    asm.emit("aa", "84ff")  # stosb; test bh, bh
    asm.short("74", "char")  # jz
    asm.call("putc")
    asm.short("eb", "char")
    asm.label("end")
    asm.emit("39ef")  # cmp di, bp
    asm.short("74", "empty")  # je
    asm.emit("b0 7c", "aa", "08c0")  # mov al, '|'; stosb; or al, al
    asm.label("empty")
    asm.emit("c3")  # ret
    for number, (prompt, upon, _) in enumerate(steps):
        _string(asm, f"prompt{number}", b"\r\n" + prompt.encode())
        _string(asm, f"upon{number}", upon.encode())
    _string(asm, "open", b"\r\n(")
    _string(asm, "welcome", b")\r\n" + welcome.encode())
    return asm.sector()


def keys(text: str) -> bytes:
    """Print `text`, then what is typed on the keyboard; a key without a character as its BIOS code, like ``<3c>``."""
    asm = _start(text)
    asm.label("key")
    asm.emit("b4 00", "cd 16", "84c0")  # mov ah, 0; int 0x16; test al, al     (wait: AL = character, AH = code)
    asm.short("74", "code")  # jz
    asm.call("putc")
    asm.short("eb", "key")  # jmp
    asm.label("code")
    asm.emit("50", "b0 3c")  # push ax; mov al, '<'
    asm.call("putc")
    asm.emit("58 50", "88e0", "c0e8 04")  # pop ax; push ax; mov al, ah; shr al, 4
    asm.call("digit")
    asm.emit("58", "88e0", "24 0f")  # pop ax; mov al, ah; and al, 15
    asm.call("digit")
    asm.emit("b0 3e")  # mov al, '>'
    asm.call("putc")
    asm.short("eb", "key")  # jmp
    asm.label("digit")
    asm.emit("04 30", "3c 39")  # add al, '0'; cmp al, '9'
    asm.near("0f86", "putc")  # jbe
    asm.emit("04 27")  # add al, 'a' - '0' - 10
    asm.near("e9", "putc")  # jmp
    return asm.sector()


def chatter(text: str) -> bytes:
    """Print `text`, then ``line 00000001``, ``line 00000002``, ... for ever, as fast as they are taken."""
    asm = _start(text)
    asm.label("next")
    asm.address("bb", "last")  # mov bx, last
    asm.label("carry")
    asm.emit("fe07", "803f 39")  # inc byte [bx]; cmp byte [bx], '9'
    asm.short("76", "print")  # jbe
    asm.emit("c607 30", "4b")  # mov byte [bx], '0'; dec bx
    asm.short("eb", "carry")  # jmp
    asm.label("print")
    asm.address("be", "line")  # mov si, line
    asm.call("puts")
    asm.short("eb", "next")  # jmp
    asm.label("line")
    asm.emit(b"line 0000000")
    asm.label("last")
    asm.emit(b"0\n\0")
    return asm.sector()


def writer(text: str) -> bytes:
    """Print `text`, what the data sector holds and what became of writing to it; then halt.

    The next line is ``sector=pristine`` on a new image and ``sector=modified`` once a write has persisted.
    The last is ``written`` when `MODIFIED` was written and read back, ``lost`` when something else was read.
    ``error`` stands in the place of either, as the last line, when the BIOS reports a failure.
    """
    asm = _start(text)
    asm.emit("b4 42")  # mov ah, 0x42                   (extended read)
    asm.call("disk")
    asm.address("be", "sector")  # mov si, sector
    asm.call("puts")
    asm.emit("be", _word(_BUFFER), "c644 08 00")  # mov si, buffer; mov byte [si + 8], 0
    asm.call("puts")
    asm.emit("b0 0a")  # mov al, '\n'
    asm.call("putc")

    asm.call("copy")  # the marker over the buffer
    asm.emit("b8 0043")  # mov ax, 0x4300               (extended write, no verify)
    asm.call("disk")
    asm.emit("c606", _word(_BUFFER), "00")  # mov byte [buffer], 0
    asm.emit("b4 42")  # mov ah, 0x42
    asm.call("disk")
    asm.call("load")
    asm.emit("f3 a6")  # repe cmpsb
    asm.address("be", "lost")  # mov si, lost
    asm.short("75", "end")  # jne
    asm.address("be", "written")  # mov si, written
    asm.label("end")
    asm.call("puts")
    _halt(asm)

    asm.label("disk")  # AH = what to do
    asm.emit("8a16 ff7b")  # mov dl, [0x7bff]
    asm.address("be", "packet")  # mov si, packet
    asm.emit("cd 13")  # int 0x13
    asm.address("be", "error")  # mov si, error
    asm.short("72", "end")  # jc
    asm.emit("c3")  # ret

    asm.label("copy")
    asm.call("load")
    asm.emit("f3 a4", "c3")  # rep movsb; ret

    asm.label("load")
    asm.address("be", "marker")  # mov si, marker
    asm.emit("bf", _word(_BUFFER), "b9", _word(len(MODIFIED)))  # mov di, buffer; mov cx, 8
    asm.emit("c3")  # ret

    asm.label("packet")  # disk address packet: size, sectors, offset, segment, LBA
    asm.emit("10 00 0100", _word(_BUFFER), "0000", DATA_SECTOR.to_bytes(8, "little"))
    asm.label("marker")
    asm.emit(MODIFIED)
    _string(asm, "sector", b"sector=")
    _string(asm, "written", b"written\n")
    _string(asm, "lost", b"lost\n")
    _string(asm, "error", b"error\n")
    return asm.sector()


def uses_disk(text: str) -> bytes:
    """Print `text`, then read the data sector for an ``r`` that arrives, write it for a ``w``: ``done`` or ``error``.

    By the BIOS, which knows disks on any interface.
    """
    asm = _start(text)
    _receive(asm)
    asm.label("again")
    asm.call("getc")
    asm.emit("b4 42")  # mov ah, 0x42                   (extended read)
    asm.emit("3c", b"r")  # cmp al, 'r'
    asm.short("74", "disk")  # jz
    asm.emit("b8 0043")  # mov ax, 0x4300               (extended write, no verify)
    asm.label("disk")
    asm.emit("8a16 ff7b")  # mov dl, [0x7bff]
    asm.address("c706", "count")  # mov word [count], 1         (it is how many were done, after an error)
    asm.emit("0100")
    asm.address("be", "packet")  # mov si, packet
    asm.emit("cd 13")  # int 0x13
    asm.address("be", "error")  # mov si, error
    asm.short("72", "tell")  # jc
    asm.address("be", "done")  # mov si, done
    asm.label("tell")
    asm.call("puts")
    asm.short("eb", "again")  # jmp
    _getc(asm)
    asm.label("packet")  # disk address packet: size, sectors, offset, segment, LBA
    asm.emit("10 00")
    asm.label("count")
    asm.emit("0100", _word(_BUFFER), "0000", DATA_SECTOR.to_bytes(8, "little"))
    _string(asm, "done", b"done\n")
    _string(asm, "error", b"error\n")
    return asm.sector()


def write_image(path: Path, sector: bytes, *, size: int = 1 << 20) -> Path:
    """Write a raw disk image of `size` bytes that starts with `sector` and return `path`."""
    if len(sector) != SECTOR_SIZE or sector[-2:] != _SIGNATURE:
        raise ValueError("a boot sector has 512 bytes and ends with 55 aa")
    if size < (DATA_SECTOR + 1) * SECTOR_SIZE or size % SECTOR_SIZE:
        raise ValueError(f"size={size}: a whole number of sectors, at least {DATA_SECTOR + 1}, is needed")
    with path.open("wb") as image:
        image.write(sector)
        image.seek(DATA_SECTOR * SECTOR_SIZE)
        image.write(PRISTINE)
        image.truncate(size)
    return path
