// Probes: every word of the vector contract as a function of arrays, for tests of each level; and
// loops that only compute or only move memory, the ceilings that benchmarks are measured against.
#pragma once

#include "core/dispatch.h"

// name, value for the vectors x, y and z (simd/simd.h, simd/math.h)
#define HOTLOOP_PROBES(X)                                         \
  X(neg, -x)                                                      \
  X(abs, abs(x))                                                  \
  X(sqrt, sqrt(x))                                                \
  X(round, round(x))                                              \
  X(floor, floor(x))                                              \
  X(exp, exp(x))                                                  \
  X(expm1, expm1(x))                                              \
  X(log, log(x))                                                  \
  X(log1p, log1p(x))                                              \
  X(tanh, tanh(x))                                                \
  X(erf, erf(x))                                                  \
  X(sigmoid, sigmoid(x))                                          \
  X(normal_cdf, normal_cdf(x))                                    \
  X(add, x + y)                                                   \
  X(sub, x - y)                                                   \
  X(mul, x* y)                                                    \
  X(div, x / y)                                                   \
  X(fma, fma(x, y, z))                                            \
  X(fnma, fnma(x, y, z))                                          \
  X(min, min(x, y))                                               \
  X(max, max(x, y))                                               \
  X(min_or_b, min_or_b(x, y))                                     \
  X(max_or_b, max_or_b(x, y))                                     \
  X(copysign, copysign(x, y))                                     \
  X(scale, scale(x, y))                                           \
  X(power_of_two, power_of_two(x))                                \
  X(less, flag(x < y))                                            \
  X(less_equal, flag(x <= y))                                     \
  X(greater, flag(x > y))                                         \
  X(greater_equal, flag(x >= y))                                  \
  X(equal, flag(x == y))                                          \
  X(is_nan, flag(is_nan(x)))                                      \
  X(mask_and, flag((x < y) & (y < z)))                            \
  X(mask_or, flag((x < y) | (y < z)))                             \
  X(mask_not, flag(!(x < y)))                                     \
  X(mask_any, splat(x, any(x < y)))                               \
  X(mask_all, splat(x, all(x < y)))                               \
  X(mask_bits, splat(x, to_bits(x < y)))                          \
  X(select, select(x < y, y, z))                                  \
  X(int_select, as_vec(select(x < y, as_int(y), as_int(z))))      \
  X(int_add, as_vec(as_int(x) + as_int(y)))                       \
  X(int_sub, as_vec(as_int(x) - as_int(y)))                       \
  X(int_and, as_vec(as_int(x) & as_int(y)))                       \
  X(int_or, as_vec(as_int(x) | as_int(y)))                        \
  X(int_xor, as_vec(as_int(x) ^ as_int(y)))                       \
  X(int_not, as_vec(~as_int(x)))                                  \
  X(int_equal, flag(as_int(x) == as_int(y)))                      \
  X(int_less, flag(as_int(x) < as_int(y)))                        \
  X(shift_left, as_vec(shift_left<3>(as_int(x))))                 \
  X(shift_right, as_vec(shift_right<3>(as_int(x))))               \
  X(shift_right_signed, as_vec(shift_right_signed<3>(as_int(x)))) \
  X(to_int, as_vec(to_int(x)))                                    \
  X(to_vec, to_vec(as_int(x)))                                    \
  X(reduce_add, splat(x, reduce_add(x)))                          \
  X(reduce_max, splat(x, reduce_max(x)))                          \
  X(reduce_min, splat(x, reduce_min(x)))                          \
  X(swap_lanes, swap_lanes<1>(x))                                 \
  X(iota, iota_like(x))                                           \
  X(iota_int, to_vec(iota_int_like(x)))                           \
  X(splat, splat(x, 2.5))

namespace hotloop {

struct ProbeArgs {
  const void *x, *y, *z;
  void* out;
  std::int64_t size;
  std::int32_t function;  // the place in HOTLOOP_PROBES
  DType dtype;
};
// One unit: everything.
HOTLOOP_KERNEL(probe_function, ProbeArgs)

enum class MemoryWord : std::int32_t {
  load_n,
  store_n,
  load_strided,
  store_strided,
  load_u8_n,
  store_u8_n,
  stream,
};
// From `source` to `target`: one vector, whole on the side that the word does not name.
struct ProbeMemoryArgs {
  const void* source;
  void* target;
  std::int64_t stride;
  std::int32_t count;
  MemoryWord word;
  DType dtype;
  std::int32_t* lanes;  // out
};
HOTLOOP_KERNEL(probe_memory, ProbeMemoryArgs)

// Units of kProbeFlops operations in registers.
inline constexpr std::int64_t kProbeFlops = std::int64_t{3} << 18;
struct ProbeFmaArgs {
  double* sink;  // one element per unit, so that nothing is optimized away
  DType dtype;
};
HOTLOOP_KERNEL(probe_fma, ProbeFmaArgs)

// Units of kProbeBytes of an array whose size is a multiple of it.
inline constexpr std::int64_t kProbeBytes = 32768;
enum class Traffic : std::int32_t { read, copy, copy_nt, update, add_nt };
struct ProbeTrafficArgs {
  const float* source;  // read, copy, add: from here
  const float* second;  // add_nt: the other term
  float* target;        // copy, update, add: to here; read: one element per unit
  Traffic traffic;
};
HOTLOOP_KERNEL(probe_traffic, ProbeTrafficArgs)

}  // namespace hotloop
