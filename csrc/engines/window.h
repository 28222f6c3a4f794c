// Windows that slide over an image, and the border through which a source in any memory order
// reaches loops over dense channels. Backward passes gather (each input pixel asks its windows, in
// rising order), so that no two threads write the same pixel and sums have one order.
#pragma once

#include <cstdint>

#include "engines/pixels.h"
#include "kernels/pool.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

struct Range {
  std::int64_t begin, end;
};

// The taps of window o that lie inside, and the windows around pixel i.
[[gnu::always_inline]] inline Range taps_of(const PoolAxis& axis, std::int64_t o) {
  return {axis.first_tap[o], axis.last_tap[o]};
}
[[gnu::always_inline]] inline Range windows_of(const PoolAxis& axis, std::int64_t i) {
  return {axis.first_window[i], axis.last_window[i]};
}
// Which tap of window o pixel i is; -1 where it lies between two taps.
[[gnu::always_inline]] inline std::int64_t tap_at(const PoolAxis& axis, std::int64_t o,
                                                  std::int64_t i) {
  const std::int64_t distance = i - axis.start[o];
  if (axis.dilation == 1) return distance;
  return distance % axis.dilation == 0 ? distance / axis.dilation : -1;
}

// Calls body(channel, lanes) for whole vectors of channels and once for the rest.
template <class T, class Body>
[[gnu::always_inline]] static inline void each_channels(std::int64_t channels, Body body) {
  constexpr int lanes = Vec<T>::lanes;
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) body(c, lanes);
  if (c < channels) body(c, static_cast<int>(channels - c));
}

template <class T>
[[gnu::always_inline]] static inline Vec<T> load_channels(const T* p, int n) {
  return n == Vec<T>::lanes ? simd::load(p) : simd::load_n(p, n);
}
template <class T>
[[gnu::always_inline]] static inline void store_channels(T* p, Vec<T> v, int n) {
  if (n == Vec<T>::lanes) {
    simd::store(p, v);
  } else {
    simd::store_n(p, v, n);
  }
}

// Rows [begin, end) of the result of one image, channels [first, first + channels), and the source
// they read: pixel (h, w) at source + h * row + w * column, those channels dense.
template <class T>
struct PoolPart {
  std::int64_t image, begin, end, first, channels;
  const T* source;
  std::int64_t row, column;
};

// Source rows that rows [begin, end) of the result read.
template <bool backward>
inline Range source_rows(const PoolAxis& axis, std::int64_t begin, std::int64_t end) {
  Range rows = {axis.size + axis.out, 0};
  for (std::int64_t at = begin; at < end; ++at) {
    Range own;
    if (backward) {
      own = windows_of(axis, at);
    } else {
      const Range taps = taps_of(axis, at);
      own = {axis.start[at] + taps.begin * axis.dilation,
             axis.start[at] + (taps.end - 1) * axis.dilation + 1};
      if (taps.begin >= taps.end) continue;
    }
    if (own.begin < rows.begin) rows.begin = own.begin;
    if (own.end > rows.end) rows.end = own.end;
  }
  return rows;
}

// Calls body(part) for the rows [begin, end) of the results of all images.
template <class T, bool backward, class Body>
[[gnu::always_inline]] static inline void each_part(const PoolArgs& args, std::int64_t begin,
                                                    std::int64_t end, Body body) {
  constexpr std::int64_t kChannels = kPoolChannelBytes / static_cast<std::int64_t>(sizeof(T));
  const std::int64_t rows = backward ? args.h.size : args.h.out;
  const std::int64_t width = backward ? args.w.out : args.w.size;
  const PoolImage& from = args.source_strides;
  for (std::int64_t unit = begin; unit < end;) {
    const std::int64_t image = unit / rows, row = unit % rows;
    std::int64_t last = row + (end - unit);
    if (last > rows) last = rows;
    const T* source = static_cast<const T*>(args.source) + image * from.n;
    if (from.c == 1) {
      body(PoolPart<T>{image, row, last, 0, args.c, source, from.h, from.w});
      unit += last - row;
      continue;
    }
    if (last > row + args.band) last = row + args.band;
    T* border = reinterpret_cast<T*>(args.border + args.thread() * args.border_stride);
    const Range read = source_rows<backward>(args.h, row, last);
    for (std::int64_t c = 0; c < args.c; c += kChannels) {
      const std::int64_t channels = args.c - c < kChannels ? args.c - c : kChannels;
      for (std::int64_t at = read.begin; at < read.end; ++at) {
        copy_pixels(border + (at - read.begin) * width * channels, channels,
                    source + at * from.h + c * from.c, from.w, from.c, width, channels);
      }
      body(PoolPart<T>{image, row, last, c, channels, border - read.begin * width * channels,
                       width * channels, channels});
    }
    unit += last - row;
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
