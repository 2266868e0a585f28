// Which kernel tables this processor and operating system can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace quire {

// All compiled tables that run here, slowest first; never empty. CPUID is executed once.
const std::vector<const Kernels*>& available_kernels();

// The table of that name, or the fastest when the name is empty. Throws std::invalid_argument naming the
// choices.
const Kernels& choose_kernels(const std::string& name);

}  // namespace quire
