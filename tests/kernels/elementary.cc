// The elementary functions as functions of arrays, for `test_elementary.py`.
#include "elementary.h"

namespace {

template <class Function>
void apply(const float* x, float* y, int64_t count, const Function& function) {
  for (int64_t i = 0; i < count; i += vector::LANES) {
    const int64_t some = count - i < vector::LANES ? count - i : vector::LANES;
    vector::store_some(function(vector::load_some(x + i, some)), y + i, some);
  }
}

}  // namespace

extern "C" {

void exp_all(const float* x, float* y, int64_t count) {
  apply(x, y, count, [](vector::Float x) { return vector::exp(x); });
}

void reciprocal_all(const float* x, float* y, int64_t count) {
  apply(x, y, count, [](vector::Float x) { return vector::reciprocal(x); });
}

void square_root_all(const float* x, float* y, int64_t count) {
  apply(x, y, count, [](vector::Float x) { return vector::square_root(x); });
}
}
