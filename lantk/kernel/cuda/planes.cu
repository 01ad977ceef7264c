// The exact kernel on CUDA devices; `cuda.py` writes the definitions that this source begins with:
//
//   REAL      float or double, the type of the computation
//   CHANNELS  of an image
//   THREADS   in a block
//   LANES_X   lanes side by side over a row of the plane, or 0: no plane fits a warp's registers
//   POOLS     1 if all displacements count (global average pooling), 0 if none but 0 (flatten)
//   TORUS_Y, TORUS_X  1 if displacements d and d - side share one plane
//   LAYERS    the layers, of equal ones in a row the first, where LANES_X > 0
//
// Every entry is the same bytes whatever the tile and the launch: nothing of another entry is read,
// and all sums have one order. K(x, x') and K(x', x) are the same bytes: whatever belongs to either
// image alone meets in a product or a sum of two.

typedef REAL real;

enum { PIXELS, RELU, LINEAR };       // what a layer reads
enum { ZERO, SAME, OWN };            // T where it is read: 0, equal to S, or a field of its own
enum { ALONE, MIRRORED, HALVED };    // a displacement without a mirror image, with one, its own one

struct Layer {
  int size, stride, trained, source;
  int tap;                             // number of the readouts' sums taken of the input, or -1
  int height, width, top, left;        // of the input; zeros before it
  int table, rows, pitch;              // where an image's standard deviations are, padded
  int shift;                           // the input is divided by 2**shift
  int ntk;                             // ZERO, SAME or OWN
  int index, repeat;                   // from this layer on, how many equal ones follow one another
  int in_rows, out_rows, step_y;       // see Axis
  int in_columns, out_columns, step_x;
};

struct Readout { double nngp, ntk; int tap, halvings; };
struct Displacement { int y, x, kind; };

constexpr unsigned FULL = 0xffffffffu;
constexpr int WARPS = THREADS / 32;
// A ReLU multiplies S by pi, as seen in S' = sqrt(v v') sin t + S (pi - t).
constexpr real HALF_PI = sizeof(real) == 4 ? 1.57079637f : 1.5707963267948966;
// The |c| that counts as 1: where c should be 1, rounding leaves it a unit in the last place below.
constexpr real LIMIT = sizeof(real) == 4 ? 0.99999988f : 0.9999999999999998;
// A patch smaller than this, in an image of order one, counts as black: 1 / s^2 stays in range.
constexpr real SMALLEST = sizeof(real) == 4 ? 1e-18 : 1e-150;

