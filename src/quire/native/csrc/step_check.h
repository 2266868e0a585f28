// The arrays of a step against the model and its K/V memory.
#pragma once

#include "decoder.h"

namespace quire {

// Everything a step indexes memory with is checked here, once, so that the kernels need not. Throws
// std::invalid_argument that names what is out of range, and where. `context_lens` [B]; all other arrays are
// the step's, as long as its counts say.
void check_step(const Decoder& decoder, const Step& step, const int32_t* context_lens);

}  // namespace quire
