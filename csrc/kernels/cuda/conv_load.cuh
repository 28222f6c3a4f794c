// Images as the operands of products: slices for the main loop of product_tile.cuh that are read
// through the taps of a convolution.
#pragma once

#include "kernels/cuda/divisor.cuh"
#include "kernels/cuda/product_tile.cuh"

namespace hotloop::cuda {

// One axis of a pass: output position p and tap t meet at source position
// p * step + first + t * shift; the tap is number tap_first + t * tap_step of the weights; the
// result lies at out_first + p * out_step.
struct PassAxis {
  int count, step, first, shift, taps, size;
  int tap_first, tap_step, out_first, out_step;
};

struct ImageSteps {
  std::int64_t n, d, h, w, c;
};

// The source of a pass: pixel p is an output position, term k is (tap, channel).
struct ImageView {
  ImageSteps steps;
  PassAxis d, h, w;
  Divisor count_d, count_h, count_w;  // pixel -> (n, d, h, w)
  Divisor channels, taps_h, taps_w;   // term -> (d, h, w, channel)
  bool whole;                         // four channels at a time can be read as 16 bytes
};

// Where an output position or a tap lies in the source.
struct Place {
  std::int64_t offset;
  int d, h, w;
};
__device__ __forceinline__ Place place_of_pixel(const ImageView& view, unsigned pixel) {
  unsigned rest = pixel;
  unsigned row = view.count_w.split(rest);
  const int w = static_cast<int>(rest) * view.w.step + view.w.first;
  unsigned plane = view.count_h.split(row);
  const int h = static_cast<int>(row) * view.h.step + view.h.first;
  const unsigned n = view.count_d.split(plane);
  const int d = static_cast<int>(plane) * view.d.step + view.d.first;
  return {n * view.steps.n + d * view.steps.d + h * view.steps.h + w * view.steps.w, d, h, w};
}
__device__ __forceinline__ Place place_of_term(const ImageView& view, unsigned term) {
  unsigned channel = term;
  unsigned tap = view.channels.split(channel);
  unsigned row = view.taps_w.split(tap);
  const int w = static_cast<int>(tap) * view.w.shift;
  const unsigned plane = view.taps_h.split(row);
  const int h = static_cast<int>(row) * view.h.shift, d = static_cast<int>(plane) * view.d.shift;
  return {d * view.steps.d + h * view.steps.h + w * view.steps.w + channel * view.steps.c, d, h, w};
}
__device__ __forceinline__ bool inside(const ImageView& view, const Place& pixel,
                                       const Place& term) {
  return static_cast<unsigned>(pixel.d + term.d) < static_cast<unsigned>(view.d.size) &&
         static_cast<unsigned>(pixel.h + term.h) < static_cast<unsigned>(view.h.size) &&
         static_cast<unsigned>(pixel.w + term.w) < static_cast<unsigned>(view.w.size);
}

// Rows are pixels, k the terms: forward and backward to the input.
template <class T, int rows, int depth, int threads>
struct PixelSlice : SlicePart<T, rows, depth, threads, true> {
  using Part = SlicePart<T, rows, depth, threads, true>;
  static_assert(threads % Part::kAlong == 0);  // all pieces of a thread begin at one term
  const ImageView& view;
  const T* data;
  Place pixel[Part::kPieces];

  __device__ __forceinline__ PixelSlice(const ImageView& source, const T* from, std::int64_t first,
                                        std::int64_t pixels)
      : view(source), data(from) {
#pragma unroll
    for (int i = 0; i < Part::kPieces; ++i) {
      const std::int64_t number = first + Part::row(i);
      pixel[i] = place_of_pixel(view, static_cast<unsigned>(number < pixels ? number : 0));
      if (number >= pixels) pixel[i].d = -(1 << 30);  // outside for every tap
    }
  }

  __device__ __forceinline__ void load(std::int64_t begin, std::int64_t end) {
    const unsigned k = static_cast<unsigned>(begin) + static_cast<unsigned>(Part::term(0));
    const unsigned last = static_cast<unsigned>(end);
    if (view.whole) {
      const Place term = place_of_term(view, k);
#pragma unroll
      for (int i = 0; i < Part::kPieces; ++i) {
        this->stage[i] = Piece<T>{};
        if (k < last && inside(view, pixel[i], term)) {
          this->stage[i] = *reinterpret_cast<const Piece<T>*>(data + pixel[i].offset + term.offset);
        }
      }
      return;
    }
#pragma unroll
    for (int v = 0; v < Part::kPiece; ++v) {
      const Place term = place_of_term(view, k + static_cast<unsigned>(v));
#pragma unroll
      for (int i = 0; i < Part::kPieces; ++i) {
        const bool there = k + static_cast<unsigned>(v) < last && inside(view, pixel[i], term);
        this->stage[i].at[v] = there ? data[pixel[i].offset + term.offset] : T(0);
      }
    }
  }
};

// Rows are terms, k the pixels: backward to the weights; with one tap, an image's own channels.
template <class T, int rows, int depth, int threads>
struct TermSlice : SlicePart<T, rows, depth, threads, false> {
  using Part = SlicePart<T, rows, depth, threads, false>;
  static_assert(threads % Part::kAlong == 0);  // all pieces of a thread have the same rows
  const ImageView& view;
  const T* data;
  unsigned row;  // the first of a piece
  unsigned terms;
  Place term;

  __device__ __forceinline__ TermSlice(const ImageView& source, const T* from, std::int64_t first,
                                       std::int64_t count)
      : view(source),
        data(from),
        row(static_cast<unsigned>(first) + Part::row(0)),
        terms(static_cast<unsigned>(count)) {
    term = place_of_term(view, row < terms ? row : 0);
  }

  __device__ __forceinline__ void load(std::int64_t begin, std::int64_t end) {
#pragma unroll
    for (int i = 0; i < Part::kPieces; ++i) {
      this->stage[i] = Piece<T>{};
      const std::int64_t number = begin + Part::term(i);
      if (number >= end) continue;
      const Place pixel = place_of_pixel(view, static_cast<unsigned>(number));
      if (view.whole) {
        if (row < terms && inside(view, pixel, term)) {
          this->stage[i] = *reinterpret_cast<const Piece<T>*>(data + pixel.offset + term.offset);
        }
        continue;
      }
#pragma unroll
      for (int v = 0; v < Part::kPiece; ++v) {
        if (row + v >= terms) break;
        const Place other = place_of_term(view, row + static_cast<unsigned>(v));
        if (inside(view, pixel, other)) this->stage[i].at[v] = data[pixel.offset + other.offset];
      }
    }
  }
};

}  // namespace hotloop::cuda
