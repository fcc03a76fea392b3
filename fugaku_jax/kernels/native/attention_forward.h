// Attention forward: a task is a head's block of queries, which meets one block of keys after the
// other and keeps largest score, sum and result so far.
//
// Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
// "FlashAttention", 2022.
#pragma once

#include "attention_product.h"

namespace attention {

template <class T>
class Forward {
  using Kind = tile::WideKindOf<T>;
  using Number = typename Kind::Number;

 public:
  static constexpr int64_t PANELS = 4;  // so many blocks of queries share the packing of keys

  Shape shape;
  Heads<const T> q, k, v;
  Heads<T> out;
  float* log_sum;  // [batch, heads, length]: the score whose power is the softmax's divisor
  const int32_t* segments;  // [batch, length], or null
  Masks masks;

  int64_t tasks() const {
    return shape.batch * shape.heads * divide_up(shape.length, PANELS * QUERIES);
  }

  // The last queries have most to do, so they are the first tasks.
  void run(int64_t task) const {
    const int64_t heads = shape.batch * shape.heads, width = shape.width();
    const int64_t first = (tasks() / heads - 1 - task / heads) * PANELS * QUERIES;
    const int64_t row = task % heads / shape.heads, head = task % shape.heads;
    const int64_t end = std::min(shape.length, first + PANELS * QUERIES);
    const int64_t panels = divide_up(end - first, QUERIES);
    const int64_t panel_size = QUERIES * (2 * width + 2);
    Room room(scratch<Forward, float>(PANELS * panel_size + 2 * KEYS * width + KEYS * QUERIES));
    Number* keys = room.take<Number>(KEYS * shape.row_size<Kind>());
    Number* values = room.take<Number>(KEYS / Kind::DEPTH * width);
    float* scores = room.take(KEYS * QUERIES);
    Panel panel[PANELS];
    const Head<const T> from = q.head(row, head);
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t query = first + p * QUERIES;
      panel[p] = {query, room.take<Number>(shape.steps<Kind>() * QUERIES),
                  room.take(QUERIES * width), room.take(QUERIES), room.take(QUERIES)};
      pack_columns<Kind>(from, query, end - query, shape, panel[p].columns);
      std::fill_n(panel[p].result, QUERIES * width, 0.0f);
      std::fill_n(panel[p].largest, QUERIES, LEAST);
      std::fill_n(panel[p].sum, QUERIES, 0.0f);
    }
    const int64_t group = head / (shape.heads / shape.groups);
    for (int64_t key = 0; key < end; key += KEYS) {
      const int64_t count = std::min(KEYS, end - key), filled = round_up(count, UNIT);
      pack_rows<Kind>(k.head(row, group), key, count, filled, shape, keys);
      pack_across<Kind>(v.head(row, group), key, count, filled, shape, values);
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t some = std::min(filled, panel[p].first + QUERIES - key);
        if (some > 0) attend(panel[p], row, head, key, some, keys, values, scores);
      }
    }
    for (int64_t p = 0; p < panels; ++p) finish(panel[p], row, head);
  }

 private:
  static constexpr float LEAST = -1e30f;  // below every score, and yet a number

  struct Panel {
    int64_t first;
    Number* columns;  // queries
    float* result;    // [QUERIES][width], not yet divided
    float* largest;   // score so far; scores are not scaled but where their exponential is taken
    float* sum;
  };

  void attend(const Panel& panel, int64_t row, int64_t head, int64_t first_key, int64_t some,
              const Number* keys, const Number* values, float* scores) const {
    const Sight sight(segments ? segments + row * shape.length : nullptr, shape.length, panel.first,
                      first_key, some);
    if (sight.nothing()) return;
    const int64_t width = shape.width();
    constexpr int64_t V = isa::TILE_VECTORS;
    float most[QUERIES];
    std::copy_n(panel.largest, QUERIES, most);
    each_tile<Kind>(
        keys, panel.columns, shape, some,
        [&](int64_t key, int64_t query, const Float(&tile)[ROWS<V>][V]) {
          const bool all = sight.all(key + ROWS<V>);
#pragma GCC unroll 4
          for (int64_t j = 0; j < V; ++j) {
            Float largest = load(most + query + j * LANES);
#pragma GCC unroll 8
            for (int64_t i = 0; i < ROWS<V>; ++i) {
              const int64_t lane = query + j * LANES;
              const Float x = all ? tile[i][j] : sight.seen(tile[i][j], key + i, lane, NOTHING);
              largest = vector::max(largest, x);
              store(x, scores + (key + i) * QUERIES + lane);
            }
            store(largest, most + query + j * LANES);
          }
        });
    float shrink[QUERIES];
    const float unit = shape.unit();
    Number* weights = reinterpret_cast<Number*>(scores);  // which they replace, and may be shorter
    for (int64_t query = 0; query < QUERIES; query += LANES) {
      const Float largest = load(most + query);
      const Float factor = exp2(load(panel.largest + query) - largest, unit);
      Float sum = load(panel.sum + query) * factor;
      for (int64_t key = 0; key < some; key += 4) {
        Float x[4];
#pragma GCC unroll 4
        for (int64_t i = 0; i < 4; ++i)
          x[i] = exp2(load(scores + (key + i) * QUERIES + query) - largest, unit);
        sum += (x[0] + x[1]) + (x[2] + x[3]);
        if (masks.dropped > 0) {
          Int kept[4];
          masks.draw(row, head, panel.first + query, first_key + key, kept);
#pragma GCC unroll 4
          for (int64_t i = 0; i < 4; ++i) x[i] = kept[i] ? x[i] : Float{};
        }
#pragma GCC unroll 4
        for (int64_t i = 0; i < 4; i += Kind::DEPTH)
          store_column<Kind>(x + i, weights, key + i, query);
      }
      store(factor, shrink + query);
      store(sum, panel.sum + query);
      store(largest, panel.largest + query);
    }
    add_product<Kind, true>(weights, values, panel.result, QUERIES, width, shrink,
                            [&](int64_t i, int64_t n) {
                              return Range{0, std::min(some, panel.first + i + n - first_key)};
                            });
  }

  void finish(const Panel& panel, int64_t row, int64_t head) const {
    const int64_t count = std::min(QUERIES, shape.length - panel.first);
    unpack_rows(panel.result, panel.first, count, shape, out.head(row, head),
                [&](int64_t i) { return masks.scale() / panel.sum[i]; });
    float* target = log_sum + (row * shape.heads + head) * shape.length + panel.first;
    for (int64_t i = 0; i < count; ++i)
      target[i] = panel.largest[i] + std::log2(panel.sum[i]) / shape.unit();
  }

  static constexpr float NOTHING = -std::numeric_limits<float>::infinity();
};

}  // namespace attention
