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
  using Kind = tile::WideKindOf<T>;
  using Number = typename Kind::Number;

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
  // Of floats, what is packed for one product serves another as well.
  static constexpr bool pairs = std::is_same_v<Kind, tile::Pairs>;

  // What a task holds of the head of q that it is at, from the first query that sees its keys on.
  struct Queries {
    int64_t first, panels;
    Number *columns, *d_columns;  // q and d_out [panel][steps][QUERIES], for sums over head_dim
    Number *across, *d_across;    // and [query / DEPTH][width], for sums over queries
    float *log_sum, *delta;       // [query]; delta is the sum of out × d_out
    float* gradient;              // [query][width], not yet scaled
  };

  // A block of keys, and of values.
  struct Keys {
    int64_t first, count;
    const Number *keys, *values;  // rows, for sums over head_dim
    const Number* across;         // keys, for sums over keys
    float *d_keys, *d_values;     // [key][width]
  };

  // What is computed of a block: weights, and the gradients of its scores.
  struct Block {
    float* weights;
    Number *rows, *columns;  // of the gradients, for sums over queries and over keys
  };

  int64_t filled_length() const { return round_up(shape.length, QUERIES); }

  // Computes d_k and d_v of keys first .. end, and what these keys add to d_q: into `partial`,
  // [batch, heads, filled length, width], or if that is null it is all, and goes to its place.
  void run_part(int64_t owner, int64_t first, int64_t end, float* partial) const {
    const int64_t width = shape.width(), size = shape.row_size<Kind>();
    const int64_t count = end - first, filled = round_up(count, UNIT);
    const int64_t row = owner / shape.groups, group = owner % shape.groups;
    const int64_t shared = shape.heads / shape.groups, length = filled_length() - first;
    Room room(scratch<Backward, float>(4 * filled * width + 3 * KEYS * QUERIES +
                                       length * (5 * width + 2) + 2 * LANES));
    Number* keys = room.take<Number>(filled * size);
    Number* values = room.take<Number>(filled * size);
    Number* across = pairs ? room.take<Number>(filled / Kind::DEPTH * width) : keys;
    float* d_keys = room.take(filled * width);
    float* d_values = room.take(filled * width);
    float* weights = room.take(KEYS * QUERIES);
    Number* columns = room.take<Number>(KEYS / Kind::DEPTH * QUERIES);
    const Block block{weights, pairs ? room.take<Number>(KEYS * QUERIES) : columns, columns};
    Queries queries{first,
                    length / QUERIES,
                    room.take<Number>(length * shape.steps<Kind>()),
                    room.take<Number>(length * shape.steps<Kind>()),
                    room.take<Number>(length / Kind::DEPTH * width),
                    room.take<Number>(length / Kind::DEPTH * width),
                    room.take(length),
                    room.take(length),
                    room.take(length * width)};
    pack_rows<Kind>(k.head(row, group), first, count, filled, shape, keys);
    pack_rows<Kind>(v.head(row, group), first, count, filled, shape, values);
    if (pairs) pack_across<Kind>(k.head(row, group), first, count, filled, shape, across);
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
          const Keys of_block{first + key,
                              some,
                              keys + key * size,
                              values + key * size,
                              across + key / Kind::DEPTH * width,
                              d_keys + key * width,
                              d_values + key * width};
          pull_back(row, head, queries, p, of_block, block);
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
    const int64_t length = x.panels * QUERIES, count = shape.length - x.first;
    const Head<const T> results = out.head(row, head), upstream = d_out.head(row, head);
    pack_queries(q.head(row, head), x, x.across, x.columns);
    pack_queries(upstream, x, x.d_across, x.d_columns);
    for (int64_t i = 0; i < count; ++i) {
      Float sum{};
      for (int64_t k = 0; k < shape.head_dim; k += LANES) {
        const int64_t some = std::min(LANES, shape.head_dim - k);
        sum += vector::load_some(results.at(x.first + i) + k, some) *
               vector::load_some(upstream.at(x.first + i) + k, some);
      }
      x.delta[i] = vector::sum(sum);
    }
    std::fill(x.delta + count, x.delta + length, 0.0f);
    std::fill_n(x.gradient, length * shape.width(), 0.0f);
    const float* sums = log_sum + (row * shape.heads + head) * shape.length + x.first;
    std::fill(std::copy_n(sums, count, x.log_sum), x.log_sum + length, 0.0f);
  }

  // Packs q or d_out in both ways.
  void pack_queries(Head<const T> from, const Queries& x, Number* across, Number* columns) const {
    const int64_t count = shape.length - x.first, length = x.panels * QUERIES;
    pack_across<Kind>(from, x.first, count, length, shape, across);
    for (int64_t query = 0; query < length; query += QUERIES) {
      Number* target = columns + query * shape.steps<Kind>();
      if constexpr (pairs)
        pack_columns<Kind>(from, x.first + query, count - query, shape, target);
      else  // which are converted by now
        pack_columns<Kind>(Head<const float>{across, shape.width()}, query, QUERIES, shape, target);
    }
  }

  // Adds what a panel of queries and a block of keys have to do with each other.
  void pull_back(int64_t row, int64_t head, const Queries& x, int64_t p, const Keys& y,
                 const Block& block) const {
    constexpr int64_t V = isa::TILE_VECTORS;
    const int64_t width = shape.width(), panel = p * QUERIES, first = x.first + panel;
    const Sight sight(segments ? segments + row * shape.length : nullptr, shape.length, first,
                      y.first, y.count);
    if (sight.nothing()) return;
    float* weights = block.weights;
    const float unit = shape.unit(), scale = masks.scale();
    each_tile<Kind>(y.keys, x.columns + panel * shape.steps<Kind>(), shape, y.count,
                    [&](int64_t key, int64_t query, const Float(&tile)[ROWS<V>][V]) {
                      const bool all = sight.all(key + ROWS<V>);
#pragma GCC unroll 4
                      for (int64_t j = 0; j < V; ++j) {
                        const int64_t lane = query + j * LANES;
                        const Float log_sum = load(x.log_sum + panel + lane);
#pragma GCC unroll 8
                        for (int64_t i = 0; i < ROWS<V>; ++i) {
                          const Float weight = exp2(tile[i][j] - log_sum, unit);
                          store(all ? weight : sight.seen(weight, key + i, lane, 0),
                                weights + (key + i) * QUERIES + lane);
                        }
                      }
                    });
    if (masks.dropped > 0) mark_dropped(row, head, first, y, weights);
    Number* weight_rows = reinterpret_cast<Number*>(weights);  // which they replace
    each_tile<Kind>(
        y.values, x.d_columns + panel * shape.steps<Kind>(), shape, y.count,
        [&](int64_t key, int64_t query, const Float(&tile)[ROWS<V>][V]) {
#pragma GCC unroll 4
          for (int64_t j = 0; j < V; ++j) {
            const int64_t lane = query + j * LANES;
            const Float delta = load(x.delta + panel + lane);
#pragma GCC unroll 8
            for (int64_t i = 0; i < ROWS<V>; i += Kind::DEPTH) {
              Float d_scores[Kind::DEPTH];
#pragma GCC unroll 2
              for (int64_t r = 0; r < Kind::DEPTH; ++r) {
                const int64_t here = key + i + r;
                Float weight = load(weights + here * QUERIES + lane);
                if (masks.dropped > 0) {
                  const auto kept = std::bit_cast<Int>(weight) >= 0;
                  const Float upstream = kept ? tile[i + r][j] * scale : Float{};
                  d_scores[r] = (kept ? weight : -weight) * (upstream - delta);
                  weight = kept ? weight * scale : Float{};
                } else {
                  d_scores[r] = weight * (tile[i + r][j] - delta);
                }
                if (pairs || masks.dropped > 0) store_row<Kind>(weight, weight_rows, here, lane);
                if (pairs) store_row<Kind>(d_scores[r], block.rows, here, lane);
              }
              store_column<Kind>(d_scores, block.columns, key + i, lane);
            }
          }
        });
    // A key is seen by the queries from its own position on.
    const auto later = [&](int64_t i, int64_t) {
      return Range{std::max<int64_t>(0, y.first + i - first), QUERIES};
    };
    const int64_t at = panel / Kind::DEPTH * width;
    add_product<Kind, false>(weight_rows, x.d_across + at, y.d_values, y.count, width, nullptr,
                             later);
    add_product<Kind, false>(block.rows, x.across + at, y.d_keys, y.count, width, nullptr, later);
    add_product<Kind, true>(block.columns, y.across, x.gradient + panel * width, QUERIES, width,
                            nullptr, [&](int64_t i, int64_t n) {
                              return Range{0, std::min(y.count, first + i + n - y.first)};
                            });
  }

  // Gives a dropped weight a sign: it counts for the softmax's gradient, but not for d_v.
  void mark_dropped(int64_t row, int64_t head, int64_t first, const Keys& y,
                    float* weights) const {
    for (int64_t key = 0; key < y.count; key += 4)
      for (int64_t query = 0; query < QUERIES; query += LANES) {
        Int kept[4];
        masks.draw(row, head, first + query, y.first + key, kept);
#pragma GCC unroll 4
        for (int64_t i = 0; i < 4; ++i) {
          float* place = weights + (key + i) * QUERIES + query;
          const Float weight = load(place);
          store(kept[i] ? weight : -weight, place);
        }
      }
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
