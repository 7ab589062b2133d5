// Depth order and tile lists: one global radix sort, then every (splat, tile) pair in depth order, no sort per tile.
#pragma once

#include <omp.h>

#include <algorithm>

#include "view.h"

namespace s4 {

template <class T> struct DepthKey;
template <> struct DepthKey<float> { using type = uint32_t; };
template <> struct DepthKey<double> { using type = uint64_t; };

// A parallel region costs a wait for the slowest thread; below this many items it does not pay.
constexpr int64_t MIN_PARALLEL = 16384;
inline int threads_for(int64_t items, int threads) { return items < MIN_PARALLEL ? 1 : threads; }

struct Range {
    int64_t begin, end;
};
inline Range share(int64_t n, int part, int parts) { return {n * part / parts, n * (part + 1) / parts}; }

// ids of the drawn Gaussians in the order of their index; keys = bits of the (positive) depth
template <class T>
int64_t collect_drawn(const CompositeArgs& a, Buffer<uint32_t>& ids, Buffer<typename DepthKey<T>::type>& keys) {
    const int threads = threads_for(a.N, a.threads);
    std::vector<int64_t> count(threads + 1, 0);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int p = 0; p < threads; ++p) {
        auto [begin, end] = share(a.N, p, threads);
        int64_t n = 0;
        for (int64_t i = begin; i < end; ++i) n += a.radii[2 * i] > 0;
        count[p + 1] = n;
    }
    for (int p = 0; p < threads; ++p) count[p + 1] += count[p];
    ids = make_buffer<uint32_t>(count[threads]);
    keys = make_buffer<typename DepthKey<T>::type>(count[threads]);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int p = 0; p < threads; ++p) {
        auto [begin, end] = share(a.N, p, threads);
        int64_t n = count[p];
        for (int64_t i = begin; i < end; ++i)
            if (a.radii[2 * i] > 0) {
                ids[n] = i;
                std::memcpy(&keys[n++], static_cast<const T*>(a.rows) + ROW * i + ROW_DEPTH, sizeof(T));
            }
    }
    return count[threads];
}

// Stable least-significant-digit radix sort of (key, id), 11 bits a pass; each part counts and scatters its own range.
template <class K> void radix_sort(int64_t n, int threads, Buffer<K>& keys, Buffer<uint32_t>& ids) {
    constexpr int BITS = 11, BINS = 1 << BITS;
    const int parts = threads_for(n, threads);
    auto keys2 = make_buffer<K>(n);
    auto ids2 = make_buffer<uint32_t>(n);
    std::vector<uint32_t> where(size_t(parts) * BINS);
    for (int shift = 0; shift < int(8 * sizeof(K)); shift += BITS) {
        std::fill(where.begin(), where.end(), 0);
#pragma omp parallel for num_threads(parts) schedule(static, 1)
        for (int p = 0; p < parts; ++p)
            for (auto [i, end] = share(n, p, parts); i < end; ++i) ++where[size_t(p) * BINS + (keys[i] >> shift) % BINS];
        uint32_t total = 0;
        for (int b = 0; b < BINS; ++b)
            for (int p = 0; p < parts; ++p) {
                uint32_t c = where[size_t(p) * BINS + b];
                where[size_t(p) * BINS + b] = total;
                total += c;
            }
#pragma omp parallel for num_threads(parts) schedule(static, 1)
        for (int p = 0; p < parts; ++p)
            for (auto [i, end] = share(n, p, parts); i < end; ++i) {
                uint32_t to = where[size_t(p) * BINS + (keys[i] >> shift) % BINS]++;
                keys2[to] = keys[i], ids2[to] = ids[i];
            }
        std::swap(keys, keys2), std::swap(ids, ids2);
    }
}

// Gathers what blending needs of splat i into its record. Returns false if a channel is not finite.
template <class T> bool pack_splat(const CompositeArgs& a, View<T>& view, int64_t i) {
    const int64_t n = view.ids[i], soon = view.ids[std::min(i + 16, view.drawn - 1)];
    __builtin_prefetch(static_cast<const T*>(a.rows) + ROW * soon);
    __builtin_prefetch(static_cast<const T*>(a.means2d) + 2 * soon);
    const T *m = static_cast<const T*>(a.means2d) + 2 * n, *w = static_cast<const T*>(a.rows) + ROW * n;
    T* row = &view.splats[i * view.stride];
    Splat<T>& r = *reinterpret_cast<Splat<T>*>(row);
    const T u = std::max(w[ROW_U], T(1e-18)), v = std::max(w[ROW_V], T(1e-18));  // a huge splat is flat, not degenerate
    r.mx = m[0], r.my = m[1];
    r.u = u * T(LOG2_SCALE), r.us = r.u * w[ROW_S], r.v = v * T(LOG2_SCALE);
    r.lo = std::log2(w[ROW_OPACITY]);
    r.s = w[ROW_S], r.inv_u = T(1) / r.u;
    r.reach = (r.lo + T(7.9943534368588578)) * T(1 + 1e-4) + T(1e-4);  // log2(255)
    r.half_h = std::sqrt(r.reach) / r.v + T(0.01);
    r.pad = T(0.01) + T(4e-6) * std::abs(r.s) * (view.H + std::min(std::abs(r.my), T(1e6)));
    r.unused = 0;
    T* channel = row + SPLAT_FLOATS;
    const T* f = static_cast<const T*>(a.features) + a.F * n;
    T sum = 0;
    for (int c = 0; c < 4; ++c) sum += channel[c] = w[ROW_RGB + c];
    for (int c = 0; c < a.F; ++c) sum += channel[4 + c] = f[c];
    for (int c = 4 + a.F; c < view.channels; ++c) channel[c] = 0;
    return sum - sum == T(0);
}

