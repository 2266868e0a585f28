#include "cpu.h"

#include <stdexcept>

#if defined(QUIRE_X86)
#include <cpuid.h>
#endif
#if defined(QUIRE_AMX_BUILT)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace quire {

#if defined(QUIRE_X86)
// CPUID leaf 7, sub-leaf 1, EAX bit 5: AVX512_BF16. Operating-system support comes with AVX-512 itself.
static bool has_avx512_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 5 & 1);
}

static bool has_avx2() {
  constexpr unsigned kF16c = 1u << 29;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & kF16c);
}

static bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

#if defined(QUIRE_AMX_BUILT)
// CPUID leaf 7 EDX: bit 22 AMX_BF16, 24 AMX_TILE, 25 AMX_INT8. Linux grants tile state to a process on
// request.
static bool has_amx() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(edx >> 22 & 1) || (edx >> 24 & 3) != 3)
    return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

// Executes CPUID. Under a hypervisor that is a VM exit, which takes as long as a small step.
static std::vector<const Kernels*> probe() {
  std::vector<const Kernels*> found{&generic::kernels};
#if defined(QUIRE_X86)
  __builtin_cpu_init();
  if (has_avx2()) found.push_back(&avx2::kernels);
  if (QUIRE_EMULATE || has_avx512()) {
    found.push_back(&avx512::kernels);
    if (QUIRE_EMULATE || (has_avx512_bf16() && __builtin_cpu_supports("avx512vnni"))) {
      found.push_back(&avx512_bf16::kernels);
#if defined(QUIRE_AMX_BUILT)
      if (QUIRE_EMULATE || (has_amx() && __builtin_cpu_supports("avx512vbmi")))
        found.push_back(&amx_bf16::kernels);
#endif
    }
  }
#endif
  return found;
}

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> found = probe();
  return found;
}

const Kernels& choose_kernels(const std::string& name) {
  const std::vector<const Kernels*>& found = available_kernels();
  if (name.empty()) return *found.back();
  std::string names;
  for (const Kernels* table : found) {
    if (name == table->name) return *table;
    names += std::string(names.empty() ? "" : ", ") + table->name;
  }
  throw std::invalid_argument("no instruction set '" + name + "' here; choose one of " + names);
}

}  // namespace quire
