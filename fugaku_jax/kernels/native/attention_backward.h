// Attention backward: the weights of a block are computed again from the logarithms of their sums.
//
// A task is a head of k and v (all heads of q that share it), or of a few heads a part of their
// keys: it owns the gradients of these keys and values, and adds up those of the queries, which
// other parts add to as well. So every sum has one order, however many threads there are.
//
// Source: Dao, "FlashAttention-2", 2023, algorithm 2.
#pragma once

#include "attention_product.h"
#include "pool.h"

namespace attention {

template <class T>
class Backward {
 public:
  Shape shape;
  Heads<const T> q, k, v, out, d_out;
  Heads<T> d_q, d_k, d_v;
  const float* log_sum;     // [batch, heads, length]
  const int32_t* segments;  // [batch, length], or null
  Masks masks;

  void run(xla::ffi::ThreadPool threads) const {
    const int64_t owners = shape.batch * shape.groups;
    // As many tasks as a large machine has cores for, if a part is still worth the packing.
    const int64_t part = round_up(
        std::max(2 * KEYS, divide_up(shape.length, divide_up(OWNERS, owners))), KEYS);
    const int64_t parts = divide_up(shape.length, part);
    if (parts == 1) {
      pool::parallel_for(threads, owners,
                         [&](int64_t owner) { run_part(owner, 0, shape.length, nullptr); });
      return;
    }
    const int64_t heads = shape.batch * shape.heads, size = filled_length() * shape.width();
    float* partial = scratch<struct Partial, float>(heads * parts * size);
    pool::parallel_for(threads, parts * owners, [&](int64_t task) {
      const int64_t number = task / owners, first = number * part;
      run_part(task % owners, first, std::min(shape.length, first + part),
               partial + number * heads * size);
    });
    const int64_t blocks = divide_up(shape.length, KEYS);
    pool::parallel_for(threads, heads * blocks, [&](int64_t task) {
      const int64_t head = task / blocks, first = task % blocks * KEYS;
      add_up(partial + head * size + first * shape.width(), heads * size, first / part + 1, head,
             first);
    });
  }

 private:
  static constexpr int64_t OWNERS = 32;

  // What a task holds of the head of q that it is at, from the first query that sees its keys on.
  struct Queries {
    int64_t first, panels;
    float *columns, *rows;      // q, scaled [panel][head_dim][QUERIES], and as it is [query][width]
    float *d_columns, *d_rows;  // d_out likewise, not scaled
    float *log_sum, *delta;     // [query]; delta is the sum of out × d_out
    float* gradient;            // [query][width], not yet scaled
  };

  int64_t filled_length() const { return round_up(shape.length, QUERIES); }

  // Computes d_k and d_v of keys first .. end, and what these keys add to d_q: into `partial`,
  // [batch, heads, filled length, width], or if that is null it is all, and goes to its place.
  void run_part(int64_t owner, int64_t first, int64_t end, float* partial) const {
    const int64_t width = shape.width(), count = end - first, filled = round_up(count, UNIT);
    const int64_t row = owner / shape.groups, group = owner % shape.groups;
    const int64_t shared = shape.heads / shape.groups, length = filled_length() - first;
    Room room(scratch<Backward, float>(4 * filled * width + 2 * KEYS * QUERIES +
                                       length * (3 * width + 2 * shape.head_dim + 2) + 4 * LANES));
    float* keys = room.take(filled * width);
    float* values = room.take(filled * width);
    float* d_keys = room.take(filled * width);
    float* d_values = room.take(filled * width);
    float* weights = room.take(KEYS * QUERIES);
    float* d_scores = room.take(KEYS * QUERIES);
    Queries queries{first, length / QUERIES, room.take(length * shape.head_dim),
                    room.take(length * width), room.take(length * shape.head_dim),
                    room.take(length * width), room.take(length), room.take(length),
                    room.take(length * width)};
    pack_rows(k.head(row, group), first, count, filled, shape, keys);
    pack_rows(v.head(row, group), first, count, filled, shape, values);
    std::fill_n(d_keys, filled * width, 0.0f);
    std::fill_n(d_values, filled * width, 0.0f);
    float* own = queries.gradient;
    for (int64_t head = group * shared; head < (group + 1) * shared; ++head) {
      if (partial)
        queries.gradient =
            partial + ((row * shape.heads + head) * filled_length() + first) * width;
      pack(row, head, queries);
      for (int64_t key = 0; key < filled; key += KEYS)
        for (int64_t p = key / QUERIES; p < queries.panels; ++p) {
          const int64_t some = std::min({KEYS, filled - key, (p + 1) * QUERIES - key});
          pull_back(row, head, queries, p, first + key, some, keys + key * width,
                    values + key * width, d_keys + key * width, d_values + key * width, weights,
                    d_scores);
        }
      if (!partial)
        unpack_rows(own, 0, shape.length, shape, d_q.head(row, head),
                    [&](int64_t) { return shape.scale(); });
    }
    unpack_rows(d_keys, first, count, shape, d_k.head(row, group),
                [&](int64_t) { return shape.scale(); });
    unpack_rows(d_values, first, count, shape, d_v.head(row, group),
                [](int64_t) { return 1.0f; });
  }