#ifdef __CUDACC__
// Return x * 2**n in the steps that doubles allow (ldexp takes a dozen times as long).
__device__ __forceinline__ double scale(double x, int n) {
  const int half = max(-2044, min(n, 2046)) / 2, rest = max(-2044, min(n, 2046)) - half;
  return x * __hiloint2double((half + 1023) << 20, 0) * __hiloint2double((rest + 1023) << 20, 0);
}
__device__ __forceinline__ int find_lane() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float root(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float with_sign(float x, float sign) {  // of an x >= 0
  return __uint_as_float(__float_as_uint(x) ^ (__float_as_uint(sign) & 0x80000000u));
}
#else
__device__ inline double scale(double x, int n) { return ldexp(x, n); }
__device__ inline int find_lane() { return threadIdx.x % 32; }
__device__ inline float reciprocal(float x) { return 1 / x; }
__device__ inline float root(float x) { return sqrt(x); }
__device__ inline float with_sign(float x, float sign) { return copysign(1.0f, sign) * x; }
#endif
__device__ inline double reciprocal(double x) { return 1 / x; }
__device__ inline double root(double x) { return sqrt(x); }
__device__ inline double with_sign(double x, double sign) { return copysign(1.0, sign) * x; }
__device__ inline float size_of(float x) { return fabsf(x); }
__device__ inline double size_of(double x) { return fabs(x); }
__device__ inline float smaller(float x, float y) { return fminf(x, y); }
__device__ inline double smaller(double x, double y) { return fmin(x, y); }
__device__ inline float add_product(float x, float y, float z) { return fmaf(x, y, z); }
__device__ inline double add_product(double x, double y, double z) { return fma(x, y, z); }

// Return t / sin t for a = cos t in [0, 1]: minimax polynomials, which err by 5e-8 and 1e-16.
__device__ __forceinline__ float angle_over_sine(float a) {
  constexpr float powers[] = {
      0.01813492551445961f, -0.09989383071660995f, 0.2563669979572296f,
      -0.427213579416275f,  0.5582631230354309f,   -0.6614053845405579f,
      0.7849357724189758f,  -0.9999841451644897f,  1.570796251296997f};
  float total = powers[0];
#pragma unroll
  for (int k = 1; k < 9; ++k) total = fmaf(total, a, powers[k]);
  return total;
}
__device__ __forceinline__ double angle_over_sine(double a) {
  constexpr double powers[] = {
      0.00012828370266252008, -0.0014690748171114038, 0.00798093670489437,
      -0.02750199073502379,   0.06798965493759651,    -0.1297832699715507,
      0.20204601320377022,    -0.26907841559984663,   0.3206955951141784,
      -0.35657291161752,      0.38262631947535686,    -0.4053922736731731,
      0.4293335072144248,     -0.45711675894127907,   0.4908710724338752,
      -0.5333331231863349,    0.5890486119038669,     -0.6666666663357067,
      0.7853981633919882,     -0.9999999999999641,    1.5707963267948966};
  double total = powers[0];
#pragma unroll
  for (int k = 1; k < 21; ++k) total = fma(total, a, powers[k]);
  return total;
}

// Take S and T through a ReLU, times `weight`, a power of two; t becomes S + T: a trained layer's
// filter, being linear, takes that to the next T. `scale` is sqrt(v v'), 0 where a patch is black
// (there S = T = 0 already, and stay so).
__device__ __forceinline__ void rectify(real& s, real& t, real scale, real weight, int ntk) {
  const real c = s * reciprocal(scale);
  // The order of arguments matters: a NaN, from a black patch, becomes the limit.
  const real a = smaller(size_of(c), LIMIT);
  const real rest = add_product(-weight * weight, a, weight * weight * LIMIT);
  const real sine = root(add_product(rest, a, rest));
  const real obliqueness = add_product(-sine, angle_over_sine(a), weight * HALF_PI);
  const real slope = weight * HALF_PI + with_sign(obliqueness, c);
  const real straight = s * slope;
  s = add_product(scale, sine, straight);
  if (ntk == OWN) t = add_product(t, slope, s);
  if (ntk == SAME) t = straight + s;
}

// Return n, the same in all lanes, such that the compiler takes it for a new number: it would keep
// in registers, through all layers, what takes an instruction to compute again.
__device__ __forceinline__ int renew(int n) { return __shfl_sync(FULL, n, 0); }

// The number of the warp, such that the compiler knows all lanes of it to go the same way.
__device__ __forceinline__ int find_warp() { return __shfl_sync(FULL, threadIdx.x / 32, 0); }

// Return the sum over a block, to every thread, in a fixed order.
__device__ double sum_block(double x) {
  __shared__ double parts[WARPS];
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(FULL, x, apart);
  if (find_lane() == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  double total = 0;
  for (int k = 0; k < WARPS; ++k) total += parts[k];
  __syncthreads();
  return total;
}

__host__ __device__ constexpr double power_of_two(int n) {
  return n == 0 ? 1 : n > 0 ? 2 * power_of_two(n - 1) : 0.5 * power_of_two(n + 1);
}

// For each image its record: pixels of order one, then the standard deviations before each ReLU;
// and its own sums of S and T with itself at equal positions, where c = 1.
template <class Pixel>
__device__ void measure(const Layer* layers, int depth, const Pixel* images, const int* exponents,
                        int n, real* records, int record, double* own, int n_taps, double* grids) {
  const int warp = find_warp(), lane = find_lane();
  const Layer first = layers[0];
  const int area = first.height * first.width;
  grids += (long long)blockIdx.x * 4 * area;
  for (int image = blockIdx.x; image < n; image += gridDim.x) {
    const Pixel* pixels = images + (long long)image * CHANNELS * area;
    real* to = records + (long long)image * record;
    for (int y = warp; y < first.rows; y += WARPS)
      for (int x = lane; x < first.pitch; x += 32) {
        const bool is_inside = y < first.height && x < first.width;
        const int p = y * first.width + x;
        double v = 0;
        for (int c = 0; c < CHANNELS; ++c) {
          real pixel = 0;
          if (is_inside) pixel = ldexp((double)pixels[c * area + p], -exponents[image]);
          to[(c * first.rows + y) * first.pitch + x] = pixel;
          v += (double)pixel * pixel;
        }
        if (is_inside) grids[p] = v, grids[area + p] = 0;
      }
    for (int i = 0; i < depth; ++i) {
      const Layer layer = layers[i];
      const double* now = grids + i % 2 * 2 * area;
      double* later = grids + (i + 1) % 2 * 2 * area;
      const double weight = power_of_two(-layer.shift) * (layer.source == RELU ? 2 * HALF_PI : 1);
      double nngp = 0, ntk = 0;
      __syncthreads();
      for (int y = warp; y < layer.rows; y += WARPS)
        for (int x = lane; x < layer.pitch; x += 32) {
          const bool is_inside = y < layer.height && x < layer.width;
          const int p = y * layer.width + x;
          const double deviation = is_inside ? sqrt(now[p]) : 0;
          if (layer.source == RELU)
            to[layer.table + y * layer.pitch + x] = deviation < SMALLEST ? 0 : deviation;
          if (is_inside) nngp += now[p], ntk += now[area + p];
        }
      if (layer.tap >= 0) {
        nngp = sum_block(nngp), ntk = sum_block(ntk);
        double* sums = own + ((long long)image * n_taps + layer.tap) * 2;
        if (threadIdx.x == 0) sums[0] = weight * nngp, sums[1] = weight * ntk;
      }
      if (i + 1 == depth) break;
      for (int y = warp; y < layers[i + 1].height; y += WARPS)
        for (int x = lane; x < layers[i + 1].width; x += 32) {
          double s = 0, t = 0;
          for (int v = y * layer.stride - layer.top, k = 0; k < layer.size; ++k, ++v)
            for (int w = x * layer.stride - layer.left, l = 0; l < layer.size; ++l, ++w)
              if (v >= 0 && v < layer.height && w >= 0 && w < layer.width)
                s += now[v * layer.width + w], t += now[area + v * layer.width + w];
          const int q = y * layers[i + 1].width + x;
          later[q] = weight * s;
          later[area + q] = weight * (t + layer.trained * s);
        }
    }
    __syncthreads();
  }
}

#define MEASURE(NAME, PIXEL)                                                                     \
  extern "C" __global__ void __launch_bounds__(THREADS)                                          \
      NAME(const Layer* layers, int depth, const PIXEL* images, const int* exponents, int n,     \
           real* records, int record, double* own, int n_taps, double* grids) {                  \
    measure(layers, depth, images, exponents, n, records, record, own, n_taps, grids);           \
  }
MEASURE(measure_float32, float)
MEASURE(measure_float64, double)

// One signature for all of them.
#define COMPARE_PARAMETERS                                                                       \
  const Layer *layers, int depth, const Displacement *displacements, const int *columns,         \
      int n_columns, const real *records1, const real *records2, int record, const double *own1, \
      int n_taps, const long long *groups1, const long long *groups2, const int *exponents1,     \
      const int *exponents2, int n1, int n2, int is_diagonal, const Readout *readouts,           \
      int n_readouts, real *staging, int n_staging, double *partial, int n_partial, real *out

// Write entry (i, j) of every readout, from the sums of S and T at every tap.
__device__ void read_out(const Readout* readouts, int n_readouts, const double* sums, int exponent,
                         int i, int j, int n1, int n2, bool is_diagonal, real* out) {
#pragma unroll 1
  for (int k = 0; k < n_readouts; ++k, out += (long long)n1 * n2) {
    const Readout readout = readouts[k];
    const double total =
        readout.nngp * sums[2 * readout.tap] + readout.ntk * sums[2 * readout.tap + 1];
    const real value = scale(total, exponent - readout.halvings);
    out[(long long)i * n2 + j] = value;
    if (is_diagonal) out[(long long)j * n2 + i] = value;
  }
}
#define READ_OUT(SUMS)                                                                          \
  read_out(readouts, n_readouts, SUMS, exponents1[i] + exponents2[j], i, j, n1, n2, is_diagonal, \
           out)

// Where p and p + d both lie in [0, side): from max(0, -d) on, to min(side, side - d). Going round,
// p + d - side takes the place of p + d from side - d on. Between the two parts is a seam.
__device__ inline int find_seam(int side, int d) { return d < 0 ? -d : side - d; }

#if LANES_X > 0
// ----------------------------------------------------------------------------------------------
// One warp for one plane, S and T in registers through all layers.
//
// The lanes form a grid of LANES_X columns. Lane k of an axis holds the IN positions from
// k / STEP * IN on, so that a stride leaves each lane its part of the output: a patch of 4 x 8 of a
// plane of 32 x 32 becomes one of 2 x 4, then 1 x 2. After a stride that does not divide IN = 1,
// only every STEP-th lane counts.

constexpr Layer layers_of_walk[] = {LAYERS};
constexpr int N_STEPS = sizeof(layers_of_walk) / sizeof(Layer);

// Whether T is a field of its own when the layer has read it.
__host__ __device__ constexpr bool has_own_ntk(const Layer& layer) {
  return layer.ntk == OWN || (layer.ntk == SAME && layer.source == RELU);
}

// One axis of a layer: N positions, IN in a lane, OUT in the output; neighbouring lanes of the axis
// are APART in the warp.
template <int SIZE, int STRIDE, int BEFORE, int N, int IN, int OUT, int STEP, int APART>
struct Axis {
  // Whether positions of the same lane may be parted, by a seam or the end of the axis.
  static constexpr bool is_cut = POOLS || N % IN != 0;

  static __host__ __device__ constexpr int lane_of(int r) {  // r positions on from a lane's first
    return r >= 0 ? r / IN : -((IN - 1 - r) / IN);
  }

  static __device__ __forceinline__ real fetch(const real (&v)[IN], int r) {
    const int lanes = lane_of(r) * STEP * APART, slot = r - lane_of(r) * IN;
    if (lanes == 0) return v[slot];
    if (lanes >= 32 || lanes <= -32) return 0;
    return lanes > 0 ? __shfl_down_sync(FULL, v[slot], lanes)
                     : __shfl_up_sync(FULL, v[slot], -lanes);
  }

  // Return total + v[r], where positions r and `centre` are in one piece.
  static __device__ __forceinline__ real join(real total, real value, int r, int centre, int first,
                                              int seam) {
    if (!is_cut && lane_of(r) == 0) return total + value;
    const int low = r < centre ? r : centre, high = r < centre ? centre : r;
    const bool is_inside = (lane_of(low) == 0 || first + low >= 0) && first + high < N;
    // Unsigned: the seam lies in (low, high].
    const bool is_torn = POOLS && (unsigned)(seam - first - low - 1) < (unsigned)(high - low);
    const bool is_joined = is_inside && !is_torn;
    return add_product(is_joined ? real(1) : real(0), value, total);
  }

  // Set sum = the sums over the filter of the values v, of which the lane's first is at `first`.
  static __device__ __forceinline__ void add_up(const real (&v)[IN], int first, int seam,
                                                real (&sum)[OUT]) {
    constexpr int LAST = STRIDE * (OUT - 1) - BEFORE + SIZE;
    real near[LAST + BEFORE > 0 ? LAST + BEFORE : 1];
#pragma unroll
    for (int r = -BEFORE; r < LAST; ++r) near[r + BEFORE] = fetch(v, r);
    if constexpr (SIZE == 3 && STRIDE == 1 && !is_cut) {
      // Two neighbouring sums share a sum of two.
#pragma unroll
      for (int o = 0; o < OUT; o += 2) {
        if (o + 1 < OUT) {
          const real pair = v[o] + v[o + 1];
          sum[o] = join(pair, near[o], o - 1, o, first, seam);
          sum[o + 1] = join(pair, near[o + 3], o + 2, o + 1, first, seam);
        } else {
          sum[o] = join(v[o], near[o], o - 1, o, first, seam);
          sum[o] = join(sum[o], near[o + 2], o + 1, o, first, seam);
        }
      }
    } else {
#pragma unroll
      for (int o = 0; o < OUT; ++o) {
        const int centre = o * STRIDE;
        sum[o] = v[centre];
#pragma unroll
        for (int r = centre - BEFORE; r < centre - BEFORE + SIZE; ++r)
          if (r != centre) sum[o] = join(sum[o], near[r + BEFORE], r, centre, first, seam);
      }
    }
  }
};

template <int N> struct alignas(N * sizeof(real)) Vector { real v[N]; };

// Read neighbours in steps as wide as alignment lets them be.
template <int N> __device__ __forceinline__ void read(const real* from, real (&to)[N]) {
  constexpr int WIDE = 16 / sizeof(real);
  constexpr int STEP = N % WIDE == 0 ? WIDE : N % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int x = 0; x < N; x += STEP) {
    const Vector<STEP> some = *reinterpret_cast<const Vector<STEP>*>(from + x);
#pragma unroll
    for (int k = 0; k < STEP; ++k) to[x + k] = some.v[k];
  }
}

// Where a lane's patch begins, and which displacement it pairs.
struct Place { int lane_y, lane_x, dy, dx; };

template <int I> __device__ __forceinline__ int renew_in_loop(int n) {
  constexpr Layer L = layers_of_walk[I];
  return POOLS && L.repeat > 1 ? renew(n) : n;
}

template <int Y, int X> struct Field { real v[Y][X]; };

// Set `sum` to the sum over the filter of layer I.
template <int I, int Y, int X, int V, int W>
__device__ __forceinline__ void convolve(const Field<Y, X>& field, const Place& place,
                                         Field<V, W>& sum) {
  constexpr Layer L = layers_of_walk[I];
  using Horizontal = Axis<L.size, L.stride, L.left, L.width, X, W, L.step_x, 1>;
  using Vertical = Axis<L.size, L.stride, L.top, L.height, Y, V, L.step_y, LANES_X>;
  const int first_y = place.lane_y / L.step_y * Y, first_x = place.lane_x / L.step_x * X;
  const int seam_y = find_seam(L.height, place.dy);
  const int seam_x = find_seam(L.width, place.dx);
  Field<Y, W> line;
#pragma unroll
  for (int y = 0; y < Y; ++y) Horizontal::add_up(field.v[y], first_x, seam_x, line.v[y]);
#pragma unroll
  for (int x = 0; x < W; ++x) {
    real column[Y], total[V];
#pragma unroll
    for (int y = 0; y < Y; ++y) column[y] = line.v[y][x];
    Vertical::add_up(column, first_y, seam_y, total);
#pragma unroll
    for (int y = 0; y < V; ++y) sum.v[y][x] = total[y];
  }
}

// Read the input of layer I: multiply pixels, or take S and T through a ReLU. `zeros` reads as rows
// of zeros, wherever in the plane.
template <int I, int Y, int X>
__device__ __forceinline__ void read_layer(const real* a, const real* b, const real* zeros,
                                           const Place& place, Field<Y, X>& s, Field<Y, X>& t) {
  constexpr Layer L = layers_of_walk[I];
  constexpr real WEIGHT = power_of_two(-L.shift);
  const int first_y = place.lane_y / L.step_y * Y, first_x = place.lane_x / L.step_x * X;
  const int plane = L.source == PIXELS ? L.rows * L.pitch : 0;
  if (L.source == LINEAR) {
#pragma unroll
    for (int y = 0; y < Y; ++y)
#pragma unroll
      for (int x = 0; x < X; ++x) {
        s.v[y][x] *= WEIGHT;
        if (L.ntk == OWN) t.v[y][x] = add_product(t.v[y][x], WEIGHT, s.v[y][x]);
      }
    return;
  }
  if (L.source == PIXELS) s = Field<Y, X>{};
  const int top = first_y + renew_in_loop<I>(place.dy);
  a += first_y * L.pitch + first_x, b += top * L.pitch + first_x;
#pragma unroll 1
  for (int c = 0; c < (L.source == PIXELS ? CHANNELS : 1); ++c, a += plane, b += plane) {
#pragma unroll
    for (int y = 0; y < Y; ++y) {
      real own[X], others[X];
      const real* other = b;
      if (POOLS && top + y >= L.height) other = TORUS_Y ? b - L.height * L.pitch : zeros;
      if (POOLS && !TORUS_Y && top + y < 0) other = zeros;
      read<X>(a + y * L.pitch, own);
      read<X>(other + y * L.pitch, others);
#pragma unroll
      for (int x = 0; x < X; ++x)
        if (L.source == PIXELS)
          s.v[y][x] = add_product(own[x], others[x], s.v[y][x]);
        else
          rectify(s.v[y][x], t.v[y][x], own[x] * others[x], WEIGHT, L.ntk);
    }
  }
}

// Write the sums of S and T over the plane.
template <int I, int Y, int X>
__device__ __forceinline__ void tap_layer(const Field<Y, X>& s, const Field<Y, X>& t,
                                          const Place& place, int tap, double* sums) {
  constexpr Layer L = layers_of_walk[I];
  real nngp = 0, ntk = 0;
#pragma unroll
  for (int y = 0; y < Y; ++y)
#pragma unroll
    for (int x = 0; x < X; ++x) {
      nngp += s.v[y][x];
      if (has_own_ntk(L)) ntk += t.v[y][x] - s.v[y][x];
    }
  if (L.ntk == SAME && !has_own_ntk(L)) ntk = nngp;
  // Lanes between steps hold nothing of meaning.
  const bool counts = place.lane_y % L.step_y == 0 && place.lane_x % L.step_x == 0;
  nngp = counts ? nngp : 0, ntk = counts ? ntk : 0;
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    nngp += __shfl_xor_sync(FULL, nngp, apart);
    ntk += __shfl_xor_sync(FULL, ntk, apart);
  }
  if (find_lane() == 0) {
    sums[2 * tap] = nngp;
    sums[2 * tap + 1] = ntk;
  }
}

