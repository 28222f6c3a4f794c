// Optimizer steps: one pass over parameter, gradient and state, whatever the rule; bound by memory
// (Adam moves 28 bytes an element in float32).
//
// The list of tensors travels in the kernel's parameters, kBatch of them in a launch; a block takes
// kOptimizerBlock elements of one tensor, 16 bytes at once where its arrays allow it. Scalars that
// depend on numbers of the device (learning rate, step, clipping) are made by a kernel of one
// thread before. Sums: a double for each block, combined in order by optimizer_norm.
#include "kernels/optimizer.h"

#include "kernels/cuda/optimizer_rules.cuh"

namespace hotloop::cuda {

namespace {

constexpr int kBatch = 64;  // tensors of a launch: 4 KB of parameters in all

// ---- dense tensors ------------------------------------------------------------------------------

template <int kArrays>
struct Batch {
  void* array[kArrays][kBatch];
  std::int64_t size[kBatch];
  std::int32_t first_block[kBatch];
  std::int32_t count, first_tensor, blocks;
  std::uint64_t packed;  // bit t: every array of the tensor is aligned to 16 bytes
  std::int64_t first_unit;
};

template <class T, int kArrays, bool kSums>
__global__ void __launch_bounds__(kTeam, 1)
    update_dense(const __grid_constant__ Batch<kArrays> batch,
                 const __grid_constant__ Common common) {
  __shared__ double shared[kWarps];
  using V = Lane<T>;
  constexpr int width = kPackOf<T>;
  const int block = static_cast<int>(blockIdx.x);
  int low = 0;  // the last tensor that begins at this block or before
  for (int high = batch.count; high - low > 1;) {
    const int middle = (low + high) / 2;
    if (batch.first_block[middle] <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const OptimizerScalars<V> c = scalars_of<T>(common);
  const V length{common.factors ? static_cast<T>(common.factors[batch.first_tensor + low]) : T(0)};
  const std::int64_t from = std::int64_t{1} * (block - batch.first_block[low]) * kOptimizerBlock;
  const std::int64_t left = batch.size[low] - from;
  const int n = static_cast<int>(left < kOptimizerBlock ? left : kOptimizerBlock);
  T* at[kArrays];
  HOTLOOP_UNROLL_ALL
  for (int k = 0; k < kArrays; ++k) at[k] = static_cast<T*>(batch.array[k][low]) + from;
  Sums sums{0.0, 0.0};
  const auto step = [&](V* x) {
    update<kArrays>(common.rule, c, length, x);
    if constexpr (kSums) sums.add(common.rule, c, x);
  };
  const int whole = batch.packed >> low & 1 ? n / width * width : 0;
  for (int i = static_cast<int>(threadIdx.x) * width; i < whole; i += kTeam * width) {
    RowPack<T, width> pack[kArrays];
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < kArrays; ++k) {
      pack[k] = *reinterpret_cast<const RowPack<T, width>*>(at[k] + i);
    }
    HOTLOOP_UNROLL_ALL
    for (int lane = 0; lane < width; ++lane) {
      V x[kArrays];
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < kArrays; ++k) x[k] = {pack[k].at[lane]};
      step(x);
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < kArrays; ++k) pack[k].at[lane] = x[k].value;
    }
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < kArrays; ++k) {
      if (common.written >> k & 1) *reinterpret_cast<RowPack<T, width>*>(at[k] + i) = pack[k];
    }
  }
  for (int i = whole + static_cast<int>(threadIdx.x); i < n; i += kTeam) {
    V x[kArrays];
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < kArrays; ++k) x[k] = {at[k][i]};
    step(x);
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < kArrays; ++k) {
      if (common.written >> k & 1) at[k][i] = x[k].value;
    }
  }
  if constexpr (kSums) {
    store_sums(common.rule, sums, common.partials, batch.first_unit + block, shared);
  }
}

std::int64_t blocks_of(std::int64_t size) {
  return (size + kOptimizerBlock - 1) / kOptimizerBlock;
}

