// CUDA on a CPU, for tests: the threads of a block are fibres, blocks run one after another.
//
// A thread runs until it has to wait for others: at __syncthreads for the block, at a shuffle for its warp. Waiting at
// different places, or while others have returned, is an error. Shared memory starts as NaN and is fenced. `order`
// says whether threads and blocks run forwards or backwards: where that changes a result, there is a race.

#pragma once
#include <csetjmp>
#include <csignal>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct uint3 { unsigned x, y, z; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace shim {

constexpr int WARP = 32, MOST_THREADS = 1024;
constexpr size_t STACK = 64 << 10, SHARED = 227 << 10, STATIC_SHARED = 48 << 10, FENCE = 64;

// Switching between fibres

#if defined(__x86_64__)
asm(R"(
.text
.local shim_switch
shim_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
)");
extern "C" void shim_switch(void** save, void* to);
struct Context {
    void* stack_pointer = nullptr;
    void prepare(char* stack, void (*entry)()) {
        auto top = reinterpret_cast<uintptr_t*>((reinterpret_cast<uintptr_t>(stack) + STACK) & ~uintptr_t(15));
        *--top = 0;  // where entry would return to: it never does
        *--top = reinterpret_cast<uintptr_t>(entry);
        stack_pointer = top - 6;
    }
    void switch_to(Context& other) { shim_switch(&stack_pointer, other.stack_pointer); }
};
#else
struct Context {
    ucontext_t context;
    void prepare(char* stack, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = STACK;
        makecontext(&context, entry, 0);
    }
    void switch_to(Context& other) { swapcontext(&context, &other.context); }
};
#endif

enum State { READY, AT_BARRIER, AT_EXCHANGE, DONE };
struct Words { uint32_t at[8]; };

struct Fibre {
    Context context;
    uint3 index;
    State state;
    int line;    // where it waits
    int parity;  // which of the warp's two buffers its last exchange used
};

struct Warp { Words words[2][WARP]; };

inline Fibre fibres[MOST_THREADS];
inline Warp warps[MOST_THREADS / WARP];
inline char* stacks = nullptr;
inline Context scheduler;
inline Fibre* current = nullptr;
inline uint3 block_index, block_size, grid_size;
inline void (*body)(void**);
inline void** arguments;
inline sigjmp_buf escape;
inline char message[512];

template <typename... A>
[[noreturn]] void fail(const char* format, A... arguments) {
    const int length = snprintf(message, sizeof message, "block (%u, %u, %u), thread %u: ", block_index.x,
                                block_index.y, block_index.z, current ? current->index.x : 0);
    snprintf(message + length, sizeof message - length, format, arguments...);
    siglongjmp(escape, 1);
}

inline void wait(State state, int line) {
    current->state = state;
    current->line = line;
    current->context.switch_to(scheduler);
}

// Every lane's words, once all lanes of the warp have given theirs.
template <int N>
const Words* exchange(int line, const uint32_t (&mine)[N]) {
    static_assert(N <= 8);
    Fibre& fibre = *current;
    fibre.parity ^= 1;
    Words* all = warps[fibre.index.x / WARP].words[fibre.parity];
    memcpy(all[fibre.index.x % WARP].at, mine, sizeof mine);
    wait(AT_EXCHANGE, line);
    return all;
}

struct Rows {  // indexable as words[lane][i]
    const Words* all;
    const uint32_t* operator[](int lane) const { return all[lane].at; }
};

template <typename T>
struct Pointers {  // indexable as rows[lane]
    const Words* all;
    const T* operator[](int lane) const {
        const T* pointer;
        memcpy(&pointer, all[lane].at, sizeof pointer);
        return pointer;
    }
};

template <typename T>
Pointers<T> exchange_pointers(int line, const T* mine) {
    uint32_t words[2];
    memcpy(words, &mine, sizeof words);
    return {exchange(line, words)};
}

