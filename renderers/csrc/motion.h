// Motion of eight Gaussians at a time: a polynomial offset, then a blend of rigid transforms as dual quaternions
// (Kavan et al. 2008, "Geometric Skinning with Approximate Dual Quaternion Blending", sections 4 and 5), and a
// flat-topped window on the opacity. A dual quaternion is 8 numbers, real part first, both wxyz.
#pragma once

#include "motion_api.h"
#include "simd.h"

namespace s4 {

constexpr int SLOTS = 4;                   // at most, per Gaussian
constexpr double EMPTY = -1e30;            // logit of an empty slot
constexpr double MAX_LOG_SOFTNESS = 20.0;  // e^20 s is 15 years; keeps the argument of the window finite
constexpr double MAX_ELAPSED = 1e15;       // seconds; stands for an infinite window, so that no 0 * inf arises

template <class T> struct Quat8 {
    V8<T> w, x, y, z;
};
template <class T> S4_INLINE Quat8<T> operator*(const Quat8<T>& a, const Quat8<T>& b) {
    return {a.w * b.w - a.x * b.x - a.y * b.y - a.z * b.z, a.w * b.x + a.x * b.w + a.y * b.z - a.z * b.y,
            a.w * b.y - a.x * b.z + a.y * b.w + a.z * b.x, a.w * b.z + a.x * b.y - a.y * b.x + a.z * b.w};
}
template <class T> S4_INLINE Quat8<T> conjugate(const Quat8<T>& a) { return {a.w, -a.x, -a.y, -a.z}; }

template <class T> S4_INLINE void cross(const V8<T>* a, const V8<T>* b, V8<T>* c) {
    c[0] = a[1] * b[2] - a[2] * b[1], c[1] = a[2] * b[0] - a[0] * b[2], c[2] = a[0] * b[1] - a[1] * b[0];
}
template <class T> S4_INLINE V8<T> dot(const V8<T>* a, const V8<T>* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// Rows to columns: lane i of out[k] = lane k of in[i]. Through registers where possible: a vector load right after
// scalar stores to the same bytes waits for them.
template <class T> S4_INLINE void transpose8(const V8<T>* in, V8<T>* out) {
#if !defined(__clang__)
    using L = Lanes<T>;
    using R = typename L::Reg;
    typedef typename IntOf<T>::type I __attribute__((vector_size(REGISTER_BYTES)));
    if constexpr (L::PER == 8) {
        const I low = {0, 8, 1, 9, 4, 12, 5, 13}, high = {2, 10, 3, 11, 6, 14, 7, 15};
        const I first = {0, 1, 8, 9, 4, 5, 12, 13}, second = {2, 3, 10, 11, 6, 7, 14, 15};
        const I left = {0, 1, 2, 3, 8, 9, 10, 11}, right = {4, 5, 6, 7, 12, 13, 14, 15};
        R pair[8], four[8];
        for (int i = 0; i < 8; i += 2) {
            pair[i] = __builtin_shuffle(in[i].r[0], in[i + 1].r[0], low);
            pair[i + 1] = __builtin_shuffle(in[i].r[0], in[i + 1].r[0], high);
        }
        for (int h = 0; h < 8; h += 4)
            for (int k = 0; k < 2; ++k) {
                four[h + 2 * k] = __builtin_shuffle(pair[h + k], pair[h + 2 + k], first);
                four[h + 2 * k + 1] = __builtin_shuffle(pair[h + k], pair[h + 2 + k], second);
            }
        for (int k = 0; k < 4; ++k) {
            out[k].r[0] = __builtin_shuffle(four[k], four[4 + k], left);
            out[4 + k].r[0] = __builtin_shuffle(four[k], four[4 + k], right);
        }
        return;
    } else if constexpr (L::PER == 4) {
        const I low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, second = {2, 3, 6, 7};
        for (int i = 0; i < 2; ++i)
            for (int k = 0; k < 2; ++k) {  // 4 x 4 blocks
                const V8<T>* row = in + 4 * i;
                const R a = row[0].r[k], b = row[1].r[k], c = row[2].r[k], d = row[3].r[k];
                const R ab = __builtin_shuffle(a, b, low), cd = __builtin_shuffle(c, d, low);
                const R ab2 = __builtin_shuffle(a, b, high), cd2 = __builtin_shuffle(c, d, high);
                out[4 * k].r[i] = __builtin_shuffle(ab, cd, first);
                out[4 * k + 1].r[i] = __builtin_shuffle(ab, cd, second);
                out[4 * k + 2].r[i] = __builtin_shuffle(ab2, cd2, first);
                out[4 * k + 3].r[i] = __builtin_shuffle(ab2, cd2, second);
            }
        return;
    }
#endif
    alignas(64) T x[8][8], y[8][8];
    for (int i = 0; i < 8; ++i) in[i].store(x[i]);
    for (int k = 0; k < 8; ++k)
        for (int i = 0; i < 8; ++i) y[k][i] = x[i][k];
    for (int k = 0; k < 8; ++k) out[k] = V8<T>::load(y[k]);
}

// Columns from .. from+COUNT-1 of the [N, D] array `p`, rows first .. first+7 (rows past the end repeat the last one).
template <class T, int COUNT>
S4_INLINE void load_columns(const void* p, int64_t first, int64_t N, int64_t D, int64_t from, V8<T>* columns) {
    const T* start = static_cast<const T*>(p) + from;
    if (D == 1 && first + 8 <= N) {
        columns[0] = V8<T>::load(start + first);
    } else if (D * (first + 7) + from + 8 <= D * N) {  // whole vectors, of which the first COUNT numbers are used
        V8<T> rows[8], all[8];
        for (int i = 0; i < 8; ++i) rows[i] = V8<T>::load(start + D * (first + i));
        transpose8(rows, all);
        for (int k = 0; k < COUNT; ++k) columns[k] = all[k];
    } else {
        alignas(64) T x[COUNT][8];
        for (int i = 0; i < 8; ++i)
            for (int k = 0; k < COUNT; ++k) x[k][i] = start[D * (first + i < N ? first + i : N - 1) + k];
        for (int k = 0; k < COUNT; ++k) columns[k] = V8<T>::load(x[k]);
    }
}
template <class T> S4_INLINE V8<T> load_column(const void* p, int64_t first, int64_t N) {
    V8<T> column[1];
    load_columns<T, 1>(p, first, N, 1, 0, column);
    return column[0];
}
template <class T, int COUNT>
S4_INLINE void store_columns(void* p, int64_t first, int64_t count, int64_t D, int64_t from, const V8<T>* columns) {
    if (!p) return;
    T* start = static_cast<T*>(p) + D * first + from;
    if (D == 1 && count == 8) return columns[0].store(start);
    alignas(64) T x[COUNT][8];
    for (int k = 0; k < COUNT; ++k) columns[k].store(x[k]);
    for (int i = 0; i < count; ++i)
        for (int k = 0; k < COUNT; ++k) start[D * i + k] = x[k][i];
}
template <class T> S4_INLINE void store_column(void* p, int64_t first, int64_t count, V8<T> column) {
    store_columns<T, 1>(p, first, count, 1, 0, &column);
}

// The blend of a group's transforms. Suffix 0: divided by the length of the real part.
template <class T> struct Blend8 {
    using V = V8<T>;
    V rows[SLOTS][8], weight[SLOTS];  // the transform in each slot; softmax numerator times sign, 0 where empty
    V r0[4], d0[4], inv_norm;
    alignas(64) int32_t ids[8 * SLOTS];
    int64_t status = 0;
};

// Slots and their logits of a group, [8][SLOTS]: an empty slot gets index 0 and the logit EMPTY.
template <class T> S4_INLINE int64_t load_slots(const MotionArgs& a, int64_t first, int32_t* ids, T* logits) {
    int32_t bad = 0;
    const int32_t J = int32_t(a.J);
    const int32_t* slots = a.slots + a.M * first;
    const T* from = static_cast<const T*>(a.slot_logits) + a.M * first;
    auto put = [&](int to, int64_t k) {
        const int32_t id = slots[k];
        const bool here = id >= 0 && id < J;
        bad |= id >= J;
        ids[to] = here ? id : 0, logits[to] = here ? from[k] : T(EMPTY);
    };
    if (a.M == SLOTS && first + 8 <= a.N)
        for (int k = 0; k < 8 * SLOTS; ++k) put(k, k);
    else
        for (int i = 0; i < 8; ++i)
            for (int m = 0; m < a.M; ++m) put(SLOTS * i + m, a.M * (first + i < a.N ? i : a.N - 1 - first) + m);
    return bad ? BAD_SLOT : 0;
}

template <class T> S4_INLINE void gather(const MotionArgs& a, int64_t first, Blend8<T>& b) {
    using V = V8<T>;
    using I = typename IntOf<T>::type;
    alignas(64) T packed[8 * SLOTS + 8];
    b.status = load_slots(a, first, b.ids, packed);
    V logits[SLOTS], largest{T(EMPTY)};
    load_columns<T, SLOTS>(packed, 0, 16, SLOTS, 0, logits);  // 16: no row is the last one
    for (int m = 0; m < a.M; ++m) {
        V row[8];
        for (int i = 0; i < 8; ++i) row[i] = V::load(static_cast<const T*>(a.dual_quats) + 8 * b.ids[SLOTS * i + m]);
        transpose8(row, b.rows[m]);
        largest = max(largest, logits[m]);
    }
    V pivot[4];
    Mask8<T> found(I(0));
    for (int m = 0; m < a.M; ++m) {
        const Mask8<T> here = ~(logits[m] == T(EMPTY));
        for (int k = 0; k < 4; ++k) pivot[k] = m ? select(found, pivot[k], b.rows[m][k]) : b.rows[m][k];
        found = found | here;
        V along(T(0));
        for (int k = 0; k < 4; ++k) along += pivot[k] * b.rows[m][k];
        const V below = logits[m] - largest, size = where(here, exp(below) + (below - below));
        b.weight[m] = select(along >= T(0), size, -size);
    }
    V sum[8];
    for (int k = 0; k < 8; ++k) {
        sum[k] = V(T(0));
        for (int m = 0; m < a.M; ++m) sum[k] += b.weight[m] * b.rows[m][k];
    }
    sum[0] = select(found, sum[0], V(T(1)));  // no slot in use: the identity
    V n2(T(0));
    for (int k = 0; k < 4; ++k) n2 += sum[k] * sum[k];
    b.inv_norm = T(1) / max(sqrt(n2), V(T(1e-18)));
    for (int k = 0; k < 4; ++k) b.r0[k] = sum[k] * b.inv_norm, b.d0[k] = sum[4 + k] * b.inv_norm;
}

// R(r0) p + 2 vec(d0 conj(r0))
template <class T> S4_INLINE void transform(const Blend8<T>& b, const V8<T>* p, V8<T>* x) {
    using V = V8<T>;
    const V *u = b.r0 + 1, *e = b.d0 + 1;
    V up[3], inner[3];
    cross(u, p, up);
    for (int k = 0; k < 3; ++k) inner[k] = b.r0[0] * p[k] + up[k] + e[k];  // rotation and translation share 2 u x (..)
    V turned[3];
    cross(u, inner, turned);
    for (int k = 0; k < 3; ++k) x[k] = p[k] + T(2) * (turned[k] + b.r0[0] * e[k] - b.d0[0] * u[k]);
}

// mu + sum_p v_p s^p and, for the backward pass, s and the derivative by s
template <class T> struct Path8 {
    V8<T> p[3], s, slope[3];
};

template <class T> S4_INLINE V8<T> load_times(const MotionArgs& a, int64_t first) {
    return a.times ? load_column<T>(a.times, first, a.N) : V8<T>(T(a.t));
}

template <class T> S4_INLINE Path8<T> follow_path(const MotionArgs& a, int64_t first) {
    using V = V8<T>;
    Path8<T> path;
    load_columns<T, 3>(a.means, first, a.N, 3, 0, path.p);
    if (!a.P) return path;
    path.s = load_times<T>(a, first) - load_column<T>(a.t_ref, first, a.N);
    V value[3];
    for (int k = 0; k < 3; ++k) value[k] = path.slope[k] = V(T(0));
    for (int64_t power = a.P; power >= 1; --power) {  // Horner: value = sum_p v_p s^(p-1)
        V term[3];
        load_columns<T, 3>(a.coefficients, first, a.N, 3 * a.P, 3 * (power - 1), term);
        for (int k = 0; k < 3; ++k) {
            path.slope[k] = path.slope[k] * path.s + value[k];
            value[k] = value[k] * path.s + term[k];
        }
    }
    for (int k = 0; k < 3; ++k) {
        path.p[k] += value[k] * path.s;
        path.slope[k] = path.slope[k] * path.s + value[k];
    }
    return path;
}

template <class T> S4_INLINE Quat8<T> load_quats(const MotionArgs& a, int64_t first) {
    V8<T> q[4];
    load_columns<T, 4>(a.quats, first, a.N, 4, 0, q);
    const V8<T> size = abs(q[0]) + abs(q[1]) + abs(q[2]) + abs(q[3]);
    return {select(size == T(0), V8<T>(T(1)), q[0]), q[1], q[2], q[3]};  // a zero quaternion is the identity
}

// exp and min of simd.h lose a NaN; `x - x` and the order of min's arguments keep it, so that a diverged fit shows.
// Three logits: of the opacity and of both sides of the window.
template <class T> struct Window8 {
    V8<T> sides[3], inv_tau, free;  // free: 0 where log_softness is outside its range
};

template <class T> S4_INLINE Window8<T> load_window(const MotionArgs& a, int64_t first) {
    using V = V8<T>;
    const V t = load_times<T>(a, first), far_away{T(MAX_ELAPSED)}, limit{T(MAX_LOG_SOFTNESS)};
    const V softness = load_column<T>(a.log_softness, first, a.N), held = max(-limit, min(limit, softness));
    Window8<T> w;
    w.inv_tau = exp(-held) + (held - held), w.free = where(held == softness, V(T(1)));
    w.sides[0] = load_column<T>(a.logit_opacities, first, a.N);
    w.sides[1] = min(far_away, t - load_column<T>(a.t_on, first, a.N)) * w.inv_tau;
    w.sides[2] = min(far_away, load_column<T>(a.t_off, first, a.N) - t) * w.inv_tau;
    return w;
}

// logit of the product of three sigmoids: with x_i = -side_i, e^-logit = prod(1 + e^x_i) - 1, a sum of seven positive
// terms. Every 1 + e^x is stored as zero + one scaled by e^-max(x, 0), so that nothing overflows; where all x are
// negative every `one` is scaled by e^-largest as well, so that nothing vanishes.
template <class T> struct Product8 {
    using V = V8<T>;
    V zero[3], one[3], both[3], total, log_scale;

    explicit S4_INLINE Product8(const V* sides) {
        const V none{T(0)}, largest = -min(min(sides[0], sides[1]), sides[2]), shift = min(none, largest);
        const V unshift = exp(shift);
        log_scale = shift;
        for (int i = 0; i < 3; ++i) {
            const V x = -sides[i], decay = exp(-abs(x - shift));
            const Mask8<T> grows = x > none;
            zero[i] = select(grows, decay, V(T(1))), one[i] = select(grows, V(T(1)), decay);
            both[i] = zero[i] + one[i] * unshift;
            log_scale += max(x, none) + (x - x);  // the latter keeps a NaN
        }
        total = one[0] * both[1] * both[2] + zero[0] * (one[1] * both[2] + zero[1] * one[2]);
    }
    S4_INLINE V logit() const { return -(log_scale + log2(total) * T(0.69314718055994530942)); }
    // d logit / d side_i = (1 - S(side_i)) / (1 - prod S) = e^x_i prod over the others of (1 + e^x) / e^-logit
    S4_INLINE V slope(int i) const { return one[i] * both[(i + 1) % 3] * both[(i + 2) % 3] / total; }
};

template <class T> int64_t move_group(const MotionArgs& a, int64_t first) {
    using V = V8<T>;
    const int64_t count = a.N - first < 8 ? a.N - first : 8;
    Blend8<T> b;
    if (a.M) gather(a, first, b);
    if (a.out_means) {
        const Path8<T> path = follow_path<T>(a, first);
        V x[3];
        if (a.M) transform(b, path.p, x);
        store_columns<T, 3>(a.out_means, first, count, 3, 0, a.M ? x : path.p);
    }
    if (a.out_quats) {
        const Quat8<T> q = Quat8<T>{b.r0[0], b.r0[1], b.r0[2], b.r0[3]} * load_quats<T>(a, first);
        const V columns[4] = {q.w, q.x, q.y, q.z};
        store_columns<T, 4>(a.out_quats, first, count, 4, 0, columns);
    }
    if (a.out_logits) {
        store_column(a.out_logits, first, count, Product8<T>(load_window<T>(a, first).sides).logit());
    }
    return b.status;
}

}  // namespace s4
