/* Runs the self-test of an exported network on a bare Cortex-M in qemu, and prints over semihosting the number of
   images with other logits than expected and the instructions of an image. With -icount shift=0 an instruction takes 1 ns, so a
   tick of the 1 MHz timer is 1000 instructions. */
#include <stdint.h>

#include "nas_net.h"

extern uint32_t stack_top, data_begin, data_end, data_image, bss_begin, bss_end;

#define TIMER ((volatile uint32_t *)0xe000e010) /* control, reload, value */
#define FPU_ACCESS ((volatile uint32_t *)0xe000ed88)
#define IMAGES 10
#define LONGEST 0xffffff

static int call(int operation, const void *argument)
{
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;

  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static void print(const char *label, uint32_t number)
{
  char text[12];
  char *digit = text + sizeof text - 1;

  *digit = 0;
  do {
    *--digit = (char)('0' + number % 10);
    number /= 10;
  } while (number);
  call(4, label);
  call(4, digit);
  call(4, "\n");
}

void reset(void);

void reset(void)
{
  uint32_t *from = &data_image;
  uint32_t start, wrong;

  for (uint32_t *to = &data_begin; to < &data_end; to++) *to = *from++;
  for (uint32_t *to = &bss_begin; to < &bss_end; to++) *to = 0;
#ifdef __ARM_FP
  *FPU_ACCESS |= 0xf << 20;
#endif
  TIMER[1] = LONGEST;
  TIMER[2] = 0;
  TIMER[0] = 1; /* on, by the 1 MHz clock, without interrupts */
  start = TIMER[2];
  wrong = (uint32_t)nas_net_self_test();
  print("instructions ", ((start - TIMER[2]) & LONGEST) * (1000 / IMAGES));
  print("wrong ", wrong);
  call(0x18, (const void *)0x20026); /* exit */
  for (;;) {
  }
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {&stack_top, reset};