template <typename T>
T shuffle_xor(int line, unsigned mask, T value, int lanes) {
    static_assert(sizeof(T) <= 8);
    if (mask != 0xffffffffu) fail("line %d: a shuffle with the mask %x", line, mask);
    uint32_t words[2] = {};
    memcpy(words, &value, sizeof value);
    const Words* all = exchange(line, words);
    memcpy(&value, all[(current->index.x % WARP) ^ lanes].at, sizeof value);
    return value;
}

inline void sync_warp(int line) {
    const uint32_t nothing[1] = {};
    exchange(line, nothing);
}

// Shared memory: dynamic first, then what is asked for, each piece with a fence behind it

alignas(64) inline unsigned char memory[SHARED + 64 * FENCE];
inline size_t used, static_used, generation;
inline std::vector<size_t> fences;

inline void* allocate(size_t bytes) {
    used = (used + 15) & ~size_t(15);
    if (used + bytes + FENCE > sizeof memory) fail("more shared memory than a block has");
    void* piece = memory + used;
    memset(piece, 0xff, bytes + FENCE);
    fences.push_back(used + bytes);
    used += bytes + FENCE;
    return piece;
}

template <int LINE, typename T>
T& shared() {
    static T* piece;
    static size_t of;
    if (of != generation) {
        static_used += sizeof(T);
        if (static_used > STATIC_SHARED) fail("%zu bytes of static shared memory", static_used);
        piece = static_cast<T*>(allocate(sizeof(T)));
        of = generation;
    }
    return *piece;
}

inline unsigned char* dynamic_shared() { return memory; }

inline void check_fences() {
    for (size_t fence : fences)
        for (size_t i = 0; i < FENCE; i++)
            if (memory[fence + i] != 0xff) fail("shared memory written %zu bytes behind an array's end", i);
}

// One block

inline void entry() {
    body(arguments);
    current->state = DONE;
    current->context.switch_to(scheduler);
    __builtin_unreachable();
}

inline void run_warp(int warp, bool backwards) {
    for (;;) {
        for (int i = 0; i < WARP; i++) {
            Fibre& fibre = fibres[warp * WARP + (backwards ? WARP - 1 - i : i)];
            if (fibre.state != READY) continue;
            current = &fibre;
            scheduler.switch_to(fibre.context);
        }
        Fibre* lanes = fibres + warp * WARP;
        int exchanging = 0;
        for (int i = 0; i < WARP; i++) exchanging += lanes[i].state == AT_EXCHANGE;
        if (!exchanging) return;
        for (int i = 0; i < WARP; i++) {
            current = &lanes[i];
            if (exchanging < WARP && lanes[i].state != AT_EXCHANGE) fail("not at a shuffle where its warp is");
            if (lanes[i].line != lanes[0].line)
                fail("at the shuffle of line %d, its warp at that of %d", lanes[i].line, lanes[0].line);
            lanes[i].state = READY;
        }
    }
}

inline void run_block(int threads, size_t dynamic, bool backwards) {
    used = static_used = 0;
    generation++;
    fences.clear();
    allocate(dynamic);
    for (int i = 0; i < threads; i++) {
        Fibre& fibre = fibres[i];
        fibre.index = {unsigned(i), 0, 0};
        fibre.state = READY;
        fibre.parity = 0;
        fibre.context.prepare(stacks + i * STACK, entry);
    }
    for (;;) {
        const int count = threads / WARP;
        for (int i = 0; i < count; i++) run_warp(backwards ? count - 1 - i : i, backwards);
        int waiting = 0;
        for (int i = 0; i < threads; i++) waiting += fibres[i].state == AT_BARRIER;
        if (!waiting) break;
        for (int i = 0; i < threads; i++) {
            current = &fibres[i];
            if (fibres[i].state == DONE) fail("returned while others wait at __syncthreads");
            if (fibres[i].line != fibres[0].line)
                fail("at the __syncthreads of line %d, others at that of %d", fibres[i].line, fibres[0].line);
            fibres[i].state = READY;
        }
    }
    check_fences();
}

inline void on_fault(int, siginfo_t* info, void*) { fail("illegal memory access at %p", info->si_addr); }

