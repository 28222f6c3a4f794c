// max: y = max over the window's taps inside the image, with the tap of the first maximum (NaN
// wins, the last one, as in PyTorch). avg: y = sum / count. Backward: each pixel of dx gathers from
// the windows that cover it, in rising order.
//
// Layout: channels last, lanes run over the channels; x and dy may have any strides, other orders
// pass a transposing border (engines/window.h). The tap is kept as one byte (wider for windows over
// 256 taps), an eighth of PyTorch's int64.
#include "kernels/pool.h"

#include "engines/window.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Int;

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

template <class T, class Tap, bool WithTaps>
static inline void max_rows(const PoolArgs& args, const PoolPart<T>& part) {
  const PoolImage &to = args.result_strides, &taps = args.tap_strides;
  const Vec<T> lowest = simd::set1<T>(-static_cast<T>(__builtin_inf()));
  const std::int64_t column_step = args.w.dilation * part.column;
  for (std::int64_t oh = part.begin; oh < part.end; ++oh) {
    const Range rows = taps_of(args.h, oh);
    for (std::int64_t ow = 0; ow < args.w.out; ++ow) {
      const Range columns = taps_of(args.w, ow);
      const T* window = part.source + args.h.start[oh] * part.row + args.w.start[ow] * part.column;
      T* y = static_cast<T*>(args.result) + part.image * to.n + oh * to.h + ow * to.w + part.first;
      Tap* tap = WithTaps ? static_cast<Tap*>(args.taps) + part.image * taps.n + oh * taps.h +
                                ow * taps.w + part.first
                          : nullptr;
      const bool some = rows.begin < rows.end && columns.begin < columns.end;
      const auto first = static_cast<typename Int<T>::scalar>(
          some ? rows.begin * args.w.kernel + columns.begin : 0);
      each_channels<T>(part.channels, [&](std::int64_t c, int lanes) {
        Vec<T> best = lowest;
        Int<T> which = simd::set1_int<T>(first);
        for (std::int64_t kh = rows.begin; kh < rows.end; ++kh) {
          const T* p = window + kh * args.h.dilation * part.row + columns.begin * column_step + c;
          for (std::int64_t kw = columns.begin; kw < columns.end; ++kw, p += column_step) {
            const Vec<T> v = load_channels(p, lanes);
            const auto better = (v > best) | simd::is_nan(v);
            best = simd::select(better, v, best);
            if constexpr (!WithTaps) continue;
            const auto here = static_cast<typename Int<T>::scalar>(kh * args.w.kernel + kw);
            which = simd::select(better, simd::set1_int<T>(here), which);
          }
        }
        store_channels(y + c, best, lanes);
        if constexpr (WithTaps) store_taps<T>(tap + c, which, lanes);
      });
    }
  }
}

// 1 / (what a window's sum is divided by): the same for all windows, or a division for each.
template <class T>
struct WindowScale {
  const PoolArgs& args;
  T common;

  explicit WindowScale(const PoolArgs& of) : args(of), common(scale(0, 0)) {}
  [[gnu::always_inline]] inline T scale(std::int64_t oh, std::int64_t ow) const {
    return T(1) / static_cast<T>(args.h.count[oh] * args.w.count[ow]);
  }
  [[gnu::always_inline]] inline T of(std::int64_t oh, std::int64_t ow) const {
    return args.one_count ? common : scale(oh, ow);
  }
};

template <class T>
static inline void avg_rows(const PoolArgs& args, const PoolPart<T>& part) {
  const WindowScale<T> scales(args);
  const PoolImage& to = args.result_strides;
  for (std::int64_t oh = part.begin; oh < part.end; ++oh) {
    const Range rows = taps_of(args.h, oh);
    T* y = static_cast<T*>(args.result) + part.image * to.n + oh * to.h + part.first;
    for (std::int64_t ow = 0; ow < args.w.out; ++ow, y += to.w) {
      const Range columns = taps_of(args.w, ow);
      const T* window = part.source + args.h.start[oh] * part.row + args.w.start[ow] * part.column;
      const Vec<T> scale = simd::set1<T>(scales.of(oh, ow));
      each_channels<T>(part.channels, [&](std::int64_t c, int lanes) {
        Vec<T> sum = simd::zero<T>();
        for (std::int64_t kh = rows.begin; kh < rows.end; ++kh) {
          const T* p = window + kh * part.row + columns.begin * part.column + c;
          for (std::int64_t kw = columns.begin; kw < columns.end; ++kw, p += part.column) {
            sum = sum + load_channels(p, lanes);
          }
        }
        store_channels(y + c, sum * scale, lanes);
      });
    }
  }
}

// dx of a pixel from Count windows around it, in order.
template <class T, int Count, class Window>
[[gnu::always_inline]] static inline void add_windows(const Window* windows, std::int64_t channels,
                                                      T* dx) {
  each_channels<T>(channels, [&](std::int64_t c, int lanes) {
    Vec<T> sum = windows[0].share(c, lanes);
    if constexpr (Count > 1) sum = simd::zero<T>() + sum;
#pragma GCC unroll 4
    for (int i = 1; i < Count; ++i) sum = sum + windows[i].share(c, lanes);
    store_channels(dx + c, sum, lanes);
  });
}

