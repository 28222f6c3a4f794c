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
constexpr std::int64_t kGrainTerms = 65536;  // elements read in about 10 microseconds

std::int64_t columns_of(const ReduceArgs& args) {
  return args.columns ? args.kept_sizes[args.kept_dims - 1] : 1;
}

void start(Kernel<ReduceArgs> kernel, const ReduceArgs& args) {
  const std::int64_t columns = columns_of(args);
  if (args.outputs == 0) return;
  const std::int64_t width = columns < kReduceColumns ? columns : kReduceColumns;
  const std::int64_t blocks = (columns + kReduceColumns - 1) / kReduceColumns;
  const std::int64_t chunks = args.reduced > 0 ? (args.reduced + args.chunk - 1) / args.chunk : 1;
  const std::int64_t terms = args.chunk * width;
  launch(kernel, args,
         Split{.units = args.outputs / columns * blocks * chunks,
               .grain = terms >= kGrainTerms ? 1 : kGrainTerms / (terms > 0 ? terms : 1)});
}

// Sets the chunks; true where there are several, and partial results to be combined.
bool cut(ReduceArgs& args) {
  args.chunk = args.reduced > 0 ? args.reduced : 1;
  args.out_chunk_stride = 0;
  const std::int64_t columns = columns_of(args);
  const std::int64_t width = columns < kReduceColumns ? columns : kReduceColumns;
  if (args.outputs / (width > 0 ? width : 1) >= kFewUnits ||
      args.reduced < 2 * kChunkTerms / (width > 0 ? width : 1)) {
    return false;
  }
  args.chunk = (args.reduced + kMaxChunks - 1) / kMaxChunks;
  if (args.chunk < kChunkTerms / width) args.chunk = kChunkTerms / width;
  args.chunk = (args.chunk + 255) / 256 * 256;  // whole blocks, whatever the lanes
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

// Several pairs of an output, merged in their order, in float64.
struct Merged {
  double first = 0, second = 0, terms = 0;

  void add_moments(double mean, double squares, double count) {
    const double apart = mean - first, share = count / (terms + count);
    second += squares + apart * apart * terms * share;
    first += apart * share;
    terms += count;
  }
  void add_exponentials(double most, double sum) {
    const double larger = std::isnan(first) || !(most > first) ? first : most;
    const double top = terms == 0 || std::isnan(most) ? most : larger;
    const double base = std::isinf(top) ? 0 : top;
    second = (terms == 0 ? 0 : second * std::exp(first - base)) + sum * std::exp(most - base);
    first = top;
    terms += 1;
  }
};

template <class T>
void merge_pairs(const ReduceArgs& whole, const ReduceArgs& args, const T* first, const T* second) {
  const std::int64_t chunks = chunks_of(args);
  for (std::int64_t output = 0; output < args.outputs; ++output) {
    Merged total;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const std::int64_t at = chunk * args.outputs + output;
      const std::int64_t rest = args.reduced - chunk * args.chunk;
      const double count = static_cast<double>(rest < args.chunk ? rest : args.chunk);
      if (args.op == ReduceOp::var) {
        total.add_moments(first[at], second[at], count);
      } else {
        total.add_exponentials(first[at], second[at]);
      }
    }
    std::int64_t place = 0, rest = output;
    for (int d = args.kept_dims - 1; d >= 0; --d) {
      place += rest % args.kept_sizes[d] * whole.out_strides[d];
      rest /= args.kept_sizes[d];
    }
    const double base = std::isinf(total.first) ? 0 : total.first;
    static_cast<T*>(whole.out)[place] = static_cast<T>(
        args.op == ReduceOp::var ? total.second / whole.divisor : std::log(total.second) + base);
  }
}

template <class T>
bool beats(T x, T best, bool smallest) {
  if (std::isnan(best)) return false;
  return std::isnan(x) || (smallest ? x < best : x > best);
}

}  // namespace

void run_reduce(const ReduceArgs& whole) {
  ReduceArgs args = whole;
  if (!cut(args)) {
    start(reduce_kernel(), args);
    return;
  }
  const std::int64_t chunks = chunks_of(args);
  const std::int64_t item = args.dtype == DType::f32 ? 4 : 8;
  const Scratch partial(static_cast<std::size_t>(chunks * args.outputs * item));
  args.out = partial.get();
  args.divisor = 1;
  start(reduce_kernel(), args);

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
  const std::int64_t item = args.dtype == DType::f32 ? 4 : 8;
  const std::int64_t bytes = chunks_of(args) * args.outputs * item;
  const Scratch first(static_cast<std::size_t>(bytes)), second(static_cast<std::size_t>(bytes));
  args.out = first.get();
  args.second = second.get();
  start(pair_reduce_kernel(), args);
  if (args.dtype == DType::f32) {
    merge_pairs(whole, args, static_cast<const float*>(first.get()),
                static_cast<const float*>(second.get()));
  } else {
    merge_pairs(whole, args, static_cast<const double*>(first.get()),
                static_cast<const double*>(second.get()));
  }
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
  const std::int64_t each = whole.size / chunks, item = whole.dtype == DType::f32 ? 4 : 8;
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

void run_sum(DType dtype, const void* x, std::int64_t n, double divisor, void* out) {
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
  run_reduce(args);
}

}  // namespace hotloop
