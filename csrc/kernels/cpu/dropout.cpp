// y = x / (1 - p) where the element survives, else 0 (also where x is NaN or infinite).
#include "kernels/dropout.h"

#include "engines/random.h"

namespace hotloop::HOTLOOP_LEVEL {

namespace {

template <class T>
void apply(const DropoutArgs& args, std::int64_t begin, std::int64_t end) {
  using V = simd::Vec<T>;
  using W = simd::Vec<double>;
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const W threshold = simd::set1<double>(args.threshold), scale = simd::set1<double>(args.scale);
  alignas(64) double word[kRandomUnit];
  alignas(64) T factor[kRandomUnit];  // scale or 0
  for (std::int64_t unit = begin; unit < end; ++unit) {
    random::whole_unit(args.seed, args.stream, static_cast<std::uint64_t>(unit), word);
    for (int i = 0; i < kRandomUnit; i += W::lanes) {
      const auto survives = simd::load(word + i) >= threshold;
      random::put(factor + i, simd::select(survives, scale, simd::zero<double>()).v);
    }
    const std::int64_t first = unit * kRandomUnit;
    for (std::int64_t i = 0; i < kRandomUnit && first + i < args.size; i += V::lanes) {
      const V f = simd::load(factor + i);
      const V scaled = simd::load_upto(x + first + i, args.size - first - i) * f;
      simd::store_upto(y + first + i, simd::select(f > simd::zero<T>(), scaled, simd::zero<T>()),
                       args.size - first - i);
    }
  }
}

}  // namespace

void dropout_apply(const DropoutArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? apply<float>(args, begin, end) : apply<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
