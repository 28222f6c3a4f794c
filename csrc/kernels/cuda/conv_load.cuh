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
  bool linear;                        // pixel p lies at p * steps.w, always inside
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
// Of a tap's first channel; `term` becomes the channel.
__device__ __forceinline__ Place place_of_tap(const ImageView& view, unsigned& term) {
  unsigned tap = view.channels.split(term);
  unsigned row = view.taps_w.split(tap);
  const int w = static_cast<int>(tap) * view.w.shift;
  const unsigned plane = view.taps_h.split(row);
  const int h = static_cast<int>(row) * view.h.shift, d = static_cast<int>(plane) * view.d.shift;
  return {d * view.steps.d + h * view.steps.h + w * view.steps.w, d, h, w};
}
__device__ __forceinline__ Place place_of_term(const ImageView& view, unsigned term) {
  Place place = place_of_tap(view, term);
  place.offset += term * view.steps.c;
  return place;
}
__device__ __forceinline__ bool inside(const ImageView& view, const Place& pixel,
                                       const Place& term) {
  return static_cast<unsigned>(pixel.d + term.d) < static_cast<unsigned>(view.d.size) &&
         static_cast<unsigned>(pixel.h + term.h) < static_cast<unsigned>(view.h.size) &&
         static_cast<unsigned>(pixel.w + term.w) < static_cast<unsigned>(view.w.size);
}

// Rows are pixels, k the terms: forward and backward to the input. Where a tap lies is found once
// for all its channels.
template <class T, int rows, int depth, int threads>
struct PixelSlice : SlicePart<T, rows, depth, threads, true> {
  using Part = SlicePart<T, rows, depth, threads, true>;
  const ImageView& view;
  const T* data;
  Place pixel;
  const T* at[Part::kPieces];     // under the tap that piece i is in, its channel 0; null: outside
  unsigned first[Part::kPieces];  // that tap's first term

  __device__ __forceinline__ PixelSlice(const ImageView& source, const T* from, std::int64_t row0,
                                        std::int64_t pixels)
      : view(source), data(from) {
    const std::int64_t number = row0 + Part::row();
    pixel = place_of_pixel(view, static_cast<unsigned>(number < pixels ? number : 0));
    if (number >= pixels) pixel.d = -(1 << 30);  // outside for every tap
#pragma unroll
    for (int i = 0; i < Part::kPieces; ++i) {
      first[i] = 0x80000000u;  // no term is so large
      at[i] = nullptr;
    }
  }

  __device__ __forceinline__ void load(std::int64_t begin, std::int64_t end, T*) {
    const unsigned last = static_cast<unsigned>(end);
#pragma unroll
    for (int i = 0; i < Part::kPieces; ++i) {
      const unsigned k = static_cast<unsigned>(begin) + static_cast<unsigned>(Part::term(i));
      Piece<T>& piece = this->stage[i];
      piece = Piece<T>{};
      if (view.whole) {
        if (k - first[i] >= view.channels.by) {
          unsigned channel = k;
          const Place tap = place_of_tap(view, channel);
          first[i] = k - channel;
          at[i] = inside(view, pixel, tap) ? data + pixel.offset + tap.offset : nullptr;
        }
        if (k < last && at[i]) piece = *reinterpret_cast<const Piece<T>*>(at[i] + (k - first[i]));
        continue;
      }
#pragma unroll
      for (int v = 0; v < Part::kPiece; ++v) {
        const Place term = place_of_term(view, k + static_cast<unsigned>(v));
        if (k + static_cast<unsigned>(v) < last && inside(view, pixel, term)) {
          piece.at[v] = data[pixel.offset + term.offset];
        }
      }
    }
  }
};

// Rows are terms, k the pixels: backward to the weights; with one tap, an image's own channels.
template <class T, int rows, int depth, int threads>
struct TermSlice : SlicePart<T, rows, depth, threads, false> {
  using Part = SlicePart<T, rows, depth, threads, false>;
  const ImageView& view;
  const T* data;
  unsigned row;  // the first of all the thread's pieces
  unsigned terms;
  Place term;

  __device__ __forceinline__ TermSlice(const ImageView& source, const T* from, std::int64_t first,
                                       std::int64_t count)
      : view(source),
        data(from),
        row(static_cast<unsigned>(first) + Part::row()),
        terms(static_cast<unsigned>(count)) {
    term = place_of_term(view, row < terms ? row : 0);
  }

  __device__ __forceinline__ void load(std::int64_t begin, std::int64_t end, T* to) {
#pragma unroll
    for (int i = 0; i < Part::kPieces; ++i) {
      T* const at = to + Part::term(i) * Part::kPitch + Part::row();
      const std::int64_t number = begin + Part::term(i);
      const bool there = number < end;
      // Pixel after pixel, as with one tap and no padding: no division.
      const Place pixel = view.linear ? Place{number * view.steps.w, 0, 0, 0}
                                      : place_of_pixel(view, static_cast<unsigned>(number));
      if (view.whole) {
        const bool inner = there && row < terms && (view.linear || inside(view, pixel, term));
        copy_async<16>(at, data + (inner ? pixel.offset + term.offset : 0), inner);
        continue;
      }
#pragma unroll
      for (int v = 0; v < Part::kPiece; ++v) {
        const bool known = there && row + v < terms;
        const Place other = place_of_term(view, known ? row + static_cast<unsigned>(v) : 0);
        const bool inner = known && (view.linear || inside(view, pixel, other));
        copy_async<sizeof(T)>(at + v, data + (inner ? pixel.offset + other.offset : 0), inner);
      }
    }
  }
};

}  // namespace hotloop::cuda
