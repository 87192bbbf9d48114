// Detects the instruction sets of this machine and returns their kernels. The file is compiled for the baseline of the
// architecture, so that it runs on the oldest CPU.

// For the declaration of `syscall`.
#define _DEFAULT_SOURCE

#include "CAttentionKernels.h"

#include <stdatomic.h>

#include "generic/tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static uint64_t saved_state(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

enum {
  leaf1_ecx_fma = 1 << 12,
  leaf1_ecx_osxsave = 1 << 27,
  leaf1_ecx_avx = 1 << 28,
  leaf1_ecx_f16c = 1 << 29,
  leaf7_ebx_avx2 = 1 << 5,
  leaf7_ebx_avx512f = 1 << 16,
  leaf7_ebx_avx512dq = 1 << 17,
  leaf7_ebx_avx512bw = 1 << 30,
};
static const uint32_t leaf7_ebx_avx512vl = UINT32_C(1) << 31;
enum {
  leaf7_edx_amx_bf16 = 1 << 22,
  leaf7_edx_amx_tile = 1 << 24,
  leaf7_1_eax_avx512_bf16 = 1 << 5,
};
// Bits of the register XCR0: the registers that the operating system saves when it switches threads.
static const uint64_t state_avx = 0x06;       // XMM, YMM
static const uint64_t state_avx512 = 0xe6;    // and opmask, ZMM
static const uint64_t state_amx = 0x600e6;    // and the tiles and their configuration

// Linux lets a process use the tile registers of AMX only if the process has asked for them once. Linux refuses if its
// version is too old, or if a thread's alternative signal stack is too small for the contents of the tiles.
static bool tiles_are_permitted(void) {
#if defined(__linux__)
  enum { request_permission = 0x1023, tile_data = 18 };
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

static bool x86_isa_is_present(attn_isa isa) {
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const uint32_t needed = leaf1_ecx_osxsave | leaf1_ecx_avx | leaf1_ecx_fma | leaf1_ecx_f16c;
  if ((c & needed) != needed) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  // A CPU may have registers that the operating system does not save, so both the CPU and XCR0 are asked.
  uint64_t state = saved_state();
  if (!(b & leaf7_ebx_avx2) || (state & state_avx) != state_avx) return false;
  if (isa == attn_isa_avx2) return true;
  uint32_t avx512 = (uint32_t)leaf7_ebx_avx512f | leaf7_ebx_avx512dq | leaf7_ebx_avx512bw | leaf7_ebx_avx512vl;
  if ((b & avx512) != avx512 || (state & state_avx512) != state_avx512) return false;
  if (isa == attn_isa_avx512) return true;
  if (isa == attn_isa_amx) {
    const uint32_t amx = leaf7_edx_amx_bf16 | leaf7_edx_amx_tile;
    return (d & amx) == amx && (state & state_amx) == state_amx && tiles_are_permitted();
  }
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & leaf7_1_eax_avx512_bf16);
}
#endif

static bool find_isa(attn_isa isa) {
  switch (isa) {
    case attn_isa_portable: return true;
#if defined(__x86_64__)
    case attn_isa_avx2:
    case attn_isa_avx512:
    case attn_isa_avx512_bf16:
    case attn_isa_amx: return x86_isa_is_present(isa);
#elif defined(__aarch64__)
    case attn_isa_neon: return true;
#endif
    default: return false;
  }
}

bool attn_isa_is_present(attn_isa isa) {
  // The answer is kept, because in a virtual machine the instruction that asks the CPU (cpuid) traps into the
  // hypervisor. Threads that ask at the same time find the same answer, so they need no lock.
  enum { unknown, absent, present };
  static _Atomic int known[attn_isa_count];
  if ((unsigned)isa >= attn_isa_count) return false;
  int found = atomic_load_explicit(&known[isa], memory_order_relaxed);
  if (found == unknown) {
    found = find_isa(isa) ? present : absent;
    atomic_store_explicit(&known[isa], found, memory_order_relaxed);
  }
  return found == present;
}

#define OF(isa) (type == attn_type_f32 ? &attn_f32_kernels__##isa : &attn_f64_kernels__##isa)

const attn_kernels *attn_kernels_for(attn_isa isa, attn_type type) {
  if (!attn_isa_is_present(isa)) return NULL;
  switch (isa) {
    case attn_isa_portable: return OF(portable);
#if defined(__x86_64__)
    case attn_isa_avx2: return OF(avx2);
    case attn_isa_avx512:
    case attn_isa_avx512_bf16:
    case attn_isa_amx: return OF(avx512);
#elif defined(__aarch64__)
    case attn_isa_neon: return OF(neon);
#endif
    default: return NULL;
  }
}

#undef OF
#define OF(isa) &attn_f32_matrix_kernels__##isa

const attn_matrix_kernels *attn_matrix_kernels_for(attn_isa isa) {
  if (!attn_isa_is_present(isa)) return NULL;
  switch (isa) {
    case attn_isa_portable: return OF(portable);
#if defined(__x86_64__)
    case attn_isa_avx2: return OF(avx2);
    case attn_isa_avx512: return OF(avx512);
    case attn_isa_avx512_bf16: return OF(avx512_bf16);
    case attn_isa_amx: return OF(amx);
#elif defined(__aarch64__)
    case attn_isa_neon: return OF(neon);
#endif
    default: return NULL;
  }
}
