// exp and log over the vectors of simd.h: polynomials for float, libm lane by lane for double.
#pragma once

namespace fastconv::FASTCONV_ISA {

// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2) / 2; Taylor to r^7, error below 1 ulp
// before rounding. Above 88.73 infinity, below -104 zero; NaN passes through both clamps.
FASTCONV_INLINE VecF exp(VecF x) {
  const VecF clamped = max(VecF::set1(-105.0f), min(VecF::set1(89.0f), x));
  const VecF n = round(clamped * VecF::set1(1.44269504f));
  // ln 2 in two parts, so that n * high is exact.
  VecF r = fma(n, VecF::set1(-0.693359375f), clamped);
  r = fma(n, VecF::set1(2.12194440e-4f), r);
  VecF p = VecF::set1(1.0f / 5040.0f);
  p = fma(p, r, VecF::set1(1.0f / 720.0f));
  p = fma(p, r, VecF::set1(1.0f / 120.0f));
  p = fma(p, r, VecF::set1(1.0f / 24.0f));
  p = fma(p, r, VecF::set1(1.0f / 6.0f));
  p = fma(p, r, VecF::set1(0.5f));
  p = fma(p, r, VecF::set1(1.0f));
  p = fma(p, r, VecF::set1(1.0f));
  return scale2(p, n);
}

// log(x) for normal x > 0: exponent plus 2 atanh((m - 1) / (m + 1)), m in [0.7, 1.42).
FASTCONV_INLINE VecF log(VecF x) {
  const VecF one = VecF::set1(1.0f);
  const VecF raw = mantissa(x);
  const VecF limit = VecF::set1(1.41421356f);
  const VecF m = select_lt(raw, limit, raw, raw * VecF::set1(0.5f));
  const VecF e = select_lt(raw, limit, exponent(x), exponent(x) + one);
  const VecF t = (m - one) / (m + one);
  const VecF t2 = t * t;
  VecF p = VecF::set1(2.0f / 9.0f);
  p = fma(p, t2, VecF::set1(2.0f / 7.0f));
  p = fma(p, t2, VecF::set1(2.0f / 5.0f));
  p = fma(p, t2, VecF::set1(2.0f / 3.0f));
  p = fma(p * t2, t, t + t);
  return fma(e, VecF::set1(0.693147181f), p);
}

template <class F>
FASTCONV_INLINE VecD each_lane(VecD x, F f) {
  double lanes[VecD::kLanes];
  store(lanes, x);
  for (double& lane : lanes) lane = f(lane);
  return load(lanes);
}

FASTCONV_INLINE VecD exp(VecD x) {
  return each_lane(x, [](double lane) { return __builtin_exp(lane); });
}

FASTCONV_INLINE VecD log(VecD x) {
  return each_lane(x, [](double lane) { return __builtin_log(lane); });
}

}  // namespace fastconv::FASTCONV_ISA
