// What one camera's forward pass leaves for its backward pass: the drawn Gaussians in depth order, the tile lists, and
// each pixel's final transmittance and last entry.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "api.h"
#include "simd.h"

namespace s4 {

constexpr int BLOCK_W = 4, BLOCK_H = 2;          // the eight lanes of a V8 are a 4x2 block of pixels
constexpr int TILE_W = 32, TILE_H = 16;          // 8 x 8 blocks: one 64-bit word tells which are touched
constexpr int TILE_BLOCKS = 64, TILE_PIXELS = TILE_W * TILE_H;
constexpr int NEVER = 0x7fffffff;                // "last" of a pixel that was not saturated
constexpr double TRANSMITTANCE_STOP = 1e-4;
constexpr double LOG2_SCALE = 0.84932180028801904;  // sqrt(log2(e) / 2): sigma in units where alpha = 2^(lo - q)

extern std::atomic<int64_t> live_views;

// Channels that one pass over the tiles blends: the smallest compiled size that holds those left, at most MAX_PASS.
constexpr int MAX_PASS = 36;
inline int pass_channels(int64_t left) { return left <= 4 ? 4 : left <= 8 ? 8 : left <= 12 ? 12 : left <= 20 ? 20 : MAX_PASS; }
inline int padded_channels(int64_t count) {
    int total = 0;
    while (total < count) total += pass_channels(count - total);
    return total;
}

struct AlignedFree {
    void operator()(void* p) const { std::free(p); }
};
// Large arrays in 2 MB pages where the kernel offers them: first touch of small pages costs as much as blending.
inline void advise_huge(void* p, size_t bytes) {
    constexpr uintptr_t PAGE = 2 << 20;
    const uintptr_t first = (reinterpret_cast<uintptr_t>(p) + PAGE - 1) / PAGE * PAGE;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) / PAGE * PAGE;
    if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
}

template <class T> using Buffer = std::unique_ptr<T[], AlignedFree>;
template <class T> Buffer<T> make_buffer(size_t count) {
    size_t bytes = (count * sizeof(T) + 127) / 64 * 64;
    void* p = std::aligned_alloc(64, bytes);
    if (!p) throw std::bad_alloc();
    advise_huge(p, bytes);
    return Buffer<T>(static_cast<T*>(p));
}

// One drawn Gaussian, ready for blending; followed in memory by its channels. With C = 4 in float it is one cache line.
template <class T> struct Splat {
    T mx, my;         // pixels
    T u, us, v;       // q = (u dx + us dy)^2 + (v dy)^2, alpha = 2^(lo - q)
    T lo;             // log2 of the opacity
    T s, inv_u;       // row span: dx in -s dy +- sqrt(reach - (v dy)^2) * inv_u
    T reach;          // lo - log2(1/255), slightly enlarged
    T half_h;         // half-height of the ellipse, pixels
    T pad;            // pixels added to each span end, for rounding
    T unused;
};
constexpr int SPLAT_FLOATS = 12;
static_assert(sizeof(Splat<float>) == SPLAT_FLOATS * sizeof(float));

struct Entry {
    uint32_t splat, slot;  // index in depth order; where the gradients of this (splat, tile) pair go
};

template <class T> struct View {
    int W, H, tiles_x, tiles_y, channels, stride;  // channels: RGB, depth, features, zero-padded to whole passes
    int64_t drawn = 0, pairs = 0;
    Buffer<uint32_t> ids;         // [drawn] Gaussian of each splat, nearest first
    Buffer<T> splats;             // [drawn, stride]
    Buffer<uint32_t> slot_start;  // [drawn + 1]
    Buffer<uint32_t> tile_start;  // [tiles + 1]
    Buffer<Entry> entries;        // [pairs] by tile, nearest first
    Buffer<int32_t> used;         // [tiles] entries to look at in the backward pass
    Buffer<T> T_final;            // [tiles, TILE_PIXELS] block by block
    Buffer<int32_t> last;         // [tiles, TILE_PIXELS] first entry not used by the pixel, NEVER if all were

    View(const CompositeArgs& a) : W(a.width), H(a.height) {
        tiles_x = (W + TILE_W - 1) / TILE_W, tiles_y = (H + TILE_H - 1) / TILE_H;
        channels = padded_channels(4 + a.F);
        stride = SPLAT_FLOATS + channels;
        ++live_views;
    }
    ~View() { --live_views; }
    int64_t tiles() const { return int64_t(tiles_x) * tiles_y; }
    const Splat<T>& splat(int64_t i) const { return *reinterpret_cast<const Splat<T>*>(&splats[i * stride]); }
    const T* channel_row(int64_t i) const { return &splats[i * stride + SPLAT_FLOATS]; }
};

}  // namespace s4
