// Gradients of project.h: from (means2d, whitening, depth, opacity, rgb) to the raw parameters and the pose.
#pragma once

#include "project.h"

namespace s4 {

template <class T> struct PoseGrad {
    V8<T> R[3][3], t[3], center[3];
    PoseGrad() {
        for (auto& row : R)
            for (auto& x : row) x = V8<T>(T(0));
        for (int i = 0; i < 3; ++i) t[i] = center[i] = V8<T>(T(0));
    }
};

// Gradient of one camera's screen values with respect to V = J R M (cov2d = V V^T + eps2d) and the sigmoid.
template <class T>
S4_INLINE void covariance_backward(const ProjectArgs& a, const Splat8<T>& s, const V8<T>* v_w, V8<T> v_opacity,
                                   V8<T> (*v_v)[3], V8<T>& v_sigmoid) {
    using V = V8<T>;
    const V inv_det = T(1) / s.det, inv_yy = T(1) / s.yy, inv_size = T(1) / s.size;
    const V half_u = T(0.5) * v_w[0] * inv_size * sqrt(s.yy * inv_det);
    const V half_v = T(0.5) * v_w[2] * inv_size * sqrt(inv_yy), slope = s.xy * inv_yy;
    // (size u)^2 = yy / det, s = -xy / yy, (size v)^2 = 1 / yy, det = xx yy - xy^2
    V v_xx = -half_u * (s.yy * inv_det);
    V v_xy = T(2) * half_u * (s.xy * inv_det) - v_w[1] * inv_yy;
    V v_yy = v_w[1] * slope * inv_yy - half_u * slope * (s.xy * inv_det) - half_v * inv_yy;
    v_sigmoid += v_opacity * s.compensation;
    if (a.antialiased) {  // compensation^2 = cross2 / det
        const V half = T(0.5) * v_opacity * s.sigmoid * s.compensation, inv_cross2 = T(1) / max(s.cross2, V(T(1e-36)));
        v_xx += half * ((s.yy - s.eps) * inv_cross2 - s.yy * inv_det);
        v_yy += half * ((s.xx - s.eps) * inv_cross2 - s.xx * inv_det);
        v_xy -= T(2) * half * s.xy * (inv_cross2 - inv_det);
    }
    for (int k = 0; k < 3; ++k) {
        v_v[0][k] = (T(2) * v_xx * s.v[0][k] + v_xy * s.v[1][k]) * inv_size;
        v_v[1][k] = (v_xy * s.v[0][k] + T(2) * v_yy * s.v[1][k]) * inv_size;
    }
}

// From V = U M, M = Rq diag(scale), U = J R and the means2d to point, pose, rotation and scale.
template <class T>
S4_INLINE void geometry_backward(const Camera<T>& cam, const Splat8<T>& s, const V8<T>* v_m2, V8<T> v_depth,
                                 V8<T> (*v_v)[3], Mask8<T> seen, V8<T>* v_mean, V8<T> (*v_M)[3],
                                 PoseGrad<T>& pose) {
    using V = V8<T>;
    V v_U[2][3];
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 3; ++j) {
            v_U[i][j] = V(T(0));
            for (int k = 0; k < 3; ++k) v_U[i][j] += v_v[i][k] * s.Rq[j][k] * s.scale[k];
        }
    for (int j = 0; j < 3; ++j)
        for (int k = 0; k < 3; ++k) v_M[j][k] += s.U[0][j] * v_v[0][k] + s.U[1][j] * v_v[1][k];
    V v_J0(T(0)), v_J1(T(0)), v_tx(T(0)), v_ty(T(0));
    for (int j = 0; j < 3; ++j) {
        v_J0 += v_U[0][j] * (cam.R[0][j] - s.tx * cam.R[2][j]);
        v_J1 += v_U[1][j] * (cam.R[1][j] - s.ty * cam.R[2][j]);
        v_tx -= s.J0 * v_U[0][j] * cam.R[2][j];
        v_ty -= s.J1 * v_U[1][j] * cam.R[2][j];
        pose.R[0][j] += s.J0 * v_U[0][j];
        pose.R[1][j] += s.J1 * v_U[1][j];
        pose.R[2][j] -= s.J0 * s.tx * v_U[0][j] + s.J1 * s.ty * v_U[1][j];
    }
    V v_sx = v_m2[0] * cam.fx + where(s.free_x, v_tx), v_sy = v_m2[1] * cam.fy + where(s.free_y, v_ty);
    V v_inv_z = v_J0 * cam.fx + v_J1 * cam.fy + v_sx * s.p[0] + v_sy * s.p[1];
    V v_p[3] = {v_sx * s.inv_z, v_sy * s.inv_z, v_depth - v_inv_z * s.inv_z * s.inv_z};
    for (int i = 0; i < 3; ++i) {
        v_p[i] = where(seen, v_p[i]);  // lanes not drawn may hold infinities
        pose.t[i] += v_p[i];
        for (int j = 0; j < 3; ++j) {
            pose.R[i][j] += v_p[i] * s.mean[j];
            v_mean[j] += v_p[i] * cam.R[i][j];
        }
    }
}

