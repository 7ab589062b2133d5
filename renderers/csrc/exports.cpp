// The C ABI of api.h for one real type: compiled twice, with -DREAL=float -DSUFFIX=f32 and -DREAL=double -DSUFFIX=f64.
#include <omp.h>

#include <exception>

#include "backward.h"
#include "bin.h"
#include "forward.h"
#include "project_backward.h"

#define S4_JOIN2(a, b) a##_##b
#define S4_JOIN(a, b) S4_JOIN2(a, b)
#define S4_NAME(name) S4_JOIN(name, SUFFIX)

namespace s4 {

constexpr int64_t CHUNK = 2048;  // Gaussians per partial sum of the pose gradient: fixed, so sums do not depend on threads

static void add_pose_grads(const ProjectArgs& a, const std::vector<Camera<REAL>>& cameras,
                           const std::vector<PoseGrad<REAL>>& partial) {
    for (int64_t c = 0; c < a.C; ++c) {
        double R[3][3] = {}, t[3] = {}, center[3] = {};
        auto total = [](V8<REAL> v) {
            double s = 0;
            for (int i = 0; i < 8; ++i) s += v[i];
            return s;
        };
        for (size_t k = c; k < partial.size(); k += a.C)
            for (int i = 0; i < 3; ++i) {
                for (int j = 0; j < 3; ++j) R[i][j] += total(partial[k].R[i][j]);
                t[i] += total(partial[k].t[i]), center[i] += total(partial[k].center[i]);
            }
        REAL* out = static_cast<REAL*>(a.v_world_to_cam) + 16 * c;
        const Camera<REAL>& cam = cameras[c];
        for (int i = 0; i < 3; ++i) {  // center = -R^T t
            for (int j = 0; j < 3; ++j) {
                out[4 * i + j] += REAL(R[i][j] - double(cam.t[i]) * center[j]);
                t[i] -= double(cam.R[i][j]) * center[j];
            }
            out[4 * i + 3] += REAL(t[i]);
        }
    }
}

}  // namespace s4

using namespace s4;

extern "C" int64_t S4_NAME(s4_project)(ProjectArgs* args) {
    const ProjectArgs& a = *args;
    std::vector<Camera<REAL>> cameras;
    for (int64_t c = 0; c < a.C; ++c) cameras.emplace_back(a, c);
    int64_t status = 0;
#pragma omp parallel for num_threads(a.threads) schedule(static) reduction(| : status)
    for (int64_t g = 0; g < (a.N + 7) / 8; ++g) status |= project_group(a, cameras.data(), 8 * g);
    return status;
}

extern "C" void S4_NAME(s4_project_backward)(ProjectArgs* args) {
    const ProjectArgs& a = *args;
    std::vector<Camera<REAL>> cameras;
    for (int64_t c = 0; c < a.C; ++c) cameras.emplace_back(a, c);
    const int64_t chunks = (a.N + CHUNK - 1) / CHUNK;
    std::vector<PoseGrad<REAL>> partial(chunks * a.C);
    if (a.v_sh) advise_huge(a.v_sh, a.N * a.S * 3 * sizeof(REAL));
#pragma omp parallel for num_threads(a.threads) schedule(dynamic, 1)
    for (int64_t k = 0; k < chunks; ++k)
        for (int64_t first = k * CHUNK; first < std::min(a.N, (k + 1) * CHUNK); first += 8)
            project_group_backward(a, cameras.data(), &partial[k * a.C], first);
    if (a.v_world_to_cam) add_pose_grads(a, cameras, partial);
}

// Returns the view for the backward pass if `keep`, else null. status: 0, BAD_COLORS, or -1 when out of memory.
extern "C" void* S4_NAME(s4_composite)(CompositeArgs* args, int64_t keep, int64_t* status) {
    try {
        auto view = std::make_unique<View<REAL>>(*args);
        *status = bin(*args, *view) ? 0 : BAD_COLORS;
        if (*status == 0) blend_forward(*args, *view);
        return keep && *status == 0 ? view.release() : nullptr;
    } catch (const std::bad_alloc&) {
        *status = -1;
        return nullptr;
    }
}

extern "C" void S4_NAME(s4_composite_backward)(void* view, CompositeArgs* args) {
    const auto& v = *static_cast<View<REAL>*>(view);
    if (args->absgrad) composite_backward<REAL, true>(*args, v);
    else composite_backward<REAL, false>(*args, v);
}

extern "C" void S4_NAME(s4_free)(void* view) { delete static_cast<View<REAL>*>(view); }
