// max: y = max over the window's taps inside the image, with the tap of the first maximum (NaN
// wins, the last one, as in PyTorch). avg: y = sum / count. Backward: each pixel of dx gathers from
// the windows that cover it, in rising order.
//
// Layout: channels last, lanes run over the channels; x and dy may have any strides. The tap is
// kept as one byte (wider for windows over 256 taps), an eighth of PyTorch's int64.
#include "kernels/pool.h"

#include "engines/window.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Int;

struct PoolAxes {
  WindowAxis h, w;
};
static inline PoolAxes axes_of(const PoolArgs& args) {
  return {{args.h, args.out_h, args.kernel_h, args.stride_h, args.padding_h},
          {args.w, args.out_w, args.kernel_w, args.stride_w, args.padding_w}};
}

// Taps as they lie in memory: one, two or four bytes.
template <class T, class Tap>
[[gnu::always_inline]] static inline void store_taps(Tap* p, Int<T> taps, int n) {
  if constexpr (sizeof(Tap) == 1) {
    simd::store_u8_n<T>(p, taps, n);
  } else {
    typename Int<T>::scalar lane[Vec<T>::lanes];
    __builtin_memcpy(lane, &taps.v, sizeof(lane));
    for (int i = 0; i < n; ++i) p[i] = static_cast<Tap>(lane[i]);
  }
}
template <class T, class Tap>
[[gnu::always_inline]] static inline Int<T> load_taps(const Tap* p, int n) {
  if constexpr (sizeof(Tap) == 1) {
    return simd::load_u8_n<T>(p, n);
  } else {
    typename Int<T>::scalar lane[Vec<T>::lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = static_cast<typename Int<T>::scalar>(p[i]);
    Int<T> taps;
    __builtin_memcpy(&taps.v, lane, sizeof(lane));
    return taps;
  }
}

template <class T, class Tap, bool dense>
static inline void max_rows(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  const PoolAxes axes = axes_of(args);
  const PoolImage &from = args.source_strides, &to = args.result_strides, &taps = args.tap_strides;
  const Vec<T> lowest = simd::set1<T>(-static_cast<T>(__builtin_inf()));
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t image = unit / args.out_h, oh = unit % args.out_h;
    const Range rows = axes.h.taps(oh);
    const T* x = static_cast<const T*>(args.source) + image * from.n +
                 (oh * args.stride_h - args.padding_h) * from.h;
    for (std::int64_t ow = 0; ow < args.out_w; ++ow) {
      const Range columns = axes.w.taps(ow);
      const T* window = x + (ow * args.stride_w - args.padding_w) * from.w;
      T* y = static_cast<T*>(args.result) + image * to.n + oh * to.h + ow * to.w;
      Tap* tap = args.taps
                     ? static_cast<Tap*>(args.taps) + image * taps.n + oh * taps.h + ow * taps.w
                     : nullptr;
      const auto first =
          static_cast<typename Int<T>::scalar>(rows.begin * args.kernel_w + columns.begin);
      each_channels<T>(args.c, [&](std::int64_t c, int lanes) {
        Vec<T> best = lowest;
        Int<T> which = simd::set1_int<T>(first);
        for (std::int64_t kh = rows.begin; kh < rows.end; ++kh) {
          const T* p = window + kh * from.h + columns.begin * from.w + c * from.c;
          for (std::int64_t kw = columns.begin; kw < columns.end; ++kw, p += from.w) {
            const Vec<T> v = load_channels<dense>(p, from.c, lanes);
            const auto better = (v > best) | simd::is_nan(v);
            best = simd::select(better, v, best);
            const auto here = static_cast<typename Int<T>::scalar>(kh * args.kernel_w + kw);
            which = simd::select(better, simd::set1_int<T>(here), which);
          }
        }
        store_channels(y + c, best, lanes);
        if (tap) store_taps<T>(tap + c, which, lanes);
      });
    }
  }
}

