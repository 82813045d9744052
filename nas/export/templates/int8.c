@HEADER@
#include "nas_net.h"

/* Activations are unsigned bytes, weights signed ones, sums 32 bits wide. Maps lie pixel by pixel: (row, column,
   channel). Each sum becomes a byte as in ONNX's QLinearConv: times one float of its channel, rounded to the nearest
   integer, halves to the even one. */

#if (defined __arm__ && !defined __ARM_FP) || (defined __riscv && !defined __riscv_flen)
#undef NAS_NET_INTEGERS_ONLY
#define NAS_NET_INTEGERS_ONLY /* no unit for floats; the results are the same */
#endif

#ifdef __GNUC__
#define NOT_INLINED __attribute__((noinline)) /* with registers of its own */
#else
#define NOT_INLINED
#endif

#ifdef __ARM_FEATURE_DSP /* products in pairs */
#include <arm_acle.h>
#include <string.h>
#endif

typedef uint8_t value;

struct channel {
  int32_t bias;
  float factor;
};

struct layer {
  uint32_t weight, channel; /* where they begin in the tables */
  uint16_t height, width, inputs, outputs; /* of its input map */
  uint8_t kernel, stride, padding, depthwise;
  uint8_t zero_in, zero_out; /* the bytes that stand for 0 */
};

struct stage {
  uint32_t input, output@STAGE_SKIP@; /* where the maps begin in the arena */
  uint16_t layer, height, width, channels; /* first layer; the map that it computes */
  uint16_t input_width, inputs;
  uint8_t layers, pool, sum, add_after, average@STAGE_ADD@;
};
@STRUCTS@
@TABLES@

static value arena[@ARENA@]; /* a stage's input at one end, its output at the other */
static value pixels[PIXELS][@PIXEL_SIZE@];
static int32_t sums[@SUMS@];
@SHIFT@
#ifdef NAS_NET_INTEGERS_ONLY

static uint64_t halves_to_even(uint64_t number, int shift)
{
  const uint64_t half = (uint64_t)1 << (shift - 1), rest = number & (2 * half - 1);

  number >>= shift;
  return number + (rest > half || (rest == half && (number & 1)));
}

/* Round to the 24 bits of a float. */
static uint64_t as_float(uint64_t number)
{
  int shift = -24;

  for (uint64_t rest = number; rest; rest >>= 1) shift++;
  return shift > 0 ? halves_to_even(number, shift) << shift : number;
}

/* The byte for a sum: (float)sum * factor, itself rounded to a float, and rounded. Only just beside a half can the
   first rounding change the second. */
static value to_byte(int32_t sum, float factor, int zero)
{
  union {
    float number;
    uint32_t bits;
  } parts;
  parts.number = factor; /* (2^23 + last 23 bits) / 2^shift */
  const int shift = 150 - (int)(parts.bits >> 23);
  uint64_t product = sum < 0 ? 0 - (uint64_t)sum : (uint64_t)sum;
  int result = 512;

@LARGE@  product *= (parts.bits & 0x7fffff) | 0x800000;
  if (shift > 63) {
    result = 0;
  } else if (product >> (shift - 16) < (uint64_t)512 << 16) {
    const uint32_t fixed = (uint32_t)(product >> (shift - 16)), rest = fixed & 0xffff;
    if (rest == 0x7fff || rest == 0x8000)
      result = (int)halves_to_even(as_float(product), shift);
    else
      result = (int)((fixed + 0x8000) >> 16);
  }
  result = sum < 0 ? zero - result : zero + result;
  return (value)(result < 0 ? 0 : result > 255 ? 255 : result);
}

#else

/* The byte for a sum. Adding 1.5 * 2^23 leaves the rounded integer in the float's last bits. */
static value to_byte(int32_t sum, float factor, int zero)
{
  union {
    float number;
    int32_t bits;
  } rounded;
  float scaled = (float)sum * factor;

  if (scaled < (float)-zero) scaled = (float)-zero;
  if (scaled > (float)(255 - zero)) scaled = (float)(255 - zero);
  rounded.number = scaled + 12582912.0f;
  return (value)(rounded.bits - 0x4b400000 + zero);
}

#endif

/* The part of a kernel that lies inside the map. */
struct window {
  int rows, count, step; /* of each row, every step-th of so many values */
  int map_row, weight_row; /* from one row to the next */
};

static NOT_INLINED int32_t dot(const struct window *window, const value *values, const int8_t *weights, int32_t sum)
{
  const int step = window->step;

  for (int row = window->rows;; values += window->map_row, weights += window->weight_row) {
    const int count = window->count;
    int i = 0;
#ifdef __ARM_FEATURE_DSP
    if (step == 1)
      for (; i < count - 3; i += 4) {
        uint32_t four, other;
        memcpy(&four, values + i, 4);
        memcpy(&other, weights + i, 4);
        sum = __smlad(__uxtb16(four), __sxtb16(other), sum);
        sum = __smlad(__uxtb16(four >> 8), __sxtb16(other >> 8), sum);
      }
#endif
    for (; i < count; i += step) sum += values[i] * weights[i];
    if (--row == 0) return sum;
  }
}
@OUTSIDE_FUNCTION@
/* Compute all channels of a layer's output at (row, column). */
static void convolve(const struct layer *layer, const value *map, int row, int column, value *out)
{
  const int kernel = layer->kernel, inputs = layer->inputs, depthwise = layer->depthwise;
  const int top = row * layer->stride - layer->padding, left = column * layer->stride - layer->padding;
  /* the part of the kernel that lies inside the map */
  const int first_row = top < 0 ? -top : 0, end_row = top + kernel > layer->height ? layer->height - top : kernel;
  const int first = left < 0 ? -left : 0, end = left + kernel > layer->width ? layer->width - left : kernel;
  const int columns = end - first, weight_row = kernel * inputs;
  const struct window window = {end_row - first_row, columns * inputs, depthwise ? inputs : 1,
                                layer->width * inputs, weight_row};
  const struct channel *channel = layer_channels + layer->channel;
  const int8_t *weights = layer_weights + layer->weight;
  const int inside = first_row * weight_row + first * inputs;

  map += ((top + first_row) * layer->width + left + first) * inputs;
  for (int o = layer->outputs; o > 0; o--) {
    int32_t sum = dot(&window, map, weights + inside, channel->bias);@OUTSIDE@
    *out++ = to_byte(sum, channel++->factor, layer->zero_out);
    map += depthwise;
    weights += depthwise ? 1 : kernel * weight_row;
  }
}

@STAGES@