template <class T, int kArrays, bool kSums>
void launch_dense(const OptimizerArgs& args, const Common& common, cudaStream_t stream) {
  Batch<kArrays> batch;
  batch.count = 0;
  const auto flush = [&] {
    if (batch.count > 0) {
      HOTLOOP_LAUNCH((update_dense<T, kArrays, kSums>), static_cast<unsigned>(batch.blocks), kTeam,
                     0, stream, batch, common);
    }
    batch.count = 0;
  };
  for (std::int64_t t = 0; t < args.count; ++t) {
    const OptimizerTensor& tensor = args.tensors[t];
    if (!tensor.dense) {
      flush();  // units and factors of a batch follow each other
      continue;
    }
    if (batch.count == kBatch) flush();
    if (batch.count == 0) {
      batch.blocks = 0;
      batch.packed = 0;
      batch.first_unit = tensor.first_unit;
      batch.first_tensor = static_cast<std::int32_t>(t);
    }
    const int at = batch.count++;
    bool aligned = true;
    for (int k = 0; k < kArrays; ++k) {
      batch.array[k][at] = tensor.array[k];
      aligned = aligned && aligned16(tensor.array[k]);
    }
    batch.size[at] = tensor.size;
    batch.first_block[at] = batch.blocks;
    batch.blocks += static_cast<std::int32_t>(blocks_of(tensor.size));
    if (aligned) batch.packed |= std::uint64_t{1} << at;
  }
  flush();
}

// ---- tensors of other strides, one in a launch --------------------------------------------------

constexpr int kDims = 16;

struct Strided {
  void* array[kOptimizerArrays];
  std::int64_t size, shape[kDims], strides[kOptimizerArrays][kDims], unit, tensor;
  std::int32_t ndim, arrays;
};

template <class T>
__global__ void __launch_bounds__(kTeam, 1)
    update_strided(const __grid_constant__ Strided tensor, const __grid_constant__ Common common) {
  __shared__ double shared[kWarps];
  using V = Lane<T>;
  const OptimizerScalars<V> c = scalars_of<T>(common);
  const V length{common.factors ? static_cast<T>(common.factors[tensor.tensor]) : T(0)};
  const std::int64_t from = std::int64_t{1} * blockIdx.x * kOptimizerBlock;
  const std::int64_t stop =
      from + kOptimizerBlock < tensor.size ? from + kOptimizerBlock : tensor.size;
  Sums sums{0.0, 0.0};
  for (std::int64_t i = from + threadIdx.x; i < stop; i += kTeam) {
    T* at[kOptimizerArrays];
    V x[kOptimizerArrays];
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < kOptimizerArrays; ++k) {
      x[k] = {T(0)};
      if (k >= tensor.arrays) continue;
      at[k] = static_cast<T*>(tensor.array[k]) +
              offset_of(tensor.ndim, tensor.shape, tensor.strides[k], i);
      x[k] = {*at[k]};
    }
    update<0>(common.rule, c, length, x);
    if (common.partials) sums.add(common.rule, c, x);
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < kOptimizerArrays; ++k) {
      if (common.written >> k & 1) *at[k] = x[k].value;
    }
  }
  if (common.partials) {
    store_sums(common.rule, sums, common.partials, tensor.unit + blockIdx.x, shared);
  }
}

template <class T>
void launch_strided(const OptimizerArgs& args, const Common& common, cudaStream_t stream) {
  for (std::int64_t t = 0; t < args.count; ++t) {
    const OptimizerTensor& from = args.tensors[t];
    if (from.dense || from.size == 0) continue;
    Strided to{};
    to.arrays = arrays_of(args.rule).count;
    to.size = from.size;
    to.ndim = from.ndim;
    to.unit = from.first_unit;
    to.tensor = t;
    for (int d = 0; d < from.ndim; ++d) to.shape[d] = from.shape[d];
    for (int k = 0; k < to.arrays; ++k) {
      to.array[k] = from.array[k];
      for (int d = 0; d < from.ndim; ++d) to.strides[k][d] = from.strides[k][d];
    }
    HOTLOOP_LAUNCH((update_strided<T>), static_cast<unsigned>(blocks_of(from.size)), kTeam, 0,
                   stream, to, common);
  }
}

