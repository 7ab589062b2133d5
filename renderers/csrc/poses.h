// Rigid transforms through knots; see renderers/poses_torch.py for the formulas. Written once for a scalar S: T itself,
// or Dual<T>, whose derivatives by all knots in play (forward mode) give the backward pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "motion_api.h"
#include "simd.h"

namespace s4 {

constexpr double SMALL = 1e-4;  // squared half-angle below which series are used: their error is its 4th power

// A number and its derivatives by 8 W inputs.
template <class T, int W> struct Dual {
    T v;
    V8<T> d[W];
    Dual() {}
    Dual(T x) : v(x) {
        for (auto& y : d) y = V8<T>(T(0));
    }
};
template <class T, int W> Dual<T, W> chain(T v, T da, const Dual<T, W>& a) {
    Dual<T, W> c;
    c.v = v;
    for (int k = 0; k < W; ++k) c.d[k] = a.d[k] * da;
    return c;
}
template <class T, int W> Dual<T, W> chain(T v, T da, const Dual<T, W>& a, T db, const Dual<T, W>& b) {
    Dual<T, W> c;
    c.v = v;
    for (int k = 0; k < W; ++k) c.d[k] = a.d[k] * da + b.d[k] * db;
    return c;
}
#define S4_DUAL template <class T, int W> Dual<T, W>
#define S4_NUMBER std::type_identity_t<T>
S4_DUAL operator+(const Dual<T, W>& a, const Dual<T, W>& b) { return chain(a.v + b.v, T(1), a, T(1), b); }
S4_DUAL operator-(const Dual<T, W>& a, const Dual<T, W>& b) { return chain(a.v - b.v, T(1), a, T(-1), b); }
S4_DUAL operator*(const Dual<T, W>& a, const Dual<T, W>& b) { return chain(a.v * b.v, b.v, a, a.v, b); }
S4_DUAL operator/(const Dual<T, W>& a, const Dual<T, W>& b) {
    return chain(a.v / b.v, T(1) / b.v, a, -a.v / (b.v * b.v), b);
}
S4_DUAL operator-(const Dual<T, W>& a) { return chain(-a.v, T(-1), a); }
S4_DUAL operator+(const Dual<T, W>& a, S4_NUMBER b) { return chain(a.v + b, T(1), a); }
S4_DUAL operator*(const Dual<T, W>& a, S4_NUMBER b) { return chain(a.v * b, b, a); }
S4_DUAL operator-(S4_NUMBER a, const Dual<T, W>& b) { return chain(a - b.v, T(-1), b); }
S4_DUAL sqrt(const Dual<T, W>& a) { return chain(std::sqrt(a.v), T(0.5) / std::sqrt(a.v), a); }
S4_DUAL sin(const Dual<T, W>& a) { return chain(std::sin(a.v), std::cos(a.v), a); }
S4_DUAL cos(const Dual<T, W>& a) { return chain(std::cos(a.v), -std::sin(a.v), a); }
S4_DUAL atan2(const Dual<T, W>& y, const Dual<T, W>& x) {
    const T n2 = x.v * x.v + y.v * y.v;
    return chain(std::atan2(y.v, x.v), x.v / n2, y, -y.v / n2, x);
}
#undef S4_DUAL
#undef S4_NUMBER
template <class T, int W> T value(const Dual<T, W>& a) { return a.v; }
inline float value(float a) { return a; }
inline double value(double a) { return a; }

template <class S> struct Quat {
    S w, x, y, z;
};
template <class S> Quat<S> operator*(const Quat<S>& a, const Quat<S>& b) {
    return {a.w * b.w - a.x * b.x - a.y * b.y - a.z * b.z, a.w * b.x + a.x * b.w + a.y * b.z - a.z * b.y,
            a.w * b.y - a.x * b.z + a.y * b.w + a.z * b.x, a.w * b.z + a.x * b.y - a.y * b.x + a.z * b.w};
}
template <class S> Quat<S> conjugate(const Quat<S>& a) { return {a.w, -a.x, -a.y, -a.z}; }

template <class S> struct Vec {
    S x, y, z;
};
template <class S> Vec<S> operator+(const Vec<S>& a, const Vec<S>& b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
template <class S> Vec<S> operator-(const Vec<S>& a, const Vec<S>& b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
template <class S> Vec<S> operator-(const Vec<S>& a) { return {-a.x, -a.y, -a.z}; }
template <class S> Vec<S> operator*(const Vec<S>& a, const S& b) { return {a.x * b, a.y * b, a.z * b}; }
template <class S> S dot(const Vec<S>& a, const Vec<S>& b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
template <class S> Vec<S> cross(const Vec<S>& a, const Vec<S>& b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
template <class S> Vec<S> axis(const Quat<S>& q) { return {q.x, q.y, q.z}; }

// Half the rotation vector of a unit quaternion, by the shorter arc.
template <class S> Vec<S> log_quat(const Quat<S>& q) {
    const bool back = value(q.w) < 0;
    const S w = back ? -q.w : q.w;
    const Vec<S> v = back ? -axis(q) : axis(q);
    const S s = dot(v, v);
    if (value(s) < SMALL) {
        const S r = s / (w * w);  // tan^2
        return v * S((1 - r * (1.0 / 3 - r * (1.0 / 5 - r * (1.0 / 7)))) / w);
    }
    using std::atan2, std::sqrt;
    const S n = sqrt(s);
    return v * S(atan2(n, w) / n);
}

template <class S> Quat<S> exp_quat(const Vec<S>& half) {
    const S s = dot(half, half);
    S sine, cosine;
    if (value(s) < SMALL) {
        sine = 1 - s * (1.0 / 6) * (1 - s * (1.0 / 20) * (1 - s * (1.0 / 42)));
        cosine = 1 - s * 0.5 * (1 - s * (1.0 / 12) * (1 - s * (1.0 / 30)));
    } else {
        using std::cos, std::sin, std::sqrt;
        const S n = sqrt(s);
        sine = sin(n) / n, cosine = cos(n);
    }
    return {cosine, half.x * sine, half.y * sine, half.z * sine};
}

template <class S> struct Pose {
    Quat<S> q;
    Vec<S> p;
};
template <class S> struct Knot {
    Pose<S> pose;
    S t;
};

template <class S> Quat<S> unit(Quat<S> q) {
    auto largest = std::max({std::abs(value(q.w)), std::abs(value(q.x)), std::abs(value(q.y)), std::abs(value(q.z))});
    if (largest == 0) q.w = q.w + 1, largest = 1;
    largest = std::max<decltype(largest)>(largest, 1e-30);
    q = {q.w * (1 / largest), q.x * (1 / largest), q.y * (1 / largest), q.z * (1 / largest)};
    using std::sqrt;
    const S n = sqrt(q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z);
    return {q.w / n, q.x / n, q.y / n, q.z / n};
}

template <class S> S place(const Knot<S>& start, const Knot<S>& end, const S& t, bool moving) {
    const S u = moving ? (t - start.t) / (end.t - start.t) : t - start.t;
    return value(u) < 0 ? S(0) : value(u) > 1 ? S(1) : u;
}

template <class S> Pose<S> linear_pose(const Knot<S>* k, const S& t, const bool* there) {
    const S u = place(k[0], k[1], t, there[0]);
    const Quat<S>& q = k[0].pose.q;
    return {q * exp_quat(log_quat(conjugate(q) * k[1].pose.q) * u), k[0].pose.p + (k[1].pose.p - k[0].pose.p) * u};
}

// there: whether the intervals before, at and after t exist
template <class S> Pose<S> cubic_pose(const Knot<S>* k, const S& t, const bool* there) {
    S span[3];
    Vec<S> turn[3], step[3];  // slopes
    for (int i = 0; i < 3; ++i) {
        span[i] = there[i] ? k[i + 1].t - k[i].t : S(1);
        turn[i] = log_quat(conjugate(k[i].pose.q) * k[i + 1].pose.q) * S(S(1) / span[i]);
        step[i] = (k[i + 1].pose.p - k[i].pose.p) * S(S(1) / span[i]);
    }
    auto third = [&](const Vec<S>* slope, int other) {  // of the derivative at the knot shared with `other`, times span
        if (!there[other]) return slope[1] * S(span[1] * (1.0 / 3));
        const S scale = span[1] * (1.0 / 3) / (span[1] + span[other]);
        return (slope[other] * span[1] + slope[1] * span[other]) * scale;
    };
    const S u = place(k[1], k[2], t, there[1]), v = 1 - u;
    const S rise[3] = {1 - v * v * v, u * u * (3 - u * 2), u * u * u};  // cumulative Bernstein polynomials
    const Vec<S> leave = third(turn, 0), arrive = third(turn, 2);
    const Quat<S> whole = conjugate(k[1].pose.q) * k[2].pose.q;
    const Vec<S> middle = log_quat(exp_quat(-leave) * whole * exp_quat(-arrive));
    const Vec<S> p0 = third(step, 0), p2 = third(step, 2), p1 = k[2].pose.p - k[1].pose.p - p0 - p2;
    return {k[1].pose.q * exp_quat(leave * rise[0]) * exp_quat(middle * rise[1]) * exp_quat(arrive * rise[2]),
            k[1].pose.p + p0 * rise[0] + p1 * rise[1] + p2 * rise[2]};
}

// The knots in play at t: before, start, end, after (held at the ends).
struct Interval {
    int64_t index[4];
    bool there[3];
};
template <class T> Interval find_interval(const PoseArgs& a, int64_t j, T t) {
    const T* times = static_cast<const T*>(a.knot_times);
    const int64_t first = a.first_knots[j], last = first + a.knot_counts[j] - 1;
    const int64_t here = std::upper_bound(times + first, times + last + 1, t) - times;
    const int64_t start = std::max(std::min(here, last) - 1, first), end = std::min(start + 1, last);
    Interval in{{std::max(start - 1, first), start, end, std::min(end + 1, last)}, {}};
    for (int i = 0; i < 3; ++i) in.there[i] = in.index[i + 1] > in.index[i];
    return in;
}
template <class T> T time_of(const PoseArgs& a, int64_t j) {
    return a.times ? static_cast<const T*>(a.times)[j] : T(a.t);
}

template <class T> Knot<T> load_knot(const PoseArgs& a, int64_t k) {
    const T *q = static_cast<const T*>(a.knot_quats) + 4 * k, *p = static_cast<const T*>(a.knot_translations) + 3 * k;
    return {{{q[0], q[1], q[2], q[3]}, {p[0], p[1], p[2]}}, static_cast<const T*>(a.knot_times)[k]};
}

template <class T> Pose<T> local_pose(const PoseArgs& a, int64_t j) {
    const T t = time_of<T>(a, j);
    const Interval in = find_interval<T>(a, j, t);
    Knot<T> knots[4];
    for (int i = 0; i < 4; ++i) knots[i] = load_knot<T>(a, in.index[i]), knots[i].pose.q = unit(knots[i].pose.q);
    return a.interpolations[j] ? cubic_pose(knots, t, in.there) : linear_pose(knots + 1, t, in.there + 1);
}

// COUNT knots from in.index + offset. The derivatives of knot i are d[i]: by quaternion, translation and time;
// those by t are d[COUNT], first lane.
template <class T, int COUNT, class F>
void local_pose_backward(const PoseArgs& a, int64_t j, const int64_t* index, const Pose<T>& v, F pose_at) {
    using D = Dual<T, COUNT + 1>;
    auto input = [](T x, int block, int lane) {
        D y(x);
        alignas(64) T one[8] = {};
        one[lane] = 1;
        y.d[block] = V8<T>::load(one);
        return y;
    };
    Knot<D> knots[COUNT];
    for (int i = 0; i < COUNT; ++i) {
        const Knot<T> k = load_knot<T>(a, index[i]);
        const Quat<T>& q = k.pose.q;
        knots[i].pose.q = unit(Quat<D>{input(q.w, i, 0), input(q.x, i, 1), input(q.y, i, 2), input(q.z, i, 3)});
        knots[i].pose.p = {input(k.pose.p.x, i, 4), input(k.pose.p.y, i, 5), input(k.pose.p.z, i, 6)};
        knots[i].t = input(k.t, i, 7);
    }
    const Pose<D> pose = pose_at(knots, input(time_of<T>(a, j), COUNT, 0));
    auto gradient = [&](int block) {
        return pose.q.w.d[block] * v.q.w + pose.q.x.d[block] * v.q.x + pose.q.y.d[block] * v.q.y +
               pose.q.z.d[block] * v.q.z + pose.p.x.d[block] * v.p.x + pose.p.y.d[block] * v.p.y +
               pose.p.z.d[block] * v.p.z;
    };
    for (int i = 0; i < COUNT; ++i) {  // two of them may be the same knot
        const V8<T> g = gradient(i);
        for (int k = 0; k < 4; ++k) static_cast<T*>(a.v_knot_quats)[4 * index[i] + k] += g[k];
        for (int k = 0; k < 3; ++k) static_cast<T*>(a.v_knot_translations)[3 * index[i] + k] += g[4 + k];
        static_cast<T*>(a.v_knot_times)[index[i]] += g[7];
    }
    static_cast<T*>(a.v_times)[j] = gradient(COUNT)[0];
}

}  // namespace s4
