// Weights of convolutions packed into panels: [term][columns of the panel], from whatever order
// they lie in.
#pragma once

#include "engines/conv_slab.h"
#include "engines/transpose.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// Terms that are fetched ahead: of a stream through w, of rows of it.
constexpr std::int64_t kPackAhead = 128, kRowsAhead = 16;

struct PanelPlace {
  std::int64_t group, block, blocks, columns;
};

template <class T>
inline PanelPlace panel_place(const ConvColumns& columns, std::int64_t index) {
  PanelPlace place;
  const std::int64_t panel = index % columns.panels;
  place.group = index / columns.panels;
  place.block = first_block(columns, panel);
  place.blocks = first_block(columns, panel + 1) - place.block;
  const std::int64_t rest = columns.columns - place.block * kBlock<T>;
  place.columns = rest < place.blocks * kBlock<T> ? rest : place.blocks * kBlock<T>;
  return place;
}

// `count` terms that are neighbours in w, for one vector of columns: rows of w turned into columns.
template <class T, bool Whole>
[[gnu::noinline]] void pack_block(const T* from, std::int64_t stride_column, int columns, T* to,
                                  const std::int64_t* order, int count, std::int64_t width,
                                  std::int64_t ahead) {
  using V = simd::Vec<T>;
  V row[V::lanes];
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    const T* line = from + i * stride_column;
    if (Whole) {
      row[i] = simd::load(line);
      __builtin_prefetch(line + ahead, 0, 2);
    } else {
      row[i] = i < columns ? simd::load_upto(line, count) : simd::zero<T>();
      if (i < columns) __builtin_prefetch(line + ahead, 0, 2);
    }
  }
  transpose_registers<T>(row);
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    if (Whole || i < count) simd::store(to + order[i] * width, row[i]);
  }
}

// Terms [first, last), by their place in w, of one panel; its term 0 would lie at `panel`. Where
// columns are far apart, a vector of them through all terms: as many streams as the machine sees.
template <class T>
void pack_turned(const ConvPackArgs& args, const PanelPlace& place, std::int64_t first,
                 std::int64_t last, T* panel) {
  constexpr int kLanes = simd::Vec<T>::lanes;
  const std::int64_t width = place.blocks * kBlock<T>;
  const T* w = static_cast<const T*>(args.w) + place.group * args.stride_group +
               place.block * kBlock<T> * args.stride_column;
  for (std::int64_t column = 0; column < width; column += kLanes) {
    const std::int64_t rest = place.columns - column;
    const int lanes = rest >= kLanes ? kLanes : rest > 0 ? static_cast<int>(rest) : 0;
    for (std::int64_t step = first; step < last;) {
      std::int64_t count = args.dense - step % args.dense;
      if (count > last - step) count = last - step;
      if (count > kLanes) count = kLanes;
      const T* from = w + args.term[args.order[step]] + column * args.stride_column;
      const std::int64_t later = step + kPackAhead < args.depth ? step + kPackAhead : step;
      const std::int64_t ahead = args.term[args.order[later]] - args.term[args.order[step]];
      const bool whole = lanes == kLanes && count == kLanes;
      (whole ? pack_block<T, true> : pack_block<T, false>)(from, args.stride_column, lanes,
                                                           panel + column, args.order + step,
                                                           static_cast<int>(count), width, ahead);
      step += count;
    }
  }
}

template <class T>
void pack_terms(const ConvPackArgs& args, const PanelPlace& place, std::int64_t first,
                std::int64_t last, T* panel) {
  constexpr int kLanes = simd::Vec<T>::lanes;
  if (args.dense >= 4 && args.stride_column != 1) {
    return pack_turned(args, place, first, last, panel);
  }
  const std::int64_t width = place.blocks * kBlock<T>;
  const T* w = static_cast<const T*>(args.w) + place.group * args.stride_group +
               place.block * kBlock<T> * args.stride_column;
  for (std::int64_t step = first; step < last; ++step) {
    const T* from = w + args.term[args.order[step]];
    const std::int64_t later = step + kRowsAhead < args.depth ? step + kRowsAhead : step;
    const T* ahead = w + args.term[args.order[later]];
    T* to = panel + args.order[step] * width;
    for (std::int64_t column = 0; column < width; column += kLanes) {
      const std::int64_t rest = place.columns - column;
      const int lanes = rest >= kLanes ? kLanes : rest > 0 ? static_cast<int>(rest) : 0;
      const T* at = from + column * args.stride_column;
      simd::Vec<T> values = simd::zero<T>();
      if (lanes > 0 && args.stride_column == 1) {
        values = simd::load_n(at, lanes);
        __builtin_prefetch(ahead + column, 0, 2);
      }
      if (lanes > 0 && args.stride_column != 1) {
        values = simd::load_strided(at, args.stride_column, lanes);
      }
      simd::store(to + column, values);
    }
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