// ---- scalars, norms, lengths --------------------------------------------------------------------

__device__ __forceinline__ double number_at(const void* at, bool wide, double given) {
  if (!at) return given;
  return wide ? *static_cast<const double*>(at)
              : static_cast<double>(*static_cast<const float*>(at));
}

struct Moving {
  OptimizerScalars<double> scalars;
  OptimizerRule rule;
  const void *lr, *step, *grad_scale;
  bool wide_lr, wide_step, wide_scale;
  double given_lr, given_step, slowing;
  const double* clipping;
  OptimizerScalars<double>* moved;
};

// As the binding makes them from numbers (bindings/optimizer.cpp).
__global__ void __launch_bounds__(kWarp) move_scalars(const __grid_constant__ Moving args) {
  if (threadIdx.x != 0) return;
  OptimizerScalars<double> c = args.scalars;
  if (args.grad_scale) c.gradient /= number_at(args.grad_scale, args.wide_scale, 1.0);
  if (args.clipping) c.gradient *= *args.clipping;
  if (args.lr || args.step) {
    const double lr = number_at(args.lr, args.wide_lr, args.given_lr);
    const double step = number_at(args.step, args.wide_step, args.given_step);
    const double second = 1.0 / ::sqrt(1.0 - ::pow(c.beta2, step));
    c.lr = lr;
    c.first = step == 1.0;
    if (c.kind == math::Decay::decoupled) c.decay = 1.0 - lr * args.slowing;
    switch (args.rule) {
      case OptimizerRule::adam:
      case OptimizerRule::amsgrad:
        c.root_scale = second;
        c.lr = lr / (1.0 - ::pow(c.beta1, step));
        break;
      case OptimizerRule::adamax:
        c.lr = lr / (1.0 - ::pow(c.beta1, step));
        break;
      case OptimizerRule::adagrad:
        c.lr = lr / (1.0 + (step - 1.0) * args.slowing);
        break;
      case OptimizerRule::lamb_moments:
      case OptimizerRule::lamb_apply:
        c.root_scale = second;
        c.extra = 1.0 / (1.0 - ::pow(c.beta1, step));
        break;
      default:
        break;
    }
  }
  *args.moved = c;
}

__global__ void __launch_bounds__(kTeam)
    norm_of_partials(const __grid_constant__ OptimizerNormArgs args) {
  __shared__ double shared[kWarps];
  double total = 0.0;
  for (std::int64_t i = threadIdx.x; i < args.count; i += kTeam) {
    total = args.rule == OptimizerRule::largest ? Sums::larger(total, args.partials[i])
                                                : total + args.partials[i];
  }
  total = args.rule == OptimizerRule::largest ? total_of_block<Larger>(total, shared)
                                              : total_of_block<Sum>(total, shared);
  if (threadIdx.x != 0) return;
  double norm = args.rule == OptimizerRule::sum_squares ? ::sqrt(total) : total;
  const double gradient = args.gradient / number_at(args.grad_scale, args.wide_scale, 1.0);
  norm *= ::fabs(gradient);
  if (args.norm) *args.norm = norm;
  // As torch.nn.utils.clip_grad_norm_; NaN where the norm is.
  const double quotient = args.most / (norm + 1e-6);
  const double factor = args.most < 0.0 || quotient > 1.0 ? 1.0 : quotient;
  if (args.clipping) *args.clipping = factor;
  if (args.scale) *args.scale = 1.0 / (gradient * factor);
}

struct Lengths {
  const double* partials;
  double* factors;
  const void* lr;
  double given_lr;
  bool wide_lr;
  std::int64_t units[2 * kBatch];  // first and last
};

