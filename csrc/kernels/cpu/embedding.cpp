// y[i] = weight[indices[i]]; dweight[row] = the sum of dy[i] over the positions i of that row, in
// rising order of i, so that the bits do not depend on who computes it.
//
// Layout: dense rows. Backward writes each row of the table once, zeros included, around the caches
// where the table is larger than they are: no pass that clears it, no reading before adding. Rows
// far apart are prefetched, which hides what the hardware cannot foresee.
#include "kernels/embedding.h"

#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

constexpr std::int64_t kAhead = 4;          // rows of the result, or of the table
constexpr std::int64_t kPrefetched = 1024;  // bytes of a row; the hardware follows from there
constexpr std::int64_t kRun = 64;           // positions whose sum is one chain of additions

template <class T>
[[gnu::always_inline]] static inline void prefetch_row(const T* row, std::int64_t width) {
  const std::int64_t bytes = width * static_cast<std::int64_t>(sizeof(T));
  const char* at = reinterpret_cast<const char*>(row);
  for (std::int64_t i = 0; i < bytes && i < kPrefetched; i += 64) simd::prefetch(at + i);
}

template <class T, class Index>
static inline void forward_body(const EmbeddingArgs& args, std::int64_t begin, std::int64_t end) {
  const Index* indices = static_cast<const Index*>(args.indices);
  const T* weight = static_cast<const T*>(args.weight);
  for (std::int64_t i = begin; i < end; ++i) {
    if (i + kAhead < end) {
      prefetch_row(weight + static_cast<std::int64_t>(indices[i + kAhead]) * args.weight_stride,
                   args.width);
    }
    const T* row = weight + static_cast<std::int64_t>(indices[i]) * args.weight_stride;
    T* out = static_cast<T*>(args.out) + i * args.width;
    for (std::int64_t c = 0; c < args.width; c += Vec<T>::lanes) {
      simd::store_upto(out + c, simd::load_upto(row + c, args.width - c), args.width - c);
    }
  }
}

// Columns [c, c + lanes) of the rows of dy at the given positions.
template <class T>
[[gnu::always_inline]] static inline Vec<T> sum_of(const EmbeddingBackwardArgs& args,
                                                   const std::int64_t* order, std::int64_t count,
                                                   std::int64_t c) {
  const T* dy = static_cast<const T*>(args.dy) + c;
  const std::int64_t left = args.width - c;
  Vec<T> total = simd::zero<T>();
  for (std::int64_t k = 0; k < count;) {
    const std::int64_t stop = count - k < kRun ? count : k + kRun;
    Vec<T> chain = simd::load_upto(dy + order[k] * args.dy_stride, left);
    for (++k; k < stop; ++k) chain = chain + simd::load_upto(dy + order[k] * args.dy_stride, left);
    total = total + chain;
  }
  return total;
}

template <class T>
static inline void backward_body(const EmbeddingBackwardArgs& args, std::int64_t begin,
                                 std::int64_t end) {
  constexpr int lanes = Vec<T>::lanes;
  const T* dy = static_cast<const T*>(args.dy);
  const bool stream = args.stream && args.width % lanes == 0 &&
                      reinterpret_cast<std::uintptr_t>(args.dweight) % simd::kBytes == 0;
  std::int64_t start = begin > 0 ? args.ends[begin - 1] : 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t stop = args.ends[row];
    if (stop > start && stop + kAhead <= args.positions) {
      prefetch_row(dy + args.order[stop + kAhead - 1] * args.dy_stride, args.width);
    }
    const std::int64_t count = row == args.padding ? 0 : stop - start;
    const std::int64_t* order = args.order + start;
    const Vec<T> scale =
        simd::set1<T>(args.by_frequency && count > 0 ? T(1) / static_cast<T>(count) : T(1));
    T* out = static_cast<T*>(args.dweight) + row * args.width;
    for (std::int64_t c = 0; c < args.width; c += lanes) {
      Vec<T> sum = sum_of<T>(args, order, count, c);
      if (args.by_frequency) sum = sum * scale;
      if (stream) {
        simd::stream(out + c, sum);
      } else {
        simd::store_upto(out + c, sum, args.width - c);
      }
    }
    start = stop;
  }
  if (stream) simd::stream_fence();
}

template <class T>
static inline void forward_any(const EmbeddingArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.wide) {
    forward_body<T, std::int64_t>(args, begin, end);
  } else {
    forward_body<T, std::int32_t>(args, begin, end);
  }
}

}  // namespace

void embedding(const EmbeddingArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    forward_any<float>(args, begin, end);
  } else {
    forward_any<double>(args, begin, end);
  }
}

void embedding_backward(const EmbeddingBackwardArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    backward_body<float>(args, begin, end);
  } else {
    backward_body<double>(args, begin, end);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
