/* Keep the larger of each two values. */
static void keep_larger(const value *values, value *largest, int count)
{
  for (int i = 0; i < count; i++)
    if (values[i] > largest[i]) largest[i] = values[i];
}

/* Compute a stage's map pixel by pixel, and each pixel through all the stage's layers. */
static void run_stage(const struct stage *stage, @INPUT_PARAMETERS@)
{
  const struct layer *layer = layers + stage->layer;
  const int channels = stage->channels, last = stage->layers - 1, size = @POOL@;
  value *out = arena + stage->output;

  for (int i = 0; stage->sum && i < channels; i++) sums[i] = 0;
  for (int row = 0; row < stage->height; row++)
    for (int column = 0; column < stage->width; column++) {
      value *pixel = stage->sum ? pixels[PIXELS - 1] : out;
      for (int part = 0; part < size * size; part++) { /* of the pool's square */
        const int y = row * size + part / size, x = column * size + part % size;
        const int at = (y * stage->input_width + x) * stage->inputs;
        value *to = part ? pixels[1] : pixel;
        if (last < 0)
          for (int i = 0; i < channels; i++) to[i] = @INPUT_AT@;
        for (int i = 0; i <= last; i++) {
          const value *from = pixels[(last - i) & 1];
          value *result = @BETWEEN@ ? pixels[1 - ((last - i) & 1)] : to;
          if (i == 0)
            convolve(layer, @INPUT@, y, x, result);
          else
            convolve(layer + i, @PIXEL@, 0, 0, result);@ADD@
        }
        if (part) keep_larger(to, pixel, channels);
      }
      if (stage->sum)
        for (int i = 0; i < channels; i++) sums[i] += pixel[i];
      else
        out += channels;
    }@AVERAGE@
}

int nas_net_predict(const uint8_t *image, nas_net_logit *logits)
{
  int best = 0;

  for (int i = 0; i < STAGES; i++) @RUN@
  for (int k = 0; k < NAS_NET_CLASSES; k++) {
    nas_net_logit logit = class_bias[k];
    for (int i = 0; i < FEATURES; i++) logit += sums[i] * class_weight[k * FEATURES + i];
    logits[k] = logit;
    if (logit > logits[best]) best = k;
  }
  return best;
}
