// A register of kLanes float32 numbers: AVX-512, AVX2, or four lanes of whatever the compiler targets.

#ifndef MEMJAX_NATIVE_SIMD_H_
#define MEMJAX_NATIVE_SIMD_H_

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace memjax {

#if defined(__AVX512F__)

inline constexpr int kLanes = 16;
// A tile's products: so many keys, and queries in so many registers. 24 sums, 4 and 1 take 29 of 32 registers, and ten
// loads go with 24 multiplications.
inline constexpr int kRows = 6, kPanelRegisters = 4;
struct Lanes {
  __m512 x;
};
inline Lanes Load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void Store(float* p, Lanes a) { _mm512_storeu_ps(p, a.x); }
inline Lanes Load(const uint16_t* bfloat16) {
  __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bfloat16)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))};
}
inline Lanes Load(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline Lanes All(float a) { return {_mm512_set1_ps(a)}; }
inline Lanes Mul(Lanes a, Lanes b) { return {_mm512_mul_ps(a.x, b.x)}; }
inline Lanes Add(Lanes a, Lanes b) { return {_mm512_add_ps(a.x, b.x)}; }
inline Lanes Sub(Lanes a, Lanes b) { return {_mm512_sub_ps(a.x, b.x)}; }
inline Lanes Min(Lanes a, Lanes b) { return {_mm512_min_ps(a.x, b.x)}; }
inline Lanes Max(Lanes a, Lanes b) { return {_mm512_max_ps(a.x, b.x)}; }
inline Lanes MulAdd(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.x, b.x, c.x)}; }
// c - a b
inline Lanes NegMulAdd(Lanes a, Lanes b, Lanes c) { return {_mm512_fnmadd_ps(a.x, b.x, c.x)}; }
inline __mmask16 FirstOf(int count) { return static_cast<__mmask16>((1u << count) - 1); }
// The first `count` numbers, of which no more are read, then zeros.
inline Lanes LoadFirst(const float* p, int count) { return {_mm512_maskz_loadu_ps(FirstOf(count), p)}; }
inline Lanes LoadFirst(const uint16_t* bfloat16, int count) {
  __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(FirstOf(count), bfloat16));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))};
}
inline Lanes LoadFirst(const int8_t* p, int count) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(FirstOf(count), p)))};
}
inline __m256 Halves(Lanes a) { return _mm256_add_ps(_mm512_castps512_ps256(a.x), _mm512_extractf32x8_ps(a.x, 1)); }
// The sums of four registers, at the price of two.
inline void Sums(const Lanes a[4], float* sums) {
  __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(Halves(a[0]), Halves(a[1])), _mm256_hadd_ps(Halves(a[2]), Halves(a[3])));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}
// Bit i: a[i] > b[i]; false where one of them is not a number.
inline uint32_t Above(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a.x, b.x, _CMP_GT_OQ); }

#elif defined(__AVX2__) && defined(__FMA__)

inline constexpr int kLanes = 8;
inline constexpr int kRows = 6, kPanelRegisters = 2;  // 15 of 16 registers
struct Lanes {
  __m256 x;
};
inline Lanes Load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void Store(float* p, Lanes a) { _mm256_storeu_ps(p, a.x); }
inline Lanes Load(const uint16_t* bfloat16) {
  __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bfloat16)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16))};
}
inline Lanes Load(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
inline Lanes All(float a) { return {_mm256_set1_ps(a)}; }
inline Lanes Mul(Lanes a, Lanes b) { return {_mm256_mul_ps(a.x, b.x)}; }
inline Lanes Add(Lanes a, Lanes b) { return {_mm256_add_ps(a.x, b.x)}; }
inline Lanes Sub(Lanes a, Lanes b) { return {_mm256_sub_ps(a.x, b.x)}; }
inline Lanes Min(Lanes a, Lanes b) { return {_mm256_min_ps(a.x, b.x)}; }
inline Lanes Max(Lanes a, Lanes b) { return {_mm256_max_ps(a.x, b.x)}; }
inline Lanes MulAdd(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.x, b.x, c.x)}; }
inline Lanes NegMulAdd(Lanes a, Lanes b, Lanes c) { return {_mm256_fnmadd_ps(a.x, b.x, c.x)}; }
inline void Sums(const Lanes a[4], float* sums) {
  __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(a[0].x, a[1].x), _mm256_hadd_ps(a[2].x, a[3].x));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}
inline Lanes LoadFirst(const float* p, int count) {
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), places))};
}
inline uint32_t Above(Lanes a, Lanes b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.x, b.x, _CMP_GT_OQ)));
}

#else

inline constexpr int kLanes = 4;
inline constexpr int kRows = 6, kPanelRegisters = 4;  // ARM has 32 registers
typedef float Four __attribute__((vector_size(16)));
struct Lanes {
  Four x;
};
inline Lanes Load(const float* p) { return {Four{p[0], p[1], p[2], p[3]}}; }
inline void Store(float* p, Lanes a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.x[i];
}
inline Lanes Load(const uint16_t* bfloat16) {
  typedef uint32_t Bits __attribute__((vector_size(16)));
  Bits bits = {bfloat16[0], bfloat16[1], bfloat16[2], bfloat16[3]};
  return {reinterpret_cast<Four>(bits << 16)};
}
inline Lanes Load(const int8_t* p) {
  return {Four{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])}};
}
inline Lanes All(float a) { return {Four{a, a, a, a}}; }
inline Lanes Mul(Lanes a, Lanes b) { return {a.x * b.x}; }
inline Lanes Add(Lanes a, Lanes b) { return {a.x + b.x}; }
inline Lanes Sub(Lanes a, Lanes b) { return {a.x - b.x}; }
inline Lanes Min(Lanes a, Lanes b) { return {a.x < b.x ? a.x : b.x}; }
inline Lanes Max(Lanes a, Lanes b) { return {a.x > b.x ? a.x : b.x}; }
inline Lanes MulAdd(Lanes a, Lanes b, Lanes c) { return {a.x * b.x + c.x}; }
inline Lanes NegMulAdd(Lanes a, Lanes b, Lanes c) { return {c.x - a.x * b.x}; }
inline void Sums(const Lanes a[4], float* sums) {
  for (int i = 0; i < 4; ++i) sums[i] = (a[i].x[0] + a[i].x[2]) + (a[i].x[1] + a[i].x[3]);
}
inline uint32_t Above(Lanes a, Lanes b) {
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(a.x[i] > b.x[i]) << i;
  return bits;
}

#endif

#if !defined(__AVX512F__)
template <typename T>
inline Lanes LoadFirst(const T* p, int count) {
  T there[kLanes] = {};
  std::memcpy(there, p, count * sizeof(T));
  return Load(there);
}
#endif

// Has the register loaded before what follows, which compilers would else make the operand of a later instruction.
inline void Pin(Lanes& a) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(a.x));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(a.x));
#endif
}

// One register's, as `Sums` has it.
inline float Sum(Lanes a) {
  Lanes four[4] = {a, a, a, a};
  float sums[4];
  Sums(four, sums);
  return sums[0];
}

}  // namespace memjax

#endif  // MEMJAX_NATIVE_SIMD_H_
