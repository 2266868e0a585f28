// AVX-512 F, BW, DQ and VL, as much as the kernels use.
#pragma once

#include "floats.h"
#include "integers.h"
#include "moves.h"
