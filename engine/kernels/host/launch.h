// Runs kernels on a CPU.
#pragma once

#include <cstddef>
#include <functional>
#include <utility>

// Runs `kernel` for every thread of `blocks` blocks. Returns why it could not, or null.
const char* run(unsigned blocks, unsigned threads, const std::function<void()>& kernel);

// Why arguments of `sizes` bytes are not those of a kernel, or null. Sizes that are null are not known: a driver is not
// told them, and nothing is looked at.
template <class... Parameters>
const char* mismatch(void (*)(Parameters...), const std::size_t* sizes, std::size_t count) {
    if (sizes == nullptr) return nullptr;
    if (count != sizeof...(Parameters)) return "the kernel takes another number of arguments";
    const std::size_t expected[] = {sizeof(Parameters)...};
    for (std::size_t i = 0; i < count; i++) {
        if (sizes[i] != expected[i]) return "an argument of another size than the kernel takes";
    }
    return nullptr;
}

template <class... Parameters, std::size_t... I>
void call(void (*kernel)(Parameters...), void* const* arguments, std::index_sequence<I...>) {
    kernel(*static_cast<Parameters*>(arguments[I])...);
}

// As the driver's cuLaunchKernel: arguments are given by their addresses. Unlike it, their sizes are looked at where they
// are known.
template <class... Parameters>
const char* launch(
    void (*kernel)(Parameters...),
    unsigned blocks,
    unsigned threads,
    void* const* arguments,
    const std::size_t* sizes,
    std::size_t count
) {
    if (const char* reason = mismatch(kernel, sizes, count)) return reason;
    return run(blocks, threads, [=] { call(kernel, arguments, std::index_sequence_for<Parameters...>()); });
}
