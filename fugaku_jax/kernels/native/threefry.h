// The random bits of dropout's masks, as kernels/dropout.py draws them.
//
// Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (Threefry-2x32-20).
#pragma once

#include "vector.h"

namespace threefry {

using vector::Bits;

struct Words {
  Bits first, second;
};

[[gnu::always_inline]] inline void mix(Words& x, int rotation) {
  x.first += x.second;
  x.second = (x.second << rotation) | (x.second >> (32 - rotation));
  x.second ^= x.first;
}

// Returns 64 random bits for each lane's counter.
[[gnu::always_inline]] inline Words draw(const uint32_t (&key)[2], Words counter) {
  const uint32_t schedule[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bda};
  Words x{counter.first + schedule[0], counter.second + schedule[1]};
#pragma GCC unroll 5
  for (uint32_t group = 0; group < 5; ++group) {
    const bool even = group % 2 == 0;
    mix(x, even ? 13 : 17);
    mix(x, even ? 15 : 29);
    mix(x, even ? 26 : 16);
    mix(x, even ? 6 : 24);
    x.first += schedule[(group + 1) % 3];
    x.second += schedule[(group + 2) % 3] + (group + 1);
  }
  return x;
}

}  // namespace threefry
