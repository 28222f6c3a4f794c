// How a kernel is declared: once, for every level, together with its dispatcher.
//
//   HOTLOOP_KERNEL(relu_forward, UnaryArgs)        // in kernels/activation.h, namespace hotloop
//
// A file under kernels/cpu/ is compiled once per level with HOTLOOP_LEVEL set to the level's name,
// and defines hotloop::HOTLOOP_LEVEL::relu_forward. Everywhere else relu_forward_kernel() returns
// the function of the level in force. This header is all that level-compiled code sees of core/, so
// it holds declarations and plain structs only: an inline function here would become a weak symbol
// compiled with AVX-512 flags, which the linker may keep for every level (numpy#25274).
#pragma once

#include <cstddef>
#include <cstdint>

namespace hotloop {

// float32 and float64 everywhere; the others where a kernel says so.
enum class DType : std::int32_t { f32, f64, bf16, s8, u8, s32 };

// A kernel handles the work units [begin, end) of its arguments. What a unit is, the family says.
template <class Args>
using Kernel = void (*)(const Args& args, std::int64_t begin, std::int64_t end);

}  // namespace hotloop

#define HOTLOOP_DECLARE_(level, name, Args)                          \
  namespace level {                                                  \
  void name(const Args& args, std::int64_t begin, std::int64_t end); \
  }

#ifdef HOTLOOP_LEVEL
#define HOTLOOP_KERNEL(name, Args) HOTLOOP_DECLARE_(HOTLOOP_LEVEL, name, Args)
// For sources that carry the line "// also compiled for: avx512bf16".
#define HOTLOOP_KERNEL_BF16(name, Args) HOTLOOP_DECLARE_(HOTLOOP_LEVEL, name, Args)
#else

#include "core/levels.h"

#if HOTLOOP_X86
#define HOTLOOP_KERNEL(name, Args)                                                           \
  HOTLOOP_DECLARE_(generic, name, Args)                                                      \
  HOTLOOP_DECLARE_(avx2, name, Args)                                                         \
  HOTLOOP_DECLARE_(avx512, name, Args)                                                       \
  [[maybe_unused]] static inline Kernel<Args> name##_kernel() {                              \
    static constexpr Kernel<Args> table[kLevels] = {generic::name, avx2::name, avx512::name, \
                                                    avx512::name};                           \
    return table[static_cast<int>(level_in_force())];                                        \
  }
#define HOTLOOP_KERNEL_BF16(name, Args)                                                      \
  HOTLOOP_DECLARE_(generic, name, Args)                                                      \
  HOTLOOP_DECLARE_(avx2, name, Args)                                                         \
  HOTLOOP_DECLARE_(avx512, name, Args)                                                       \
  HOTLOOP_DECLARE_(avx512bf16, name, Args)                                                   \
  [[maybe_unused]] static inline Kernel<Args> name##_kernel() {                              \
    static constexpr Kernel<Args> table[kLevels] = {generic::name, avx2::name, avx512::name, \
                                                    avx512bf16::name};                       \
    return table[static_cast<int>(level_in_force())];                                        \
  }
#else
#define HOTLOOP_KERNEL(name, Args)                              \
  HOTLOOP_DECLARE_(generic, name, Args)                         \
  [[maybe_unused]] static inline Kernel<Args> name##_kernel() { \
    return generic::name;                                       \
  }
#define HOTLOOP_KERNEL_BF16 HOTLOOP_KERNEL
#endif
#endif