// Set S and T to what layer I's filter makes of them; `t` holds S + T.
template <int I, int Y, int X, int V, int W>
__device__ __forceinline__ void step(const Field<Y, X>& s, const Field<Y, X>& t, const Place& place,
                                     Field<V, W>& nngp, Field<V, W>& ntk) {
  constexpr Layer L = layers_of_walk[I];
  convolve<I>(s, place, nngp);
  if constexpr (has_own_ntk(L) && L.trained) {
    convolve<I>(t, place, ntk);
  } else if constexpr (has_own_ntk(L)) {
    Field<Y, X> alone;
#pragma unroll
    for (int y = 0; y < Y; ++y)
#pragma unroll
      for (int x = 0; x < X; ++x) alone.v[y][x] = t.v[y][x] - s.v[y][x];
    convolve<I>(alone, place, ntk);
  } else if constexpr (L.ntk == SAME && L.trained) {
#pragma unroll
    for (int y = 0; y < V; ++y)
#pragma unroll
      for (int x = 0; x < W; ++x) ntk.v[y][x] = 2 * nngp.v[y][x];
  }
}

// Take a plane from the input of layer I through all layers that its displacement reaches.
template <int I, int Y, int X>
__device__ __forceinline__ void walk(const Layer* layers, const real* a, const real* b,
                                     const real* zeros, Place place, Field<Y, X>& s,
                                     Field<Y, X>& t, double* sums) {
  constexpr Layer L = layers_of_walk[I];
  if constexpr (L.repeat > 1) {
#pragma unroll 1
    for (int k = 0; k < L.repeat; ++k) {
      const int table = L.table + k * L.rows * L.pitch;
      read_layer<I>(a + table, b + table, zeros, place, s, t);
      const int tap = layers[L.index + k].tap;
      if (tap >= 0) tap_layer<I>(s, t, place, tap, sums);
      Field<Y, X> nngp, ntk;
      step<I>(s, t, place, nngp, ntk);
      s = nngp, t = ntk;
    }
    walk<I + 1>(layers, a, b, zeros, place, s, t, sums);
  } else {
    read_layer<I>(a + L.table, b + L.table, zeros, place, s, t);
    if constexpr (L.tap >= 0) tap_layer<I>(s, t, place, L.tap, sums);
    if constexpr (I + 1 < N_STEPS) {
      Place next = place;
      if (POOLS && L.stride > 1) {
        // A convolution keeps the displacements that its stride divides.
        if (place.dy % L.stride != 0 || place.dx % L.stride != 0) return;
        next.dy /= L.stride, next.dx /= L.stride;
      }
      Field<L.out_rows, L.out_columns> nngp, ntk;
      step<I>(s, t, place, nngp, ntk);
      walk<I + 1>(layers, a, b, zeros, next, nngp, ntk, sums);
    }
  }
}

