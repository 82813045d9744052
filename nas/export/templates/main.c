/* Reads one binary PGM or PPM image of the right size from standard input and prints its class. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "nas_net.h"

#define KIND (NAS_NET_CHANNELS == 1 ? '5' : '6')

/* The next character of the header; a comment, from # on, is the end of its line. */
static int next(void)
{
  int c = getchar();

  if (c == '#')
    while (c != '\n' && c != '\r' && c != EOF) c = getchar();
  return c;
}

/* The next number of the header, -1 where there is none, and the one character of white space after it. */
static int number(int *after)
{
  int value = -1, c = next();

  while (isspace(c)) c = next();
  for (; isdigit(c); c = next()) value = value > 99999 ? value : 10 * (value < 0 ? 0 : value) + c - '0';
  *after = c;
  return isspace(c) ? value : -1;
}

int main(void)
{
  static uint8_t image[NAS_NET_HEIGHT * NAS_NET_WIDTH * NAS_NET_CHANNELS];
  nas_net_logit logits[NAS_NET_CLASSES];
  int width = -1, height = -1, largest = -1, after = 0;

  if (getchar() == 'P' && getchar() == KIND) {
    width = number(&after);
    height = number(&after);
    largest = number(&after);
  }
  if (width != NAS_NET_WIDTH || height != NAS_NET_HEIGHT || largest != 255) {
    fprintf(stderr, "give a binary image (P%c) of %dx%d with levels up to 255 on standard input", KIND, NAS_NET_WIDTH,
            NAS_NET_HEIGHT);
    if (width >= 0 && height >= 0 && largest >= 0)
      fprintf(stderr, ", not of %dx%d up to %d", width, height, largest);
    fputs("\n", stderr);
    return 1;
  }
  if (fread(image, sizeof image, 1, stdin) != 1) {
    fputs("the image ends before its last pixel\n", stderr);
    return 1;
  }
  if (after == '\r' && image[0] == '\n' && (after = getchar()) != EOF) { /* lines of the header end in two characters */
    memmove(image, image + 1, sizeof image - 1);
    image[sizeof image - 1] = (uint8_t)after;
  }
  puts(nas_net_class_names[nas_net_predict(image, logits)]);
  return 0;
}
