// AVX-512 F, BW, DQ and VL, as far as the kernels use them.
#pragma once

#include "floats.h"
#include "integers.h"
#include "moves.h"
