// The repair program for aarch64: everything after its ELF headers, which repair_program.py makes. That file has the
// code below as hexadecimal digits, and puts the time and the random bytes in their places; a test assembles this text
// and compares.
//
//   aarch64-linux-gnu-as -o program.o repair_program.aarch64.s
//   aarch64-linux-gnu-ld -Ttext=0x400078 -o program program.o
//   aarch64-linux-gnu-objcopy -O binary -j .text program program.bin
//
// Linux runs it as root, with /dev/urandom as its input. A system call has its number in x8, its arguments in x0, x1 and
// x2, and its result in x0: 0, or something negative. The kernel keeps all other registers.

        .set    RNDADDENTROPY, 0x40085203       // mix bytes in, and count bits of entropy for them
        .set    RNDRESEEDCRNG, 0x5207           // draw from what was mixed in from now on; there since Linux 4.17
        .set    CLOCK_REALTIME, 0
        .set    AT_FDCWD, -100
        .set    SYS_ioctl, 29
        .set    SYS_unlinkat, 35
        .set    SYS_exit, 93
        .set    SYS_clock_settime, 112

        .text
time:                                           // struct timespec, filled in by repair_program.py
        .quad   0                               // seconds of the Unix epoch
        .quad   0                               // nanoseconds
pool:                                           // struct rand_pool_info
        .int    256                             // bits of entropy that count
        .int    64                              // bytes that follow
        .zero   64                              // random bytes, filled in by repair_program.py

        .globl  _start
_start:                                         // x19 gathers what goes wrong
        mov     x8, SYS_ioctl                   // ioctl(0, RNDADDENTROPY, pool)
        mov     x0, 0
        ldr     w1, add_entropy
        adr     x2, pool
        svc     0

        mov     x19, x0
        mov     x0, 0                           // ioctl(0, RNDRESEEDCRNG): x8 is the same still
        mov     x1, RNDRESEEDCRNG
        svc     0

        // Not before the random numbers: it wakes up whoever waits for the clock to be set.
        orr     x19, x19, x0
        mov     x8, SYS_clock_settime           // clock_settime(CLOCK_REALTIME, time)
        mov     x0, CLOCK_REALTIME
        adr     x1, time
        svc     0

        orr     x19, x19, x0
        mov     x8, SYS_unlinkat                // unlinkat(AT_FDCWD, argv[0], 0): it was started by its path
        mov     x0, AT_FDCWD
        ldr     x1, [sp, 8]                     // argc is at sp
        mov     x2, 0
        svc     0

        mov     x8, SYS_exit                    // exit(x19), of which the lowest 8 bits arrive: 0 if all went well
        mov     x0, x19                         // whether the file could be removed does not count
        svc     0

add_entropy:                                    // too large for one instruction
        .word   RNDADDENTROPY
