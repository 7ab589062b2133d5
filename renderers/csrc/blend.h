// What the forward and the backward blending of a tile share: pixel positions, spans, and the exponent of a splat.
#pragma once

#include "view.h"

namespace s4 {

// Pixel centres of the blocks, relative to the tile.
template <class T> struct PixelGrid {
    alignas(64) T x[8][8], y[8][8];  // [block column or row][lane]
    PixelGrid() {
        for (int b = 0; b < 8; ++b)
            for (int i = 0; i < 8; ++i) {
                x[b][i] = T(b * BLOCK_W + i % BLOCK_W) + T(0.5);
                y[b][i] = T(b * BLOCK_H + i / BLOCK_W) + T(0.5);
            }
    }
};
template <class T> inline const PixelGrid<T> GRID;

// A splat moved to a tile's coordinates and broadcast: t = lo - (u x + us y - kx)^2 - (v y - ky)^2.
template <class T> struct TileSplat {
    V8<T> u, us, v, kx, ky, lo;
    S4_INLINE TileSplat(const Splat<T>& r, T x0, T y0)
        : u(r.u), us(r.us), v(r.v), kx(r.u * (r.mx - x0) + r.us * (r.my - y0)), ky(r.v * (r.my - y0)), lo(r.lo) {}
    // X, Y: the whitened offset of block (column, row) from the centre; returns log2 of the alpha
    S4_INLINE V8<T> exponent(int column, int row, V8<T>& X, V8<T>& Y) const {
        const V8<T> y = V8<T>::load(GRID<T>.y[row]);
        X = u * V8<T>::load(GRID<T>.x[column]) + (us * y - kx);
        Y = v * y - ky;
        return (lo - Y * Y) - X * X;
    }
};

template <class T> constexpr T LOG2_THRESHOLD = T(-7.9943534368588578);  // log2(1/255)

// 2^n for n = 0 .. 8, lane by lane
S4_INLINE V8<int32_t> power_of_two(V8<int32_t> n) {
    V8<int32_t> out;
    for (int k = 0; k < Lanes<float>::COUNT; ++k) {
        auto bits = (n.r[k] + 127) << 23;
        typename Lanes<float>::Reg f;
        std::memcpy(&f, &bits, sizeof f);
        out.r[k] = __builtin_convertvector(f, typename Lanes<int32_t>::Reg);
    }
    return out;
}
S4_INLINE V8<int32_t> truncate(V8<float> x) {
    V8<int32_t> out;
    for (int k = 0; k < Lanes<float>::COUNT; ++k) out.r[k] = __builtin_convertvector(x.r[k], typename Lanes<int32_t>::Reg);
    return out;
}
S4_INLINE V8<int32_t> truncate(V8<double> x) {
    alignas(64) int32_t out[8];
    for (int i = 0; i < 8; ++i) out[i] = int32_t(x[i]);
    return V8<int32_t>::load(out);
}

// Bit 8 row + column is set where the block holds a pixel centre with alpha >= 1/255 (and for few others).
template <class T> S4_INLINE uint64_t touched_blocks(const Splat<T>& r, T x0, T y0) {
    using V = V8<T>;
    alignas(64) static constexpr T ROWS[8] = {T(0.5), T(2.5), T(4.5), T(6.5), T(8.5), T(10.5), T(12.5), T(14.5)};
    const V upper = V::load(ROWS) + (y0 - r.my), lower = upper + T(1);
    const V center_up = (r.mx - x0) - upper * r.s, center_low = center_up - V(r.s), zero(T(0));
    const V q_up = r.reach - (upper * upper) * (r.v * r.v), q_low = r.reach - (lower * lower) * (r.v * r.v);
    const V h_up = sqrt(max(q_up, zero)) * r.inv_u + r.pad, h_low = sqrt(max(q_low, zero)) * r.inv_u + r.pad;
    const Mask8<T> in_up = q_up >= T(0), in_low = q_low >= T(0);
    const V far(T(1e6));
    V left = min(select(in_up, center_up - h_up, far), select(in_low, center_low - h_low, far));
    V right = max(select(in_up, center_up + h_up, -far), select(in_low, center_low + h_low, -far));
    // first block whose last centre (4 c + 3.5) is not left of the span; one past the last whose first one is not right
    left = min(max(left * T(0.25) + T(0.124), zero), V(T(8)));
    right = min(max(right * T(0.25) + T(0.875), zero), V(T(8)));
    const V8<int32_t> first = truncate(left), past = truncate(right);
    V8<int32_t> bits = power_of_two(past) - power_of_two(first);
    bits = where(past > first, bits);
    uint64_t word = 0;
    alignas(64) int32_t row[8];
    bits.store(row);
    for (int i = 0; i < 8; ++i) word |= uint64_t(uint32_t(row[i])) << (8 * i);
    return word;
}

// Runs f(channels of the pass, first channel) until all channels of the view are done.
template <class F> void for_channel_passes(int channels, F&& f) {
    for (int done = 0; done < channels;) {
        const int pass = pass_channels(channels - done);
        auto run = [&](auto count) {
            if (count == pass) f(count, done);
        };
        run(std::integral_constant<int, 4>{}), run(std::integral_constant<int, 8>{});
        run(std::integral_constant<int, 12>{}), run(std::integral_constant<int, 20>{});
        run(std::integral_constant<int, MAX_PASS>{});
        done += pass;
    }
}

}  // namespace s4
