// Internal: standard normals from random bits by the inverse distribution function, in a fixed order of IEEE operations
// (integer, +, *, /, square root, in float32 fused multiply-add; nothing else contracted), so that every device makes the
// same bits.
//
// For a tail probability p the variable w = -log(4 p (1 - p)) makes the function almost a straight line (M. Giles,
// "Approximating the erfinv function", GPU Computing Gems 2, 2011): z = q P(w) near the middle, z = Q(sqrt(w)) beyond.
// Coefficients are Chebyshev interpolants made with 80 digits; low powers first. Largest relative error over the range:
// 3e-7 in float32 and 1e-15 in float64 (tests/random_test.cpp).
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace flame::inverse_normal {

inline constexpr float central32[] = {4.24662696f,      0.6976040553f,    -0.01181545132f,  -0.003543245306f,
                                      0.0006175853267f, -1.406412673e-5f, -9.797629891e-6f, 1.324075403e-6f,
                                      6.60040826e-8f,   -2.526330169e-8f};
inline constexpr float tail32[] = {4.628051233f,    1.42413111f,      0.004869475725f,
                                   -0.00264998203f, 0.0009378453132f, -0.0002794133528f,
                                   5.233272246e-5f, 1.801708967e-5f,  -1.175500102e-5f};
inline constexpr double central64[] = {
    4.6772414200531866833,      0.67926991740227778563,      -0.017065798354537512677,   -0.0020950231389707640126,
    0.00052816409909491314746,  -0.000039265705728659549094, -3.8621300810297903384e-6,  1.1977789738280351031e-6,
    -8.2223457719204011273e-8,  -1.163236141823464132e-8,    2.9732939407438163337e-9,   -1.5313916772228859247e-10,
    -3.6704175017969567887e-11, 7.4401308092167062858e-12,   -2.2962301194315863794e-13, -1.1317209342491928849e-13,
    1.8657458499696053017e-14,  -1.1393513794357059991e-16,  -3.6817432283575695062e-16, 4.4050829833929892816e-17,
    3.2527541318058901696e-18,  -9.8983761111807496656e-19,  -3.1494076975594576616e-21, 9.166096396196052363e-21};
inline constexpr double middle64[] = {
    4.3612164458788699211,       1.4219991407210521285,      0.0065797839350550431973,   -0.0034590156355888037284,
    0.0012106036787580209203,    -0.00031397910863368346514, 0.000034146367572253811577, 0.000024147355647314703271,
    -0.000019527163860737341674, 7.1875641841238363239e-6,   -6.5722817244778980194e-7,  -8.764292228153129263e-7,
    5.621751909474029302e-7,     -1.3511396378693944787e-7,  -2.5557237579825470638e-8,  3.4015002407944764305e-8,
    -1.2362584104582435133e-8,   3.4267892858368309961e-10,  1.8366614489962510855e-9,   -6.6124777171997223555e-10};
inline constexpr double tail64[] = {
    7.3052698618430713211,      1.4285808145067624462,       -0.00042595741417016345148, -0.00019345232987557211325,
    0.000072044590543122778869, -0.000018248652849101349212, 4.0269355162688287066e-6,   -8.2475592090302623069e-7,
    1.6069888814675984085e-7,   -3.0110246467752065436e-8,   5.4354710265737710872e-9,   -9.3266992037371832492e-10,
    1.4050025317293259969e-10,  -1.0962154934271684295e-11,  -3.562610603040901895e-12,  2.5338865602822656147e-12,
    -1.7067259012784483236e-12, 8.7215303983743838148e-13,   -1.7857342391430329356e-13};
inline constexpr float log32[] = {3.3333331174e-1f,  -2.4999993993e-1f, 2.0000714765e-1f,
                                  -1.6668057665e-1f, 1.4249322787e-1f,  -1.2420140846e-1f,
                                  1.1676998740e-1f,  -1.1514610310e-1f, 7.0376836292e-2f};
template <int n>
float polynomial(const float (&c)[n], float x) {
  float y = c[n - 1];
  for (int i = n - 2; i >= 0; --i) y = std::fma(y, x, c[i]);
  return y;
}
template <int n>
constexpr double polynomial(const double (&c)[n], double x) {
  double y = c[n - 1];
  for (int i = n - 2; i >= 0; --i) y = y * x + c[i];
  return y;
}

// -log(t) for a normal t in (0, 1]: by Cephes' polynomial, and fdlibm's log for float64.
inline constexpr float log_of_2 = 0.693147181f;
inline float minus_log(float t) {
  const uint32_t u = std::bit_cast<uint32_t>(t) + (0x3f800000u - 0x3f3504f3u);  // mantissa in [sqrt(1/2), sqrt(2))
  const float e = static_cast<float>(static_cast<int32_t>(u >> 23) - 127);
  const float f = std::bit_cast<float>((u & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
  return -std::fma(e, log_of_2, std::fma(std::fma(polynomial(log32, f), f, -0.5f), f * f, f));
}
inline double minus_log(double t) {
  const uint64_t u = std::bit_cast<uint64_t>(t) + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu);
  const double e = static_cast<double>(static_cast<int64_t>(u >> 52) - 1023);
  const double f = std::bit_cast<double>((u & 0xfffffffffffffu) + 0x3fe6a09e667f3bcdu) - 1.0;
  constexpr double c[] = {6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                          2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                          1.479819860510658591e-01};
  const double s = f / (2.0 + f), half = 0.5 * f * f;
  const double z = s * s, r = z * polynomial(c, z);
  return -(e * 6.93147180369123816490e-01 - ((half - (s * (half + r) + e * 1.90821492927058770002e-10)) - f));
}

// The top bit is the sign, the rest the probability p = (m + 1/2) / 2^32 of the tail.
inline float from_bits(uint32_t bits) {
  const uint32_t odd = 2 * (bits & 0x7fffffffu) + 1;                                                // p = odd / 2^33
  const float p = static_cast<float>(odd) * 0x1p-33f, q = static_cast<float>(0u - odd) * 0x1p-33f;  // q = 1/2 - p
  const float w = minus_log(4.0f * p * (1.0f - p));
  const float z = w < 5.0f ? q * polynomial(central32, w - 2.5f) : polynomial(tail32, std::sqrt(w) - 3.4375f);
  return bits >> 31 ? -z : z;
}
// As above with p = (m + 1/2) / 2^64.
inline double from_bits(uint64_t bits) {
  const uint64_t odd = 2 * (bits & 0x7fffffffffffffffu) + 1;
  const double p = static_cast<double>(odd) * 0x1p-65, q = static_cast<double>(uint64_t{0} - odd) * 0x1p-65;
  const double w = minus_log(4.0 * p * (1.0 - p));
  if (w < 6.25) {
    const double z = q * polynomial(central64, w - 3.125);
    return bits >> 63 ? -z : z;
  }
  const double s = std::sqrt(w);
  const double z = s < 4.0 ? polynomial(middle64, s - 3.25) : polynomial(tail64, s - 5.3125);
  return bits >> 63 ? -z : z;
}

}  // namespace flame::inverse_normal
