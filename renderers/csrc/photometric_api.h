// The C ABI of the photometric loss; see api.h for the rules. The struct mirrors renderers/cpu_library.py field by
// field.
#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

struct PhotometricArgs {
    int64_t width, height, threads;
    double ssim_weight;
    double loss, scale;  // outputs; scale is 1 / (3 sum of weights), 0 where no weight is positive
    const void *image, *truth;  // [H,W,3]
    const void *weights;        // [H,W], null = all ones
    void *v_image;              // [H,W,3] output, null when not wanted: d loss / d image, to be multiplied by scale
};

// Status: 0, -1 when out of memory.
int64_t s4_photometric_f32(PhotometricArgs*);
int64_t s4_photometric_f64(PhotometricArgs*);
}
#pragma GCC visibility pop
