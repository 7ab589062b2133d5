// Front-to-back blending of the tiles. A pixel is finished when the next splat would take T to 1e-4 or below.
#pragma once

#include "blend.h"

namespace s4 {

template <class T, int C> struct ForwardBlock {
    V8<T> T_now;    // transmittance, 0 when finished
    V8<T> stop;     // the stop threshold; minus the final transmittance when finished
    V8<T> sum[C];
};
template <class T, int C, bool EXTRAS> struct ForwardTile {
    using V = V8<T>;
    using I = typename IntOf<T>::type;
    ForwardBlock<T, C> block[TILE_BLOCKS];
    V median[EXTRAS ? TILE_BLOCKS : 1], top_weight[EXTRAS ? TILE_BLOCKS : 1];
    Mask8<T> top[EXTRAS ? TILE_BLOCKS : 1];
    alignas(64) I last[TILE_BLOCKS][8];
    uint64_t alive = 0;

    void start(const View<T>& view, int tx, int ty) {
        alive = 0;
        for (int b = 0; b < TILE_BLOCKS; ++b) {
            const int x = tx * TILE_W + b % 8 * BLOCK_W, y = ty * TILE_H + b / 8 * BLOCK_H;
            alignas(64) T live[8];
            for (int i = 0; i < 8; ++i) live[i] = x + i % BLOCK_W < view.W && y + i / BLOCK_W < view.H;
            block[b].T_now = V::load(live);
            block[b].stop = V::load(live) * T(1 + TRANSMITTANCE_STOP) - T(1);  // -1 outside the image
            for (int c = 0; c < C; ++c) block[b].sum[c] = V(T(0));
            for (int i = 0; i < 8; ++i) last[b][i] = NEVER;
            if (x < view.W && y < view.H) alive |= uint64_t(1) << b;
            if constexpr (EXTRAS) median[b] = top_weight[b] = V(T(0)), top[b] = Mask8<T>(I(-1));
        }
    }

    // Some pixel of block b is saturated by this splat, which is therefore not blended there.
    __attribute__((noinline)) Mask8<T> finish(int b, int entry, V T_next) {
        auto& p = block[b];
        const Mask8<T> done = T_next <= p.stop;
        for (int i = 0; i < 8; ++i)
            if (done[i]) last[b][i] = entry;
        p.stop = select(done, -p.T_now, p.stop);
        if (!any(~done & (T_next > T(0)))) alive &= ~(uint64_t(1) << b);
        return ~done;
    }

    S4_INLINE void blend(int b, int entry, V alpha, const T* channel, uint32_t splat, V* total) {
        auto& p = block[b];
        V weight = alpha * p.T_now, T_next = p.T_now - weight;
        if (__builtin_expect(any(T_next <= p.stop), 0)) {
            const Mask8<T> going = finish(b, entry, T_next);
            weight = where(going, weight), T_next = where(going, T_next);
        }
        if constexpr (EXTRAS) {
            *total += weight;
            const V half(T(0.5));
            const Mask8<T> crossing = (p.T_now > half) & (T_next <= half) & (weight > T(0));
            median[b] = select(crossing, V(channel[3]), median[b]);
            const Mask8<T> better = weight > top_weight[b];
            top_weight[b] = select(better, weight, top_weight[b]);
            top[b] = (top[b] & ~better) | (Mask8<T>(I(splat)) & better);
        }
        p.T_now = T_next;
        for (int c = 0; c < C; ++c) p.sum[c] += weight * channel[c];
    }

    V final_transmittance(int b) const { return max(block[b].T_now, -block[b].stop); }
};

// Writes the first pass (RGB, depth, alpha, features that fit) or a later one (features only) of one tile.
template <class T, int C, bool EXTRAS>
void write_tile(const CompositeArgs& a, View<T>& view, const ForwardTile<T, C, EXTRAS>& tile, int tx, int ty, int first) {
    const T* bg = static_cast<const T*>(a.background);
    const int64_t base = (int64_t(ty) * view.tiles_x + tx) * TILE_PIXELS;
    for (int b = 0; b < TILE_BLOCKS; ++b) {
        alignas(64) T T_end[8], sum[C][8];
        tile.final_transmittance(b).store(T_end);
        for (int c = 0; c < C; ++c) tile.block[b].sum[c].store(sum[c]);
        if (first == 0) std::memcpy(&view.T_final[base + 8 * b], T_end, sizeof T_end);
        for (int i = 0; i < 8; ++i) {
            if (first == 0) view.last[base + 8 * b + i] = int32_t(tile.last[b][i]);
            const int x = tx * TILE_W + b % 8 * BLOCK_W + i % BLOCK_W, y = ty * TILE_H + b / 8 * BLOCK_H + i / BLOCK_W;
            if (x >= view.W || y >= view.H) continue;
            const int64_t pixel = int64_t(y) * view.W + x;
            if (first == 0) {
                T* rgb = static_cast<T*>(a.image) + 3 * pixel;
                for (int c = 0; c < 3; ++c) rgb[c] = sum[c][i] + (bg ? T_end[i] * bg[c] : T(0));
                const T alpha = T(1) - T_end[i];
                static_cast<T*>(a.alpha)[pixel] = alpha;
                static_cast<T*>(a.depth)[pixel] = alpha > T(0) ? sum[3][i] / alpha : T(0);
                if constexpr (EXTRAS) {
                    if (a.want_median) static_cast<T*>(a.median_depth)[pixel] = tile.median[b][i];
                    if (a.want_top) {
                        static_cast<T*>(a.top_weight)[pixel] = tile.top_weight[b][i];
                        const auto splat = tile.top[b][i];
                        a.top_id[pixel] = splat < 0 ? -1 : int32_t(view.ids[splat]);
                    }
                }
            }
            T* f = static_cast<T*>(a.features_out) + a.F * pixel;
            for (int c = first == 0 ? 4 : 0; c < C && first + c - 4 < a.F; ++c) f[first + c - 4] = sum[c][i];
        }
    }
}

template <class T, int C, bool EXTRAS>
void forward_tile(const CompositeArgs& a, View<T>& view, ForwardTile<T, C, EXTRAS>& tile, int64_t index, int first,
                  T* weight_sums) {
    const int tx = index % view.tiles_x, ty = index / view.tiles_x;
    const T x0 = T(tx * TILE_W), y0 = T(ty * TILE_H), max_alpha = T(a.max_alpha);
    const Entry* entries = &view.entries[view.tile_start[index]];
    const int count = view.tile_start[index + 1] - view.tile_start[index];
    tile.start(view, tx, ty);
    V8<T> alphas[TILE_BLOCKS];
    int e = 0;
    for (; e < count && tile.alive; ++e) {
        if (e + 6 < count)
            for (int byte = 0; byte < int(view.stride * sizeof(T)); byte += 64)
                __builtin_prefetch(reinterpret_cast<const char*>(&view.splats[entries[e + 6].splat * int64_t(view.stride)]) + byte);
        const Splat<T>& r = view.splat(entries[e].splat);
        const T* channel = view.channel_row(entries[e].splat) + first;
        uint64_t blocks = touched_blocks(r, x0, y0) & tile.alive;
        const TileSplat<T> s(r, x0, y0);
        V8<T> total(T(0));
        V8<T>* out = alphas;
        for (uint64_t left = blocks; left; left &= left - 1) {
            const int b = __builtin_ctzll(left);
            V8<T> X, Y;
            const V8<T> t = s.exponent(b % 8, b / 8, X, Y);
            *out++ = where(t >= LOG2_THRESHOLD<T>, min(exp2_fast(t), V8<T>(max_alpha)));
        }
        const V8<T>* in = alphas;
        for (; blocks; blocks &= blocks - 1) tile.blend(__builtin_ctzll(blocks), e, *in++, channel, entries[e].splat, &total);
        if constexpr (EXTRAS)
            if (weight_sums) {
                T lanes[4];
                const V8<T> four[4] = {total, total, total, total};
                sum_lanes4(four, lanes);
                weight_sums[entries[e].slot] = lanes[0];
            }
    }
    if (first == 0) view.used[index] = e;
    if constexpr (EXTRAS)
        for (; weight_sums && e < count; ++e) weight_sums[entries[e].slot] = 0;
    write_tile(a, view, tile, tx, ty, first);
}

template <class T, int C, bool EXTRAS>
void forward_pass(const CompositeArgs& a, View<T>& view, int first, T* weight_sums) {
#pragma omp parallel num_threads(a.threads)
    {
        auto tile = std::make_unique<ForwardTile<T, C, EXTRAS>>();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < view.tiles(); ++i) forward_tile(a, view, *tile, i, first, weight_sums);
    }
}

template <class T> void sum_weights(const CompositeArgs& a, const View<T>& view, const T* weight_sums) {
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (int64_t i = 0; i < view.drawn; ++i) {
        T sum = 0;
        for (uint32_t k = view.slot_start[i]; k < view.slot_start[i + 1]; ++k) sum += weight_sums[k];
        static_cast<T*>(a.weight_sum)[view.ids[i]] = sum;
    }
}

template <class T> void blend_forward(const CompositeArgs& a, View<T>& view) {
    view.used = make_buffer<int32_t>(view.tiles());
    view.T_final = make_buffer<T>(view.tiles() * TILE_PIXELS);
    view.last = make_buffer<int32_t>(view.tiles() * TILE_PIXELS);
    const bool extras = a.want_median || a.want_top || a.weight_sum;
    Buffer<T> weight_sums;
    if (a.weight_sum) weight_sums = make_buffer<T>(view.pairs);
    for_channel_passes(view.channels, [&](auto count, int first) {
        if (extras && first == 0) forward_pass<T, count, true>(a, view, first, weight_sums.get());
        else forward_pass<T, count, false>(a, view, first, nullptr);
    });
    if (a.weight_sum) sum_weights(a, view, weight_sums.get());
}

}  // namespace s4
