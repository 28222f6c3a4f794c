// Probes for tests (every word of the vector contract at the level in force) and for benchmarks
// (the machine's limits). Not public: hotloop.benchmarks.ceilings and tests/test_simd.py call them.
#include "kernels/probe.h"

#include <chrono>
#include <vector>

#include "bindings/array.h"
#include "kernels/dot.h"

namespace hotloop {

namespace {

std::int32_t probe_number(const std::string& name) {
  std::int32_t number = 0;
#define HOTLOOP_X(probe, value)      \
  if (name == #probe) return number; \
  ++number;
  HOTLOOP_PROBES(HOTLOOP_X)
#undef HOTLOOP_X
  throw std::invalid_argument("probe: unknown word " + name);
}

py::object function(const std::string& name, py::handle x_object, py::handle y_object,
                    py::handle z_object) {
  const Array x = packed(input("probe", "x", x_object));
  const Array y = given(y_object) ? packed(input("probe", "y", y_object)) : x;
  const Array z = given(z_object) ? packed(input("probe", "z", z_object)) : x;
  same_dtype("probe", "x", x, "y", y);
  same_dtype("probe", "x", x, "z", z);
  require_shape("probe", "y", y, x.shape_vector());
  require_shape("probe", "z", z, x.shape_vector());
  Output out("probe", py::none(), x.dtype, x.shape_vector());
  const ProbeArgs args{x.data, y.data, z.data, out.data, x.size, probe_number(name), x.dtype};
  probe_function_kernel()(args, 0, 1);
  return out.finish();
}

// Addresses, not arrays: a test puts them against a page that must not be touched. Returns the
// lanes.
int memory(const std::string& name, std::uintptr_t source, std::uintptr_t target, bool is_double,
           std::int64_t stride, int count) {
  static constexpr const char* kWords[] = {
      "load_n", "store_n", "load_strided", "store_strided", "load_u8_n", "store_u8_n", "stream"};
  std::int32_t word = 0;
  while (word < 7 && name != kWords[word]) ++word;
  if (word == 7) throw std::invalid_argument("probe: unknown word " + name);
  std::int32_t lanes = 0;
  const ProbeMemoryArgs args{
      reinterpret_cast<const void*>(source), reinterpret_cast<void*>(target),     stride, count,
      static_cast<MemoryWord>(word),         is_double ? DType::f64 : DType::f32, &lanes};
  probe_memory_kernel()(args, 0, 1);
  return lanes;
}

// At least `flops` operations over all threads; returns how many.
double fma(double flops, bool is_double) {
  const auto units = static_cast<std::int64_t>(flops / static_cast<double>(kProbeFlops)) + 1;
  std::vector<double> sink(static_cast<std::size_t>(units));
  run(probe_fma_kernel(), ProbeFmaArgs{sink.data(), is_double ? DType::f64 : DType::f32},
      {.units = units, .grain = 1});
  return static_cast<double>(units * kProbeFlops);
}

// Likewise of dot products: of bf16, or of bytes.
double dot(double flops, bool of_bytes) {
  const auto units = static_cast<std::int64_t>(flops / static_cast<double>(kProbeDotFlops)) + 1;
  std::vector<double> sink(static_cast<std::size_t>(units));
  run(of_bytes ? quant_probe_kernel() : gemm_bf16_probe_kernel(), ProbeDotArgs{sink.data()},
      {.units = units, .grain = 1});
  return static_cast<double>(units * kProbeDotFlops);
}

double fma_peak(double seconds, bool is_double) {
  using Clock = std::chrono::steady_clock;
  double done = 0, elapsed = 0;
  const auto start = Clock::now();
  do {
    done += fma(4e7, is_double);
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (elapsed < seconds);
  return done / elapsed / 1e9;
}

// read: array; update: array in place; copy, copy_nt: from array to out; add_nt: array and second
// to out. Whole pieces of 32 KB.
std::int64_t traffic(const std::string& name, py::handle array_object, py::handle out_object,
                     py::handle second_object) {
  static constexpr const char* kNames[] = {"read", "copy", "copy_nt", "update", "add_nt"};
  std::int32_t kind = 0;
  while (kind < 5 && name != kNames[kind]) ++kind;
  if (kind == 5) throw std::invalid_argument("probe: unknown traffic " + name);
  const Traffic traffic = static_cast<Traffic>(kind);
  const Array array = in_place("probe", "array", array_object);
  const std::int64_t bytes = array.size * item_size(array.dtype);
  if (!array.contiguous() || bytes % kProbeBytes != 0) {
    throw ShapeError("probe: array must be dense and a multiple of " + std::to_string(kProbeBytes) +
                     " bytes, got " + std::to_string(bytes));
  }
  const std::int64_t units = bytes / kProbeBytes;
  std::vector<float> sums;
  Array out;
  Array second = array;
  if (traffic == Traffic::add_nt) {
    second = in_place("probe", "second", second_object);
    require_shape("probe", "second", second, array.shape_vector());
    same_dtype("probe", "array", array, "second", second);
    if (!second.contiguous()) throw ShapeError("probe: second must be dense");
  }
  ProbeTrafficArgs args{array.as<float>(), second.as<float>(), array.as<float>(), traffic};
  if (traffic == Traffic::read) {
    sums.resize(static_cast<std::size_t>(units));
    args.target = sums.data();
  } else if (traffic != Traffic::update) {
    out = in_place("probe", "out", out_object);
    require_shape("probe", "out", out, array.shape_vector());
    same_dtype("probe", "array", array, "out", out);
    if (!out.contiguous() || reinterpret_cast<std::uintptr_t>(out.data) % 64 != 0) {
      throw ShapeError("probe: out must be dense and aligned to 64 bytes");
    }
    args.target = out.as<float>();
  }
  run(probe_traffic_kernel(), args,
      {.units = units, .grain = 4, .interruptible = traffic != Traffic::update});
  return bytes;
}

}  // namespace

void bind_probe(py::module_& m) {
  m.def("probe_function", &function, py::arg("name"), py::arg("x"), py::arg("y") = py::none(),
        py::arg("z") = py::none());
  m.def("probe_memory", &memory, py::arg("name"), py::arg("source"), py::arg("target"),
        py::arg("is_double"), py::arg("stride") = 1, py::arg("count") = 0);
  m.def("probe_fma", &fma, py::arg("flops"), py::arg("is_double") = false);
  m.def("probe_fma_peak", &fma_peak, py::arg("seconds"), py::arg("is_double") = false);
  m.def("probe_dot", &dot, py::arg("flops"), py::arg("of_bytes") = false);
  m.def("probe_traffic", &traffic, py::arg("name"), py::arg("array"), py::arg("out") = py::none(),
        py::arg("second") = py::none());
  py::list names;
#define HOTLOOP_X(probe, value) names.append(#probe);
  HOTLOOP_PROBES(HOTLOOP_X)
#undef HOTLOOP_X
  m.attr("probe_names") = py::tuple(names);
}

}  // namespace hotloop