// Write to `sums`, from the first lane, the sums of S and T at every tap over one plane.
__device__ __forceinline__ void compare_planes(const Layer* layers, const real* a, const real* b,
                                               const real* zeros, int dy, int dx, int n_taps,
                                               double* sums) {
  constexpr Layer L = layers_of_walk[0];
  const int lane = find_lane();
  if (POOLS && lane == 0)
#pragma unroll 1
    for (int k = 0; k < 2 * n_taps; ++k) sums[k] = 0;
  Field<L.in_rows, L.in_columns> s, t;
  walk<0>(layers, a, b, zeros, Place{lane / LANES_X, lane % LANES_X, dy, dx}, s, t, sums);
}

#if POOLS
// Return the first layer from I on that is not like layer I: of other sides, or behind a stride.
__host__ __device__ constexpr int end_of_likes(int i) {
  while (i + 1 < N_STEPS && layers_of_walk[i].stride == 1) ++i;
  return i + 1;
}
__host__ __device__ constexpr int count_rows(int begin, int end) {
  int n = 0;
  for (int i = begin; i < end; ++i) {
    const Layer& layer = layers_of_walk[i];
    n += layer.rows * (layer.source == PIXELS ? CHANNELS : layer.source == RELU ? layer.repeat : 0);
  }
  return n;
}

