// Projection of eight Gaussians at a time: activations, EWA covariance, whitening (Zwicker et al. 2001, eq. 31).
#pragma once

#include "api.h"
#include "sh.h"
#include "simd.h"

namespace s4 {

constexpr double ALPHA_THRESHOLD = 1.0 / 255.0, FRUSTUM_MARGIN = 0.3, MAX_LOG_SCALE = 20.0;

template <class T> struct Camera {
    T R[3][3], t[3], fx, fy, cx, cy, low_x, high_x, low_y, high_y, center[3];  // low/high: limits of x/z in J

    Camera(const ProjectArgs& a, int64_t c) {
        const T *pose = static_cast<const T*>(a.world_to_cam) + 16 * c, *K = static_cast<const T*>(a.K) + 9 * c;
        for (int i = 0; i < 3; ++i) {
            for (int j = 0; j < 3; ++j) R[i][j] = pose[4 * i + j];
            t[i] = pose[4 * i + 3];
        }
        for (int j = 0; j < 3; ++j) center[j] = -(R[0][j] * t[0] + R[1][j] * t[1] + R[2][j] * t[2]);
        fx = K[0], fy = K[4], cx = K[2], cy = K[5];
        T W = a.width, H = a.height, margin_x = FRUSTUM_MARGIN * 0.5 * W / fx, margin_y = FRUSTUM_MARGIN * 0.5 * H / fy;
        low_x = -(cx / fx + margin_x), high_x = (W - cx) / fx + margin_x;
        low_y = -(cy / fy + margin_y), high_y = (H - cy) / fy + margin_y;
    }
};

// Columns of the [N, D] array `p` for rows first .. first+7 (rows past the end repeat the last one).
template <class T, int D> S4_INLINE void load_rows(const void* p, int64_t first, int64_t N, V8<T>* columns) {
    alignas(64) T x[D][8];
    for (int i = 0; i < 8; ++i) {
        const T* row = static_cast<const T*>(p) + D * (first + i < N ? first + i : N - 1);
        for (int d = 0; d < D; ++d) x[d][i] = row[d];
    }
    for (int d = 0; d < D; ++d) columns[d] = V8<T>::load(x[d]);
}

// What is needed again in the backward pass, recomputed there. v = J R M / size is [2, 3]; size >= 1 keeps the squares of
// splats of millions of pixels finite, and cancels out.
template <class T> struct Splat8 {
    using V = V8<T>;
    V mean[3], quat[4], p[3], inv_z, slope[2], J0, J1, tx, ty, U[2][3], Rq[3][3], inv_norm, scale[3], v[2][3];
    V size, eps, xx, xy, yy, cross2, det, sigmoid, compensation;  // eps = eps2d / size^2; xx, yy include it
    Mask8<T> in_front, free_x, free_y;
};

template <class T> S4_INLINE void rotate(Splat8<T>& s) {
    using V = V8<T>;
    V largest = max(max(abs(s.quat[0]), abs(s.quat[1])), max(abs(s.quat[2]), abs(s.quat[3])));
    V shrink = T(1) / max(largest, V(T(1e-30)));
    V q[4], n2(T(0));
    for (int i = 0; i < 4; ++i) q[i] = s.quat[i] * shrink, n2 += q[i] * q[i];
    V inv = T(1) / max(sqrt(n2), V(T(1e-12)));
    s.inv_norm = where(n2 > T(0), inv * shrink);  // a zero quaternion is the identity and has no gradient
    for (int i = 0; i < 4; ++i) s.quat[i] = q[i] * inv;
    V w = s.quat[0], x = s.quat[1], y = s.quat[2], z = s.quat[3];
    V two(T(2)), one(T(1));
    s.Rq[0][0] = one - two * (y * y + z * z), s.Rq[0][1] = two * (x * y - w * z), s.Rq[0][2] = two * (x * z + w * y);
    s.Rq[1][0] = two * (x * y + w * z), s.Rq[1][1] = one - two * (x * x + z * z), s.Rq[1][2] = two * (y * z - w * x);
    s.Rq[2][0] = two * (x * z - w * y), s.Rq[2][1] = two * (y * z + w * x), s.Rq[2][2] = one - two * (x * x + y * y);
}

// Camera-independent part: raw parameters to means, rotations, scales, sigmoid of the opacity.
template <class T> S4_INLINE int64_t load_splats(const ProjectArgs& a, int64_t first, Splat8<T>& s) {
    using V = V8<T>;
    V log_scales[3], logit[1];
    load_rows<T, 3>(a.means, first, a.N, s.mean);
    load_rows<T, 4>(a.quats, first, a.N, s.quat);
    load_rows<T, 3>(a.log_scales, first, a.N, log_scales);
    load_rows<T, 1>(a.logit_opacities, first, a.N, logit);
    V zero(T(0)), bad[4] = {zero, zero, zero, zero}, largest = max(max(log_scales[0], log_scales[1]), log_scales[2]);
    for (int i = 0; i < 3; ++i) bad[0] += s.mean[i] - s.mean[i], bad[2] += log_scales[i] - log_scales[i];
    for (int i = 0; i < 4; ++i) bad[1] += s.quat[i] - s.quat[i];
    bad[3] = logit[0] - logit[0];
    int64_t status = any(largest > T(MAX_LOG_SCALE)) ? LARGE_LOG_SCALES : 0;
    for (int i = 0; i < 4; ++i) status |= any(~(bad[i] == zero)) ? 1 << i : 0;
    rotate(s);
    for (int i = 0; i < 3; ++i) s.scale[i] = exp(log_scales[i]);
    s.sigmoid = T(1) / (T(1) + exp(-logit[0]));
    return status;
}

template <class T> S4_INLINE void project_splats(const ProjectArgs& a, const Camera<T>& cam, Splat8<T>& s) {
    using V = V8<T>;
    for (int i = 0; i < 3; ++i)
        s.p[i] = s.mean[0] * cam.R[i][0] + s.mean[1] * cam.R[i][1] + s.mean[2] * cam.R[i][2] + cam.t[i];
    s.in_front = (s.p[2] >= T(a.near_plane)) & (s.p[2] <= T(a.far_plane));
    s.inv_z = T(1) / select(s.in_front, s.p[2], V(T(1)));
    for (int i = 0; i < 2; ++i) s.slope[i] = s.p[i] * s.inv_z;
    s.tx = min(max(s.slope[0], V(cam.low_x)), V(cam.high_x));
    s.ty = min(max(s.slope[1], V(cam.low_y)), V(cam.high_y));
    s.free_x = s.tx == s.slope[0], s.free_y = s.ty == s.slope[1];
    s.J0 = cam.fx * s.inv_z, s.J1 = cam.fy * s.inv_z;
    for (int j = 0; j < 3; ++j) {
        s.U[0][j] = s.J0 * (cam.R[0][j] - s.tx * cam.R[2][j]);
        s.U[1][j] = s.J1 * (cam.R[1][j] - s.ty * cam.R[2][j]);
    }
    for (int i = 0; i < 2; ++i)
        for (int k = 0; k < 3; ++k)
            s.v[i][k] = s.scale[k] * (s.U[i][0] * s.Rq[0][k] + s.U[i][1] * s.Rq[1][k] + s.U[i][2] * s.Rq[2][k]);
    s.size = V(T(1));
    for (auto& row : s.v)
        for (const V& x : row) s.size = max(s.size, abs(x));
    const V inv_size = T(1) / s.size;
    for (auto& row : s.v)
        for (V& x : row) x = x * inv_size;
    V x = s.v[0][1] * s.v[1][2] - s.v[0][2] * s.v[1][1], y = s.v[0][2] * s.v[1][0] - s.v[0][0] * s.v[1][2];
    V z = s.v[0][0] * s.v[1][1] - s.v[0][1] * s.v[1][0];
    s.cross2 = x * x + y * y + z * z;  // det(V V^T) by Lagrange's identity: no cancellation for needles
    s.xx = s.v[0][0] * s.v[0][0] + s.v[0][1] * s.v[0][1] + s.v[0][2] * s.v[0][2];
    s.xy = s.v[0][0] * s.v[1][0] + s.v[0][1] * s.v[1][1] + s.v[0][2] * s.v[1][2];
    s.yy = s.v[1][0] * s.v[1][0] + s.v[1][1] * s.v[1][1] + s.v[1][2] * s.v[1][2];
    s.eps = T(a.eps2d) * inv_size * inv_size;
    s.det = s.cross2 + (s.xx + s.yy) * s.eps + s.eps * s.eps;
    s.xx += s.eps, s.yy += s.eps;
    s.compensation = V(T(1));
    if (a.antialiased) s.compensation = sqrt(s.cross2) / sqrt(max(s.det, V(T(1e-36))));
}

// Half-size of the box where alpha can reach 1/255, and whether it meets the image.
template <class T>
S4_INLINE Mask8<T> visible(const ProjectArgs& a, const Splat8<T>& s, V8<T> mx, V8<T> my, V8<T>& hx, V8<T>& hy) {
    using V = V8<T>;
    V opacity = s.sigmoid * s.compensation;
    V cut = log2(max(opacity, V(T(1e-30))) * T(1 / ALPHA_THRESHOLD)) * T(2 * 0.69314718055994530942);
    V reach = max(cut, V(T(0)));
    hx = sqrt(reach * s.xx) * s.size, hy = sqrt(reach * s.yy) * s.size;
    Mask8<T> inside = (mx + hx > T(0)) & (my + hy > T(0)) & (mx - hx < T(a.width)) & (my - hy < T(a.height));
    return s.in_front & (opacity >= T(ALPHA_THRESHOLD)) & (s.det > T(0)) & inside;
}

template <class T> int64_t project_group(const ProjectArgs& a, const Camera<T>* cameras, int64_t first) {
    using V = V8<T>;
    Splat8<T> s;
    int64_t status = load_splats(a, first, s);
    const int64_t count = a.N - first < 8 ? a.N - first : 8;
    for (int64_t c = 0; c < a.C; ++c) {
        const Camera<T>& cam = cameras[c];
        project_splats(a, cam, s);
        V x = s.slope[0] * cam.fx + cam.cx, y = s.slope[1] * cam.fy + cam.cy, hx, hy;
        x = where(s.in_front, x), y = where(s.in_front, y);
        const Mask8<T> seen = visible(a, s, x, y, hx, hy);
        const V inv_yy = T(1) / max(s.yy, V(T(1e-36)));
        alignas(64) T row[ROW][8], screen[4][8];
        (sqrt(s.yy / max(s.det, V(T(1e-36)))) / s.size).store(row[ROW_U]);
        (-s.xy * inv_yy).store(row[ROW_S]), (sqrt(inv_yy) / s.size).store(row[ROW_V]);
        (s.sigmoid * s.compensation).store(row[ROW_OPACITY]), s.p[2].store(row[ROW_DEPTH]);
        x.store(screen[0]), y.store(screen[1]), min(hx, V(T(1e9))).store(screen[2]), min(hy, V(T(1e9))).store(screen[3]);
        colors_of_group(a, cam.center, s.mean, seen, first, count, &row[ROW_RGB]);
        for (int i = 0; i < count; ++i) {
            const int64_t n = c * a.N + first + i;
            T *mean = static_cast<T*>(a.means2d) + 2 * n, *out = static_cast<T*>(a.rows) + ROW * n;
            mean[0] = screen[0][i], mean[1] = screen[1][i];
            for (int d = 0; d < ROW; ++d) out[d] = row[d][i];
            for (int d = 0; d < 2; ++d) {
                const T half = seen[i] ? screen[2 + d][i] : T(0);
                const int32_t whole = int32_t(half), up = whole + (T(whole) < half);
                a.radii[2 * n + d] = seen[i] ? (up > 1 ? up : 1) : 0;
            }
        }
    }
    return status;
}

}  // namespace s4
