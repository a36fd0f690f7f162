# The repair program for x86_64: everything after its ELF headers, which repair_program.py makes. That file has the code
# below as hexadecimal digits; a test assembles this text and compares.
#
#   as --64 -o program.o repair_program.x86_64.s
#   ld -m elf_x86_64 -Ttext=0x400078 -o program program.o
#   objcopy -O binary -j .text program program.bin
#
# Linux runs it as root, with /dev/urandom as descriptor 3, and as 4 what is to have a byte after each text. Of its
# input each SIZE bytes are a message: a struct timespec, a struct rand_pool_info with 64 bytes, and two texts, of which
# it prints the first if all went well. A system call has its number in rax, its arguments in rdi, rsi and rdx, and its
# result in rax: 0, or something negative. The kernel keeps all registers but rax, rcx and r11.

        .intel_syntax noprefix

        .set    RNDADDENTROPY, 0x40085203       # mix bytes in, and count bits of entropy for them
        .set    RNDRESEEDCRNG, 0x5207           # draw from what was mixed in from now on; there since Linux 4.17
        .set    CLOCK_REALTIME, 0
        .set    SYS_read, 0
        .set    SYS_write, 1
        .set    SYS_ioctl, 16
        .set    SYS_exit, 60
        .set    SYS_clock_settime, 227
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
        sub     rsp, ROOM
        mov     ebx, IDLE                       # ebx gathers what goes wrong
next:
        xor     r12d, r12d                      # r12: how much of a message there is
more:
        xor     eax, eax                        # read(0, message + r12, SIZE - r12)
        xor     edi, edi
        lea     rsi, [rsp + r12]
        mov     edx, SIZE
        sub     edx, r12d
        syscall

        test    eax, eax
        jle     end
        add     r12d, eax
        cmp     r12d, SIZE
        jb      more
        mov     eax, SYS_ioctl                  # ioctl(URANDOM, RNDADDENTROPY, pool)
        mov     edi, URANDOM
        mov     esi, RNDADDENTROPY
        lea     rdx, [rsp + POOL]
        syscall

        mov     ebx, eax
        mov     eax, SYS_ioctl                  # ioctl(URANDOM, RNDRESEEDCRNG)
        mov     esi, RNDRESEEDCRNG
        syscall

        # Not before the random numbers: it wakes up whoever waits for the clock to be set.
        or      ebx, eax
        mov     eax, SYS_clock_settime          # clock_settime(CLOCK_REALTIME, time)
        xor     edi, edi
        mov     rsi, rsp
        syscall

        lea     rsi, [rsp + TEXTS]              # write(1, text, TEXT)
        or      ebx, eax
        jz      tell
        add     rsi, TEXT
tell:
        mov     eax, SYS_write
        mov     edi, 1
        mov     edx, TEXT
        syscall

        lea     rsi, [rsi + TEXT - 1]           # write(TURN, its last byte, 1)
        mov     eax, SYS_write
        mov     edi, TURN
        mov     edx, 1
        syscall

        jmp     next
end:
        mov     eax, SYS_exit                   # exit(ebx), of which the lowest 8 bits arrive: 0 if all went well
        mov     edi, ebx
        syscall
