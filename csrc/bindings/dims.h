// Axes that several arrays walk together, brought into the shortest form: axes of size 1 dropped,
// backward ones turned, sorted by stride, neighbours merged. What is left are few, long loops.
#pragma once

#include <cstdint>

#include "bindings/array.h"

namespace hotloop {

// Strides of C order, in elements.
inline Shape row_major(const Shape& shape) {
  Shape strides(shape.size());
  std::int64_t step = 1;
  for (std::size_t axis = shape.size(); axis-- > 0; step *= shape[axis]) strides[axis] = step;
  return strides;
}

template <int arrays>
struct Dims {
  int count = 0;
  std::int64_t sizes[kMaxDims];
  std::int64_t strides[arrays][kMaxDims];
  std::int64_t offsets[arrays] = {};  // in elements: where the turned axes begin

  void add(std::int64_t size, const std::int64_t (&steps)[arrays]) {
    sizes[count] = size;
    for (int a = 0; a < arrays; ++a) strides[a][count] = steps[a];
    ++count;
  }
  std::int64_t product() const {
    std::int64_t total = 1;
    for (int d = 0; d < count; ++d) total *= sizes[d];
    return total;
  }
  // At least one axis is left, the innermost last. The strides of the first array decide the order.
  void simplify() {
    if (product() == 0) {
      count = 0;
      add(0, {});
      return;
    }
    Dims kept;
    for (int a = 0; a < arrays; ++a) kept.offsets[a] = offsets[a];
    for (int d = 0; d < count; ++d) {
      if (sizes[d] == 1) continue;
      std::int64_t steps[arrays];
      const bool backward = strides[0][d] < 0;
      for (int a = 0; a < arrays; ++a) {
        steps[a] = backward ? -strides[a][d] : strides[a][d];
        if (backward) kept.offsets[a] += strides[a][d] * (sizes[d] - 1);
      }
      kept.insert(sizes[d], steps);
    }
    count = 0;
    for (int d = 0; d < kept.count; ++d) append(kept, d);
    for (int a = 0; a < arrays; ++a) offsets[a] = kept.offsets[a];
    if (count == 0) add(1, {});
  }

 private:
  // Keeps the first array's strides falling; equal ones stay in the order they came.
  void insert(std::int64_t size, const std::int64_t (&steps)[arrays]) {
    int at = count;
    for (; at > 0 && strides[0][at - 1] < steps[0]; --at) {
      sizes[at] = sizes[at - 1];
      for (int a = 0; a < arrays; ++a) strides[a][at] = strides[a][at - 1];
    }
    sizes[at] = size;
    for (int a = 0; a < arrays; ++a) strides[a][at] = steps[a];
    ++count;
  }
  void append(const Dims& from, int d) {
    bool merges = count > 0;
    for (int a = 0; merges && a < arrays; ++a) {
      merges = strides[a][count - 1] == from.strides[a][d] * from.sizes[d];
    }
    if (merges) {
      sizes[count - 1] *= from.sizes[d];
      for (int a = 0; a < arrays; ++a) strides[a][count - 1] = from.strides[a][d];
      return;
    }
    std::int64_t steps[arrays];
    for (int a = 0; a < arrays; ++a) steps[a] = from.strides[a][d];
    add(from.sizes[d], steps);
  }
};

}  // namespace hotloop
