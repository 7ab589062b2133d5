// Absolute difference and structural similarity (Wang et al. 2004, equation 13) of two images, and the gradient by the
// first, in one pass over the rows: only the newest eleven rows of anything are kept, so that all of it stays in the
// cache. A row is a vector of 3 W numbers; a step of one pixel to the side is one of three numbers.
#pragma once

#include <algorithm>
#include <cmath>

#include "photometric_api.h"
#include "simd.h"

namespace s4 {

constexpr int TAPS = 11, EDGE = TAPS / 2;         // of the Gaussian window
constexpr double WINDOW_SIGMA = 1.5;              // pixels
constexpr double SSIM_C1 = 1e-4, SSIM_C2 = 9e-4;  // (K1 L)^2, (K2 L)^2 for a range L = 1
constexpr int64_t STRIP = 3 * 256;     // numbers in a row of a strip; a multiple of 8
constexpr int64_t MARGIN = 48;         // beside a strip: a multiple of 3 and 8, at least two windows' edges (30)
constexpr int64_t SLOPES_MARGIN = 16;  // the part of it where slopes are needed: at least one window's edge (15)
constexpr int64_t LENGTH = STRIP + 2 * MARGIN;
enum Mean { MEAN_X, MEAN_Y, MEAN_SQUARES, MEAN_PRODUCT, MEANS };  // of x, y, x^2 + y^2 and x y
enum Slope { BY_X, BY_SQUARES, BY_PRODUCT, SLOPES };              // of the loss by these means; y is constant
enum Sum { SUM_ABSOLUTE, SUM_DISSIMILAR, SUM_WEIGHTS, SUMS };

// Of one thread. Row r of x, y, w and blurred is at index r mod TAPS; number 0 of the strip at MARGIN.
template <class T> struct Scratch {
    alignas(64) T x[TAPS][LENGTH], y[TAPS][LENGTH], w[TAPS][LENGTH], blurred[SLOPES][TAPS][LENGTH];
    T means[MEANS][LENGTH], slopes[SLOPES][LENGTH];
    T zeros[LENGTH];  // a row outside the image
};

template <class T> struct Window {
    T taps[EDGE + 1];  // outermost first
    Window() {
        double sum = 0;
        for (int i = -EDGE; i <= EDGE; ++i) sum += std::exp(-i * i / (2 * WINDOW_SIGMA * WINDOW_SIGMA));
        for (int i = 0; i <= EDGE; ++i) {
            const int offset = i - EDGE;
            taps[i] = T(std::exp(-offset * offset / (2 * WINDOW_SIGMA * WINDOW_SIGMA)) / sum);
        }
    }
    S4_INLINE V8<T> across(const T* p) const {  // weighted mean of p and its neighbours to the side
        V8<T> mean = V8<T>::load(p) * taps[EDGE];
        for (int i = 0; i < EDGE; ++i) {
            const int step = 3 * (EDGE - i);
            mean += (V8<T>::load(p - step) + V8<T>::load(p + step)) * taps[i];
        }
        return mean;
    }
    S4_INLINE V8<T> down(const T* const* rows, int64_t i) const {
        V8<T> mean = V8<T>::load(rows[EDGE] + i) * taps[EDGE];
        for (int k = 0; k < EDGE; ++k)
            mean += (V8<T>::load(rows[k] + i) + V8<T>::load(rows[TAPS - 1 - k] + i)) * taps[k];
        return mean;
    }
};

// A part of the image: the numbers [first, first + count) of its rows [top, bottom).
struct Part {
    int64_t first, count, top, bottom;
    int64_t end() const { return MARGIN + (count + 7) / 8 * 8; }  // in a row of the scratch
};

// Rows r - EDGE to r + EDGE of a ring
template <class T>
S4_INLINE void find_rows(const PhotometricArgs& a, const T (*ring)[LENGTH], const T* zeros, int64_t r, const T** rows) {
    for (int k = 0; k < TAPS; ++k) {
        const int64_t row = r + k - EDGE;
        rows[k] = row < 0 || row >= a.height ? zeros : ring[row % TAPS];
    }
}

// Row r of the images and the weights, with the margins; zeros outside the image. Weights thrice, for the channels.
template <class T> void load_row(const PhotometricArgs& a, const Part& part, int64_t r, Scratch<T>& s) {
    const int64_t start = part.first - MARGIN, size = 3 * a.width, slot = r % TAPS;
    const int64_t low = std::max<int64_t>(0, start), high = std::min(size, start + LENGTH);
    auto clear_margins = [&](T* row) {
        std::fill(row, row + (low - start), T(0));
        std::fill(row + (high - start), row + LENGTH, T(0));
    };
    auto copy = [&](const void* image, T* row) {
        const T* from = static_cast<const T*>(image) + r * size;
        std::copy(from + low, from + high, row + (low - start));
        clear_margins(row);
    };
    copy(a.image, s.x[slot]);
    copy(a.truth, s.y[slot]);
    T* w = s.w[slot];
    const T* weights = static_cast<const T*>(a.weights) + (a.weights ? r * a.width : 0);
    for (int64_t i = low; i < high; i += 3) {  // both are multiples of 3
        const T value = a.weights ? weights[i / 3] : T(1);
        for (int k = 0; k < 3; ++k) w[i - start + k] = value;
    }
    clear_margins(w);
}

template <class T> S4_INLINE double sum_of_lanes(V8<T> v) {
    double sum = 0;
    for (int i = 0; i < 8; ++i) sum += v[i];
    return sum;
}

// What has no weight counts as 0, also where it is NaN.
template <class T> S4_INLINE V8<T> weigh(V8<T> w, V8<T> value) { return where(w > T(0), w * value); }

template <class T> void sum_differences(const Part& part, const T* x, const T* y, const T* w, double* sums) {
    using V = V8<T>;
    V absolute{T(0)}, weights{T(0)};
    for (int64_t i = MARGIN; i < part.end(); i += 8) {
        const V weight = V::load(w + i);
        absolute += weigh(weight, abs(V::load(x + i) - V::load(y + i)));
        weights += weight;
    }
    sums[SUM_ABSOLUTE] = sum_of_lanes(absolute);
    sums[SUM_WEIGHTS] = sum_of_lanes(weights);
}

// Weighted means over the eleven rows, of the strip with its margins.
template <class T>
void blur_down(const Window<T>& window, const Part& part, const T* const* x, const T* const* y, T (*means)[LENGTH]) {
    using V = V8<T>;
    for (int64_t i = 0; i < part.end() + MARGIN; i += 8) {
        const V a = V::load(x[EDGE] + i), b = V::load(y[EDGE] + i);
        const T middle = window.taps[EDGE];
        V sum_x = a * middle, sum_y = b * middle, squares = (a * a + b * b) * middle, product = a * b * middle;
        for (int k = 0; k < EDGE; ++k) {
            const T tap = window.taps[k];
            const V x0 = V::load(x[k] + i), x1 = V::load(x[TAPS - 1 - k] + i);
            const V y0 = V::load(y[k] + i), y1 = V::load(y[TAPS - 1 - k] + i);
            sum_x += (x0 + x1) * tap;
            sum_y += (y0 + y1) * tap;
            squares += (x0 * x0 + x1 * x1 + y0 * y0 + y1 * y1) * tap;
            product += (x0 * y0 + x1 * y1) * tap;
        }
        sum_x.store(means[MEAN_X] + i);
        sum_y.store(means[MEAN_Y] + i);
        squares.store(means[MEAN_SQUARES] + i);
        product.store(means[MEAN_PRODUCT] + i);
    }
}

// Similarity of eight windows, and its derivatives by their means
template <class T> struct Similarity8 {
    V8<T> value, slopes[SLOPES];

    S4_INLINE Similarity8(const V8<T>* m) {
        const V8<T> xy = m[MEAN_X] * m[MEAN_Y], squares = m[MEAN_X] * m[MEAN_X] + m[MEAN_Y] * m[MEAN_Y];
        const V8<T> a1 = xy * T(2) + T(SSIM_C1), b1 = squares + T(SSIM_C1);
        const V8<T> a2 = (m[MEAN_PRODUCT] - xy) * T(2) + T(SSIM_C2), b2 = (m[MEAN_SQUARES] - squares) + T(SSIM_C2);
        const V8<T> inverse = T(1) / (b1 * b2);
        value = a1 * a2 * inverse;
        slopes[BY_X] = (m[MEAN_Y] * (a2 - a1) + value * m[MEAN_X] * (b1 - b2)) * inverse * T(2);
        slopes[BY_SQUARES] = -value * b1 * inverse;
        slopes[BY_PRODUCT] = a1 * inverse * T(2);
    }
};

// The sum of w (1 - similarity) over a row of the strip; the slopes of ssim_weight times it, into `slopes`.
template <class T>
double compare(const Window<T>& window, const Part& part, T ssim_weight, const T* w, Scratch<T>& s) {
    using V = V8<T>;
    V sum{T(0)};
    for (int64_t i = MARGIN - SLOPES_MARGIN; i < part.end() + SLOPES_MARGIN; i += 8) {
        V means[MEANS];
        for (int k = 0; k < MEANS; ++k) means[k] = window.across(s.means[k] + i);
        const Similarity8<T> similarity(means);
        const V weight = V::load(w + i);
        for (int k = 0; k < SLOPES; ++k)
            weigh(weight, similarity.slopes[k] * -ssim_weight).store(s.slopes[k] + i);
        if (i >= MARGIN && i < part.end()) sum += weigh(weight, T(1) - similarity.value);
    }
    return sum_of_lanes(sum);
}

template <class T> void blur_across(const Window<T>& window, const Part& part, int64_t r, Scratch<T>& s) {
    for (int k = 0; k < SLOPES; ++k)
        for (int64_t i = MARGIN; i < part.end(); i += 8)
            window.across(s.slopes[k] + i).store(s.blurred[k][r % TAPS] + i);
}

// A slope of 0 comes from windows without weight: what they see counts as 0, also where it is NaN.
template <class T> S4_INLINE V8<T> chain(V8<T> slope, V8<T> value) { return where(~(slope == T(0)), slope * value); }

template <class T>
void store_gradient(const PhotometricArgs& a, const Window<T>& window, const Part& part, int64_t r,
                    const Scratch<T>& s) {
    using V = V8<T>;
    const T *x_row = s.x[r % TAPS], *y_row = s.y[r % TAPS], *w_row = s.w[r % TAPS];
    const T *rows[SLOPES][TAPS], l1_weight = T(1 - a.ssim_weight);
    for (int k = 0; k < SLOPES; ++k) find_rows(a, s.blurred[k], s.zeros, r, rows[k]);
    T* out = static_cast<T*>(a.v_image) + 3 * a.width * r + part.first;
    for (int64_t i = MARGIN; i < part.end(); i += 8) {
        const V x = V::load(x_row + i), y = V::load(y_row + i), difference = x - y;
        const V sign = where(difference > T(0), V(T(1))) - where(difference < T(0), V(T(1)));
        V v = weigh(V::load(w_row + i), sign * l1_weight);
        if (a.ssim_weight > 0) {
            v += window.down(rows[BY_X], i) + chain(window.down(rows[BY_SQUARES], i) * T(2), x)
                 + chain(window.down(rows[BY_PRODUCT], i), y);
        }
        const int64_t start = i - MARGIN;
        if (start + 8 <= part.count) {
            v.store(out + start);
        } else {
            for (int lane = 0; start + lane < part.count; ++lane) out[start + lane] = v[lane];
        }
    }
}

// The part's gradient, and the sums of its rows: sums[SUMS r] to sums[SUMS r + 2] of row r. What row r gives depends on
// the strip, but not on where the part begins and ends.
template <class T>
void run_part(const PhotometricArgs& a, const Window<T>& window, const Part& part, Scratch<T>& s, double* sums) {
    const int reach = a.v_image ? EDGE : 0;  // windows beside the part, whose slopes its gradient needs
    const T *x[TAPS], *y[TAPS];
    for (int64_t r = part.top - reach - EDGE; r < part.bottom + EDGE + reach; ++r) {
        if (r >= 0 && r < a.height) load_row(a, part, r, s);
        const int64_t centre = r - EDGE, done = r - 2 * EDGE;
        if (centre >= std::max<int64_t>(0, part.top - reach) && centre < std::min(a.height, part.bottom + reach)) {
            const T *x_row = s.x[centre % TAPS], *y_row = s.y[centre % TAPS], *w_row = s.w[centre % TAPS];
            const bool own = centre >= part.top && centre < part.bottom;
            double* row_sums = sums + SUMS * centre;
            if (own) sum_differences(part, x_row, y_row, w_row, row_sums);
            if (a.ssim_weight > 0) {
                find_rows(a, s.x, s.zeros, centre, x);
                find_rows(a, s.y, s.zeros, centre, y);
                blur_down(window, part, x, y, s.means);
                const double sum = compare(window, part, T(a.ssim_weight), w_row, s);
                if (own) row_sums[SUM_DISSIMILAR] = sum;
                if (a.v_image) blur_across(window, part, centre, s);
            }
        }
        if (a.v_image && done >= part.top && done < part.bottom) store_gradient(a, window, part, done, s);
    }
}

}  // namespace s4
