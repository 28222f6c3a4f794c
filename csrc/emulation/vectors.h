// CUDA's vector types and dim3, with the alignment that a 16-byte access needs.
#pragma once

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};

#define HOTLOOP_VECTOR1_(type, of)      \
  struct type##1 {                      \
    of x;                               \
  };                                    \
  inline type##1 make_##type##1(of x) { \
    return {x};                         \
  }
#define HOTLOOP_VECTOR2_(type, of)            \
  struct alignas(2 * sizeof(of)) type##2 {    \
    of x, y;                                  \
  };                                          \
  inline type##2 make_##type##2(of x, of y) { \
    return {x, y};                            \
  }
#define HOTLOOP_VECTOR4_(type, of)                                    \
  struct alignas(4 * sizeof(of) < 16 ? 4 * sizeof(of) : 16) type##4 { \
    of x, y, z, w;                                                    \
  };                                                                  \
  inline type##4 make_##type##4(of x, of y, of z, of w) {             \
    return {x, y, z, w};                                              \
  }
#define HOTLOOP_VECTORS_(type, of) \
  HOTLOOP_VECTOR1_(type, of)       \
  HOTLOOP_VECTOR2_(type, of)       \
  HOTLOOP_VECTOR4_(type, of)
HOTLOOP_VECTORS_(float, float)
HOTLOOP_VECTORS_(double, double)
HOTLOOP_VECTORS_(int, int)
HOTLOOP_VECTORS_(uint, unsigned)
HOTLOOP_VECTORS_(char, signed char)
HOTLOOP_VECTORS_(uchar, unsigned char)
HOTLOOP_VECTORS_(short, short)
HOTLOOP_VECTORS_(ushort, unsigned short)
HOTLOOP_VECTORS_(longlong, long long)
HOTLOOP_VECTORS_(ulonglong, unsigned long long)
#undef HOTLOOP_VECTORS_
#undef HOTLOOP_VECTOR4_
#undef HOTLOOP_VECTOR2_
#undef HOTLOOP_VECTOR1_
