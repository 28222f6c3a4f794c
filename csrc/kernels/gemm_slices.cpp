// Products of few outputs and many terms (a weight's gradient over a long batch): slices of k side
// by side, each to its own partial result, then added in order.
#include "core/arena.h"
#include "kernels/driver/gemm_plan.h"

namespace hotloop {

namespace {

constexpr std::int64_t kSlice = 512;  // terms

template <class T>
void add_slices(const T* parts, std::int64_t slices, std::int64_t m, T* sums) {
  for (std::int64_t i = 0; i < m; ++i) {
    T sum = parts[i];
    for (std::int64_t slice = 1; slice < slices; ++slice) sum += parts[slice * m + i];
    sums[i] = sum;
  }
}

}  // namespace

bool gemm_prefers_slices(const GemmProblem& p) {
  return p.batches == 1 && p.k >= 4 * kSlice && p.m * p.n <= 128 * 128;
}

void gemm_run_slices(const GemmProblem& p) {
  const std::int64_t slices = blocks_of(p.k, kSlice);
  const std::int64_t item = bytes_of(p.dtype);
  Scratch scratch(static_cast<std::size_t>(slices * p.m * (p.n + 1) * item));
  GemmProblem part = p;
  part.k = blocks_of(blocks_of(p.k, slices), 8) * 8;
  part.batches = blocks_of(p.k, part.k);
  part.a.batch_step = part.k * p.a.column_step;
  part.b.batch_step = part.k * p.b.row_step;
  part.c = {scratch.get(), p.n, 1, p.m * p.n, nullptr};
  part.d = {};
  if (p.a_sums) part.a_sums = scratch.as<char>() + slices * p.m * p.n * item;
  part.alpha = 1;
  part.beta = 0;
  part.bias = nullptr;
  part.activation = Activation::none;
  gemm_run_tiles(part, p.k);

  GemmArgs args;
  args.p = p;
  args.p.a = part.c;
  args.p.batches = part.batches;
  launch(gemm_combine_kernel(), args,
         split_of(p, p.m, 8.0 * static_cast<double>(part.batches * p.m * p.n)));
  if (!p.a_sums) return;
  if (p.dtype == DType::f32) {
    add_slices(static_cast<const float*>(part.a_sums), part.batches, p.m,
               static_cast<float*>(p.a_sums));
  } else {
    add_slices(static_cast<const double*>(part.a_sums), part.batches, p.m,
               static_cast<double*>(p.a_sums));
  }
}

}  // namespace hotloop
