// y = x / (1 - p) where the element survives, else 0 (also where x is NaN or infinite).
#include "kernels/dropout.h"

#include "engines/random.h"

namespace hotloop::HOTLOOP_LEVEL {

namespace {

#if defined(HOTLOOP_LEVEL_AVX512) || defined(HOTLOOP_LEVEL_AVX512BF16)
// The whole units: their bits are the masks of the vectors. Returns the unit it came to.
template <class T>
std::int64_t apply_units(const DropoutArgs& args, std::int64_t begin, std::int64_t end) {
  using V = simd::Vec<T>;
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const random::Stream numbers(args.seed, args.stream);
  const V scale = simd::set1<T>(static_cast<T>(args.scale)), none = simd::zero<T>();
  const bool stream = args.stream_stores && reinterpret_cast<std::uintptr_t>(y) % simd::kBytes == 0;
  const std::int64_t whole = args.size / kRandomUnit, last = end < whole ? end : whole;
  const auto some = [&]<int kUnits>(std::int64_t unit) __attribute__((always_inline)) {
    std::uint32_t bits[kUnits];
    random::bits_units<kUnits>(numbers, static_cast<std::uint64_t>(unit), args.threshold, bits);
    const std::int64_t first = unit * kRandomUnit;
    HOTLOOP_UNROLL
    for (int i = 0; i < kUnits * kRandomUnit; i += V::lanes) {
      const std::uint32_t shifted = bits[i / kRandomUnit] >> i % kRandomUnit;
      const simd::Mask<T> kept{static_cast<decltype(simd::Mask<T>::bits)>(shifted)};
      const V scaled = simd::select(kept, simd::load(x + first + i) * scale, none);
      if (stream) {
        simd::stream(y + first + i, scaled);
      } else {
        simd::store(y + first + i, scaled);
      }
    }
  };
  for (; begin < last && (begin & 1); ++begin) some.template operator()<1>(begin);
  for (; begin + 2 <= last; begin += 2) some.template operator()<2>(begin);
  for (; begin < last; ++begin) some.template operator()<1>(begin);
  if (stream) simd::stream_fence();
  return begin;
}
#else
template <class T>
std::int64_t apply_units(const DropoutArgs&, std::int64_t begin, std::int64_t) {
  return begin;
}
#endif

template <class T>
void apply(const DropoutArgs& args, std::int64_t begin, std::int64_t end) {
  using V = simd::Vec<T>;
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const random::Stream numbers(args.seed, args.stream);
  const V scale = simd::set1<T>(static_cast<T>(args.scale));
  alignas(64) typename simd::Int<T>::scalar mask[kRandomUnit];
  begin = apply_units<T>(args, begin, end);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    random::mask_unit(numbers, static_cast<std::uint64_t>(unit), args.threshold, mask);
    const std::int64_t first = unit * kRandomUnit;
    for (std::int64_t i = 0; i < kRandomUnit && first + i < args.size; i += V::lanes) {
      const std::int64_t left = args.size - first - i;
      simd::Int<T> kept;
      __builtin_memcpy(&kept.v, mask + i, sizeof kept.v);
      const V scaled = simd::load_upto(x + first + i, left) * scale;
      simd::store_upto(y + first + i, simd::as_vec<T>(simd::as_int(scaled) & kept), left);
    }
  }
}

}  // namespace

void dropout_apply(const DropoutArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? apply<float>(args, begin, end) : apply<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
