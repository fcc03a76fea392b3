// The custom call `fugaku_cached_attention`: each token of a batch attends to all of its row up to
// itself, whose keys and values lie in blocks.
//
// Tokens whose rows begin with the same blocks attend to these side by side, as one product.
// Source: Juravsky et al., "Hydragen: High-Throughput LLM Inference with Shared Prefixes", 2024; here
// the softmax is not cut, so a token's result does not depend on the others that are not before it,
// nor on the threads.
#include "cached_attention.h"

#include <numeric>
#include <span>
#include <vector>

#include "dtypes.h"
#include "pool.h"
#include "scratch.h"

namespace {

namespace ffi = xla::ffi;
using cached_attention::Head;
using cached_attention::QUERIES;

// The tokens of a batch: the block of each one's row and its place there.
struct Tokens {
  const int32_t *positions, *tables;
  int64_t count, longest, size;  // of a row, in blocks, and of a block

  const int32_t* table(int64_t token) const { return tables + token * longest; }
  int32_t block(int64_t token) const { return table(token)[positions[token] / size]; }
  int64_t blocks(int64_t token) const { return positions[token] / size + 1; }
  int64_t whole(int64_t token) const { return (positions[token] + 1) / size; }
};

// Tokens whose rows have the first `common` blocks in common, of which all of them attend to the
// whole of the first `whole`.
struct Tile {
  std::span<const int64_t> tokens;
  int64_t common, whole;
};

// Cuts tokens, ordered by the blocks of their rows, into tiles of at most `most`. One that would take
// away half of what the others of its tile have in common begins the next.
std::vector<Tile> tiles(const Tokens& tokens, std::span<const int64_t> order, int64_t most) {
  std::vector<Tile> all;
  for (size_t first = 0, count; first < order.size(); first += count) {
    int64_t common = tokens.blocks(order[first]), whole = tokens.whole(order[first]);
    for (count = 1; first + count < order.size() && int64_t(count) < most; ++count) {
      const int32_t* table = tokens.table(order[first]);
      const int64_t next = order[first + count], limit = std::min(common, tokens.blocks(next));
      const int64_t both = std::mismatch(table, table + limit, tokens.table(next)).first - table;
      if (2 * both < common) break;
      common = both;
      whole = std::min({whole, common, tokens.whole(next)});
    }
    all.push_back({order.subspan(first, count), common, whole});
  }
  return all;
}

// Returns the tokens' numbers, so that rows which begin alike follow each other.
std::vector<int64_t> by_blocks(const Tokens& tokens) {
  std::vector<int64_t> order(tokens.count);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) {
    return std::lexicographical_compare(tokens.table(a), tokens.table(a) + tokens.longest,
                                        tokens.table(b), tokens.table(b) + tokens.longest);
  });
  return order;
}

// Copies blocks of one head, pairs of source and target, and writes tokens' keys and values to their
// places. Of these two, each token's are `stride` from those of the one before it; of the ones kept,
// each block's.
template <class T>
void write(const Tokens& tokens, std::span<const int32_t> copied, const T* k, const T* v,
           int64_t stride, int64_t width, T* keys, T* values, int64_t kept_stride) {
  for (size_t i = 0; i < copied.size(); i += 2)
    for (T* kept : {keys, values})
      if (copied[i] != copied[i + 1])
        std::copy_n(kept + copied[i] * kept_stride, width * tokens.size,
                    kept + copied[i + 1] * kept_stride);
  for (int64_t token = 0; token < tokens.count; ++token, k += stride, v += stride) {
    const int64_t at = tokens.block(token) * kept_stride, place = tokens.positions[token] % tokens.size;
    for (int64_t d = 0; d < width; ++d) keys[at + d * tokens.size + place] = k[d];
    std::copy_n(v, width, values + at + place * width);
  }
}

// Lets `heads` neighbours of each token of a tile attend. q and out are those of token 0, `stride`
// from token to token; k and v are those of block 0.
template <class T>
void attend(const Tokens& tokens, const Tile& tile, int64_t heads, const T* q, int64_t stride,
            Head<T> k, Head<T> v, T* out) {
  const auto& [mine, common, whole] = tile;
  const int64_t width = k.width, all = heads * width, count = heads * int64_t(mine.size());
  int64_t room = 0;
  for (const int64_t token : mine)
    room = std::max(room, tokens.blocks(token) * tokens.size);
  float* queries = scratch<struct Queries, float>(3 * QUERIES * width);
  float *before = queries + QUERIES * width, *sums = before + QUERIES * width;
  float* scores = scratch<struct Scores, float>(QUERIES * room);
  for (size_t i = 0; i < mine.size(); ++i)
    cached_attention::convert(q + mine[i] * stride, all, 1, queries + i * all);
  // First what they have in common, then what each has alone.
  k.blocks = v.blocks = tokens.table(mine[0]);
  cached_attention::score(count, queries, k, 0, common, scores, room);
  float divisors[QUERIES];
  for (size_t i = 0; i < mine.size(); ++i) {
    const int64_t position = tokens.positions[mine[i]], from = i * heads;
    k.blocks = tokens.table(mine[i]);
    cached_attention::score(heads, queries + i * all, k, common, tokens.blocks(mine[i]),
                            scores + from * room, room);
    for (int64_t n = from; n < from + heads; ++n)
      divisors[n] = cached_attention::exponentials(scores + n * room, position + 1);
  }
  std::fill_n(sums, count * width, 0.0f);
  cached_attention::mix(count, scores, room, v, 0, whole * tokens.size, sums, before);
  for (size_t i = 0; i < mine.size(); ++i) {
    v.blocks = tokens.table(mine[i]);
    cached_attention::mix(heads, scores + i * heads * room, room, v, whole * tokens.size,
                          tokens.positions[mine[i]] + 1, before + i * all, sums + i * all);
    for (int64_t n = 0; n < heads; ++n)
      cached_attention::convert(sums + i * all + n * width, width, 1 / divisors[i * heads + n],
                                out + mine[i] * stride + n * width);
  }
}

