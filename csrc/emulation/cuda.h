// What <cuda_runtime.h> and nvcc give to a kernel's source, for the host compiler: the language,
// barriers, shuffles, votes, atomics, intrinsics, launches, and the calls of the runtime.
//
// A GPU is not modelled where kernels must not look: threads run one at a time, in an order that
// the tests choose; memory is sequentially consistent; a lane's undefined result is poison.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulation/block.h"
#include "emulation/runtime.h"
#include "emulation/vectors.h"

// ---- the language -------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
// thread_local only to be found: emulation/shared_memory.h.
#define __shared__ static thread_local

#define HOTLOOP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)   \
  ::hotloop::emulation::launch(#kernel, kernel, dim3(grid), dim3(block), \
                               static_cast<std::size_t>(shared_bytes),   \
                               stream __VA_OPT__(, ) __VA_ARGS__)
#define HOTLOOP_SHARED(type, name) \
  type* const name = static_cast<type*>(::hotloop::emulation::dynamic_shared())

namespace hotloop::emulation {

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, A&&... arguments) {
  using Values = std::tuple<std::remove_cv_t<P>...>;
  struct Call {
    void (*kernel)(P...);
    Values values;
  };
  static_assert(sizeof(Values) <= 4096, "a kernel takes at most 4 KB of arguments");
  const Call call{kernel, Values(std::forward<A>(arguments)...)};
  const auto body = [](const void* from) {
    const Call& given = *static_cast<const Call*>(from);
    std::apply(given.kernel, given.values);
  };
  const void* const address = reinterpret_cast<const void*>(kernel);
  if (!may_launch(address, grid, block, shared_bytes)) return;
  submit(stream, [=] {
    if (!run({name, grid, block, shared_bytes, body, &call})) {
      emulation_set_error(cudaErrorLaunchFailure);
    }
  });
}

template <class T>
std::uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// The lane that a shuffle reads, and its own where that lies outside of its part of the warp.
template <class T>
T shuffle(std::uint32_t mask, T value, int source, bool inside, const Place& place) {
  const int from = inside ? source : lane_of_thread();
  return from_bits<T>(meet_warp(Meeting::shuffle, mask, bits_of(value), from, place));
}

}  // namespace hotloop::emulation

// ---- barriers, shuffles, votes ------------------------------------------------------------------

#define HOTLOOP_HERE_ const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define HOTLOOP_PLACE_(what) (hotloop::emulation::Place{what, file, line})

