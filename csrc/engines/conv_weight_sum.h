// Partial gradients of convolution weights added in order and turned into dw's own order.
#pragma once

#include "engines/conv_slab.h"
#include "engines/transpose.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

template <class T>
inline simd::Vec<T> sum_chunks(const ConvWeightSumArgs& args, const T* partial) {
  simd::Vec<T> sum = simd::load(partial);
  for (std::int64_t chunk = 1; chunk < args.chunks; ++chunk) {
    sum = sum + simd::load(partial + chunk * args.chunk_size);
  }
  return sum;
}

// The terms of dw in the order of its memory, from term `step` of that order on.
struct TermWalk {
  const ConvWeightSumArgs& args;
  std::int64_t first, tap, channel;  // of a run: its first channel, and one of its terms

  TermWalk(const ConvWeightSumArgs& a, std::int64_t step) : args(a) {
    const std::int64_t run_terms = args.taps * args.run, rest = step % run_terms;
    first = step / run_terms * args.run;
    tap = args.by_channel ? rest % args.taps : rest / args.run;
    channel = args.by_channel ? rest / args.taps : rest % args.run;
  }
  std::int64_t term() const { return first * args.taps + tap * args.run + channel; }
  std::int64_t place() const { return args.place[tap] + (first + channel) * args.stride_channel; }
  void step() {
    std::int64_t& inner = args.by_channel ? tap : channel;
    std::int64_t& outer = args.by_channel ? channel : tap;
    if (++inner < (args.by_channel ? args.taps : args.run)) return;
    inner = 0;
    if (++outer < (args.by_channel ? args.run : args.taps)) return;
    outer = 0;
    first += args.run;
  }
};

// `count` terms that are neighbours in dw, for one vector of columns: columns turned into rows of
// dw.
template <class T>
[[gnu::noinline]] void sum_block(const ConvWeightSumArgs& args, const T* partial,
                                 std::int64_t pitch, const std::int64_t* terms, int count, T* dw,
                                 int columns) {
  using V = simd::Vec<T>;
  V row[V::lanes];
  for (int i = 0; i < V::lanes; ++i) {
    row[i] = i < count ? sum_chunks(args, partial + terms[i] * pitch) : simd::zero<T>();
  }
  transpose_registers<T>(row);
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    if (i < columns) simd::store_upto(dw + i * args.stride_column, row[i], count);
  }
}

// Terms [first, last), by their place in dw, of the columns from `column` on that a part of `pitch`
// of them holds; its term 0 would lie at `partial`.
template <class T>
void sum_terms(const ConvWeightSumArgs& args, const T* partial, std::int64_t column,
               std::int64_t pitch, std::int64_t first, std::int64_t last, T* dw) {
  constexpr int kLanes = simd::Vec<T>::lanes;
  const bool turned = args.dense >= 4 && args.stride_column != 1;
  const std::int64_t left = args.columns.columns - column, columns = left < pitch ? left : pitch;
  TermWalk walk(args, first);
  for (std::int64_t step = first; step < last;) {
    std::int64_t count = 1;
    if (turned) {
      count = args.dense - step % args.dense;
      if (count > last - step) count = last - step;
      if (count > kLanes) count = kLanes;
    }
    T* to = dw + walk.place() + column * args.stride_column;
    std::int64_t terms[kLanes];
    for (std::int64_t i = 0; i < count; ++i, walk.step()) terms[i] = walk.term();
    for (std::int64_t c = 0; c < columns; c += kLanes) {
      const int lanes = columns - c < kLanes ? static_cast<int>(columns - c) : kLanes;
      T* at = to + c * args.stride_column;
      if (turned) {
        sum_block(args, partial + c, pitch, terms, static_cast<int>(count), at, lanes);
        continue;
      }
      const simd::Vec<T> sum = sum_chunks(args, partial + c + terms[0] * pitch);
      if (args.stride_column == 1) {
        simd::store_upto(at, sum, lanes);
      } else {
        simd::store_strided(at, sum, args.stride_column, lanes);
      }
    }
    step += count;
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
