"""What of a console's text is taken for a kernel's panic, and how far."""

import pytest

from pytest_readonly_vm.channels.panic import Belief, PanicWatch

LINE = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009"
WORDS = "Attempted to kill init! exitcode=0x00000009"
TRACE = "CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1"
END = f"---[ end {LINE} ]---"
BOOT = "[    0.000000] Linux version 6.1.0\n[   10.500000] Run /init as init process\n"


def stamped(*lines: str, at: float = 12.0) -> str:
    return "".join(f"[{at:12.6f}] {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("text", "belief"),
    [
        (stamped(LINE), Belief.PLAUSIBLE),
        (f"[   12.000000][    T1] {LINE}\n", Belief.PLAUSIBLE),
        (f"{LINE}\n", Belief.PLAUSIBLE),
        (stamped(LINE, TRACE), Belief.PROVEN),
        (stamped(LINE, END), Belief.PROVEN),
        (f"{LINE}\n{TRACE}\n", Belief.PROVEN),
        (f"{LINE}\nRebooting in 5 seconds..\n", Belief.PROVEN),
        (f"\x1b[31m[   12.000000] {LINE}\x1b[0m\n", Belief.PLAUSIBLE),
        # The kernel continues what stands there.
        (f"debian login: {stamped(LINE)}", Belief.DOUBTFUL),
        (f"debian login: {stamped(LINE, TRACE)}", Belief.PROVEN),
        (f"debian login: {LINE}\n{TRACE}\n", Belief.PROVEN),
        (f"\x1b]0;root@debian: ~\x07\x1b[?2004h# {stamped(LINE, END)}", Belief.PROVEN),
        (f"\x1b]0;a title without an end {stamped(LINE, END)}", Belief.PROVEN),
        # A program prints the words, and the kernel is known to print otherwise.
        (f"{BOOT}{LINE}\n", Belief.DOUBTFUL),
        (BOOT + stamped(LINE, at=3.0), Belief.DOUBTFUL),
        (BOOT + stamped(LINE), Belief.PLAUSIBLE),
        (f"the words {LINE}\n", Belief.DOUBTFUL),
        # The clock begins anew with another kernel.
        (stamped("old", at=900.0) + BOOT + stamped(LINE), Belief.PLAUSIBLE),
        # Other kernels.
        ("panic: vm_fault\ncpuid = 0\n", Belief.PROVEN),
        ("login: panic: vm_fault\ntime = 1\n", Belief.PROVEN),
        ("[   1.000] panic: trap\n[   1.000] cpu0: Begin traceback...\n", Belief.PROVEN),
        ("*** STOP: 0x0000007B (0xF78D2524,0xC0000034)\n", Belief.PLAUSIBLE),
        ("guru meditation 42\n", Belief.CERTAIN),
        ("panic: runtime error: index out of range\n\ngoroutine 1 [running]:\n", None),
        ("panic: \ncpuid = 0\n", None),
        (f"{TRACE}\nno panic\n", None),
        (LINE, None),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_what_is_suspected(text: str, belief: Belief | None, size: int) -> None:
    watch = PanicWatch(["^guru meditation .*$"])
    news = [watch.read(text[start : start + size]) for start in range(0, len(text), size)]
    found = watch.suspicion.belief if watch.suspicion else None
    assert found == belief
    assert any(news) == (belief is not None)


def test_the_words_are_the_kernels_last() -> None:
    watch = PanicWatch()
    watch.read(stamped("Kernel panic - not syncing: printed", END.replace(WORDS, "printed")))
    watch.read("# " + stamped("Kernel panic - not syncing: real", TRACE, END.replace(WORDS, "real"), at=13.0))
    assert watch.suspicion
    assert watch.suspicion.words == "real"
    assert watch.suspicion.is_over


def test_a_line_between_much_else_in_any_pieces() -> None:
    much = 500 * ("x" * 79 + "\n")
    watch = PanicWatch()
    for piece in (much, "y" * 100_000, "\n[    1.0] Kernel pan", "ic - not syncing: in two\n" + much):
        watch.read(piece)
    assert watch.suspicion
    assert watch.suspicion.words == "in two"


@pytest.mark.parametrize(
    ("text", "asks"),
    [("tiny# ", True), ("\x1b[1mlogin: ", True), ("", False), ("[   12.0", True), ("[   12.000000] CPU", False)]
    + [(prompt, False) for prompt in ("db> ", "ddb{0}> ", "[0]kdb> ")],
)
def test_who_asks_for_input_lives(text: str, asks: bool) -> None:
    watch = PanicWatch()
    watch.read(f"{LINE}\n{text}")
    assert watch.is_asked_for_input() == asks
