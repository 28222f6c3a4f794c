// C = activation(alpha A B + bias + beta D) in plain float32 (float64 in one size of tiles), NN,
// NT, TN, TT and any other strides, batched.
//
// - Tiles of 128 x 128, 128 x 64 or 64 x 64: the largest that still gives every multiprocessor one.
// - Too few tiles and a long sum: slices of k side by side, each to a partial result in scratch,
//   added in order by product_finish. How many, the shape says, not the GPU.
// - Eight rows or columns and less: gemm_vector.cuh.
// - Activations beyond a comparison: a second pass over C.
// Register-tiled SGEMM after Boehm (siboehm.com/articles/22/CUDA-MMM) and CUTLASS' SIMT kernels;
// tile order for the L2 cache after Triton's tutorial. Not measured on a GPU yet.
#include "kernels/gemm.h"

#include "kernels/cuda/gemm_vector.cuh"

namespace hotloop::cuda {
namespace {

template <class T>
struct ProductArgs {
  const T *a, *b, *d, *bias;
  T* c;
  Batch a_batch, b_batch, c_batch, d_batch;
  std::int64_t a_row, a_term, b_term, b_column, c_row, d_row;
  std::int64_t m, n, k, inner, tiles_m, tiles_n;
  std::int64_t slice, slice_step;  // terms of a slice, numbers from one's results to the next's
  T alpha, beta, slope;
  bool a_whole, b_whole, c_whole, active;
};

constexpr int kGroup = 8;  // tile rows that walk along n together, so that B stays in L2

template <class Shape, bool a_deep, bool b_deep>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    gemm_tiles(const __grid_constant__ ProductArgs<typename Shape::Number> p) {
  using T = typename Shape::Number;
  HOTLOOP_SHARED(T, shared);
  const std::int64_t tiles = p.tiles_m * p.tiles_n;
  const std::int64_t t = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const std::int64_t group = tile / (kGroup * p.tiles_n), in_group = tile % (kGroup * p.tiles_n);
  const std::int64_t rest = p.tiles_m - group * kGroup, rows = rest < kGroup ? rest : kGroup;
  const std::int64_t row0 = (group * kGroup + in_group % rows) * Shape::kRows;
  const std::int64_t column0 = in_group / rows * Shape::kColumns;
  const std::int64_t begin = blockIdx.y * p.slice, last = begin + p.slice;

  MatrixSlice<T, Shape::kRows, Shape::kDepth, Shape::kThreads, a_deep> a(
      p.a + batch_offset(p.a_batch, t, p.inner) + row0 * p.a_row, p.a_row, p.a_term, p.m - row0,
      p.a_whole, begin);
  MatrixSlice<T, Shape::kColumns, Shape::kDepth, Shape::kThreads, b_deep> b(
      p.b + batch_offset(p.b_batch, t, p.inner) + column0 * p.b_column, p.b_column, p.b_term,
      p.n - column0, p.b_whole, begin);
  Shape sums;
  sums.run(a, b, begin, last < p.k ? last : p.k, shared);

  T* const c = p.c + batch_offset(p.c_batch, t, p.inner) + blockIdx.y * p.slice_step;
  const T* const d = p.d ? p.d + batch_offset(p.d_batch, t, p.inner) : nullptr;
  sums.each(row0, column0, p.m, [&](std::int64_t row) {
    return [&p, d, row, to = c + row * p.c_row](std::int64_t column, Piece<T> piece) {
#pragma unroll
      for (int v = 0; v < Shape::kPiece; ++v) {
        T x = piece.at[v] * p.alpha;
        if (column + v < p.n) {
          if (p.bias) x += p.bias[column + v];
          if (d) x = fused(p.beta, d[row * p.d_row + column + v], x);
        }
        piece.at[v] = cheap_activation(x, p.active, p.slope);
      }
      put_piece(to + column, piece, p.n - column, p.c_whole);
    };
  });
}

// ---- plans: shapes alone decide -----------------------------------------------------------------

constexpr std::int64_t kLeastSlice = 256;
constexpr std::int64_t kMostSlices = 64;
constexpr std::int64_t kMostScratch = std::int64_t{64} << 20;
int forced_tile = -1;  // for tests and tuning

enum class Path { tiles, dots, rows };
struct Plan {
  Path path = Path::tiles;
  int tile = 2;          // 0: 128 x 128, 1: 128 x 64, 2: 64 x 64
  bool swapped = false;  // the transposed product: few columns instead of few rows
  std::int64_t slices = 1, slice = 0;
};

void cut(Plan& plan, std::int64_t k, std::int64_t wanted, std::int64_t least, std::int64_t bytes) {
  std::int64_t slices = wanted < k / least ? wanted : k / least;
  if (slices > kMostSlices) slices = kMostSlices;
  if (slices * bytes > kMostScratch) slices = kMostScratch / bytes;
  if (slices < 1) slices = 1;
  plan.slice = ceil_div(ceil_div(k > 0 ? k : 1, slices), 16) * 16;
  plan.slices = k > 0 ? ceil_div(k, plan.slice) : 1;
}

Plan plan_of(const GemmProblem& p) {
  Plan plan;
  const std::int64_t item = p.dtype == DType::f32 ? 4 : 8;
  const std::int64_t bytes = p.batches * p.m * p.n * item;
  const std::int64_t few = p.m < p.n ? p.m : p.n, many = p.m < p.n ? p.n : p.m;
  if (few <= kVectorRows && forced_tile < 0) {
    plan.swapped = p.n < p.m;
    const GemmMatrix& b = plan.swapped ? p.a : p.b;
    const bool deep = (plan.swapped ? b.column_step : b.row_step) == 1;
    plan.path = deep ? Path::dots : Path::rows;
    const std::int64_t blocks = ceil_div(many * p.batches, deep ? 8 : 128);
    cut(plan, p.k, 4 * kBlocksWanted / blocks, deep ? 2048 : 64, bytes);
    return plan;
  }
  constexpr std::int64_t kTileRows[] = {128, 128, 64}, kTileColumns[] = {128, 64, 64};
  std::int64_t blocks = 0;
  for (plan.tile = forced_tile >= 0 ? forced_tile : 0; plan.tile < 3; ++plan.tile) {
    const std::int64_t rows = kTileRows[plan.tile], columns = kTileColumns[plan.tile];
    blocks = p.batches * ceil_div(p.m, rows) * ceil_div(p.n, columns);
    if (forced_tile >= 0 || plan.tile == 2) break;
    if (p.dtype == DType::f32 && 2 * p.m > rows && 2 * p.n > columns && blocks >= kBlocksWanted) {
      break;
    }
  }
  cut(plan, p.k, 2 * kBlocksWanted / blocks, kLeastSlice, bytes);
  return plan;
}

bool wants_finish(const GemmProblem& p, const Plan& plan) {
  return plan.path != Path::tiles || plan.slices > 1 || !is_cheap(p.activation);
}
// Slices and vectors leave partial sums in scratch; an activation alone works on C in place.
bool wants_parts(const Plan& plan) {
  return plan.path != Path::tiles || plan.slices > 1;
}

constexpr std::int64_t kSumSlice = 512;
std::int64_t sum_slices(const GemmProblem& p) {
  const std::int64_t slices = ceil_div(p.k > 0 ? p.k : 1, kSumSlice);
  return slices < kMostSlices ? slices : kMostSlices;
}

// ---- launches -----------------------------------------------------------------------------------

template <class Shape, class T>
void launch_tiles(ProductArgs<T>& args, bool a_deep, bool b_deep, std::int64_t batches,
                  std::int64_t slices, cudaStream_t stream) {
  args.tiles_m = ceil_div(args.m, Shape::kRows);
  args.tiles_n = ceil_div(args.n, Shape::kColumns);
  const dim3 grid(static_cast<unsigned>(args.tiles_m * args.tiles_n * batches),
                  static_cast<unsigned>(slices));
#define HOTLOOP_X(left, right)                                                                   \
  if (a_deep == left && b_deep == right) {                                                       \
    HOTLOOP_LAUNCH((gemm_tiles<Shape, left, right>), grid, Shape::kThreads, Shape::kSharedBytes, \
                   stream, args);                                                                \
  }
  HOTLOOP_X(false, false)
  HOTLOOP_X(false, true)
  HOTLOOP_X(true, false)
  HOTLOOP_X(true, true)
#undef HOTLOOP_X
}

template <class T>
bool aligned(const void* data, std::int64_t step, Batch batch) {
  constexpr std::int64_t size = Piece<T>::kSize;
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && step % size == 0 &&
         batch.outer_step % size == 0 && batch.inner_step % size == 0;
}

// The batch axes of all four matrices, as two steps of each.
struct Batches {
  std::int64_t count, inner;
  Batch a, b, c, d;
};

template <class T>
FinishArgs<T> finish_of(const GemmProblem& p, const Batches& batches) {
  FinishArgs<T> args{};
  args.c = static_cast<T*>(p.c.data);
  args.d = p.beta != 0 ? static_cast<const T*>(p.d.data) : nullptr;
  args.bias = static_cast<const T*>(p.bias);
  args.c_batch = batches.c;
  args.d_batch = batches.d;
  args.c_row = p.c.row_step, args.c_column = 1;
  args.d_row = p.d.row_step, args.d_column = 1;
  args.m = p.m, args.n = p.n, args.batches = batches.count, args.inner = batches.inner;
  args.alpha = static_cast<T>(p.alpha), args.beta = static_cast<T>(p.beta);
  args.activation = p.activation;
  args.activation_alpha = p.activation_alpha;
  args.slices = 1;
  return args;
}

template <class T>
void run_vector(const GemmProblem& p, const Plan& plan, const Batches& batches,
                cudaStream_t stream) {
  VectorArgs<T> args{};
  args.a = static_cast<const T*>(plan.swapped ? p.b.data : p.a.data);
  args.b = static_cast<const T*>(plan.swapped ? p.a.data : p.b.data);
  args.parts = static_cast<T*>(p.scratch);
  args.a_batch = plan.swapped ? batches.b : batches.a;
  args.b_batch = plan.swapped ? batches.a : batches.b;
  args.a_row = plan.swapped ? p.b.column_step : p.a.row_step;
  args.a_column = plan.swapped ? p.b.row_step : p.a.column_step;
  args.b_row = plan.swapped ? p.a.column_step : p.b.row_step;
  args.b_column = plan.swapped ? p.a.row_step : p.b.column_step;
  args.m = plan.swapped ? p.n : p.m, args.n = plan.swapped ? p.m : p.n, args.k = p.k;
  args.batches = batches.count, args.inner = batches.inner;
  args.slice = plan.slice;
  args.slice_step = batches.count * p.m * p.n;
  args.whole = args.a_column == 1 && args.b_row == 1 &&
               aligned<T>(args.a, args.a_row, args.a_batch) &&
               aligned<T>(args.b, args.b_column, args.b_batch);
  const bool dots = plan.path == Path::dots;
  const dim3 grid(static_cast<unsigned>(ceil_div(args.n * args.batches, dots ? 8 : 128)),
                  static_cast<unsigned>(plan.slices));
  if (dots) {
    HOTLOOP_LAUNCH((gemm_dots<T>), grid, 256, 0, stream, args);
  } else {
    HOTLOOP_LAUNCH((gemm_rows<T>), grid, 128, 0, stream, args);
  }
}

template <class T>
void run_tiles(const GemmProblem& p, const Plan& plan, const Batches& batches,
               cudaStream_t stream) {
  ProductArgs<T> args{};
  args.a = static_cast<const T*>(p.a.data), args.b = static_cast<const T*>(p.b.data);
  args.a_batch = batches.a, args.b_batch = batches.b;
  args.a_row = p.a.row_step, args.a_term = p.a.column_step;
  args.b_term = p.b.row_step, args.b_column = p.b.column_step;
  args.m = p.m, args.n = p.n, args.k = p.k, args.inner = batches.inner;
  args.slice = plan.slice;
  args.alpha = T(1);
  if (wants_parts(plan)) {
    args.c = static_cast<T*>(p.scratch);
    args.c_row = p.n;
    args.c_batch = {p.m * p.n * batches.inner, p.m * p.n};
    args.slice_step = p.m * p.n * batches.count;
  } else {
    args.c = static_cast<T*>(p.c.data);
    args.c_row = p.c.row_step;
    args.c_batch = batches.c;
    args.d = p.beta != 0 ? static_cast<const T*>(p.d.data) : nullptr;
    args.d_row = p.d.row_step;
    args.d_batch = batches.d;
    args.bias = static_cast<const T*>(p.bias);
    args.alpha = static_cast<T>(p.alpha), args.beta = static_cast<T>(p.beta);
    args.active = is_cheap(p.activation) && p.activation != Activation::none;
    args.slope = p.activation == Activation::leaky_relu ? static_cast<T>(p.activation_alpha) : T(0);
  }
  // Which way a matrix is brought: along k where that is dense, or where nothing is.
  const bool a_deep = args.a_term == 1 || (args.a_row != 1 && args.a_term < args.a_row);
  const bool b_deep = args.b_term == 1 && args.b_column != 1;
  args.a_whole = (a_deep ? args.a_term : args.a_row) == 1 &&
                 aligned<T>(args.a, a_deep ? args.a_row : args.a_term, batches.a);
  args.b_whole = (b_deep ? args.b_term : args.b_column) == 1 &&
                 aligned<T>(args.b, b_deep ? args.b_column : args.b_term, batches.b);
  args.c_whole =
      aligned<T>(args.c, args.c_row, args.c_batch) && args.slice_step % Piece<T>::kSize == 0;
  if constexpr (sizeof(T) == 8) {
    launch_tiles<Tile<T, 64, 64, 16, 4, 4>>(args, a_deep, b_deep, batches.count, plan.slices,
                                            stream);
  } else if (plan.tile == 0) {
    launch_tiles<Tile<T, 128, 128, 16, 8, 8>>(args, a_deep, b_deep, batches.count, plan.slices,
                                              stream);
  } else if (plan.tile == 1) {
    launch_tiles<Tile<T, 128, 64, 16, 8, 4>>(args, a_deep, b_deep, batches.count, plan.slices,
                                             stream);
  } else {
    launch_tiles<Tile<T, 64, 64, 16, 4, 4>>(args, a_deep, b_deep, batches.count, plan.slices,
                                            stream);
  }
}

template <class T>
void run_group(const GemmProblem& p, const Batches& batches, cudaStream_t stream) {
  const Plan plan = plan_of(p);
  if (plan.path == Path::tiles) {
    run_tiles<T>(p, plan, batches, stream);
  } else {
    run_vector<T>(p, plan, batches, stream);
  }
  if (!wants_finish(p, plan)) return;
  FinishArgs<T> args = finish_of<T>(p, batches);
  if (wants_parts(plan)) {
    args.parts = static_cast<const T*>(p.scratch);
    args.slices = plan.slices;
    args.slice_step = batches.count * p.m * p.n;
    args.part_step = p.m * p.n;
    args.part_row = plan.swapped ? 1 : p.n;
    args.part_column = plan.swapped ? p.m : 1;
    finish_product(args, stream);
    return;
  }
  // Only the activation is left: in place, one batch after the other where they do not fold.
  args.alpha = T(1);
  args.bias = nullptr;
  args.d = nullptr;
  args.part_row = p.c.row_step, args.part_column = 1;
  for (std::int64_t t = 0; t < batches.count; ++t) {
    const std::int64_t offset =
        t / batches.inner * batches.c.outer_step + t % batches.inner * batches.c.inner_step;
    args.c = static_cast<T*>(p.c.data) + offset;
    args.parts = args.c;
    args.batches = 1;
    finish_product(args, stream);
  }
}

template <class T>
void run_sums(const GemmProblem& p, cudaStream_t stream) {
  RowSumArgs<T> args{};
  const std::int64_t slices = sum_slices(p);
  args.a = static_cast<const T*>(p.a.data);
  args.parts = static_cast<T*>(slices > 1 ? p.scratch : p.a_sums);
  args.row_step = p.a.row_step, args.term_step = p.a.column_step;
  args.m = p.m, args.k = p.k;
  args.slice = ceil_div(p.k > 0 ? p.k : 1, slices);
  args.along_k = p.a.column_step == 1 && p.a.row_step != 1;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.m, 32)), static_cast<unsigned>(slices));
  HOTLOOP_LAUNCH((gemm_row_sums<T>), grid, 256, 0, stream, args);
  if (slices == 1) return;
  FinishArgs<T> finish{};
  finish.parts = args.parts;
  finish.slices = slices, finish.slice_step = p.m, finish.part_column = 1;
  finish.c = static_cast<T*>(p.a_sums), finish.c_column = 1;
  finish.m = 1, finish.n = p.m, finish.batches = 1, finish.inner = 1;
  finish.alpha = T(1);
  finish_product(finish, stream);
}