template <class T> S4_INLINE void quaternion_backward(const Splat8<T>& s, const V8<T> (*v_M)[3], V8<T>* v_quat) {
    using V = V8<T>;
    V g[3][3];
    for (int j = 0; j < 3; ++j)
        for (int k = 0; k < 3; ++k) g[j][k] = v_M[j][k] * s.scale[k];
    const V w = s.quat[0], x = s.quat[1], y = s.quat[2], z = s.quat[3], two(T(2));
    V v[4];
    v[0] = two * (x * (g[2][1] - g[1][2]) + y * (g[0][2] - g[2][0]) + z * (g[1][0] - g[0][1]));
    v[1] = two * (w * (g[2][1] - g[1][2]) + y * (g[0][1] + g[1][0]) + z * (g[0][2] + g[2][0]) - two * x * (g[1][1] + g[2][2]));
    v[2] = two * (w * (g[0][2] - g[2][0]) + x * (g[0][1] + g[1][0]) + z * (g[1][2] + g[2][1]) - two * y * (g[0][0] + g[2][2]));
    v[3] = two * (w * (g[1][0] - g[0][1]) + x * (g[0][2] + g[2][0]) + y * (g[1][2] + g[2][1]) - two * z * (g[0][0] + g[1][1]));
    V along(T(0));
    for (int i = 0; i < 4; ++i) along += s.quat[i] * v[i];
    for (int i = 0; i < 4; ++i) v_quat[i] = (v[i] - s.quat[i] * along) * s.inv_norm;
}

template <class T, int D>
S4_INLINE void store_rows(void* p, int64_t first, int64_t count, const V8<T>* columns) {
    if (!p) return;
    alignas(64) T x[D][8];
    for (int d = 0; d < D; ++d) columns[d].store(x[d]);
    for (int i = 0; i < count; ++i)
        for (int d = 0; d < D; ++d) static_cast<T*>(p)[D * (first + i) + d] = x[d][i];
}

template <class T> S4_INLINE void clear_rows(void* p, int64_t first, int64_t count, int64_t D) {
    if (p) std::memset(static_cast<T*>(p) + D * first, 0, sizeof(T) * D * count);
}

// One camera's share of a group: adds to v_mean, v_M, v_sigmoid, v_color, v_sh and the pose.
template <class T>
S4_INLINE void camera_backward(const ProjectArgs& a, const Camera<T>& cam, int64_t c, int64_t first, Mask8<T> seen,
                               Splat8<T>& s, V8<T>* v_mean, V8<T> (*v_M)[3], V8<T>& v_sigmoid, V8<T>* v_color,
                               PoseGrad<T>& pose) {
    using V = V8<T>;
    const int64_t count = a.N - first < 8 ? a.N - first : 8;
    project_splats(a, cam, s);
    V v_m2[2], v[ROW], v_v[2][3];
    const T* v_rows = static_cast<const T*>(a.v_rows) + ROW * c * a.N;
    load_rows<T, 2>(static_cast<const T*>(a.v_means2d) + 2 * c * a.N, first, a.N, v_m2);
    load_rows<T, ROW>(v_rows, first, a.N, v);
    s.det = select(seen, s.det, V(T(1))), s.yy = select(seen, s.yy, V(T(1)));
    for (auto& x : v_m2) x = where(seen, x);
    for (auto& x : v) x = where(seen, x);
    for (auto& row : s.v)
        for (auto& x : row) x = where(seen, x);
    covariance_backward(a, s, &v[ROW_U], v[ROW_OPACITY], v_v, v_sigmoid);
    for (auto& row : v_v)
        for (auto& x : row) x = where(seen, x);
    geometry_backward(cam, s, v_m2, v[ROW_DEPTH], v_v, seen, v_mean, v_M, pose);
    if (a.S)
        with_sh_count(a.S, [&](auto S) {
            sh_backward<T, S>(a, cam.center, s.mean, seen, first, count, static_cast<const T*>(a.rows) + ROW * c * a.N,
                              v_rows, v_mean, pose.center);
        });
    else
        for (int k = 0; k < 3; ++k) v_color[k] += v[ROW_RGB + k];
}

template <class T>
void project_group_backward(const ProjectArgs& a, const Camera<T>* cameras, PoseGrad<T>* poses, int64_t first) {
    using V = V8<T>;
    using I = typename IntOf<T>::type;
    const int64_t count = a.N - first < 8 ? a.N - first : 8;
    if (a.S) clear_rows<T>(a.v_sh, first, count, 3 * a.S);
    Splat8<T> s;
    bool loaded = false;
    const V zero(T(0));
    V v_mean[3] = {zero, zero, zero}, v_color[3] = {zero, zero, zero}, v_M[3][3], v_sigmoid = zero;
    for (auto& row : v_M)
        for (auto& x : row) x = zero;
    for (int64_t c = 0; c < a.C; ++c) {
        alignas(64) I drawn[8] = {};
        I some = 0;
        for (int i = 0; i < count; ++i) some |= drawn[i] = a.radii[2 * (c * a.N + first + i)] > 0 ? -1 : 0;
        if (!some) continue;
        if (!loaded) load_splats(a, first, s);
        loaded = true;
        camera_backward(a, cameras[c], c, first, Mask8<T>::load(drawn), s, v_mean, v_M, v_sigmoid, v_color, poses[c]);
    }
    V v_quat[4] = {zero, zero, zero, zero}, v_log_scales[3] = {zero, zero, zero}, v_logit[1] = {zero};
    if (loaded) {
        quaternion_backward(s, v_M, v_quat);
        for (int k = 0; k < 3; ++k)
            v_log_scales[k] =
                (v_M[0][k] * s.Rq[0][k] + v_M[1][k] * s.Rq[1][k] + v_M[2][k] * s.Rq[2][k]) * s.scale[k];
        v_logit[0] = v_sigmoid * s.sigmoid * (T(1) - s.sigmoid);
    }
    store_rows<T, 3>(a.v_means, first, count, v_mean);
    store_rows<T, 4>(a.v_quats, first, count, v_quat);
    store_rows<T, 3>(a.v_log_scales, first, count, v_log_scales);
    store_rows<T, 1>(a.v_logit_opacities, first, count, v_logit);
    store_rows<T, 3>(a.v_colors, first, count, v_color);
}

}  // namespace s4
