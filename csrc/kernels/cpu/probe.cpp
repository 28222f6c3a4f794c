// Probes of the vector contract and of the machine's limits; see kernels/probe.h.
#include "kernels/probe.h"

#include "simd/math.h"

namespace hotloop::HOTLOOP_LEVEL {

namespace simd {

template <class T>
HOTLOOP_SIMD Vec<T> flag(Mask<T> mask) {
  return select(mask, set1<T>(T(1)), zero<T>());
}
template <class T>
HOTLOOP_SIMD Vec<T> iota_like(Vec<T>) {
  return iota<T>();
}
template <class T>
HOTLOOP_SIMD Int<T> iota_int_like(Vec<T>) {
  return iota_int<T>();
}

}  // namespace simd

using simd::Vec;

template <class T, class F>
static void probe_each(const ProbeArgs& args, F f) {
  for (std::int64_t i = 0; i < args.size; i += Vec<T>::lanes) {
    const std::int64_t left = args.size - i;
    const Vec<T> x = simd::load_upto(static_cast<const T*>(args.x) + i, left);
    const Vec<T> y = simd::load_upto(static_cast<const T*>(args.y) + i, left);
    const Vec<T> z = simd::load_upto(static_cast<const T*>(args.z) + i, left);
    simd::store_upto(static_cast<T*>(args.out) + i, f(x, y, z), left);
  }
}

enum class Probe : std::int32_t {
#define HOTLOOP_X(name, value) name,
  HOTLOOP_PROBES(HOTLOOP_X)
#undef HOTLOOP_X
};

template <class T>
static void probe_function_of(const ProbeArgs& args) {
  switch (static_cast<Probe>(args.function)) {
#define HOTLOOP_X(name, value)                                                   \
  case Probe::name:                                                              \
    probe_each<T>(args, []([[maybe_unused]] Vec<T> x, [[maybe_unused]] Vec<T> y, \
                           [[maybe_unused]] Vec<T> z) { return value; });        \
    break;
    HOTLOOP_PROBES(HOTLOOP_X)
#undef HOTLOOP_X
  }
}
void probe_function(const ProbeArgs& args, std::int64_t, std::int64_t) {
  if (args.dtype == DType::f32) {
    probe_function_of<float>(args);
  } else {
    probe_function_of<double>(args);
  }
}

template <class T>
static void probe_memory_of(const ProbeMemoryArgs& args) {
  const T* source = static_cast<const T*>(args.source);
  T* target = static_cast<T*>(args.target);
  *args.lanes = Vec<T>::lanes;
  switch (args.word) {
    case MemoryWord::load_n:
      simd::store(target, simd::load_n(source, args.count));
      break;
    case MemoryWord::store_n:
      simd::store_n(target, simd::load(source), args.count);
      break;
    case MemoryWord::load_strided:
      simd::store(target, simd::load_strided(source, args.stride, args.count));
      break;
    case MemoryWord::store_strided:
      simd::store_strided(target, simd::load(source), args.stride, args.count);
      break;
    case MemoryWord::load_u8_n:
      simd::store(target, simd::to_vec(simd::load_u8_n<T>(
                              static_cast<const std::uint8_t*>(args.source), args.count)));
      break;
    case MemoryWord::store_u8_n:
      simd::store_u8_n(static_cast<std::uint8_t*>(args.target), simd::to_int(simd::load(source)),
                       args.count);
      break;
    case MemoryWord::stream:
      simd::stream(target, simd::load(source));
      simd::stream_fence();
      break;
  }
}
void probe_memory(const ProbeMemoryArgs& args, std::int64_t, std::int64_t) {
  if (args.dtype == DType::f32) {
    probe_memory_of<float>(args);
  } else {
    probe_memory_of<double>(args);
  }
}

// Twelve independent chains hide the latency of two pipes (at least 4 cycles each) with room to
// spare. They start from the unit's number, lest the compiler compute one unit for all.
template <class T>
static T fma_unit(std::int64_t unit) {
  constexpr int kChains = 12;
  Vec<T> acc[kChains];
  HOTLOOP_UNROLL
  for (int j = 0; j < kChains; ++j) acc[j] = simd::set1<T>(T(unit + j));
  const Vec<T> factor = simd::set1<T>(T(0.999));
  const Vec<T> term = simd::set1<T>(T(0.001));
  constexpr std::int64_t steps = kProbeFlops / (2 * kChains * Vec<T>::lanes);
  for (std::int64_t i = 0; i < steps; ++i) {
    HOTLOOP_UNROLL
    for (int j = 0; j < kChains; ++j) acc[j] = simd::fma(acc[j], factor, term);
  }
  HOTLOOP_UNROLL
  for (int j = 1; j < kChains; ++j) acc[0] = acc[0] + acc[j];
  return simd::reduce_add(acc[0]);
}
void probe_fma(const ProbeFmaArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t unit = begin; unit < end; ++unit) {
    args.sink[unit] = args.dtype == DType::f32 ? static_cast<double>(fma_unit<float>(unit))
                                               : fma_unit<double>(unit);
  }
}

void probe_traffic(const ProbeTrafficArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr int lanes = Vec<float>::lanes;
  constexpr std::int64_t unit_floats = kProbeBytes / 4;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const float* source = args.source + unit * unit_floats;
    float* target = args.traffic == Traffic::read ? args.target : args.target + unit * unit_floats;
    if (args.traffic == Traffic::read) {
      Vec<float> sum[4] = {simd::zero<float>(), simd::zero<float>(), simd::zero<float>(),
                           simd::zero<float>()};
      for (std::int64_t i = 0; i < unit_floats; i += 4 * lanes) {
        HOTLOOP_UNROLL
        for (int j = 0; j < 4; ++j) sum[j] = sum[j] + simd::load(source + i + j * lanes);
      }
      target[unit] = simd::reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
    } else if (args.traffic == Traffic::copy) {
      for (std::int64_t i = 0; i < unit_floats; i += lanes) {
        simd::store(target + i, simd::load(source + i));
      }
    } else if (args.traffic == Traffic::copy_nt) {
      for (std::int64_t i = 0; i < unit_floats; i += lanes) {
        simd::stream(target + i, simd::load(source + i));
      }
    } else if (args.traffic == Traffic::add_nt) {
      const float* second = args.second + unit * unit_floats;
      for (std::int64_t i = 0; i < unit_floats; i += lanes) {
        simd::stream(target + i, simd::load(source + i) + simd::load(second + i));
      }
    } else {
      const Vec<float> one = simd::set1<float>(1.0f);
      for (std::int64_t i = 0; i < unit_floats; i += lanes) {
        simd::store(target + i, simd::load(target + i) + one);
      }
    }
  }
  if (args.traffic == Traffic::copy_nt || args.traffic == Traffic::add_nt) simd::stream_fence();
}

}  // namespace hotloop::HOTLOOP_LEVEL
