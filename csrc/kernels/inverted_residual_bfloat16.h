// The blocks of inverted_residual.h in bfloat16: the products take pairs of channels, and what each
// part gives is rounded for the next.
#pragma once

#include "inverted_residual.h"

namespace fastconv {

// Activations are dense and channels_last; in_channels is even where the block expands. The 1x1
// weights lie in pairs of input channels, as pack_pointwise_pairs of fastconv.ops leaves them.
struct InvertedResidualBfloat16Params : InvertedResidualShape {
  const bfloat16* input;           // (batch, in_channels, height, width)
  const bfloat16* expand_weight;   // (in_channels / 2, hidden, 2), null without expansion
  const float* expand_bias;        // (hidden) or null
  const float* depthwise_weight;   // (taps, hidden)
  const float* depthwise_bias;     // (hidden) or null
  const bfloat16* project_weight;  // (hidden / 2 rounded up, out_channels, 2)
  const float* project_bias;       // (out_channels) or null
  const bfloat16* residual;        // as output, or null
  bfloat16* output;                // (batch, out_channels, out_height, out_width)

  int64_t expand_row, project_row;  // pairs from a row of the weight to the next
  Activation activation;            // after expand and depthwise
  Activation project_activation;
};

// First all units of hide, which fill the buffer `hidden` shared by all threads, then those of run.
struct InvertedResidualBfloat16Plan {
  int64_t hide_units, hidden_bytes;  // zero by rows
  int64_t units, scratch_bytes;
  int64_t unit_rows;  // of the output that a unit of run makes; 0 by channels
};

struct InvertedResidualBfloat16Kernels {
  // packed[i / 2][o][i % 2] = weight[o * out_stride + i * in_stride], zero behind an odd last i.
  void (*pack)(const bfloat16* weight, int64_t out_channels, int64_t in_channels,
               int64_t out_stride, int64_t in_stride, uint32_t* packed);
  // wide[i][j] = from[i * row_stride + j * column_stride]
  void (*widen)(const bfloat16* from, int64_t rows, int64_t columns, int64_t row_stride,
                int64_t column_stride, float* wide);
  InvertedResidualBfloat16Plan (*plan)(const InvertedResidualShape&);
  void (*hide)(const InvertedResidualBfloat16Params&, bfloat16* hidden, bfloat16* scratch,
               int64_t begin, int64_t end);
  void (*run)(const InvertedResidualBfloat16Params&, const bfloat16* hidden, bfloat16* scratch,
              int64_t begin, int64_t end);
};

}  // namespace fastconv
