// The repair program for aarch64: everything after its ELF headers, which repair_program.py makes. That file has the
// code below as hexadecimal digits; a test assembles this text and compares.
//
//   aarch64-linux-gnu-as -o program.o repair_program.aarch64.s
//   aarch64-linux-gnu-ld -Ttext=0x400078 -o program program.o
//   aarch64-linux-gnu-objcopy -O binary -j .text program program.bin
//
// Linux runs it as root, with /dev/urandom as descriptor 3, and as 4 what is to have a byte after each text. Of its
// input each SIZE bytes are a message: a struct timespec, a struct rand_pool_info with 64 bytes, and two texts, of
// which it prints the first if all went well. A system call has its number in x8, its arguments in x0, x1 and x2, and
// its result in x0: 0, or something negative. The kernel keeps all other registers.

        .set    RNDADDENTROPY, 0x40085203       // mix bytes in, and count bits of entropy for them
        .set    RNDRESEEDCRNG, 0x5207           // draw from what was mixed in from now on; there since Linux 4.17
        .set    CLOCK_REALTIME, 0
        .set    SYS_ioctl, 29
        .set    SYS_read, 63
        .set    SYS_write, 64
        .set    SYS_exit, 93
        .set    SYS_clock_settime, 112
        .set    URANDOM, 3                      // descriptors
        .set    TURN, 4
        .set    POOL, 16                        // where in a message what begins
        .set    TEXTS, 88
        .set    TEXT, 110                       // bytes of each of the two
        .set    SIZE, TEXTS + 2 * TEXT          // of a message, which may come in pieces
        .set    ROOM, 512                       // on the stack, which stays aligned
        .set    IDLE, 3                         // the exit status if there was no message

        .text
        .globl  _start
_start:
        sub     sp, sp, ROOM
        mov     x19, IDLE                       // x19 gathers what goes wrong
next:
        mov     x20, 0                          // x20: how much of a message there is
more:
        mov     x8, SYS_read                    // read(0, message + x20, SIZE - x20)
        mov     x0, 0
        mov     x1, sp
        add     x1, x1, x20
        mov     x2, SIZE
        sub     x2, x2, x20
        svc     0

        cmp     x0, 0
        b.le    end
        add     x20, x20, x0
        cmp     x20, SIZE
        b.lo    more
        mov     x8, SYS_ioctl                   // ioctl(URANDOM, RNDADDENTROPY, pool)
        mov     x0, URANDOM
        ldr     w1, add_entropy
        add     x2, sp, POOL
        svc     0

        mov     x19, x0
        mov     x0, URANDOM                     // ioctl(URANDOM, RNDRESEEDCRNG): x8 is the same still
        mov     x1, RNDRESEEDCRNG
        svc     0

        // Not before the random numbers: it wakes up whoever waits for the clock to be set.
        orr     x19, x19, x0
        mov     x8, SYS_clock_settime           // clock_settime(CLOCK_REALTIME, time)
        mov     x0, CLOCK_REALTIME
        mov     x1, sp
        svc     0

        add     x1, sp, TEXTS                   // write(1, text, TEXT)
        orr     x19, x19, x0
        cbz     x19, tell
        add     x1, x1, TEXT
tell:
        mov     x8, SYS_write
        mov     x0, 1
        mov     x2, TEXT
        svc     0

        add     x1, x1, TEXT - 1                // write(TURN, its last byte, 1): x8 is the same still
        mov     x0, TURN
        mov     x2, 1
        svc     0

        b       next
end:
        mov     x8, SYS_exit                    // exit(x19), of which the lowest 8 bits arrive: 0 if all went well
        mov     x0, x19
        svc     0

add_entropy:                                    // too large for one instruction
        .word   RNDADDENTROPY
