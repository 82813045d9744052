@HEADER@
#include "nas_net.h"

/* Maps lie pixel by pixel: (row, column, channel). The normalisation of the image is in the first weights and
   biases. */

#ifdef __GNUC__
#define NOT_INLINED __attribute__((noinline)) /* with registers of its own */
#else
#define NOT_INLINED
#endif

typedef float value;

struct layer {
  uint32_t weight, bias; /* where they begin in the tables */
  uint16_t height, width, inputs, outputs; /* of its input map */
  uint8_t kernel, stride, padding, depthwise, relu, pad;
};

struct stage {
  uint32_t input, output@STAGE_SKIP@; /* where the maps begin in the arena */
  uint16_t layer, height, width, channels; /* first layer; the map that it computes */
  uint16_t input_width, inputs;
  uint8_t layers, pool, sum, add_after, average;
};

@TABLES@

static value arena[@ARENA@]; /* a stage's input at one end, its output at the other */
static value pixels[PIXELS][@PIXEL_SIZE@];
static float sums[@SUMS@];

/* The part of a kernel that lies inside the map. */
struct window {
  int rows, count, step; /* of each row, every step-th of so many values */
  int map_row, weight_row; /* from one row to the next */
};

static NOT_INLINED float dot(const struct window *window, const value *values, const float *weights, float sum)
{
  const int step = window->step;

  for (int row = window->rows;; values += window->map_row, weights += window->weight_row) {
    for (int i = 0; i < window->count; i += step) sum += values[i] * weights[i];
    if (--row == 0) return sum;
  }
}

static NOT_INLINED float dot_image(const struct window *window, const uint8_t *levels, const float *weights, float sum)
{
  const int step = window->step;

  for (int row = window->rows;; levels += window->map_row, weights += window->weight_row) {
    for (int i = 0; i < window->count; i += step) sum += levels[i] * weights[i];
    if (--row == 0) return sum;
  }
}
@OUTSIDE_FUNCTION@
/* Compute all channels of a layer's output at (row, column). */
static void convolve(const struct layer *layer, const uint8_t *image, const value *map, int row, int column, value *out)
{
  const int kernel = layer->kernel, inputs = layer->inputs, depthwise = layer->depthwise;
  const int top = row * layer->stride - layer->padding, left = column * layer->stride - layer->padding;
  /* the part of the kernel that lies inside the map */
  const int first_row = top < 0 ? -top : 0, end_row = top + kernel > layer->height ? layer->height - top : kernel;
  const int first = left < 0 ? -left : 0, end = left + kernel > layer->width ? layer->width - left : kernel;
  const int columns = end - first, weight_row = kernel * inputs;
  const struct window window = {end_row - first_row, columns * inputs, depthwise ? inputs : 1,
                                layer->width * inputs, weight_row};
  const float *bias = layer_bias + layer->bias, *weights = layer_weights + layer->weight;
  const int inside = first_row * weight_row + first * inputs;
  int at = ((top + first_row) * layer->width + left + first) * inputs;

  for (int o = layer->outputs; o > 0; o--) {
    float sum = image ? dot_image(&window, image + at, weights + inside, *bias)
                      : dot(&window, map + at, weights + inside, *bias);@OUTSIDE@
    *out++ = layer->relu && sum < 0 ? 0 : sum;
    at += depthwise;
    bias++;
    weights += depthwise ? 1 : kernel * weight_row;
  }
}

@STAGES@