# The firmware that proves an accelerator of an x86 emulator, by a guest of a few instructions: from real mode through
# protected mode to long mode, and one OUT. proof_firmware.py has it as hexadecimal digits; a test assembles this text and
# compares.
#
#   as --64 -o firmware.o proof_firmware.x86.s
#   ld -m elf_x86_64 -Ttext=0xf0000 -o firmware firmware.o
#   objcopy -O binary -j .text firmware firmware.bin
#
# QEMU has these 64 KiB at 0xf0000, as the last below 1 MiB, and once more as the last below 4 GiB, where the processor
# begins. RAM is from 0 on, so what is made at 0x1000 is written. There are no interrupts and there is no stack.

        .intel_syntax noprefix

        .set    SEGMENT, 0xf000                 # of real mode: all below is in it, from offset 0 on
        .set    PAGE_TABLES, 0x1000             # three of 4 KiB each
        .set    PRESENT_AND_WRITABLE, 0x3
        .set    LARGE_PAGE, 0x80
        .set    CR0_PE_AND_PG, 0x80000001       # protected mode, paging
        .set    CR4_PAE, 0x20
        .set    MSR_EFER, 0xc0000080
        .set    EFER_LME, 0x100                 # long mode, as soon as there is paging
        .set    CODE, gdt_code - gdt            # a selector
        .set    EXIT_PORT, 0xf4                 # of isa-debug-exit: QEMU exits with 2 * value + 1, which is 85
        .set    PROVED, 0x2a

        .text
        .code16
        .globl  _start
_start:                                         # in real mode
        cli
        lgdtd   cs:[gdtr - _start]
        xor     ax, ax
        mov     ds, ax
        mov     es, ax

        cld                                     # clear the page tables
        mov     di, PAGE_TABLES
        xor     eax, eax
        mov     ecx, 3 * 0x1000 / 4
        rep stosd

        # The first 2 MiB are where they are: one entry in the table of each level, and the last one is of a large page.
        mov     dword ptr [PAGE_TABLES], PAGE_TABLES + 0x1000 + PRESENT_AND_WRITABLE
        mov     dword ptr [PAGE_TABLES + 0x1000], PAGE_TABLES + 0x2000 + PRESENT_AND_WRITABLE
        mov     dword ptr [PAGE_TABLES + 0x2000], LARGE_PAGE + PRESENT_AND_WRITABLE
        mov     eax, PAGE_TABLES
        mov     cr3, eax
        mov     eax, cr4
        or      eax, CR4_PAE
        mov     cr4, eax

        mov     ecx, MSR_EFER
        rdmsr
        or      eax, EFER_LME
        wrmsr
        mov     eax, cr0                        # both at once: from real mode into long mode
        or      eax, CR0_PE_AND_PG
        mov     cr0, eax
        .att_syntax
        ljmpl   $CODE, $long_mode
        .intel_syntax noprefix

        .code64
long_mode:
        mov     eax, PROVED
        out     EXIT_PORT, al
stay:                                           # where there is no isa-debug-exit
        hlt
        jmp     stay

        .byte   0x8d, 0xb4, 0, 0, 0x66, 0x90    # never run: up to the next multiple of 16
gdt:
        .quad   0
gdt_code:
        .quad   0x00209a0000000000              # 64-bit code, present, to be executed and read
        .quad   0x0000920000000000              # data, present, to be read and written
gdtr:
        .word   gdtr - gdt - 1                  # its limit
        .int    gdt

        .org    0xfff0                          # where a processor begins
        .code16
        .att_syntax
        ljmpw   $SEGMENT, $0

        .org    0x10000
