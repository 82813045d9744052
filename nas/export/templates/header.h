@HEADER@
#ifndef NAS_NET_H
#define NAS_NET_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An image: unsigned bytes, 0 to 255, row by row, the channels of a pixel together. Not normalised.@PREPARATION@ */
#define NAS_NET_HEIGHT @HEIGHT@
#define NAS_NET_WIDTH @WIDTH@
#define NAS_NET_CHANNELS @CHANNELS@
#define NAS_NET_CLASSES @CLASSES@

@LOGIT@

extern const char *const nas_net_class_names[NAS_NET_CLASSES];

/* Write the logit of each class and return the class of the largest. Uses static memory: one call at a time. */
int nas_net_predict(const uint8_t *image, nas_net_logit *logits);

/* Predict the images in nas_net_test.c and return the number with other logits than expected: 0 where all is well. */
int nas_net_self_test(void);

#ifdef __cplusplus
}
#endif

#endif
