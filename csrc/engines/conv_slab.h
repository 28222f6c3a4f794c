// Slabs: the part of the images that one unit of a convolution reads. See kernels/conv.h.
#pragma once

#include "engines/pixels.h"
#include "kernels/conv.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// What of a slab exists: images are shared evenly, and so are the rows of one; some have one less.
struct SlabPart {
  std::int64_t image, images, plane, row, rows, pixels;
};

inline SlabPart slab_part(const ConvSlab& slab, std::int64_t index) {
  SlabPart part;
  const std::int64_t group = index / slab.per_image, groups = slab.count / slab.per_image;
  const std::int64_t images = slab.n * slab.out_d;
  part.image = images * group / groups;
  part.images = images * (group + 1) / groups - part.image;
  part.plane = 0;
  if (slab.out_d > 1) {  // a volume: an image is one of its planes
    part.plane = part.image % slab.out_d;
    part.image /= slab.out_d;
  }
  const std::int64_t place = index % slab.per_image;
  const std::int64_t steps = (slab.out_h + slab.row_multiple - 1) / slab.row_multiple;
  part.row = steps * place / slab.per_image * slab.row_multiple;
  std::int64_t end = steps * (place + 1) / slab.per_image * slab.row_multiple;
  if (end > slab.out_h) end = slab.out_h;
  part.rows = end - part.row;
  part.pixels = part.images * part.rows * slab.out_w;
  return part;
}

// The slabs that a chunk of a sum adds: shared evenly.
struct SlabRange {
  std::int64_t begin, end;
};
inline SlabRange slabs_of_chunk(const ConvWeightArgs& args, std::int64_t chunk) {
  return {args.slab.count * chunk / args.chunks, args.slab.count * (chunk + 1) / args.chunks};
}

// Copies channels [first, first + channels) of a slab with its border of zeros, channels last, its
// pixels slab.pitch apart.
template <class T>
struct SlabCopy {
  const ConvSlab& slab;
  const SlabPart& part;
  const T* data;
  std::int64_t channels, begin, end;  // columns [begin, end) of the slab lie inside the image

  SlabCopy(const ConvSlab& s, const SlabPart& p, std::int64_t first, std::int64_t count)
      : slab(s), part(p), data(static_cast<const T*>(s.data) + first * s.stride_c) {
    channels = count;
    begin = slab.left < 0 ? -slab.left : 0;
    end = slab.w - slab.left;
    if (end > slab.width) end = slab.width;
    if (begin > end || end <= 0) begin = end = 0;
  }

  // Row `row` of plane `index` of the slab, counted through its images.
  void copy_row(std::int64_t index, std::int64_t row, T* slab_to) const {
    const std::int64_t pitch = slab.pitch, row_size = slab.width * pitch;
    const std::int64_t image = index / slab.planes, nth = index % slab.planes;
    const std::int64_t plane =
        part.plane * slab.step_d + slab.front + (slab.plane_shift ? slab.plane_shift[nth] : nth);
    const std::int64_t at =
        part.row * slab.step_h + slab.top +
        (slab.row_shift ? row % slab.rows * slab.step_h + slab.row_shift[row / slab.rows] : row);
    T* to = slab_to + (index * slab.height + row) * row_size;
    if (at < 0 || at >= slab.h || plane < 0 || plane >= slab.d) return fill_zeros(to, row_size);
    const T* from =
        data + (part.image + image) * slab.stride_n + plane * slab.stride_d + at * slab.stride_h;
    if (slab.col_shift) return copy_taps(from, to);
    if (begin >= end) return fill_zeros(to, row_size);
    fill_zeros(to, begin * pitch);
    copy_pixels(to + begin * pitch, pitch, from + (slab.left + begin) * slab.stride_w,
                slab.stride_w, slab.stride_c, end - begin, channels);
    fill_zeros(to + end * pitch, (slab.width - end) * pitch);
  }

  // The columns of a row that each tap reads, tap by tap.
  void copy_taps(const T* row, T* to) const {
    const std::int64_t step = slab.step_w, count = slab.out_w, pitch = slab.pitch;
    for (std::int64_t tap = 0; tap < slab.width / count; ++tap, to += count * pitch) {
      const std::int64_t first = slab.left + slab.col_shift[tap];
      std::int64_t last = first < slab.w ? (slab.w - first + step - 1) / step : 0;
      if (last > count) last = count;
      std::int64_t begin_at = first < 0 ? (step - 1 - first) / step : 0;
      if (begin_at > last) begin_at = last;
      fill_zeros(to, begin_at * pitch);
      copy_pixels(to + begin_at * pitch, pitch, row + (first + begin_at * step) * slab.stride_w,
                  step * slab.stride_w, slab.stride_c, last - begin_at, channels);
      fill_zeros(to + last * pitch, (count - last) * pitch);
    }
  }
};

