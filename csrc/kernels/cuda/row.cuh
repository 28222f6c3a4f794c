// Rows shared by teams of threads: what softmax, losses and the norms of rows have in common.
//
// A team is a warp or a block; or, where rows lie side by side in memory, a column of a block whose
// lanes run over the rows. Short rows are held in registers between the passes (HeldRow), long ones
// are read again, from L2 as a rule (LongRow). Totals are combined in a fixed order, so a row's
// bits depend on its length and memory layout alone.
#pragma once

#include "kernels/cuda/lane.cuh"

#if defined(HOTLOOP_CUDA_EMULATE)
#define HOTLOOP_UNROLL_ALL
#else
#define HOTLOOP_UNROLL_ALL _Pragma("unroll")
#endif

namespace hotloop::cuda {

inline constexpr int kTeam = 256;   // threads of every block in which rows are walked
inline constexpr int kAcross = 32;  // rows of a block, where they lie side by side
inline constexpr int kWarps = kTeam / kWarp;

// Neighbours that are loaded and stored at once.
template <class T, int count>
struct alignas(count * sizeof(T)) RowPack {
  T at[count];
};
template <class T>
inline constexpr int kPackOf = 16 / static_cast<int>(sizeof(T));

inline bool aligned16(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

// ---- one number -------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ T exp_of(T x) {
  return exp(Lane<T>{x}).value;
}
template <class T>
__device__ __forceinline__ T log_of(T x) {
  return log(Lane<T>{x}).value;
}
template <class T>
__device__ __forceinline__ T fma_of(T a, T b, T c) {
  return fma(Lane<T>{a}, Lane<T>{b}, Lane<T>{c}).value;
}
template <class T>
__device__ __forceinline__ T least_of() {  // -infinity
  return -static_cast<T>(__builtin_huge_val());
}

// ---- totals -----------------------------------------------------------------------------------

struct Sum {
  template <class T>
  __device__ static T start() {
    return T(0);
  }
  template <class T>
  __device__ static T combine(T a, T b) {
    return a + b;
  }
};
// The largest; a NaN may be lost, where what follows is NaN for it anyway.
struct Top {
  template <class T>
  __device__ static T start() {
    return least_of<T>();
  }
  template <class T>
  __device__ static T combine(T a, T b) {
    return a > b ? a : b;
  }
};

template <class Op, class T>
__device__ __forceinline__ T total_of_warp(T value) {
  HOTLOOP_UNROLL_ALL
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = Op::template combine<T>(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}

// Every thread of the block gets it; `shared` holds kWarps numbers, free again on return.
template <class Op, class T>
__device__ __forceinline__ T total_of_block(T value, T* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  value = total_of_warp<Op>(value);
  if (thread % kWarp == 0) shared[thread / kWarp] = value;
  __syncthreads();
  value = shared[0];
  HOTLOOP_UNROLL_ALL
  for (int warp = 1; warp < kWarps; ++warp) value = Op::template combine<T>(value, shared[warp]);
  __syncthreads();
  return value;
}

// The threads of one row. `rank` is the thread's number among them.
template <class T>
struct WarpTeam {
  static constexpr int members = kWarp;
  static constexpr int rows = kWarps;  // of a block
  static constexpr int shared_size = 1;
  T* shared;
  __device__ int rank() const { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ int row() const { return static_cast<int>(threadIdx.x) / kWarp; }
  __device__ void sync() const { __syncwarp(); }
  template <class Op>
  __device__ T total(T value) const {
    return total_of_warp<Op>(value);
  }
};
template <class T>
struct BlockTeam {
  static constexpr int members = kTeam;
  static constexpr int rows = 1;
  static constexpr int shared_size = kWarps;
  T* shared;
  __device__ int rank() const { return static_cast<int>(threadIdx.x); }
  __device__ int row() const { return 0; }
  __device__ void sync() const { __syncthreads(); }
  template <class Op>
  __device__ T total(T value) const {
    return total_of_block<Op>(value, shared);
  }
};
template <class T>
struct ColumnTeam {
  static constexpr int members = kTeam / kAcross;
  static constexpr int rows = kAcross;
  static constexpr int shared_size = kTeam;
  T* shared;
  __device__ int rank() const { return static_cast<int>(threadIdx.x) / kAcross; }
  __device__ int row() const { return static_cast<int>(threadIdx.x) % kAcross; }
  __device__ void sync() const { __syncthreads(); }
  template <class Op>
  __device__ T total(T value) const {
    shared[threadIdx.x] = value;
    __syncthreads();
    value = shared[row()];
    HOTLOOP_UNROLL_ALL
    for (int member = 1; member < members; ++member) {
      value = Op::template combine<T>(value, shared[member * kAcross + row()]);
    }
    __syncthreads();
    return value;
  }
};

// ---- rows -------------------------------------------------------------------------------------

// A row in registers, `kSlots` packs of each thread. kPack > 1: dense and aligned to 16 bytes.
template <class T, class Team, int kPack, int kSlots>
struct HeldRow {
  static constexpr bool held = true;
  static constexpr std::int64_t longest = std::int64_t{1} * Team::members * kPack * kSlots;
  Team team;
  std::int64_t n;
  T value[kSlots * kPack];

  // body(slot, index of the first element)
  template <class Body>
  __device__ __forceinline__ void each_pack(Body body) const {
    HOTLOOP_UNROLL_ALL
    for (int s = 0; s < kSlots; ++s) {
      const std::int64_t i = std::int64_t{1} * (s * Team::members + team.rank()) * kPack;
      if (i < n) body(s, i);
    }
  }
  __device__ __forceinline__ void load(const T* x, std::int64_t stride) {
    each_pack([&](int s, std::int64_t i) {
      if constexpr (kPack == 1) {
        value[s] = x[i * stride];
      } else {
        const auto pack = *reinterpret_cast<const RowPack<T, kPack>*>(x + i);
        HOTLOOP_UNROLL_ALL
        for (int k = 0; k < kPack; ++k) value[s * kPack + k] = pack.at[k];
      }
    });
  }
  // body(value, index)
  template <class Body>
  __device__ __forceinline__ void each(Body body) {
    each_pack([&](int s, std::int64_t i) {
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < kPack; ++k) body(value[s * kPack + k], i + k);
    });
  }
  // body(value, the other row's)
  template <class Body>
  __device__ __forceinline__ void each_value(const HeldRow& other, Body body) {
    each_pack([&](int s, std::int64_t) {
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < kPack; ++k) body(value[s * kPack + k], other.value[s * kPack + k]);
    });
  }
  template <class Op, class Term>
  __device__ __forceinline__ T total(Term term) {
    T result = Op::template start<T>();
    each([&](T x, std::int64_t i) { result = Op::template combine<T>(result, term(x, i)); });
    return team.template total<Op>(result);
  }
  // out[i] = result(value, i)
  template <class Result>
  __device__ __forceinline__ void store(T* out, std::int64_t stride, Result result) const {
    each_pack([&](int s, std::int64_t i) {
      if constexpr (kPack == 1) {
        out[i * stride] = result(value[s], i);
      } else {
        RowPack<T, kPack> pack;
        HOTLOOP_UNROLL_ALL
        for (int k = 0; k < kPack; ++k) pack.at[k] = result(value[s * kPack + k], i + k);
        *reinterpret_cast<RowPack<T, kPack>*>(out + i) = pack;
      }
    });
  }

  // The largest element; then the sum of e^(x - top), which take the elements' place.
  __device__ __forceinline__ T top() {
    return total<Top>([](T x, std::int64_t) { return x; });
  }
  template <bool kReplace>
  __device__ __forceinline__ T powers(T top) {
    T result = T(0);
    each([&](T& x, std::int64_t) {
      const T power = exp_of(x - top);
      result += power;
      if constexpr (kReplace) x = power;
    });
    return team.template total<Sum>(result);
  }
  __device__ __forceinline__ T power(T x, T) const { return x; }
};

// A row that is read again in every pass.
template <class T, class Team>
struct LongRow {
  static constexpr bool held = false;
  static constexpr int together = is_float<T> ? 4 : 2;  // loads in flight
  Team team;
  std::int64_t n;
  const T* x;
  std::int64_t stride;
  T running;  // what top() found for powers()

