// Lets a host compiler build `planes.cu` and run it: every thread of a block is a coroutine.
//
// The lanes of a warp take turns between collective operations (shuffles, barriers), one warp after
// the other between barriers, block after block. A lane that misses a collective operation, or
// meets another one than its warp, ends the program with a message.
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct Index { int x; };
static Index threadIdx, blockIdx, gridDim;
static inline int max(int a, int b) { return a > b ? a : b; }
static inline int min(int a, int b) { return a < b ? a : b; }

namespace emulator {

enum State { RUNNING, IN_WARP, IN_BLOCK, DONE };
typedef void (*Kernel)(long, long, long, long, long, long, long, long, long, long, long, long,
                       long, long, long, long, long, long, long, long, long, long, long, long,
                       long, long);
constexpr int MOST_ARGUMENTS = 26, MOST_THREADS = 1024, STACK = 1 << 17;

struct Lane {
  jmp_buf here;
  ucontext_t first;
  State state;
  long n_collective;
  double sent[2];
};
static Lane lanes[MOST_THREADS];
static char* stacks;
static jmp_buf scheduler;
static Kernel kernel;
static long arguments[MOST_ARGUMENTS];

static inline void pause(State state) {
  Lane& lane = lanes[threadIdx.x];
  lane.state = state;
  if (!_setjmp(lane.here)) _longjmp(scheduler, 1);
}

static void begin() {
  long* a = arguments;
  kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13],
         a[14], a[15], a[16], a[17], a[18], a[19], a[20], a[21], a[22], a[23], a[24], a[25]);
  lanes[threadIdx.x].state = DONE;
  _longjmp(scheduler, 1);
}

static inline void resume(int thread) {
  threadIdx.x = thread;
  Lane& lane = lanes[thread];
  const bool is_new = lane.state == RUNNING;
  lane.state = RUNNING;
  if (_setjmp(scheduler)) return;
  if (is_new) setcontext(&lane.first);
  _longjmp(lane.here, 1);
}

static void fail(const char* message) {
  fprintf(stderr, "emulator: %s\n", message);
  abort();
}

// Run the lanes of a warp until all wait for the block, or are done.
static void run_warp(int first) {
  do {
    for (int k = first; k < first + 32; ++k)
      if (lanes[k].state == RUNNING || lanes[k].state == IN_WARP) resume(k);
    for (int k = first + 1; k < first + 32; ++k)
      if (lanes[k].state != lanes[first].state ||
          lanes[k].n_collective != lanes[first].n_collective)
        fail("the lanes of a warp part before a collective operation");
  } while (lanes[first].state == IN_WARP);
}

static void run_block(int n_threads) {
  for (int k = 0; k < n_threads; ++k) {
    Lane& lane = lanes[k];
    lane.state = RUNNING, lane.n_collective = 0;
    getcontext(&lane.first);
    lane.first.uc_stack.ss_sp = stacks + (long)k * STACK;
    lane.first.uc_stack.ss_size = STACK;
    lane.first.uc_link = nullptr;
    makecontext(&lane.first, begin, 0);
  }
  bool is_done = false;
  for (int round = 0; !is_done; ++round) {
    is_done = true;
    int n_done = 0;
    for (int first = 0; first < n_threads; first += 32) {
      if (round == 0 || lanes[first].state == IN_BLOCK) {
        for (int k = first; k < first + 32 && round > 0; ++k) lanes[k].state = IN_WARP;
        run_warp(first);
      }
      if (lanes[first].state == DONE) ++n_done; else is_done = false;
    }
    if (n_done > 0 && !is_done) fail("a warp is done and another waits for it");
  }
}

template <class T> static T exchange(T value, int from) {
  Lane& lane = lanes[threadIdx.x];
  const int slot = lane.n_collective++ % 2, first = threadIdx.x / 32 * 32;
  lane.sent[slot] = value;
  pause(IN_WARP);
  return (T)lanes[first + from].sent[slot];
}

}  // namespace emulator

static inline void __syncthreads() {
  ++emulator::lanes[threadIdx.x].n_collective;
  emulator::pause(emulator::IN_BLOCK);
}
template <class T> static T __shfl_sync(unsigned, T value, int from) {
  return emulator::exchange(value, from);
}
template <class T> static T __shfl_up_sync(unsigned, T value, int apart) {
  const int lane = threadIdx.x % 32;
  return emulator::exchange(value, lane >= apart ? lane - apart : lane);
}
template <class T> static T __shfl_down_sync(unsigned, T value, int apart) {
  const int lane = threadIdx.x % 32;
  return emulator::exchange(value, lane + apart < 32 ? lane + apart : lane);
}
template <class T> static T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::exchange(value, (int)(threadIdx.x % 32) ^ mask);
}

// Run a kernel of at most `MOST_ARGUMENTS` pointers and integers.
extern "C" void emulate(emulator::Kernel kernel, const long* arguments, int n_arguments,
                        int n_blocks, int n_threads) {
  using namespace emulator;
  if (!stacks) stacks = (char*)malloc((long)MOST_THREADS * STACK);
  emulator::kernel = kernel;
  memcpy(emulator::arguments, arguments, n_arguments * sizeof(long));
  gridDim.x = n_blocks;
  for (blockIdx.x = 0; blockIdx.x < n_blocks; ++blockIdx.x) run_block(n_threads);
}
