# The repair program for i386: everything after its ELF headers, which repair_program.py makes. That file has the code
# below as hexadecimal digits, and puts the time and the random bytes in their places; a test assembles this text and
# compares.
#
#   as --32 -o program.o repair_program.i386.s
#   ld -m elf_i386 -Ttext=0x400078 -o program program.o
#   objcopy -O binary -j .text program program.bin
#
# Linux runs it as root, with /dev/urandom as its input. A system call has its number in eax, its arguments in ebx, ecx
# and edx, and its result in eax: 0, or something negative. The kernel keeps all other registers.

        .intel_syntax noprefix

        .set    RNDADDENTROPY, 0x40085203       # mix bytes in, and count bits of entropy for them
        .set    RNDRESEEDCRNG, 0x5207           # draw from what was mixed in from now on; there since Linux 4.17
        .set    CLOCK_REALTIME, 0
        .set    SYS_exit, 1
        .set    SYS_unlink, 10
        .set    SYS_ioctl, 54
        .set    SYS_clock_settime64, 404        # which takes the timespec of 64-bit computers; there since Linux 5.1

        .text
time:                                           # struct __kernel_timespec, filled in by repair_program.py
        .quad   0                               # seconds of the Unix epoch
        .quad   0                               # nanoseconds
pool:                                           # struct rand_pool_info
        .int    256                             # bits of entropy that count
        .int    64                              # bytes that follow
        .zero   64                              # random bytes, filled in by repair_program.py

        .globl  _start
_start:                                         # esi gathers what goes wrong
        mov     eax, SYS_ioctl                  # ioctl(0, RNDADDENTROPY, pool)
        xor     ebx, ebx
        mov     ecx, RNDADDENTROPY
        mov     edx, offset pool
        int     0x80

        mov     esi, eax
        mov     eax, SYS_ioctl                  # ioctl(0, RNDRESEEDCRNG)
        mov     ecx, RNDRESEEDCRNG
        int     0x80

        # Not before the random numbers: it wakes up whoever waits for the clock to be set.
        or      esi, eax
        mov     eax, SYS_clock_settime64        # clock_settime64(CLOCK_REALTIME, time): ebx is 0 still
        mov     ecx, offset time
        int     0x80

        or      esi, eax
        mov     eax, SYS_unlink                 # unlink(argv[0]): it was started by its path
        mov     ebx, [esp + 4]                  # argc is at esp
        int     0x80

        mov     eax, SYS_exit                   # exit(esi), of which the lowest 8 bits arrive: 0 if all went well
        mov     ebx, esi                        # whether the file could be removed does not count
        int     0x80