// Arguments: queries `[B, H, K]`, new keys and values `[B, G, K]`, those kept, `[L, N, G, K, S]` and
// `[L, N, G, S, K]` (aliased with results), an int32, the layer, int32 `[B]`, the position of each
// token in its row, int32 `[B, M]`, the blocks of that row, and int32 `[C, 2]`, blocks that are copied
// before and where to. Results: `[B, H, K]`, and keys and values, to which the new ones were written.
ffi::Error run(ffi::ThreadPool threads, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
               ffi::AnyBuffer keys, ffi::AnyBuffer values, ffi::BufferR0<ffi::S32> layer,
               ffi::BufferR1<ffi::S32> positions, ffi::BufferR2<ffi::S32> tables,
               ffi::BufferR2<ffi::S32> copies, ffi::Result<ffi::AnyBuffer> out,
               ffi::Result<ffi::AnyBuffer> keys_out, ffi::Result<ffi::AnyBuffer> values_out) {
  const auto of_q = q.dimensions(), of_k = k.dimensions(), kept = keys.dimensions();
  const auto of_values = values.dimensions();
  const auto like = [](ffi::AnyBuffer a, ffi::AnyBuffer b) {
    return a.element_type() == b.element_type() && std::ranges::equal(a.dimensions(), b.dimensions());
  };
  if (of_q.size() != 3 || of_k.size() != 3 || kept.size() != 5 || of_values.size() != 5 ||
      !like(k, v) || !like(q, *out) || q.element_type() != k.element_type() ||
      q.element_type() != keys.element_type() || q.element_type() != values.element_type() ||
      of_q[0] != of_k[0] || tables.dimensions()[0] != of_q[0] ||
      copies.dimensions()[1] != 2 || of_k[1] != kept[2] ||
      of_q[2] != of_k[2] || of_q[2] != kept[3] || of_values[3] != kept[4] ||
      of_values[4] != kept[3] || !std::ranges::equal(kept.first(3), of_values.first(3)) ||
      (of_k[1] ? of_q[1] % of_k[1] : of_q[1]) ||
      int64_t(positions.element_count()) != of_q[0])
    return ffi::Error::InvalidArgument("cached_attention: the operands do not fit each other");
  if (keys.untyped_data() != keys_out->untyped_data() ||
      values.untyped_data() != values_out->untyped_data() || !like(keys, *keys_out) ||
      !like(values, *values_out))
    return ffi::Error::InvalidArgument(
        "cached_attention: keys and values must be aliased with the results");
  const int64_t batch = of_q[0], blocks = kept[1], groups = kept[2], width = kept[3], size = kept[4];
  const int64_t shared = groups ? of_q[1] / groups : 0, stride = groups * width;
  const int64_t number = *layer.typed_data(), longest = tables.dimensions()[1];
  const int32_t *position = positions.typed_data(), *table = tables.typed_data();
  const std::span<const int32_t> copied(copies.typed_data(), copies.element_count());
  if (number < 0 || number >= kept[0])
    return ffi::Error::InvalidArgument("cached_attention: there is no such layer");
  if (std::any_of(position, position + batch,
                  [&](int32_t p) { return p < 0 || p >= longest * size; }))
    return ffi::Error::InvalidArgument("cached_attention: there is no such position");
  const auto is_no_block = [&](int32_t b) { return b < 0 || b >= blocks; };
  if (std::any_of(table, table + batch * longest, is_no_block) ||
      std::ranges::any_of(copied, is_no_block))
    return ffi::Error::InvalidArgument("cached_attention: there is no such block");
  if (shared == 0) return ffi::Error::Success();
  const Tokens tokens{position, table, batch, longest, size};
  const std::vector<int64_t> order = by_blocks(tokens);
  const std::vector<Tile> all = tiles(tokens, order, std::max(QUERIES / shared, int64_t{1}));
  // The heads that share a group's keys and values are as many pieces as they need.
  const int64_t pieces = (shared + QUERIES - 1) / QUERIES;
  return dtypes::dispatch("cached_attention", q.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const int64_t in_block = width * size, block = groups * in_block;
    T* k_kept = dtypes::data<T>(*keys_out) + number * blocks * block;
    T* v_kept = dtypes::data<T>(*values_out) + number * blocks * block;
    // All are written before any is read: tokens may be of one row.
    pool::parallel_for(threads, groups, [&](int64_t group) {
      write(tokens, copied, dtypes::data<T>(k) + group * width, dtypes::data<T>(v) + group * width,
            stride, width, k_kept + group * in_block, v_kept + group * in_block, block);
    }, true);
    pool::parallel_for(threads, int64_t(all.size()) * groups * pieces, [&](int64_t task) {
      const int64_t group = task / pieces % groups, piece = task % pieces;
      const int64_t first = shared * piece / pieces, end = shared * (piece + 1) / pieces;
      const int64_t from = (group * shared + first) * width, kept_at = group * in_block;
      attend(tokens, all[task / pieces / groups], end - first, dtypes::data<T>(q) + from,
             groups * shared * width, Head<T>{k_kept + kept_at, nullptr, block, width, size},
             Head<T>{v_kept + kept_at, nullptr, block, width, size},
             dtypes::data<T>(*out) + from);
    }, true);
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_cached_attention, run);
