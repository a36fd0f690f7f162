# The repair program for i386: everything after its ELF headers, which repair_program.py makes. That file has the code
# below as hexadecimal digits; a test assembles this text and compares.
#
#   as --32 -o program.o repair_program.i386.s
#   ld -m elf_i386 -Ttext=0x400078 -o program program.o
#   objcopy -O binary -j .text program program.bin
#
# Linux runs it as root, with /dev/urandom as descriptor 3, and as 4 what is to have a byte after each text. Of its
# input each SIZE bytes are a message: a struct __kernel_timespec, a struct rand_pool_info with 64 bytes, and two texts,
# of which it prints the first if all went well. A system call has its number in eax, its arguments in ebx, ecx and edx,
# and its result in eax: 0, or something negative. The kernel keeps all other registers.

        .intel_syntax noprefix

        .set    RNDADDENTROPY, 0x40085203       # mix bytes in, and count bits of entropy for them
        .set    RNDRESEEDCRNG, 0x5207           # draw from what was mixed in from now on; there since Linux 4.17
        .set    CLOCK_REALTIME, 0
        .set    SYS_exit, 1
        .set    SYS_read, 3
        .set    SYS_write, 4
        .set    SYS_ioctl, 54
        .set    SYS_clock_settime64, 404        # which takes the timespec of 64-bit computers; there since Linux 5.1
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
        sub     esp, ROOM
        mov     esi, IDLE                       # esi gathers what goes wrong
next:
        xor     edi, edi                        # edi: how much of a message there is
more:
        mov     eax, SYS_read                   # read(0, message + edi, SIZE - edi)
        xor     ebx, ebx
        lea     ecx, [esp + edi]
        mov     edx, SIZE
        sub     edx, edi
        int     0x80

        test    eax, eax
        jle     end
        add     edi, eax
        cmp     edi, SIZE
        jb      more
        mov     eax, SYS_ioctl                  # ioctl(URANDOM, RNDADDENTROPY, pool)
        mov     ebx, URANDOM
        mov     ecx, RNDADDENTROPY
        lea     edx, [esp + POOL]
        int     0x80

        mov     esi, eax
        mov     eax, SYS_ioctl                  # ioctl(URANDOM, RNDRESEEDCRNG)
        mov     ecx, RNDRESEEDCRNG
        int     0x80

        # Not before the random numbers: it wakes up whoever waits for the clock to be set.
        or      esi, eax
        mov     eax, SYS_clock_settime64        # clock_settime64(CLOCK_REALTIME, time)
        xor     ebx, ebx
        mov     ecx, esp
        int     0x80

        lea     ecx, [esp + TEXTS]              # write(1, text, TEXT)
        or      esi, eax
        jz      tell
        add     ecx, TEXT
tell:
        mov     eax, SYS_write
        mov     ebx, 1
        mov     edx, TEXT
        int     0x80

        lea     ecx, [ecx + TEXT - 1]           # write(TURN, its last byte, 1)
        mov     eax, SYS_write
        mov     ebx, TURN
        mov     edx, 1
        int     0x80

        jmp     next
end:
        mov     eax, SYS_exit                   # exit(esi), of which the lowest 8 bits arrive: 0 if all went well
        mov     ebx, esi
        int     0x80
