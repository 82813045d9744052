@HEADER@
/* Convolutions and max-pools are CMSIS-NN's, 4.0 or later; compile with its sources, and its Include folder and that of
   CMSIS-Core on the include path. Its bytes are signed: those of the integer network less 128. */
#include "nas_net.h"

#include "arm_nnfunctions.h"

#if defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE
#error "the scratch buffer is sized for processors without Helium"
#endif

struct layer {
  uint32_t input, output, weight, channel; /* where they begin in the arena and in the tables */
  uint16_t height, width, inputs, output_height, output_width, outputs;
  uint8_t kernel, stride, padding, depthwise;
  int16_t input_offset, output_offset;
};

enum { FEATURES = @FEATURES@, PIXELS = @PIXELS@ };

@TABLES@

static int8_t arena[@ARENA@];
static int16_t scratch[@SCRATCH@];

/* A convolution or a depthwise one; not 0 where CMSIS-NN refuses it. */
static int convolve(const struct layer *layer)
{
  const cmsis_nn_context context = {scratch, sizeof scratch};
  const cmsis_nn_tile stride = {layer->stride, layer->stride}, padding = {layer->padding, layer->padding};
  const cmsis_nn_tile dilation = {1, 1};
  const cmsis_nn_activation range = {-128, 127};
  const cmsis_nn_dims input = {1, layer->height, layer->width, layer->inputs}, bias = {1, 1, 1, layer->outputs};
  const cmsis_nn_dims output = {1, layer->output_height, layer->output_width, layer->outputs};
  const cmsis_nn_dims filter = {layer->depthwise ? 1 : layer->outputs, layer->kernel, layer->kernel,
                                layer->depthwise ? layer->outputs : layer->inputs};
  const cmsis_nn_per_channel_quant_params factors = {(int32_t *)multipliers + layer->channel,
                                                     (int32_t *)shifts + layer->channel};
  const int8_t *in = arena + layer->input, *weights = layer_weights + layer->weight;
  const int32_t *biases = layer_bias + layer->channel;

  if (layer->depthwise) {
    const cmsis_nn_dw_conv_params params = {layer->input_offset, layer->output_offset, 1, stride, padding, dilation, range};
    return arm_depthwise_conv_wrapper_s8(&context, &params, &factors, &input, in, &filter, weights, &bias, biases,
                                         &output, arena + layer->output);
  }
  const cmsis_nn_conv_params params = {layer->input_offset, layer->output_offset, stride, padding, dilation, range};
  return arm_convolve_wrapper_s8(&context, &params, &factors, &input, in, &filter, weights, &bias, biases, &output,
                                 arena + layer->output);
}
@FUNCTIONS@
int nas_net_predict(const uint8_t *image, nas_net_logit *logits)
{
  int32_t sums[FEATURES] = {0};
  int best = 0;

  for (int i = 0; i < @IMAGE@; i++) arena[@IMAGE_AT@ + i] = (int8_t)(image[i] - 128);
@OPERATIONS@
  for (int i = 0; i < PIXELS * FEATURES; i++) sums[i % FEATURES] += arena[@FEATURES_AT@ + i] + 128;
  for (int k = 0; k < NAS_NET_CLASSES; k++) {
    nas_net_logit logit = class_bias[k];
    for (int i = 0; i < FEATURES; i++) logit += sums[i] * class_weight[k * FEATURES + i];
    logits[k] = logit;
    if (logit > logits[best]) best = k;
  }
  return best;
}
