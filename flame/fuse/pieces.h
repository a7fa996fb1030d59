// Internal: Taylor polynomials of erf and of the normal tail about the multiples of 1/8, for simd_pieces.h. Made when
// compiled, from 32 values of the function in 40 digits and the recurrence of its derivatives.
#pragma once

namespace flame {

inline constexpr double last_piece = 3.9375;  // the pieces reach from 0 up to here

// Coefficient k of the polynomial about i / 8 is c[k][i] + low[k][i].
struct Pieces {
  alignas(64) float c[7][32], low[3][32];
};

// f' = slope e^(-w x^2 / 2), so f^(k+2) = -w (x f^(k+1) + k f^(k)). base = e^(-w / 128).
constexpr Pieces make_pieces(const double (&values)[32], double slope, double w, double base) {
  Pieces out{};
  for (int i = 0; i < 32; ++i) {
    const double x = i / 8.0;
    double c[9] = {values[i], slope};
    double power = base;
    for (int n = i * i; n > 0; n /= 2, power *= power)
      if (n % 2) c[1] *= power;
    for (int k = 0; k < 7; ++k) {
      // Of derivatives over factorials: (k + 2)! c[k + 2] = -w (x (k + 1)! c[k + 1] + k k! c[k]).
      const double before = k == 0 ? 0 : k * c[k] / (k + 1);
      c[k + 2] = -w * (x * c[k + 1] + before) / (k + 2);
    }
    // The terms of degree 8 and 7 by the polynomials below degree 7 that are nearest to them for |x| <= h = 1/16.
    constexpr double h2 = 1.0 / 256;
    c[6] += c[8] * 2 * h2;
    c[5] += c[7] * 1.75 * h2;
    c[4] -= c[8] * 1.25 * h2 * h2;
    c[3] -= c[7] * 0.875 * h2 * h2;
    c[2] += c[8] * 0.25 * h2 * h2 * h2;
    c[1] += c[7] * 7 / 64 * h2 * h2 * h2;
    c[0] -= c[8] * h2 * h2 * h2 * h2 / 128;
    for (int k = 0; k < 7; ++k) out.c[k][i] = static_cast<float>(c[k]);
    for (int k = 0; k < 3; ++k) out.low[k][i] = static_cast<float>(c[k] - static_cast<double>(out.c[k][i]));
  }
  return out;
}

inline constexpr double normal_tail_values[] = {0.5,
                                                0.450261775169887107,
                                                0.4012936743170762758,
                                                0.3538302333272762056,
                                                0.3085375387259868964,
                                                0.2659855290487005323,
                                                0.2266273523768681993,
                                                0.1907869528525106256,
                                                0.1586552539314570514,
                                                0.1302945171368088546,
                                                0.1056497736668552577,
                                                0.08456572235133571995,
                                                0.066807201268858066,
                                                0.05208127941521954773,
                                                0.04005915686381709042,
                                                0.03039636176526137505,
                                                0.0227501319481792072,
                                                0.01679330644844881259,
                                                0.01222447265504470315,
                                                0.008774475095738361686,
                                                0.006209665325776135167,
                                                0.004332448363012558626,
                                                0.002979763235054556754,
                                                0.002020137489946001681,
                                                0.001349898031630094527,
                                                0.0008890252991084320593,
                                                0.0005770250423907670429,
                                                0.0003690784542750673087,
                                                0.0002326290790355250363,
                                                0.0001444807258812357674,
                                                0.00008841728520080386782,
                                                0.00005331234975109634509};
inline constexpr double erf_values[] = {0.0,
                                        0.1403162048013338174,
                                        0.276326390168236933,
                                        0.4041169094348222983,
                                        0.5204998778130465377,
                                        0.6232408821884179724,
                                        0.7111556336535151316,
                                        0.7840750610598596583,
                                        0.8427007929497148693,
                                        0.8883882317017077641,
                                        0.9229001282564582301,
                                        0.9481700727820903226,
                                        0.9661051464753107271,
                                        0.9784437332399836647,
                                        0.9866716712191824438,
                                        0.9919900576701199703,
                                        0.9953222650189527342,
                                        0.9973459706405176585,
                                        0.9985372834133188483,
                                        0.9992170617821088808,
                                        0.9995930479825550411,
                                        0.9997946242638587826,
                                        0.9998993780778803632,
                                        0.9999521451602562266,
                                        0.9999779095030014146,
                                        0.9999901032653747544,
                                        0.9999956972205363249,
                                        0.9999981847185725596,
                                        0.9999992569016276586,
                                        0.9999997048598074884,
                                        0.9999998862727434302,
                                        0.9999999574860559175};
// 1 - Phi(x), and erf(x).
inline constexpr Pieces normal_tail_pieces =
    make_pieces(normal_tail_values, -0.39894228040143267794, 1, 0.99221793826024351211);
inline constexpr Pieces erf_pieces = make_pieces(erf_values, 1.1283791670955125739, 2, 0.98449643700540840599);

}  // namespace flame
