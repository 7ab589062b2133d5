// Back-to-front gradients of forward.h. Each (splat, tile) pair writes its sums to a slot of its own; they are added up
// per Gaussian afterwards, so nothing depends on the number of threads.
#pragma once

#include "blend.h"

namespace s4 {

// Slot: moments of m = dL/d(ln alpha), then |.| sums when wanted, then the channels' gradients.
enum Moment { M0, MX, MY, MXX, MXY, MYY, MOMENTS };

template <class T, int C> struct BackwardBlock {
    V8<T> T_now;   // transmittance behind the splats still to come
    V8<T> behind;  // dL of what lies behind, as seen from the front
    V8<T> v[C];    // gradient of the channels
    Mask8<T> last;
};

template <class T, int C> struct BackwardTile {
    using V = V8<T>;
    using I = typename IntOf<T>::type;
    BackwardBlock<T, C> block[TILE_BLOCKS];
    struct Wake { int32_t entry, block; } wake[TILE_BLOCKS];  // blocks by the entry from which on (backwards) they count
    T v_background[3];
};

// Gradients of one pixel's channels, and of its final transmittance (returned), from those of the outputs.
template <class T, int C>
S4_INLINE T load_pixel(const CompositeArgs& a, int64_t pixel, T T_end, int first, T* v, T* v_background) {
    const T* bg = static_cast<const T*>(a.background);
    for (int c = first == 0 ? 4 : 0; c < C && a.v_features_out && first + c - 4 < a.F; ++c)
        v[c] = static_cast<const T*>(a.v_features_out)[a.F * pixel + first + c - 4];
    if (first) return T(0);
    T v_T = a.v_alpha ? -static_cast<const T*>(a.v_alpha)[pixel] : T(0);
    if (a.v_image) {
        for (int c = 0; c < 3; ++c) v[c] = static_cast<const T*>(a.v_image)[3 * pixel + c];
        if (bg) v_T += bg[0] * v[0] + bg[1] * v[1] + bg[2] * v[2];
        if (v_background)
            for (int c = 0; c < 3; ++c) v_background[c] += T_end * v[c];
    }
    const T alpha = T(1) - T_end;
    if (a.v_depth && alpha > T(0)) {  // depth = sum / alpha
        v[3] = static_cast<const T*>(a.v_depth)[pixel] / alpha;
        v_T += v[3] * static_cast<const T*>(a.depth)[pixel];
    }
    return v_T;
}

template <class T, int C>
void load_tile(const CompositeArgs& a, const View<T>& view, BackwardTile<T, C>& tile, int tx, int ty, int first) {
    const int64_t base = (int64_t(ty) * view.tiles_x + tx) * TILE_PIXELS;
    for (int b = 0; b < TILE_BLOCKS; ++b) {
        alignas(64) T v[8][C] = {}, columns[C][8], T_end[8], behind[8] = {};
        alignas(64) typename IntOf<T>::type last[8] = {};
        int32_t wake = 0;
        for (int i = 0; i < 8; ++i) {
            const int x = tx * TILE_W + b % 8 * BLOCK_W + i % BLOCK_W, y = ty * TILE_H + b / 8 * BLOCK_H + i / BLOCK_W;
            T_end[i] = view.T_final[base + 8 * b + i];
            if (x >= view.W || y >= view.H) continue;
            last[i] = view.last[base + 8 * b + i];
            wake = std::max(wake, int32_t(last[i]));
            const int64_t pixel = int64_t(y) * view.W + x;
            T* v_background = a.v_background ? tile.v_background : nullptr;
            behind[i] = T_end[i] * load_pixel<T, C>(a, pixel, T_end[i], first, v[i], v_background);
        }
        for (int c = 0; c < C; ++c)
            for (int i = 0; i < 8; ++i) columns[c][i] = v[i][c];
        auto& p = tile.block[b];
        p.T_now = V8<T>::load(T_end), p.behind = V8<T>::load(behind), p.last = Mask8<T>::load(last);
        for (int c = 0; c < C; ++c) p.v[c] = V8<T>::load(columns[c]);
        tile.wake[b] = {wake, b};
    }
    std::sort(tile.wake, tile.wake + TILE_BLOCKS, [](auto p, auto q) { return p.entry > q.entry; });
}

template <class T, int C, bool ABS> struct PairSums {
    V8<T> moment[8], channel[C];  // moment[6], moment[7]: sums of absolute screen gradients
    PairSums() {
        for (auto& x : moment) x = V8<T>(T(0));
        for (int c = 0; c < 4; ++c) channel[c] = V8<T>(T(0));
    }
};

template <class T> struct Sample {
    V8<T> alpha, inverse, X, Y;  // inverse = 1 / (1 - alpha); later alpha holds the weight
};

template <class T, int C, bool ABS>
S4_INLINE void blend_backward(BackwardBlock<T, C>& p, Sample<T>& a, const TileSplat<T>& s, const T* channel,
                              T max_alpha, PairSums<T, C, ABS>& sums) {
    using V = V8<T>;
    p.T_now *= a.inverse;
    const V weight = a.alpha * p.T_now;
    V d;
    if constexpr (C == 4) {
        d = p.v[0] * channel[0] + p.v[1] * channel[1] + p.v[2] * channel[2] + p.v[3] * channel[3];
    } else {  // four chains instead of one of length C
        V dots[4];
        for (int c = 0; c < 4; ++c) dots[c] = p.v[c] * channel[c];
        for (int c = 4; c < C; ++c) dots[c % 4] += p.v[c] * channel[c];
        d = (dots[0] + dots[1]) + (dots[2] + dots[3]);
    }
    const V v_alpha = p.T_now * d - p.behind * a.inverse;
    p.behind += weight * d;
    const V m = where(a.alpha < V(max_alpha), a.alpha * v_alpha);  // a clamped alpha does not move
    if constexpr (C == 4)
        for (int c = 0; c < C; ++c) sums.channel[c] += weight * p.v[c];
    a.alpha = weight;
    const V mX = m * a.X, mY = m * a.Y;
    sums.moment[M0] += m;
    sums.moment[MX] += mX;
    sums.moment[MY] += mY;
    sums.moment[MXX] += mX * a.X;
    sums.moment[MXY] += mX * a.Y;
    sums.moment[MYY] += mY * a.Y;
    if constexpr (ABS) {
        sums.moment[6] += abs(mX * s.u);
        sums.moment[7] += abs(mX * s.us + mY * s.v);
    }
}

template <class T, int C, bool ABS> S4_INLINE void store_sums(const PairSums<T, C, ABS>& sums, T* slot, int first) {
    T out[8 + C];
    sum_lanes4(sums.moment, out);
    sum_lanes4(sums.moment + 4, out + 4);
    for (int c = 0; c < C; c += 4) sum_lanes4(sums.channel + c, out + 8 + c);
    constexpr int KEPT = ABS ? 8 : 6;
    for (int i = 0; i < KEPT; ++i) slot[i] = first == 0 ? out[i] : slot[i] + out[i];
    for (int c = 0; c < C; ++c) slot[KEPT + first + c] = out[8 + c];
}

// All touched blocks of one tile: first alpha everywhere, then transmittance and sums, so that the latency of the
// exponential and of the division overlaps from block to block.
template <class T, int C, bool ABS>
S4_INLINE void blend_blocks_backward(BackwardTile<T, C>& tile, uint64_t blocks, int entry, const TileSplat<T>& s,
                                     const T* channel, T max_alpha, PairSums<T, C, ABS>& sums) {
    using I = typename IntOf<T>::type;
    Sample<T> samples[TILE_BLOCKS], *sample = samples;
    for (uint64_t left = blocks; left; left &= left - 1, ++sample) {
        const int b = __builtin_ctzll(left);
        const V8<T> t = s.exponent(b % 8, b / 8, sample->X, sample->Y);
        const Mask8<T> used = (t >= LOG2_THRESHOLD<T>) & (tile.block[b].last > Mask8<T>(I(entry)));
        sample->alpha = where(used, min(exp2_fast(t), V8<T>(max_alpha)));
        sample->inverse = T(1) / (T(1) - sample->alpha);
    }
    sample = samples;
    for (uint64_t left = blocks; left; left &= left - 1)
        blend_backward<T, C, ABS>(tile.block[__builtin_ctzll(left)], *sample++, s, channel, max_alpha, sums);
    for (int c = 0; c < C && C > 4; c += 4) {  // four sums at a time stay in registers
        sample = samples;
        V8<T> part[4] = {V8<T>(T(0)), V8<T>(T(0)), V8<T>(T(0)), V8<T>(T(0))};
        for (uint64_t left = blocks; left; left &= left - 1, ++sample)
            for (int k = 0; k < 4; ++k) part[k] += sample->alpha * tile.block[__builtin_ctzll(left)].v[c + k];
        for (int k = 0; k < 4; ++k) sums.channel[c + k] = part[k];
    }
}

template <class T, int C, bool ABS>
void backward_tile(const CompositeArgs& a, const View<T>& view, BackwardTile<T, C>& tile, int64_t index, int first,
                   T* slots) {
    const int tx = index % view.tiles_x, ty = index / view.tiles_x, width = (ABS ? 8 : 6) + view.channels;
    const T x0 = T(tx * TILE_W), y0 = T(ty * TILE_H), max_alpha = T(a.max_alpha);
    const Entry* entries = &view.entries[view.tile_start[index]];
    const int count = view.tile_start[index + 1] - view.tile_start[index], used = view.used[index];
    for (int e = used; e < count && first == 0; ++e)
        std::memset(slots + int64_t(entries[e].slot) * width, 0, width * sizeof(T));
    load_tile(a, view, tile, tx, ty, first);
    uint64_t awake = 0;
    int sleeping = 0;
    for (int e = used - 1; e >= 0; --e) {
        for (; sleeping < TILE_BLOCKS && tile.wake[sleeping].entry > e; ++sleeping)
            awake |= uint64_t(1) << tile.wake[sleeping].block;
        if (e >= 6)
            for (int byte = 0; byte < int(view.stride * sizeof(T)); byte += 64)
                __builtin_prefetch(reinterpret_cast<const char*>(&view.splats[entries[e - 6].splat * int64_t(view.stride)]) + byte);
        const Splat<T>& r = view.splat(entries[e].splat);
        const T* channel = view.channel_row(entries[e].splat) + first;
        T* slot = slots + int64_t(entries[e].slot) * width;
        uint64_t blocks = touched_blocks(r, x0, y0) & awake;
        if (!blocks) {
            if (first == 0) std::memset(slot, 0, width * sizeof(T));
            continue;
        }
        const TileSplat<T> s(r, x0, y0);
        PairSums<T, C, ABS> sums;
        blend_blocks_backward(tile, blocks, e, s, channel, max_alpha, sums);
        store_sums(sums, slot, first);
    }
}

template <class T, int C, bool ABS>
void backward_pass(const CompositeArgs& a, const View<T>& view, int first, T* slots, T* v_background) {
#pragma omp parallel num_threads(a.threads)
    {
        auto tile = std::make_unique<BackwardTile<T, C>>();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < view.tiles(); ++i) {
            for (T& x : tile->v_background) x = 0;
            backward_tile<T, C, ABS>(a, view, *tile, i, first, slots);
            for (int c = 0; c < 3 && first == 0; ++c) v_background[3 * i + c] = tile->v_background[c];
        }
    }
}