// Copy a record from layer I on so that column x of each plane holds column x + dx, and zeros where
// none is.
template <int I>
__device__ __forceinline__ void turn_record(const real* __restrict__ from, int dx,
                                            real* __restrict__ to) {
  constexpr Layer L = layers_of_walk[I];
  constexpr int NEXT = end_of_likes(I), ROWS = count_rows(I, NEXT);
  constexpr int STRIDE = layers_of_walk[NEXT - 1].stride;
  const int warp = find_warp();
#pragma unroll
  for (int x = find_lane(); x < L.pitch; x += 32) {
    int other = x + dx;
    if (TORUS_X && other >= L.width) other -= L.width;
    const bool is_inside = x < L.width && other >= 0 && other < L.width;
    // Many loads on their way at once.
#pragma unroll 16
    for (int y = warp; y < ROWS; y += WARPS) {
      const int row = L.table + y * L.pitch;
      to[row + x] = is_inside ? from[row + other] : real(0);
    }
  }
  if constexpr (NEXT < N_STEPS)
    if (dx % STRIDE == 0) turn_record<NEXT>(from, dx / STRIDE, to);
}

// One block for one entry, each warp with displacements of its own.
extern "C" __global__ void __launch_bounds__(THREADS)
    compare(COMPARE_PARAMETERS) {
  const int warp = find_warp(), width = 2 * n_taps;
  real* turned = staging + (long long)blockIdx.x * n_staging;
  real* zeros = turned + record;
  double* totals = partial + (long long)blockIdx.x * n_partial;  // (warps, taps, 2)
  double* parts = totals + WARPS * width;  // (displacements of a column, turns, taps, 2)
  for (int k = threadIdx.x; k < n_staging - record; k += THREADS) zeros[k] = 0;
  for (int task = blockIdx.x; task < n1 * n2; task += gridDim.x) {
    const int i = task / n2, j = task % n2;
    if (is_diagonal && j < i) continue;
    if (find_lane() == 0)
#pragma unroll 1
      for (int k = 0; k < width; ++k) totals[warp * width + k] = 0;
    for (int column = 0; column < n_columns; ++column) {
      const int begin = columns[column], end = columns[column + 1];
      // First the row image's positions p with p + d of the column image, then the other way round.
      for (int turn = 0; turn < 2; ++turn) {
        const real* a = turn == 0 ? records1 + (long long)i * record
                                  : records2 + (long long)j * record;
        const real* b = turn == 0 ? records2 + (long long)j * record
                                  : records1 + (long long)i * record;
        __syncthreads();
        turn_record<0>(b, displacements[begin].x, turned);
        __syncthreads();
        for (int k = begin + warp; k < end; k += WARPS) {
          const Displacement d = displacements[k];
          if (turn == 1 && d.kind == ALONE) continue;
          compare_planes(layers, a, turned, zeros, d.y, d.x, n_taps,
                         parts + (2 * (k - begin) + turn) * width);
        }
      }
      if (find_lane() == 0)
        for (int k = begin + warp; k < end; k += WARPS) {
          const int kind = displacements[k].kind;
          const bool is_equal = kind == ALONE && groups1[i] == groups2[j];
          const double* first =
              is_equal ? own1 + (long long)i * width : parts + 2 * (k - begin) * width;
          const double* second = parts + (2 * (k - begin) + 1) * width;
          // A plane and its mirror image meet in one sum, which does not change with x, x'.
#pragma unroll 1
          for (int l = 0; l < width; ++l)
            totals[warp * width + l] += kind == ALONE      ? first[l]
                                        : kind == MIRRORED ? first[l] + second[l]
                                                           : 0.5 * (first[l] + second[l]);
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll 1
      for (int l = 0; l < width; ++l)
        for (int k = 1; k < WARPS; ++k) totals[l] += totals[k * width + l];
      READ_OUT(totals);
    }
    __syncthreads();
  }
}
#else
// One warp for one entry; a block shares four column images.
extern "C" __global__ void __launch_bounds__(THREADS)
    compare(COMPARE_PARAMETERS) {
  // Where each warp is: registers are for the plane.
  __shared__ volatile int entries[WARPS][2];
  const int warp = find_warp();
  const int tall = (n1 + WARPS / 4 - 1) / (WARPS / 4), wide = (n2 + 3) / 4;
  for (int task = blockIdx.x; task < tall * wide; task += gridDim.x) {
    {
      const int i = task / wide * (WARPS / 4) + warp / 4, j = task % wide * 4 + warp % 4;
      if (i >= n1 || j >= n2 || (is_diagonal && j < i)) continue;
      if (find_lane() == 0) entries[warp][0] = i, entries[warp][1] = j;
      if (groups1[i] != groups2[j])
        compare_planes(layers, records1 + (long long)i * record, records2 + (long long)j * record,
                       nullptr, 0, 0, n_taps,
                       partial + (long long)blockIdx.x * n_partial + warp * 2 * n_taps);
    }
    if (find_lane() == 0) {
      const int i = entries[warp][0], j = entries[warp][1];
      const double* sums = partial + (long long)blockIdx.x * n_partial + warp * 2 * n_taps;
      READ_OUT(groups1[i] == groups2[j] ? own1 + (long long)i * 2 * n_taps : sums);
    }
  }
}
#endif

#else
// ----------------------------------------------------------------------------------------------
// One block for one plane, S and T in the device's memory: any size of anything.

// The part of a layer's input that a displacement pairs: rows [top, bottom), columns [left, right).
struct Part { int top, bottom, left, right; };

__device__ inline Part overlap(const Layer& layer, int dy, int dx) {
  return {dy < 0 ? -dy : 0, dy < 0 ? layer.height : layer.height - dy,
          dx < 0 ? -dx : 0, dx < 0 ? layer.width : layer.width - dx};
}

// Write to `sums`, from the first thread, the sums of S and T at every tap over one plane.
__device__ void compare_planes(const Layer* layers, int depth, const real* a, const real* b, int dy,
                               int dx, int n_taps, real* planes, double* sums) {
  const int warp = find_warp(), lane = find_lane();
  const int area = layers[0].height * layers[0].width;
  real *nngp = planes, *ntk = planes + area;
  real *nngp_line = planes + 2 * area, *ntk_line = planes + 3 * area;
  __syncthreads();
  for (int k = threadIdx.x; k < 2 * n_taps; k += THREADS) sums[k] = 0;
  for (int i = 0; i < depth; ++i) {
    const Layer layer = layers[i];
    const Part in = overlap(layer, dy, dx);
    const int width = layer.width, apart = layer.rows * layer.pitch;
    const real weight = power_of_two(-layer.shift);
    double s_sum = 0, t_sum = 0;
    __syncthreads();
    for (int y = in.top + warp; y < in.bottom; y += WARPS)
      for (int x = in.left + lane; x < in.right; x += 32) {
        const int p = layer.table + y * layer.pitch + x, q = p + dy * layer.pitch + dx;
        real s = 0, t = 0;
        if (layer.source == PIXELS) {
          for (int c = 0; c < CHANNELS; ++c)
            s = add_product(a[p + c * apart], b[q + c * apart], s);
        } else {
          s = nngp[y * width + x], t = ntk[y * width + x];
          if (layer.source == RELU)
            rectify(s, t, a[p] * b[q], weight, OWN), t -= s;
          else
            s *= weight, t *= weight;
        }
        nngp[y * width + x] = s, ntk[y * width + x] = t;
        s_sum += s, t_sum += t;
      }
    if (layer.tap >= 0) {
      s_sum = sum_block(s_sum), t_sum = sum_block(t_sum);
      if (threadIdx.x == 0) sums[2 * layer.tap] = s_sum, sums[2 * layer.tap + 1] = t_sum;
    }
    // A convolution keeps the displacements that its stride divides.
    if (i + 1 == depth || dy % layer.stride != 0 || dx % layer.stride != 0) break;
    dy /= layer.stride, dx /= layer.stride;
    const Part out = overlap(layers[i + 1], dy, dx);
    const int narrow = layers[i + 1].width;
    __syncthreads();
    for (int y = in.top + warp; y < in.bottom; y += WARPS)
      for (int x = out.left + lane; x < out.right; x += 32) {
        const int start = x * layer.stride - layer.left;
        const int first = max(start, in.left), stop = min(start + layer.size, in.right);
        real s = 0, t = 0;
        for (int p = y * width + first; p < y * width + stop; ++p) s += nngp[p], t += ntk[p];
        nngp_line[y * narrow + x] = s, ntk_line[y * narrow + x] = t;
      }
    __syncthreads();
    for (int y = out.top + warp; y < out.bottom; y += WARPS)
      for (int x = out.left + lane; x < out.right; x += 32) {
        const int start = y * layer.stride - layer.top;
        const int first = max(start, in.top), stop = min(start + layer.size, in.bottom);
        real s = 0, t = 0;
        for (int p = first * narrow + x; p < stop * narrow; p += narrow)
          s += nngp_line[p], t += ntk_line[p];
        nngp[y * narrow + x] = s, ntk[y * narrow + x] = layer.trained ? t + s : t;
      }
  }
  __syncthreads();
}

// One block for one entry.
extern "C" __global__ void __launch_bounds__(THREADS)
    compare(COMPARE_PARAMETERS) {
  const int width = 2 * n_taps;
  real* planes = staging + (long long)blockIdx.x * n_staging;
  double* totals = partial + (long long)blockIdx.x * n_partial;
  double *part = totals + width, *mirrored = part + width;
  for (int task = blockIdx.x; task < n1 * n2; task += gridDim.x) {
    const int i = task / n2, j = task % n2;
    if (is_diagonal && j < i) continue;
    const real *a = records1 + (long long)i * record, *b = records2 + (long long)j * record;
    if (threadIdx.x == 0)
#pragma unroll 1
      for (int l = 0; l < width; ++l) totals[l] = 0;
    for (int k = 0; k < columns[n_columns]; ++k) {
      const Displacement d = displacements[k];
      compare_planes(layers, depth, a, b, d.y, d.x, n_taps, planes, part);
      if (d.kind != ALONE)
        compare_planes(layers, depth, b, a, d.y, d.x, n_taps, planes, mirrored);
      if (threadIdx.x > 0) continue;
      const bool is_equal = d.kind == ALONE && groups1[i] == groups2[j];
      const double* sums = is_equal ? own1 + (long long)i * width : part;
      // A plane and its mirror image meet in one sum, which does not change with x, x'.
#pragma unroll 1
      for (int l = 0; l < width; ++l)
        totals[l] += d.kind == ALONE ? sums[l] : sums[l] + mirrored[l];
    }
    if (threadIdx.x == 0) READ_OUT(totals);
    __syncthreads();
  }
}
#endif
