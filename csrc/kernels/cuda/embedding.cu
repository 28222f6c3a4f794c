// y[i] = weight[indices[i]]; dweight[row] = the sum of dy[i] over the positions i of that row, in
// rising order of i, so that the bits are those of every run (and the CPU's).
//
// Layout: dense rows, 16 bytes at once where they are aligned. The gradient first brings the
// positions into the order of their rows by a stable radix sort, 8 bits of the index at a time: a
// warp counts the digits of a tile of positions, the counts are summed up, and the warp puts its
// positions where they belong, equal digits in the order of the lanes. Then a warp sums each row of
// the table and writes it once, zeros included.
#include "kernels/embedding.h"

#include "kernels/cuda/index_check.cuh"
#include "kernels/cuda/row.cuh"

namespace hotloop::cuda {
namespace {

constexpr int kDigits = 256;          // of a pass
constexpr std::int64_t kTile = 1024;  // positions of a warp
constexpr int kSortWarps = 4;         // of a block
constexpr std::int64_t kRun = 64;     // positions whose sum is one chain of additions

__device__ __forceinline__ std::int64_t index_at(const void* indices, bool wide, std::int64_t i) {
  return wide ? static_cast<const std::int64_t*>(indices)[i]
              : static_cast<const std::int32_t*>(indices)[i];
}

// ---- forward ----------------------------------------------------------------------------------

template <class T, int kPack>
__global__ void __launch_bounds__(kTeam)
    gather_rows(const __grid_constant__ EmbeddingArgs args, std::int64_t packs) {
  using Elements = RowPack<T, kPack>;
  for (std::int64_t i = std::int64_t{kTeam} * blockIdx.x + threadIdx.x; i < args.positions * packs;
       i += std::int64_t{kTeam} * gridDim.x) {
    const std::int64_t position = i / packs, c = (i - position * packs) * kPack;
    const std::int64_t row = index_at(args.indices, args.wide, position);
    Elements found{};
    if (in_range(args.check, row, args.rows, position)) {
      found = *reinterpret_cast<const Elements*>(static_cast<const T*>(args.weight) +
                                                 row * args.weight_stride + c);
    }
    *reinterpret_cast<Elements*>(static_cast<T*>(args.out) + position * args.width + c) = found;
  }
}

template <class T>
void launch_gather(const EmbeddingArgs& args, cudaStream_t stream) {
  constexpr int width = kPackOf<T>;
  if (args.width % width == 0 && args.weight_stride % width == 0 && aligned16(args.weight) &&
      aligned16(args.out)) {
    const std::int64_t packs = args.width / width;
    HOTLOOP_LAUNCH((gather_rows<T, width>), blocks_for(args.positions * packs, kTeam), kTeam, 0,
                   stream, args, packs);
  } else {
    HOTLOOP_LAUNCH((gather_rows<T, 1>), blocks_for(args.positions * args.width, kTeam), kTeam, 0,
                   stream, args, args.width);
  }
}

// ---- sorting ----------------------------------------------------------------------------------

struct Sort {
  const void* indices;
  bool wide;
  std::int64_t rows, positions, tiles;
  const std::int64_t* from;  // positions in the order so far; null: rising
  std::int64_t* to;
  std::int64_t* places;  // [digit][tile]: how many, later where they begin
  int shift;
  IndexCheck check;
};

__device__ __forceinline__ std::int64_t position_at(const Sort& sort, std::int64_t i) {
  return sort.from ? sort.from[i] : i;
}
// An index that is out of range counts as the row behind the last, which nobody sums.
__device__ __forceinline__ std::int64_t row_at(const void* indices, bool wide, std::int64_t rows,
                                               std::int64_t position) {
  const std::int64_t row = index_at(indices, wide, position);
  return in_range(row, rows) ? row : rows;
}
__device__ __forceinline__ int digit_of(const Sort& sort, std::int64_t position) {
  return static_cast<int>(row_at(sort.indices, sort.wide, sort.rows, position) >> sort.shift &
                          (kDigits - 1));
}

// A warp for each tile; with kPlace the positions are put in place, else counted.
template <bool kPlace>
__global__ void __launch_bounds__(kSortWarps* kWarp) sort_tiles(const __grid_constant__ Sort sort) {
  __shared__ std::int64_t shared[kSortWarps][kDigits];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  std::int64_t* const place = shared[threadIdx.x / kWarp];
  const std::int64_t tile =
      std::int64_t{kSortWarps} * blockIdx.x + static_cast<int>(threadIdx.x) / kWarp;
  if (tile >= sort.tiles) return;  // a whole warp; no barrier of the block follows
  for (int d = lane; d < kDigits; d += kWarp) {
    place[d] = kPlace ? sort.places[d * sort.tiles + tile] : 0;
  }
  __syncwarp();
  for (std::int64_t i = tile * kTile + lane, end = tile * kTile + kTile; i - lane < end;
       i += kWarp) {
    if (i - lane >= sort.positions) break;
    const bool inside = i < sort.positions;
    const std::int64_t position = inside ? position_at(sort, i) : 0;
    if (!kPlace && inside && sort.shift == 0) {  // each of them once
      (void)in_range(sort.check, index_at(sort.indices, sort.wide, position), sort.rows, position);
    }
    const int digit = inside ? digit_of(sort, position) : kDigits;
    const unsigned same = __match_any_sync(kAllLanes, digit);
    const int before = __popc(same & ((1u << lane) - 1u));
    if constexpr (kPlace) {
      if (inside) sort.to[place[digit] + before] = position;
      __syncwarp();
    }
    if (inside && before == 0) place[digit] += __popc(same);
    __syncwarp();
  }
  if constexpr (!kPlace) {
    for (int d = lane; d < kDigits; d += kWarp) sort.places[d * sort.tiles + tile] = place[d];
  }
}

// places[i] = the sum of places[0 .. i), in one block: each thread sums a stretch of its own.
__global__ void __launch_bounds__(kTeam) sum_up(std::int64_t* places, std::int64_t count) {
  __shared__ std::int64_t shared[kWarps];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const std::int64_t each = (count + kTeam - 1) / kTeam;
  const std::int64_t first = thread * each < count ? thread * each : count;
  const std::int64_t last = first + each < count ? first + each : count;
  std::int64_t own = 0;
  for (std::int64_t i = first; i < last; ++i) own += places[i];
  std::int64_t through = own;  // of the warp's lanes up to this one
  HOTLOOP_UNROLL_ALL
  for (int step = 1; step < kWarp; step *= 2) {
    const std::int64_t other = __shfl_up_sync(kAllLanes, through, static_cast<unsigned>(step));
    if (lane >= step) through += other;
  }
  if (lane == kWarp - 1) shared[thread / kWarp] = through;
  __syncthreads();
  std::int64_t before = through - own;
  for (int warp = 0; warp < thread / kWarp; ++warp) before += shared[warp];
  for (std::int64_t i = first; i < last; ++i) {
    const std::int64_t here = places[i];
    places[i] = before;
    before += here;
  }
}

// ---- backward ---------------------------------------------------------------------------------

// Where the positions of a row begin in the sorted order.
__device__ __forceinline__ std::int64_t begin_of(const EmbeddingBackwardArgs& args,
                                                 const std::int64_t* order, std::int64_t row) {
  std::int64_t low = 0, high = args.positions;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (row_at(args.indices, args.wide, args.rows, order[middle]) < row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// A warp for each row of the table.
template <class T, int kPack>
__global__ void __launch_bounds__(kTeam)
    sum_rows(const __grid_constant__ EmbeddingBackwardArgs args, const std::int64_t* order) {
  using Elements = RowPack<T, kPack>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const T* dy = static_cast<const T*>(args.dy);
  for (std::int64_t row = std::int64_t{kWarps} * blockIdx.x + static_cast<int>(threadIdx.x) / kWarp;
       row < args.rows; row += std::int64_t{kWarps} * gridDim.x) {
    const std::int64_t bound = lane < 2 ? begin_of(args, order, row + lane) : 0;
    const std::int64_t first = __shfl_sync(kAllLanes, bound, 0);
    std::int64_t last = __shfl_sync(kAllLanes, bound, 1);
    if (row == args.padding) last = first;
    const T share = args.by_frequency && last > first ? T(1) / static_cast<T>(last - first) : T(1);
    for (std::int64_t c = std::int64_t{kPack} * lane; c < args.width; c += kPack * kWarp) {
      Elements total{};
      for (std::int64_t i = first; i < last;) {
        const std::int64_t stop = last - i < kRun ? last : i + kRun;
        Elements chain{};
        bool begun = false;
        for (; i < stop; ++i) {
          const auto g = *reinterpret_cast<const Elements*>(dy + order[i] * args.dy_stride + c);
          HOTLOOP_UNROLL_ALL
          for (int k = 0; k < kPack; ++k) chain.at[k] = begun ? chain.at[k] + g.at[k] : g.at[k];
          begun = true;
        }
        HOTLOOP_UNROLL_ALL
        for (int k = 0; k < kPack; ++k) total.at[k] += chain.at[k];
      }
      if (args.by_frequency) {
        HOTLOOP_UNROLL_ALL
        for (int k = 0; k < kPack; ++k) total.at[k] *= share;
      }
      *reinterpret_cast<Elements*>(static_cast<T*>(args.dweight) + row * args.width + c) = total;
    }
  }
}

std::int64_t tiles_of(const EmbeddingBackwardArgs& args) {
  return (args.positions + kTile - 1) / kTile;
}

// The positions by row; `scratch` holds two orders and the places.
const std::int64_t* launch_sort(const EmbeddingBackwardArgs& args, cudaStream_t stream) {
  std::int64_t* orders[2] = {static_cast<std::int64_t*>(args.scratch), nullptr};
  orders[1] = orders[0] + args.positions;
  Sort sort{args.indices, args.wide, args.rows, args.positions, tiles_of(args), nullptr,
            nullptr,      nullptr,   0,         args.check};
  sort.places = orders[1] + args.positions;
  if (args.positions == 0) return orders[0];
  const unsigned grid = blocks_for(sort.tiles, kSortWarps);
  int pass = 0;
  do {
    sort.to = orders[pass % 2];
    HOTLOOP_LAUNCH((sort_tiles<false>), grid, kSortWarps * kWarp, 0, stream, sort);
    HOTLOOP_LAUNCH(sum_up, 1, kTeam, 0, stream, sort.places, kDigits * sort.tiles);
    HOTLOOP_LAUNCH((sort_tiles<true>), grid, kSortWarps * kWarp, 0, stream, sort);
    sort.from = sort.to;
    sort.shift += 8;
    ++pass;
  } while (sort.shift < 63 && args.rows >> sort.shift > 0);
  return sort.from;
}

template <class T>
void launch_backward(const EmbeddingBackwardArgs& args, cudaStream_t stream) {
  constexpr int width = kPackOf<T>;
  const std::int64_t* const order = launch_sort(args, stream);
  const unsigned grid = blocks_for(args.rows, kWarps);
  if (args.width % width == 0 && args.dy_stride % width == 0 && aligned16(args.dy) &&
      aligned16(args.dweight)) {
    HOTLOOP_LAUNCH((sum_rows<T, width>), grid, kTeam, 0, stream, args, order);
  } else {
    HOTLOOP_LAUNCH((sum_rows<T, 1>), grid, kTeam, 0, stream, args, order);
  }
}

}  // namespace

HOTLOOP_CUDA_KERNEL(embedding, EmbeddingArgs) {
  if (args.positions * args.width == 0) return;
  if (args.dtype == DType::f32) {
    launch_gather<float>(args, stream);
  } else {
    launch_gather<double>(args, stream);
  }
}

HOTLOOP_CUDA_WORKSPACE(embedding_backward, EmbeddingBackwardArgs) {
  return (2 * args.positions + kDigits * tiles_of(args)) * 8;
}
HOTLOOP_CUDA_KERNEL(embedding_backward, EmbeddingBackwardArgs) {
  if (args.rows * args.width == 0) return;
  if (args.dtype == DType::f32) {
    launch_backward<float>(args, stream);
  } else {
    launch_backward<double>(args, stream);
  }
}

}  // namespace hotloop::cuda