// A kernel: how it is called, and the sizes of its parameters and of what they point to

struct Parameter { char kind; int size; };

template <typename A>
constexpr Parameter parameter() {
    if constexpr (std::is_pointer_v<A>) return {'p', int(sizeof(std::remove_pointer_t<A>))};
    else if constexpr (std::is_floating_point_v<A>) return {'f', int(sizeof(A))};
    else return {std::is_signed_v<A> ? 'i' : 'u', int(sizeof(A))};
}

struct Kernel {
    const char* name;
    void (*call)(void**);
    const Parameter* parameters;
    int count;
};

template <auto F, typename... A, size_t... I>
void call_with(void (*)(A...), void** arguments, std::index_sequence<I...>) {
    F(*static_cast<A*>(arguments[I])...);
}

template <auto F, typename... A>
Kernel describe(const char* name, void (*)(A...)) {
    static constexpr Parameter parameters[] = {parameter<A>()...};
    const auto call = [](void** arguments) {
        call_with<F>(static_cast<void (*)(A...)>(F), arguments, std::index_sequence_for<A...>{});
    };
    return {name, call, parameters, sizeof...(A)};
}

// Null, or what went wrong.
inline const char* launch(const Kernel& kernel, const unsigned* grid, const unsigned* block, size_t dynamic,
                          void** values, const Parameter* given, int count, bool backwards) {
    message[0] = 0;
    current = nullptr;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    block_index = {};
    const int threads = block[0];
    if (sigsetjmp(escape, 1)) return message;
    if (!threads || threads > MOST_THREADS || threads % WARP || block[1] != 1 || block[2] != 1)
        fail("a block of (%u, %u, %u)", block[0], block[1], block[2]);
    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535)
        fail("a grid of (%u, %u, %u)", grid[0], grid[1], grid[2]);
    if (count != kernel.count) fail("%d arguments given, %d wanted", count, kernel.count);
    for (int i = 0; i < count; i++) {
        const Parameter want = kernel.parameters[i], have = given[i];
        if (want.kind != have.kind || (want.size != have.size && have.size))
            fail("argument %d is %c%d, %c%d is wanted", i, have.kind, 8 * have.size, want.kind, 8 * want.size);
    }
    if (!stacks)
        stacks = static_cast<char*>(mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    body = kernel.call;
    arguments = values;
    static char signal_stack[64 << 10];
    stack_t own{signal_stack, 0, sizeof signal_stack}, before;
    struct sigaction action = {}, segv, bus;
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaltstack(&own, &before);
    sigaction(SIGSEGV, &action, &segv);
    sigaction(SIGBUS, &action, &bus);
    if (!sigsetjmp(escape, 1)) {
        const uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
        for (uint64_t i = 0; i < blocks; i++) {
            const uint64_t at = backwards ? blocks - 1 - i : i;
            block_index = {unsigned(at % grid[0]), unsigned(at / grid[0] % grid[1]),
                           unsigned(at / grid[0] / grid[1])};
            run_block(threads, dynamic, backwards);
        }
    }
    sigaction(SIGSEGV, &segv, nullptr);
    sigaction(SIGBUS, &bus, nullptr);
    before.ss_flags &= ~SS_ONSTACK;
    sigaltstack(&before, nullptr);
    return message[0] ? message : nullptr;
}

}  // namespace shim

#define threadIdx (shim::current->index)
#define blockIdx shim::block_index
#define blockDim shim::block_size
#define gridDim shim::grid_size
#define __syncthreads() shim::wait(shim::AT_BARRIER, __LINE__)
#define __syncwarp() shim::sync_warp(__LINE__)
#define __shfl_xor_sync(...) shim::shuffle_xor(__LINE__, __VA_ARGS__)
#define exchange_words(...) shim::Rows{shim::exchange(__LINE__, __VA_ARGS__)}
#define exchange_pointers(...) shim::exchange_pointers(__LINE__, __VA_ARGS__)

inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int atomicAdd(int* at, int x) { const int before = *at; *at += x; return before; }
