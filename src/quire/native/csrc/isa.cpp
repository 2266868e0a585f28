// The kernels, compiled once for each instruction set under the namespace QUIRE_ISA.
#include "attention.h"
#include "gemm.h"
#include "rows.h"

namespace quire::QUIRE_ISA {

static void activate_all(Activation kind, float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    int n = lanes_left(static_cast<int>(i), static_cast<int>(count));
    store_as(x + i, activate(kind, load_n(x + i, n)), n);
  }
}

static void softcap_all(float* x, int64_t count, float cap) {
  for (int64_t i = 0; i < count; i += kLanes) {
    int n = lanes_left(static_cast<int>(i), static_cast<int>(count));
    store_as(x + i, softcap(load_n(x + i, n), cap), n);
  }
}

#define QUIRE_TEXT(x) #x
#define QUIRE_NAME(x) QUIRE_TEXT(x)

extern const Kernels kernels = {QUIRE_NAME(QUIRE_ISA), gemm, norm, embed, rotate_append, attend, activate_all, softcap_all};

}  // namespace quire::QUIRE_ISA
