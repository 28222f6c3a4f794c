// A map over the elements of a list of tensors that changes some of them in place: each tensor
// comes as up to four arrays of one shape (value, gradient, momenta). A piece of work may begin in
// the middle of one tensor and end in another. Dense tensors, nearly all, run over whole vectors.
#pragma once

#include "kernels/optimizer.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {

namespace multi_tensor {

// Loads a vector of each array, updates, stores each array but the gradient (number 1).
template <class T, int kArrays, class Update, class Load, class Store>
static inline void step(const Update& update, T* const* p, Load load_from, Store store_to) {
  simd::Vec<T> x[kArrays];
  for (int k = 0; k < kArrays; ++k) x[k] = load_from(k, p[k]);
  update(x);
  for (int k = 0; k < kArrays; ++k) {
    if (k != 1) store_to(k, p[k], x[k]);
  }
}

template <class T, int kArrays, class Update>
static inline void dense_run(const Update& update, T* const* start, std::int64_t n) {
  constexpr int lanes = simd::Vec<T>::lanes;
  T* p[kArrays];
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int k = 0; k < kArrays; ++k) p[k] = start[k] + i;
    step<T, kArrays>(
        update, p, [](int, const T* from) { return simd::load(from); },
        [](int, T* to, simd::Vec<T> x) { simd::store(to, x); });
  }
  const int rest = static_cast<int>(n - i);
  if (rest == 0) return;
  for (int k = 0; k < kArrays; ++k) p[k] = start[k] + i;
  step<T, kArrays>(
      update, p, [&](int, const T* from) { return simd::load_n(from, rest); },
      [&](int, T* to, simd::Vec<T> x) { simd::store_n(to, x, rest); });
}

template <class T, int kArrays, class Update>
static inline void strided_run(const Update& update, T* const* start, const std::int64_t* stride,
                               std::int64_t n) {
  constexpr int lanes = simd::Vec<T>::lanes;
  for (std::int64_t i = 0; i < n; i += lanes) {
    const int rest = n - i < lanes ? static_cast<int>(n - i) : lanes;
    T* p[kArrays];
    for (int k = 0; k < kArrays; ++k) p[k] = start[k] + i * stride[k];
    step<T, kArrays>(
        update, p, [&](int k, const T* from) { return simd::load_strided(from, stride[k], rest); },
        [&](int k, T* to, simd::Vec<T> x) { simd::store_strided(to, x, stride[k], rest); });
  }
}

// Elements [from, to) of a tensor in the order of its merged axes.
template <class T, int kArrays, class Update>
static inline void tensor_run(const Update& update, const OptimizerTensor& tensor,
                              std::int64_t from, std::int64_t to) {
  T* start[kArrays];
  if (tensor.dense) {
    for (int k = 0; k < kArrays; ++k) start[k] = static_cast<T*>(tensor.array[k]) + from;
    dense_run<T, kArrays>(update, start, to - from);
    return;
  }
  const int last = tensor.ndim - 1;
  while (from < to) {
    std::int64_t left = from, stride[kArrays];
    for (int k = 0; k < kArrays; ++k) {
      start[k] = static_cast<T*>(tensor.array[k]);
      stride[k] = tensor.strides[k][last];
    }
    std::int64_t n = 0;
    for (int axis = last; axis >= 0; --axis) {
      const std::int64_t at = left % tensor.shape[axis];
      left /= tensor.shape[axis];
      for (int k = 0; k < kArrays; ++k) start[k] += at * tensor.strides[k][axis];
      if (axis == last) n = tensor.shape[axis] - at;
    }
    if (n > to - from) n = to - from;
    strided_run<T, kArrays>(update, start, stride, n);
    from += n;
  }
}

// Units [begin, end) of the whole list.
template <class T, int kArrays, class Update>
static inline void run(const Update& update, const OptimizerTensor* tensors, std::int64_t count,
                       std::int64_t begin, std::int64_t end) {
  std::int64_t low = 0,
               high = count;  // the last tensor with first_unit <= begin lies in [low, high)
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (tensors[middle].first_unit <= begin ? low : high) = middle;
  }
  for (std::int64_t t = low; t < count && tensors[t].first_unit < end; ++t) {
    const OptimizerTensor& tensor = tensors[t];
    const std::int64_t first = begin > tensor.first_unit ? begin - tensor.first_unit : 0;
    const std::int64_t from = first * kOptimizerBlock;
    std::int64_t to = (end - tensor.first_unit) * kOptimizerBlock;
    if (to > tensor.size) to = tensor.size;
    if (from < to) tensor_run<T, kArrays>(update, tensor, from, to);
  }
}

}  // namespace multi_tensor

}  // namespace hotloop::HOTLOOP_LEVEL
