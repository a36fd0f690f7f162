# The repair program for riscv64: everything after its ELF headers, which repair_program.py makes. That file has the
# code below as hexadecimal digits; a test assembles this text and compares.
#
#   riscv64-linux-gnu-as -o program.o repair_program.riscv64.s
#   riscv64-linux-gnu-ld -Ttext=0x400078 -o program program.o
#   riscv64-linux-gnu-objcopy -O binary -j .text program program.bin
#
# Linux runs it as root, with /dev/urandom as descriptor 3, and as 4 what is to have a byte after each text. Of its
# input each SIZE bytes are a message: a struct timespec, a struct rand_pool_info with 64 bytes, and two texts, of which
# it prints the first if all went well. A system call has its number in a7, its arguments in a0, a1 and a2, and its
# result in a0: 0, or something negative. The kernel keeps all other registers.

        .option arch, rv64i                     # no compressed instructions, which a processor need not have
        .option norelax                         # nor others than these, of which the linker knows that they are shorter

        .set    RNDADDENTROPY, 0x40085203       # mix bytes in, and count bits of entropy for them
        .set    RNDRESEEDCRNG, 0x5207           # draw from what was mixed in from now on; there since Linux 4.17
        .set    CLOCK_REALTIME, 0
        .set    SYS_ioctl, 29
        .set    SYS_read, 63
        .set    SYS_write, 64
        .set    SYS_exit, 93
        .set    SYS_clock_settime, 112
        .set    URANDOM, 3                      # descriptors
        .set    TURN, 4
        .set    POOL, 16                        # where in a message what begins
        .set    TEXTS, 88
        .set    TEXT, 110                       # bytes of each of the two
        .set    SIZE, TEXTS + 2 * TEXT          # of a message, which may come in pieces
        .set    ROOM, 512                       # on the stack, which stays aligned
        .set    IDLE, 3                         # the exit status if there was no message

        .text
        .globl  _start
_start:
        addi    sp, sp, -ROOM
        li      s1, IDLE                        # s1 gathers what goes wrong
next:
        li      s2, SIZE                        # s2: how much of a message there is not
        mv      s3, sp                          # s3: where that begins
more:
        li      a7, SYS_read                    # read(0, s3, s2)
        li      a0, 0
        mv      a1, s3
        mv      a2, s2
        ecall

        blez    a0, end
        add     s3, s3, a0
        sub     s2, s2, a0
        bgtz    s2, more
        li      a7, SYS_ioctl                   # ioctl(URANDOM, RNDADDENTROPY, pool)
        li      a0, URANDOM
        li      a1, RNDADDENTROPY
        addi    a2, sp, POOL
        ecall

        mv      s1, a0
        li      a0, URANDOM                     # ioctl(URANDOM, RNDRESEEDCRNG): a7 is the same still
        li      a1, RNDRESEEDCRNG
        ecall

        # Not before the random numbers: it wakes up whoever waits for the clock to be set.
        or      s1, s1, a0
        li      a7, SYS_clock_settime           # clock_settime(CLOCK_REALTIME, time)
        li      a0, CLOCK_REALTIME
        mv      a1, sp
        ecall

        addi    a1, sp, TEXTS                   # write(1, text, TEXT)
        or      s1, s1, a0
        beqz    s1, tell
        addi    a1, a1, TEXT
tell:
        li      a7, SYS_write
        li      a0, 1
        li      a2, TEXT
        ecall

        addi    a1, a1, TEXT - 1                # write(TURN, its last byte, 1): a7 is the same still
        li      a0, TURN
        li      a2, 1
        ecall

        j       next
end:
        li      a7, SYS_exit                    # exit(s1), of which the lowest 8 bits arrive: 0 if all went well
        mv      a0, s1
        ecall