// Adds up the slots of splat i and turns the moments into gradients (sigma = ln 2 (X^2 + Y^2)).
template <class T, bool ABS>
S4_INLINE void reduce_splat(const CompositeArgs& a, const View<T>& view, const T* slots, int64_t i, int width, T* sum) {
    const T k = T(LOG2_SCALE), twice_ln2 = T(1.3862943611198906);
    const int64_t n = view.ids[i], soon = view.ids[std::min(i + 16, view.drawn - 1)];
    auto at = [](void* p, int64_t D, int64_t row) { return static_cast<T*>(p) + D * row; };
    __builtin_prefetch(at(a.v_rows, ROW, soon), 1);
    __builtin_prefetch(at(a.v_means2d, 2, soon), 1);
    for (int c = 0; c < width; ++c) sum[c] = 0;
    for (int64_t j = view.slot_start[i]; j < view.slot_start[i + 1]; ++j)
        for (int c = 0; c < width; ++c) sum[c] += slots[j * width + c];
    const Splat<T>& r = view.splat(i);
    T *m = at(a.v_means2d, 2, n), *row = at(a.v_rows, ROW, n);
    m[0] = twice_ln2 * r.u * sum[MX];
    m[1] = twice_ln2 * (r.us * sum[MX] + r.v * sum[MY]);
    row[ROW_U] = -twice_ln2 * sum[MXX] * r.inv_u * k;  // u, v here are LOG2_SCALE times those of the row
    row[ROW_S] = -twice_ln2 * sum[MXY] * r.u / r.v;
    row[ROW_V] = -twice_ln2 * sum[MYY] / r.v * k;
    row[ROW_OPACITY] = sum[M0] / static_cast<const T*>(a.rows)[ROW * n + ROW_OPACITY];
    if constexpr (ABS) at(a.v_abs, 2, n)[0] = twice_ln2 * sum[6], at(a.v_abs, 2, n)[1] = twice_ln2 * sum[7];
    const T* v = sum + (ABS ? 8 : 6);
    for (int c = 0; c < 4; ++c) row[ROW_RGB + c] = v[c];
    if (a.v_features)
        for (int c = 0; c < a.F; ++c) at(a.v_features, a.F, n)[c] += v[4 + c];
}

template <class T, bool ABS> void reduce_slots(const CompositeArgs& a, const View<T>& view, const T* slots) {
    constexpr int KEPT = ABS ? 8 : 6;
#pragma omp parallel num_threads(a.threads)
    {
        std::vector<T> sum(KEPT + view.channels);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < view.drawn; ++i) {
            if (view.channels == 4) reduce_splat<T, ABS>(a, view, slots, i, KEPT + 4, sum.data());  // fixed width: unrolled
            else reduce_splat<T, ABS>(a, view, slots, i, KEPT + view.channels, sum.data());
        }
    }
}

template <class T, bool ABS> void composite_backward(const CompositeArgs& a, const View<T>& view) {
    auto slots = make_buffer<T>(view.pairs * ((ABS ? 8 : 6) + view.channels));
    std::vector<T> v_background(3 * view.tiles());
    for_channel_passes(view.channels, [&](auto count, int first) {
        backward_pass<T, count, ABS>(a, view, first, slots.get(), v_background.data());
    });
    reduce_slots<T, ABS>(a, view, slots.get());
    for (size_t i = 0; i < v_background.size() && a.v_background; ++i)
        static_cast<T*>(a.v_background)[i % 3] += v_background[i];
}

}  // namespace s4
