// Embedding: reads and checks indices, allocates, launches.
#include "kernels/embedding.h"

#include <stdexcept>

#include "bindings/array.h"
#include "bindings/device.h"
#include "bindings/dims.h"
#include "bindings/gil.h"
#include "bindings/params.h"

namespace hotloop {

namespace {

constexpr std::int64_t kEmbeddingGrain = 16384;

// int32 or int64, dense.
struct Indices {
  py::array owner{};  // empty where they come from a GPU
  bool wide = false;
  std::int64_t count = 0;
  Shape shape;
  py::object on_device{};      // where they came from a GPU: dense there
  const void* data = nullptr;  // where the call runs
};

void check_kind(const char* op, const py::dtype& dtype, std::size_t ndim) {
  if (dtype.kind() != 'i' || (dtype.itemsize() != 4 && dtype.itemsize() != 8) ||
      dtype.byteorder() == '>') {
    throw DTypeError(
        std::string(op) + ": indices must be int64 or int32 in native byte order, got " +
        py::str(dtype).cast<std::string>() + "; convert them with .astype(numpy.int64)");
  }
  if (ndim >= kMaxDims) {
    throw ShapeError(std::string(op) + ": indices must have less than " + std::to_string(kMaxDims) +
                     " axes, got " + std::to_string(ndim));
  }
}

Indices read_on_host(const char* op, py::handle object) {
  if (!py::isinstance<py::array>(object)) {
    throw DTypeError(std::string(op) + ": indices must be a numpy.ndarray of int64 or int32, got " +
                     type_text(object) + "; numpy.asarray makes one");
  }
  Indices indices{.owner = py::reinterpret_borrow<py::array>(object), .shape = {}};
  const py::dtype dtype = indices.owner.dtype();
  check_kind(op, dtype, static_cast<std::size_t>(indices.owner.ndim()));
  constexpr int dense =
      py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((indices.owner.flags() & dense) != dense) {
    indices.owner = indices.owner.attr("copy")("C").cast<py::array>();
  }
  indices.wide = dtype.itemsize() == 8;
  indices.count = indices.owner.size();
  for (py::ssize_t d = 0; d < indices.owner.ndim(); ++d) {
    indices.shape.push_back(indices.owner.shape(d));
  }
  indices.data = indices.owner.data();
  return indices;
}

// Those on a GPU are checked by the kernel.
Indices read_indices(const char* op, py::handle object) {
  const DeviceArray* const device = as_device_array(object);
  Call::current()->meet("indices", device ? device->device : kCpu);
  if (!device) return read_on_host(op, object);
  check_kind(op, device->dtype, device->shape.size());
  Indices indices{.wide = device->item() == 8, .count = device->size(), .shape = device->shape};
  indices.on_device = py::reinterpret_borrow<py::object>(object);
  if (!device->dense()) {
    indices.on_device = new_device_array(op, device->device, device->dtype, device->shape);
    copy_on_device(op, *as_device_array(indices.on_device), *device);
  }
  indices.data = as_device_array(indices.on_device)->data;
  return indices;
}

// The first index outside of [0, rows), or -1. Compared in blocks, which the compiler vectorizes.
template <class Index>
std::int64_t first_outside(const Indices& indices, std::int64_t rows) {
  using Unsigned = std::make_unsigned_t<Index>;
  const Index* at = static_cast<const Index*>(indices.owner.data());
  constexpr std::int64_t kBlock = 1024;
  for (std::int64_t begin = 0; begin < indices.count; begin += kBlock) {
    const std::int64_t end = begin + kBlock < indices.count ? begin + kBlock : indices.count;
    bool outside = false;
    for (std::int64_t i = begin; i < end; ++i) {
      outside |= static_cast<std::uint64_t>(static_cast<Unsigned>(at[i])) >=
                 static_cast<std::uint64_t>(rows);
    }
    if (!outside) continue;
    for (std::int64_t i = begin; i < end; ++i) {
      if (at[i] < 0 || at[i] >= rows) return i;
    }
  }
  return -1;
}

constexpr IndexRule kIndexRule{"indices", "; the bound is the number of rows of the table", true};

void check_indices(const char* op, const Indices& indices, std::int64_t rows) {
  if (indices.on_device) return;
  std::int64_t at = indices.wide ? first_outside<std::int64_t>(indices, rows)
                                 : first_outside<std::int32_t>(indices, rows);
  if (at < 0) return;
  const std::int64_t value = indices.wide
                                 ? static_cast<const std::int64_t*>(indices.owner.data())[at]
                                 : static_cast<const std::int32_t*>(indices.owner.data())[at];
  Shape position(indices.shape.size());
  for (std::size_t d = position.size(); d-- > 0; at /= indices.shape[d]) {
    position[d] = at % indices.shape[d];
  }
  throw std::out_of_range(std::string(op) + ": indices must lie in [0, " + std::to_string(rows) +
                          ") for a table of " + std::to_string(rows) + " rows, got " +
                          std::to_string(value) + " at position " + shape_text(position));
}

template <class Body>
void compute(std::int64_t elements, Body body) {
  if (elements >= 2 * kEmbeddingGrain) {
    const GilReleased released;
    body();
  } else {
    body();
  }
}

// Dense rows along the last axis, one distance apart; packed where they are not.
Array rows_of(const Array& array, std::int64_t* stride) {
  const std::int64_t width = array.shape(array.ndim - 1);
  if (array.ndim == 2 && (width <= 1 || array.stride(1) == 1)) {
    *stride = array.stride(0);
    return array;
  }
  *stride = width;
  return packed(array);
}

py::object embedding(py::handle indices_object, py::handle weight_object, py::handle out_object) {
  const char* op = "embedding";
  const Call call(op);
  const Indices indices = read_indices(op, indices_object);
  const Array weight = input(op, "weight", weight_object);
  require_ndim(op, "weight", weight, 2);
  check_indices(op, indices, weight.shape(0));
  Shape shape = indices.shape;
  shape.push_back(weight.shape(1));
  checked_product(op, shape.data(), static_cast<int>(shape.size()), item_size(weight.dtype));
  Output out(op, out_object, weight.dtype, shape, row_major(shape));
  no_overlap(op, out, "weight", weight);
  EmbeddingArgs args{};
  args.dtype = weight.dtype;
  args.positions = indices.count;
  args.width = weight.shape(1);
  args.indices = indices.data;
  args.wide = indices.wide;
  const Array table = rows_of(weight, &args.weight_stride);
  args.weight = table.data;
  args.out = out.data;
  args.rows = weight.shape(0);
  args.check = call.checks(kIndexRule);
  const std::int64_t grain = kEmbeddingGrain / (args.width + 16);
  call.run("embedding", embedding_kernel(), args,
           Split{.units = args.width > 0 ? args.positions : 0,
                 .grain = grain > 0 ? grain : 1,
                 .interruptible = out.is_fresh});
  return out.finish();
}

py::object embedding_backward(py::handle dy_object, py::handle indices_object,
                              std::int64_t num_embeddings, py::handle padding_idx,
                              bool scale_grad_by_freq, py::handle out_object) {
  const char* op = "embedding_backward";
  const Call call(op);
  const Array dy = input(op, "dy", dy_object);
  const Indices indices = read_indices(op, indices_object);
  if (num_embeddings < 0) {
    throw ShapeError(std::string(op) + ": num_embeddings must not be negative, got " +
                     std::to_string(num_embeddings));
  }
  if (dy.ndim == 0) {
    throw ShapeError(std::string(op) + ": dy must have the shape of the indices and one axis " +
                     "more, got shape ()");
  }
  const std::int64_t width = dy.shape(dy.ndim - 1);
  Shape expected = indices.shape;
  expected.push_back(width);
  require_shape(op, "dy", dy, expected);
  check_indices(op, indices, num_embeddings);
  EmbeddingBackwardArgs args{};
  args.padding = -1;
  if (given(padding_idx)) {
    args.padding = padding_idx.cast<std::int64_t>();
    if (args.padding < -num_embeddings || args.padding >= num_embeddings) {
      throw std::invalid_argument(
          std::string(op) + ": padding_idx must lie in [" + std::to_string(-num_embeddings) + ", " +
          std::to_string(num_embeddings) + "), got " + std::to_string(args.padding));
    }
    if (args.padding < 0) args.padding += num_embeddings;
  }
  const Shape shape{num_embeddings, width};
  checked_product(op, shape.data(), 2, 8);
  Output out(op, out_object, dy.dtype, shape, row_major(shape));
  no_overlap(op, out, "dy", dy);
  args.dtype = dy.dtype;
  args.positions = indices.count;
  args.width = width;
  args.rows = num_embeddings;
  args.indices = indices.data;
  args.wide = indices.wide;
  args.by_frequency = scale_grad_by_freq;
  const Array incoming = rows_of(dy, &args.dy_stride);
  args.dy = incoming.data;
  args.dweight = out.data;
  if (call.on_gpu()) {
    args.check = call.checks(kIndexRule);
    call.run_gpu("embedding_backward", args, args.rows, &EmbeddingBackwardArgs::scratch);
    return out.finish();
  }
  const Scratch workspace(embedding_workspace(args));
  compute((args.rows + args.positions) * (width + 1),
          [&] { run_embedding_backward(args, workspace.get(), out.is_fresh); });
  return out.finish();
}

}  // namespace

void bind_embedding(py::module_& module) {
  module.def("embedding", embedding);
  module.def("embedding_backward", embedding_backward);
}

}  // namespace hotloop
