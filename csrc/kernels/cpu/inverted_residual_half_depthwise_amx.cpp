// The depthwise convolution of inverted_residual_half.h: a vector has all channels of a panel.
#include "depthwise_conv2d_paths.h"
#include "inverted_residual_half.h"
#include "simd/halves.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kColumns = 7;  // maps are 7, 14, 28, 56 or 112 wide

// A register tile: 7 columns x R rows.
struct Tile {
  const float16* row[9];  // input rows, null outside the image
  const float16 *bias, *weight;
  bfloat16* out;    // rows of the output
  int64_t out_row;  // elements from one to the next
  int64_t first;    // column of the output
  int64_t columns;
};

template <int K, int S, int R, bool kFull>
FASTCONV_INLINE void tile(const Tile& t) {
  VecH acc[R * kColumns];
  const VecH bias = load_half(t.bias);
#pragma GCC unroll 16
  for (int i = 0; i < R * kColumns; ++i) acc[i] = bias;
#pragma GCC unroll 16
  for (int i = 0; i < K + (R - 1) * S; ++i) {
    if (t.row[i] == nullptr) continue;
    const float16* row = t.row[i] + t.first * S * kHiddenPanel;
    VecH w[R][K];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int kh = i - r * S;
      if (kh < 0 || kh >= K) continue;
#pragma GCC unroll 16
      for (int kw = 0; kw < K; ++kw) w[r][kw] = load_half(t.weight + (kh * K + kw) * kHiddenPanel);
    }
#pragma GCC unroll 32
    for (int j = 0; j < (kColumns - 1) * S + K; ++j) {
      const VecH x = load_half(row + j * kHiddenPanel);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const int kh = i - r * S;
        if (kh < 0 || kh >= K) continue;
#pragma GCC unroll 16
        for (int o = 0; o < kColumns; ++o) {
          const int kw = j - o * S;
          if (kw < 0 || kw >= K) continue;
          acc[r * kColumns + o] = fma(x, w[r][kw], acc[r * kColumns + o]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int o = 0; o < kColumns; ++o) {
      if (!kFull && o >= t.columns) continue;
      // Ties go up and down in turn: to even would take two steps more.
      store_clamped(t.out + r * t.out_row + (t.first + o) * kHiddenPanel, acc[r * kColumns + o],
                    (r + o) % 2 == 0);
    }
  }
}

template <int K, int S, int R>
void row_of_tiles(Tile& t, int64_t columns) {
  for (t.first = 0; t.first < columns; t.first += kColumns) {
    t.columns = columns - t.first;
    t.columns >= kColumns ? tile<K, S, R, true>(t) : tile<K, S, R, false>(t);
  }
}

template <int K, int S>
void depthwise(const InvertedResidualBfloat16Params& p, const RowSpan& span, const HalfRing& ring,
               const float16* filter, bfloat16* out) {
  Tile t{};
  t.bias = filter + kHiddenPanel, t.weight = t.bias + kHiddenPanel;
  t.out_row = p.out_width * kHiddenPanel;
  // A row that is read, and its slot: a division for each shows on maps of 7x7.
  int64_t y = max_of<int64_t>(span.first * S - p.pad_top, 0), slot = ring.slot(y);
  for (int64_t r = 0; r < span.count; r += 2) {
    const int64_t top = (span.first + r) * S - p.pad_top;
    const int64_t rows = min_of<int64_t>(span.count - r, 2);
    for (; y < top; ++y) slot = slot + 1 < ring.slots ? slot + 1 : 0;
    for (int64_t i = 0; i < K + (rows - 1) * S; ++i) {
      const int64_t at = slot + top + i - y;
      const int64_t wrapped = at < ring.slots ? at : at - ring.slots;
      t.row[i] = inside(top + i, p.height) ? ring.rows + wrapped * ring.row : nullptr;
    }
    t.out = out + r * t.out_row;
    rows == 2 ? row_of_tiles<K, S, 2>(t, p.out_width) : row_of_tiles<K, S, 1>(t, p.out_width);
  }
}

}  // namespace

void depthwise_half(const InvertedResidualBfloat16Params& p, const RowSpan& span,
                    const HalfRing& ring, const float16* filter, bfloat16* out) {
  const auto with_stride = [&](auto kernel) {
    return p.stride_h == 1 ? depthwise<kernel, 1>(p, span, ring, filter, out)
                           : depthwise<kernel, 2>(p, span, ring, filter, out);
  };
  if (p.kernel_h == 3) return with_stride(Constant<3>{});
  if (p.kernel_h == 5) return with_stride(Constant<5>{});
  with_stride(Constant<7>{});
}

}  // namespace fastconv::FASTCONV_ISA