template <class T, class Tap, bool dense>
static inline void max_rows_backward(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  const PoolAxes axes = axes_of(args);
  const PoolImage &from = args.source_strides, &to = args.result_strides, &taps = args.tap_strides;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t image = unit / args.h, ih = unit % args.h;
    const Range rows = axes.h.windows(ih);
    const T* dy = static_cast<const T*>(args.source) + image * from.n;
    const Tap* tap = static_cast<const Tap*>(args.taps) + image * taps.n;
    T* dx = static_cast<T*>(args.result) + image * to.n + ih * to.h;
    Cover cover(axes.w);
    for (std::int64_t iw = 0; iw < args.w; ++iw, dx += to.w, cover.next()) {
      const Range columns = cover.range;
      // dy of window (oh, ow) where its tap is this pixel.
      const auto share = [&](std::int64_t oh, std::int64_t ow, std::int64_t c, int lanes) {
        const std::int64_t kh = ih + args.padding_h - oh * args.stride_h;
        const std::int64_t kw = iw + args.padding_w - ow * args.stride_w;
        const auto here = static_cast<typename Int<T>::scalar>(kh * args.kernel_w + kw);
        const Int<T> which = load_taps<T>(tap + oh * taps.h + ow * taps.w + c, lanes);
        const Vec<T> v =
            load_channels<dense>(dy + oh * from.h + ow * from.w + c * from.c, from.c, lanes);
        return simd::select(which == simd::set1_int<T>(here), v, simd::zero<T>());
      };
      if (rows.end - rows.begin == 1 && cover.single()) {
        each_channels<T>(args.c, [&](std::int64_t c, int lanes) {
          store_channels(dx + c, share(rows.begin, columns.begin, c, lanes), lanes);
        });
        continue;
      }
      each_channels<T>(args.c, [&](std::int64_t c, int lanes) {
        Vec<T> sum = simd::zero<T>();
        for (std::int64_t oh = rows.begin; oh < rows.end; ++oh) {
          for (std::int64_t ow = columns.begin; ow < columns.end; ++ow) {
            sum = sum + share(oh, ow, c, lanes);
          }
        }
        store_channels(dx + c, sum, lanes);
      });
    }
  }
}

// 1 / (what a window's sum is divided by): the same for all windows, or a division for each.
template <class T>
struct WindowScale {
  T common;
  bool varies;

  explicit WindowScale(const PoolArgs& args)
      : common(T(1) / static_cast<T>(args.kernel_h * args.kernel_w)),
        varies(!args.count_include_pad && (args.padding_h > 0 || args.padding_w > 0)) {}
  [[gnu::always_inline]] inline T of(Range rows, Range columns) const {
    if (!varies) return common;
    return T(1) / static_cast<T>((rows.end - rows.begin) * (columns.end - columns.begin));
  }
};

template <class T, bool dense>
static inline void avg_rows(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  const PoolAxes axes = axes_of(args);
  const WindowScale<T> scales(args);
  const PoolImage &from = args.source_strides, &to = args.result_strides;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t image = unit / args.out_h, oh = unit % args.out_h;
    const Range rows = axes.h.taps(oh);
    const T* x = static_cast<const T*>(args.source) + image * from.n +
                 (oh * args.stride_h - args.padding_h) * from.h;
    T* y = static_cast<T*>(args.result) + image * to.n + oh * to.h;
    for (std::int64_t ow = 0; ow < args.out_w; ++ow, y += to.w) {
      const Range columns = axes.w.taps(ow);
      const T* window = x + (ow * args.stride_w - args.padding_w) * from.w;
      const Vec<T> scale = simd::set1<T>(scales.of(rows, columns));
      each_channels<T>(args.c, [&](std::int64_t c, int lanes) {
        Vec<T> sum = simd::zero<T>();
        for (std::int64_t kh = rows.begin; kh < rows.end; ++kh) {
          const T* p = window + kh * from.h + columns.begin * from.w + c * from.c;
          for (std::int64_t kw = columns.begin; kw < columns.end; ++kw, p += from.w) {
            sum = sum + load_channels<dense>(p, from.c, lanes);
          }
        }
        store_channels(y + c, sum * scale, lanes);
      });
    }
  }
}

