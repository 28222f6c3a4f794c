// The driver of passes whose weights outweigh the images: weights are read once, each run of a
// panel packed by the thread that multiplies it, against the pixels of all images.
#include <algorithm>

#include "kernels/driver/conv_pass.h"

namespace hotloop {
namespace {

// A run of channels of a slab, which meets each run of weights once, shares L2 with it.
constexpr double kRunSlabBytes = 448 << 10;
constexpr double kAllSlabBytes = 8 << 20;
// Results of a panel, which meet each run of packed weights once, likewise.
constexpr double kPanelResultBytes = 256 << 10;
// Weights that stay in the caches are packed by all threads first: (1, 256, 14, 14) takes 0.95 of
// the time so, with four times the weights 1.04.
constexpr std::int64_t kPackedFirstBytes = 4 << 20;
constexpr std::int64_t kLeastPanels = 4;
constexpr std::int64_t kFillElements = 16384;  // worth a thread

std::int64_t extent(const AxisPlan& axis) {
  return (axis.count - 1) * axis.step + axis.span;
}

// Terms of all passes as they are packed: (run of channels, pass, tap, channel).
void plan_panel_pack(DType dtype, const PassWeights& w, const std::vector<PassAxes>& passes,
                     std::int64_t channels, const PackShape& shape, PackPlan& plan) {
  Table place, by_place;  // of the taps of all passes
  for (const PassAxes& axes : passes) {
    each_term(
        axes, 1, 1,
        [&](std::int64_t, std::int64_t plane, std::int64_t row, std::int64_t col, std::int64_t) {
          by_place.push_back(static_cast<std::int64_t>(place.size()));
          place.push_back(plane * w.stride_plane + row * w.stride_row + col * w.stride_col);
        });
  }
  const auto place_of = [&](std::int64_t tap) { return place[static_cast<std::size_t>(tap)]; };
  std::sort(by_place.begin(), by_place.end(),
            [&](std::int64_t a, std::int64_t b) { return place_of(a) < place_of(b); });
  // Read as it lies: the taps of a channel one after the other where channels are further apart.
  const bool by_channel = w.stride_channel > place_of(by_place.back()) - place_of(by_place.front());
  const auto tables_of = [&](std::int64_t count, RunTables& tables) {
    Table& order = tables.order;
    for (const std::int64_t at : place) {
      for (std::int64_t channel = 0; channel < count; ++channel) {
        tables.term.push_back(at + channel * w.stride_channel);
      }
    }
    for (std::int64_t outer = 0; by_channel && outer < count; ++outer) {
      for (const std::int64_t tap : by_place) order.push_back(tap * count + outer);
    }
    for (std::size_t outer = 0; !by_channel && outer < by_place.size(); ++outer) {
      for (std::int64_t channel = 0; channel < count; ++channel) {
        order.push_back(by_place[outer] * count + channel);
      }
    }
  };
  tables_of(shape.run_channels, plan.run);
  tables_of(channels % shape.run_channels, plan.last);
  plan.args = {dtype,
               w.data,
               run_of(plan.run),
               run_of(plan.last),
               shape.run_channels * w.stride_channel,
               shape.depth,
               shape.groups,
               w.stride_group,
               w.stride_column,
               shape.columns,
               nullptr};
}

// What the passes that write something have to do.
struct PanelWork {
  std::vector<PassAxes> passes;
  std::int64_t taps = 0, pixels = 0;    // of an image's results
  double work = 0, image_elements = 0;  // in all; of what the passes read of an image
};

// False where one of them is none of an image.
bool collect(const std::vector<PassAxes>& passes, const Source& source, std::int64_t groups,
             std::int64_t group_columns, PanelWork& all) {
  const std::int64_t channels = source.channels / groups;
  for (const PassAxes& axes : passes) {
    const auto& [planes, rows, cols] = axes;
    if (planes.count <= 0 || rows.count <= 0 || cols.count <= 0) continue;
    if (axes.taps() == 0 || planes.taps() != 1 || planes.count != 1) return false;
    all.passes.push_back(axes);
    all.taps += axes.taps();
    all.pixels += rows.count * cols.count;
    all.image_elements += static_cast<double>(extent(rows)) * static_cast<double>(extent(cols)) *
                          static_cast<double>(source.channels);
    all.work += 2.0 * static_cast<double>(axes.taps() * channels * group_columns * groups) *
                static_cast<double>(source.n * rows.count * cols.count);
  }
  return !all.passes.empty() && channels > 0 && source.d == 1 &&
         all.work >= 2 * kWorkWorthSplitting;
}

// Phases of strides read nearly the same pixels: where one copy is no more than a copy for each,
// their axes become those of one that all of them share.
bool share_copy(const Source& source, PanelWork& all) {
  if (all.passes.size() < 2) return false;
  std::vector<PassAxes> sharing = all.passes;
  auto elements = static_cast<double>(source.channels);
  for (AxisPlan PassAxes::* const of : {&PassAxes::rows, &PassAxes::cols}) {
    std::int64_t first = INT64_MAX, end = INT64_MIN;
    for (const PassAxes& axes : all.passes) {
      first = std::min(first, (axes.*of).first);
      end = std::max(end, (axes.*of).first + extent(axes.*of));
    }
    for (PassAxes& axes : sharing) {
      AxisPlan& axis = axes.*of;
      for (std::int64_t& shift : axis.shift) shift += axis.first - first;
      axis.first = first;
      axis.span = end - first - (axis.count - 1) * axis.step;
      axis.whole = true;
    }
    elements *= static_cast<double>(end - first);
  }
  if (elements > all.image_elements) return false;
  all.passes = std::move(sharing);
  all.image_elements = elements;
  return true;
}

// Whether weights outweigh the images, in panels that threads can share.
bool outweighs(const PackShape& shape, const Source& source, double image_bytes,
               std::int64_t group_columns) {
  const std::int64_t panels = shape.groups * shape.columns.panels;
  const bool even = panels % 2 == 0 || panels > 2 * kLeastPanels;
  return !shape.depthwise && panels >= kLeastPanels && even &&
         image_bytes * static_cast<double>(source.n) <= kAllSlabBytes &&
         shape.depth * group_columns * shape.groups >=
             source.n * source.h * source.w * source.channels;
}

// Slabs of whole images, in as many parts as threads want to choose from.
struct PanelCut {
  std::int64_t images, parts;
};
PanelCut cut_images(std::int64_t n, std::int64_t panels, double run_bytes_of_image,
                    double panel_bytes) {
  const auto kept = static_cast<std::int64_t>(panel_bytes / kPanelResultBytes);
  const std::int64_t wanted = std::min(n, std::max(ceil_div(kSlabsWanted, panels), kept));
  const auto fit = static_cast<std::int64_t>(kRunSlabBytes / run_bytes_of_image);
  const std::int64_t most = std::max<std::int64_t>(1, std::min(fit, ceil_div(n, wanted)));
  const std::int64_t images = ceil_div(n, ceil_div(n, most));
  return {images, std::min(ceil_div(n, images), wanted)};
}

// Copies the slabs of a pass that are not read in place; where the next ones go.
char* fill_slabs(DType dtype, ConvPanelPass& pass, bool interruptible, char* at) {
  const ConvSlab& slab = pass.tiles.slab;
  pass.slabs = slab.direct ? nullptr : at;
  if (slab.direct) return at;
  const ConvFillArgs fill{dtype, slab, at};
  launch(conv_fill_kernel(), fill,
         {.units = slab.count * slab.images * slab.planes * slab.height,
          .grain = std::max<std::int64_t>(1, kFillElements / (slab.width * slab.pitch)),
          .interruptible = interruptible});
  return at + slab.size * slab.count * bytes_of(dtype);
}

}  // namespace

bool run_panels(const ConvProblem& problem, const Source& source,
                const std::vector<PassAxes>& passes, std::int64_t groups,
                std::int64_t group_columns, const PassWeights& weights,
                const ConvEpilogue& epilogue, const Destination& y, const void* packed) {
  const std::int64_t item = bytes_of(problem.dtype), channels = source.channels / groups;
  PanelWork all;
  if (!collect(passes, source, groups, group_columns, all)) return false;
  const bool shared = share_copy(source, all);
  const PackShape shape =
      pack_shape(problem.dtype, channels, groups, group_columns, all.taps, false);
  const double image_bytes = all.image_elements * static_cast<double>(item);
  if (source.n * all.pixels > kListedPixels) return false;
  if (!outweighs(shape, source, image_bytes, group_columns)) return false;
  const std::int64_t panels = shape.groups * shape.columns.panels;
  const std::int64_t packed_bytes = shape.bias_bytes() * shape.depth;
  const bool pack_first = !packed && packed_bytes <= kPackedFirstBytes;
  const std::int64_t panel_bytes =
      ceil_div(shape.columns.blocks, shape.columns.panels) * kBlockBytes;
  const bool read_again = packed || pack_first;
  const auto [images, parts] = cut_images(
      source.n, panels,
      image_bytes * static_cast<double>(shape.run_channels) / static_cast<double>(source.channels),
      read_again ? static_cast<double>(source.n * all.pixels * panel_bytes) : 0);

  const Scratch bias(static_cast<std::size_t>(shape.bias_bytes()));
  pack_bias(problem.dtype, epilogue, shape, bias.as<char>());
  PackPlan pack;
  if (!packed) plan_panel_pack(problem.dtype, weights, all.passes, channels, shape, pack);
  const Scratch first(pack_first ? static_cast<std::size_t>(packed_bytes) : 0);
  if (pack_first) {
    pack.args.packed = first.get();
    run_pack(shape, pack.args);
    packed = first.get();
  }

  std::vector<PassTables> tables(all.passes.size());
  std::vector<ConvPanelPass> args(all.passes.size());
  std::int64_t slab_elements = 0, first_tap = 0;
  for (std::size_t i = 0; i < args.size(); ++i) {
    const PassAxes& axes = all.passes[i];
    tables[i].plan = plan_slabs_of(problem.dtype, source, axes, source.channels, false,
                                   {images, axes.rows.count});
    fill_tables(source, axes, channels, shape, epilogue.residual, y, tables[i]);
    ConvTilesArgs& tiles = args[i].tiles;
    tiles = pass_tiles(problem, source, axes, shape, epilogue, y, tables[i]);
    tiles.bias = bias.get();
    tiles.weights = packed;
    tiles.pack_depth = shape.depth;
    args[i].first_tap = first_tap;
    first_tap += axes.taps();
    const bool copies = !tiles.slab.direct && (i == 0 || !shared);
    if (copies) slab_elements += tiles.slab.size * tiles.slab.count;
  }
  const std::int64_t units = panels * parts;
  Split split = split_for(units, all.work / static_cast<double>(units), problem.interruptible);
  const std::int64_t run_bytes =
      packed ? 0 : ceil_div(all.taps * shape.run_channels * panel_bytes + kBlockBytes, 256) * 256;
  split.max_threads = is_parallel(split) ? num_threads() : 1;
  // One block of memory: neighbours in it are neighbours in the caches.
  const std::int64_t all_bytes = slab_elements * item + split.max_threads * run_bytes;
  const Scratch memory(static_cast<std::size_t>(all_bytes));
  const ConvScratch scratch{memory.as<char>(), run_bytes, thread_index};
  char* at = memory.as<char>() + split.max_threads * run_bytes;
  for (ConvPanelPass& pass : args) {
    if (shared && &pass != args.data()) {
      pass.slabs = args[0].slabs;
    } else {
      at = fill_slabs(problem.dtype, pass, problem.interruptible, at);
    }
  }

  const ConvPanelsArgs panels_args{args.data(), static_cast<std::int64_t>(args.size()), all.taps,
                                   parts,       packed ? nullptr : &pack.args,          scratch};
  launch(conv_panels_kernel(), panels_args, split);
  return true;
}

}  // namespace hotloop