__global__ void __launch_bounds__(kTeam) lengths_of_steps(const __grid_constant__ Lengths args) {
  __shared__ double shared[kWarps];
  double size = 0.0, step = 0.0;
  for (std::int64_t unit = args.units[2 * blockIdx.x] + threadIdx.x;
       unit < args.units[2 * blockIdx.x + 1]; unit += kTeam) {
    size += args.partials[2 * unit];
    step += args.partials[2 * unit + 1];
  }
  size = total_of_block<Sum>(size, shared);
  step = total_of_block<Sum>(step, shared);
  if (threadIdx.x != 0) return;
  const double ratio = size != 0.0 && step != 0.0 ? ::sqrt(size) / ::sqrt(step) : 1.0;
  args.factors[blockIdx.x] = number_at(args.lr, args.wide_lr, args.given_lr) * ratio;
}

bool moves(const OptimizerArgs& args) {
  return args.lr || args.step || args.clipping || args.grad_scale;
}

template <class T>
void launch_rule(const OptimizerArgs& args, const Common& common, cudaStream_t stream) {
  if (sums_up(args.rule)) {
    if (args.rule == OptimizerRule::lamb_moments) {
      launch_dense<T, 4, true>(args, common, stream);
    } else {
      launch_dense<T, 1, true>(args, common, stream);
    }
  } else {
    switch (arrays_of(args.rule).count) {
      case 1:
        launch_dense<T, 1, false>(args, common, stream);
        break;
      case 2:
        launch_dense<T, 2, false>(args, common, stream);
        break;
      case 3:
        launch_dense<T, 3, false>(args, common, stream);
        break;
      case 4:
        launch_dense<T, 4, false>(args, common, stream);
        break;
      default:
        launch_dense<T, 5, false>(args, common, stream);
    }
  }
  launch_strided<T>(args, common, stream);
}

}  // namespace

HOTLOOP_CUDA_WORKSPACE(optimizer, OptimizerArgs) {
  return moves(args) ? 256 : 0;
}

HOTLOOP_CUDA_KERNEL(optimizer, OptimizerArgs) {
  static_assert(sizeof(OptimizerScalars<double>) <= 256);
  static_assert(sizeof(Batch<kOptimizerArrays>) + sizeof(Common) <= 4096);
  Common common{args.scalars, nullptr,     args.rule, arrays_of(args.rule).written,
                nullptr,      args.factors};
  if (sums_up(args.rule)) common.partials = args.partials;
  if (moves(args)) {
    auto* const moved = static_cast<OptimizerScalars<double>*>(args.scratch);
    const Moving moving{args.scalars,
                        args.rule,
                        args.lr,
                        args.step,
                        args.grad_scale,
                        args.wide_lr,
                        args.wide_step,
                        args.wide_scale,
                        args.given_lr,
                        args.given_step,
                        args.slowing,
                        args.clipping,
                        moved};
    HOTLOOP_LAUNCH(move_scalars, 1, kWarp, 0, stream, moving);
    common.moved = moved;
  }
  if (args.dtype == DType::f32) {
    launch_rule<float>(args, common, stream);
  } else {
    launch_rule<double>(args, common, stream);
  }
}

HOTLOOP_CUDA_KERNEL(optimizer_norm, OptimizerNormArgs) {
  HOTLOOP_LAUNCH(norm_of_partials, 1, kTeam, 0, stream, args);
}

HOTLOOP_CUDA_KERNEL(optimizer_lengths, OptimizerLengthsArgs) {
  for (std::int64_t first = 0; first < args.count; first += kBatch) {
    Lengths batch{args.partials, args.factors + first, args.lr, args.given_lr, args.wide_lr, {}};
    const std::int64_t left = args.count - first;
    const int count = static_cast<int>(left < kBatch ? left : kBatch);
    for (int t = 0; t < count; ++t) {
      const OptimizerTensor& tensor = args.tensors[first + t];
      batch.units[2 * t] = tensor.first_unit;
      batch.units[2 * t + 1] = tensor.first_unit + blocks_of(tensor.size);
    }
    HOTLOOP_LAUNCH(lengths_of_steps, static_cast<unsigned>(count), kTeam, 0, stream, batch);
  }
}

}  // namespace hotloop::cuda
