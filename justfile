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

# Kills coordinator, agent and trainer at random moments, RUNS times each.
chaos RUNS="20":
    FLEETUNE_CHAOS_RUNS={{RUNS}} cargo test -p fleetune-tests --test chaos -- --nocapture

# Opens an adapter of ours in Python's PEFT.
interop:
    tests/interop/run

# Licences, advisories, sources (needs cargo-deny).
deny:
    cargo deny check
