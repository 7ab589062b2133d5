// The C ABI of photometric_api.h for one real type: compiled twice, with -DREAL=float -DSUFFIX=f32 and -DREAL=double
// -DSUFFIX=f64.
#include <omp.h>

#include <new>
#include <vector>

#include "photometric.h"

#define S4_JOIN2(a, b) a##_##b
#define S4_JOIN(a, b) S4_JOIN2(a, b)
#define S4_NAME(name) S4_JOIN(name, SUFFIX)

using namespace s4;

extern "C" int64_t S4_NAME(s4_photometric)(PhotometricArgs* args) {
    PhotometricArgs& a = *args;
    const int64_t size = 3 * a.width, strips = (size + STRIP - 1) / STRIP;
    // no band is lower than the rows beside it that are computed twice
    const int64_t most_bands = (a.height + 4 * EDGE - 1) / (4 * EDGE);
    const int64_t bands = std::clamp<int64_t>((a.threads + strips - 1) / strips, 1, most_bands);
    const Window<REAL> window;
    std::vector<Scratch<REAL>> scratch;
    std::vector<double> sums;  // [strips, H, SUMS]
    try {
        scratch.resize(std::min(a.threads, strips * bands));
        sums.resize(strips * a.height * SUMS);
    } catch (const std::bad_alloc&) {
        return -1;
    }
#pragma omp parallel for num_threads(scratch.size()) schedule(dynamic, 1)
    for (int64_t task = 0; task < strips * bands; ++task) {
        const int64_t strip = task % strips, band = task / strips, first = strip * STRIP;
        const Part part{first, std::min(STRIP, size - first), band * a.height / bands, (band + 1) * a.height / bands};
        run_part(a, window, part, scratch[omp_get_thread_num()], &sums[strip * a.height * SUMS]);
    }
    double total[SUMS] = {};
    for (size_t i = 0; i < sums.size(); ++i) total[i % SUMS] += sums[i];  // the same order for any number of threads
    a.scale = total[SUM_WEIGHTS] > 0 ? 1 / total[SUM_WEIGHTS] : 0;
    a.loss = ((1 - a.ssim_weight) * total[SUM_ABSOLUTE] + a.ssim_weight * total[SUM_DISSIMILAR]) * a.scale;
    return 0;
}
