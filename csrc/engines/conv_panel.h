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

// One run of the weights' channels: its tables, and where it and its panel begin.
template <class T>
struct PackedRun {
  const ConvPackRun& table;
  const T* w;
  T* panel;
  const ConvPackRun* next;  // the run behind it, or null
  std::int64_t run_step;

  PackedRun(const ConvPackArgs& args, const PanelPlace& place, std::int64_t index, T* whole_panel)
      : table(table_of(args, index)), run_step(args.run_step) {
    w = static_cast<const T*>(args.w) + place.group * args.stride_group +
        place.block * kBlock<T> * args.stride_column + index * args.run_step;
    panel = whole_panel + index * args.run.terms * place.blocks * kBlock<T>;
    next = (index + 1) * args.run.terms < args.depth ? &table_of(args, index + 1) : nullptr;
  }

  static const ConvPackRun& table_of(const ConvPackArgs& args, std::int64_t index) {
    return (index + 1) * args.run.terms <= args.depth ? args.run : args.last;
  }
  std::int64_t place(std::int64_t step) const { return table.term[table.order[step]]; }
  // From a term to the one that is read `distance` steps later.
  std::int64_t ahead(std::int64_t step, std::int64_t distance) const {
    const std::int64_t later = step + distance, behind = later - table.terms;
    if (behind < 0) return place(later) - place(step);
    if (!next || behind >= next->terms) return 0;
    return run_step + next->term[next->order[behind]] - place(step);
  }
};

// Terms [first, last) of a run, by their place in w. Where columns are far apart, a vector of them
// through all terms: as many streams as the machine sees.
template <class T>
void pack_turned(const PackedRun<T>& run, const PanelPlace& place, std::int64_t stride_column,
                 std::int64_t first, std::int64_t last) {
  constexpr int kLanes = simd::Vec<T>::lanes;
  const std::int64_t width = place.blocks * kBlock<T>, dense = run.table.dense;
  for (std::int64_t column = 0; column < width; column += kLanes) {
    const std::int64_t rest = place.columns - column;
    const int lanes = rest >= kLanes ? kLanes : rest > 0 ? static_cast<int>(rest) : 0;
    for (std::int64_t step = first; step < last;) {
      std::int64_t count = dense - step % dense;
      if (count > last - step) count = last - step;
      if (count > kLanes) count = kLanes;
      const T* from = run.w + run.place(step) + column * stride_column;
      const bool whole = lanes == kLanes && count == kLanes;
      (whole ? pack_block<T, true>
             : pack_block<T, false>)(from, stride_column, lanes, run.panel + column,
                                     run.table.order + step, static_cast<int>(count), width,
                                     run.ahead(step, kPackAhead));
      step += count;
    }
  }
}

template <class T>
void pack_run(const PackedRun<T>& run, const PanelPlace& place, std::int64_t stride_column,
              std::int64_t first, std::int64_t last) {
  constexpr int kLanes = simd::Vec<T>::lanes;
  const std::int64_t width = place.blocks * kBlock<T>;
  for (std::int64_t step = first; step < last; ++step) {
    const T* from = run.w + run.place(step);
    const std::int64_t ahead = run.ahead(step, kRowsAhead);
    T* to = run.panel + run.table.order[step] * width;
    for (std::int64_t column = 0; column < width; column += kLanes) {
      const std::int64_t rest = place.columns - column;
      const int lanes = rest >= kLanes ? kLanes : rest > 0 ? static_cast<int>(rest) : 0;
      const T* at = from + column * stride_column;
      simd::Vec<T> values = simd::zero<T>();
      if (lanes > 0 && stride_column == 1) {
        values = simd::load_n(at, lanes);
        __builtin_prefetch(at + ahead, 0, 2);
      }
      if (lanes > 0 && stride_column != 1) {
        values = simd::load_strided(at, stride_column, lanes);
      }
      simd::store(to + column, values);
    }
  }
}

// Terms [first, last) of one panel, run by run in the order of w; its term 0 would lie at `panel`.
template <class T>
void pack_terms(const ConvPackArgs& args, const PanelPlace& place, std::int64_t first,
                std::int64_t last, T* panel) {
  while (first < last) {
    const std::int64_t index = first / args.run.terms, begin = index * args.run.terms;
    const std::int64_t end = last < begin + args.run.terms ? last : begin + args.run.terms;
    const PackedRun<T> run(args, place, index, panel);
    if (run.table.dense >= 4 && args.stride_column != 1) {
      pack_turned(run, place, args.stride_column, first - begin, end - begin);
    } else {
      pack_run(run, place, args.stride_column, first - begin, end - begin);
    }
    first = end;
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
