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
    V inv_det = T(1) / s.det, inv_yy = T(1) / s.yy, u = sqrt(s.yy * inv_det), w = sqrt(inv_yy);
    V half_u = v_w[0] * u * T(0.5);  // u^2 = yy / det, s = -xy / yy, v^2 = 1 / yy, det = xx yy - xy^2
    V v_xx = -(half_u * s.yy * inv_det);
    V v_xy = T(2) * half_u * s.xy * inv_det - v_w[1] * inv_yy;
    V v_yy = v_w[1] * s.xy * inv_yy * inv_yy - half_u * s.xy * s.xy * inv_yy * inv_det - T(0.5) * v_w[2] * w * inv_yy;
    v_sigmoid += v_opacity * s.compensation;
    if (a.antialiased) {  // compensation^2 = cross2 / det
        V half = T(0.5) * v_opacity * s.sigmoid * s.compensation, inv_cross2 = T(1) / max(s.cross2, V(T(1e-36)));
        const T eps = T(a.eps2d);
        v_xx += half * ((s.yy - eps) * inv_cross2 - s.yy * inv_det);
        v_yy += half * ((s.xx - eps) * inv_cross2 - s.xx * inv_det);
        v_xy -= T(2) * half * s.xy * (inv_cross2 - inv_det);
    }
    for (int k = 0; k < 3; ++k) {
        v_v[0][k] = T(2) * v_xx * s.v[0][k] + v_xy * s.v[1][k];
        v_v[1][k] = v_xy * s.v[0][k] + T(2) * v_yy * s.v[1][k];
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
S4_INLINE void add_rows(void* p, int64_t first, int64_t count, const V8<T>* columns) {
    if (!p) return;
    alignas(64) T x[D][8];
    for (int d = 0; d < D; ++d) columns[d].store(x[d]);
    for (int i = 0; i < count; ++i)
        for (int d = 0; d < D; ++d) static_cast<T*>(p)[D * (first + i) + d] += x[d][i];
}

template <class T>
void project_group_backward(const ProjectArgs& a, const Camera<T>* cameras, PoseGrad<T>* poses, int64_t first) {
    using V = V8<T>;
    using I = typename IntOf<T>::type;
    const int64_t count = a.N - first < 8 ? a.N - first : 8;
    Splat8<T> s;
    bool loaded = false;
    V zero(T(0)), v_mean[3] = {zero, zero, zero}, v_M[3][3], v_sigmoid = zero;
    for (auto& row : v_M)
        for (auto& x : row) x = zero;
    for (int64_t c = 0; c < a.C; ++c) {
        alignas(64) I drawn[8] = {};
        I some = 0;
        for (int i = 0; i < count; ++i) some |= drawn[i] = a.radii[2 * (c * a.N + first + i)] > 0 ? -1 : 0;
        if (!some) continue;
        if (!loaded) load_splats(a, first, s);
        loaded = true;
        project_splats(a, cameras[c], s);
        const Mask8<T> seen = Mask8<T>::load(drawn);
        V v_m2[2], v_w[3], v_depth[1], v_opacity[1], v_v[2][3];
        auto at = [&](const void* p, int D) { return static_cast<const T*>(p) + D * c * a.N; };
        load_rows<T, 2>(at(a.v_means2d, 2), first, a.N, v_m2);
        load_rows<T, 3>(at(a.v_whitening, 3), first, a.N, v_w);
        load_rows<T, 1>(at(a.v_depths, 1), first, a.N, v_depth);
        load_rows<T, 1>(at(a.v_opacities, 1), first, a.N, v_opacity);
        s.det = select(seen, s.det, V(T(1))), s.yy = select(seen, s.yy, V(T(1)));
        for (auto& row : s.v)
            for (auto& x : row) x = where(seen, x);
        for (V* v : {&v_m2[0], &v_m2[1], &v_w[0], &v_w[1], &v_w[2], &v_depth[0], &v_opacity[0]}) *v = where(seen, *v);
        covariance_backward(a, s, v_w, v_opacity[0], v_v, v_sigmoid);
        for (auto& row : v_v)
            for (auto& x : row) x = where(seen, x);
        geometry_backward(cameras[c], s, v_m2, v_depth[0], v_v, seen, v_mean, v_M, poses[c]);
        if (a.S)
            sh_backward(a, cameras[c].center, s.mean, seen, first, count, at(a.rgb, 3), at(a.v_rgb, 3), v_mean,
                        poses[c].center);
    }
    if (!loaded) return;
    V v_quat[4], v_log_scales[3], v_logit[1] = {v_sigmoid * s.sigmoid * (T(1) - s.sigmoid)};
    quaternion_backward(s, v_M, v_quat);
    for (int k = 0; k < 3; ++k) {
        V v = v_M[0][k] * s.Rq[0][k] + v_M[1][k] * s.Rq[1][k] + v_M[2][k] * s.Rq[2][k];
        v_log_scales[k] = v * s.scale[k];
    }
    add_rows<T, 3>(a.v_means, first, count, v_mean);
    add_rows<T, 4>(a.v_quats, first, count, v_quat);
    add_rows<T, 3>(a.v_log_scales, first, count, v_log_scales);
    add_rows<T, 1>(a.v_logit_opacities, first, count, v_logit);
}

}  // namespace s4