  __device__ __forceinline__ void load(const T* from, std::int64_t step) {
    x = from;
    stride = step;
  }
  // body(index, count): up to `together` elements, `members` apart
  template <class Body>
  __device__ __forceinline__ void each_group(Body body) const {
    const std::int64_t step = Team::members;
    std::int64_t i = team.rank();
    for (; i + (together - 1) * step < n; i += together * step) body(i, together);
    for (; i < n; i += step) body(i, 1);
  }
  // Runs of 64 terms are summed for themselves, which keeps the error of long rows small.
  template <class Op, class Term>
  __device__ __forceinline__ T total(Term term) const {
    T result = Op::template start<T>(), run = result;
    int count = 0;
    each_group([&](std::int64_t i, int terms) {
      T values[together];
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < together; ++k) {
        const std::int64_t at = i + k * std::int64_t{Team::members};
        if (k < terms) values[k] = term(x[at * stride], at);
      }
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < together; ++k) {
        if (k < terms) run = Op::template combine<T>(run, values[k]);
      }
      if (++count % 16 == 0) {
        result = Op::template combine<T>(result, run);
        run = Op::template start<T>();
      }
    });
    return team.template total<Op>(Op::template combine<T>(result, run));
  }
  template <class Result>
  __device__ __forceinline__ void store(T* out, std::int64_t out_stride, Result result) const {
    each_group([&](std::int64_t i, int terms) {
      T values[together];
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < together; ++k) {
        const std::int64_t at = i + k * std::int64_t{Team::members};
        if (k < terms) values[k] = x[at * stride];
      }
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < together; ++k) {
        const std::int64_t at = i + k * std::int64_t{Team::members};
        if (k < terms) out[at * out_stride] = result(values[k], at);
      }
    });
  }

  // Both in one pass: the sum is scaled whenever the maximum rises (Milakov and Gimelshein, arXiv
  // 1805.02867).
  __device__ __forceinline__ T top() {
    T most = least_of<T>(), sum = T(0);
    each_group([&](std::int64_t i, int terms) {
      T values[together], now = most;
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < together; ++k) {
        const std::int64_t at = i + k * std::int64_t{Team::members};
        if (k < terms) values[k] = x[at * stride];
      }
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < together; ++k) {
        if (k < terms) now = Top::combine<T>(now, values[k]);
      }
      const T base = now == least_of<T>() ? T(0) : now;
      sum *= exp_of(most - base);
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < together; ++k) {
        if (k < terms) sum += exp_of(values[k] - base);
      }
      most = now;
    });
    const T all = team.template total<Top>(most);
    const T base = all == least_of<T>() ? T(0) : all;
    running = team.template total<Sum>(sum * exp_of(most - base));
    return all;
  }
  template <bool kReplace>
  __device__ __forceinline__ T powers(T) {
    return running;
  }
  __device__ __forceinline__ T power(T value, T top) const { return exp_of(value - top); }
};