template <class T>
inline void fill_slab(const ConvSlab& slab, const SlabPart& part, std::int64_t first,
                      std::int64_t channels, T* to) {
  const SlabCopy<T> copy(slab, part, first, channels);
  const std::int64_t height =
      slab.row_shift ? slab.height : (part.rows - 1) * slab.step_h + slab.span_h;
  for (std::int64_t index = 0; index < part.images * slab.planes; ++index) {
    for (std::int64_t row = 0; row < height; ++row) copy.copy_row(index, row, to);
  }
}

// Pixels of the next slab, fetched line by line while this one is multiplied: `take` gives where
// the tile with so many terms goes on.
struct Ahead {
  const char* base = nullptr;
  std::int64_t pitch = 0, pixels = 0, lines = 0;  // bytes from pixel to pixel, lines of each
  std::int64_t pixel = 0;

  bool left() const { return lines > 0; }
  const char* take(std::int64_t terms) {
    const char* from = base + pixel * pitch;
    pixel += terms;
    if (pixel >= pixels) {
      pixel = 0;
      base += kBlockBytes;
      --lines;
    }
    return from;
  }
};

// `channels` of them from the first on, in the order of memory; nothing where rows have gaps.
template <class T>
inline Ahead ahead_of(const ConvSlab& slab, const SlabPart& part, std::int64_t first,
                      std::int64_t channels) {
  Ahead ahead;
  const std::int64_t item = sizeof(T);
  const bool images = part.images == 1 || slab.stride_n == slab.h * slab.stride_h;
  // Every other row is read of an image that a stride of 2 steps through: what lies between comes
  // with it.
  const std::int64_t row_pixels = slab.stride_w > 0 ? slab.stride_h / slab.stride_w : 0;
  const bool rows = row_pixels * slab.stride_w == slab.stride_h && row_pixels >= slab.w &&
                    row_pixels <= 2 * slab.w;
  if (slab.stride_c != 1 || !rows || !images) return ahead;
  const std::int64_t top = part.row * slab.step_h + slab.top, row = top > 0 ? top : 0;
  std::int64_t end = top + (part.rows - 1) * slab.step_h + slab.span_h;
  if (end > slab.h) end = slab.h;
  ahead.base = static_cast<const char*>(slab.data) +
               (part.image * slab.stride_n + part.plane * slab.step_d * slab.stride_d +
                row * slab.stride_h + first) *
                   item;
  ahead.pitch = slab.stride_w * item;
  ahead.pixels = (end - row + (part.images - 1) * slab.h) * row_pixels;
  ahead.lines = (channels * item + kBlockBytes - 1) / kBlockBytes;
  return ahead;
}

// Walks the pixels of a slab row by row, each pixel through all its images: neighbours in this
// order meet the same padding.
struct PixelWalk {
  std::int64_t rows, images, out_w;
  std::int64_t row = 0, image = 0, col = 0;
  std::int64_t index() const { return (image * rows + row) * out_w + col; }
  void step() {
    if (++image < images) return;
    image = 0;
    if (++col < out_w) return;
    col = 0;
    ++row;
  }
};

// Where pixel[p] of a slab counts from when it is read in place.
template <class T>
inline const T* slab_in_place(const ConvSlab& slab, const SlabPart& part) {
  return static_cast<const T*>(slab.data) + part.image * slab.stride_n +
         (part.plane * slab.step_d + slab.front) * slab.stride_d +
         (part.row * slab.step_h + slab.top) * slab.stride_h + slab.left * slab.stride_w;
}

// The first block of panel `panel`: the blocks are dealt evenly.
inline std::int64_t first_block(const ConvColumns& columns, std::int64_t panel) {
  return columns.blocks * panel / columns.panels;
}

template <class T>
constexpr std::int64_t kBlock = kBlockBytes / static_cast<std::int64_t>(sizeof(T));

template <class T>
inline T* own_scratch(const ConvScratch& scratch) {
  return reinterpret_cast<T*>(scratch.data + scratch.thread() * scratch.stride);
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
