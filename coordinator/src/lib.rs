//! The coordinator: keeps the fleet's state, places jobs, talks to agents and users, stores artifacts.

mod raft;
