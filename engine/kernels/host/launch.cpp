// The coroutines behind host/device.h.
#include "launch.h"

#include <setjmp.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#include "device.h"

Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr std::size_t STACK = 64 * 1024;
constexpr unsigned WARP = 32;

enum class State { Ready, AtBarrier, AtExchange, Done };

struct Thread {
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(STACK);
    ucontext_t start;
    bool begun = false;
    jmp_buf place;
    State state = State::Done;
};

struct Warp {
    std::uint64_t given[WARP];  // By lanes on their way to an exchange,
    std::uint64_t shown[WARP];  // and what they all gave at the last.
};

std::vector<Thread> threads;
std::vector<Warp> warps;
const std::function<void()>* body;
jmp_buf scheduler;

// Goes from one stack to another; jumps, because swapcontext asks the kernel about signals each time.
__attribute__((noinline)) void leap(jmp_buf from, jmp_buf to) {
    if (_setjmp(from) == 0) _longjmp(to, 1);
}

// Gives the word back until everybody this thread waits for has come.
void wait(State state) {
    Thread& self = threads[threadIdx.x];
    self.state = state;
    leap(self.place, scheduler);
}

// A thread's whole life: a kernel for each block.
void live() {
    for (;;) {
        (*body)();
        wait(State::Done);
    }
}

// Gives a thread its stack; the first time it is resumed, it begins.
void create(Thread& thread) {
    getcontext(&thread.start);
    thread.start.uc_stack.ss_sp = thread.stack.get();
    thread.start.uc_stack.ss_size = STACK;
    thread.start.uc_link = nullptr;
    makecontext(&thread.start, live, 0);
}

__attribute__((noinline)) void resume(Thread& thread) {
    if (thread.begun) {
        leap(scheduler, thread.place);
        return;
    }
    thread.begun = true;
    if (_setjmp(scheduler) == 0) setcontext(&thread.start);
}

// Whether all of threads [from, to) are as `state` says.
bool all(unsigned from, unsigned to, State state) {
    for (unsigned t = from; t < to; t++) {
        if (threads[t].state != state) return false;
    }
    return true;
}

void release(unsigned from, unsigned to) {
    for (unsigned t = from; t < to; t++) threads[t].state = State::Ready;
}

// Lets go whoever has all it waited for; false if nobody has.
bool release_waiting() {
    unsigned count = static_cast<unsigned>(threads.size());
    if (all(0, count, State::AtBarrier)) {
        release(0, count);
        return true;
    }
    bool any = false;
    for (unsigned warp = 0; warp < warps.size(); warp++) {
        if (!all(warp * WARP, (warp + 1) * WARP, State::AtExchange)) continue;
        std::memcpy(warps[warp].shown, warps[warp].given, sizeof warps[warp].shown);
        release(warp * WARP, (warp + 1) * WARP);
        any = true;
    }
    return any;
}

const char* run_block() {
    unsigned count = static_cast<unsigned>(threads.size());
    release(0, count);
    do {
        for (unsigned turn = 0; turn < count; turn++) {
            // The other way round in every second block: what depends on an order has two to fail in.
            unsigned t = blockIdx.x % 2 == 0 ? turn : count - 1 - turn;
            if (threads[t].state != State::Ready) continue;
            threadIdx = {t, 0, 0};
            resume(threads[t]);
        }
        if (all(0, count, State::Done)) return nullptr;
    } while (release_waiting());
    return "threads of a block wait for each other in vain: a barrier or a shuffle that not all of them reach";
}

}  // namespace

void __syncthreads() {
    wait(State::AtBarrier);
}

const std::uint64_t* exchange(std::uint64_t word) {
    Warp& warp = warps[threadIdx.x / WARP];
    warp.given[threadIdx.x % WARP] = word;
    wait(State::AtExchange);
    return warp.shown;
}

const char* run(unsigned blocks, unsigned count, const std::function<void()>& kernel) {
    if (count % WARP != 0) return "a block that is not whole warps";
    if (threads.size() != count) {
        threads = std::vector<Thread>(count);
        for (Thread& thread : threads) create(thread);
        warps.resize(count / WARP);
    }
    body = &kernel;
    blockDim = {count, 1, 1};
    gridDim = {blocks, 1, 1};
    for (unsigned block = 0; block < blocks; block++) {
        blockIdx = {block, 0, 0};
        if (const char* reason = run_block()) {
            threads.clear();  // They stand in the middle of a kernel.
            return reason;
        }
    }
    return nullptr;
}
