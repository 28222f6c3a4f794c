// The driver of the embedding's gradient: positions are brought into the order of their rows by
// counting, which keeps equal indices in rising order; then every row of the table is written once.
#include "kernels/embedding.h"

#include "core/launch.h"

namespace hotloop {

namespace {

constexpr std::int64_t kGrainElements = 16384;
constexpr std::int64_t kStreamBytes = std::int64_t{24} << 20;

template <class Index>
void sort_positions(const EmbeddingBackwardArgs& args, std::int64_t* ends, std::int64_t* order) {
  const Index* indices = static_cast<const Index*>(args.indices);
  for (std::int64_t row = 0; row < args.rows; ++row) ends[row] = 0;
  for (std::int64_t i = 0; i < args.positions; ++i) ++ends[indices[i]];
  std::int64_t start = 0;
  for (std::int64_t row = 0; row < args.rows; ++row) {
    const std::int64_t count = ends[row];
    ends[row] = start;
    start += count;
  }
  // What was a row's start has become its end when all its positions are placed.
  for (std::int64_t i = 0; i < args.positions; ++i) order[ends[indices[i]]++] = i;
}

}  // namespace

std::size_t embedding_workspace(const EmbeddingBackwardArgs& args) {
  return static_cast<std::size_t>(args.rows + args.positions) * sizeof(std::int64_t);
}

void run_embedding_backward(EmbeddingBackwardArgs args, void* workspace, bool interruptible) {
  std::int64_t* ends = static_cast<std::int64_t*>(workspace);
  std::int64_t* order = ends + args.rows;
  if (args.wide) {
    sort_positions<std::int64_t>(args, ends, order);
  } else {
    sort_positions<std::int32_t>(args, ends, order);
  }
  args.ends = ends;
  args.order = order;
  const std::int64_t item = args.dtype == DType::f32 ? 4 : 8;
  args.stream = args.rows * args.width * item >= kStreamBytes;
  const std::int64_t hits = args.rows > 0 ? args.positions / args.rows + 1 : 1;
  const std::int64_t per_row = args.width * hits + 16;
  launch(embedding_backward_kernel(), args,
         Split{.units = args.rows,
               .grain = per_row >= kGrainElements ? 1 : kGrainElements / per_row,
               .interruptible = interruptible});
}

}  // namespace hotloop
