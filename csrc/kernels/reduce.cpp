// The driver of the reductions: few outputs of many terms are cut into chunks, so that threads have
// something to share; the cut depends on sizes alone, hence the bits do not depend on the threads.
#include "kernels/reduce.h"

#include <cmath>

#include "core/arena.h"
#include "core/launch.h"

namespace hotloop {

namespace {

constexpr std::int64_t kChunkTerms = 32768;  // elements that are worth a unit of their own
constexpr std::int64_t kFewUnits = 32;       // above that the outputs alone occupy the threads
constexpr std::int64_t kMaxChunks = 64;
constexpr std::int64_t kWideRows = 128;  // chunks of wide_reduce are multiples of its blocks
constexpr std::int64_t kWideUnits = 64;
constexpr std::int64_t kWideColumnBytes = 512, kWideBytes = std::int64_t{1} << 18;
constexpr std::int64_t kGrainTerms = 65536;  // elements read in about 10 microseconds

std::int64_t item_of(DType dtype) {
  return dtype == DType::f32 ? 4 : 8;
}
std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

std::int64_t columns_of(const ReduceArgs& args) {
  return args.columns ? args.kept_sizes[args.kept_dims - 1] : 1;
}
// Outputs of a unit, where there are as many.
std::int64_t width_of(const ReduceArgs& args) {
  return args.wide ? kReduceWideBytes / item_of(args.dtype) : kReduceColumns;
}

void start(Kernel<ReduceArgs> kernel, const ReduceArgs& args) {
  const std::int64_t columns = columns_of(args), most = width_of(args);
  if (args.outputs == 0) return;
  const std::int64_t chunks = args.reduced > 0 ? ceil_div(args.reduced, args.chunk) : 1;
  const std::int64_t terms = args.chunk * (columns < most ? columns : most);
  launch(kernel, args,
         Split{.units = args.outputs / columns * ceil_div(columns, most) * chunks,
               .grain = terms >= kGrainTerms ? 1 : kGrainTerms / (terms > 0 ? terms : 1)});
}

// Long rows that lie in memory as they are, more than L2 likes: wide_reduce.
bool is_wide(const ReduceArgs& args) {
  const int inner = args.kept_dims - 1;
  const std::int64_t item = item_of(args.dtype);
  return args.columns && args.reduced_dims == 1 && args.kept_strides[inner] == 1 &&
         args.op != ReduceOp::logsumexp && args.reduced >= 16 &&
         args.kept_sizes[inner] * item >= kWideColumnBytes &&
         args.outputs * args.reduced * item >= kWideBytes;
}

std::int64_t wide_chunk(const ReduceArgs& args) {
  const std::int64_t columns = columns_of(args), most = width_of(args);
  const std::int64_t units = args.outputs / columns * ceil_div(columns, most);
  // Partial variances are merged by one thread.
  const std::int64_t wanted = args.op == ReduceOp::var ? kWideUnits / 2 : kWideUnits;
  std::int64_t rows = ceil_div(args.reduced, wanted > units ? wanted / units : 1);
  const std::int64_t least = kChunkTerms / (columns < most ? columns : most);
  if (rows < least) rows = least;
  return ceil_div(rows, kWideRows) * kWideRows;
}

// Sets the chunks; true where there are several, and partial results to be combined.
bool cut(ReduceArgs& args) {
  args.chunk = args.reduced > 0 ? args.reduced : 1;
  args.out_chunk_stride = 0;
  const std::int64_t columns = columns_of(args);
  const std::int64_t width = columns < kReduceColumns ? columns : kReduceColumns;
  args.wide = is_wide(args);
  if (args.wide) {
    const std::int64_t rows = wide_chunk(args);
    if (rows < args.reduced || args.op == ReduceOp::var) {
      args.chunk = rows < args.reduced ? rows : args.reduced;
    } else {
      args.wide = args.out_strides[args.kept_dims - 1] == 1;
      return false;
    }
  } else if (args.outputs / (width > 0 ? width : 1) >= kFewUnits ||
             args.reduced < 2 * kChunkTerms / (width > 0 ? width : 1)) {
    return false;
  } else {
    args.chunk = (args.reduced + kMaxChunks - 1) / kMaxChunks;
    if (args.chunk < kChunkTerms / width) args.chunk = kChunkTerms / width;
    args.chunk = (args.chunk + 255) / 256 * 256;  // whole blocks, whatever the lanes
  }
  args.out_chunk_stride = args.outputs;
  std::int64_t step = 1;
  for (int d = args.kept_dims - 1; d >= 0; --d) {
    args.out_strides[d] = step;
    step *= args.kept_sizes[d];
  }
  return true;
}

std::int64_t chunks_of(const ReduceArgs& args) {
  return (args.reduced + args.chunk - 1) / args.chunk;
}

std::int64_t place_of(const ReduceArgs& whole, std::int64_t output) {
  std::int64_t place = 0;
  for (int d = whole.kept_dims - 1; d >= 0; --d) {
    place += output % whole.kept_sizes[d] * whole.out_strides[d];
    output /= whole.kept_sizes[d];
  }
  return place;
}

// Chunk by chunk, in float64 (Chan, Golub and LeVeque 1979).
template <class T>
void merge_moments(const ReduceArgs& whole, const ReduceArgs& args, const T* means,
                   const T* squares) {
  const std::int64_t chunks = chunks_of(args), outputs = args.outputs;
  const Scratch memory(static_cast<std::size_t>(2 * outputs) * sizeof(double));
  double* const mean = static_cast<double*>(memory.get());
  double* const square = mean + outputs;
  for (std::int64_t i = 0; i < outputs; ++i) {
    mean[i] = static_cast<double>(means[i]);
    square[i] = static_cast<double>(squares[i]);
  }
  for (std::int64_t chunk = 1; chunk < chunks; ++chunk) {
    const std::int64_t have = chunk * args.chunk, rest = args.reduced - have;
    const double more = static_cast<double>(rest < args.chunk ? rest : args.chunk);
    const double share = more / (static_cast<double>(have) + more);
    const double both = static_cast<double>(have) * share;
    const T* const m = means + chunk * outputs;
    const T* const s = squares + chunk * outputs;
    for (std::int64_t i = 0; i < outputs; ++i) {
      const double apart = static_cast<double>(m[i]) - mean[i];
      square[i] += static_cast<double>(s[i]) + apart * apart * both;
      mean[i] += apart * share;
    }
  }
  T* const out = static_cast<T*>(whole.out);
  for (std::int64_t i = 0; i < outputs; ++i) {
    out[place_of(whole, i)] = static_cast<T>(square[i] / whole.divisor);
  }
}

template <class T>
void merge_exponentials(const ReduceArgs& whole, const ReduceArgs& args, const T* most,
                        const T* sums) {
  const std::int64_t chunks = chunks_of(args);
  for (std::int64_t output = 0; output < args.outputs; ++output) {
    double top = static_cast<double>(most[output]);
    for (std::int64_t chunk = 1; chunk < chunks; ++chunk) {
      const double other = static_cast<double>(most[chunk * args.outputs + output]);
      if (std::isnan(other) || other > top) top = other;
    }
    const double base = std::isinf(top) ? 0 : top;
    double sum = 0;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const std::int64_t at = chunk * args.outputs + output;
      sum += static_cast<double>(sums[at]) * std::exp(static_cast<double>(most[at]) - base);
    }
    static_cast<T*>(whole.out)[place_of(whole, output)] = static_cast<T>(std::log(sum) + base);
  }
}

template <class T>
void merge_pairs(const ReduceArgs& whole, const ReduceArgs& args, const void* first,
                 const void* second) {
  const auto merge = args.op == ReduceOp::var ? merge_moments<T> : merge_exponentials<T>;
  merge(whole, args, static_cast<const T*>(first), static_cast<const T*>(second));
}

template <class T>
bool beats(T x, T best, bool smallest) {
  if (std::isnan(best)) return false;
  return std::isnan(x) || (smallest ? x < best : x > best);
}

}  // namespace

