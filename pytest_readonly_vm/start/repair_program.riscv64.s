# The repair program for riscv64: everything after its ELF headers, which repair_program.py makes. That file has the
# code below as hexadecimal digits, and puts the time and the random bytes in their places; a test assembles this text
# and compares.
#
#   riscv64-linux-gnu-as -o program.o repair_program.riscv64.s
#   riscv64-linux-gnu-ld -Ttext=0x400078 -o program program.o
#   riscv64-linux-gnu-objcopy -O binary -j .text program program.bin
#
# Linux runs it as root, with /dev/urandom as its input. A system call has its number in a7, its arguments in a0, a1 and
# a2, and its result in a0: 0, or something negative. The kernel keeps all other registers.

        .option arch, rv64i                     # no compressed instructions, which a processor need not have
        .option norelax                         # nor others than these, of which the linker knows that they are shorter

        .set    RNDADDENTROPY, 0x40085203       # mix bytes in, and count bits of entropy for them
        .set    RNDRESEEDCRNG, 0x5207           # draw from what was mixed in from now on; there since Linux 4.17
        .set    CLOCK_REALTIME, 0
        .set    AT_FDCWD, -100
        .set    SYS_ioctl, 29
        .set    SYS_unlinkat, 35
        .set    SYS_exit, 93
        .set    SYS_clock_settime, 112

        .text
time:                                           # struct timespec, filled in by repair_program.py
        .quad   0                               # seconds of the Unix epoch
        .quad   0                               # nanoseconds
pool:                                           # struct rand_pool_info
        .int    256                             # bits of entropy that count
        .int    64                              # bytes that follow
        .zero   64                              # random bytes, filled in by repair_program.py

        .globl  _start
_start:                                         # s1 gathers what goes wrong
        li      a7, SYS_ioctl                   # ioctl(0, RNDADDENTROPY, pool)
        li      a0, 0
        li      a1, RNDADDENTROPY
        lui     a2, %hi(pool)
        addi    a2, a2, %lo(pool)
        ecall

        mv      s1, a0
        li      a0, 0                           # ioctl(0, RNDRESEEDCRNG): a7 is the same still
        li      a1, RNDRESEEDCRNG
        ecall

        # Not before the random numbers: it wakes up whoever waits for the clock to be set.
        or      s1, s1, a0
        li      a7, SYS_clock_settime           # clock_settime(CLOCK_REALTIME, time)
        li      a0, CLOCK_REALTIME
        lui     a1, %hi(time)
        addi    a1, a1, %lo(time)
        ecall

        or      s1, s1, a0
        li      a7, SYS_unlinkat                # unlinkat(AT_FDCWD, argv[0], 0): it was started by its path
        li      a0, AT_FDCWD
        ld      a1, 8(sp)                       # argc is at sp
        li      a2, 0
        ecall

        li      a7, SYS_exit                    # exit(s1), of which the lowest 8 bits arrive: 0 if all went well
        mv      a0, s1                          # whether the file could be removed does not count
        ecall