template <class T, bool dense>
static inline void avg_rows_backward(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  const PoolAxes axes = axes_of(args);
  const WindowScale<T> scales(args);
  const PoolImage &from = args.source_strides, &to = args.result_strides;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t image = unit / args.h, ih = unit % args.h;
    const Range rows = axes.h.windows(ih);
    const T* dy = static_cast<const T*>(args.source) + image * from.n;
    T* dx = static_cast<T*>(args.result) + image * to.n + ih * to.h;
    Cover cover(axes.w);
    for (std::int64_t iw = 0; iw < args.w; ++iw, dx += to.w, cover.next()) {
      const Range columns = cover.range;
      const auto share = [&](std::int64_t oh, std::int64_t ow, std::int64_t c, int lanes) {
        const T scale = scales.of(axes.h.taps(oh), axes.w.taps(ow));
        return simd::set1<T>(scale) *
               load_channels<dense>(dy + oh * from.h + ow * from.w + c * from.c, from.c, lanes);
      };
      if (rows.end - rows.begin == 1 && cover.single()) {
        each_channels<T>(args.c, [&](std::int64_t c, int lanes) {
          store_channels(dx + c, share(rows.begin, columns.begin, c, lanes), lanes);
        });
        continue;
      }
      each_channels<T>(args.c, [&](std::int64_t c, int lanes) {
        Vec<T> sum = simd::zero<T>();
        for (std::int64_t oh = rows.begin; oh < rows.end; ++oh) {
          for (std::int64_t ow = columns.begin; ow < columns.end; ++ow) {
            sum = sum + share(oh, ow, c, lanes);
          }
        }
        store_channels(dx + c, sum, lanes);
      });
    }
  }
}

template <class T, class Tap>
static inline void max_forward(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.source_strides.c == 1) {
    max_rows<T, Tap, true>(args, begin, end);
  } else {
    max_rows<T, Tap, false>(args, begin, end);
  }
}
template <class T, class Tap>
static inline void max_gather(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.source_strides.c == 1) {
    max_rows_backward<T, Tap, true>(args, begin, end);
  } else {
    max_rows_backward<T, Tap, false>(args, begin, end);
  }
}

template <class T>
static inline void max_any(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  switch (args.tap_bytes) {
    case 1:
      return max_forward<T, std::uint8_t>(args, begin, end);
    case 2:
      return max_forward<T, std::uint16_t>(args, begin, end);
    default:
      return max_forward<T, std::int32_t>(args, begin, end);
  }
}
template <class T>
static inline void max_backward_any(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  switch (args.tap_bytes) {
    case 1:
      return max_gather<T, std::uint8_t>(args, begin, end);
    case 2:
      return max_gather<T, std::uint16_t>(args, begin, end);
    default:
      return max_gather<T, std::int32_t>(args, begin, end);
  }
}
template <class T>
static inline void avg_any(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.source_strides.c == 1) {
    avg_rows<T, true>(args, begin, end);
  } else {
    avg_rows<T, false>(args, begin, end);
  }
}
template <class T>
static inline void avg_backward_any(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.source_strides.c == 1) {
    avg_rows_backward<T, true>(args, begin, end);
  } else {
    avg_rows_backward<T, false>(args, begin, end);
  }
}

}  // namespace

void max_pool(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    max_any<float>(args, begin, end);
  } else {
    max_any<double>(args, begin, end);
  }
}

void max_pool_backward(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    max_backward_any<float>(args, begin, end);
  } else {
    max_backward_any<double>(args, begin, end);
  }
}

void avg_pool(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    avg_any<float>(args, begin, end);
  } else {
    avg_any<double>(args, begin, end);
  }
}

void avg_pool_backward(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    avg_backward_any<float>(args, begin, end);
  } else {
    avg_backward_any<double>(args, begin, end);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