void run_reduce(const ReduceArgs& whole) {
  ReduceArgs args = whole;
  const bool several = cut(args);
  const auto kernel = args.wide ? wide_reduce_kernel() : reduce_kernel();
  if (!several) {
    start(kernel, args);
    return;
  }
  const std::int64_t chunks = chunks_of(args), item = item_of(args.dtype);
  const Scratch partial(static_cast<std::size_t>(chunks * args.outputs * item));
  args.out = partial.get();
  args.divisor = 1;
  start(kernel, args);

  ReduceArgs combine = whole;
  if (whole.op == ReduceOp::squares) combine.op = ReduceOp::sum;
  combine.x = partial.get();
  combine.columns = args.outputs > 1;
  combine.reduced = combine.chunk = chunks;
  combine.out_chunk_stride = 0;
  for (int d = 0; d < args.kept_dims; ++d) combine.kept_strides[d] = args.out_strides[d];
  combine.reduced_dims = 1;
  combine.reduced_sizes[0] = chunks;
  combine.reduced_strides[0] = args.outputs;
  start(reduce_kernel(), combine);
}

void run_pair_reduce(const ReduceArgs& whole) {
  ReduceArgs args = whole;
  if (!cut(args)) {
    start(pair_reduce_kernel(), args);
    return;
  }
  const std::int64_t bytes = chunks_of(args) * args.outputs * item_of(args.dtype);
  const Scratch first(static_cast<std::size_t>(bytes)), second(static_cast<std::size_t>(bytes));
  args.out = first.get();
  args.second = second.get();
  start(args.wide ? wide_reduce_kernel() : pair_reduce_kernel(), args);
  const auto merge = args.dtype == DType::f32 ? merge_pairs<float> : merge_pairs<double>;
  merge(whole, args, first.get(), second.get());
}

