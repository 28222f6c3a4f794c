// Strided copies, conversions between dtypes, and filling: what the CPU leaves to NumPy.
#include "kernels/device_copy.h"

#include <type_traits>

#include "kernels/cuda/kernel.cuh"

namespace hotloop::cuda {
namespace {

constexpr int kThreads = 256;

// The offset of element `index` (in C order) of a shape.
__device__ __forceinline__ std::int64_t offset_of(std::int64_t index, int ndim,
                                                  const std::int64_t* shape,
                                                  const std::int64_t* strides) {
  std::int64_t offset = 0;
  for (int axis = ndim - 1; axis > 0; --axis) {
    const std::int64_t next = index / shape[axis];
    offset += (index - next * shape[axis]) * strides[axis];
    index = next;
  }
  return offset + index * strides[0];
}

// As NumPy converts: to bool what is not 0, floats to integers towards 0.
template <class To, class From>
__device__ __forceinline__ To converted(From value) {
  if constexpr (sizeof(To) == 1 && !std::is_same_v<From, std::uint8_t>) {
    return value != From(0);
  } else {
    return static_cast<To>(value);
  }
}

template <class To, class From>
__global__ void __launch_bounds__(kThreads)
    copy_elements(const __grid_constant__ CopyArgs args, std::int64_t count) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       index < count; index += stride) {
    const std::int64_t to = offset_of(index, args.ndim, args.shape, args.to_strides);
    const std::int64_t from = offset_of(index, args.ndim, args.shape, args.from_strides);
    static_cast<To*>(args.to)[to] = converted<To>(static_cast<const From*>(args.from)[from]);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    fill_elements(const __grid_constant__ FillArgs args, std::int64_t count) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       index < count; index += stride) {
    const std::int64_t to = offset_of(index, args.ndim, args.shape, args.strides);
    static_cast<T*>(args.to)[to] = static_cast<T>(args.value);
  }
}

// f(T{}) for the type of the element.
template <class F>
void with_number(Element element, F f) {
  switch (element) {
    case Element::flag:
      return f(std::uint8_t{});
    case Element::s32:
      return f(std::int32_t{});
    case Element::s64:
      return f(std::int64_t{});
    case Element::f32:
      return f(float{});
    default:
      return f(double{});
  }
}
template <class F>
void with_bits(Element element, F f) {
  switch (element) {
    case Element::bits8:
      return f(std::uint8_t{});
    case Element::bits16:
      return f(std::uint16_t{});
    case Element::bits32:
      return f(std::uint32_t{});
    default:
      return f(std::uint64_t{});
  }
}

}  // namespace

HOTLOOP_CUDA_KERNEL(device_copy, CopyArgs) {
  const unsigned blocks = blocks_for(units, kThreads);
  if (args.to_element == args.from_element && args.to_element >= Element::bits8) {
    with_bits(args.to_element, [&](auto bits) {
      using T = decltype(bits);
      HOTLOOP_LAUNCH((copy_elements<T, T>), blocks, kThreads, 0, stream, args, units);
    });
    return;
  }
  with_number(args.to_element, [&](auto to) {
    with_number(args.from_element, [&](auto from) {
      HOTLOOP_LAUNCH((copy_elements<decltype(to), decltype(from)>), blocks, kThreads, 0, stream,
                     args, units);
    });
  });
}

HOTLOOP_CUDA_KERNEL(device_fill, FillArgs) {
  with_bits(args.element, [&](auto bits) {
    HOTLOOP_LAUNCH((fill_elements<decltype(bits)>), blocks_for(units, kThreads), kThreads, 0,
                   stream, args, units);
  });
}

}  // namespace hotloop::cuda
