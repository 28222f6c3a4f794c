// The driver of the normalizations: chooses chunks from the shapes, lays out the workspace and runs
// the passes: statistics, their combination in order, the result.
#include "kernels/norm.h"

#include <algorithm>

#include "core/launch.h"
#include "core/threads.h"

namespace hotloop {

namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{1} << 17;  // is read twice: an eighth of L2
constexpr std::int64_t kChunkElements = 4096;                // of one channel, channels first
constexpr std::int64_t kPieceElements = 16384;               // some 5 microseconds
constexpr std::int64_t kStreamBytes = std::int64_t{24} << 20;
constexpr std::int64_t kLeastRows = 16;   // of a chunk of layer norm's backward pass
constexpr std::int64_t kMostChunks = 64;  // likewise: each costs a row of partial sums

std::int64_t item(DType dtype) {
  return dtype == DType::f32 ? 4 : 8;
}
std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
// `whole` in as few equal parts as have at most `most` each.
std::int64_t even_part(std::int64_t whole, std::int64_t most) {
  return whole <= most ? whole : ceil_div(whole, ceil_div(whole, most));
}
std::int64_t grain_for(std::int64_t work, std::int64_t per_unit) {
  return per_unit >= work ? 1 : work / std::max<std::int64_t>(per_unit, 1);
}

// Sizes alone decide, never the number of threads: sums have one order.
void choose_chunks(NormArgs& args) {
  if (args.channels_last) {
    const std::int64_t row = std::min(args.c, kNormColumns) * item(args.dtype);
    args.chunk_n = 1;
    args.chunk_s = even_part(
        args.s, std::clamp<std::int64_t>(kChunkBytes / std::max<std::int64_t>(row, 1), 16, 1024));
    const std::int64_t positions = std::max<std::int64_t>(args.s, 1);
    args.piece = even_part(
        positions, std::max<std::int64_t>(kPieceElements / std::max<std::int64_t>(args.c, 1), 1));
  } else {
    args.chunk_s = args.s <= 4 * kChunkElements ? args.s : 2 * kChunkElements;
    args.chunk_n = args.sets == 1
                       ? std::clamp<std::int64_t>(
                             kChunkElements / std::max<std::int64_t>(args.s, 1), 1, args.n)
                       : 1;
    args.piece = std::min(args.s, kPieceElements);
  }
  args.parts = num_threads();
  args.chunks_n = ceil_div(args.n, std::max<std::int64_t>(args.chunk_n, 1));
  args.chunks_s = ceil_div(args.s, std::max<std::int64_t>(args.chunk_s, 1));
}

void lay_out(NormArgs& args, void* workspace, bool backward) {
  char* at = static_cast<char*>(workspace);
  const auto take = [&](std::int64_t bytes) {
    void* part = at;
    at += (bytes + 63) / 64 * 64;
    return part;
  };
  if (backward) args.sums = static_cast<double*>(take(2 * args.sets * args.c * 8));
  args.coefficients = take(5 * args.sets * args.c * item(args.dtype));
  args.partials = take(2 * args.chunks_n * args.chunks_s * args.c * item(args.dtype));
}

Split chunk_split(const NormArgs& args) {
  const std::int64_t chunks = args.chunks_n * args.chunks_s;
  if (args.channels_last) {
    const std::int64_t per_unit = args.chunk_s * std::min(args.c, kNormColumns);
    return {.units = chunks * ceil_div(args.c, kNormColumns),
            .grain = grain_for(kPieceElements, per_unit)};
  }
  return {.units = chunks * args.c,
          .grain = grain_for(kPieceElements, args.chunk_n * args.chunk_s)};
}

Split finish_split(const NormArgs& args, bool combines) {
  const std::int64_t width = args.per_group == 1 ? kNormBlock : args.per_group;
  // Without chunks to combine, what another thread writes costs more to fetch than to compute.
  const std::int64_t chunks = combines ? args.chunks_n * args.chunks_s / args.sets : 1;
  return {.units = args.sets * ceil_div(args.c, width),
          .grain = grain_for(4096, chunks * std::min(width, args.c))};
}

Split apply_split(const NormArgs& args) {
  const std::int64_t pieces = ceil_div(args.s, args.piece);
  if (args.channels_last) {
    return {.units = args.n * pieces, .grain = grain_for(kPieceElements, args.piece * args.c)};
  }
  return {.units = args.n * args.c * pieces, .grain = grain_for(kPieceElements, args.piece)};
}

Split with(Split split, bool interruptible) {
  split.interruptible = interruptible;
  return split;
}

bool beyond_caches(const NormArgs& args) {
  return args.n * args.s * args.c * item(args.dtype) >= kStreamBytes && args.out != args.x &&
         args.out != args.other;
}

}  // namespace

