/* Reads one binary PGM or PPM image of the right size from standard input and prints its class. */
#include <stdio.h>

#include "nas_net.h"

int main(void)
{
  static uint8_t image[NAS_NET_HEIGHT * NAS_NET_WIDTH * NAS_NET_CHANNELS];
  nas_net_logit logits[NAS_NET_CLASSES];
  int kind, width, height, largest;

  if (scanf("P%d %d %d %d", &kind, &width, &height, &largest) != 4 || getchar() == EOF ||
      kind != (NAS_NET_CHANNELS == 1 ? 5 : 6) || width != NAS_NET_WIDTH || height != NAS_NET_HEIGHT ||
      largest != 255 || fread(image, sizeof image, 1, stdin) != 1) {
    fprintf(stderr, "give a binary %s of %dx%d, 255 levels, without comments, on standard input\n",
            NAS_NET_CHANNELS == 1 ? "PGM" : "PPM", NAS_NET_WIDTH, NAS_NET_HEIGHT);
    return 1;
  }
  puts(nas_net_class_names[nas_net_predict(image, logits)]);
  return 0;
}
