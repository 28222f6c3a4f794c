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

// Loads a vector of each array, updates, stores those that are written. The next vectors are loaded
// before these are stored: a load whose address agrees with a recent store's in the lower 12 bits
// waits for it, which cost 1.44 times the time where arrays lie a multiple of 64 bytes apart.
template <class T, int kArrays, unsigned kWritten, class Update>
[[gnu::always_inline]] static inline void each(const Piece& piece, Update update) {
  using V = simd::Vec<T>;
  const std::int64_t n = piece.n;
  T* p[kArrays];
  V x[kArrays];
  for (int k = 0; k < kArrays; ++k) {
    p[k] = static_cast<T*>(piece.at[k]);
    x[k] = simd::load_upto(p[k], n);
  }
  for (std::int64_t i = 0; i < n; i += V::lanes) {
    V next[kArrays];
    const std::int64_t rest = n - i - V::lanes;
    for (int k = 0; k < kArrays; ++k) {
      next[k] = rest >= V::lanes ? simd::load(p[k] + i + V::lanes)
                : rest > 0       ? simd::load_n(p[k] + i + V::lanes, static_cast<int>(rest))
                                 : simd::zero<T>();
    }
    update(x);
    for (int k = 0; k < kArrays; ++k) {
      if (kWritten >> k & 1) simd::store_upto(p[k] + i, x[k], n - i);
      x[k] = next[k];
    }
  }
}

}  // namespace multi_tensor

}  // namespace hotloop::HOTLOOP_LEVEL