std::size_t norm_workspace(const NormArgs& given, bool backward) {
  NormArgs args = given;
  choose_chunks(args);
  const std::int64_t chunks = args.chunks_n * args.chunks_s;
  std::int64_t bytes = (5 * args.sets + 2 * chunks) * args.c * item(args.dtype) + 3 * 64;
  if (backward) bytes += 2 * args.sets * args.c * 8;
  return static_cast<std::size_t>(bytes);
}

void norm_forward(NormArgs args, void* workspace, bool interruptible) {
  choose_chunks(args);
  lay_out(args, workspace, false);
  args.stream = beyond_caches(args);
  if (args.moments) launch(norm_moments_kernel(), args, with(chunk_split(args), interruptible));
  launch(norm_finish_kernel(), args, with(finish_split(args, args.moments), interruptible));
  if (args.s > 0) launch(norm_apply_kernel(), args, with(apply_split(args), interruptible));
}

void norm_backward(NormArgs args, void* workspace, bool interruptible) {
  choose_chunks(args);
  lay_out(args, workspace, true);
  args.stream = beyond_caches(args);
  launch(norm_sums_kernel(), args, with(chunk_split(args), interruptible));
  launch(norm_finish_backward_kernel(), args, with(finish_split(args, true), interruptible));
  const Split blocks{.units = ceil_div(args.c, kNormBlock),
                     .grain = grain_for(4096, args.sets * kNormBlock),
                     .interruptible = interruptible};
  launch(norm_affine_kernel(), args, blocks);
  if (args.s > 0)
    launch(norm_apply_backward_kernel(), args, with(apply_split(args), interruptible));
}

// ---- rows ------------------------------------------------------------------------------------

namespace {

void choose_row_chunks(RowNormArgs& args) {
  args.chunk = std::max(kLeastRows, ceil_div(ceil_div(args.rows, kMostChunks), 4) * 4);
  args.chunks = ceil_div(args.rows, args.chunk);
}

}  // namespace

std::size_t row_norm_workspace(const RowNormArgs& given) {
  RowNormArgs args = given;
  choose_row_chunks(args);
  return static_cast<std::size_t>(2 * args.chunks * args.n * item(args.dtype));
}

void row_norm_forward(const RowNormArgs& args, bool interruptible) {
  launch(row_norm_kernel(), args,
         Split{.units = args.rows,
               .grain = grain_for(kPieceElements, args.n + 32),
               .interruptible = interruptible});
}

void row_norm_backward_all(RowNormArgs args, void* workspace, bool interruptible) {
  choose_row_chunks(args);
  args.partials = workspace;
  args.stream = 3 * args.rows * args.n * item(args.dtype) >= kStreamBytes && args.out != args.x &&
                args.out != args.other;
  launch(row_norm_backward_kernel(), args,
         Split{.units = args.chunks,
               .grain = grain_for(kPieceElements / 2, args.chunk * (args.n + 32)),
               .interruptible = interruptible});
  if (!args.dweight && !args.dbias) return;
  launch(row_norm_affine_kernel(), args,
         Split{.units = ceil_div(args.n, kNormBlock),
               .grain = grain_for(4096, args.chunks * kNormBlock),
               .interruptible = interruptible});
}

}  // namespace hotloop
