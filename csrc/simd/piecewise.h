// Functions of a number from 0 on by 16 polynomials side by side: each lane takes the coefficients
// of the piece it lies in from tables in registers (vpermps), no exponential, no division. Only
// AVX-512 has the lanes and the registers. 32 pieces (vpermt2ps) with fewer coefficients were
// slower on Zen 4: one takes two cycles there.
#pragma once

#include "simd/piecewise_tables.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL::simd {

// Where a piece's d is 0. Functions that fall are best expanded at the upper end: then all terms
// have one sign, and nothing is lost where the value is a small part of the first of them.
enum class Expanded { at_middle, at_upper_end };

// c0 + c1 d + ... in pieces of kSixteenths / 16, d the distance from the nearest of its multiples,
// or from the next one above. Good from 0 to 15 pieces; garbage beyond.
template <int kDegree, int kSixteenths, Expanded kWhere>
struct Piecewise {
  static constexpr float kStep = kSixteenths / 16.0f, kEnd = 15 * kStep;
  __m512 row[kDegree + 1];

  [[gnu::always_inline]] explicit Piecewise(const float (&table)[kDegree + 1][16]) {
    HOTLOOP_UNROLL
    for (int j = 0; j <= kDegree; ++j) row[j] = _mm512_loadu_ps(table[j]);
  }
  // `lost`: what the last rounding cost.
  [[gnu::always_inline]] Vec<float> operator()(Vec<float> a, Vec<float>* lost = nullptr) const {
    constexpr int kRounding =
        _MM_FROUND_NO_EXC |
        (kWhere == Expanded::at_middle ? _MM_FROUND_TO_NEAREST_INT : _MM_FROUND_TO_POS_INF);
    // The last bit of the sum is a piece: its low bits are the number of the piece.
    Vec<float> sum, d;
    if constexpr ((kSixteenths & (kSixteenths - 1)) == 0) {
      const Vec<float> magic = set1(kStep * 12582912.0f);  // 1.5 * 2^23
      sum = {_mm512_add_round_ps(a.v, magic.v, kRounding)};
      d = a - (sum - magic);
    } else {
      const Vec<float> magic = set1(12582912.0f);
      sum = {_mm512_fmadd_round_ps(a.v, set1(1 / kStep).v, magic.v, kRounding)};
      d = fnma(sum - magic, set1(kStep), a);
    }
    const __m512i piece = _mm512_castps_si512(sum.v);
    const auto c = [&](int j) { return Vec<float>{_mm512_permutexvar_ps(piece, row[j])}; };
    Vec<float> rest = c(kDegree);
    HOTLOOP_UNROLL
    for (int j = kDegree - 1; j >= 1; --j) rest = fma(rest, d, c(j));
    const Vec<float> first = c(0), y = fma(rest, d, first);
    if (lost) *lost = fma(rest, d, first - y);
    return y;
  }
};

}  // namespace hotloop::HOTLOOP_LEVEL::simd
