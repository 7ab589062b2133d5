// The C ABI. All arrays are dense and row-major, of one real type (the suffix of the function: _f32 or _f64).
// The structs mirror renderers/cpu_library.py field by field.
#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// N Gaussians seen by C cameras. Gradients are added to what their arrays hold.
struct ProjectArgs {
    int64_t N, C, S;  // S = SH coefficients, 0 = no colours here
    int64_t width, height, antialiased, threads;
    double near_plane, far_plane, eps2d;
    // inputs
    const void *means, *quats, *log_scales, *logit_opacities, *sh;
    const void *world_to_cam, *K;  // [C,4,4], [C,3,3]
    // outputs of the forward pass, inputs of the backward pass
    void *means2d;    // [C,N,2]
    void *whitening;  // [C,N,3] (u, s, v): sigma = ((u (dx + s dy))^2 + (v dy)^2) / 2
    void *depths;     // [C,N]
    void *opacities;  // [C,N] with the antialiasing factor
    void *rgb;        // [C,N,3] from SH
    int32_t *radii;   // [C,N,2], 0 = not drawn
    // backward pass
    const void *v_means2d, *v_whitening, *v_depths, *v_opacities, *v_rgb;
    void *v_means, *v_quats, *v_log_scales, *v_logit_opacities, *v_sh, *v_world_to_cam;
};

// One camera. colors and features are [N, .] of this camera; image etc. are its slices.
struct CompositeArgs {
    int64_t N, F, width, height, threads, absgrad, want_median, want_top;
    double max_alpha;
    const void *means2d, *whitening, *depths, *opacities, *colors, *features;
    const int32_t *radii;
    const void *background;  // [3] or null
    // outputs
    void *image, *alpha, *depth, *features_out;  // features_out null when F = 0
    void *median_depth, *top_weight, *weight_sum;  // null when not asked for
    int32_t *top_id;
    // backward pass: gradients in (any may be null), then out (added to)
    const void *v_image, *v_alpha, *v_depth, *v_features_out;
    void *v_means2d, *v_whitening, *v_depths, *v_opacities, *v_colors, *v_features, *v_background, *v_abs;
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
