// A walk over the elements of a list of tensors, block by block: each tensor comes as up to
// kOptimizerArrays arrays of one shape (value, gradient, momenta). Dense tensors, nearly all, are
// handed over where they lie; those of other strides are copied through buffers, so that a rule
// knows dense pieces only.
#pragma once

#include "kernels/optimizer.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {

namespace multi_tensor {

constexpr std::int64_t kStaged = 256;  // elements of a buffer

// A dense part of one block. A block comes as one piece, or as several where it is staged.
struct Piece {
  void* at[kOptimizerArrays];
  std::uint16_t* copy;  // of the parameter as bf16, or null
  std::int64_t n;
  std::int64_t unit;
  const OptimizerTensor* tensor;
};

using Body = void (*)(const OptimizerArgs& args, const Piece& piece);

// Copies elements [from, to) of an array, in the order of the merged axes, to the buffer or back.
template <class T, bool kBack>
[[gnu::noinline]] static void stage(const OptimizerTensor& tensor, void* array,
                                    const std::int64_t* strides, std::int64_t from, std::int64_t to,
                                    T* buffer) {
  const int last = tensor.ndim - 1;
  while (from < to) {
    std::int64_t left = from, n = 0;
    T* p = static_cast<T*>(array);
    for (int axis = last; axis >= 0; --axis) {
      const std::int64_t at = left % tensor.shape[axis];
      left /= tensor.shape[axis];
      p += at * strides[axis];
      if (axis == last) n = tensor.shape[axis] - at;
    }
    if (n > to - from) n = to - from;
    const std::int64_t stride = strides[last];
    for (std::int64_t i = 0; i < n; ++i) {
      if constexpr (kBack) {
        p[i * stride] = buffer[i];
      } else {
        buffer[i] = p[i * stride];
      }
    }
    buffer += n;
    from += n;
  }
}

template <class T>
[[gnu::noinline]] static void staged_block(const OptimizerArgs& args, Body body, int arrays,
                                           unsigned written, Piece piece, std::int64_t from,
                                           std::int64_t to) {
  alignas(64) T buffer[kOptimizerArrays][kStaged];
  alignas(64) std::uint16_t copy[kStaged];
  const OptimizerTensor& t = *piece.tensor;
  for (int k = 0; k < arrays; ++k) piece.at[k] = buffer[k];
  piece.copy = t.copy ? copy : nullptr;
  for (; from < to; from += piece.n) {
    piece.n = to - from < kStaged ? to - from : kStaged;
    const std::int64_t end = from + piece.n;
    for (int k = 0; k < arrays; ++k) {
      stage<T, false>(t, t.array[k], t.strides[k], from, end, buffer[k]);
    }
    body(args, piece);
    for (int k = 0; k < arrays; ++k) {
      if (written >> k & 1) stage<T, true>(t, t.array[k], t.strides[k], from, end, buffer[k]);
    }
    if (t.copy) stage<std::uint16_t, true>(t, t.copy, t.copy_strides, from, end, copy);
  }
}

// Units [begin, end) of the whole list.
template <class T>
[[gnu::noinline]] static void run(const OptimizerArgs& args, Body body, int arrays,
                                  unsigned written, std::int64_t begin, std::int64_t end) {
  std::int64_t low = 0, high = args.count;  // the tensor of unit `begin` lies in [low, high)
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (args.tensors[middle].first_unit <= begin ? low : high) = middle;
  }
  for (std::int64_t t = low; t < args.count && args.tensors[t].first_unit < end; ++t) {
    const OptimizerTensor& tensor = args.tensors[t];
    std::int64_t unit = begin > tensor.first_unit ? begin : tensor.first_unit;
    for (; unit < end; ++unit) {
      const std::int64_t from = (unit - tensor.first_unit) * kOptimizerBlock;
      if (from >= tensor.size) break;
      const std::int64_t left = tensor.size - from;
      const std::int64_t n = left < kOptimizerBlock ? left : kOptimizerBlock;
      Piece piece{{}, tensor.copy ? tensor.copy + from : nullptr, n, unit, &tensor};
      if (!tensor.dense) {
        staged_block<T>(args, body, arrays, written, piece, from, from + n);
        continue;
      }
      for (int k = 0; k < arrays; ++k) piece.at[k] = static_cast<T*>(tensor.array[k]) + from;
      body(args, piece);
    }
  }
}

constexpr int kTogether = simd::kBytes == 64 ? 4 : 2;  // vectors of an array

// Loads vectors of each array, updates, stores those that are written. Several of an array before
// the next one's, since a load whose address agrees with a recent store's in the lower 12 bits
// waits for it; and from an aligned address on (NumPy's large arrays begin 16 bytes off). Together
// 1.6 times as fast for 35 MB in four arrays as one after the other.
template <class T, int kArrays, unsigned kWritten, class Update>
[[gnu::always_inline]] static inline void each(const Piece& piece, Update update) {
  using V = simd::Vec<T>;
  constexpr std::int64_t step = kTogether * V::lanes;
  const std::int64_t n = piece.n;
  T* p[kArrays];
  for (int k = 0; k < kArrays; ++k) p[k] = static_cast<T*>(piece.at[k]);
  const auto address = reinterpret_cast<std::uintptr_t>(p[0]);
  auto head = static_cast<std::int64_t>((-address & (simd::kBytes - 1)) / sizeof(T));
  for (std::int64_t i = 0; i < n;) {
    if (head == 0) {
      for (; i + step <= n; i += step) {
        V x[kTogether][kArrays];
        HOTLOOP_UNROLL
        for (int j = 0; j < kTogether * kArrays; ++j) {
          const int k = j / kTogether, u = j % kTogether;
          x[u][k] = simd::load(p[k] + i + u * V::lanes);
        }
        HOTLOOP_UNROLL
        for (int u = 0; u < kTogether; ++u) update(x[u]);
        HOTLOOP_UNROLL
        for (int j = 0; j < kTogether * kArrays; ++j) {
          const int k = j / kTogether, u = j % kTogether;
          if (kWritten >> k & 1) simd::store(p[k] + i + u * V::lanes, x[u][k]);
        }
      }
      if (i == n) break;
    }
    // The part before an aligned address, then what is left: at most a vector at a time.
    std::int64_t count = head > 0 ? head : V::lanes;
    if (count > n - i) count = n - i;
    V x[kArrays];
    for (int k = 0; k < kArrays; ++k) x[k] = simd::load_upto(p[k] + i, count);
    update(x);
    for (int k = 0; k < kArrays; ++k) {
      if (kWritten >> k & 1) simd::store_upto(p[k] + i, x[k], count);
    }
    i += count;
    head = 0;
  }
}

}  // namespace multi_tensor

}  // namespace hotloop::HOTLOOP_LEVEL