std::int64_t units_along(const AlongArgs& args) {
  std::int64_t lines = 1;
  for (int d = 0; d < args.kept_dims; ++d) lines *= args.kept_sizes[d];
  if (!args.columns || lines == 0) return lines;
  const std::int64_t columns = args.kept_sizes[args.kept_dims - 1];
  return lines / columns * ((columns + kReduceColumns - 1) / kReduceColumns);
}

void run_index_along(const AlongArgs& whole) {
  const std::int64_t chunks = whole.kept_dims == 1 && whole.kept_sizes[0] == 1 && !whole.columns
                                  ? whole.size / kChunkTerms
                                  : 0;
  if (chunks < 2) {
    const std::int64_t terms = whole.size * (whole.columns ? kReduceColumns : 1);
    launch(index_along_kernel(), whole,
           Split{.units = units_along(whole), .grain = kGrainTerms / (terms + 1) + 1});
    return;
  }
  // A single long line: its chunks as lines, the places compared in order. The last chunk is
  // longer.
  const std::int64_t each = whole.size / chunks, item = item_of(whole.dtype);
  const Scratch scratch(static_cast<std::size_t>(chunks + 1) * sizeof(std::int64_t));
  auto* places = static_cast<std::int64_t*>(scratch.get());
  AlongArgs args = whole;
  args.out = places;
  args.size = each;
  args.kept_sizes[0] = chunks;
  args.kept_strides[0] = each * whole.stride;
  launch(index_along_kernel(), args, Split{.units = chunks, .grain = kGrainTerms / each + 1});
  for (std::int64_t c = 0; c < chunks; ++c) places[c] += c * each;
  std::int64_t count = chunks;
  if (const std::int64_t rest = whole.size - chunks * each; rest > 0) {
    args.x = static_cast<const char*>(whole.x) + chunks * each * whole.stride * item;
    args.out = places + chunks;
    args.size = rest;
    args.kept_sizes[0] = 1;
    index_along_kernel()(args, 0, 1);
    places[count++] += chunks * each;
  }
  std::int64_t best = places[0];
  for (std::int64_t c = 1; c < count; ++c) {
    const auto better = [&](auto* x) {
      return beats(x[places[c] * whole.stride], x[best * whole.stride], whole.smallest);
    };
    if (whole.dtype == DType::f32 ? better(static_cast<const float*>(whole.x))
                                  : better(static_cast<const double*>(whole.x))) {
      best = places[c];
    }
  }
  *static_cast<std::int64_t*>(whole.out) = best;
}

ReduceArgs sum_args(DType dtype, const void* x, std::int64_t n, double divisor, void* out) {
  ReduceArgs args{};
  args.dtype = dtype;
  args.op = ReduceOp::sum;
  args.x = x;
  args.out = out;
  args.divisor = divisor;
  args.reduced = n;
  args.outputs = 1;
  args.kept_dims = args.reduced_dims = 1;
  args.kept_sizes[0] = 1;
  args.reduced_sizes[0] = n;
  args.reduced_strides[0] = 1;
  return args;
}

}  // namespace hotloop
