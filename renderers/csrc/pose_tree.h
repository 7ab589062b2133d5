// From poses about centres, relative to parents, to dual quaternions in the world, and back.
#pragma once

#include "poses.h"

namespace s4 {

template <class T> Vec<T> rotate(const Quat<T>& q, const Vec<T>& p) {
    const Vec<T> twice = cross(axis(q), p) * T(2);
    return p + twice * q.w + cross(axis(q), twice);
}

// Gradient of v . rotate(q, p) by q; with v also the gradient by p, which is rotate(conjugate(q), v).
template <class T> Quat<T> rotate_backward(const Quat<T>& q, const Vec<T>& p, const Vec<T>& v) {
    const Vec<T> u = axis(q);
    const Vec<T> along_u = (cross(p, v) * q.w + v * dot(u, p) + p * dot(u, v) - u * (2 * dot(p, v))) * T(2);
    return {2 * dot(cross(u, p), v), along_u.x, along_u.y, along_u.z};
}

template <class T> void add(Quat<T>& a, const Quat<T>& b) { a = {a.w + b.w, a.x + b.x, a.y + b.y, a.z + b.z}; }

template <class T> Vec<T> center_of(const PoseArgs& a, int64_t j) {
    const T* c = static_cast<const T*>(a.centers) + 3 * j;
    return {c[0], c[1], c[2]};
}

// local: relative to the parent, as x -> R x + p. world: composed; parents come first.
template <class T> struct Tree {
    std::vector<Pose<T>> local, world;

    explicit Tree(const PoseArgs& a) : local(a.J), world(a.J) {
#pragma omp parallel for num_threads(a.threads) schedule(static)
        for (int64_t j = 0; j < a.J; ++j) {
            const Pose<T> about = local_pose<T>(a, j);
            const Vec<T> c = center_of<T>(a, j);
            local[j] = {about.q, c + about.p - rotate(about.q, c)};
        }
        for (int64_t j = 0; j < a.J; ++j) {
            const int64_t up = a.parents[j];
            if (up < 0) world[j] = local[j];
            else world[j] = {world[up].q * local[j].q, rotate(world[up].q, local[j].p) + world[up].p};
        }
    }
};

template <class T> void store_dual_quats(const PoseArgs& a, const Tree<T>& tree) {
    for (int64_t j = 0; j < a.J; ++j) {
        const Quat<T>& q = tree.world[j].q;
        const Vec<T> p = tree.world[j].p * T(0.5);
        const Quat<T> d = Quat<T>{0, p.x, p.y, p.z} * q;
        const T row[8] = {q.w, q.x, q.y, q.z, d.w, d.x, d.y, d.z};
        std::copy(row, row + 8, static_cast<T*>(a.dual_quats) + 8 * j);
    }
}

// Gradients of every handle's pose about its centre; adds to those of the centres.
template <class T> std::vector<Pose<T>> tree_backward(const PoseArgs& a, const Tree<T>& tree) {
    std::vector<Pose<T>> v(a.J);
    for (int64_t j = 0; j < a.J; ++j) {
        const T* g = static_cast<const T*>(a.v_dual_quats) + 8 * j;
        const Quat<T> v_d{g[4], g[5], g[6], g[7]};
        const Vec<T> p = tree.world[j].p * T(0.5), v_p = axis(v_d * conjugate(tree.world[j].q));
        v[j] = {{g[0], g[1], g[2], g[3]}, v_p * T(0.5)};
        add(v[j].q, Quat<T>{0, -p.x, -p.y, -p.z} * v_d);
    }
    for (int64_t j = a.J - 1; j >= 0; --j) {  // children before parents
        const int64_t up = a.parents[j];
        const Pose<T>& local = tree.local[j];
        if (up >= 0) {
            const Quat<T>& q = tree.world[up].q;
            add(v[up].q, v[j].q * conjugate(local.q)), add(v[up].q, rotate_backward(q, local.p, v[j].p));
            v[up].p = v[up].p + v[j].p;
            v[j] = {conjugate(q) * v[j].q, rotate(conjugate(q), v[j].p)};
        }
        const Vec<T> c = center_of<T>(a, j), v_c = v[j].p - rotate(conjugate(local.q), v[j].p);
        add(v[j].q, rotate_backward(local.q, c, -v[j].p));
        const T row[3] = {v_c.x, v_c.y, v_c.z};
        std::copy(row, row + 3, static_cast<T*>(a.v_centers) + 3 * j);
    }
    return v;
}

}  // namespace s4
