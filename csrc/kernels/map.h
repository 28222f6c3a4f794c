// The argument of every element-wise kernel: one output and up to three inputs of the same shape.
//
// The axes are merged and ordered by the binding (bindings/map.h): rising in memory from the last
// axis of the output to the first. Broadcast axes have stride 0. A unit of work is a piece of at
// most `piece` elements of the last axis; the pieces of a row come one after the other, then the
// next row.
#pragma once

#include "core/dispatch.h"

namespace hotloop {

inline constexpr int kMapOperands = 4;  // the output first
inline constexpr int kMapDims = 16;

struct MapArgs {
  void* data[kMapOperands];
  std::int64_t strides[kMapOperands][kMapDims];  // in elements; ndim of them are set
  std::int64_t shape[kMapDims];
  std::int64_t piece;   // elements of a unit
  std::int64_t pieces;  // units of a row
  double scalar;        // the parameter of the function, where it has one
  DType dtype;
  std::int32_t ndim;  // at least 1
  bool stream;        // write around the caches: the output is larger than they are
};

}  // namespace hotloop