#define HOTLOOP_BARRIER_(name, kind)                                                         \
  inline int name(int predicate, HOTLOOP_HERE_) {                                            \
    return hotloop::emulation::meet_block(hotloop::emulation::Meeting::kind, predicate != 0, \
                                          HOTLOOP_PLACE_(#name));                            \
  }
HOTLOOP_BARRIER_(__syncthreads_count, block_count)
HOTLOOP_BARRIER_(__syncthreads_and, block_and)
HOTLOOP_BARRIER_(__syncthreads_or, block_or)
#undef HOTLOOP_BARRIER_
inline void __syncthreads(HOTLOOP_HERE_) {
  hotloop::emulation::meet_block(hotloop::emulation::Meeting::block_sync, false,
                                 HOTLOOP_PLACE_("__syncthreads"));
}
inline void __syncwarp(std::uint32_t mask = 0xffffffffu, HOTLOOP_HERE_) {
  hotloop::emulation::meet_warp(hotloop::emulation::Meeting::warp_sync, mask, 0, 0,
                                HOTLOOP_PLACE_("__syncwarp"));
}

template <class T>
T __shfl_sync(std::uint32_t mask, T value, int source, int width = 32, HOTLOOP_HERE_) {
  const int first = hotloop::emulation::lane_of_thread() / width * width;
  return hotloop::emulation::shuffle(mask, value, first + (source & (width - 1)), true,
                                     HOTLOOP_PLACE_("__shfl_sync"));
}
template <class T>
T __shfl_up_sync(std::uint32_t mask, T value, unsigned by, int width = 32, HOTLOOP_HERE_) {
  const int lane = hotloop::emulation::lane_of_thread(), source = lane - static_cast<int>(by);
  return hotloop::emulation::shuffle(mask, value, source, source >= lane / width * width,
                                     HOTLOOP_PLACE_("__shfl_up_sync"));
}
template <class T>
T __shfl_down_sync(std::uint32_t mask, T value, unsigned by, int width = 32, HOTLOOP_HERE_) {
  const int lane = hotloop::emulation::lane_of_thread(), source = lane + static_cast<int>(by);
  return hotloop::emulation::shuffle(mask, value, source, source < lane / width * width + width,
                                     HOTLOOP_PLACE_("__shfl_down_sync"));
}
template <class T>
T __shfl_xor_sync(std::uint32_t mask, T value, int with, int width = 32, HOTLOOP_HERE_) {
  const int lane = hotloop::emulation::lane_of_thread(), source = lane ^ with;
  return hotloop::emulation::shuffle(mask, value, source, source < lane / width * width + width,
                                     HOTLOOP_PLACE_("__shfl_xor_sync"));
}

#define HOTLOOP_VOTE_(name, kind, Result)                                                    \
  inline Result name(std::uint32_t mask, int predicate, HOTLOOP_HERE_) {                     \
    return static_cast<Result>(hotloop::emulation::meet_warp(                                \
        hotloop::emulation::Meeting::kind, mask, predicate != 0, 0, HOTLOOP_PLACE_(#name))); \
  }
HOTLOOP_VOTE_(__ballot_sync, ballot, unsigned)
HOTLOOP_VOTE_(__all_sync, all, int)
HOTLOOP_VOTE_(__any_sync, any, int)
#undef HOTLOOP_VOTE_
template <class T>
unsigned __match_any_sync(std::uint32_t mask, T value, HOTLOOP_HERE_) {
  return static_cast<unsigned>(hotloop::emulation::meet_warp(
      hotloop::emulation::Meeting::match_any, mask, hotloop::emulation::bits_of(value), 0,
      HOTLOOP_PLACE_("__match_any_sync")));
}
#define HOTLOOP_REDUCE_(name, kind)                                                               \
  template <class T>                                                                              \
  T name(std::uint32_t mask, T value, HOTLOOP_HERE_) {                                            \
    static_assert(std::is_integral_v<T> && sizeof(T) == 4);                                       \
    return static_cast<T>(hotloop::emulation::meet_warp(                                          \
        hotloop::emulation::Meeting::kind, mask,                                                  \
        static_cast<std::uint64_t>(static_cast<std::int64_t>(value)), 0, HOTLOOP_PLACE_(#name))); \
  }
HOTLOOP_REDUCE_(__reduce_add_sync, reduce_add)
HOTLOOP_REDUCE_(__reduce_min_sync, reduce_min)
HOTLOOP_REDUCE_(__reduce_max_sync, reduce_max)
HOTLOOP_REDUCE_(__reduce_and_sync, reduce_and)
HOTLOOP_REDUCE_(__reduce_or_sync, reduce_or)
HOTLOOP_REDUCE_(__reduce_xor_sync, reduce_xor)
#undef HOTLOOP_REDUCE_
#undef HOTLOOP_PLACE_
#undef HOTLOOP_HERE_

inline unsigned __activemask() = delete;  // says nothing that a kernel may rely on
inline void __threadfence_block() {}
inline void __threadfence() {}
inline void __threadfence_system() {}
[[noreturn]] inline void __trap() {
  hotloop::emulation::fail_thread("the kernel gave up", {"__trap", "?", 0});
}

// ---- atomics: on integers only, the order of float sums would not be fixed ----------------------

#define HOTLOOP_ATOMIC_(name, expression)                  \
  template <class T, class V>                              \
  T name(T* at, V given) {                                 \
    static_assert(std::is_integral_v<T>, "integers only"); \
    const T old = *at, value = static_cast<T>(given);      \
    *at = static_cast<T>(expression);                      \
    return old;                                            \
  }
HOTLOOP_ATOMIC_(atomicAdd, old + value)
HOTLOOP_ATOMIC_(atomicSub, old - value)
HOTLOOP_ATOMIC_(atomicExch, value)
HOTLOOP_ATOMIC_(atomicMin, old < value ? old : value)
HOTLOOP_ATOMIC_(atomicMax, old < value ? value : old)
HOTLOOP_ATOMIC_(atomicAnd, old& value)
HOTLOOP_ATOMIC_(atomicOr, old | value)
HOTLOOP_ATOMIC_(atomicXor, old ^ value)
HOTLOOP_ATOMIC_(atomicInc, old >= value ? T(0) : old + T(1))
#undef HOTLOOP_ATOMIC_
template <class T, class V, class W>
T atomicCAS(T* at, V expected, W value) {
  static_assert(std::is_integral_v<T>, "integers only");
  const T old = *at;
  if (old == static_cast<T>(expected)) *at = static_cast<T>(value);
  return old;
}

// ---- intrinsics ---------------------------------------------------------------------------------

#define HOTLOOP_LOAD_(name)      \
  template <class T>             \
  inline T name(const T* from) { \
    return *from;                \
  }
HOTLOOP_LOAD_(__ldg)
HOTLOOP_LOAD_(__ldca)
HOTLOOP_LOAD_(__ldcg)
HOTLOOP_LOAD_(__ldcs)
HOTLOOP_LOAD_(__ldlu)
HOTLOOP_LOAD_(__ldcv)
#undef HOTLOOP_LOAD_
#define HOTLOOP_STORE_(name)         \
  template <class T>                 \
  inline void name(T* to, T value) { \
    *to = value;                     \
  }
HOTLOOP_STORE_(__stwb)
HOTLOOP_STORE_(__stcg)
HOTLOOP_STORE_(__stcs)
HOTLOOP_STORE_(__stwt)
#undef HOTLOOP_STORE_

#define HOTLOOP_BITS_(name, To, From) \
  inline To name(From value) {        \
    return std::bit_cast<To>(value);  \
  }
HOTLOOP_BITS_(__float_as_int, int, float)
HOTLOOP_BITS_(__float_as_uint, unsigned, float)
HOTLOOP_BITS_(__int_as_float, float, int)
HOTLOOP_BITS_(__uint_as_float, float, unsigned)
HOTLOOP_BITS_(__double_as_longlong, long long, double)
HOTLOOP_BITS_(__longlong_as_double, double, long long)
#undef HOTLOOP_BITS_

#define HOTLOOP_RN_(prefix, T)        \
  inline T prefix##add_rn(T a, T b) { \
    return a + b;                     \
  }                                   \
  inline T prefix##sub_rn(T a, T b) { \
    return a - b;                     \
  }                                   \
  inline T prefix##mul_rn(T a, T b) { \
    return a * b;                     \
  }                                   \
  inline T prefix##div_rn(T a, T b) { \
    return a / b;                     \
  }                                   \
  inline T prefix##rcp_rn(T a) {      \
    return T(1) / a;                  \
  }                                   \
  inline T prefix##sqrt_rn(T a) {     \
    return std::sqrt(a);              \
  }
HOTLOOP_RN_(__f, float)
HOTLOOP_RN_(__d, double)
#undef HOTLOOP_RN_
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline double __fma_rn(double a, double b, double c) {
  return std::fma(a, b, c);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float __saturatef(float x) {
  return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f;
}
inline float rsqrtf(float x) {
  return 1 / std::sqrt(x);
}
inline double rsqrt(double x) {
  return 1 / std::sqrt(x);
}
inline float normcdff(float x) {
  return 0.5f * std::erfc(x * -0.70710678f);
}
inline double normcdf(double x) {
  return 0.5 * std::erfc(x * -0.70710678118654752440);
}
inline void sincospif(float x, float* sine, float* cosine) {
  *sine = static_cast<float>(std::sin(x * 3.14159265358979323846));
  *cosine = static_cast<float>(std::cos(x * 3.14159265358979323846));
}
inline void sincospi(double x, double* sine, double* cosine) {
  *sine = std::sin(x * 3.14159265358979323846);
  *cosine = std::cos(x * 3.14159265358979323846);
}

inline int __popc(unsigned value) {
  return std::popcount(value);
}
inline int __popcll(unsigned long long value) {
  return std::popcount(value);
}
inline int __clz(int value) {
  return std::countl_zero(static_cast<unsigned>(value));
}
inline int __clzll(long long value) {
  return std::countl_zero(static_cast<unsigned long long>(value));
}
inline int __ffs(int value) {
  return value == 0 ? 0 : std::countr_zero(static_cast<unsigned>(value)) + 1;
}
inline int __ffsll(long long value) {
  return value == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(value)) + 1;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}
inline int __mulhi(int a, int b) {
  return static_cast<int>(std::int64_t{a} * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}
inline float __int2float_rn(int value) {
  return static_cast<float>(value);
}
inline float __uint2float_rn(unsigned value) {
  return static_cast<float>(value);
}
inline int __float2int_rn(float value) {
  return static_cast<int>(std::nearbyint(value));
}
inline int __float2int_rd(float value) {
  return static_cast<int>(std::floor(value));
}

// CUDA's min and max: of two numbers of one type, the other one where one is NaN.
#define HOTLOOP_MIN_MAX_(T) \
  inline T min(T a, T b) {  \
    return b < a ? b : a;   \
  }                         \
  inline T max(T a, T b) {  \
    return a < b ? b : a;   \
  }
HOTLOOP_MIN_MAX_(int)
HOTLOOP_MIN_MAX_(unsigned)
HOTLOOP_MIN_MAX_(long)
HOTLOOP_MIN_MAX_(unsigned long)
HOTLOOP_MIN_MAX_(long long)
HOTLOOP_MIN_MAX_(unsigned long long)
#undef HOTLOOP_MIN_MAX_
inline float min(float a, float b) {
  return std::fmin(a, b);
}
inline float max(float a, float b) {
  return std::fmax(a, b);
}
inline double min(double a, double b) {
  return std::fmin(a, b);
}
inline double max(double a, double b) {
  return std::fmax(a, b);
}
