// The C ABI of the motion kernels; see api.h for the rules. The structs mirror renderers/cpu_library.py field by field.
#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// N Gaussians, J transforms, M <= 4 slots and P coefficients per Gaussian. Arrays of a part that is not there are null.
struct MotionArgs {
    int64_t N, J, M, P, threads;
    double t;
    // inputs
    const void *times;  // [N], null = t for all
    const void *means, *quats, *logit_opacities;
    const void *dual_quats, *slot_logits;  // [J,8], [N,M]
    const int32_t *slots;                  // [N,M], negative = empty
    const void *coefficients, *t_ref;      // [N,P,3], [N]
    const void *t_on, *t_off, *log_softness;
    // outputs, null when not wanted
    void *out_means, *out_quats, *out_logits;
    // backward pass: gradients in (null = zero), then out (overwritten; null when not wanted)
    const void *v_out_means, *v_out_quats, *v_out_logits;
    void *v_means, *v_quats, *v_logit_opacities, *v_dual_quats, *v_slot_logits, *v_coefficients, *v_t_ref;
    void *v_t_on, *v_t_off, *v_log_softness;
};

// Status: 0, BAD_SLOT if a slot is J or more, -1 when out of memory.
enum { BAD_SLOT = 1 };

// J transforms with L knots in all: those of transform 0 first. The backward pass needs all of v_*; those of the knots
// must be zero before.
struct PoseArgs {
    int64_t J, threads;
    double t;
    const void *times;  // [J], null = t for all
    const int32_t *parents, *interpolations, *knot_counts;  // [J]; 0 linear, 1 cubic
    const int64_t *first_knots;                    // [J]
    const void *centers, *knot_times, *knot_quats, *knot_translations;  // [J,3], [L], [L,4], [L,3]
    void *dual_quats;                              // [J,8]
    const void *v_dual_quats;
    void *v_times, *v_centers, *v_knot_times, *v_knot_quats, *v_knot_translations;
};

int64_t s4_pose_f32(PoseArgs*);
int64_t s4_pose_f64(PoseArgs*);
int64_t s4_pose_backward_f32(PoseArgs*);
int64_t s4_pose_backward_f64(PoseArgs*);
int64_t s4_move_f32(MotionArgs*);
int64_t s4_move_f64(MotionArgs*);
int64_t s4_move_backward_f32(MotionArgs*);
int64_t s4_move_backward_f64(MotionArgs*);
}
#pragma GCC visibility pop
