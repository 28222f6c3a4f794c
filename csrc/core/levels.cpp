// Levels are chosen by feature bits (CPUID) and by what the operating system saves (XGETBV), never
// by vendor. A level is a compile flag set: it is supported only when every feature of the set is
// there.
#include "core/levels.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if HOTLOOP_X86
#include <cpuid.h>
#endif

namespace hotloop {
namespace {

constexpr const char* kNames[kLevels] = {"generic", "avx2", "avx512", "avx512bf16"};

struct Features {
  bool avx2_level = false, avx512_level = false, bf16_level = false;
  std::string text;
};

#if HOTLOOP_X86

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) return {};
  return r;
}

unsigned extended_state() {  // XCR0: which registers the operating system saves
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

Features detect() {
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0);
  const Registers seven_one = seven.eax >= 1 ? cpuid(7, 1) : Registers{};
  const auto bit = [](unsigned word, int index) { return ((word >> index) & 1u) != 0; };
  const unsigned saved = bit(one.ecx, 27) ? extended_state() : 0;
  const bool ymm = (saved & 0x6) == 0x6, zmm = ymm && (saved & 0xe0) == 0xe0;

  Features found;
  const auto feature = [&](const char* name, bool present) {
    if (present) found.text += (found.text.empty() ? "" : " ") + std::string(name);
    return present;
  };
  feature("sse4.2", bit(one.ecx, 20));
  const bool avx = feature("avx", ymm && bit(one.ecx, 28));
  const bool avx2 = feature("avx2", avx && bit(seven.ebx, 5));
  const bool fma = feature("fma", avx && bit(one.ecx, 12));
  feature("f16c", avx && bit(one.ecx, 29));
  const bool f = feature("avx512f", zmm && bit(seven.ebx, 16));
  const bool bw = feature("avx512bw", f && bit(seven.ebx, 30));
  const bool dq = feature("avx512dq", f && bit(seven.ebx, 17));
  const bool vl = feature("avx512vl", f && bit(seven.ebx, 31));
  const bool vbmi = feature("avx512vbmi", f && bit(seven.ecx, 1));
  const bool vnni = feature("avx512vnni", f && bit(seven.ecx, 11));
  const bool bf16 = feature("avx512bf16", f && bit(seven_one.eax, 5));
  feature("avx512fp16", f && bit(seven.edx, 23));
  const bool tiles = (saved & 0x60000) == 0x60000 && bit(seven.edx, 24);
  feature("amx-bf16", tiles && bit(seven.edx, 22));
  feature("amx-int8", tiles && bit(seven.edx, 25));

  found.avx2_level = avx2 && fma;
  found.avx512_level = found.avx2_level && f && bw && dq && vl;
  found.bf16_level = found.avx512_level && bf16 && vnni && vbmi;
  return found;
}

#else

Features detect() {
  return {};
}

#endif

const Features& features() {
  static const Features* const found = new Features(detect());  // leaked: outlives late threads
  return *found;
}

std::string supported_text() {
  std::string text;
  for (int i = 0; i < kLevels; ++i) {
    if (level_supported(static_cast<Level>(i))) {
      text += (text.empty() ? "" : ", ") + std::string(kNames[i]);
    }
  }
  return text;
}

Level parse(const std::string& name, const char* op) {
  std::string all;
  for (int i = 0; i < kLevels; ++i) {
    if (name == kNames[i]) {
      if (level_supported(static_cast<Level>(i))) return static_cast<Level>(i);
      throw std::invalid_argument(std::string(op) + ": this CPU must support the level, got '" +
                                  name + "'; it supports: " + supported_text());
    }
    all += (i ? ", " : "") + std::string(kNames[i]);
  }
  throw std::invalid_argument(std::string(op) + ": the level must be one of " + all + ", got '" +
                              name + "'; this CPU supports: " + supported_text());
}

const char* wanted() {
  const char* name = std::getenv("HOTLOOP_ISA");
  return name && *name ? name : nullptr;
}

Level best() {
  for (int i = kLevels - 1; i > 0; --i) {
    if (level_supported(static_cast<Level>(i))) return static_cast<Level>(i);
  }
  return Level::generic;
}

constexpr int kUndecided = -1;
std::atomic<int> in_force{kUndecided};
std::atomic<bool> forced{false};

Level decide() {
  const char* name = wanted();
  const Level level = name ? parse(name, "HOTLOOP_ISA") : best();
  int expected = kUndecided;
  in_force.compare_exchange_strong(expected, static_cast<int>(level));
  return static_cast<Level>(in_force.load());
}

}  // namespace

Level level_in_force() {
  const int level = in_force.load(std::memory_order_relaxed);
  return level == kUndecided ? decide() : static_cast<Level>(level);
}

void force_level(const std::string& name) {
  const Level level = parse(name, "force_isa");
  in_force.store(static_cast<int>(level));
  forced.store(true);
}

void unforce_level() {
  forced.store(false);
  in_force.store(kUndecided);
}

bool level_is_forced() {
  return forced.load();
}

const char* level_name(Level level) {
  return kNames[static_cast<int>(level)];
}

bool level_supported(Level level) {
  switch (level) {
    case Level::generic:
      return true;
    case Level::avx2:
      return features().avx2_level;
    case Level::avx512:
      return features().avx512_level;
    case Level::avx512bf16:
      return features().bf16_level;
  }
  return false;
}

std::string level_reason() {
  const std::string name = level_name(level_in_force());
  if (forced.load()) return name + ": set by force_isa";
  if (wanted()) return name + ": set by HOTLOOP_ISA";
  return name + ": the best level that the CPU and the operating system support";
}

std::string cpu_features() {
  return features().text;
}

}  // namespace hotloop