  void pack(int64_t row, int64_t head, const Queries& x) const {
    const int64_t width = shape.width(), length = x.panels * QUERIES;
    const int64_t count = shape.length - x.first;
    pack_rows(q.head(row, head), x.first, count, length, shape, x.rows);
    pack_rows(d_out.head(row, head), x.first, count, length, shape, x.d_rows);
    // The results lie for a moment where the gradients will be added up.
    pack_rows(out.head(row, head), x.first, count, length, shape, x.gradient);
    for (int64_t i = 0; i < length; ++i) {
      Float sum{};
      for (int64_t k = i * width; k < (i + 1) * width; k += LANES)
        sum += load(x.gradient + k) * load(x.d_rows + k);
      x.delta[i] = vector::sum(sum);
    }
    std::fill_n(x.gradient, length * width, 0.0f);
    const float* sums = log_sum + (row * shape.heads + head) * shape.length + x.first;
    std::fill(std::copy_n(sums, count, x.log_sum), x.log_sum + length, 0.0f);
    for (int64_t p = 0; p < x.panels; ++p) {
      const int64_t from = p * QUERIES * width, to = p * QUERIES * shape.head_dim;
      transpose_rows(x.rows + from, shape, shape.scale() * LOG2_E, x.columns + to);
      transpose_rows(x.d_rows + from, shape, 1, x.d_columns + to);
    }
  }

  // Adds what a panel of queries and a block of keys have to do with each other.
  void pull_back(int64_t row, int64_t head, const Queries& x, int64_t p, int64_t first_key,
                 int64_t some, const float* keys, const float* values, float* d_keys,
                 float* d_values, float* weights, float* d_scores) const {
    constexpr int64_t V = isa::TILE_VECTORS;
    const int64_t width = shape.width(), panel = p * QUERIES, first = x.first + panel;
    const Sight sight(segments ? segments + row * shape.length : nullptr, shape.length, first,
                      first_key, some);
    if (sight.nothing()) return;
    each_tile(keys, width, x.columns + panel * shape.head_dim, shape.head_dim, some,
              [&](int64_t key, int64_t query, const Float(&tile)[ROWS<V>][V]) {
                const bool all = sight.all(key + ROWS<V>);
#pragma GCC unroll 4
                for (int64_t j = 0; j < V; ++j) {
                  const int64_t lane = query + j * LANES;
                  const Float log_sum = load(x.log_sum + panel + lane);
#pragma GCC unroll 8
                  for (int64_t i = 0; i < ROWS<V>; ++i) {
                    const Float weight = exp2(tile[i][j] - log_sum);
                    store(all ? weight : sight.seen(weight, key + i, lane, 0),
                          weights + (key + i) * QUERIES + lane);
                  }
                }
              });
    // A dropped weight gets a sign: it counts for the softmax's gradient, but not for d_v.
    masks.apply(row, head, first, first_key, some, weights, [](Float weight) { return -weight; });
    const float scale = masks.scale();
    each_tile(values, width, x.d_columns + panel * shape.head_dim, shape.head_dim, some,
              [&](int64_t key, int64_t query, const Float(&tile)[ROWS<V>][V]) {
#pragma GCC unroll 4
                for (int64_t j = 0; j < V; ++j) {
                  const int64_t lane = query + j * LANES;
                  const Float delta = load(x.delta + panel + lane);
#pragma GCC unroll 8
                  for (int64_t i = 0; i < ROWS<V>; ++i) {
                    const int64_t at = (key + i) * QUERIES + lane;
                    const Float weight = load(weights + at);
                    if (masks.dropped == 0) {
                      store(weight * (tile[i][j] - delta), d_scores + at);
                    } else {
                      const auto kept = std::bit_cast<Int>(weight) >= 0;
                      const Float upstream = kept ? tile[i][j] * scale : Float{};
                      store((kept ? weight : -weight) * (upstream - delta), d_scores + at);
                      store(kept ? weight * scale : Float{}, weights + at);
                    }
                  }
                }
              });
    // A key is seen by the queries from its own position on.
    const auto later = [&](int64_t i, int64_t) {
      return Range{std::max<int64_t>(0, first_key + i - first), QUERIES};
    };
    add_product<false>(weights, x.d_rows + panel * width, d_values, some, width, nullptr, later);
    add_product<false>(d_scores, x.rows + panel * width, d_keys, some, width, nullptr, later);
    add_product<true>(d_scores, keys, x.gradient + panel * width, QUERIES, width, nullptr,
                      [&](int64_t i, int64_t n) {
                        return Range{0, std::min(some, first + i + n - first_key)};
                      });
  }

  // Adds the gradients of queries first .. first + KEYS of a head over the parts of its keys.
  void add_up(float* partial, int64_t step, int64_t parts, int64_t head, int64_t first) const {
    const int64_t count = std::min(KEYS, shape.length - first);
    for (int64_t number = 1; number < parts; ++number)
      for (int64_t i = 0; i < count * shape.width(); i += LANES)
        store(load(partial + i) + load(partial + number * step + i), partial + i);
    unpack_rows(partial, first, count, shape, d_q.head(head / shape.heads, head % shape.heads),
                [&](int64_t) { return shape.scale(); });
  }
};

}  // namespace attention
