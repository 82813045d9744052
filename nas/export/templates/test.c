@HEADER@
#include "nas_net.h"

#define IMAGES @IMAGES@

static const uint8_t images[IMAGES][@SIZE@] = {
@IMAGE_ROWS@
};

static const nas_net_logit expected[IMAGES][NAS_NET_CLASSES] = {
@LOGIT_ROWS@
};

int nas_net_self_test(void)
{
  int wrong = 0;

  for (int i = 0; i < IMAGES; i++) {
    nas_net_logit logits[NAS_NET_CLASSES];
    int same = 1;
    nas_net_predict(images[i], logits);
    for (int k = 0; k < NAS_NET_CLASSES; k++) @SAME@
    wrong += !same;
  }
  return wrong;
}

#ifndef NAS_NET_NO_MAIN
#include <stdio.h>

int main(void)
{
  int wrong = nas_net_self_test();

  printf("%d of %d images as expected\n", IMAGES - wrong, IMAGES);
  return wrong != 0;
}
#endif
