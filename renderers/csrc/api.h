// The C ABI. All arrays are dense and row-major, of one real type (the suffix of the function: _f32 or _f64).
// The structs mirror renderers/cpu_library.py field by field.
#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// What blending needs of a Gaussian seen by a camera: eight numbers, so that one cache line holds one or two of them.
//   u, s, v: sigma = ((u (dx + s dy))^2 + (v dy)^2) / 2     opacity: with the antialiasing factor     r, g, b, depth
enum Row { ROW_U, ROW_S, ROW_V, ROW_OPACITY, ROW_RGB, ROW_DEPTH = 7, ROW };

// N Gaussians seen by C cameras.
struct ProjectArgs {
    int64_t N, C, S;  // S = SH coefficients, 0 = colors are given
    int64_t width, height, antialiased, threads;
    double near_plane, far_plane, eps2d;
    // inputs
    const void *means, *quats, *log_scales, *logit_opacities, *sh, *colors;
    const void *world_to_cam, *K;  // [C,4,4], [C,3,3]
    // outputs of the forward pass, inputs of the backward pass
    void *means2d;   // [C,N,2]
    void *rows;      // [C,N,8], set where drawn
    int32_t *radii;  // [C,N,2], 0 = not drawn
    // backward pass: gradients in, then out (overwritten; null when not wanted)
    const void *v_means2d, *v_rows;
    void *v_means, *v_quats, *v_log_scales, *v_logit_opacities, *v_sh, *v_colors, *v_world_to_cam;
};

// One camera: features is [N, F] of this camera; image etc. are its slices.
struct CompositeArgs {
    int64_t N, F, width, height, threads, absgrad, want_median, want_top;
    double max_alpha;
    const void *means2d, *rows, *features;
    const int32_t *radii;
    const void *background;  // [3] or null
    // outputs
    void *image, *alpha, *depth, *features_out;  // features_out null when F = 0
    void *median_depth, *top_weight, *weight_sum;  // null when not asked for
    int32_t *top_id;
    // backward pass: gradients in (any may be null), then out (added to)
    const void *v_image, *v_alpha, *v_depth, *v_features_out;
    void *v_means2d, *v_rows, *v_features, *v_background, *v_abs;
};

// Bits of the status: inputs that are not finite, and scales above the limit.
enum { BAD_MEANS = 1, BAD_QUATS = 2, BAD_LOG_SCALES = 4, BAD_OPACITIES = 8, LARGE_LOG_SCALES = 16, BAD_COLORS = 32 };

#define S4_DECLARE(SUFFIX)                                             \
    int64_t s4_project_##SUFFIX(ProjectArgs*);                         \
    void s4_project_backward_##SUFFIX(ProjectArgs*);                   \
    void* s4_composite_##SUFFIX(CompositeArgs*, int64_t keep, int64_t* status); \
    void s4_composite_backward_##SUFFIX(void* view, CompositeArgs*);   \
    void s4_free_##SUFFIX(void* view);
S4_DECLARE(f32)
S4_DECLARE(f64)
int64_t s4_live_views();  // views not yet freed, for leak tests
}
#pragma GCC visibility pop