// dx[pixel] = sum over the windows around it, find(oh, ow, ih, iw).share(channel, lanes), in order.
// Up to four, which windows that overlap by less than half have, are found once for all channels.
template <class T, class Find>
[[gnu::always_inline]] static inline void gather(const PoolArgs& args, const PoolPart<T>& part,
                                                 Find find) {
  using Window = decltype(find(0, 0, 0, 0));
  const PoolImage& to = args.result_strides;
  for (std::int64_t ih = part.begin; ih < part.end; ++ih) {
    const Range rows = windows_of(args.h, ih);
    T* dx = static_cast<T*>(args.result) + part.image * to.n + ih * to.h + part.first;
    for (std::int64_t iw = 0; iw < args.w.size; ++iw, dx += to.w) {
      const Range columns = windows_of(args.w, iw);
      const std::int64_t across = columns.end - columns.begin;
      const std::int64_t count = across * (rows.end - rows.begin);
      if (count == 1 || count == 2 || count == 4) {
        Window windows[4];
        for (int i = 0; i < count; ++i) {
          windows[i] = find(rows.begin + i / across, columns.begin + i % across, ih, iw);
        }
        if (count == 1) add_windows<T, 1>(windows, part.channels, dx);
        if (count == 2) add_windows<T, 2>(windows, part.channels, dx);
        if (count == 4) add_windows<T, 4>(windows, part.channels, dx);
        continue;
      }
      each_channels<T>(part.channels, [&](std::int64_t c, int lanes) {
        Vec<T> sum = simd::zero<T>();
        for (std::int64_t oh = rows.begin; oh < rows.end; ++oh) {
          for (std::int64_t ow = columns.begin; ow < columns.end; ++ow) {
            sum = sum + find(oh, ow, ih, iw).share(c, lanes);
          }
        }
        store_channels(dx + c, sum, lanes);
      });
    }
  }
}

// dy of a window where its tap is the pixel.
template <class T, class Tap>
struct MaxWindow {
  const T* dy;
  const Tap* tap;
  typename Int<T>::scalar here;

  [[gnu::always_inline]] inline Vec<T> share(std::int64_t c, int lanes) const {
    const Int<T> which = load_taps<T>(tap + c, lanes);
    return simd::select(which == simd::set1_int<T>(here), load_channels(dy + c, lanes),
                        simd::zero<T>());
  }
};

template <class T, class Tap>
static inline void max_rows_backward(const PoolArgs& args, const PoolPart<T>& part) {
  const PoolImage& taps = args.tap_strides;
  const Tap* tap = static_cast<const Tap*>(args.taps) + part.image * taps.n + part.first;
  gather(args, part,
         [&](std::int64_t oh, std::int64_t ow, std::int64_t ih, std::int64_t iw)
             __attribute__((always_inline)) {
               const std::int64_t kh = tap_at(args.h, oh, ih), kw = tap_at(args.w, ow, iw);
               const bool between = kh < 0 || kw < 0;
               return MaxWindow<T, Tap>{
                   part.source + oh * part.row + ow * part.column, tap + oh * taps.h + ow * taps.w,
                   static_cast<typename Int<T>::scalar>(between ? -1 : kh * args.w.kernel + kw)};
             });
}

// dy of a window over the number of its pixels.
template <class T>
struct AvgWindow {
  const T* dy;
  T scale;

  [[gnu::always_inline]] inline Vec<T> share(std::int64_t c, int lanes) const {
    return simd::set1<T>(scale) * load_channels(dy + c, lanes);
  }
};

template <class T>
static inline void avg_rows_backward(const PoolArgs& args, const PoolPart<T>& part) {
  const WindowScale<T> scales(args);
  gather(args, part,
         [&](std::int64_t oh, std::int64_t ow, std::int64_t,
             std::int64_t) __attribute__((always_inline)) {
           return AvgWindow<T>{part.source + oh * part.row + ow * part.column, scales.of(oh, ow)};
         });
}

template <class T>
static inline void max_any(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  each_part<T, false>(args, begin, end, [&](const PoolPart<T>& part) {
    if (!args.taps) return max_rows<T, std::uint8_t, false>(args, part);
    if (args.tap_bytes == 1) return max_rows<T, std::uint8_t, true>(args, part);
    if (args.tap_bytes == 2) return max_rows<T, std::uint16_t, true>(args, part);
    max_rows<T, std::int32_t, true>(args, part);
  });
}
template <class T>
static inline void max_backward_any(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  each_part<T, true>(args, begin, end, [&](const PoolPart<T>& part) {
    if (args.tap_bytes == 1) return max_rows_backward<T, std::uint8_t>(args, part);
    if (args.tap_bytes == 2) return max_rows_backward<T, std::uint16_t>(args, part);
    max_rows_backward<T, std::int32_t>(args, part);
  });
}
template <class T>
static inline void avg_any(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  each_part<T, false>(args, begin, end, [&](const PoolPart<T>& part) { avg_rows(args, part); });
}
template <class T>
static inline void avg_backward_any(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  each_part<T, true>(args, begin, end,
                     [&](const PoolPart<T>& part) { avg_rows_backward(args, part); });
}

}  // namespace

void max_pool(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? max_any<float>(args, begin, end) : max_any<double>(args, begin, end);
}

void max_pool_backward(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? max_backward_any<float>(args, begin, end)
                           : max_backward_any<double>(args, begin, end);
}

void avg_pool(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? avg_any<float>(args, begin, end) : avg_any<double>(args, begin, end);
}

void avg_pool_backward(const PoolArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? avg_backward_any<float>(args, begin, end)
                           : avg_backward_any<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
