// Checks the arrays of a step against the model and its K/V memory.
#pragma once

#include "decoder.h"

namespace quire {

// Checks everything that a step indexes memory with, once, so that the kernels need not. Throws
// std::invalid_argument with what is out of range, and where. `context_lens` [B]; the other arrays have the
// sizes that the step's counts say.
void check_step(const Decoder& decoder, const Step& step, const int32_t* context_lens);

}  // namespace quire
