// Gradients of motion.h. Everything is computed again; nothing is kept from the forward pass.
#pragma once

#include <algorithm>
#include <vector>

#include "motion.h"

namespace s4 {

template <class T, int D> S4_INLINE void load_upstream(const void* p, int64_t first, int64_t N, V8<T>* columns) {
    if (p) load_columns<T, D>(p, first, N, D, 0, columns);
    else
        for (int d = 0; d < D; ++d) columns[d] = V8<T>(T(0));
}

// Through x = transform(b, p): adds to the gradient of the blend, turns v_x into v_p.
template <class T>
S4_INLINE void transform_backward(const Blend8<T>& b, const V8<T>* p, V8<T>* v_x, V8<T>* v_r, V8<T>* v_d) {
    using V = V8<T>;
    const V *u = b.r0 + 1, *e = b.d0 + 1;
    const V w = b.r0[0];
    V up[3], inner[3], v_up[3], v_inner[3], part[3];
    cross(u, p, up);
    for (int k = 0; k < 3; ++k) inner[k] = w * p[k] + up[k] + e[k];
    // x = p + 2 (u x inner + w e - d u)
    V v[3] = {v_x[0] * T(2), v_x[1] * T(2), v_x[2] * T(2)};
    cross(v, u, v_inner);      // of u x inner by inner
    cross(inner, v, part);     // and by u
    cross(v_inner, u, v_up);   // of up by p
    v_r[0] += dot(v, e) + dot(v_inner, p);
    v_d[0] -= dot(v, u);
    for (int k = 0; k < 3; ++k) {
        v_r[1 + k] += part[k] - b.d0[0] * v[k];
        v_d[1 + k] += w * v[k] + v_inner[k];
        v_x[k] += w * v_inner[k] + v_up[k];
    }
    cross(p, v_inner, part);   // of up by u
    for (int k = 0; k < 3; ++k) v_r[1 + k] += part[k];
}

// From the normalised blend to slot logits and, row by row, to the transforms (partial: [J, 8] of this chunk).
template <class T>
S4_INLINE void blend_backward(const MotionArgs& a, int64_t first, int64_t count, const Blend8<T>& b, V8<T>* v_r,
                              V8<T>* v_d, T* partial) {
    using V = V8<T>;
    V along(T(0)), v_sum[8];
    for (int k = 0; k < 4; ++k) along += b.r0[k] * v_r[k] + b.d0[k] * v_d[k];
    for (int k = 0; k < 4; ++k) {
        v_sum[k] = (v_r[k] - b.r0[k] * along) * b.inv_norm;
        v_sum[4 + k] = v_d[k] * b.inv_norm;
    }
    // The softmax denominator cancels in the normalisation, so a logit's gradient is that of its numerator.
    for (int m = 0; m < a.M && a.v_slot_logits; ++m) {
        V v_logit{T(0)};
        for (int k = 0; k < 8; ++k) v_logit += v_sum[k] * b.rows[m][k];
        v_logit *= b.weight[m];
        store_columns<T, 1>(a.v_slot_logits, first, count, a.M, m, &v_logit);
    }
    if (!partial) return;
    V v_rows[8];
    transpose8(v_sum, v_rows);
    for (int m = 0; m < a.M; ++m) {
        alignas(64) T weight[8];
        b.weight[m].store(weight);
        for (int i = 0; i < count; ++i) {
            T* row = partial + 8 * b.ids[SLOTS * i + m];
            (V::load(row) + v_rows[i] * weight[i]).store(row);
        }
    }
}

template <class T>
S4_INLINE void path_backward(const MotionArgs& a, int64_t first, int64_t count, const Path8<T>& path,
                             const V8<T>* v_p) {
    using V = V8<T>;
    store_columns<T, 3>(a.v_means, first, count, 3, 0, v_p);
    if (!a.P) return;
    V power = path.s;
    for (int64_t p = 0; p < a.P; ++p, power *= path.s) {
        const V v[3] = {v_p[0] * power, v_p[1] * power, v_p[2] * power};
        store_columns<T, 3>(a.v_coefficients, first, count, 3 * a.P, 3 * p, v);
    }
    store_column<T>(a.v_t_ref, first, count, -dot(v_p, path.slope));
}

template <class T> S4_INLINE void window_backward(const MotionArgs& a, int64_t first, int64_t count) {
    using V = V8<T>;
    const Window8<T> w = load_window<T>(a, first);
    V v_logit[1], v_side[3];
    load_upstream<T, 1>(a.v_out_logits, first, a.N, v_logit);
    const Product8<T> product(w.sides);
    for (int i = 0; i < 3; ++i) v_side[i] = v_logit[0] * product.slope(i);
    store_column<T>(a.v_logit_opacities, first, count, v_side[0]);
    store_column<T>(a.v_t_on, first, count, -v_side[1] * w.inv_tau);
    store_column<T>(a.v_t_off, first, count, v_side[2] * w.inv_tau);
    const V v_softness = -(v_side[1] * w.sides[1] + v_side[2] * w.sides[2]) * w.free;
    store_column<T>(a.v_log_softness, first, count, v_softness);
}

template <class T> void move_group_backward(const MotionArgs& a, int64_t first, T* partial) {
    using V = V8<T>;
    const int64_t count = a.N - first < 8 ? a.N - first : 8;
    Blend8<T> b;
    if (a.M) gather(a, first, b);
    V v_r[4], v_d[4], v_x[3], v_q[4];
    for (int k = 0; k < 4; ++k) v_r[k] = v_d[k] = V(T(0));
    load_upstream<T, 3>(a.v_out_means, first, a.N, v_x);
    const Path8<T> path = follow_path<T>(a, first);
    if (a.M) transform_backward(b, path.p, v_x, v_r, v_d);
    path_backward(a, first, count, path, v_x);
    if (a.M) {
        load_upstream<T, 4>(a.v_out_quats, first, a.N, v_q);
        const Quat8<T> up{v_q[0], v_q[1], v_q[2], v_q[3]}, r{b.r0[0], b.r0[1], b.r0[2], b.r0[3]};
        const Quat8<T> v_quat = conjugate(r) * up, turn = up * conjugate(load_quats<T>(a, first));
        v_r[0] += turn.w, v_r[1] += turn.x, v_r[2] += turn.y, v_r[3] += turn.z;
        const V columns[4] = {v_quat.w, v_quat.x, v_quat.y, v_quat.z};
        store_columns<T, 4>(a.v_quats, first, count, 4, 0, columns);
        blend_backward(a, first, count, b, v_r, v_d, partial);
    }
    if (a.t_on) window_backward<T>(a, first, count);
}

// How many Gaussians share one partial sum of the transforms' gradients. It depends on N alone, so sums do not depend
// on the threads; there are at most 64 partial sums, so that they stay small beside the rest.
inline int64_t chunk_size(int64_t N) { return std::max<int64_t>(2048, (N + 63) / 64 + 7) / 8 * 8; }

template <class T> void add_partials(const MotionArgs& a, const std::vector<T>& partials, int64_t chunks) {
    T* out = static_cast<T*>(a.v_dual_quats);
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (int64_t k = 0; k < 8 * a.J; ++k) {
        double sum = 0;
        for (int64_t c = 0; c < chunks; ++c) sum += partials[8 * a.J * c + k];
        out[k] = T(sum);
    }
}

}  // namespace s4
