// The levels a kernel may be compiled for, and which of them is in force.
#pragma once

#include <string>

#if defined(__x86_64__) || defined(_M_X64)
#define HOTLOOP_X86 1
#else
#define HOTLOOP_X86 0
#endif

namespace hotloop {

enum class Level : int { generic, avx2, avx512, avx512bf16 };
inline constexpr int kLevels = 4;

// The best level that the CPU and the operating system support, or the one that HOTLOOP_ISA names.
// Throws std::invalid_argument at first use when HOTLOOP_ISA is unknown or unsupported.
Level level_in_force();

// Forces a level for the whole process until the next call; throws std::invalid_argument (a Python
// ValueError) for an unknown name or one that this CPU lacks, naming the levels that would do.
void force_level(const std::string& name);
void unforce_level();
bool level_is_forced();

const char* level_name(Level level);
bool level_supported(Level level);
// One sentence: why this level ("best of CPUID", "HOTLOOP_ISA", "force_isa").
std::string level_reason();
// Space-separated names of the features found ("avx2 fma avx512f ...").
std::string cpu_features();

}  // namespace hotloop
