// Eight lanes of float or double by compiler vector extensions: one source for AVX2, SSE4 and NEON.
// A V8 is one to four native registers; every operator works register by register.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace s4 {

#if defined(__AVX2__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif

#define S4_INLINE inline __attribute__((always_inline))

template <class T> struct IntOf;
template <> struct IntOf<float> { using type = int32_t; };
template <> struct IntOf<double> { using type = int64_t; };
template <> struct IntOf<int32_t> { using type = int32_t; };
template <> struct IntOf<int64_t> { using type = int64_t; };

template <class T> struct Lanes {
    static constexpr int PER = REGISTER_BYTES / sizeof(T), COUNT = 8 / PER;
    typedef T Reg __attribute__((vector_size(REGISTER_BYTES)));
};

template <class T> struct V8 {
    using L = Lanes<T>;
    typename L::Reg r[L::COUNT];
    S4_INLINE V8() {}
    S4_INLINE V8(T x) {
        for (int k = 0; k < L::COUNT; ++k) r[k] = x - typename L::Reg{};
    }
    static S4_INLINE V8 load(const T* p) {
        V8 v;
        std::memcpy(v.r, p, sizeof v.r);
        return v;
    }
    S4_INLINE void store(T* p) const { std::memcpy(p, r, sizeof r); }
    S4_INLINE T operator[](int i) const { return r[i / L::PER][i % L::PER]; }
};

template <class T> using Mask8 = V8<typename IntOf<T>::type>;  // all ones or all zeros in each lane

#define S4_OPERATOR(OP)                                                       \
    template <class T> S4_INLINE V8<T> operator OP(V8<T> a, V8<T> b) {        \
        V8<T> c;                                                              \
        for (int k = 0; k < Lanes<T>::COUNT; ++k) c.r[k] = a.r[k] OP b.r[k];  \
        return c;                                                             \
    }                                                                         \
    template <class T> S4_INLINE V8<T> operator OP(V8<T> a, std::type_identity_t<T> b) { return a OP V8<T>(b); } \
    template <class T> S4_INLINE V8<T> operator OP(std::type_identity_t<T> a, V8<T> b) { return V8<T>(a) OP b; }
S4_OPERATOR(+)
S4_OPERATOR(-)
S4_OPERATOR(*)
S4_OPERATOR(/)
S4_OPERATOR(&)
S4_OPERATOR(|)
S4_OPERATOR(^)
#undef S4_OPERATOR

template <class T> S4_INLINE V8<T> operator-(V8<T> a) { return T(0) - a; }
template <class T> S4_INLINE void operator+=(V8<T>& a, V8<T> b) { a = a + b; }
template <class T> S4_INLINE void operator-=(V8<T>& a, V8<T> b) { a = a - b; }
template <class T> S4_INLINE void operator*=(V8<T>& a, V8<T> b) { a = a * b; }

#define S4_COMPARE(OP)                                                                 \
    template <class T> S4_INLINE Mask8<T> operator OP(V8<T> a, V8<T> b) {              \
        Mask8<T> m;                                                                    \
        for (int k = 0; k < Lanes<T>::COUNT; ++k) m.r[k] = a.r[k] OP b.r[k];           \
        return m;                                                                      \
    }                                                                                  \
    template <class T> S4_INLINE Mask8<T> operator OP(V8<T> a, std::type_identity_t<T> b) { return a OP V8<T>(b); }
S4_COMPARE(<)
S4_COMPARE(<=)
S4_COMPARE(>)
S4_COMPARE(>=)
S4_COMPARE(==)
#undef S4_COMPARE

template <class I> S4_INLINE V8<I> operator~(V8<I> m) { return m ^ V8<I>(I(-1)); }

template <class To, class From> S4_INLINE To bits_as(From a) {
    static_assert(sizeof(To) == sizeof(From));
    To b;
    std::memcpy(static_cast<void*>(&b), &a, sizeof b);
    return b;
}

// a where the mask is set, else 0
template <class T> S4_INLINE V8<T> where(Mask8<T> m, V8<T> a) { return bits_as<V8<T>>(m & bits_as<Mask8<T>>(a)); }
template <class T> S4_INLINE V8<T> select(Mask8<T> m, V8<T> a, V8<T> b) {
    V8<T> c;
    for (int k = 0; k < Lanes<T>::COUNT; ++k) c.r[k] = m.r[k] ? a.r[k] : b.r[k];
    return c;
}
template <class T> S4_INLINE V8<T> min(V8<T> a, V8<T> b) { return select(a < b, a, b); }
template <class T> S4_INLINE V8<T> max(V8<T> a, V8<T> b) { return select(a > b, a, b); }
template <class T> S4_INLINE V8<T> abs(V8<T> a) { return max(a, -a); }

template <class I> S4_INLINE bool any(V8<I> m) {
#if defined(__AVX2__)
    if constexpr (sizeof(I) == 4) return __builtin_ia32_movmskps256(bits_as<V8<float>>(m).r[0]) != 0;
#endif
    auto x = m.r[0];
    for (int k = 1; k < Lanes<I>::COUNT; ++k) x |= m.r[k];
    I s = 0;
    for (int i = 0; i < Lanes<I>::PER; ++i) s |= x[i];
    return s != 0;
}

