# The repair program for x86_64: everything after its ELF headers, which repair_program.py makes. That file has the code
# below as hexadecimal digits, and puts the time and the random bytes in their places; a test assembles this text and
# compares.
#
#   as --64 -o program.o repair_program.x86_64.s
#   ld -m elf_x86_64 -Ttext=0x400078 -o program program.o
#   objcopy -O binary -j .text program program.bin
#
# Linux runs it as root, with /dev/urandom as its input. A system call has its number in rax, its arguments in rdi, rsi
# and rdx, and its result in rax: 0, or something negative. The kernel keeps all registers but rax, rcx and r11.

        .intel_syntax noprefix

        .set    RNDADDENTROPY, 0x40085203       # mix bytes in, and count bits of entropy for them
        .set    RNDRESEEDCRNG, 0x5207           # draw from what was mixed in from now on; there since Linux 4.17
        .set    CLOCK_REALTIME, 0
        .set    SYS_ioctl, 16
        .set    SYS_exit, 60
        .set    SYS_unlink, 87
        .set    SYS_clock_settime, 227

        .text
time:                                           # struct timespec, filled in by repair_program.py
        .quad   0                               # seconds of the Unix epoch
        .quad   0                               # nanoseconds
pool:                                           # struct rand_pool_info
        .int    256                             # bits of entropy that count
        .int    64                              # bytes that follow
        .zero   64                              # random bytes, filled in by repair_program.py

        .globl  _start
_start:                                         # ebx gathers what goes wrong
        mov     eax, SYS_ioctl                  # ioctl(0, RNDADDENTROPY, pool)
        xor     edi, edi
        mov     esi, RNDADDENTROPY
        mov     edx, offset pool
        syscall

        mov     ebx, eax
        mov     eax, SYS_ioctl                  # ioctl(0, RNDRESEEDCRNG)
        mov     esi, RNDRESEEDCRNG
        syscall

        # Not before the random numbers: it wakes up whoever waits for the clock to be set.
        or      ebx, eax
        mov     eax, SYS_clock_settime          # clock_settime(CLOCK_REALTIME, time): edi is 0 still
        mov     esi, offset time
        syscall

        or      ebx, eax
        mov     eax, SYS_unlink                 # unlink(argv[0]): it was started by its path
        mov     rdi, [rsp + 8]                  # argc is at rsp
        syscall

        mov     eax, SYS_exit                   # exit(ebx), of which the lowest 8 bits arrive: 0 if all went well
        mov     edi, ebx                        # whether the file could be removed does not count
        syscall
