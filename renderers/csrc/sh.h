// Spherical harmonics of degree 0 to 3 for eight view directions (basis of 3D Gaussian splatting; Sloan 2013).
#pragma once

#include "api.h"
#include "simd.h"

namespace s4 {

// basis[k] and, if asked for, its derivatives by the components of the unit direction
template <class T, int S> S4_INLINE void sh_basis(const V8<T>* d, V8<T>* basis, V8<T> (*slopes)[3]) {
    using V = V8<T>;
    const V x = d[0], y = d[1], z = d[2], zero(T(0));
    auto set = [&](int k, T c, V value, V sx, V sy, V sz) {
        basis[k] = value * c;
        if (slopes) slopes[k][0] = sx * c, slopes[k][1] = sy * c, slopes[k][2] = sz * c;
    };
    set(0, T(0.28209479177387814), V(T(1)), zero, zero, zero);
    if constexpr (S > 1) {
        const T c = T(0.4886025119029199);
        set(1, -c, y, zero, V(T(1)), zero);
        set(2, c, z, zero, zero, V(T(1)));
        set(3, -c, x, V(T(1)), zero, zero);
    }
    [[maybe_unused]] const V xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
    if constexpr (S > 4) {
        set(4, T(1.0925484305920792), xy, y, x, zero);
        set(5, T(-1.0925484305920792), yz, zero, z, y);
        set(6, T(0.31539156525252005), T(2) * zz - xx - yy, T(-2) * x, T(-2) * y, T(4) * z);
        set(7, T(-1.0925484305920792), xz, z, zero, x);
        set(8, T(0.5462742152960396), xx - yy, T(2) * x, T(-2) * y, zero);
    }
    if constexpr (S > 9) {
        const V four = T(4) * zz - xx - yy;
        set(9, T(-0.5900435899266435), y * (T(3) * xx - yy), T(6) * xy, T(3) * (xx - yy), zero);
        set(10, T(2.890611442640554), xy * z, yz, xz, xy);
        set(11, T(-0.4570457994644658), y * four, T(-2) * xy, four - T(2) * yy, T(8) * yz);
        set(12, T(0.3731763325901154), z * (T(2) * zz - T(3) * (xx + yy)), T(-6) * xz, T(-6) * yz,
            T(6) * zz - T(3) * (xx + yy));
        set(13, T(-0.4570457994644658), x * four, four - T(2) * xx, T(-2) * xy, T(8) * xz);
        set(14, T(1.445305721320277), z * (xx - yy), T(2) * xz, T(-2) * yz, xx - yy);
        set(15, T(-0.5900435899266435), x * (xx - T(3) * yy), T(3) * (xx - yy), T(-6) * xy, zero);
    }
}

template <class T> S4_INLINE V8<T> unit_directions(const T* center, const V8<T>* mean, V8<T>* d) {
    V8<T> n2(T(0));
    for (int i = 0; i < 3; ++i) d[i] = mean[i] - center[i], n2 += d[i] * d[i];
    V8<T> inv = T(1) / max(sqrt(n2), V8<T>(T(1e-12)));
    for (int i = 0; i < 3; ++i) d[i] = d[i] * inv;
    return inv;
}

// rows[i][k] = columns[k][i]
template <class T, int S> S4_INLINE void transpose(const V8<T>* columns, T (*rows)[S]) {
    alignas(64) T x[S][8];
    for (int k = 0; k < S; ++k) columns[k].store(x[k]);
    for (int i = 0; i < 8; ++i)
        for (int k = 0; k < S; ++k) rows[i][k] = x[k][i];
}

// Runs f(integral constant S), so that the loops over coefficients are unrolled.
template <class F> S4_INLINE void with_sh_count(int64_t S, F&& f) {
    if (S == 1) f(std::integral_constant<int, 1>{});
    else if (S == 4) f(std::integral_constant<int, 4>{});
    else if (S == 9) f(std::integral_constant<int, 9>{});
    else f(std::integral_constant<int, 16>{});
}

// rgb[c][i] of lane i: the given colour, or max(sum_k basis_k sh_k + 0.5, 0) where drawn
template <class T, int S>
S4_INLINE void sh_colors(const ProjectArgs& a, const T* center, const V8<T>* mean, Mask8<T> seen, int64_t first,
                         int64_t count, T (*rgb)[8]) {
    V8<T> d[3], basis[S];
    alignas(64) T b[8][S];
    unit_directions(center, mean, d);
    sh_basis<T, S>(d, basis, nullptr);
    transpose<T, S>(basis, b);
    for (int i = 0; i < count; ++i) {
        if (!seen[i]) continue;
        const T* sh = static_cast<const T*>(a.sh) + 3 * S * (first + i);
        T sum[3] = {T(0.5), T(0.5), T(0.5)};
        for (int k = 0; k < S; ++k)
            for (int c = 0; c < 3; ++c) sum[c] += b[i][k] * sh[3 * k + c];
        for (int c = 0; c < 3; ++c) rgb[c][i] = sum[c] < T(0) ? T(0) : sum[c];  // keeps a NaN, which is reported later
    }
}

template <class T>
S4_INLINE void colors_of_group(const ProjectArgs& a, const T* center, const V8<T>* mean, Mask8<T> seen, int64_t first,
                               int64_t count, T (*rgb)[8]) {
    if (a.S == 0) {
        for (int i = 0; i < count; ++i)
            for (int c = 0; c < 3; ++c) rgb[c][i] = static_cast<const T*>(a.colors)[3 * (first + i) + c];
    } else if (any(seen)) {
        with_sh_count(a.S, [&](auto S) { sh_colors<T, S>(a, center, mean, seen, first, count, rgb); });
    }
}

// rows, v_rows: [N, ROW] of this camera. Adds to v_sh and v_mean, and minus the latter to v_center.
template <class T, int S>
S4_INLINE void sh_backward(const ProjectArgs& a, const T* center, const V8<T>* mean, Mask8<T> seen, int64_t first,
                           int64_t count, const T* rows, const T* v_rows, V8<T>* v_mean, V8<T>* v_center) {
    V8<T> d[3], basis[S], slopes[S][3];
    alignas(64) T b[8][S], dots[S][8] = {};
    const V8<T> inv = unit_directions(center, mean, d);
    sh_basis<T, S>(d, basis, slopes);
    transpose<T, S>(basis, b);
    for (int i = 0; i < count; ++i) {
        if (!seen[i]) continue;
        const int64_t n = first + i;
        T v[3];
        for (int c = 0; c < 3; ++c) v[c] = rows[ROW * n + ROW_RGB + c] > T(0) ? v_rows[ROW * n + ROW_RGB + c] : T(0);
        const T* sh = static_cast<const T*>(a.sh) + 3 * S * n;
        for (int k = 0; k < S; ++k) dots[k][i] = sh[3 * k] * v[0] + sh[3 * k + 1] * v[1] + sh[3 * k + 2] * v[2];
        if (!a.v_sh) continue;
        T* v_sh = static_cast<T*>(a.v_sh) + 3 * S * n;
        for (int k = 0; k < S; ++k)
            for (int c = 0; c < 3; ++c) v_sh[3 * k + c] += b[i][k] * v[c];
    }
    V8<T> v_d[3] = {V8<T>(T(0)), V8<T>(T(0)), V8<T>(T(0))}, along(T(0));
    for (int k = 1; k < S; ++k)
        for (int j = 0; j < 3; ++j) v_d[j] += slopes[k][j] * V8<T>::load(dots[k]);
    for (int j = 0; j < 3; ++j) along += v_d[j] * d[j];
    for (int j = 0; j < 3; ++j) {
        V8<T> v = where(seen, (v_d[j] - d[j] * along) * inv);
        v_mean[j] += v, v_center[j] -= v;
    }
}

}  // namespace s4