// The offset of a flattened index in up to `dims` axes, the innermost last.
__device__ __forceinline__ std::int64_t offset_of(int dims, const std::int64_t* sizes,
                                                  const std::int64_t* strides, std::int64_t index) {
  std::int64_t offset = 0;
  for (int d = dims - 1; d > 0; --d) {
    offset += index % sizes[d] * strides[d];
    index /= sizes[d];
  }
  return offset + index * strides[0];
}

// ---- who walks a row --------------------------------------------------------------------------

// Registers that hold a row: 32 numbers of each thread, 16 where they come one by one.
template <class T, class Team, bool kPacked>
using Held = HeldRow<T, Team, kPacked ? kPackOf<T> : 1, kPacked || !is_float<T> ? 8 : 16>;

// Whether every row begins at a multiple of 16 bytes in each of the arrays, the first ones of
// args.row_strides, and is whole packs.
template <class T, int count, class Args>
bool whole_packs(const Args& args, std::int64_t n, const void* const (&arrays)[count]) {
  bool fits = args.unit_stride && n % kPackOf<T> == 0;
  for (int k = 0; k < count; ++k) {
    fits = fits && aligned16(arrays[k]);
    for (int d = 0; d < args.row_dims; ++d) {
      fits = fits && args.row_strides[k][d] % kPackOf<T> == 0;
    }
  }
  return fits;
}

template <class R, class G>
struct Walk {
  using Row = R;
  using Team = G;
};

// launch(Walk<Row, Team>{}) with those that suit rows of n elements.
template <class T, class Launch>
void choose_walk(bool columns, bool packed, std::int64_t n, const Launch& launch) {
  using Warp = WarpTeam<T>;
  using Block = BlockTeam<T>;
  using Column = ColumnTeam<T>;
  if (columns) return launch(Walk<LongRow<T, Column>, Column>{});
  if constexpr (is_float<T>) {
    using Short = Held<T, Warp, true>;
    using Middle = Held<T, Block, true>;
    if (packed && n <= Short::longest) return launch(Walk<Short, Warp>{});
    if (packed && n <= Middle::longest) return launch(Walk<Middle, Block>{});
  }
  using Single = Held<T, Warp, false>;
  if (n <= Single::longest) return launch(Walk<Single, Warp>{});
  launch(Walk<LongRow<T, Block>, Block>{});
}

}  // namespace hotloop::cuda
