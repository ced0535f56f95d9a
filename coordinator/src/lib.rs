//! The coordinator: keeps the fleet's state, places jobs, talks to agents and users, stores artifacts.

#[cfg_attr(
    not(test),
    expect(dead_code, unused_imports, reason = "the services that use it follow")
)]
mod raft;