template <class T> S4_INLINE V8<T> sqrt(V8<T> a) {
    V8<T> c;
    for (int k = 0; k < Lanes<T>::COUNT; ++k)
        for (int i = 0; i < Lanes<T>::PER; ++i) c.r[k][i] = std::sqrt(a.r[k][i]);
    return c;
}
#if defined(__AVX2__)
template <> S4_INLINE V8<float> sqrt(V8<float> a) {
    a.r[0] = __builtin_ia32_sqrtps256(a.r[0]);
    return a;
}
template <> S4_INLINE V8<double> sqrt(V8<double> a) {
    for (auto& x : a.r) x = __builtin_ia32_sqrtpd256(x);
    return a;
}
template <> S4_INLINE V8<float> min(V8<float> a, V8<float> b) {
    a.r[0] = __builtin_ia32_minps256(a.r[0], b.r[0]);
    return a;
}
template <> S4_INLINE V8<float> max(V8<float> a, V8<float> b) {
    a.r[0] = __builtin_ia32_maxps256(a.r[0], b.r[0]);
    return a;
}
#endif

template <class T, class F> S4_INLINE V8<T> each_lane(V8<T> a, F f) {
    alignas(64) T x[8];
    a.store(x);
    for (T& v : x) v = f(v);
    return V8<T>::load(x);
}

// 2^x for x <= 127; garbage, but no trap, below -126. Round to nearest by the magic constant, then the
// minimax polynomial of degree 5 for 2^f on [-0.5, 0.5] (relative error 8e-8).
S4_INLINE V8<float> exp2_fast(V8<float> x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23
    V8<float> shifted = x + magic;
    V8<float> f = x - (shifted - magic);
    V8<float> f2 = f * f;
    V8<float> high = f * 1.327647152e-3f + 9.675541331e-3f;
    V8<float> middle = f * 5.550713275e-2f + 2.402211972e-1f;
    V8<float> low = f * 6.931469671e-1f + 1.000000072f;
    V8<float> p = (high * f2 + middle) * f2 + low;
    V8<int32_t> n = bits_as<V8<int32_t>>(shifted), b = bits_as<V8<int32_t>>(p);
    for (int k = 0; k < Lanes<float>::COUNT; ++k) b.r[k] += n.r[k] << 23;
    return bits_as<V8<float>>(b);
}
S4_INLINE V8<double> exp2_fast(V8<double> x) {
    return each_lane(x, [](double v) { return std::exp2(v); });
}

// e^x for any x: 0 below -87; the argument is reduced by ln 2 in two parts (Cody and Waite), then Taylor to degree 6
S4_INLINE V8<float> exp(V8<float> x) {
    const float magic = 12582912.0f;
    V8<float> y = min(max(x, V8<float>(-87.0f)), V8<float>(88.0f));
    V8<float> shifted = y * 1.44269504f + magic, n = shifted - magic;
    V8<float> f = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    V8<float> p = f * 1.38888889e-3f + 8.33333333e-3f;
    p = p * f + 4.16666667e-2f;
    p = p * f + 1.66666667e-1f;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    V8<int32_t> i = bits_as<V8<int32_t>>(shifted), b = bits_as<V8<int32_t>>(p);
    for (int k = 0; k < Lanes<float>::COUNT; ++k) b.r[k] += i.r[k] << 23;
    return where(x > -87.0f, bits_as<V8<float>>(b));
}
S4_INLINE V8<double> exp(V8<double> x) {
    return each_lane(x, [](double v) { return std::exp(v); });
}

// log2 of a positive normal number: exponent plus atanh series of the mantissa in [sqrt(1/2), sqrt(2))
S4_INLINE V8<float> log2(V8<float> x) {
    V8<int32_t> b = bits_as<V8<int32_t>>(x), e;
    for (int k = 0; k < Lanes<float>::COUNT; ++k) {
        e.r[k] = (b.r[k] - 0x3f3504f3) >> 23;
        b.r[k] -= e.r[k] << 23;
    }
    V8<float> m = bits_as<V8<float>>(b), n;
    for (int k = 0; k < Lanes<float>::COUNT; ++k) n.r[k] = __builtin_convertvector(e.r[k], typename Lanes<float>::Reg);
    V8<float> s = (m - 1.0f) / (m + 1.0f), q = s * s;
    return n + s * (2.88539008f + q * (0.961796694f + q * (0.577078016f + q * (0.412198583f + q * 0.320598898f))));
}
S4_INLINE V8<double> log2(V8<double> x) {
    return each_lane(x, [](double v) { return std::log2(v); });
}

// sums[i] = sum of the lanes of v[i], i < 4
template <class T> S4_INLINE void sum_lanes4(const V8<T>* v, T* sums) {
    for (int i = 0; i < 4; ++i) {
        auto x = v[i].r[0];
        for (int k = 1; k < Lanes<T>::COUNT; ++k) x += v[i].r[k];
        T s = x[0];
        for (int j = 1; j < Lanes<T>::PER; ++j) s += x[j];
        sums[i] = s;
    }
}
#if defined(__AVX2__) && !defined(__clang__)
template <> S4_INLINE void sum_lanes4(const V8<float>* v, float* sums) {
    typedef int I __attribute__((vector_size(32)));
    auto a = v[0].r[0], b = v[1].r[0], c = v[2].r[0], d = v[3].r[0];
    const I low = {0, 8, 1, 9, 4, 12, 5, 13}, high = {2, 10, 3, 11, 6, 14, 7, 15};
    auto ab = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
    auto cd = __builtin_shuffle(c, d, low) + __builtin_shuffle(c, d, high);
    const I first = {0, 1, 8, 9, 4, 5, 12, 13}, second = {2, 3, 10, 11, 6, 7, 14, 15};
    auto abcd = __builtin_shuffle(ab, cd, first) + __builtin_shuffle(ab, cd, second);
    for (int i = 0; i < 4; ++i) sums[i] = abcd[i] + abcd[i + 4];
}
#endif

}  // namespace s4
