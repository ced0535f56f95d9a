# `just` lists these. `verify` only reads; `fix` only formats and applies lints.

default:
    @just --list

# The gate: format, lints, tests.
verify:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace

# Formats, and applies what clippy can apply by itself.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty

# The main job on embedded defaults.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# The real model of the walk-through and of the parity tests.
fetch-smollm2:
    scripts/fetch-smollm2

# The leaf operations against what this machine could do at most; FILTER picks some of them.
bench-ops *FILTER:
    cargo bench --workspace --bench ops -- {{FILTER}}

# Short jobs per second through a fleet of 200 agent processes on this machine; docs/benchmarks.md has the flags.
bench-fleet *ARGS:
    cargo bench --workspace --bench fleet -- {{ARGS}}

# Whole steps beside TRL, torch + peft and torch.compile (about 6 GB of Python, once); --quick takes under 15 minutes.
bench-peers *ARGS:
    cargo build --release
    bench/peers/setup
    bench/peers/compare {{ARGS}}

# Kills coordinator, agent and trainer at random moments, RUNS times each.
chaos RUNS="20":
    FLEETUNE_CHAOS_RUNS={{RUNS}} cargo test -p fleetune-tests --test chaos -- --nocapture

# Compiles the CUDA kernels for four generations of cards; gets nvcc if there is none. No GPU needed.
kernels:
    scripts/compile-kernels

# Type-checks the build for NVIDIA cards; the first time takes about ten minutes.
check-cuda:
    eval "$(scripts/fetch-nvcc)" && CARGO_TARGET_DIR=target/cuda cargo check --features cuda

# Runs the build for NVIDIA cards on this machine's CPU, behind stubs of NVIDIA's libraries: the self-test, or COMMAND.
test-cuda *COMMAND:
    scripts/test-cuda {{COMMAND}}

# Opens an adapter of ours in Python's PEFT.
interop:
    tests/interop/run

# Licences, advisories, sources (needs cargo-deny).
deny:
    cargo deny check
