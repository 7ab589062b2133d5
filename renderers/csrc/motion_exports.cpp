// The C ABI of motion_api.h for one real type: compiled twice, with -DREAL=float -DSUFFIX=f32 and -DREAL=double
// -DSUFFIX=f64.
#include <omp.h>

#include <new>

#include "motion_backward.h"
#include "pose_tree.h"

#define S4_JOIN2(a, b) a##_##b
#define S4_JOIN(a, b) S4_JOIN2(a, b)
#define S4_NAME(name) S4_JOIN(name, SUFFIX)

using namespace s4;

extern "C" int64_t S4_NAME(s4_move)(MotionArgs* args) {
    const MotionArgs& a = *args;
    int64_t status = 0;
#pragma omp parallel for num_threads(a.threads) schedule(static) reduction(| : status)
    for (int64_t g = 0; g < (a.N + 7) / 8; ++g) status |= move_group<REAL>(a, 8 * g);
    return status;
}

extern "C" int64_t S4_NAME(s4_move_backward)(MotionArgs* args) {
    const MotionArgs& a = *args;
    const int64_t size = chunk_size(a.N), chunks = (a.N + size - 1) / size;
    std::vector<REAL> partials;
    try {
        if (a.v_dual_quats) partials.resize(8 * a.J * chunks);
    } catch (const std::bad_alloc&) {
        return -1;
    }
#pragma omp parallel for num_threads(a.threads) schedule(dynamic, 1)
    for (int64_t c = 0; c < chunks; ++c) {
        REAL* partial = a.v_dual_quats ? &partials[8 * a.J * c] : nullptr;
        for (int64_t first = c * size; first < std::min(a.N, (c + 1) * size); first += 8)
            move_group_backward<REAL>(a, first, partial);
    }
    if (a.v_dual_quats) add_partials(a, partials, chunks);
    return 0;
}

extern "C" int64_t S4_NAME(s4_pose)(PoseArgs* args) {
    try {
        store_dual_quats(*args, Tree<REAL>(*args));
    } catch (const std::bad_alloc&) {
        return -1;
    }
    return 0;
}

extern "C" int64_t S4_NAME(s4_pose_backward)(PoseArgs* args) {
    const PoseArgs& a = *args;
    std::vector<Pose<REAL>> v;
    try {
        v = tree_backward(a, Tree<REAL>(a));
    } catch (const std::bad_alloc&) {
        return -1;
    }
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (int64_t j = 0; j < a.J; ++j) {  // every knot has one owner, so nothing is shared
        const Interval in = find_interval(a, j, time_of<REAL>(a, j));
        if (a.interpolations[j])
            local_pose_backward<REAL, 4>(a, j, in.index, v[j],
                                         [&](const auto* k, const auto& t) { return cubic_pose(k, t, in.there); });
        else
            local_pose_backward<REAL, 2>(a, j, in.index + 1, v[j],
                                         [&](const auto* k, const auto& t) { return linear_pose(k, t, in.there + 1); });
    }
    return 0;
}
