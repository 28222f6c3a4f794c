// y = x / (1 - p) where the element survives, else 0 (also where x is NaN or infinite).
#include "kernels/dropout.h"

#include "engines/random.h"

namespace hotloop::HOTLOOP_LEVEL {

namespace {

template <class T>
void apply(const DropoutArgs& args, std::int64_t begin, std::int64_t end) {
  using V = simd::Vec<T>;
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const V scale = simd::set1<T>(static_cast<T>(args.scale));
  alignas(64) typename simd::Int<T>::scalar mask[kRandomUnit];
  for (std::int64_t unit = begin; unit < end; ++unit) {
    random::mask_unit(args.seed, args.stream, static_cast<std::uint64_t>(unit), args.threshold,
                      mask);
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
