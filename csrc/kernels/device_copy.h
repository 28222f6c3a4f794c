// Moving and filling elements on a device: to[i] = from[i], with conversion. The CPU leaves both to
// NumPy, so there is no level of the CPU.
#pragma once

#include <cstdint>

namespace hotloop {

// What elements may be. bits8 .. bits64: copied as they are.
enum class Element : std::int32_t { flag, s32, s64, f32, f64, bits8, bits16, bits32, bits64 };
inline constexpr int kCopyDims = 16;

// Axes merged, strides in elements. Units: elements.
struct CopyArgs {
  void* to;
  const void* from;
  std::int64_t shape[kCopyDims];
  std::int64_t to_strides[kCopyDims], from_strides[kCopyDims];
  std::int32_t ndim;
  Element to_element, from_element;  // the same, or two of flag .. f64
};

struct FillArgs {
  void* to;
  std::int64_t shape[kCopyDims], strides[kCopyDims];
  std::int32_t ndim;
  Element element;      // bits8 .. bits64
  std::uint64_t value;  // the element's bits
};

}  // namespace hotloop