// One launch for all batches where two steps tell where they lie, else one for each run that has
// one step. Offsets are the host's.
template <class T>
void run(GemmProblem p, cudaStream_t stream) {
  if (p.a_sums) run_sums<T>(p, stream);
  if (p.m <= 0 || p.n <= 0 || p.batches <= 0) return;
  GemmMatrix* const matrices[4] = {&p.a, &p.b, &p.c, &p.d};
  std::int64_t inner = p.batches;
  for (const GemmMatrix* matrix : matrices) {
    if (!matrix->offsets) continue;
    const std::int64_t* const at = matrix->offsets;
    std::int64_t run = 1;
    while (run < p.batches && at[run] - at[0] == run * (at[1] - at[0])) ++run;
    if (run < inner) inner = run;
  }
  if (p.batches % inner != 0) inner = 1;
  bool regular = true;
  Batch steps[4];
  for (int i = 0; i < 4; ++i) {
    const std::int64_t* const at = matrices[i]->offsets;
    const std::int64_t step = matrices[i]->batch_step;
    steps[i] = {inner * step, step};
    if (!at) continue;
    steps[i].inner_step = inner > 1 ? at[1] - at[0] : 0;
    steps[i].outer_step = inner < p.batches ? at[inner] - at[0] : 0;
    for (std::int64_t t = 0; t < p.batches; ++t) {
      regular &= at[t] - at[0] == t / inner * steps[i].outer_step + t % inner * steps[i].inner_step;
    }
  }
  if (!regular) inner = 1;
  const std::int64_t group = regular ? p.batches : 1;
  const GemmProblem all = p;
  p.batches = group;
  for (std::int64_t first = 0; first < all.batches; first += group) {
    const GemmMatrix* const from[4] = {&all.a, &all.b, &all.c, &all.d};
    for (int i = 0; i < 4; ++i) {
      if (!from[i]->data) continue;
      const std::int64_t offset =
          from[i]->offsets ? from[i]->offsets[first] : first * from[i]->batch_step;
      matrices[i]->data = static_cast<T*>(from[i]->data) + offset;
    }
    run_group<T>(p, {group, inner, steps[0], steps[1], steps[2], steps[3]}, stream);
  }
}

}  // namespace

HOTLOOP_CUDA_WORKSPACE(gemm, GemmProblem) {
  const std::int64_t item = args.dtype == DType::f32 ? 4 : 8;
  std::int64_t bytes = args.a_sums ? sum_slices(args) * args.m * item : 0;
  if (args.m <= 0 || args.n <= 0 || args.batches <= 0) return bytes;
  const Plan plan = plan_of(args);
  const std::int64_t parts =
      wants_parts(plan) ? plan.slices * args.batches * args.m * args.n * item : 0;
  return bytes > parts ? bytes : parts;
}

HOTLOOP_CUDA_KERNEL(gemm, GemmProblem) {
  if (args.dtype == DType::f32) {
    run<float>(args, stream);
  } else {
    run<double>(args, stream);
  }
}

// Which tile all products take from now on, -1: the best; for tests and tuning.
HOTLOOP_CUDA_EXPORT void hotloop_cuda_gemm_force(int tile) {
  forced_tile = tile;
}

}  // namespace hotloop::cuda