// The tiles that the ellipse {q <= reach} meets: for each band of tile rows, its extreme x.
template <class T, class F> void for_each_tile(const View<T>& view, const Splat<T>& r, F&& visit) {
    auto clamp_tile = [](T x, int top) { return x < T(0) ? 0 : x > T(top) ? top : int(x); };
    const int y0 = clamp_tile((r.my - r.half_h) / TILE_H, view.tiles_y);
    const int y1 = clamp_tile((r.my + r.half_h) / TILE_H + 1, view.tiles_y);
    const T R = std::sqrt(r.reach), half_w = R * std::sqrt(r.inv_u * r.inv_u + (r.s / r.v) * (r.s / r.v)) + r.pad;
    const int left = clamp_tile((r.mx - half_w) / TILE_W, view.tiles_x);
    const int right = clamp_tile((r.mx + half_w) / TILE_W + 1, view.tiles_x);
    if (y1 - y0 <= 1 || right - left <= 1) {  // one row or one column: the box is exact
        for (int ty = y0; ty < y1; ++ty)
            for (int tx = left; tx < right; ++tx) visit(ty * view.tiles_x + tx);
        return;
    }
    const T right_dy = -(R / r.v) * (R / r.v) * r.s / half_w;  // dy of the rightmost point
    for (int ty = y0; ty < y1; ++ty) {
        const T top = T(ty * TILE_H) - r.my, bottom = top + TILE_H;
        auto edge = [&](T dy, T sign) {
            T q = r.reach - (r.v * dy) * (r.v * dy);
            return -r.s * dy + sign * (std::sqrt(std::max(q, T(0))) * r.inv_u + r.pad);
        };
        // the rightmost point of the ellipse lies at right_dy, the leftmost at -right_dy; else the nearer band edge
        auto best = [&](T dy, T sign) { return edge(std::clamp(dy, top, bottom), sign); };
        const T high = right_dy >= top && right_dy <= bottom ? half_w : best(right_dy, T(1));
        const T low = -right_dy >= top && -right_dy <= bottom ? -half_w : best(-right_dy, T(-1));
        const int x0 = clamp_tile((r.mx + low) / TILE_W, view.tiles_x);
        const int x1 = clamp_tile((r.mx + high) / TILE_W + 1, view.tiles_x);
        for (int tx = x0; tx < x1; ++tx) visit(ty * view.tiles_x + tx);
    }
}

// Pairs in splat order (their position is the slot), then scattered to their tiles, part by part in depth order.
template <class T> void list_tiles(View<T>& view, int threads) {
    const int64_t n = view.drawn, tiles = view.tiles();
    view.slot_start = make_buffer<uint32_t>(n + 1);
    view.tile_start = make_buffer<uint32_t>(tiles + 1);
    std::vector<std::vector<uint32_t>> lists(threads);
    std::vector<uint32_t> counts(size_t(threads) * tiles, 0), first(threads + 1, 0);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int p = 0; p < threads; ++p) {
        auto [begin, end] = share(n, p, threads);
        auto& list = lists[p];
        list.reserve((end - begin) * 3);
        uint32_t* count = &counts[size_t(p) * tiles];
        for (int64_t i = begin; i < end; ++i) {
            view.slot_start[i] = list.size();
            for_each_tile(view, view.splat(i), [&](uint32_t tile) { list.push_back(tile), ++count[tile]; });
        }
    }
    for (int p = 0; p < threads; ++p) first[p + 1] = first[p] + lists[p].size();
    view.pairs = view.slot_start[n] = first[threads];
    uint32_t total = 0;
    for (int64_t t = 0; t < tiles; ++t) {
        view.tile_start[t] = total;
        for (int p = 0; p < threads; ++p) {
            uint32_t c = counts[p * tiles + t];
            counts[p * tiles + t] = total;
            total += c;
        }
    }
    view.tile_start[tiles] = total;
    view.entries = make_buffer<Entry>(view.pairs);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int p = 0; p < threads; ++p) {
        auto [begin, end] = share(n, p, threads);
        uint32_t* cursor = &counts[size_t(p) * tiles];
        uint32_t k = 0;
        for (int64_t i = begin; i < end; ++i) {
            const uint32_t stop = i + 1 < end ? view.slot_start[i + 1] : lists[p].size();
            view.slot_start[i] += first[p];
            for (; k < stop; ++k) view.entries[cursor[lists[p][k]]++] = {uint32_t(i), first[p] + k};
        }
    }
}

// Returns false if a colour or feature of a drawn Gaussian is not finite.
template <class T> bool bin(const CompositeArgs& a, View<T>& view) {
    Buffer<typename DepthKey<T>::type> keys;
    view.drawn = collect_drawn<T>(a, view.ids, keys);
    radix_sort(view.drawn, a.threads, keys, view.ids);
    view.splats = make_buffer<T>(view.drawn * view.stride);
    int64_t bad = 0;
#pragma omp parallel for num_threads(a.threads) schedule(static) reduction(| : bad)
    for (int64_t i = 0; i < view.drawn; ++i) bad |= !pack_splat(a, view, i);
    if (!bad) list_tiles(view, threads_for(view.drawn, a.threads));
    return !bad;
}

}  // namespace s4
